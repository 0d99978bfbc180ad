"""The trainer and the dataset service as the predictor sees them, over gRPC."""

from dataclasses import replace
from typing import TYPE_CHECKING

from services.kit import names
from services.kit.blobs import from_uri
from services.kit.callers import acting_project
from services.kit.errors import DatasetNotFound, DatasetNotReady, ModelNotFound, SightlineError, Unavailable
from services.kit.paging import MAX_PAGE_SIZE
from services.predictor.batch.datasets import Dataset
from services.predictor.domain import ModelInfo, ModelState
from services.vision.card import ModelKind
from sightline.client.transport.connection import PROJECT
from sightline.v1 import dataset_pb2, model_pb2
from sightline.v1 import dataset_service_pb2 as dataset_service
from sightline.v1 import model_service_pb2 as pb

if TYPE_CHECKING:
    from sightline.v1.dataset_service_pb2_grpc import DatasetServiceAsyncStub
    from sightline.v1.model_service_pb2_grpc import ModelServiceAsyncStub  # exists for type checkers only

_KINDS = {model_pb2.TrainingParameters.GENERIC_DETECTOR: ModelKind.GENERIC_DETECTOR}

TIMEOUT_SECONDS = 2.0  # an occasional prediction waits for this call


class TrainerModels:
    """The `Models` port, backed by the trainer's ModelService; the channel turns statuses into our errors."""

    def __init__(self, stub: "ModelServiceAsyncStub") -> None:
        self._stub = stub

    async def get(self, name: str) -> ModelInfo:
        try:
            model = await self._stub.GetModel(pb.GetModelRequest(name=name), timeout=TIMEOUT_SECONDS)
        except (ModelNotFound, Unavailable):
            raise
        except SightlineError as error:  # timed out or failed: either way there is no answer
            raise Unavailable(what="The trainer", problem=error.message) from error
        return model_from(model)

    async def list(self) -> list[ModelInfo]:
        project, request, found = acting_project(), pb.ListModelsRequest(page_size=MAX_PAGE_SIZE), list[ModelInfo]()
        while True:
            page = await self._stub.ListModels(request, timeout=TIMEOUT_SECONDS, metadata=((PROJECT, project),))
            # The answer has names as the project sees them.
            found += [replace(model, name=names.root(project) + model.name) for model in map(model_from, page.models)]
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token


def model_from(message: model_pb2.Model) -> ModelInfo:
    """The model in the trainer's message; Unavailable if this version does not know its state."""
    try:
        state = ModelState(model_pb2.Model.State.Name(message.state))
    except ValueError as error:
        raise Unavailable(
            what="The trainer", problem=f"it reports an unknown state of {message.name}: {error}"
        ) from error
    seal = message.bundle_digest, message.bundle_signature
    kind = _KINDS.get(message.training_parameters.model_kind, ModelKind.GENERIC_CLASSIFIER)
    cost = message.prediction_cost.ToTimedelta()
    return ModelInfo(message.name, state, message.model_version, message.bundle_uri, *seal, kind, cost)


class DatasetsClient:
    """The `Datasets` port of batch predictions, backed by the DatasetService."""

    def __init__(self, stub: "DatasetServiceAsyncStub", bucket: str) -> None:
        self._stub = stub
        self._bucket = bucket

    async def get(self, name: str) -> Dataset:
        found = await self._found(name)
        if found.state != dataset_pb2.Dataset.READY:
            raise _not_ready(found)
        return Dataset(name, found.version, from_uri(found.snapshot_uri, self._bucket), found.stats.image_count)

    async def revision(self, name: str) -> int:
        found = await self._found(name)
        if found.state == dataset_pb2.Dataset.DELETING:
            raise _not_ready(found)
        return int(found.etag or 0)

    async def _found(self, name: str) -> dataset_pb2.Dataset:
        try:
            return await self._stub.GetDataset(dataset_service.GetDatasetRequest(name=name), timeout=TIMEOUT_SECONDS)
        except (DatasetNotFound, Unavailable):
            raise
        except SightlineError as error:
            raise Unavailable(what="The dataset service", problem=error.message) from error


def _not_ready(found: dataset_pb2.Dataset) -> DatasetNotReady:
    return DatasetNotReady(name=found.name, state=dataset_pb2.Dataset.State.Name(found.state))
