"""`client.batch_predictions`: predict many images with workers, and download the results."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Callable, Generator
from pathlib import Path
from types import TracebackType
from typing import Self
from warnings import warn

from sightline.client import progress, requests
from sightline.client.calls import AsyncCalls, Calls
from sightline.client.errors import ExportRefused, WrongState
from sightline.client.names import Named, bare_name, full_name
from sightline.client.quantities import size
from sightline.client.requests import STORE
from sightline.client.results.batch import AsyncBatchPrediction, BatchPrediction, BatchPredictionData, ResultFile
from sightline.client.sending import send_images, send_images_async
from sightline.client.uploads import images_below
from sightline.exporters.names import safe_part
from sightline.v1 import prediction_service_pb2 as service

COLLECTION = "batchPredictions"


class BatchPredictions:
    """The batch predictions of a `Client`. A name may be `batchPredictions/nightly`, `nightly`, or the object."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def create(
        self,
        model: str | Named,
        name: str,
        images: str | Path | None = None,
        *,
        dataset: str | Named | None = None,
        threshold: float | None = None,
        suggested_thresholds: bool = False,
        top: int | None = None,
        output: str = "",
        wait: bool = True,
        note: Callable[[str], None] = warn,
    ) -> BatchPrediction:
        """Predicts all images of a local folder, below an `s3://` uri, or of a dataset; pass one of the two.

        A local folder is uploaded first, without hidden folders and images larger than the service accepts; `note`
        receives what is left out or renamed. `output` is an `s3://` uri for the results, which an operator has opened.
        Thresholds and `top` are as for `Client.predict`.

        Before anything is uploaded, raises ImagesMissing with every image that cannot be, AlreadyExists, ModelNotFound,
        ModelNotReady, DatasetNotFound, DatasetNotReady, InvalidUri, InvalidRequest or QuotaExceeded; while waiting, the
        error of a batch prediction that ends as FAILED.
        """
        uri = _uri_of(images, dataset)
        prefix = "" if isinstance(uri, Path) else uri
        request = requests.create_batch(model, name, prefix, dataset, output, threshold, suggested_thresholds, top)
        rpc = self._calls.stubs.predictions.CreateBatchPrediction
        if isinstance(uri, Path):
            local = images_below(uri, note)
            self._calls.ask(rpc, _trial(request))
            request.batch_prediction.input_uri_prefix = send_images(self._calls, name, local, note)
        made = BatchPrediction.of(self._calls.ask(rpc, request), self)
        return self.wait(made) if wait else made

    def get(self, name: str | Named) -> BatchPrediction:
        """One batch prediction; NotFound."""
        request = service.GetBatchPredictionRequest(name=full_name(COLLECTION, name))
        return BatchPrediction.of(self._calls.ask(self._calls.stubs.predictions.GetBatchPrediction, request), self)

    def list(self) -> tuple[BatchPrediction, ...]:
        """All batch predictions, by name."""
        rpc = self._calls.stubs.predictions.ListBatchPredictions
        response = self._calls.pages(rpc, service.ListBatchPredictionsRequest())
        return tuple(BatchPrediction.of(message, self) for message in response.batch_predictions)

    def watch(self, name: str | Named) -> Generator[BatchPrediction]:
        """A batch prediction now and after each change, until it has ended."""
        request = service.WatchBatchPredictionRequest(name=full_name(COLLECTION, name))
        for message in self._calls.watch(self._calls.stubs.predictions.WatchBatchPrediction, request):
            yield BatchPrediction.of(message.batch_prediction, self)

    def wait(self, name: str | Named) -> BatchPrediction:
        """Waits until a batch prediction has ended and returns it; raises the error of one that ends as FAILED."""
        full = full_name(COLLECTION, name)
        self._calls.wait(f"predict {bare_name(full)}", self.watch(full), progress.of_batch)
        return self.get(full)

    def cancel(self, name: str | Named) -> BatchPrediction:
        """Ends a batch prediction; results so far are kept. NotFound, or WrongState if it has ended."""
        request = service.CancelBatchPredictionRequest(name=full_name(COLLECTION, name))
        return BatchPrediction.of(self._calls.ask(self._calls.stubs.predictions.CancelBatchPrediction, request), self)

    def delete(self, name: str | Named, *, force: bool = False) -> None:
        """Deletes a batch prediction and its results, but not those that were written below an `output` of the caller.

        NotFound; WrongState before its end, unless `force`: then its workers stop, and there are no results.
        """
        request = service.DeleteBatchPredictionRequest(name=full_name(COLLECTION, name), force=force)
        self._calls.ask(self._calls.stubs.predictions.DeleteBatchPrediction, request)

    def download(self, name: str | Named, folder: str | Path) -> tuple[Path, ...]:
        """Writes the result files to a folder, whose files of these names are replaced; returns their paths.

        NotFound; WrongState before its end, or if it has no results.
        """
        batch, written = self.get(name), list[Path]()
        with self._calls.reporter(f"download {bare_name(batch.name)}") as bar:
            for file in _files_of(batch):
                with _Download(batch.name, file, Path(folder)) as download:
                    for message in self._calls.watch(
                        self._calls.stubs.predictions.ReadBatchPredictionFile, download.request
                    ):
                        bar.update(*download.take(message.chunk))
                    written.append(download.finish())
        return tuple(written)


class AsyncBatchPredictions:
    """The batch predictions of an `AsyncClient`, with the methods of `BatchPredictions`."""

    def __init__(self, calls: AsyncCalls) -> None:
        self._calls = calls

    async def create(
        self,
        model: str | Named,
        name: str,
        images: str | Path | None = None,
        *,
        dataset: str | Named | None = None,
        threshold: float | None = None,
        suggested_thresholds: bool = False,
        top: int | None = None,
        output: str = "",
        wait: bool = True,
        note: Callable[[str], None] = warn,
    ) -> AsyncBatchPrediction:
        """As `BatchPredictions.create`."""
        uri = _uri_of(images, dataset)
        prefix = "" if isinstance(uri, Path) else uri
        request = requests.create_batch(model, name, prefix, dataset, output, threshold, suggested_thresholds, top)
        rpc = self._calls.stubs.predictions.CreateBatchPrediction
        if isinstance(uri, Path):
            local = await asyncio.to_thread(images_below, uri, note)
            await self._calls.ask(rpc, _trial(request))
            request.batch_prediction.input_uri_prefix = await send_images_async(self._calls, name, local, note)
        made = AsyncBatchPrediction.of(await self._calls.ask(rpc, request), self)
        return await self.wait(made) if wait else made

    async def get(self, name: str | Named) -> AsyncBatchPrediction:
        """As `BatchPredictions.get`."""
        request = service.GetBatchPredictionRequest(name=full_name(COLLECTION, name))
        rpc = self._calls.stubs.predictions.GetBatchPrediction
        return AsyncBatchPrediction.of(await self._calls.ask(rpc, request), self)

    async def list(self) -> tuple[AsyncBatchPrediction, ...]:
        """As `BatchPredictions.list`."""
        rpc = self._calls.stubs.predictions.ListBatchPredictions
        response = await self._calls.pages(rpc, service.ListBatchPredictionsRequest())
        return tuple(AsyncBatchPrediction.of(message, self) for message in response.batch_predictions)

    async def watch(self, name: str | Named) -> AsyncGenerator[AsyncBatchPrediction]:
        """As `BatchPredictions.watch`, for `async for`."""
        request = service.WatchBatchPredictionRequest(name=full_name(COLLECTION, name))
        async for message in self._calls.watch(self._calls.stubs.predictions.WatchBatchPrediction, request):
            yield AsyncBatchPrediction.of(message.batch_prediction, self)

    async def wait(self, name: str | Named) -> AsyncBatchPrediction:
        """As `BatchPredictions.wait`."""
        full = full_name(COLLECTION, name)
        await self._calls.wait(f"predict {bare_name(full)}", self.watch(full), progress.of_batch)
        return await self.get(full)

    async def cancel(self, name: str | Named) -> AsyncBatchPrediction:
        """As `BatchPredictions.cancel`."""
        request = service.CancelBatchPredictionRequest(name=full_name(COLLECTION, name))
        rpc = self._calls.stubs.predictions.CancelBatchPrediction
        return AsyncBatchPrediction.of(await self._calls.ask(rpc, request), self)

    async def delete(self, name: str | Named, *, force: bool = False) -> None:
        """As `BatchPredictions.delete`."""
        request = service.DeleteBatchPredictionRequest(name=full_name(COLLECTION, name), force=force)
        await self._calls.ask(self._calls.stubs.predictions.DeleteBatchPrediction, request)

    async def download(self, name: str | Named, folder: str | Path) -> tuple[Path, ...]:
        """As `BatchPredictions.download`; files are written in threads."""
        batch, written = await self.get(name), list[Path]()
        with self._calls.reporter(f"download {bare_name(batch.name)}") as bar:
            for file in _files_of(batch):
                with _Download(batch.name, file, Path(folder)) as download:
                    async for message in self._calls.watch(
                        self._calls.stubs.predictions.ReadBatchPredictionFile, download.request
                    ):
                        bar.update(*await asyncio.to_thread(download.take, message.chunk))
                    written.append(download.finish())
        return tuple(written)


def _uri_of(images: str | Path | None, dataset: str | Named | None) -> str | Path:
    """A local folder as a path, anything else as it is: the service says what is wrong with it."""
    if (images is None) == (dataset is None):
        raise ValueError("pass either `images` or `dataset`")
    if images is None:
        return ""
    return images if isinstance(images, str) and images.startswith(STORE) else Path(images)


def _trial(request: service.CreateBatchPredictionRequest) -> service.CreateBatchPredictionRequest:
    """Asks whether it could be created, before the upload."""
    trial = service.CreateBatchPredictionRequest(validate_only=True)
    trial.MergeFrom(request)
    return trial


def _files_of(batch: BatchPredictionData) -> tuple[ResultFile, ...]:
    if not batch.files:
        raise WrongState(f"{batch.name} is {batch.state} and has no result files", fix="wait until it has ended")
    return batch.files


class _Download:
    """A result file on its way to a folder, where it appears once it is complete."""

    def __init__(self, batch: str, file: ResultFile, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        name = safe_part(file.file_name)
        self._file, self._target, self._partial = file, folder / name, folder / f".{name}.partial"
        self._content, self._digest = self._partial.open("wb"), hashlib.sha256()
        # Its offset moves on with the file, so that an interrupted stream is continued.
        self.request = service.ReadBatchPredictionFileRequest(name=batch, file_name=file.file_name)

    def take(self, chunk: bytes) -> progress.Step:
        """Appends the bytes."""
        self._content.write(chunk)
        self._digest.update(chunk)
        self.request.offset += len(chunk)
        total = self._file.size_bytes
        return (
            self.request.offset / max(total, 1),
            self._file.file_name,
            f"{size(self.request.offset)} of {size(total)}",
        )

    def finish(self) -> Path:
        """The complete file's path; ExportRefused if it is not what the service announced."""
        self._content.close()
        if self._digest.hexdigest() != self._file.sha256:
            raise ExportRefused(
                f"{self._file.uri} was changed: its digest is not that of the batch prediction",
                fix="restore it, or predict again",
            )
        self._partial.replace(self._target)
        return self._target

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._content.close()
        self._partial.unlink(missing_ok=True)
