"""Checks the blob store: that a folder is writable, or that an S3 server does what the services rely on."""

import asyncio
import secrets
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Iterable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

import urllib3
from minio.error import MinioException, S3Error
from pydantic import SecretStr
from urllib3.exceptions import HTTPError

from services.infra.findings import GIB, Report
from services.infra.s3 import MIN_PART_BYTES, s3_client
from services.infra.store import open_blobs
from services.kit.blobs import BlobInfo, Blobs
from services.kit.errors import BlobNotFound, SightlineError
from services.kit.settings import Settings
from services.kit.telemetry import MemoryTelemetry

WEIGHTS = "weights/"
STORE_BYTES = 20 * GIB
REACH = "start the store, or correct SIGHTLINE_S3_ENDPOINT, _SECURE, _CA, _ACCESS_KEY and _SECRET_KEY"


async def check_store(report: Report, settings: Settings) -> None:
    """Uses the services' own adapter, on its own blobs under `doctor/`."""
    if settings.store_directory is None and not settings.s3_endpoint:
        report.fault("there is no store", "set SIGHTLINE_STORE_DIRECTORY, or SIGHTLINE_S3_ENDPOINT and its keys")
        return
    where = f"the folder {settings.store_directory}" if settings.store_directory else f"S3 at {settings.s3_endpoint}"
    began = time.monotonic()
    try:
        blobs = await open_blobs(settings, MemoryTelemetry())
    except (SightlineError, OSError, ValueError) as error:
        remedy = "make the folder, and let the services' user write in it" if settings.store_directory else REACH
        report.fault(f"{where} cannot be used: {error}", remedy)
        return
    report.ok(f"{where} has the bucket {settings.bucket}")
    if await _behaves(report, blobs):
        report.ok(f"put, get, range, list and delete work, in {time.monotonic() - began:.1f} s")
    if settings.store_directory:
        report.room(f"in {where}", shutil.disk_usage(settings.store_directory).free, STORE_BYTES)
    else:
        await _s3(report, settings)
    await _weights(report, blobs)


async def _behaves(report: Report, blobs: Blobs) -> bool:
    """Tries the law of the port."""
    prefix = f"doctor/{secrets.token_hex(8)}/"
    keys = [f"{prefix}{name}" for name in ("a", "b/c")]
    content = secrets.token_bytes(100_000)
    steps = {
        "put": lambda: _all(blobs.put(key, content) for key in keys),
        "get": lambda: _same(blobs.get(keys[0]), content),
        "range": lambda: _same(blobs.get(keys[0], 100, 50), content[100:150]),
        "range beyond the end": lambda: _same(blobs.get(keys[0], 200_000, 5), b""),
        "list": lambda: _same(_keys(blobs.list(prefix)), keys),
        "multipart": lambda: _multipart(blobs, f"{prefix}large"),
        "delete": lambda: _all(blobs.delete(key) for key in (*keys, f"{prefix}large")),
        "list after delete": lambda: _same(_keys(blobs.list(prefix)), []),
        "get of what is missing": lambda: _missing(blobs, keys[0]),
    }
    for name, step in steps.items():
        try:
            problem = await step()
        except (SightlineError, OSError) as error:
            problem = str(error)
        if problem:
            report.fault(f"{name}: {problem}", "see the store's permissions, quota and log; it must implement plain S3")
            return False
    return True


async def _all(calls: Iterable[Awaitable[None]]) -> str:
    for call in calls:
        await call
    return ""


async def _same(call: Awaitable[object], wanted: object) -> str:
    return "" if await call == wanted else "the answer is not what was put"


async def _keys(found: AsyncIterator[BlobInfo]) -> list[str]:
    return [blob.key async for blob in found]


async def _missing(blobs: Blobs, key: str) -> str:
    try:
        await blobs.get(key)
    except BlobNotFound:
        return ""
    return "a blob that was deleted is still there"


async def _multipart(blobs: Blobs, key: str) -> str:
    """More than one part, from a file and back to a file."""
    with tempfile.TemporaryDirectory(prefix="sightline-doctor-") as folder:
        there, back = Path(folder) / "there", Path(folder) / "back"
        there.write_bytes(secrets.token_bytes(1 << 20) * (MIN_PART_BYTES // (1 << 20) + 1))
        await blobs.put_file(key, there)
        await blobs.get_file(key, back)
        return "" if there.read_bytes() == back.read_bytes() else "what comes back is not what was put"


async def _s3(report: Report, settings: Settings) -> None:
    await _strangers(report, settings)
    try:
        answer = await asyncio.to_thread(_head, settings)
    except HTTPError as error:
        report.warn(f"the store's clock cannot be read: {error}", REACH)
        return
    if date := answer.headers.get("Date"):
        report.skew("the store", (datetime.now(UTC) - parsedate_to_datetime(date)).total_seconds() - 0.5)


async def _strangers(report: Report, settings: Settings) -> None:
    """A wrong secret must be refused, or anybody who can reach the store could read and change everything."""
    known = settings.s3_access_key if settings.s3_access_key.get_secret_value() else SecretStr("sightline-doctor")
    stranger = settings.model_copy(update={"s3_access_key": known, "s3_secret_key": SecretStr(secrets.token_hex(20))})
    client = s3_client(stranger, retries=0)
    try:
        await asyncio.to_thread(lambda: next(iter(client.list_objects(settings.bucket)), None))
    except S3Error as error:
        report.ok(f"a wrong secret is refused ({error.code})")
    except (MinioException, HTTPError) as error:
        report.warn(f"whether a wrong secret is refused is not known: {error}", REACH)
    else:
        remedy = "make the bucket private, and let the server check signatures"
        report.fault("a wrong secret is accepted: anybody may read the store", remedy)


def _head(settings: Settings) -> urllib3.BaseHTTPResponse:
    scheme = "https" if settings.s3_secure else "http"
    pool = urllib3.PoolManager(ca_certs=str(settings.s3_ca) if settings.s3_ca else None, retries=1, timeout=5.0)
    return pool.request("HEAD", f"{scheme}://{settings.s3_endpoint}/")


async def _weights(report: Report, blobs: Blobs) -> None:
    """Pretrained weights that workers copy from the store."""
    names = [key.removeprefix(WEIGHTS) for key in await _keys(blobs.list(WEIGHTS)) if key.endswith(".safetensors")]
    if names:
        report.ok(f"pretrained weights in the store: {', '.join(sorted(names))}")
