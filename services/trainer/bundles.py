"""Bundles in the store that a request refers to, checked against the model's record. No torch."""

from msgspec.structs import replace

from services.kit.blobs import Blobs
from services.kit.errors import BlobNotFound, BundleUnusable, InvalidRequest, ModelNotFound, ModelNotReady
from services.trainer.base_model import base_model
from services.trainer.domain import Model, Served
from services.trainer.store import Store
from services.vision.card import CARD_FILE, DIGESTS_FILE, ModelCard
from services.vision.sealing import BundleCorrupt, verified_card


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
    base = (await store.model(model.base_model)).value
    if base.model_kind is not model.model_kind:
        problem = f"{base.name} is a {base.model_kind}; a {model.model_kind} continues one of its own kind."
        raise InvalidRequest(field=field, problem=problem)
    served = require_served(base)
    try:
        card = await read_card(blobs, base.name, served)
    except BlobNotFound:
        raise ModelNotFound(name=base.name) from None  # it is being deleted
    seal = served.bundle_digest, served.bundle_signature
    return replace(model, base=base_model(base.name, served.version, served.bundle_key, card, *seal))


async def read_card(blobs: Blobs, model: str, served: Served) -> ModelCard:
    """The card of the bundle that a model serves; BlobNotFound, BundleUnusable."""
    card = await blobs.get(f"{served.bundle_key}{CARD_FILE}")
    digests = await blobs.get(f"{served.bundle_key}{DIGESTS_FILE}")
    try:
        return verified_card(card, digests, served.bundle_digest)
    except BundleCorrupt as fault:
        raise BundleUnusable(name=model, version=served.version, problem=fault) from fault
