"""Blobs as files in a folder: the store of a single machine."""

import errno
import os
import shutil
import time
import uuid
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from services.infra.threads import Threads
from services.kit.blobs import BlobInfo, check_key, check_range
from services.kit.errors import BlobNotFound, StoreRefused, Unavailable
from sightline.blob_keys import RESERVED

TEMPORARY = RESERVED  # a folder on the same file system, so that a rename out of it is atomic
ABANDONED_SECONDS = 24 * 3600.0
COPY_BYTES = 1 << 20
PLACE_ATTEMPTS = 50
_MISSING = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG}
_FULL = {errno.ENOSPC, errno.EDQUOT}
Fill = Callable[[BinaryIO], object]  # writes a file's content


class FolderBlobs:
    """Blobs in a folder: the key `a/b` is the file `a/b`, complete or absent.

    A blob is written to a temporary file, flushed to disk, then renamed. Symbolic links are not blobs: they are neither
    read, nor listed, nor followed. As a file cannot be a folder too, `a` and `a/b` cannot both be keys: StoreRefused.
    """

    def __init__(self, directory: Path, bucket: str = "sightline", threads: Threads | None = None) -> None:
        self._root = directory.absolute()
        self._bucket = bucket
        self._threads = threads or Threads(8, "files")

    @property
    def bucket(self) -> str:
        return self._bucket

    async def ensure_bucket(self) -> None:
        """Creates the folder if it is missing, and removes what crashed writers left a day or more ago."""
        await self._threads.run(self._prepare)

    async def put(self, key: str, data: bytes) -> None:
        path = self._path(key)
        await self._threads.run(self._write, key, path, lambda target: target.write(data))

    async def put_file(self, key: str, path: Path) -> None:
        target = self._path(key)
        await self._threads.run(self._copy_in, key, target, path)

    async def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        check_range(start, length)
        return await self._threads.run(self._read, key, self._path(key), start, -1 if length is None else length)

    async def get_file(self, key: str, path: Path) -> None:
        await self._threads.run(self._copy_out, key, self._path(key), path)

    async def stat(self, key: str) -> BlobInfo:
        return await self._threads.run(self._stat, key, self._path(key))

    async def list(self, prefix: str) -> AsyncIterator[BlobInfo]:
        folder, _, _ = prefix.rpartition("/")
        if folder:
            check_key(folder)
        async for blob in self._threads.iterate(self._walk(folder, prefix)):
            yield blob

    async def delete(self, key: str) -> None:
        await self._threads.run(self._remove, key, self._path(key))

    async def ping(self) -> None:
        if not await self._threads.run(os.access, self._root, os.W_OK | os.X_OK):
            raise Unavailable(what=f"the store's folder {self._root}", problem="it is missing or cannot be written")

    def _path(self, key: str) -> Path:
        return self._root / check_key(key)

    def _prepare(self) -> None:
        with self._failing(self._root.name):
            temporary = self._root / TEMPORARY
            temporary.mkdir(parents=True, exist_ok=True)
            for path in temporary.iterdir():
                with suppress(FileNotFoundError):
                    if path.stat().st_mtime < time.time() - ABANDONED_SECONDS:
                        path.unlink()

    def _write(self, key: str, path: Path, fill: Fill) -> None:
        with self._failing(key):
            temporary = self._root / TEMPORARY / uuid.uuid4().hex
            temporary.parent.mkdir(parents=True, exist_ok=True)
            try:
                with temporary.open("xb") as target:
                    fill(target)
                    target.flush()
                    os.fsync(target.fileno())
                self._place(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)

    def _place(self, temporary: Path, path: Path) -> None:
        """Renames into place; a delete may prune the parent folder at any moment, so it is created again if needed."""
        for attempt in reversed(range(PLACE_ATTEMPTS)):
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._refuse_links(path.parent)
                temporary.replace(path)
                break
            except (FileNotFoundError, FileExistsError):
                if not attempt:
                    raise
        with suppress(FileNotFoundError):  # the blob was deleted, and its folder with it
            folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def _copy_in(self, key: str, target: Path, path: Path) -> None:
        with path.open("rb") as source:
            self._write(key, target, lambda output: shutil.copyfileobj(source, output, COPY_BYTES))

    def _copy_out(self, key: str, source: Path, path: Path) -> None:
        with self._open(key, source) as blob:
            write_whole(path, lambda target: shutil.copyfileobj(blob, target, COPY_BYTES))

    def _read(self, key: str, path: Path, start: int, length: int) -> bytes:
        with self._open(key, path) as blob, self._failing(key):
            blob.seek(start)
            return blob.read(length)

    def _open(self, key: str, path: Path) -> BinaryIO:
        with self._finding(key):
            self._refuse_links(path.parent)
            return os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb")

    def _stat(self, key: str, path: Path) -> BlobInfo:
        with self._open(key, path) as blob:
            return BlobInfo(key, os.fstat(blob.fileno()).st_size)

    def _remove(self, key: str, path: Path) -> None:
        """Unlinks the file, and its folders that are then empty."""
        try:
            with self._finding(key):
                self._refuse_links(path.parent)
                path.unlink()
        except BlobNotFound:
            return
        for folder in path.relative_to(self._root).parents:
            try:
                (self._root / folder).rmdir() if folder.parts else None
            except OSError:
                return

    def _walk(self, folder: str, prefix: str) -> Iterator[BlobInfo]:
        """Depth first; a folder sorts as its name plus `/`, which gives the order of whole keys."""
        with self._failing(folder):
            try:
                self._refuse_links(self._root / folder)
                with os.scandir(self._root / folder) as found:
                    entries = sorted(found, key=lambda e: e.name + "/" * e.is_dir(follow_symlinks=False))
            except (FileNotFoundError, NotADirectoryError):
                return
            for entry in entries:
                key = f"{folder}/{entry.name}" if folder else entry.name
                if entry.is_dir(follow_symlinks=False):
                    inside = f"{key}/"
                    if key != TEMPORARY and (inside.startswith(prefix) or prefix.startswith(inside)):
                        yield from self._walk(key, prefix)
                elif entry.is_file(follow_symlinks=False) and key.startswith(prefix):
                    with suppress(FileNotFoundError):  # deleted since
                        yield BlobInfo(key, entry.stat(follow_symlinks=False).st_size)

    def _refuse_links(self, folder: Path) -> None:
        """NotADirectoryError if there is a symbolic link between the root and the folder."""
        while folder != self._root:
            if folder.is_symlink():
                raise NotADirectoryError(errno.ENOTDIR, "it is a symbolic link", str(folder))
            folder = folder.parent

    @contextmanager
    def _finding(self, key: str) -> Generator[None]:
        with self._failing(key):
            try:
                yield
            except OSError as error:
                if error.errno in _MISSING:
                    raise BlobNotFound(name=key) from None
                raise

    @contextmanager
    def _failing(self, key: str) -> Generator[None]:
        try:
            yield
        except (IsADirectoryError, NotADirectoryError, FileExistsError) as error:
            problem = f"the key or a part of it is both a blob and a folder ({error.strerror})"
            raise StoreRefused(what=key, code=problem) from None
        except PermissionError:
            raise StoreRefused(what=key, code=f"no permission in {self._root}") from None
        except OSError as error:
            full = "no space is left on its disk" if error.errno in _FULL else error.strerror or str(error)
            raise Unavailable(what=f"the store's folder {self._root}", problem=full) from error


def write_whole(path: Path, fill: Fill) -> None:
    """Fills a file that appears complete or not at all; Unavailable if the disk is full."""
    temporary = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        with temporary.open("xb") as target:
            fill(target)
        temporary.replace(path)
    except OSError as error:
        if error.errno in _FULL:
            raise Unavailable(what=f"the folder {path.parent}", problem="no space is left on its disk") from error
        raise
    finally:
        temporary.unlink(missing_ok=True)
