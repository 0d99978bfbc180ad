"""The asyncio version of `sightline.client.stubs`."""

import asyncio
import secrets
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from contextlib import AsyncExitStack
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Self

import grpc

from sightline.client.stubs import UPLOAD_SECONDS
from sightline.client.transport.addresses import Addresses
from sightline.client.transport.connection_aio import open_channel
from sightline.client.transport.credentials import Credentials
from sightline.client.transport.retries import Backoff
from sightline.client.uploads import Counter, LocalFile, batches, messages
from sightline.v1 import dataset_service_pb2 as dataset_service
from sightline.v1.audit_service_pb2_grpc import AuditServiceStub
from sightline.v1.dataset_service_pb2_grpc import DatasetServiceStub
from sightline.v1.evaluation_service_pb2_grpc import EvaluationServiceStub
from sightline.v1.model_alias_service_pb2_grpc import ModelAliasServiceStub
from sightline.v1.model_service_pb2_grpc import ModelServiceStub
from sightline.v1.prediction_service_pb2_grpc import PredictionServiceStub
from sightline.v1.project_service_pb2_grpc import ProjectServiceStub

if TYPE_CHECKING:
    from sightline.v1.audit_service_pb2_grpc import AuditServiceAsyncStub
    from sightline.v1.dataset_service_pb2_grpc import DatasetServiceAsyncStub
    from sightline.v1.evaluation_service_pb2_grpc import EvaluationServiceAsyncStub
    from sightline.v1.model_alias_service_pb2_grpc import ModelAliasServiceAsyncStub
    from sightline.v1.model_service_pb2_grpc import ModelServiceAsyncStub
    from sightline.v1.prediction_service_pb2_grpc import PredictionServiceAsyncStub
    from sightline.v1.project_service_pb2_grpc import ProjectServiceAsyncStub


class AsyncStubs:
    """The stubs, for one event loop; each service is connected on first use.

    Calls raise `grpc.aio.AioRpcError`, or CredentialsError as with `Stubs`.
    """

    def __init__(self, addresses: Addresses | None = None, credentials: Credentials | None = None) -> None:
        self.addresses = addresses or Addresses.from_environment()
        self.credentials = credentials or Credentials.from_environment()
        self._channels: list[grpc.aio.Channel] = []

    @cached_property
    def _dataset(self) -> grpc.aio.Channel:
        return self._open(self.addresses.dataset)

    @cached_property
    def datasets(self) -> "DatasetServiceAsyncStub":
        """The dataset service."""
        return DatasetServiceStub(self._dataset)

    @cached_property
    def audit(self) -> "AuditServiceAsyncStub":
        """The audit, of the dataset service."""
        return AuditServiceStub(self._dataset)

    @cached_property
    def _trainer(self) -> grpc.aio.Channel:
        return self._open(self.addresses.trainer)

    @cached_property
    def models(self) -> "ModelServiceAsyncStub":
        """Training and models, of the trainer."""
        return ModelServiceStub(self._trainer)

    @cached_property
    def aliases(self) -> "ModelAliasServiceAsyncStub":
        """Aliases of models, of the trainer."""
        return ModelAliasServiceStub(self._trainer)

    @cached_property
    def evaluations(self) -> "EvaluationServiceAsyncStub":
        """Evaluations, of the trainer."""
        return EvaluationServiceStub(self._trainer)

    @cached_property
    def projects(self) -> "ProjectServiceAsyncStub":
        """Projects, of the trainer."""
        return ProjectServiceStub(self._trainer)

    @cached_property
    def predictions(self) -> "PredictionServiceAsyncStub":
        """The predictor."""
        return PredictionServiceStub(self._open(self.addresses.predictor))

    async def open_upload(self, upload_id: str = "") -> dataset_service.UploadFilesResponse:
        """As `Stubs.open_upload`."""
        return await self._upload(upload_id or secrets.token_hex(8), [], lambda _: None)

    async def upload_files(
        self, files: Iterable[LocalFile], sent: Callable[[int], None] = lambda _: None, upload_id: str = ""
    ) -> dict[str, str]:
        """As `Stubs.upload_files`."""
        upload_id = upload_id or secrets.token_hex(8)
        uris: dict[str, str] = {}
        for batch in batches(files):
            response = await self._upload(upload_id, batch, sent)
            uris |= {file.path: file.uri for file in response.files}
        return uris

    async def close(self) -> None:
        """Closes the connections."""
        async with AsyncExitStack() as leaving:
            for channel in self._channels:
                leaving.push_async_exit(channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()

    def _open(self, address: str) -> grpc.aio.Channel:
        channel = open_channel(address, self.credentials)
        self._channels.append(channel)
        return channel

    async def _upload(
        self, upload_id: str, batch: list[LocalFile], sent: Callable[[int], None]
    ) -> dataset_service.UploadFilesResponse:
        """As `Stubs._upload`; files are read in threads."""
        backoff = Backoff()
        backoff.succeeded()  # the token may expire while files are sent: then once more, with the current one
        while True:
            counter = Counter(sent)
            stream = _in_thread(messages(upload_id, batch, counter.count))
            try:
                return await self.datasets.UploadFiles(stream, timeout=UPLOAD_SECONDS)
            except grpc.aio.AioRpcError as error:
                await backoff.wait_async(error)
                counter.take_back()


async def _in_thread(
    items: Iterator[dataset_service.UploadFilesRequest],
) -> AsyncGenerator[dataset_service.UploadFilesRequest]:
    """The items, each produced in a thread."""
    while (item := await asyncio.to_thread(next, items, None)) is not None:
        yield item
