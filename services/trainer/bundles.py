"""Bundles of other models that a request refers to: what an evaluation measures and what a training continues."""

from msgspec.structs import replace

from services.kit.blobs import Blobs
from services.kit.errors import BlobNotFound, InvalidRequest, ModelNotFound, ModelNotReady
from services.trainer.base_model import base_model
from services.trainer.domain import Model, Served
from services.trainer.store import Store
from services.vision.card import CARD_FILE, read_card


def require_served(model: Model) -> Served:
    """The bundle that the model predicts with; ModelNotReady."""
    if model.served is None:
        remedy = "train another model" if model.ended else "wait until its training has a first result"
        raise ModelNotReady(name=model.name, state=model.state, remedy=remedy)
    return model.served


async def with_base(model: Model, store: Store, blobs: Blobs, field: str) -> Model:
    """The model with what the present version of its base model brings, if it has one; `field` names the request's.

    ModelNotFound, ModelNotReady if that has no bundle, InvalidRequest if it is of another kind.
    """
    if not model.base_model:
        return model
    base = (await store.models.get(model.base_model)).value
    if base.model_kind is not model.model_kind:
        problem = f"{base.name} is a {base.model_kind}; a {model.model_kind} continues one of its own kind."
        raise InvalidRequest(field=field, problem=problem)
    served = require_served(base)
    try:
        card = read_card(await blobs.get(f"{served.bundle_key}{CARD_FILE}"))
    except BlobNotFound:
        raise ModelNotFound(name=base.name) from None  # it is being deleted
    return replace(model, base=base_model(base.name, served.version, served.bundle_key, card))
