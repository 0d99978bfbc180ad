"""Training batches of scenes: decoded images kept small in memory, views made on the fly ahead of the step.

All randomness is a function of (seed, epoch, image), so that a resumed training sees the same batches.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from services.trainer.engine.data import Indices
from services.trainer.engine.detection.data import Scenes
from services.trainer.engine.loop.task import BatchRequest
from services.trainer.engine.prefetch import kept_bytes, prefetched
from services.trainer.messages import TrainTask
from services.vision.canvas import (
    AnnotatedImage,
    Canvas,
    Variation,
    augmented,
    fitting_canvas,
    plain,
    shrunk,
    variation,
)
from services.vision.card import InputRule
from services.vision.detector_network import Targets

GREY_SIDE = 32  # of what replaces an unreadable image


@dataclass(slots=True)
class SceneBatches:
    """Makes batches of inputs of one shape, with their targets."""

    scenes: Scenes
    rule: InputRule
    canvas: Canvas
    how: Variation
    seed: int
    threads: int
    kept_bytes: int
    _kept: dict[int, AnnotatedImage] = field(default_factory=dict[int, AnnotatedImage])
    _kept_bytes: int = 0

    @classmethod
    def of_recipe(cls, task: TrainTask, scenes: Scenes, rows: Indices, rule: InputRule) -> "SceneBatches":
        """Batches of these rows as the task's recipe augments them."""
        recipe = task.recipe
        return cls(
            scenes=scenes,
            rule=rule,
            canvas=fitting_canvas(scenes.sizes(rows), rule.size),
            how=variation(recipe.augmentation, mirror=recipe.mirror),
            seed=task.seed,
            threads=task.threads,
            kept_bytes=kept_bytes(task),
        )

    def look_at(self, rows: Indices, keep: Indices) -> None:
        """Decodes every row once, to find the unreadable ones; keeps those of `keep` while memory lasts."""
        wanted = set(keep.tolist())

        def decode(row: int) -> None:
            if row in wanted:
                self._image(row)
            else:
                self.scenes.pixels(row, self.rule.at_least)

        deque(prefetched(decode, rows.tolist(), self.threads), maxlen=0)

    def training(self, requests: Iterable[BatchRequest]) -> Iterator[tuple[Tensor, list[Targets]]]:
        """The inputs and targets of each request, in order."""
        return prefetched(self._made, requests, self.threads)

    def plain(self, row: int) -> tuple[Tensor, Targets]:
        """One image's input as serving would prepare it, on the canvas, and its targets."""
        return plain(self._image(row), self.canvas, self.rule)

    def _made(self, request: BatchRequest) -> tuple[Tensor, list[Targets]]:
        shape = len(request.rows), 3, self.canvas.height, self.canvas.width
        inputs = torch.empty(shape, memory_format=torch.channels_last)
        targets: list[Targets] = []
        for place, row in enumerate(request.rows.tolist()):
            generator = torch.Generator().manual_seed(hash((self.seed, request.epoch, row)) & 0x7FFF_FFFF_FFFF_FFFF)
            view, truth = augmented(self._image(row), self.canvas, self.rule, self.how, generator)
            inputs[place] = view
            targets.append(truth)
        return inputs, targets

    def _image(self, row: int) -> AnnotatedImage:
        """The image and its regions, decoded only once while memory lasts."""
        found = self._kept.get(row)
        if found is not None:
            return found
        pixels = self.scenes.pixels(row, self.rule.at_least)
        if pixels is None:
            pixels = np.full((GREY_SIDE, GREY_SIDE, 3), 128, np.uint8)
        record = self.scenes.samples[row].record
        boxes, labels = (torch.from_numpy(column) for column in self.scenes.regions(row))
        if row in self.scenes.unreadable:
            boxes, labels = boxes[:0], labels[:0]
        image = shrunk(pixels, boxes, labels, width=record.width, height=record.height, side=self.canvas.side)
        if self._kept_bytes + image.rgb.nbytes <= self.kept_bytes:
            self._kept[row] = image
            self._kept_bytes += image.rgb.nbytes
        return image
