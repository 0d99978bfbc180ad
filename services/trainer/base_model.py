"""The earlier model that a training continues: what is known of its bundle, and which networks it brings. No torch."""

from dataclasses import dataclass

from services.vision.card import CardBackbone, ModelCard, ModelKind, WeightsSource, input_size
from services.vision.catalogue import NETWORKS


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseModel:
    """One version of a model, as it was when the training that continues it was created."""

    name: str  # models/{model}
    version: str
    bundle_key: str  # prefix, ending in "/"; of the model itself, which may be deleted
    bundle_digest: str = ""  # empty of earlier versions
    bundle_signature: str = ""  # of the base model; empty without a signing key
    networks: tuple[str, ...]  # that it brings, fine-tuned ones first
    resolution: int | None = None  # of its fine-tuned network, if that is not the usual one


def base_model(
    name: str, version: str, bundle_key: str, card: ModelCard, bundle_digest: str = "", bundle_signature: str = ""
) -> BaseModel:
    """What the card tells."""
    brought = sorted(brought_backbones(card).items(), key=lambda item: not item[1].tuned)
    resolution = None
    if card.kind is ModelKind.GENERIC_CLASSIFIER and brought and brought[0][1].tuned:
        network, size = brought[0][0], brought[0][1].rule.size
        usual = input_size(True, NETWORKS[card.kind][network].rule.size, ())
        resolution = size if size != usual else None
    networks = tuple(network for network, _ in brought)
    return BaseModel(
        name=name,
        version=version,
        bundle_key=bundle_key,
        bundle_digest=bundle_digest,
        bundle_signature=bundle_signature,
        networks=networks,
        resolution=resolution,
    )


def brought_backbones(card: ModelCard) -> dict[str, CardBackbone]:
    """The trained backbones by network; of several of a network, the one tuned last."""
    brought: dict[str, CardBackbone] = {}
    for backbone in card.backbones:
        trained = backbone.tuned or backbone.weights_source is not WeightsSource.RANDOM
        known = backbone.name in NETWORKS[card.kind] and backbone.shares is None and trained
        present = brought.get(backbone.name)
        if known and (present is None or (backbone.tuned and not present.tuned)):
            brought[backbone.name] = backbone
    return brought
