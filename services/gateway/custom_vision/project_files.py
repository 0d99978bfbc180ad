"""What a project keeps, as files of an upload: its images, and the changes of which it is the sum.

A change is a JSON merge patch (RFC 7396) in a file of its own; a project is what its changes make of nothing, in the
order of their times. So any replica can answer, two clients lose none of each other's changes, and of two that change
the same value the later one wins.
"""

import asyncio
import hashlib
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import grpc
import msgspec

from services.gateway.custom_vision.errors import BadRequest, Missing
from services.gateway.fields import count_values
from services.gateway.kept import Kept
from services.gateway.upstream import Session
from services.kit import codec
from sightline.v1 import dataset_service_pb2 as pb

CHANGES, IMAGES = "changes/", "images/"
PREFIX = "custom-vision-"  # of an upload's id, before the project's
CHUNK_BYTES = 1 << 20
PAGE = 1000
READS = 16  # at once
KEPT_BYTES, SPARE_BYTES = 128 << 20, 500  # of files of changes, and what each takes besides
MAX_BYTES, MAX_VALUES = 64 << 20, 2_000_000  # of all changes of a project, which are decoded together
VALUE_BYTES = 100  # that a decoded value takes
REMEMBERED = 20_000  # projects of callers
AHEAD = timedelta(days=1)  # how far another replica's clock may be; what is later was not written by one
TIME, FIRST = "%Y%m%dT%H%M%S.%f", datetime(2026, 1, 1, tzinfo=UTC)  # of changes: how they are named
WHOLE = {"tags": "name", "images": "created"}  # what everything of a kind has from its creation on

Json = dict[str, Any]


class TooLarge(BadRequest):
    """A project's changes are more than are read at once."""

    def __init__(self, limit: str) -> None:
        problem = f"all that was ever changed in it has more than {limit}; delete it, and create several smaller ones"
        super().__init__(field="project", problem=problem)


class ProjectFiles:
    """Reads and writes projects.

    What it has read is remembered for its caller, who may read it again: files of changes, which never change, and the
    time of a project's latest one.
    """

    def __init__(self, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._now = now
        self._seen = Kept[bytes, bytes](KEPT_BYTES)
        self._latest = Kept[bytes, datetime](REMEMBERED)

    async def projects(self, session: Session) -> list[str]:
        """The ids of all projects."""
        found, token = list[str](), ""
        while True:
            request = pb.ListUploadsRequest(page_size=PAGE, page_token=token)
            page = await session.call(session.services.datasets.ListUploads, request)
            ids = (one.name.removeprefix("uploads/") for one in page.uploads)
            found += [one.removeprefix(PREFIX) for one in ids if one.startswith(PREFIX)]
            token = page.next_page_token
            if not token:
                return found

    async def state(self, session: Session, project: str) -> Json:
        """The project as it is now; Missing, TooLarge."""
        parent = f"uploads/{PREFIX}{project}"
        try:
            sizes = await self._changes(session, parent)
        except grpc.aio.AioRpcError as error:
            if error.code() not in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT):
                raise
            raise Missing("NotFoundProject", what="project", name=project) from None
        changes = await self._read_all(session, parent, sizes)
        state = await asyncio.to_thread(_sum, changes)
        if "created" not in state.get("project", {}):
            raise Missing("NotFoundProject", what="project", name=project)
        possible = f"{CHANGES}{self._now() + AHEAD:{TIME}}"
        self._note(_key(session.caller, project), max((path for path in sizes if path < possible), default=""))
        return state

    async def change(
        self, session: Session, project: str, patch: Json, files: Mapping[str, bytes] | None = None
    ) -> None:
        """Stores files by path, then the change that says what they are.

        It comes after all changes that this replica has seen, even if its clock is behind that of another one.
        """
        key = _key(session.caller, project)
        time = max(self._now(), (self._latest.get(key) or FIRST) + timedelta(microseconds=1))
        path = f"{CHANGES}{time:{TIME}}-{uuid.uuid4().hex}.json"
        whole = dict(files or {}) | {path: msgspec.json.encode(patch)}
        await self.store(session, project, whole)
        self._note(key, path)

    async def store(self, session: Session, project: str, files: Mapping[str, bytes]) -> dict[str, str]:
        """Stores files by path; returns their uris."""
        sent = _messages(PREFIX + project, files)
        stored = await session.send(session.services.datasets.UploadFiles, sent)
        return {file.path: file.uri for file in stored.files}

    def _note(self, key: bytes, path: str) -> None:
        """Remembers the time of the latest change."""
        with suppress(ValueError):  # of something else that was uploaded there
            time = datetime.strptime(path.removeprefix(CHANGES).partition("-")[0], TIME).replace(tzinfo=UTC)
            self._latest.put(key, max(time, self._latest.get(key) or FIRST))

    async def _changes(self, session: Session, parent: str) -> dict[str, int]:
        """The paths of a project's changes, and their sizes."""
        found, token = dict[str, int](), ""
        while True:
            request = pb.ListUploadedFilesRequest(parent=parent, page_size=PAGE, page_token=token)
            page = await session.call(session.services.datasets.ListUploadedFiles, request)
            found |= {file.path: file.size_bytes for file in page.files if file.path.startswith(CHANGES)}
            token = page.next_page_token
            if not token:
                return found

    async def _read_all(self, session: Session, parent: str, sizes: Mapping[str, int]) -> list[bytes]:
        """The changes in their order, once there is room for them and for what they become; TooLarge."""
        size = sum(sizes.values())
        if size > MAX_BYTES:
            raise TooLarge(f"{MAX_BYTES} bytes")
        await session.hold(size)
        caller, places = session.caller, asyncio.Semaphore(READS)
        changes = await asyncio.gather(*(self._read(session, caller, parent, path, places) for path in sorted(sizes)))
        values = await asyncio.to_thread(lambda: sum(map(count_values, changes)))
        if values > MAX_VALUES:
            raise TooLarge(f"{MAX_VALUES} values")
        await session.hold(size + VALUE_BYTES * values)
        return changes

    async def _read(self, session: Session, caller: str, parent: str, path: str, places: asyncio.Semaphore) -> bytes:
        key = _key(caller, parent, path)
        data = self._seen.get(key)
        if data is None:
            request = pb.ReadUploadedFileRequest(parent=parent, path=path)
            async with places:
                read = session.stream(session.services.datasets.ReadUploadedFile, request)
                data = b"".join([response.chunk async for response in read])
            self._seen.put(key, data, len(data) + SPARE_BYTES)
        return data


def _key(*parts: str) -> bytes:
    return hashlib.sha256("\0".join(parts).encode()).digest()


def _sum(changes: Iterable[bytes]) -> Json:
    """What the changes make of nothing."""
    state: Json = {}
    for change in changes:
        merge(state, codec.parse(change, Json))
    # What one client changed while another one deleted it is not there any more.
    for kind, required in WHOLE.items():
        state[kind] = {one: made for one, made in state.get(kind, {}).items() if required in made}
    return state


def merge(target: Json, patch: Json) -> None:
    """Applies a merge patch: null removes, objects are merged, anything else replaces."""
    for key, value in patch.items():
        if value is None:
            target.pop(key, None)
        elif isinstance(value, dict):
            inner = target.get(key)
            found: Json = cast("Json", inner) if isinstance(inner, dict) else {}
            target[key] = found
            merge(found, cast("Json", value))
        else:
            target[key] = value


async def _messages(upload_id: str, files: Mapping[str, bytes]) -> AsyncIterator[pb.UploadFilesRequest]:
    yield pb.UploadFilesRequest(header=pb.UploadFilesHeader(upload_id=upload_id))
    for path, content in files.items():
        digest = hashlib.sha256(content).hexdigest()
        yield pb.UploadFilesRequest(file=pb.FileHeader(path=path, sha256=digest, size_bytes=len(content)))
        for start in range(0, len(content), CHUNK_BYTES):
            yield pb.UploadFilesRequest(chunk=content[start : start + CHUNK_BYTES])
