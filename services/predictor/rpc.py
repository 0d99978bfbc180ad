"""The servicer of PredictionService: translates messages to use cases and back."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from functools import partial
from typing import Any, cast

from google.protobuf.empty_pb2 import Empty
from grpc import aio

from services.kit import names, paging
from services.kit.answering import answered
from services.kit.clock import Clock
from services.kit.errors import InvalidRequest, SightlineError
from services.kit.status import status_of
from services.predictor import wire
from services.predictor.app import MOST_OF_A_CALL, Predictor
from services.predictor.batch.rpc import BatchServicer
from services.predictor.batch.service import OFF, Batches
from sightline.v1 import prediction_pb2
from sightline.v1 import prediction_service_pb2 as pb

Context = aio.ServicerContext[Any, Any]

MAX_IMAGE_ID = 128


class PredictionServicer(BatchServicer):
    """Errors propagate; `infra.server` turns them into statuses."""

    def __init__(self, predictor: Predictor, clock: Clock, batches: Batches = OFF) -> None:
        super().__init__(batches)
        self._predictor = predictor
        self._clock = clock

    async def AnalyzeImage(
        self, request: pb.AnalyzeImageRequest, context: Context
    ) -> prediction_pb2.AnalyzeImageResponse:
        query = wire.query_from(request)
        return wire.analysis_to(await self._predictor.analyze_image(query, self._deadline(context)))

    async def AnalyzeImages(
        self, request_iterator: AsyncIterator[pb.AnalyzeImagesRequest], context: Context
    ) -> AsyncIterator[pb.AnalyzeImagesResponse]:
        answer = partial(self._answer, deadline=self._deadline(context))
        places = self._predictor.streamed
        async with aclosing(answered(request_iterator, answer, most=MOST_OF_A_CALL, places=places)) as responses:
            async for response in responses:
                yield response

    async def _answer(self, request: pb.AnalyzeImagesRequest, deadline: float | None) -> pb.AnalyzeImagesResponse:
        """The result for one image of a stream, or its error."""
        response = pb.AnalyzeImagesResponse(id=request.id[:MAX_IMAGE_ID])
        try:
            if not 0 < len(request.id) <= MAX_IMAGE_ID:
                raise InvalidRequest(field="id", problem=f"it must have 1 to {MAX_IMAGE_ID} characters")
            query = wire.query_from(request.request)
            response.response.CopyFrom(wire.analysis_to(await self._predictor.analyze_streamed(query, deadline)))
        except SightlineError as error:
            response.error.CopyFrom(status_of(error))
        return response

    def _deadline(self, context: Context) -> float | None:
        """The call's, by the monotonic clock; None if it has none."""
        remaining = cast(float | None, context.time_remaining())
        return None if remaining is None else self._clock.monotonic() + remaining

    async def LoadModel(self, request: pb.LoadModelRequest, context: Context) -> prediction_pb2.LoadedModel:
        return wire.loaded_model_to(await self._predictor.load_model(request.model_name))

    async def UnloadModel(self, request: pb.UnloadModelRequest, context: Context) -> Empty:
        self._predictor.unload_model(request.model_name)
        return Empty()

    async def ListLoadedModels(
        self, request: pb.ListLoadedModelsRequest, context: Context
    ) -> pb.ListLoadedModelsResponse:
        models = self._predictor.list_loaded_models()
        chosen, token = paging.page(models, names.own("loadedModels"), request.page_size, request.page_token)
        return pb.ListLoadedModelsResponse(
            loaded_models=[wire.loaded_model_to(model) for model in chosen], next_page_token=token
        )

    async def SuggestImages(
        self, request: pb.SuggestImagesRequest, context: Context
    ) -> AsyncIterator[pb.SuggestImagesResponse]:
        async with aclosing(self._predictor.suggest_images(request.model_name, request.max_images)) as suggested:
            async for kept, image in suggested:
                yield wire.suggestion_to(kept, image)

    async def ExplainImage(self, request: pb.ExplainImageRequest, context: Context) -> pb.ExplainImageResponse:
        query = wire.explained_image(request)
        return wire.explanation_to(await self._predictor.explain_image(query, request.tag, self._deadline(context)))
