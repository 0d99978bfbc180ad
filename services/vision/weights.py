"""Where pretrained weights come from: folder, store, package or the publisher's site; else random, with a note."""

import hashlib
import http.client
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from services.kit import pulse
from services.kit.digests import file_digest
from services.vision.backbones import Network, build, load_weights, published_names
from services.vision.card import WeightsSource
from services.vision.catalogue import BACKBONES, DETECTORS, Download, Entry, Package
from services.vision.detector_builder import build_detector, load_detector_weights
from services.vision.detector_network import DetectorNetwork
from services.vision.packs import (
    TEXT_PREFIX,
    WEIGHTS_SUFFIX,
    Pack,
    PackUnusable,
    installed,
    open_url,
    read_pack,
    require_fit,
)

_CHUNK_BYTES = 1 << 20

Opener = Callable[[str], AbstractContextManager[BinaryIO]]


@dataclass(frozen=True, slots=True)
class PretrainedWeights:
    """Tensors by their published names, and their origin; `state` is empty if the source is RANDOM."""

    state: dict[str, Tensor]
    source: WeightsSource
    sha256: str  # of the file; empty if the source is RANDOM
    note: str  # why there are no weights; empty if there are
    pack: Pack | None = None  # their description, if they came with one
    text_file: Path | None = None  # where the text tower is, if the description has one

    @property
    def pretrained(self) -> bool:
        """Whether these are pretrained weights."""
        return self.source is not WeightsSource.RANDOM


class WeightsResolver:
    """Finds a network's weights: in `folder`, in `cache` (which a worker fills from the store), in an installed
    package, or by download.

    What comes from a package or a download goes into the cache as safetensors. After one failure to reach a site, this
    object does not try it again, so that a machine without network access waits only once.
    """

    def __init__(
        self,
        folder: Path | None = None,
        cache: Path | None = None,
        *,
        packages: bool = True,
        download: bool = True,
        used: Mapping[tuple[str, WeightsSource], str] | None = None,
        opener: Opener | None = None,
    ) -> None:
        """`used` has the SHA-256 that the file of a network from a source must have."""
        self._used = used or {}
        self._folder = folder
        self._cache = cache
        self._packages = packages
        self._allowed = download
        self._unreachable: dict[WeightsSource, str] = {}
        self._open = opener or open_url

    def resolve(self, wanted: Entry) -> PretrainedWeights:
        """The best weights, or none with a note.

        Raises safetensors.SafetensorError for a broken file, and PackUnusable for one that is not what its description,
        the catalogue or `used` says.
        """
        for path, source in self._places(wanted):
            if path.is_file():
                found = _read(path, source, wanted)
                self._require_used(path, found, wanted)
                return found
        if wanted.package and (path := self._installed(wanted.package)):
            return self._converted(path, wanted, wanted.package)
        return self._download(wanted)

    def _require_used(self, path: Path, found: PretrainedWeights, wanted: Entry) -> None:
        used = self._used.get((wanted.name, found.source), found.sha256)
        if found.sha256 != used:
            raise PackUnusable(
                f"{path} was changed while the model is trained: its SHA-256 is {found.sha256}, and earlier trials used"
                f" {used}. Restore it, or train again."
            )

    def available(self, wanted: Entry) -> bool:
        """Whether the weights are on this machine already."""
        in_place = any(path.is_file() for path, _ in self._places(wanted))
        return in_place or (wanted.package is not None and self._installed(wanted.package) is not None)

    def _installed(self, package: Package) -> Path | None:
        return installed(package) if self._packages else None

    def _places(self, wanted: Entry) -> list[tuple[Path, WeightsSource]]:
        places = [(self._folder, wanted.file_name, WeightsSource.FOLDER)]
        places.append((self._cache, wanted.file_name, WeightsSource.STORE))
        if wanted.package and self._packages:
            places.append((self._cache, _cached_name(wanted, WeightsSource.PACKAGE), WeightsSource.PACKAGE))
        if wanted.download:
            places.append((self._cache, _cached_name(wanted, wanted.download.source), wanted.download.source))
        return [(root / name, source) for root, name, source in places if root is not None]

    def _converted(self, path: Path, wanted: Entry, package: Package) -> PretrainedWeights:
        """The weights in an installed package; PackUnusable if its file is not the one that the catalogue knows."""
        if (digest := file_digest(path)) != package.sha256:
            raise PackUnusable(
                f"{path} was changed: its SHA-256 is {digest}, not {package.sha256}."
                f" Install {package.distribution} again."
            )
        origin = {"package": package.distribution, "sha256": digest}
        return self._kept(read_tensors(path, wanted), origin, wanted, WeightsSource.PACKAGE)

    def _download(self, wanted: Entry) -> PretrainedWeights:
        download = wanted.download
        if download is None:
            problem = "none are published"
        elif not self._allowed:
            problem = "downloads are switched off"
        elif not (problem := self._unreachable.get(download.source, "")):
            try:
                return self._fetched(wanted, download)
            except (OSError, ValueError, http.client.HTTPException) as fault:
                problem = f"{download.source.lower()}'s site did not provide them ({fault})"
                self._unreachable[download.source] = problem
        note = f"No pretrained weights for {wanted.name}: {problem}."
        return PretrainedWeights({}, WeightsSource.RANDOM, "", note)

    def _fetched(self, wanted: Entry, download: Download) -> PretrainedWeights:
        """Downloads, checks the digest if one is known, converts; raises OSError or ValueError."""
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "weights"
            digest = fetch(download.url, path, self._open)
            if not digest.startswith(download.digest):
                raise ValueError(f"its digest is {digest}, not {download.digest}...")
            origin = {"url": download.url, "sha256": digest}
            return self._kept(read_tensors(path, wanted), origin, wanted, download.source)

    def _kept(
        self, state: dict[str, Tensor], origin: dict[str, str], wanted: Entry, source: WeightsSource
    ) -> PretrainedWeights:
        """Writes the tensors as safetensors, into the cache if there is one, and reads them from there."""
        with tempfile.TemporaryDirectory() as scratch:
            converted = Path(scratch) / "weights.safetensors"
            safetensors.torch.save_file(state, converted, metadata=origin)
            if self._cache is not None:
                converted = _moved(converted, self._cache / _cached_name(wanted, source))
            return _read(converted, source, wanted)


def fetch(url: str, path: Path, opener: Opener) -> str:
    """Downloads into a file and returns its SHA-256; OSError or http.client.HTTPException."""
    digest = hashlib.sha256()
    with opener(url) as response, path.open("wb") as file:
        while chunk := response.read(_CHUNK_BYTES):
            pulse.beat()
            digest.update(chunk)
            file.write(chunk)
    return digest.hexdigest()


def pretrained_network(
    name: str, categories: int, resolver: WeightsResolver, *, seed: int = 0
) -> tuple[Network, PretrainedWeights]:
    """A network with the best available weights and a head random by the seed; RuntimeError if they do not fit."""
    network = build(name, categories, seed=seed)
    weights = resolver.resolve(network.backbone)
    if weights.pretrained:
        load_weights(network, weights.state)
    return network, weights


def pretrained_detector(
    name: str, categories: int, resolver: WeightsResolver, *, seed: int = 0
) -> tuple[DetectorNetwork, PretrainedWeights]:
    """As `pretrained_network`; outputs that depend on the categories are random by the seed."""
    network = build_detector(name, categories, seed=seed)
    weights = resolver.resolve(DETECTORS[name])
    if weights.pretrained:
        load_detector_weights(network, weights.state)
    return network, weights


def load_strictly(wanted: Entry, state: dict[str, Tensor]) -> None:
    """RuntimeError unless the tensors are exactly those of the network, save for the outputs."""
    shapes = {name: tensor.to("meta") for name, tensor in state.items()}
    with torch.device("meta"):
        if wanted.name in BACKBONES:
            load_weights(build(wanted.name, 1), shapes)
        else:
            load_detector_weights(build_detector(wanted.name, 1), shapes)


def read_tensors(path: Path, wanted: Entry) -> dict[str, Tensor]:
    """The tensors of a published file, by their published names; ValueError if it has none.

    A pickle is read with torch's restricted loader, never with another.
    """
    try:
        if _is_safetensors(path):
            return safetensors.torch.load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as fault:  # torch raises half a dozen types for HTML or a truncated file
        raise ValueError(f"it cannot be read: {fault}") from fault
    entry = wanted.download.entry if wanted.download else ""
    state = content.get(entry) if entry and isinstance(content, dict) else content
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise ValueError(f"it holds no tensors{' under ' + entry if entry else ''}")
    tensors = {str(name): tensor.contiguous() for name, tensor in cast(dict[str, Tensor], state).items()}
    if wanted.package and file_digest(path) == wanted.package.sha256:
        return dict(zip(published_names(BACKBONES[wanted.name]), tensors.values(), strict=True))
    return tensors


def _is_safetensors(path: Path) -> bool:
    """Whether a file begins like one: eight bytes of length, then JSON."""
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"


def _cached_name(wanted: Entry, source: WeightsSource) -> str:
    return f"{wanted.name}.{source.lower()}{WEIGHTS_SUFFIX}"


def _read(path: Path, source: WeightsSource, wanted: Entry) -> PretrainedWeights:
    digest, pack = file_digest(path), read_pack(path)
    if pack:
        require_fit(pack, path, digest, wanted)
    if pack is None or pack.text is None:
        return PretrainedWeights(safetensors.torch.load_file(path), source, digest, "", pack)
    with safetensors.safe_open(path, "pt") as file:
        names = [name for name in file.keys() if not name.startswith(TEXT_PREFIX)]  # noqa: SIM118 - not a dictionary
        return PretrainedWeights({name: file.get_tensor(name) for name in names}, source, digest, "", pack, path)


def _moved(source: Path, target: Path) -> Path:
    """Copies to the target's folder first, so that no other process sees a partial file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as file, source.open("rb") as content:
        shutil.copyfileobj(content, file)
    os.replace(file.name, target)  # noqa: PTH105 - Path.replace would need the name as a Path first
    return target
