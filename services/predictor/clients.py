"""The trainer as the predictor sees it, over gRPC."""

from typing import TYPE_CHECKING

from services.kit.errors import ModelNotFound, SightlineError, Unavailable
from services.predictor.domain import ModelInfo, ModelState
from sightline.v1 import model_pb2
from sightline.v1 import model_service_pb2 as pb

if TYPE_CHECKING:
    from sightline.v1.model_service_pb2_grpc import ModelServiceAsyncStub  # exists for type checkers only

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


def model_from(message: model_pb2.Model) -> ModelInfo:
    """The model in the trainer's message; Unavailable if this version does not know its state."""
    try:
        state = ModelState(model_pb2.Model.State.Name(message.state))
    except ValueError as error:
        raise Unavailable(
            what="The trainer", problem=f"it reports an unknown state of {message.name}: {error}"
        ) from error
    seal = message.bundle_digest, message.bundle_signature
    return ModelInfo(message.name, state, message.model_version, message.bundle_uri, *seal)
