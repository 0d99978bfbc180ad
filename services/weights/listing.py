"""What `sightline weights list` shows: the catalogue, and where each network's weights are. Imports no torch."""

from collections.abc import Sequence

import msgspec

from services.vision.catalogue import BACKBONES, DETECTORS, NETWORKS, Entry
from services.vision.packs import installed
from services.weights.shelves import Shelf


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """A network, and where its weights are."""

    network: str  # its id
    kind: str
    family: str
    device: str  # the smallest that it suits
    licence: str  # of the weights
    parameters: float  # millions
    gmacs: float
    size: int  # pixels
    present: tuple[str, ...]  # places on this machine and in the store
    published: str  # where `pull` gets them; empty if nowhere


async def listed(shelves: Sequence[Shelf]) -> list[Listed]:
    """Every network, in the order of the catalogue."""
    places = {shelf.name: set(await shelf.networks()) for shelf in shelves}
    return [
        Listed(
            network=name,
            kind=kind,
            family=_family(name),
            device=entry.device,
            licence=entry.licence,
            parameters=entry.parameters,
            gmacs=entry.gflops,
            size=entry.rule.size,
            present=_present(entry, places),
            published=_published(entry),
        )
        for kind, networks in NETWORKS.items()
        for name, entry in networks.items()
    ]


def _family(name: str) -> str:
    return BACKBONES[name].pretraining if name in BACKBONES else DETECTORS[name].family


def _present(entry: Entry, places: dict[str, set[str]]) -> tuple[str, ...]:
    found = [place for place, networks in places.items() if entry.name in networks]
    package = entry.package
    return (*found, *([package.distribution] if package and installed(package) else []))


def _published(entry: Entry) -> str:
    if entry.package:
        return entry.package.distribution
    return entry.download.source.lower() if entry.download else ""
