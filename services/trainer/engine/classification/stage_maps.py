"""Outputs of a network's first stages, computed once, on which its last stages train: a quarter of the work."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from services.trainer.engine.classification.batches import augmentation
from services.trainer.engine.classification.features import BATCH_SIZE
from services.trainer.engine.classification.fuse import fused
from services.trainer.engine.data import Images, Indices
from services.trainer.engine.prefetch import kept_bytes, prefetched
from services.trainer.engine.pretrained import LoadedBackbone
from services.trainer.engine.session import Session
from services.trainer.messages import TrainTask
from services.vision import preprocess
from services.vision.memory import BatchLimit

LAST_STAGES = 2  # that train
VIEWS = 8  # of an image: as it is served, and augmented ones
LEAST_VIEWS = 3

Maps = NDArray[np.float16]  # [images, height, width, channels]


@dataclass(frozen=True, slots=True)
class StageMaps:
    """What the children of the features before `start` give for each view, the first as served; 0 if unreadable."""

    start: int
    views: list[Maps]
    device: str

    def inputs(self, rows: Indices, views: Indices) -> Tensor:
        """[rows, channels, height, width]: a view of each image."""
        picked = np.stack([self.views[view][row] for view, row in zip(views.tolist(), rows.tolist(), strict=True)])
        return torch.from_numpy(picked).to(self.device).float().permute(0, 3, 1, 2)


@torch.inference_mode()
def store_maps(
    task: TrainTask, session: Session, images: Images, backbone: LoadedBackbone, bar: tuple[float, float]
) -> StageMaps:
    """As many views as fit in memory, but not fewer than LEAST_VIEWS; an augmented view depends on the seed alone."""
    start, size = backbone.network.backbone.stage_starts[-LAST_STAGES], backbone.rule.size
    first, limit = fused(backbone.network).features[:start], BatchLimit(BATCH_SIZE)

    def computed(inputs: Tensor) -> Tensor:
        return first(inputs.to(task.device)).half().cpu().permute(0, 2, 3, 1)

    count = len(images.samples)
    one = computed(torch.zeros(1, 3, size, size))
    most = kept_bytes(task) // (count * one.nbytes)
    views = [np.zeros((count, *one.shape[1:]), np.float16) for _ in range(min(VIEWS, max(LEAST_VIEWS, most)))]
    batches = [range(at, min(count, at + BATCH_SIZE)) for at in range(0, count, BATCH_SIZE)]
    made = prefetched(lambda batch: _inputs(task, images, backbone, batch, len(views)), batches, task.threads)
    for number, (batch, inputs) in enumerate(zip(batches, made, strict=True)):
        for view, of_view in zip(views, inputs, strict=True):
            view[batch.start : batch.stop] = torch.cat(limit.pieces(of_view, computed)).numpy()
        session.progress("features", (number + 1) / len(batches), *bar)
    return StageMaps(start, views, task.device)


def _inputs(task: TrainTask, images: Images, backbone: LoadedBackbone, batch: range, views: int) -> list[Tensor]:
    """A batch for each view; every image is decoded once."""
    shown = [list(_views(task, images, backbone, row, views)) for row in batch]
    return [torch.stack(view).contiguous(memory_format=torch.channels_last) for view in zip(*shown, strict=True)]


def _views(task: TrainTask, images: Images, backbone: LoadedBackbone, row: int, views: int) -> Iterator[Tensor]:
    how, rule = augmentation(task.recipe.augmentation, mirror=task.recipe.mirror), backbone.rule
    pixels = images.pixels(row, rule.at_least)
    for view in range(views):
        if pixels is None:
            yield torch.zeros(3, rule.size, rule.size)
        elif view == 0:
            yield preprocess.apply(pixels, rule)
        else:
            generator = torch.Generator().manual_seed(hash((task.seed, view, row)) & 0x7FFF_FFFF_FFFF_FFFF)
            yield preprocess.augment(pixels, rule, how, generator)
