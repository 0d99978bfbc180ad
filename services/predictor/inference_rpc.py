"""The servicer of the Open Inference Protocol: the same use cases as PredictionService's."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from importlib.metadata import version
from typing import Any, cast

from grpc import aio

from services.kit.answering import answered
from services.kit.clock import Clock
from services.kit.errors import InvalidRequest, ModelNotFound, ModelNotReady, ModelVersionNotFound, SightlineError
from services.predictor import inference_wire as wire
from services.predictor.app import MOST_OF_A_CALL, Predictor
from services.predictor.domain import ImageQuery
from services.predictor.inference_tensors import check_outputs
from services.predictor.results import Analysis
from sightline.inference import open_inference_pb2 as pb
from sightline.inference.open_inference_pb2_grpc import GRPCInferenceServiceServicer

Context = aio.ServicerContext[Any, Any]
Ready = Callable[[], Awaitable[bool]]
Analyze = Callable[[Sequence[ImageQuery], float | None], Awaitable[list[Analysis]]]


class InferenceServicer(GRPCInferenceServiceServicer):
    """Errors propagate; `infra.server` turns them into statuses."""

    def __init__(self, predictor: Predictor, clock: Clock, ready: Ready | None = None) -> None:
        """`ready` says when the replica takes calls; None: always."""
        self._predictor = predictor
        self._clock = clock
        self._ready = ready
        # Requests of streams in work; their images have places of their own.
        self._streamed = asyncio.Semaphore(2 * MOST_OF_A_CALL)

    async def ServerLive(self, request: pb.ServerLiveRequest, context: Context) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: pb.ServerReadyRequest, context: Context) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self._ready is None or await self._ready())

    async def ModelReady(self, request: pb.ModelReadyRequest, context: Context) -> pb.ModelReadyResponse:
        name = wire.model_name(request.name, "name")
        try:
            (await self._predictor.model(name)).bundle(request.version)
        except (ModelNotFound, ModelVersionNotFound, ModelNotReady):
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=True)

    async def ServerMetadata(self, request: pb.ServerMetadataRequest, context: Context) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(
            name="sightline", version=version("sightline"), extensions=["model_repository"]
        )

    async def ModelMetadata(self, request: pb.ModelMetadataRequest, context: Context) -> pb.ModelMetadataResponse:
        model = await self._predictor.model(wire.model_name(request.name, "name"))
        model.bundle(request.version)
        return wire.metadata_to(request.name, model)

    async def ModelInfer(self, request: pb.ModelInferRequest, context: Context) -> pb.ModelInferResponse:
        return await self._answer(request, self._deadline(context), self._predictor.analyze_batch)

    async def ModelStreamInfer(
        self, request_iterator: AsyncIterator[pb.ModelInferRequest], context: Context
    ) -> AsyncIterator[pb.ModelStreamInferResponse]:
        deadline, analyze = self._deadline(context), self._predictor.analyze_streamed_batch

        async def answer(request: pb.ModelInferRequest) -> pb.ModelStreamInferResponse:
            try:
                return pb.ModelStreamInferResponse(infer_response=await self._answer(request, deadline, analyze))
            except SightlineError as error:
                named = pb.ModelInferResponse(model_name=request.model_name, id=request.id)
                return pb.ModelStreamInferResponse(error_message=error.message, infer_response=named)

        stream = answered(request_iterator, answer, most=MOST_OF_A_CALL, places=self._streamed, in_order=True)
        async with aclosing(stream) as responses:
            async for response in responses:
                yield response

    async def RepositoryIndex(self, request: pb.RepositoryIndexRequest, context: Context) -> pb.RepositoryIndexResponse:
        wire.check_repository(request.repository_name)
        return wire.index_to(await self._predictor.list_models(), ready=request.ready)

    async def RepositoryModelLoad(
        self, request: pb.RepositoryModelLoadRequest, context: Context
    ) -> pb.RepositoryModelLoadResponse:
        wire.check_repository(request.repository_name)
        if request.parameters:
            raise InvalidRequest(field="parameters", problem="none are known; leave them out")
        await self._predictor.load_model(wire.model_name(request.model_name, "model_name"))
        return pb.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(
        self, request: pb.RepositoryModelUnloadRequest, context: Context
    ) -> pb.RepositoryModelUnloadResponse:
        wire.check_repository(request.repository_name)
        self._predictor.unload_model(wire.model_name(request.model_name, "model_name"))
        return pb.RepositoryModelUnloadResponse()

    async def _answer(
        self, request: pb.ModelInferRequest, deadline: float | None, analyze: Analyze
    ) -> pb.ModelInferResponse:
        parameters = wire.parameters_of(request)
        queries = wire.queries_of(request, parameters)
        check_outputs(request, (await self._predictor.model(queries[0].model_name)).kind)
        if parameters.timeout_seconds:
            end = self._clock.monotonic() + parameters.timeout_seconds
            deadline = end if deadline is None else min(deadline, end)
        return wire.answer_to(request, await analyze(queries, deadline))

    def _deadline(self, context: Context) -> float | None:
        """The call's, by the monotonic clock; None if it has none."""
        remaining = cast(float | None, context.time_remaining())
        return None if remaining is None else self._clock.monotonic() + remaining
