"""The services as one request reaches them: with its caller's token, project and request id."""

import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import grpc

from services.kit import tracing

if TYPE_CHECKING:
    from grpc.aio import StreamUnaryMultiCallable, UnaryStreamMultiCallable, UnaryUnaryMultiCallable

    from sightline.v1.audit_service_pb2_grpc import AuditServiceAsyncStub
    from sightline.v1.dataset_service_pb2_grpc import DatasetServiceAsyncStub
    from sightline.v1.evaluation_service_pb2_grpc import EvaluationServiceAsyncStub
    from sightline.v1.model_alias_service_pb2_grpc import ModelAliasServiceAsyncStub
    from sightline.v1.model_service_pb2_grpc import ModelServiceAsyncStub
    from sightline.v1.prediction_service_pb2_grpc import PredictionServiceAsyncStub
    from sightline.v1.project_service_pb2_grpc import ProjectServiceAsyncStub

Q = TypeVar("Q")
A = TypeVar("A")
Metadata = tuple[tuple[str, str], ...]
UPLOAD_SECONDS = 600.0
REQUEST_ID = "x-request-id"


@dataclass(frozen=True, slots=True)
class Services:
    """The stubs of the services; calls raise `grpc.aio.AioRpcError`."""

    datasets: "DatasetServiceAsyncStub"
    models: "ModelServiceAsyncStub"
    aliases: "ModelAliasServiceAsyncStub"
    evaluations: "EvaluationServiceAsyncStub"
    predictions: "PredictionServiceAsyncStub"
    projects: "ProjectServiceAsyncStub"
    audit: "AuditServiceAsyncStub"


@contextmanager
def if_found() -> Generator[None]:
    """Ends its block where a service says NOT_FOUND; every other error is raised."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.NOT_FOUND:
            raise


async def _unbounded(size: int) -> None:
    """There is room for everything."""


@dataclass(frozen=True, slots=True)
class Session:
    """The services for one request."""

    services: Services
    metadata: Metadata
    # Returns once the request may hold so many bytes of answers in memory, as it says before it gathers many.
    hold: Callable[[int], Awaitable[None]] = _unbounded

    @property
    def caller(self) -> str:
        """Who asks, in as many characters however long the token is."""
        return hashlib.sha256(repr([pair for pair in self.metadata if pair[0] != REQUEST_ID]).encode()).hexdigest()

    @property
    def _sent(self) -> Metadata:
        """What goes with a call: also the request's trace, which says nothing about its caller."""
        return (*self.metadata, *tracing.current().headers)

    async def call(self, method: "UnaryUnaryMultiCallable[Q, A]", request: Q, seconds: float | None = None) -> A:
        """The answer of an rpc, which has so much time; by default as much as any rpc of the client."""
        return await method(request, metadata=self._sent, timeout=seconds)

    async def stream(self, method: "UnaryStreamMultiCallable[Q, A]", request: Q) -> AsyncGenerator[A]:
        """The answers of an rpc that streams them; close it when done."""
        call = method(request, metadata=self._sent)
        try:
            async for answer in call:
                yield answer
        finally:
            call.cancel()

    async def send(self, method: "StreamUnaryMultiCallable[Q, A]", requests: AsyncIterator[Q]) -> A:
        """The answer of an rpc that takes a stream."""
        return await method(requests, metadata=self._sent, timeout=UPLOAD_SECONDS)
