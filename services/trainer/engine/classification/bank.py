"""The feature bank as a training child sees it: blocks in a folder, which its worker fetches and shares."""

import sys
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import numpy as np

from services.trainer.engine.data import Floats
from services.trainer.feature_blocks import Block, FeatureUse, decode, encode, write


@dataclass(slots=True)
class Bank:
    """Reads and writes blocks, and counts them. A block that is missing or damaged is computed again."""

    folder: Path
    by_graph: bool  # how features are computed here
    seconds: dict[str, float] = field(default_factory=dict[str, float])  # saved by the blocks read, by name
    computed: int = 0

    @property
    def use(self) -> FeatureUse:
        """What was read and written so far."""
        saved = timedelta(seconds=sum(self.seconds.values()))
        return FeatureUse(reused=len(self.seconds), computed=self.computed, saved=saved, by_graph=self.by_graph)

    def load(self, name: str, images: int, width: int) -> Floats | None:
        """[images, width], read-only; None if there is no such block."""
        try:
            block = decode((self.folder / name).read_bytes(), name)
            if (block.images, block.width) != (images, width):
                raise ValueError(f"it is {block.images} x {block.width}, not {images} x {width}")
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as fault:
            self.discard(name, str(fault))
            return None
        self.seconds[name] = block.seconds
        return np.frombuffer(block.values, "<f4").reshape(images, width)

    def discard(self, name: str, problem: str) -> None:
        """Takes back that a block was read: it is computed again."""
        self.seconds.pop(name, None)
        _warn(f"Feature block {name} is computed again: {problem}")

    def store(self, name: str, features: Floats, seconds: float) -> None:
        """Keeps a computed block; if the disk is full, only the saving is lost."""
        self.computed += 1
        values = features.astype("<f4").tobytes()
        block = Block(name=name, images=len(features), width=features.shape[1], seconds=seconds, values=values)
        try:
            write(self.folder / name, encode(block))
        except OSError as fault:
            _warn(f"Feature block {name} is not kept: {fault}")


def _warn(text: str) -> None:
    """The worker logs what its child prints."""
    sys.stderr.write(text + "\n")
