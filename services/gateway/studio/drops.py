"""What was dropped onto the studio: its files are laid out in a folder, and read there as the command reads them."""

import asyncio
import os
import shutil
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import mkdtemp

import msgspec
from starlette.responses import Response

from services.gateway.errors import Problem, Refusal
from services.gateway.studio.visit import Visit
from services.kit.errors import Overloaded
from sightline.importers.model import BoxForm, Format
from sightline.v1.dataset_service_pb2 import DeleteUploadRequest, UploadFilesHeader, UploadFilesRequest

READER = "services.gateway.studio.reading"
READ = (
    *(".json", ".jsonl", ".ndjson", ".jsonlines", ".manifest", ".csv", ".tsv", ".xml", ".txt", ".yaml", ".yml"),
    *(".data", ".names", ".labels"),  # YOLO's
)  # the files whose content an importer may read; of others it wants to know that they are there
MAX_FILES, MAX_READ = 200_000, 60_000  # a small file takes a block of the disk
MAX_FILE_BYTES = 1 << 40
WAIT_SECONDS, READ_SECONDS = 30.0, 90.0
TOO_LARGE = b'{"problem": {"reason": "too_large"}}'
ENVIRONMENT = ("PATH", "PYTHONPATH", "PYTHONSAFEPATH", "LANG", "LC_ALL")  # other variables may hold secrets


class Drop(msgspec.Struct, frozen=True):
    """The first line of the body. The contents of the files that have one follow, in this order."""

    name: str  # for messages
    files: list[tuple[str, int, bool]]  # path, bytes, whether the content follows
    form: Format | None = None  # None: its content decides
    boxes: BoxForm | None = None
    splits: list[str] = []


async def understand(visit: Visit) -> Response:
    """Says what an export holds and what to upload of it, or what is wrong with it. Nothing of it is kept."""
    await visit.project()  # asks the services who the caller is: those whom they refuse get no further
    limit = visit.site.settings.max_image_batch_bytes
    largest = min(limit, await _max_image_bytes(visit) or limit)
    body = await visit.bytes(limit)
    async with _turn(visit.site.reading), _folder() as folder:
        try:
            drop = await asyncio.to_thread(lay_out, body, folder)
        except Unfit as error:
            message = visit.site.text(error.key, **error.values)
            raise Refusal(Problem(400, "FilesUnreadable", message)) from None
        order = msgspec.structs.asdict(drop) | {"files": None, "folder": str(folder), "max_image_bytes": largest}
        answer = await _read(msgspec.json.encode(order))
    return Response(answer, media_type="application/json")


async def _max_image_bytes(visit: Visit) -> int:
    """How large an image may be, which only an upload tells; it is not used for anything else."""
    datasets = visit.session.services.datasets
    opened = await visit.session.send(datasets.UploadFiles, _header())
    await visit.session.call(datasets.DeleteUpload, DeleteUploadRequest(name=f"uploads/{opened.upload_id}"))
    return opened.max_image_bytes


async def _header() -> AsyncIterator[UploadFilesRequest]:
    yield UploadFilesRequest(header=UploadFilesHeader())


class Unfit(ValueError):
    """Files that cannot be laid out: the key of the text that says why, and its values."""

    def __init__(self, key: str, **values: object) -> None:
        super().__init__(key)
        self.key, self.values = key, values


def lay_out(body: bytes, folder: Path) -> Drop:
    """Writes the files below the folder: with their content, or empty with the size that they have. Raises Unfit."""
    head, _, contents = body.partition(b"\n")
    try:
        drop = msgspec.json.decode(head, type=Drop)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Unfit("drop.malformed", problem=error) from None
    for count, most in ((len(drop.files), MAX_FILES), (sum(is_sent for _, _, is_sent in drop.files), MAX_READ)):
        if count > most:
            raise Unfit("drop.too_many", count=count, most=most)
    rest = memoryview(contents)
    for path, size, is_sent in drop.files:
        if not 0 <= size <= MAX_FILE_BYTES or (is_sent and size > len(rest)):
            raise Unfit("drop.size", path=path)
        content, rest = (rest[:size], rest[size:]) if is_sent else (rest[:0], rest)
        _write(folder, path, content, size)
    return drop


def _write(folder: Path, path: str, content: memoryview, size: int) -> None:
    if "\0" in path or any(part in ("", ".", "..") for part in path.split("/")):
        raise Unfit("drop.path", path=path)
    place = folder / path
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with place.open("xb") as file:
            file.write(content)
            file.truncate(size)
    except (FileExistsError, NotADirectoryError):
        raise Unfit("drop.twice", path=path) from None
    except (OSError, UnicodeEncodeError):
        raise Unfit("drop.name", path=path.encode(errors="replace").decode()) from None


@asynccontextmanager
async def _turn(turns: asyncio.Semaphore) -> AsyncGenerator[None]:
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            await turns.acquire()
    except TimeoutError:
        raise Overloaded(service="gateway", limit=1, what="exports to read") from None
    try:
        yield
    finally:
        turns.release()


@asynccontextmanager
async def _folder() -> AsyncGenerator[Path]:
    folder = Path(mkdtemp(prefix="sightline-drop-"))
    try:
        yield folder
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


async def _read(order: bytes) -> bytes:
    """The answer of a process that reads the files; RuntimeError if it failed by a mistake of ours."""
    environment = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", READER, stdin=pipe, stdout=pipe, stderr=pipe, env=environment
    )
    try:
        async with asyncio.timeout(READ_SECONDS):
            answer, errors = await process.communicate(order)
    except TimeoutError:
        return TOO_LARGE
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if (code := await process.wait()) > 0:
        raise RuntimeError(f"reading an export failed: {errors[-2000:].decode(errors='replace')}")
    return answer if code == 0 else TOO_LARGE  # a signal ended it, at one of its limits
