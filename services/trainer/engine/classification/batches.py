"""Batches for training: decoded images, shrunk and kept in memory, are augmented ahead of the step.

Everything random is a function of (seed, epoch, image), so that a resumed training sees what it would have seen.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from services.trainer.engine.data import Images, Indices, Pixels
from services.trainer.engine.loop.task import BatchRequest
from services.trainer.engine.prefetch import KEPT_BYTES, prefetched
from services.vision import preprocess
from services.vision.card import InputRule
from services.vision.preprocess import Augmentation

MARGIN = 1.15  # shorter side of a kept image relative to the input's, so that crops have detail


def augmentation(strength: float, *, mirror: bool) -> Augmentation:
    """From 0, almost the image itself, to 1, crops of a quarter of it."""
    return Augmentation(
        min_area=1 - 0.75 * strength,
        max_aspect=(4 / 3) ** strength,
        flip=0.5 if mirror else 0.0,
        brightness=0.4 * strength,
        contrast=0.4 * strength,
        saturation=0.4 * strength,
        hue=0.0,  # costs ten times as much as the others
    )


@dataclass(slots=True)
class Batches:
    """Makes inputs by image index; an unreadable image is replaced by a grey one."""

    images: Images
    rule: InputRule
    how: Augmentation
    seed: int
    threads: int = 1
    kept_bytes: int = KEPT_BYTES
    _kept: dict[int, Pixels] = field(default_factory=dict[int, Pixels])
    _kept_bytes: int = 0

    def look_at(self, rows: Indices, keep: Indices) -> None:
        """Decodes every row once, which finds the unreadable ones; keeps those of `keep` while they fit in memory."""
        kept = set(keep.tolist())
        looks = prefetched(lambda index: self._look(index, keep=index in kept), rows.tolist(), self.threads)
        deque(looks, maxlen=0)

    def training(self, requests: Iterable[BatchRequest]) -> Iterator[tuple[Tensor, Tensor]]:
        """(inputs, labels) of each, in order."""
        return prefetched(self._augmented, requests, self.threads)

    def plain(self, rows: Indices, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """(inputs, labels) of the rows as prediction sees them."""
        return prefetched(self._plain, [rows[i : i + size] for i in range(0, len(rows), size)], self.threads)

    def _augmented(self, request: BatchRequest) -> tuple[Tensor, Tensor]:
        inputs: list[Tensor] = []
        for index in request.rows.tolist():
            generator = torch.Generator().manual_seed(hash((self.seed, request.epoch, index)) & 0x7FFF_FFFF_FFFF_FFFF)
            inputs.append(preprocess.augment(self._small(index), self.rule, self.how, generator))
        return self._together(inputs, request.rows)

    def _plain(self, rows: Indices) -> tuple[Tensor, Tensor]:
        return self._together([preprocess.apply(self._whole(index), self.rule) for index in rows.tolist()], rows)

    def _together(self, inputs: list[Tensor], rows: Indices) -> tuple[Tensor, Tensor]:
        labels = torch.from_numpy(self.images.labels[rows])
        return torch.stack(inputs).contiguous(memory_format=torch.channels_last), labels

    def _look(self, index: int, *, keep: bool) -> None:
        if keep:
            self._small(index)
        else:
            self._whole(index)

    def _whole(self, index: int) -> Pixels:
        pixels = self.images.pixels(index, self.rule.at_least)
        return np.full((self.rule.size, self.rule.size, 3), 128, np.uint8) if pixels is None else pixels

    def _small(self, index: int) -> Pixels:
        """The image for augmentation, decoded only once if it fits in memory."""
        kept = self._kept.get(index)
        if kept is not None:
            return kept
        pixels = _scaled(self._whole(index), round(MARGIN * self.rule.resize))
        if self._kept_bytes + pixels.nbytes <= self.kept_bytes:
            self._kept[index] = pixels
            self._kept_bytes += pixels.nbytes
        return pixels


def _scaled(rgb: Pixels, shorter: int) -> Pixels:
    height, width = rgb.shape[:2]
    if min(height, width) <= shorter:
        return rgb.copy()
    image = torch.from_numpy(np.ascontiguousarray(rgb)).permute(2, 0, 1)
    small = functional.resize(image, [shorter], antialias=True)
    return np.ascontiguousarray(small.permute(1, 2, 0).numpy())
