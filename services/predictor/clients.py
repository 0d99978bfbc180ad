"""The trainer as the predictor sees it, over gRPC."""

from typing import TYPE_CHECKING

from services.kit.errors import ModelNotFound, SightlineError, Unavailable
from services.predictor.domain import ModelInfo, ModelState
from sightline.v1 import model_pb2
from sightline.v1 import model_service_pb2 as pb

if TYPE_CHECKING:
    from sightline.v1.model_service_pb2_grpc import ModelServiceAsyncStub  # exists for type checkers only

TIMEOUT_SECONDS = 2.0  # a prediction waits for it, once in a while


class TrainerModels:
    """The port `Models` by the trainer's ModelService; the channel has turned statuses into errors of our tree."""

    def __init__(self, stub: "ModelServiceAsyncStub") -> None:
        self._stub = stub

    async def get(self, name: str) -> ModelInfo:
        try:
            model = await self._stub.GetModel(pb.GetModelRequest(name=name), timeout=TIMEOUT_SECONDS)
        except (ModelNotFound, Unavailable):
            raise
        except SightlineError as fault:  # too late, or an error of its own: either way it cannot say
            raise Unavailable(what="The trainer", problem=fault.message) from fault
        return model_from(model)


def model_from(message: model_pb2.Model) -> ModelInfo:
    """What the trainer says of a model; Unavailable for a state that this version does not know."""
    try:
        state = ModelState(model_pb2.Model.State.Name(message.state))
    except ValueError as fault:
        raise Unavailable(
            what="The trainer", problem=f"what it says of {message.name} is not known: {fault}"
        ) from fault
    return ModelInfo(message.name, state, message.model_version, message.bundle_uri)
