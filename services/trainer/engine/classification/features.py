"""Features of frozen networks for all images of a snapshot: one pass, with decoding ahead of it.

They are kept in blocks, so that a later attempt or another training computes only what is missing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from services.trainer import feature_blocks
from services.trainer.engine.classification.bank import Bank
from services.trainer.engine.classification.frozen import Frozen, frozen, has_graph
from services.trainer.engine.data import Floats, Images, Indices, cache_key
from services.trainer.engine.prefetch import prefetched
from services.trainer.engine.pretrained import LoadedBackbone
from services.trainer.engine.session import Session
from services.trainer.messages import TrainTask
from services.vision import preprocess
from services.vision.graph_models import PIECE
from services.vision.memory import BatchLimit

BATCH_SIZE = 16  # on a CPU
DEVICE_BATCH_SIZE = 128  # on any other device, if they fit into memory
EARLY = 0.25  # share of the allowance before which the pace is no guide
RESERVE = 0.1  # share of the allowance that must be left after the last image

Which = tuple[int, int]  # backbone and view
Inputs = dict[Which, Tensor]  # [batch, 3, size, size], NaN for unreadable images


@dataclass(slots=True)
class Work:
    """What is missing, and how much of it is done, in images times backbones and views."""

    missing: dict[range, list[Which]]
    started: float  # seconds of the meter
    done: int = 0

    @property
    def total(self) -> int:
        """All that was missing at first."""
        return sum(len(rows) * len(which) for rows, which in self.missing.items())


@dataclass(frozen=True, slots=True)
class Extract:
    """An order: compute your share of the rows for these backbones and views; then the shares are gathered."""

    which: list[Which]
    rows: range
    networks: tuple[str, ...]  # that the leader reads, which may be of its own choice


@dataclass(frozen=True, slots=True)
class Part:
    """One process's share: features by backbone and view, and the unreadable images that it has found."""

    features: dict[Which, Floats]
    seconds: dict[Which, float]
    unreadable: dict[int, str]


@dataclass(slots=True)
class Extractor:
    """Features of every view, [images, width] for each stage of each backbone; NaN for an unreadable image."""

    task: TrainTask
    session: Session
    images: Images
    backbones: Sequence[LoadedBackbone]
    views: int
    bank: Bank = field(init=False)
    limit: BatchLimit = field(init=False)
    frozen: dict[int, Frozen] = field(init=False, default_factory=dict[int, Frozen])  # by the first with the network

    def __post_init__(self) -> None:
        """A task may limit batches further."""
        folder = feature_blocks.folder_of(Path(self.task.cache_directory), self.images.manifest.digest)
        self.bank = Bank(folder, by_graph=has_graph(self.backbones[0].name, self.task))
        most = max(BATCH_SIZE, PIECE * self.task.threads) if self.task.device == "cpu" else DEVICE_BATCH_SIZE
        self.limit = BatchLimit(min(most, self.task.batch_size_limit or most))

    def run(self, low: float = 0.0, high: float = 0.8) -> list[list[Floats]]:
        """[view][block], blocks by backbone, then by stage, the last one first.

        Raises DatasetCorrupt, or NotEnoughBudget once the pace shows that it cannot end in time.
        """
        count = len(self.images.samples)
        out = [[np.empty((count, sum(b.widths)), np.float32) for b in self.backbones] for _ in range(self.views)]
        missing: dict[range, list[Which]] = {}
        for rows in feature_blocks.rows_of_blocks(count):
            for backbone, view in [(b, v) for b in range(len(self.backbones)) for v in range(self.views)]:
                found = self._load((backbone, view), rows)
                if found is None:
                    missing.setdefault(rows, []).append((backbone, view))
                else:
                    out[view][backbone][rows.start : rows.stop] = found
        work = Work(missing, self.session.meter.used())
        for rows, which in missing.items():
            for (backbone, view), (features, seconds) in self._compute(which, rows, work, (low, high)).items():
                self.bank.store(self._name((backbone, view), rows), features, seconds)
                out[view][backbone][rows.start : rows.stop] = features
        self.session.features = self.bank.use
        self.images.require_readable()
        return [
            [block for features, b in zip(view, self.backbones, strict=True) for block in _blocks(features, b)]
            for view in out
        ]

    def _compute(
        self, which: list[Which], rows: range, work: Work, bar: tuple[float, float]
    ) -> dict[Which, tuple[Floats, float]]:
        """Features, and the seconds that they took: decoding is shared equally.

        Every process of the group computes its share of the rows.
        """
        began, group = self.session.meter.used(), self.session.group
        group.order(Extract(which, rows, tuple(dict.fromkeys(backbone.name for backbone in self.backbones))))
        parts = group.gather(self.share(which, rows, work, bar))
        for part in parts[1:]:
            self.images.unreadable.update(part.unreadable)
        seconds = parts[0].seconds
        shared = (self.session.meter.used() - began - sum(seconds.values())) / len(which)
        features = {one: np.concatenate([part.features[one] for part in parts]) for one in which}
        return {one: (features[one], seconds[one] + shared) for one in which}

    @torch.inference_mode()
    def share(
        self, which: list[Which], rows: range, work: Work | None = None, bar: tuple[float, float] = (0.0, 0.0)
    ) -> Part:
        """The features of this process's share of the rows; only a leader, with work, minds time and bad images."""
        group = self.session.group
        own = group.share(np.arange(rows.start, rows.stop))
        out = {(t, v): np.empty((len(own), sum(self.backbones[t].widths)), np.float32) for t, v in which}
        seconds, done = dict.fromkeys(which, 0.0), 0
        for size, inputs in self._prepared(which, own):
            for (backbone, view), images in inputs.items():
                before = self.session.meter.used()
                out[backbone, view][done : done + size] = self._embedded(backbone, images)
                seconds[backbone, view] += self.session.meter.used() - before
            done += size
            if work is not None:  # the others are as fast
                work.done += min(size * group.size, len(rows) - (done - size) * group.size) * len(which)
                self.session.progress("features", work.done / work.total, *bar)
                self._require_time(work)
                self.images.require_readable()
        return Part(out, seconds, self.images.unreadable)

    def _embedded(self, backbone: int, images: Tensor) -> Floats:
        """[batch, widths]."""
        network, middle = self._network(backbone), self.backbones[backbone].has_middle
        return network.features(images, middle=middle)

    def _network(self, index: int) -> Frozen:
        """A backbone's network, made ready once for all of its framings."""
        shares = self.backbones[index].shares
        first = index if shares is None else shares
        if first not in self.frozen:
            self.frozen[first] = frozen(self.backbones[first].network, self.task, self.limit)
        return self.frozen[first]

    def _prepared(self, which: list[Which], rows: Indices) -> Iterator[tuple[int, Inputs]]:
        batches = [rows[start : start + self.limit.most] for start in range(0, len(rows), self.limit.most)]
        return prefetched(lambda batch: (len(batch), self._inputs(which, batch.tolist())), batches, self.task.threads)

    def _inputs(self, which: list[Which], batch: list[int]) -> Inputs:
        """Decodes each image once per scale, and makes each view of each rule once."""
        rules = {(self.backbones[backbone].rule, view) for backbone, view in which}
        made: dict[tuple[object, int], list[Tensor]] = {key: [] for key in rules}
        for index in batch:
            pixels = self.images.pixels_of(index, {rule.at_least for rule, _ in rules})
            for rule, view in rules:
                empty = torch.full((3, rule.size, rule.size), torch.nan)
                made[rule, view].append(preprocess.view(pixels[rule.at_least], rule, view) if pixels else empty)
        stacked = {key: torch.stack(tensors) for key, tensors in made.items()}
        return {(backbone, view): stacked[self.backbones[backbone].rule, view] for backbone, view in which}

    def _require_time(self, work: Work) -> None:
        meter = self.session.meter
        used = meter.used()
        needed = used + (used - work.started) / work.done * (work.total - work.done)
        if needed <= meter.allowance_seconds * (1 - RESERVE) or used < EARLY * meter.allowance_seconds:
            return
        minimum = needed / (1 - RESERVE)
        raise meter.not_enough(self.images.dataset, len(self.images.samples), minimum, 3 * minimum)

    def _name(self, which: Which, rows: range) -> str:
        return block_name(self.task, self.backbones[which[0]], which[1], self.images.manifest.digest, rows)

    def _load(self, which: Which, rows: range) -> Floats | None:
        """A block of the bank; None if there is none, or if it lacks images that can be read here."""
        name = self._name(which, rows)
        features = self.bank.load(name, len(rows), sum(self.backbones[which[0]].widths))
        if features is None:
            return None
        for index in np.flatnonzero(np.isnan(features).any(axis=1)) + rows.start:
            at_least = self.backbones[which[0]].rule.at_least
            if int(index) not in self.images.unreadable and self.images.pixels(int(index), at_least) is not None:
                self.bank.discard(name, f"it has no features of {self.images.samples[index].record.file_name}")
                return None
        return features


def block_name(task: TrainTask, backbone: LoadedBackbone, view: int, snapshot_digest: str, rows: range) -> str:
    """The name of the block that holds a network's features of these images of a snapshot."""
    kind = feature_blocks.kind(task.device, backbone.rule.fit, task.recipe.resolution, view)
    digest = cache_key(
        feature_blocks.EXTRACTION,
        torch.__version__.partition("+")[0],
        task.device,
        backbone.identity,
        view,
        snapshot_digest,
        rows,
    )
    return feature_blocks.name_of(kind, backbone.name, digest, rows.start)


def _blocks(features: Floats, backbone: LoadedBackbone) -> list[Floats]:
    return np.split(features, np.cumsum(backbone.widths)[:-1], axis=1)
