"""A dataset's blobs: what they contain, and their keys."""

import hashlib
from collections.abc import AsyncIterator

import msgspec

from services.dataset.convention import Tally
from services.dataset.domain import DatasetRecord, FindingCounts
from services.dataset.finding_rules import Severity
from services.dataset.findings import Finding, FindingLog, count
from services.dataset.rows import Row, Rows
from services.kit import codec
from services.kit.blobs import Blobs
from services.vision.snapshot import Groups, Manifest, Shard, read_manifest, write_groups

BLOCK = 1000  # findings per blob
CHUNKS = 16  # whose inputs are in one blob


class PlanBlob(msgspec.Struct, frozen=True):
    """The result of reading the annotation files, except for the chunks' inputs."""

    categories: list[tuple[int, str]]
    findings: list[Finding]
    more: dict[str, int]  # findings that were only counted, by code
    annotation_count: int
    refused_annotations: int


class ChunkResult(msgspec.Struct, frozen=True):
    """The result of checking one chunk; written after every blob that it names."""

    shards: list[Shard]
    findings: list[Finding]
    more: dict[str, int]
    image_count: int
    refused_images: int
    refused_annotations: int
    byte_count: int
    tally: Tally = msgspec.field(default_factory=Tally)


class FindingBlock(msgspec.Struct, frozen=True):
    """One blob of findings of one severity."""

    key: str
    severity: Severity
    codes: list[str]
    count: int


def plan_prefix(record: DatasetRecord) -> str:
    """The prefix of one attempt at reading the annotation files; the epoch distinguishes attempts."""
    return f"{record.prefix}/plan/{record.lease.epoch}"


async def forget_plans(blobs: Blobs, record: DatasetRecord) -> None:
    """Deletes the plans of all attempts up to the record's epoch: those of its next version have later ones."""
    prefix = f"{record.prefix}/plan/"
    async for blob in blobs.list(prefix):
        if int(blob.key.removeprefix(prefix).partition("/")[0]) <= record.lease.epoch:
            await blobs.delete(blob.key)


def rows_key(prefix: str, number: int) -> str:
    """The inputs of CHUNKS chunks, among them this one."""
    return f"{prefix}/rows/{number - number % CHUNKS:05d}.msgpack"


def plan_key(prefix: str) -> str:
    """An attempt's PlanBlob."""
    return f"{prefix}/plan.json"


def result_key(prefix: str, number: int) -> str:
    """A chunk's result; attempts may overwrite each other's, as all are valid."""
    return f"{prefix}/results/{number:05d}.json"


def pack_key(record: DatasetRecord, number: int, sha256: str, extension: str) -> str:
    """A shard or its index, named by content so that attempts at one chunk never interfere."""
    return f"{record.packs}{number:05d}-{sha256[:24]}.{extension}"


async def put(blobs: Blobs, key: str, value: object) -> None:
    """Stores a value as JSON."""
    await blobs.put(key, msgspec.json.encode(value, order="deterministic"))


async def put_rows(blobs: Blobs, prefix: str, count: int, chunks: list[list[Rows]]) -> None:
    """Stores the inputs of the last of so many chunks."""
    await blobs.put(rows_key(prefix, count - 1), msgspec.msgpack.encode(chunks))


async def get_rows(blobs: Blobs, prefix: str, number: int) -> list[Row]:
    """A chunk's input."""
    chunks = msgspec.msgpack.decode(await blobs.get(rows_key(prefix, number)), type=list[msgspec.Raw])
    return [row for rows in codec.unpack(chunks[number % CHUNKS], list[Rows]) for row in rows]


async def get_plan(blobs: Blobs, prefix: str) -> PlanBlob:
    """The result of planning."""
    return codec.parse(await blobs.get(plan_key(prefix)), PlanBlob)


async def get_result(blobs: Blobs, prefix: str, number: int) -> ChunkResult:
    """The result of checking a chunk."""
    return codec.parse(await blobs.get(result_key(prefix, number)), ChunkResult)


async def put_manifest(blobs: Blobs, record: DatasetRecord, manifest: Manifest) -> str:
    """Stores the manifest; returns its key, which contains the snapshot's digest."""
    key = f"{record.prefix}/snapshot/{manifest.digest.removeprefix('sha256:')}.json"
    await blobs.put(key, manifest.encode())
    return key


async def put_groups(blobs: Blobs, record: DatasetRecord, groups: Groups) -> str:
    """Stores the groups of near-duplicates beside the manifest, named by content; returns the key."""
    encoded = write_groups(groups)
    key = f"{record.prefix}/snapshot/groups-{hashlib.sha256(encoded).hexdigest()[:24]}.json"
    await blobs.put(key, encoded)
    return key


async def get_manifest(blobs: Blobs, key: str) -> Manifest:
    """The manifest."""
    return read_manifest(await blobs.get(key))


async def put_findings(blobs: Blobs, record: DatasetRecord, log: FindingLog) -> tuple[str, FindingCounts]:
    """Stores the findings, worst first, in blocks of one severity; returns the key of their index, and the counts."""
    prefix = f"{record.prefix}/findings/{record.lease.epoch}"
    ordered, blocks = log.ordered(), list[FindingBlock]()
    for severity in Severity:
        chosen = [finding for finding in ordered if finding.severity is severity]
        for start in range(0, len(chosen), BLOCK):
            block = chosen[start : start + BLOCK]
            key = f"{prefix}/{len(blocks):05d}.json"
            await put(blobs, key, block)
            blocks.append(FindingBlock(key, severity, sorted({finding.code for finding in block}), len(block)))
    await put(blobs, f"{prefix}/index.json", blocks)
    return f"{prefix}/index.json", count(ordered)


async def list_findings(
    blobs: Blobs, key: str, severity: Severity | None, codes: frozenset[str], start: tuple[int, int]
) -> AsyncIterator[tuple[tuple[int, int], Finding]]:
    """The findings that match the filters, starting at a place, each with its place (block, offset)."""
    blocks = codec.parse(await blobs.get(key), list[FindingBlock])
    for number, block in enumerate(blocks):
        foreign = (severity and block.severity is not severity) or (codes and codes.isdisjoint(block.codes))
        if number < start[0] or foreign:
            continue
        for offset, finding in enumerate(codec.parse(await blobs.get(block.key), list[Finding])):
            if (number, offset) >= start and (not codes or finding.code in codes):
                yield (number, offset), finding
