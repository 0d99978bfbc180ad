"""Batch predictions: a model's results for every image below a prefix or of a dataset."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Self

from sightline.client.errors import SightlineError
from sightline.client.results.convert import failure, moment, span
from sightline.client.results.kinds import BatchState, word
from sightline.v1 import batch_prediction_pb2


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchProgress:
    """How much of a batch prediction is done."""

    images_done: int  # with results
    images_failed: int  # that could not be predicted; `failures.json` says why
    images_total: int  # 0 until they are listed
    fraction: float  # 0..1


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultFile:
    """A file of results in the store."""

    file_name: str  # `results.json`, `images.json`, `failures.json` or `results.jsonl`
    uri: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPredictionData:
    """One batch prediction."""

    name: str  # `batchPredictions/nightly`
    state: BatchState
    display_name: str
    model: str
    model_version: str  # the one served when it was created
    input_uri: str  # the images are below it; empty for those of a dataset
    dataset: str  # empty for images below a uri
    dataset_version: int
    output_uri: str  # the result files are below it
    progress: BatchProgress
    files: tuple[ResultFile, ...]  # none before its end
    cost: timedelta
    error: SightlineError | None  # why it is FAILED
    create_time: datetime | None
    start_time: datetime | None
    end_time: datetime | None
    message: batch_prediction_pb2.BatchPrediction = field(repr=False, compare=False)
    owner: Any = field(default=None, repr=False, compare=False)  # `batch_predictions` of the client that returned it

    @classmethod
    def of(cls, message: batch_prediction_pb2.BatchPrediction, owner: Any = None) -> Self:
        """The content of the message."""
        done = message.progress
        return cls(
            name=message.name,
            state=word(BatchState, batch_prediction_pb2.BatchPrediction.State, message.state),
            display_name=message.display_name,
            model=message.model_name,
            model_version=message.model_version,
            input_uri=message.input_uri_prefix,
            dataset=message.dataset_name,
            dataset_version=message.dataset_version,
            output_uri=message.output_uri_prefix,
            progress=BatchProgress(
                images_done=done.images_done,
                images_failed=done.images_failed,
                images_total=done.images_total,
                fraction=done.fraction,
            ),
            files=tuple(
                ResultFile(file_name=one.file_name, uri=one.uri, size_bytes=one.size_bytes, sha256=one.sha256)
                for one in message.result_files
            ),
            cost=span(message.cost),
            error=failure(message),
            create_time=moment(message.create_time),
            start_time=moment(message.start_time),
            end_time=moment(message.end_time),
            message=message,
            owner=owner,
        )


class BatchPrediction(BatchPredictionData):
    """A batch prediction that a `Client` returned."""

    __slots__ = ()

    def wait(self) -> "BatchPrediction":
        """Waits until it has ended and returns it; raises the error of one that ends as FAILED."""
        waited: BatchPrediction = self.owner.wait(self)
        return waited

    def download(self, folder: str | Path) -> tuple[Path, ...]:
        """Writes its result files to a folder; returns their paths."""
        written: tuple[Path, ...] = self.owner.download(self, folder)
        return written


class AsyncBatchPrediction(BatchPredictionData):
    """A batch prediction that an `AsyncClient` returned."""

    __slots__ = ()

    async def wait(self) -> "AsyncBatchPrediction":
        """Waits until it has ended and returns it; raises the error of one that ends as FAILED."""
        waited: AsyncBatchPrediction = await self.owner.wait(self)
        return waited

    async def download(self, folder: str | Path) -> tuple[Path, ...]:
        """Writes its result files to a folder; returns their paths."""
        written: tuple[Path, ...] = await self.owner.download(self, folder)
        return written
