"""Which files of pretrained weights a trial used, so that later trials of the model use the same."""

from collections.abc import Iterable

import msgspec

from services.vision.card import CardBackbone, WeightsSource

# Files that somebody put there, the same for every worker. The catalogue has digests of downloads.
PACKS = frozenset({WeightsSource.STORE, WeightsSource.FOLDER})


class UsedWeights(msgspec.Struct, frozen=True, kw_only=True):
    """One file."""

    network: str
    source: WeightsSource
    sha256: str


def used_by(backbones: Iterable[CardBackbone]) -> tuple[UsedWeights, ...]:
    """The packs that a bundle's networks started from."""
    found = (
        UsedWeights(network=one.name, source=one.weights_source, sha256=one.weights_sha256)
        for one in backbones
        if one.weights_source in PACKS
    )
    return tuple(dict.fromkeys(found))


def first_used(results: Iterable[tuple[UsedWeights, ...]]) -> tuple[UsedWeights, ...]:
    """The packs that later trials must use: of each network and source, that of the first result."""
    first: dict[tuple[str, WeightsSource], UsedWeights] = {}
    for weights in results:
        for one in weights:
            first.setdefault((one.network, one.source), one)
    return tuple(first.values())
