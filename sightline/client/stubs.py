"""The stubs of the three services, and file uploads."""

import secrets
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from types import TracebackType
from typing import Self

import grpc

from sightline.client.transport.addresses import Addresses
from sightline.client.transport.connection import open_channel
from sightline.client.transport.credentials import Credentials
from sightline.client.transport.retries import Backoff, follow
from sightline.client.uploads import Counter, LocalFile, batches, messages
from sightline.v1 import dataset_pb2, model_pb2
from sightline.v1 import dataset_service_pb2 as dataset_service
from sightline.v1 import model_service_pb2 as model_service
from sightline.v1.audit_service_pb2_grpc import AuditServiceStub
from sightline.v1.dataset_service_pb2_grpc import DatasetServiceStub
from sightline.v1.evaluation_service_pb2_grpc import EvaluationServiceStub
from sightline.v1.model_alias_service_pb2_grpc import ModelAliasServiceStub
from sightline.v1.model_service_pb2_grpc import ModelServiceStub
from sightline.v1.prediction_service_pb2_grpc import PredictionServiceStub
from sightline.v1.project_service_pb2_grpc import ProjectServiceStub

UPLOAD_SECONDS = 600.0  # for one batch of files
WATCH_SECONDS = 3600.0  # then the stream is reopened


class Stubs:
    """The stubs; each service is connected on first use.

    Calls raise `grpc.RpcError`, whose details are a `google.rpc.Status` with one `ErrorInfo`. The first use of a
    service raises CredentialsError if the credentials are unusable, or a token would be sent in plain text.
    """

    def __init__(self, addresses: Addresses | None = None, credentials: Credentials | None = None) -> None:
        self.addresses = addresses or Addresses.from_environment()
        self.credentials = credentials or Credentials.from_environment()
        self._closers: list[Callable[[], None]] = []

    @cached_property
    def _dataset(self) -> grpc.Channel:
        return self._open(self.addresses.dataset)

    @cached_property
    def datasets(self) -> DatasetServiceStub:
        """The dataset service."""
        return DatasetServiceStub(self._dataset)

    @cached_property
    def audit(self) -> AuditServiceStub:
        """The audit, of the dataset service."""
        return AuditServiceStub(self._dataset)

    @cached_property
    def _trainer(self) -> grpc.Channel:
        return self._open(self.addresses.trainer)

    @cached_property
    def models(self) -> ModelServiceStub:
        """Training and models, of the trainer."""
        return ModelServiceStub(self._trainer)

    @cached_property
    def aliases(self) -> ModelAliasServiceStub:
        """Aliases of models, of the trainer."""
        return ModelAliasServiceStub(self._trainer)

    @cached_property
    def evaluations(self) -> EvaluationServiceStub:
        """Evaluations, of the trainer."""
        return EvaluationServiceStub(self._trainer)

    @cached_property
    def projects(self) -> ProjectServiceStub:
        """Projects, of the trainer."""
        return ProjectServiceStub(self._trainer)

    @cached_property
    def predictions(self) -> PredictionServiceStub:
        """The predictor."""
        return PredictionServiceStub(self._open(self.addresses.predictor))

    def open_upload(self, upload_id: str = "") -> dataset_service.UploadFilesResponse:
        """Begins or continues an upload: its id, and the most bytes that an image may have."""
        return self._upload(upload_id or secrets.token_hex(8), [], lambda _: None)

    def upload_files(
        self, files: Iterable[LocalFile], sent: Callable[[int], None] = lambda _: None, upload_id: str = ""
    ) -> dict[str, str]:
        """Uploads the files, the largest first, and returns the uri of each by its path.

        `sent` receives the number of bytes sent, and a negative number when a batch is repeated because the service
        was away. The files are added to the upload of this id, if one is given.
        """
        upload_id = upload_id or secrets.token_hex(8)
        uris: dict[str, str] = {}
        for batch in batches(files):
            response = self._upload(upload_id, batch, sent)
            uris |= {file.path: file.uri for file in response.files}
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

    def close(self) -> None:
        """Closes the connections."""
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
        """Uploads one batch, repeatedly while the service is away: files that it has already are skipped."""
        backoff = Backoff()
        backoff.succeeded()  # the token may expire while files are sent: then once more, with the current one
        while True:
            counter = Counter(sent)
            try:
                return self.datasets.UploadFiles(messages(upload_id, batch, counter.count), timeout=UPLOAD_SECONDS)
            except grpc.RpcError as error:
                backoff.wait(error)
                counter.take_back()
