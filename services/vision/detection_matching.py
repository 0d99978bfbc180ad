"""Which detections are right: COCO's greedy matching over columns.

Results equal those of pycocotools (areaRng all, maxDets 100). Boxes are left, top, width, height; images and
categories are numbered from 0. No torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from services.vision.average_precision import Asked, Bools, Floats, Indices, Ints, Matched, asked, peaks

IOU_THRESHOLDS = (0.30, 0.50, 0.75)
MAX_DETECTIONS = 100  # of one category in one image; of more, the most confident count
PAIRS_AT_ONCE = 1 << 16  # so that their columns fit into a processor's cache
UNRANKED = np.iinfo(np.int64).max
WRONG, RIGHT, IGNORED = 0, 1, 2

Codes = NDArray[np.int8]


@dataclass(frozen=True, slots=True)
class GroundTruth:
    """Regions in any order. An ignored one need not be found, and a detection matched to it is neither right nor wrong.

    A crowd is ignored and takes any number of detections; its overlap is the share of the detection inside it.
    """

    images: Ints  # [t]
    categories: Ints  # [t]
    boxes: NDArray[np.floating[Any]]  # [t, 4]
    crowds: Bools  # [t]
    ignored: Bools | None = None  # [t], in addition to the crowds

    def left_out(self) -> Bools:
        """[t]: which need not be found."""
        return self.crowds if self.ignored is None else self.crowds | self.ignored


@dataclass(frozen=True, slots=True)
class DetectionTable:
    """Detections in any order; of equal scores, the earlier image's comes first, then the earlier row."""

    images: Ints  # [d]
    categories: Ints  # [d]
    boxes: NDArray[np.floating[Any]]  # [d, 4]
    scores: NDArray[np.floating[Any]]  # [d]


def match(
    truths: GroundTruth,
    detected: DetectionTable,
    image_count: int,
    category_count: int,
    iou_thresholds: Sequence[float] = IOU_THRESHOLDS,
) -> tuple[Matched, ...]:
    """Matches greedily by falling score, per image and category; one result per IoU threshold, all above 0.

    Raises ValueError for columns of different lengths, numbers out of range, or values that are not finite.
    """
    _require_sound(truths, detected, image_count, category_count)
    order = np.lexsort((detected.images, -detected.scores.astype(np.float64), detected.categories))
    order = _most_confident(order, detected, category_count)
    by_place = np.lexsort((truths.categories, truths.images))
    crowds, ignored = truths.crowds[by_place], truths.left_out()[by_place]
    rank = np.full(len(detected.scores), UNRANKED)
    rank[order] = np.arange(len(order))
    pairs = _overlapping(truths, detected, by_place, rank, category_count, min(iou_thresholds, default=1.0))
    pairs = pairs.by_preference(ignored)

    wanted = ~truths.left_out()
    truths_asked = asked(truths.images[wanted], truths.categories[wanted], image_count, category_count)
    outcomes = [_outcomes(pairs.at_least(threshold), rank, crowds, ignored)[order] for threshold in iou_thresholds]
    return tuple(_matched(detected, order, outcome, truths_asked, image_count) for outcome in outcomes)


def _matched(
    detected: DetectionTable, order: Indices, outcome: Codes, truths_asked: Asked, image_count: int
) -> Matched:
    """What average precision needs of the ordered detections and their outcomes."""
    kept = order[outcome != IGNORED]
    right = outcome[outcome != IGNORED] == RIGHT
    bounds = np.searchsorted(detected.categories[kept], np.arange(len(truths_asked.bounds)))
    return Matched(
        image_count=image_count,
        images=detected.images[kept].astype(np.int64),
        scores=detected.scores[kept].astype(np.float64),
        bounds=bounds,
        hits=np.flatnonzero(right),
        peaks=peaks(right, bounds),
        asked=truths_asked,
    )


@dataclass(frozen=True, slots=True)
class _Pairs:
    """Detections and truths of one image and category that overlap, ascending by detection."""

    detections: Indices
    truths: Indices  # positions in the order by image and category
    ious: Floats

    def by_preference(self, ignored: Bools) -> "_Pairs":
        """Each detection's truths by falling preference: not ignored first, then by IoU, then the last."""
        repeated = self.detections[1:] == self.detections[:-1]
        several = np.flatnonzero(np.append(repeated, False) | np.insert(repeated, 0, False))
        detections, truths, ious = self.detections[several], self.truths[several], self.ious[several]
        order = several[np.lexsort((-truths, -ious, ignored[truths], detections))]
        preferred_truths, preferred_ious = self.truths.copy(), self.ious.copy()
        preferred_truths[several], preferred_ious[several] = self.truths[order], self.ious[order]
        return _Pairs(self.detections, preferred_truths, preferred_ious)

    def at_least(self, threshold: float) -> "_Pairs":
        kept = self.ious >= min(threshold, 1 - 1e-10)
        return _Pairs(self.detections[kept], self.truths[kept], self.ious[kept])


def _outcomes(pairs: _Pairs, rank: Indices, crowds: Bools, ignored: Bools) -> Codes:
    """WRONG, RIGHT or IGNORED for each detection.

    Every detection proposes to the truth that it prefers; a truth keeps the most confident proposer, and the others
    propose to their next (Gale and Shapley, 1962). As all truths rank detections alike, the outcome is that of matching
    the detections one by one by falling score, but takes only a few rounds over whole columns.
    """
    outcome = np.zeros(len(rank), np.int8)
    kept_rank = np.full(len(crowds), UNRANKED)  # rank of the detection that each truth keeps
    keeper = np.full(len(crowds), -1)  # the pair by which it keeps it
    owner = np.append(pairs.detections, -1)
    proposing = np.flatnonzero(owner[:-1] != np.insert(owner[:-2], 0, -1)) if len(owner) > 1 else np.empty(0, np.int64)
    while len(proposing):
        wanted = pairs.truths[proposing]
        crowd = crowds[wanted]
        outcome[owner[proposing[crowd]]] = IGNORED  # a crowd takes any number
        proposing, wanted = proposing[~crowd], wanted[~crowd]
        ranks = rank[owner[proposing]]
        np.minimum.at(kept_rank, wanted, ranks)
        accepted = kept_rank[wanted] == ranks
        displaced = keeper[wanted[accepted]]
        keeper[wanted[accepted]] = proposing[accepted]
        refused = np.concatenate([proposing[~accepted], displaced[displaced >= 0]])
        proposing = refused[owner[refused + 1] == owner[refused]] + 1
    taken = np.flatnonzero(keeper >= 0)
    outcome[owner[keeper[taken]]] = np.where(ignored[taken], IGNORED, RIGHT)
    return outcome


def _overlapping(
    truths: GroundTruth, detected: DetectionTable, by_place: Indices, rank: Indices, category_count: int, least: float
) -> _Pairs:
    """All pairs of one image and category with at least this IoU, without those of unranked detections."""
    places = truths.images[by_place].astype(np.int64) * category_count + truths.categories[by_place]
    place = detected.images.astype(np.int64) * category_count + detected.categories
    starts = np.searchsorted(places, place)
    counts = np.where(rank == UNRANKED, 0, np.searchsorted(places, place, side="right") - starts)
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    cuts = np.searchsorted(ends, np.arange(PAIRS_AT_ONCE, total, PAIRS_AT_ONCE)).tolist()
    truth_sides, crowds = _sides(truths.boxes[by_place]), truths.crowds[by_place]
    found: list[tuple[Indices, Indices, Floats]] = []
    for start, stop in zip([0, *cuts], [*cuts, len(counts)], strict=True):
        each = counts[start:stop]
        owners = np.repeat(np.arange(stop - start), each)
        others = np.arange(len(owners)) + np.repeat(starts[start:stop] - (np.cumsum(each) - each), each)
        near = _sharing_area(_sides(detected.boxes[start:stop]), truth_sides, crowds, owners, others)
        kept = near.ious >= min(least, 1 - 1e-10)
        found.append((near.detections[kept] + start, near.truths[kept], near.ious[kept]))
    owners, others, ious = (np.concatenate(column) for column in zip(*found, strict=True))
    return _Pairs(cast(Indices, owners), cast(Indices, others), cast(Floats, ious))


def _sides(boxes: NDArray[np.floating[Any]]) -> Floats:
    """[5, n]: left, top, right, bottom and area."""
    left, top, width, height = boxes.T.astype(np.float64)
    return np.stack([left, top, left + width, top + height, width * height])


def _sharing_area(detected: Floats, truths: Floats, crowds: Bools, owners: Indices, others: Indices) -> _Pairs:
    """The pairs whose boxes intersect, with their IoU; for a crowd, intersection over the detection's area.

    Most boxes of an image do not intersect, and for them nothing else is computed.
    """
    shared = np.ones(len(owners))
    for low in (0, 1):
        ends = np.minimum(detected[low + 2][owners], truths[low + 2][others])
        lengths = ends - np.maximum(detected[low][owners], truths[low][others])
        kept = np.flatnonzero(lengths > 0)
        owners, others, shared = owners[kept], others[kept], shared[kept] * lengths[kept]
    own = detected[4][owners]
    union = np.where(crowds[others], own, own + truths[4][others] - shared)
    return _Pairs(owners, others, np.divide(shared, union, out=np.zeros_like(shared), where=shared > 0))


def _most_confident(order: Indices, detected: DetectionTable, category_count: int) -> Indices:
    """The order, by falling score in each category, cut to MAX_DETECTIONS per image and category."""
    crowded = np.bincount(detected.images) > MAX_DETECTIONS
    if not crowded.any():
        return order
    doubtful = np.flatnonzero(crowded[detected.images[order]])
    rows = order[doubtful]
    place = detected.images[rows].astype(np.int64) * category_count + detected.categories[rows]
    together = np.argsort(place, kind="stable")
    starts = np.flatnonzero(np.insert(np.diff(place[together]) > 0, 0, True))
    position = np.arange(len(rows)) - np.repeat(starts, np.diff(np.append(starts, len(rows))))
    return np.delete(order, doubtful[together[position >= MAX_DETECTIONS]])


def _require_sound(truths: GroundTruth, detected: DetectionTable, image_count: int, category_count: int) -> None:
    columns = (
        (truths, [truths.crowds, *([] if truths.ignored is None else [truths.ignored])]),
        (detected, [detected.scores]),
    )
    for rows, others in columns:
        count = len(rows.images)
        if rows.boxes.shape != (count, 4) or any(other.shape != (count,) for other in [rows.categories, *others]):
            raise ValueError("the columns differ in length")
        for values, limit in ((rows.images, image_count), (rows.categories, category_count)):
            if count and not (values.min() >= 0 and values.max() < limit):
                raise ValueError(f"images and categories must be in 0..{limit - 1}")
        if not np.isfinite(rows.boxes).all():
            raise ValueError("boxes must be finite")
    if not np.isfinite(detected.scores).all():
        raise ValueError("scores must be finite")
