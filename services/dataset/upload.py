"""Stores a caller's files: each is checked against its announced size and digest before it becomes visible."""

import asyncio
import hashlib
import re
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

from services.dataset import metrics
from services.dataset.settings import DatasetSettings
from services.dataset.upload_records import UploadRecord, UploadRecords
from services.dataset.uploaded_files import FOLDER, UploadedFile, put_list
from services.kit.blobs import Blobs, read_pieces, to_uri
from services.kit.digests import file_digest
from services.kit.errors import (
    BlobNotFound,
    FileAlreadyExists,
    InvalidRequest,
    QuotaExceeded,
    StreamIdle,
    Unavailable,
    UploadNotFound,
    WrongState,
)
from services.kit.names import check_id, new_uid, parse
from services.kit.reach import UPLOADS
from services.kit.telemetry import Telemetry
from sightline.blob_keys import fault_of_key
from sightline.plurals import counted

MAX_CHUNK = 1 << 20
SHOWN = 200  # characters of a path in an error, which has to leave room for what is wrong
REQUEST_BYTES = {"UploadFiles": MAX_CHUNK + (64 << 10)}  # of the rpcs with large requests
BATCH_BYTES, BATCH_FILES = 64 << 20, 256  # that a stream stores before it counts them in the record
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Header:
    """The start of an upload."""

    upload_id: str


@dataclass(frozen=True, slots=True)
class File:
    """A file's announcement, sent before its bytes."""

    path: str
    sha256: str
    size_bytes: int


Part = Header | File | bytes


@dataclass(frozen=True, slots=True)
class Stored:
    """A stored file."""

    file: File
    uri: str


@dataclass(frozen=True, slots=True)
class Uploaded:
    """The files that an upload stored."""

    upload_id: str
    base_uri: str
    files: tuple[Stored, ...]
    max_image_bytes: int


class Uploads:
    """Receives uploads."""

    def __init__(self, records: UploadRecords, blobs: Blobs, telemetry: Telemetry, settings: DatasetSettings) -> None:
        self.records = records
        self._blobs = blobs
        self._telemetry = telemetry
        self._settings = settings

    async def store(self, parts: AsyncIterator[Part]) -> Uploaded:
        """Stores the files of a stream in order; an error ends it, and the files before it stay.

        Raises InvalidRequest for parts out of order, a bad path, a wrong size or digest; QuotaExceeded; StreamIdle;
        FileAlreadyExists for a path that has other bytes; and whatever keeps the caller from using the upload id.
        """
        parts = self._unless_idle(parts)
        first = await anext(parts, None)
        if not isinstance(first, Header):
            raise InvalidRequest(field="header", problem="the first message must be the header.")
        upload_id = check_id(first.upload_id, "header.upload_id") if first.upload_id else new_uid()
        tally = _Tally(self.records, await self.records.begin(upload_id))
        stored = list[Stored]()
        with tempfile.TemporaryDirectory(prefix="sightline-upload-", dir=self._settings.scratch_directory) as folder:
            receiving: _Receiving | None = None
            try:
                async for part in parts:
                    if isinstance(part, Header):
                        raise InvalidRequest(field="header", problem="only the first message may be a header.")
                    if isinstance(part, File):
                        if receiving:
                            stored.append(await self._keep(tally, receiving))
                        self._check(part, tally.record.prefix, len(stored))
                        tally.check_room(part)
                        receiving = _Receiving(part, Path(folder) / "file")
                    elif receiving is None:
                        raise InvalidRequest(field="chunk", problem="a file must be announced before its bytes.")
                    else:
                        await receiving.write(part)
                if receiving:
                    stored.append(await self._keep(tally, receiving))
            finally:
                if receiving:
                    receiving.close()
                await asyncio.shield(self._count(tally, stored))
        uri = to_uri(self._blobs.bucket, tally.record.name)
        return Uploaded(upload_id, uri, tuple(stored), self._settings.max_image_bytes)

    async def read(self, name: str, path: str) -> AsyncGenerator[bytes]:
        """The bytes of an upload's file, in pieces; UploadNotFound, BlobNotFound."""
        parse(name, UPLOADS, field="parent")
        prefix = (await self.records.uploads.get(name)).value.prefix
        check_path(path, prefix, field="path")
        size_bytes = (await self._blobs.stat(prefix + path)).size_bytes
        async with aclosing(read_pieces(self._blobs, prefix + path, size_bytes)) as pieces:
            async for piece in pieces:
                yield piece

    async def _unless_idle(self, parts: AsyncIterator[Part]) -> AsyncIterator[Part]:
        limit = self._settings.upload_idle_seconds
        while True:
            try:
                async with asyncio.timeout(limit):
                    part = await anext(parts)
            except StopAsyncIteration:
                return
            except TimeoutError:
                raise StreamIdle(method="UploadFiles", limit_seconds=limit) from None
            yield part

    async def _count(self, tally: "_Tally", stored: list[Stored]) -> None:
        """Counts what is not yet counted; if the upload has been deleted meanwhile, removes what came after."""
        try:
            await tally.count()
        except (UploadNotFound, WrongState):
            if not await self.records.has_successor(tally.record):
                for key in (*(tally.record.prefix + one.file.path for one in stored), *tally.lists):
                    await self._blobs.delete(key)
            raise

    def _check(self, file: File, prefix: str, count: int) -> None:
        if count >= self._settings.max_upload_files:
            limit, setting = self._settings.max_upload_files, "SIGHTLINE_MAX_UPLOAD_FILES"
            raise QuotaExceeded(subject="files in one stream", value=count + 1, limit=limit, setting=setting)
        check_path(file.path, prefix)
        if not _SHA256.fullmatch(file.sha256):
            problem = f"{file.path}: {file.sha256!r} is not 64 lower-case hex digits."
            raise InvalidRequest(field="file.sha256", problem=problem)
        limit, setting = self._settings.max_image_bytes, "SIGHTLINE_MAX_IMAGE_BYTES"
        if file.path.lower().endswith(".json"):
            limit, setting = self._settings.max_coco_bytes, "SIGHTLINE_MAX_COCO_BYTES"
        if file.size_bytes > limit:
            raise QuotaExceeded(subject=f"bytes of {file.path}", value=file.size_bytes, limit=limit, setting=setting)
        if file.size_bytes < 0:
            raise InvalidRequest(field="file.size_bytes", problem=f"{file.path}: {file.size_bytes} is negative.")

    async def _keep(self, tally: "_Tally", receiving: "_Receiving") -> Stored:
        """Stores a received file, unless it is there already; FileAlreadyExists if another is."""
        receiving.check()
        file, key = receiving.file, tally.record.prefix + receiving.file.path
        if present := await self._digest(key, receiving.path.with_name("present")):
            if present != file.sha256:
                raise FileAlreadyExists(name=tally.record.name, path=file.path, present=present)
            await tally.add(file, is_new=False)
        else:
            await self._blobs.put_file(key, receiving.path)
            self._telemetry.add(metrics.UPLOADED, file.size_bytes)
            await tally.add(file, is_new=True)
        return Stored(file, to_uri(self._blobs.bucket, key))

    async def _digest(self, key: str, path: Path) -> str:
        """The SHA-256 of the blob; empty if there is none."""
        try:
            await self._blobs.stat(key)
            await self._blobs.get_file(key, path)
        except BlobNotFound:
            return ""
        return await asyncio.to_thread(file_digest, path)


class _Tally:
    """What a stream has stored in its upload; listed, and counted in the record, in batches."""

    def __init__(self, records: UploadRecords, record: UploadRecord) -> None:
        self._records = records
        self.record = record
        self.lists = list[str]()  # the keys of the lists that it wrote
        self._files = list[UploadedFile]()
        self._bytes = self._new = 0

    def check_room(self, file: File) -> None:
        """QuotaExceeded if the file would be too much."""
        self._records.check_room(self.record.name, self._bytes + file.size_bytes, self._new + 1)

    async def add(self, file: File, *, is_new: bool) -> None:
        """Takes a stored file in; one that was there before is listed, in case it was not yet, and not counted."""
        self._files.append(UploadedFile(file.path, file.sha256, file.size_bytes))
        if is_new:
            self._bytes, self._new = self._bytes + file.size_bytes, self._new + 1
        if self._bytes >= BATCH_BYTES or len(self._files) >= BATCH_FILES:
            await self.count()

    async def count(self) -> None:
        """Writes what is not in the record yet."""
        files, self._files = self._files, []
        size_bytes, new, self._bytes, self._new = self._bytes, self._new, 0, 0
        if files:
            number = self.record.file_count
            self.lists.append(await put_list(self._records.blobs, self.record.prefix, number, files))
            self.record = await self._records.add(self.record, size_bytes, new)


class _Receiving:
    """A file being received."""

    def __init__(self, file: File, path: Path) -> None:
        self.file = file
        self.path = path
        self._target = path.open("wb", buffering=0)  # unbuffered, so that closing cannot fail
        self._sha256 = hashlib.sha256()
        self._size = 0

    async def write(self, chunk: bytes) -> None:
        """Writes the next bytes; InvalidRequest for more than announced."""
        if len(chunk) > MAX_CHUNK:
            problem = f"{self.file.path}: a chunk of {len(chunk)} bytes is larger than {MAX_CHUNK}."
            raise InvalidRequest(field="chunk", problem=problem)
        self._size += len(chunk)
        if self._size > self.file.size_bytes:
            problem = f"{self.file.path}: more than the announced {counted(self.file.size_bytes, 'byte')}."
            raise InvalidRequest(field="file.size_bytes", problem=problem)
        await asyncio.to_thread(self._write, chunk)

    def _write(self, chunk: bytes) -> None:
        rest = memoryview(chunk)
        try:
            while rest:
                rest = rest[self._target.write(rest) :]
        except OSError as error:  # most likely the disk is full; the upload can be retried later
            raise Unavailable(what="The scratch directory", problem=error.strerror or str(error)) from error
        self._sha256.update(chunk)

    def check(self) -> None:
        """Closes the file; InvalidRequest unless its size and digest are as announced."""
        self.close()
        if self._size != self.file.size_bytes:
            received = counted(self._size, "byte")
            problem = f"{self.file.path}: received {received}, not the announced {self.file.size_bytes}."
            raise InvalidRequest(field="file.size_bytes", problem=problem)
        if self._sha256.hexdigest() != self.file.sha256:
            found = self._sha256.hexdigest()
            problem = f"{self.file.path}: the received bytes have the digest {found}, not {self.file.sha256}."
            raise InvalidRequest(field="file.sha256", problem=problem)

    def close(self) -> None:
        """Closes the file."""
        self._target.close()


def check_path(path: str, prefix: str, field: str = "file.path") -> None:
    """InvalidRequest unless the path, below the upload's prefix, is a legal key."""
    own = path.partition("/")[0] == FOLDER and f"begins with {FOLDER}, which the service keeps for itself"
    if problem := own or fault_of_key(path) or fault_of_key(f"{prefix}{path}"):
        named = repr(path if len(path) <= SHOWN else f"{path[:SHOWN]}…")
        raise InvalidRequest(field=field, problem=f"{named} {problem}.")
