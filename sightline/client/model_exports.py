"""Receives a model's archive, whole and unchanged."""

import asyncio
import hashlib
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from sightline.client.calls import AsyncCalls, Calls
from sightline.client.errors import ExportRefused, InternalError
from sightline.client.names import Named, bare_name, full_name
from sightline.client.progress import Step, waiting_words
from sightline.client.quantities import size
from sightline.client.results.model_export import FORMATS, ModelExport, ModelFormat
from sightline.client.results.progress import Waiting
from sightline.v1 import model_service_pb2 as service

MAKING_SHARE = 0.5  # of the progress


class ArchiveReplaced(Exception):
    """The stream continues another archive than the one that was begun: open it again, from the start."""


class ArchiveDownload:
    """One archive, written beside its place and moved there once its digest is right.

    `request` continues after what has arrived. Outside the block, nothing unfinished is left.
    """

    def __init__(self, model: str | Named, path: Path, form: ModelFormat) -> None:
        """`path` may be a folder, for the file name that the service suggests; ExportRefused if there is no folder."""
        self.request = service.ExportModelRequest(name=full_name("models", model), format=FORMATS[form])
        self._form, self._path = form, path
        folder = path if path.is_dir() else path.parent
        if not folder.is_dir():
            raise ExportRefused(f"{folder} is not a folder", fix=f"make it first: mkdir -p {folder}")
        self._part = folder / f".{path.name or 'model'}.{hashlib.sha256(str(path).encode()).hexdigest()[:8]}.part"
        self._header = service.ExportHeader()
        self._digest = hashlib.sha256()
        self.title = f"export {bare_name(self.request.name)}"

    def __enter__(self) -> Self:
        self._file = self._part.open("wb")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        with suppress(OSError):
            self._part.unlink(missing_ok=True)

    def take(self, message: service.ExportModelResponse) -> Step:
        """Takes the next message of the stream; ArchiveReplaced if what has arrived is of another archive."""
        if message.HasField("progress"):
            return self._made(message.progress)
        if message.HasField("header"):
            self._begin(message.header)
        else:
            self._file.write(message.chunk)
            self._digest.update(message.chunk)
            self.request.read_offset += len(message.chunk)
        done, total = self.request.read_offset, self._header.size_bytes
        share = MAKING_SHARE + (1 - MAKING_SHARE) * done / max(total, 1)
        return share, "receiving", f"{size(done)} of {size(total)}"

    def finish(self) -> ModelExport:
        """Puts the archive in its place, once the stream has ended; InternalError if it arrived damaged."""
        header = self._header
        if self.request.read_offset != header.size_bytes or self._digest.hexdigest() != header.sha256:
            raise InternalError(
                f"the archive of {self.request.name} arrived damaged: its SHA-256 is not {header.sha256}",
                fix="repeat the export; if that does not help, check the store",
            )
        self._file.close()
        path = self._path / Path(header.file_name).name if self._path.is_dir() else self._path
        self._part.replace(path)
        return ModelExport(
            path=path,
            format=self._form,
            model=self.request.name,
            version=header.model_version,
            size_bytes=header.size_bytes,
            sha256=header.sha256,
            max_difference=header.max_difference,
        )

    def _begin(self, header: service.ExportHeader) -> None:
        replaced = self.request.read_offset > 0 and header.sha256 != self._header.sha256
        self._header = header
        if replaced:
            self.request.read_offset = 0
            self._file.seek(0)
            self._file.truncate()
            self._digest = hashlib.sha256()
            raise ArchiveReplaced

    def _made(self, progress: service.ExportProgress) -> Step:
        words = waiting_words(Waiting.of(progress.waiting)) if progress.HasField("waiting") else ""
        return MAKING_SHARE * progress.fraction, words or "a worker makes the archive", ""


def receive(calls: Calls, download: ArchiveDownload) -> ModelExport:
    """The archive, once it is in its place."""
    with calls.reporter(download.title) as bar, download:
        while True:
            try:
                for message in calls.watch(calls.stubs.models.ExportModel, download.request):
                    bar.update(*download.take(message))
                return download.finish()
            except ArchiveReplaced:
                continue


async def receive_async(calls: AsyncCalls, download: ArchiveDownload) -> ModelExport:
    """As `receive`; the file is written in threads."""
    with calls.reporter(download.title) as bar, download:
        while True:
            try:
                async for message in calls.watch(calls.stubs.models.ExportModel, download.request):
                    bar.update(*await asyncio.to_thread(download.take, message))
                return await asyncio.to_thread(download.finish)
            except ArchiveReplaced:
                continue
