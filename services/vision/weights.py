"""Where pretrained weights come from: a folder, the store's copy, the publisher's site; else random, with a note."""

import hashlib
import http.client
import os
import tempfile
import urllib.request
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from services.vision.backbones import Network, build, load_weights
from services.vision.card import WeightsSource
from services.vision.catalogue import DETECTORS, Download, Entry
from services.vision.detector_builder import build_detector, load_detector_weights
from services.vision.detector_network import DetectorNetwork

TIMEOUT_SECONDS = 5.0  # to connect, and between two reads
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class PretrainedWeights:
    """Tensors by their published names, and their origin; `state` is empty if the source is RANDOM."""

    state: dict[str, Tensor]
    source: WeightsSource
    sha256: str  # of the file; empty if the source is RANDOM
    note: str  # why there are no weights; empty if there are

    @property
    def pretrained(self) -> bool:
        """Whether these are pretrained weights."""
        return self.source is not WeightsSource.RANDOM


class WeightsResolver:
    """Finds a network's weights: in `folder`, in `cache` (which a worker fills from the store), or by download.

    Downloads go into the cache as safetensors. After one failure to reach a site, this object does not try it again, so
    that a machine without network access waits only once.
    """

    def __init__(
        self,
        folder: Path | None = None,
        cache: Path | None = None,
        *,
        download: bool = True,
        opener: Callable[[str], AbstractContextManager[BinaryIO]] | None = None,
    ) -> None:
        self._folder = folder
        self._cache = cache
        self._allowed = download
        self._unreachable: dict[WeightsSource, str] = {}
        self._open = opener or _open_url

    def resolve(self, wanted: Entry) -> PretrainedWeights:
        """The best weights, or none with a note; raises safetensors.SafetensorError for a broken file."""
        for path, source in self._places(wanted):
            if path.is_file():
                return _read(path, source)
        return self._download(wanted)

    def available(self, wanted: Entry) -> bool:
        """Whether the weights are on this machine already."""
        return any(path.is_file() for path, _ in self._places(wanted))

    def _places(self, wanted: Entry) -> list[tuple[Path, WeightsSource]]:
        places = [(self._folder, wanted.file_name, WeightsSource.FOLDER)]
        places.append((self._cache, wanted.file_name, WeightsSource.STORE))
        if wanted.download:
            places.append((self._cache, _downloaded_name(wanted, wanted.download), wanted.download.source))
        return [(root / name, source) for root, name, source in places if root is not None]

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
            digest = hashlib.sha256()
            with self._open(download.url) as response, path.open("wb") as file:
                while chunk := response.read(_CHUNK_BYTES):
                    digest.update(chunk)
                    file.write(chunk)
            if not digest.hexdigest().startswith(download.digest):
                raise ValueError(f"its digest is {digest.hexdigest()}, not {download.digest}...")
            converted = Path(scratch) / "weights.safetensors"
            origin = {"url": download.url, "sha256": digest.hexdigest()}
            safetensors.torch.save_file(_tensors(path, download.entry), converted, metadata=origin)
            if self._cache is None:
                return _read(converted, download.source)
            return _read(_moved(converted, self._cache / _downloaded_name(wanted, download)), download.source)


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


def _tensors(path: Path, entry: str) -> dict[str, Tensor]:
    """The tensors of a published file: the only pickles that are ever read, with torch's restricted loader."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as fault:  # torch raises half a dozen types for HTML or a truncated file
        raise ValueError(f"it cannot be read: {fault}") from fault
    state = content.get(entry) if entry and isinstance(content, dict) else content
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise ValueError(f"it holds no tensors{' under ' + entry if entry else ''}")
    return {str(name): tensor.contiguous() for name, tensor in cast(dict[str, Tensor], state).items()}


def _downloaded_name(wanted: Entry, download: Download) -> str:
    return f"{wanted.name}.{download.source.lower()}.safetensors"


def _read(path: Path, source: WeightsSource) -> PretrainedWeights:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return PretrainedWeights(safetensors.torch.load_file(path), source, digest, "")


def _moved(source: Path, target: Path) -> Path:
    """Copies to the target's folder first, so that no other process sees a partial file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as file:
        file.write(source.read_bytes())
    os.replace(file.name, target)  # noqa: PTH105 - Path.replace would need the name as a Path first
    return target


def _open_url(url: str) -> AbstractContextManager[BinaryIO]:
    response = urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS)  # noqa: S310 - only URLs from our catalogue
    return cast(AbstractContextManager[BinaryIO], response)
