"""Where pretrained weights come from: a folder, the store's copy, torchvision's site, else random ones, said aloud."""

import hashlib
import http.client
import os
import tempfile
import urllib.request
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO, cast

import safetensors
import safetensors.torch
import torch
import torchvision
from torch import Tensor

from services.vision.backbones import Backbone, Network, build, load_weights

TIMEOUT_SECONDS = 5.0  # to connect, and between two reads
_CHUNK_BYTES = 1 << 20


class WeightsSource(StrEnum):
    """Where a network's weights come from; part of the model's card."""

    TORCHVISION = "TORCHVISION"
    STORE = "STORE"
    FOLDER = "FOLDER"
    RANDOM = "RANDOM"


@dataclass(frozen=True, slots=True)
class PretrainedWeights:
    """Tensors under torchvision's names, and their origin; `state` is empty where the source is RANDOM."""

    state: dict[str, Tensor]
    source: WeightsSource
    sha256: str  # of the file; empty where the source is RANDOM
    note: str  # why nothing better was found; empty where all is well

    @property
    def pretrained(self) -> bool:
        """Whether the network has learned anything yet."""
        return self.source is not WeightsSource.RANDOM


class WeightsResolver:
    """Finds a backbone's weights: in `folder`, in `cache` (which a worker fills from the store), by download.

    A download goes into the cache as safetensors. One failure to reach torchvision's site is remembered: no further
    attempt is made by this object, so that a machine without a network waits once and briefly.
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
        self._unreachable = "" if download else "downloads are switched off"
        self._open = opener or _open_url

    def resolve(self, backbone: Backbone) -> PretrainedWeights:
        """Never fails for want of weights; raises safetensors.SafetensorError for a broken file that is there."""
        for root, name, source in (
            (self._folder, backbone.file_name, WeightsSource.FOLDER),
            (self._cache, backbone.file_name, WeightsSource.STORE),
            (self._cache, _downloaded_name(backbone), WeightsSource.TORCHVISION),
        ):
            if root is not None and (root / name).is_file():
                return _read(root / name, source)
        return self._download(backbone)

    def available(self, backbone: Backbone) -> bool:
        """Whether weights lie on this machine already; asks no network."""
        places = ((self._folder, backbone.file_name), (self._cache, backbone.file_name))
        downloaded = (self._cache, _downloaded_name(backbone))
        return any(root is not None and (root / name).is_file() for root, name in (*places, downloaded))

    def _download(self, backbone: Backbone) -> PretrainedWeights:
        problem = self._unreachable
        if not backbone.torchvision_weights:
            problem = "torchvision publishes none"
        elif not problem:
            try:
                return self._fetched(backbone)
            except (OSError, ValueError, http.client.HTTPException) as fault:
                self._unreachable = problem = f"torchvision's site did not give them ({fault})"
        note = f"No pretrained weights for {backbone.name}: {problem}. Training starts from random weights."
        return PretrainedWeights({}, WeightsSource.RANDOM, "", note)

    def _fetched(self, backbone: Backbone) -> PretrainedWeights:
        """Downloads, checks the digest that the file's name carries, converts; raises OSError or ValueError."""
        url = cast(
            str, torchvision.models.get_model_weights(backbone.torchvision_model)[backbone.torchvision_weights].url
        )
        expected = Path(url).stem.rsplit("-", 1)[-1]
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "weights"
            digest = hashlib.sha256()
            with self._open(url) as response, path.open("wb") as file:
                while chunk := response.read(_CHUNK_BYTES):
                    digest.update(chunk)
                    file.write(chunk)
            if not digest.hexdigest().startswith(expected):
                raise ValueError(f"its digest is {digest.hexdigest()}, not {expected}...")
            # The one pickle that is ever read: torchvision's own, its digest checked, by the restricted loader.
            state = cast(dict[str, Tensor], torch.load(path, map_location="cpu", weights_only=True))
            converted = Path(scratch) / "weights.safetensors"
            safetensors.torch.save_file({k: v.contiguous() for k, v in state.items()}, converted)
            if self._cache is None:
                return _read(converted, WeightsSource.TORCHVISION)
            return _read(_moved(converted, self._cache / _downloaded_name(backbone)), WeightsSource.TORCHVISION)


def pretrained_network(
    name: str, categories: int, resolver: WeightsResolver, *, seed: int = 0
) -> tuple[Network, PretrainedWeights]:
    """A network with the best weights to be had and a head random by the seed; RuntimeError if they do not fit."""
    network = build(name, categories, seed=seed)
    weights = resolver.resolve(network.backbone)
    if weights.pretrained:
        load_weights(network, weights.state)
    return network, weights


def _downloaded_name(backbone: Backbone) -> str:
    return f"{backbone.name}.torchvision.safetensors"


def _read(path: Path, source: WeightsSource) -> PretrainedWeights:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return PretrainedWeights(safetensors.torch.load_file(path), source, digest, "")


def _moved(source: Path, target: Path) -> Path:
    """Copies beside the target first, so that another process never sees half a file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as file:
        file.write(source.read_bytes())
    os.replace(file.name, target)  # noqa: PTH105 - Path.replace would need the name as a Path first
    return target


def _open_url(url: str) -> AbstractContextManager[BinaryIO]:
    return cast(AbstractContextManager[BinaryIO], urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS))  # noqa: S310
