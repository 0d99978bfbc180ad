"""What is known of weights that others publish: under which name they lie, where from, and how to trust them."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

import torchvision


class WeightsSource(StrEnum):
    """Where a network's weights come from; part of the model's card."""

    TORCHVISION = "TORCHVISION"
    YOLOX = "YOLOX"
    STORE = "STORE"
    FOLDER = "FOLDER"
    RANDOM = "RANDOM"


@dataclass(frozen=True, slots=True)
class Download:
    """A file of tensors on a project's site."""

    source: WeightsSource  # the project
    url: str
    digest: str  # the first digits of its SHA-256; empty where the project publishes none
    entry: str = ""  # of the dictionary in the file that holds the tensors; empty where they are all of it


class Pretrained(Protocol):
    """A network whose weights can be looked for: a row of BACKBONES or of DETECTORS."""

    @property
    def name(self) -> str:
        """Of the network."""
        ...

    @property
    def file_name(self) -> str:
        """Of its weights, in a folder or in the store."""
        ...

    def download(self) -> Download | None:
        """Where they are published; None where they are not."""
        ...


def torchvision_download(model: str, weights: str) -> Download:
    """Of an entry of a model's Weights enum; such a file's name ends in the first digits of its digest."""
    url: str = torchvision.models.get_model_weights(model)[weights].url
    return Download(WeightsSource.TORCHVISION, url, Path(url).stem.rsplit("-", 1)[-1])
