"""The rpcs of batch predictions: translate messages to use cases and back."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from google.protobuf.empty_pb2 import Empty

from services.predictor.batch.service import Batches
from services.predictor.batch.wire import batch_message, new_batch
from sightline.v1 import batch_prediction_pb2 as batch_pb
from sightline.v1 import prediction_service_pb2 as pb
from sightline.v1.prediction_service_pb2_grpc import PredictionServiceServicer

Context = Any  # grpc.aio's context, unused here


class BatchServicer(PredictionServiceServicer):
    """A part of the servicer of PredictionService."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches

    async def CreateBatchPrediction(
        self, request: pb.CreateBatchPredictionRequest, context: Context
    ) -> batch_pb.BatchPrediction:
        batches = self._batches.get()
        made = await batches.create(new_batch(request), validate_only=request.validate_only)
        return batch_message(made, batches.blobs.bucket)

    async def GetBatchPrediction(
        self, request: pb.GetBatchPredictionRequest, context: Context
    ) -> batch_pb.BatchPrediction:
        batches = self._batches.get()
        return batch_message(await batches.get(request.name), batches.blobs.bucket)

    async def ListBatchPredictions(
        self, request: pb.ListBatchPredictionsRequest, context: Context
    ) -> pb.ListBatchPredictionsResponse:
        batches = self._batches.get()
        found, token = batches.page(request.page_size, request.page_token)
        messages = [batch_message(one, batches.blobs.bucket) for one in found]
        return pb.ListBatchPredictionsResponse(batch_predictions=messages, next_page_token=token)

    async def CancelBatchPrediction(
        self, request: pb.CancelBatchPredictionRequest, context: Context
    ) -> batch_pb.BatchPrediction:
        batches = self._batches.get()
        return batch_message(await batches.cancel(request.name), batches.blobs.bucket)

    async def DeleteBatchPrediction(self, request: pb.DeleteBatchPredictionRequest, context: Context) -> Empty:
        await self._batches.get().delete(request.name, request.etag, force=request.force)
        return Empty()

    async def WatchBatchPrediction(
        self, request: pb.WatchBatchPredictionRequest, context: Context
    ) -> AsyncIterator[pb.WatchBatchPredictionResponse]:
        batches = self._batches.get()
        async for found in batches.watch(request.name):
            yield pb.WatchBatchPredictionResponse(batch_prediction=batch_message(found, batches.blobs.bucket))

    async def ReadBatchPredictionFile(
        self, request: pb.ReadBatchPredictionFileRequest, context: Context
    ) -> AsyncIterator[pb.ReadBatchPredictionFileResponse]:
        pieces = self._batches.get().read_file(request.name, request.file_name, request.offset)
        async with aclosing(pieces):
            async for piece in pieces:
                yield pb.ReadBatchPredictionFileResponse(chunk=piece)
