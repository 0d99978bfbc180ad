"""Features of frozen networks for all images of a snapshot: one pass, with decoding ahead of it, cached on disk.

The cache is chunked, so that the next attempt continues where one died. A chunk that is missing, truncated or
unreadable is computed again.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from services.kit.errors import NotEnoughBudget
from services.trainer.engine.classification.fuse import fused
from services.trainer.engine.data import Floats, Images, cache_key
from services.trainer.engine.prefetch import prefetched
from services.trainer.engine.pretrained import LoadedBackbone
from services.trainer.engine.session import Session
from services.trainer.messages import TrainTask
from services.vision import preprocess
from services.vision.backbones import embed

BATCH_SIZE = 16
CHUNK_IMAGES = 2048
EARLY = 0.25  # share of the allowance before which the pace is no guide
RESERVE = 0.1  # share of the allowance that must be left after the last image

Inputs = dict[tuple[int, int], Tensor]  # by backbone and view: [batch, 3, size, size], NaN for unreadable images


@dataclass(slots=True)
class Extractor:
    """Features of every view and backbone, [images, width]; a row of NaN for an unreadable image."""

    task: TrainTask
    session: Session
    images: Images
    backbones: Sequence[LoadedBackbone]
    views: int

    def run(self, low: float = 0.0, high: float = 0.8) -> list[list[Floats]]:
        """[view][backbone]; DatasetCorrupt, or NotEnoughBudget once the pace shows that it cannot end in time."""
        count = len(self.images.samples)
        out = [[np.empty((count, b.width), np.float32) for b in self.backbones] for _ in range(self.views)]
        for start in range(0, count, CHUNK_IMAGES):
            rows = range(start, min(count, start + CHUNK_IMAGES))
            for (backbone, view), features in self._chunk(rows, low, high).items():
                out[view][backbone][rows.start : rows.stop] = features
        for index in np.flatnonzero(np.isnan(out[0][0]).any(axis=1)):
            if int(index) not in self.images.unreadable:  # known only from the cache: find out why
                self.images.pixels(int(index), self.backbones[0].rule.at_least)
        self.images.require_readable()
        return out

    def _chunk(self, rows: range, low: float, high: float) -> dict[tuple[int, int], Floats]:
        every = [(backbone, view) for backbone in range(len(self.backbones)) for view in range(self.views)]
        found = {which: self._load(which, rows) for which in every}
        missing = [which for which in every if found[which] is None]
        if missing:
            computed = self._compute(missing, rows, low, high)
            for which, features in computed.items():
                _store(self._path(which, rows), features)
            found.update(computed)
        return {which: features for which, features in found.items() if features is not None}

    @torch.inference_mode()
    def _compute(
        self, which: list[tuple[int, int]], rows: range, low: float, high: float
    ) -> dict[tuple[int, int], Floats]:
        started = self.session.meter.used()
        out = {(t, v): np.empty((len(rows), self.backbones[t].width), np.float32) for t, v in which}
        networks = {
            backbone: fused(self.backbones[backbone].network) for backbone in {backbone for backbone, _ in which}
        }
        total, done = len(self.images.samples), 0
        for batch, inputs in self._prepared(which, rows):
            for (backbone, view), images in inputs.items():
                features = embed(networks[backbone], images.to(self.task.device)).float().cpu().numpy()
                out[backbone, view][batch.start - rows.start : batch.stop - rows.start] = features
            done += len(batch)
            self.session.progress("features", batch.stop / total, low, high)
            self._require_time(started, done, total - batch.stop)
            self.images.require_readable()
        return out

    def _prepared(self, which: list[tuple[int, int]], rows: range) -> Iterator[tuple[range, Inputs]]:
        size = min(BATCH_SIZE, self.task.batch_size_limit or BATCH_SIZE)
        batches = [range(i, min(rows.stop, i + size)) for i in range(rows.start, rows.stop, size)]
        return prefetched(lambda batch: (batch, self._inputs(which, batch)), batches, self.task.threads)

    def _inputs(self, which: list[tuple[int, int]], batch: range) -> Inputs:
        """Decodes each image once per decoding size, and makes each view of each rule once."""
        rules = {(self.backbones[backbone].rule, view) for backbone, view in which}
        made: dict[tuple[object, int], list[Tensor]] = {key: [] for key in rules}
        for index in batch:
            limits = {rule.at_least for rule, _ in rules}
            pixels = {limit: self.images.pixels(index, limit) for limit in limits}
            for rule, view in rules:
                rgb = pixels[rule.at_least]
                empty = torch.full((3, rule.size, rule.size), torch.nan)
                made[rule, view].append(empty if rgb is None else preprocess.view(rgb, rule, view))
        stacked = {key: torch.stack(tensors) for key, tensors in made.items()}
        return {(backbone, view): stacked[self.backbones[backbone].rule, view] for backbone, view in which}

    def _require_time(self, started: float, done: int, left: int) -> None:
        meter = self.session.meter
        used = meter.used()
        needed = used + (used - started) / done * left
        if needed <= meter.allowance_seconds * (1 - RESERVE) or used < EARLY * meter.allowance_seconds:
            return
        minimum = needed / (1 - RESERVE)
        raise NotEnoughBudget(
            budget_seconds=round(meter.allowance_seconds, 1),
            dataset=self.images.dataset,
            image_count=len(self.images.samples),
            minimum_seconds=round(minimum, 1),
            suggested_seconds=round(3 * minimum, 1),
        )

    def _path(self, which: tuple[int, int], rows: range) -> Path:
        backbone, view = which
        key = cache_key(self.backbones[backbone].identity, view, self.images.manifest.digest, rows.start, rows.stop)
        return Path(self.task.cache_directory) / f"features-{key}.npy"

    def _load(self, which: tuple[int, int], rows: range) -> Floats | None:
        try:
            features = np.load(self._path(which, rows), allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        sound = features.dtype == np.float32 and features.shape == (len(rows), self.backbones[which[0]].width)
        return features if sound else None


def _store(path: Path, features: Floats) -> None:
    """Writes the file atomically; if the disk is full, only the cache is lost."""
    scratch = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with scratch.open("wb") as file:
            np.save(file, features, allow_pickle=False)
        scratch.replace(path)
    except OSError:
        scratch.unlink(missing_ok=True)
