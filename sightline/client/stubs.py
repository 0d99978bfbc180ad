"""The stubs of the three services, and what every caller of them needs."""

import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

import grpc

from sightline.client.addresses import Addresses
from sightline.client.channel import streaming
from sightline.client.connection import open_channel
from sightline.client.credentials import Credentials
from sightline.client.uploads import LocalFile, batches, messages
from sightline.v1 import dataset_pb2, evaluation_pb2, model_pb2
from sightline.v1 import dataset_service_pb2 as dataset_service
from sightline.v1 import evaluation_service_pb2 as evaluation_service
from sightline.v1 import model_service_pb2 as model_service
from sightline.v1.dataset_service_pb2_grpc import DatasetServiceStub
from sightline.v1.evaluation_service_pb2_grpc import EvaluationServiceStub
from sightline.v1.model_service_pb2_grpc import ModelServiceStub
from sightline.v1.prediction_service_pb2_grpc import PredictionServiceStub

UPLOAD_SECONDS = 600.0  # for one batch of files
WATCH_SECONDS = 3600.0  # then the stream is opened again
PATIENCE_SECONDS = 60.0  # how long a service may be away before a wait gives up
PAUSE_SECONDS = (0.2, 2.0)  # between two attempts: at first, at most
# What calls end with while a service goes and comes; CANCELLED is what gRPC's servers say in the moment of their end.
AWAY = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED}

M_co = TypeVar("M_co", covariant=True)


class Stubs:
    """The stubs, each service connected when it is first used.

    Calls raise `grpc.RpcError`; its details are a `google.rpc.Status` with one `ErrorInfo`. CredentialsError at the
    first use of a service says that the credentials cannot be used, or that a token would go in plain text.
    """

    def __init__(self, addresses: Addresses | None = None, credentials: Credentials | None = None) -> None:
        self.addresses = addresses or Addresses.from_environment()
        self.credentials = credentials or Credentials.from_environment()
        self._closers: list[Callable[[], None]] = []

    @cached_property
    def datasets(self) -> DatasetServiceStub:
        """The dataset service."""
        return DatasetServiceStub(self._open(self.addresses.dataset))

    @cached_property
    def _trainer(self) -> grpc.Channel:
        return self._open(self.addresses.trainer)

    @cached_property
    def models(self) -> ModelServiceStub:
        """Training and models, of the trainer."""
        return ModelServiceStub(self._trainer)

    @cached_property
    def evaluations(self) -> EvaluationServiceStub:
        """Evaluations, of the trainer."""
        return EvaluationServiceStub(self._trainer)

    @cached_property
    def predictions(self) -> PredictionServiceStub:
        """The predictor."""
        return PredictionServiceStub(self._open(self.addresses.predictor))

    def upload_files(self, files: Iterable[LocalFile], sent: Callable[[int], None] = lambda _: None) -> dict[str, str]:
        """Stores the files, the largest first, and returns the uri of each by its path.

        So a file that the service finds too large is refused before the others are sent.
        `sent` hears the bytes that go out; a negative number takes back those of a batch that is repeated because
        the service was away.
        """
        upload_id = secrets.token_hex(8)
        uris: dict[str, str] = {}
        for batch in batches(sorted(files, key=lambda file: file.file.stat().st_size, reverse=True)):
            answer = self._upload(upload_id, batch, sent)
            uris |= {file.path: file.uri for file in answer.files}
        return uris

    def watch_dataset(self, name: str) -> Iterator[dataset_pb2.Dataset]:
        """A dataset now and after each change, until it is READY or FAILED."""
        request = dataset_service.WatchDatasetRequest(name=name)
        for message in follow(lambda: self.datasets.WatchDataset(request, timeout=WATCH_SECONDS)):
            yield message.dataset

    def watch_model(self, name: str) -> Iterator[model_pb2.Model]:
        """A model now and after each change, until it is SUCCEEDED, FAILED or CANCELLED."""
        request = model_service.WatchModelRequest(name=name)
        for message in follow(lambda: self.models.WatchModel(request, timeout=WATCH_SECONDS)):
            yield message.model

    def watch_evaluation(self, name: str) -> Iterator[evaluation_pb2.Evaluation]:
        """An evaluation now and after each change, until it is SUCCEEDED or FAILED."""
        request = evaluation_service.WatchEvaluationRequest(name=name)
        for message in follow(lambda: self.evaluations.WatchEvaluation(request, timeout=WATCH_SECONDS)):
            yield message.evaluation

    def close(self) -> None:
        """Ends the connections."""
        for close in self._closers:
            close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _open(self, address: str) -> grpc.Channel:
        channel, close = open_channel(address, self.credentials)
        self._closers.append(close)
        return channel

    def _upload(
        self, upload_id: str, batch: list[LocalFile], sent: Callable[[int], None]
    ) -> dataset_service.UploadFilesResponse:
        """One batch, repeated while the service is away: files of equal paths are overwritten."""
        patience = Patience()
        while True:
            out = [0]

            def count(size_bytes: int, out: list[int] = out) -> None:
                out[0] += size_bytes
                sent(size_bytes)

            try:
                return self.datasets.UploadFiles(messages(upload_id, batch, count), timeout=UPLOAD_SECONDS)
            except grpc.RpcError as error:
                patience.bear(error)
                sent(-out[0])


class Page(Protocol):
    """A response of a List rpc."""

    next_page_token: str

    def MergeFrom(self, other: Any, /) -> None:  # noqa: N802 - protobuf's name
        """Appends the repeated fields of the other."""
        ...


class PageRequest(Protocol):
    """A request of a List rpc."""

    page_size: int
    page_token: str


Q = TypeVar("Q", bound=PageRequest)
P = TypeVar("P", bound=Page)


def every_page(call: Callable[[Q], P], request: Q) -> P:
    """The pages of a List rpc as one response, without a token."""
    request.page_size = request.page_size or 1000
    whole = call(request)
    while whole.next_page_token:
        request.page_token = whole.next_page_token
        page = call(request)
        whole.MergeFrom(page)
        whole.next_page_token = page.next_page_token
    return whole


class Stream(Protocol[M_co]):
    """The responses of a streaming call."""

    def __iter__(self) -> Iterator[M_co]:
        """The messages as they come."""
        ...

    def cancel(self) -> bool:
        """Ends the call."""
        ...


def follow(open_stream: Callable[[], Stream[M_co]], patience: "Patience | None" = None) -> Iterator[M_co]:
    """Every message of a Watch rpc until it ends with OK, which it does after the resource's final state.

    A stream that breaks because the service went away, or was open for as long as one may be, is opened again; a
    message may then come twice. Raises UNAVAILABLE once the service has been away for PATIENCE_SECONDS.
    """
    patience = patience or Patience()
    while True:
        try:
            with streaming(open_stream()) as messages:
                for message in messages:
                    patience.renew()
                    yield message
        except grpc.RpcError as error:
            patience.bear(error)
        else:
            return


class Patience:
    """Waits between attempts, a little longer each time, and gives up when nothing has worked for too long."""

    def __init__(
        self,
        limit_seconds: float = PATIENCE_SECONDS,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._limit_seconds, self._now, self._sleep = limit_seconds, now, sleep
        self.renew()

    def renew(self) -> None:
        """Something worked."""
        self._since: float | None = None
        self._pause_seconds = PAUSE_SECONDS[0]

    def bear(self, error: grpc.RpcError) -> None:
        """Returns after a pause if trying again may help; raises the error if not, or not for much longer."""
        if status_code(error) not in AWAY:
            raise error
        now = self._now()
        self._since = now if self._since is None else self._since
        if now - self._since > self._limit_seconds:
            raise error
        self._sleep(self._pause_seconds)
        self._pause_seconds = min(2 * self._pause_seconds, PAUSE_SECONDS[1])


def status_code(error: grpc.RpcError) -> grpc.StatusCode:
    """The code of a call that failed."""
    return error.code() if isinstance(error, grpc.Call) else grpc.StatusCode.UNKNOWN
