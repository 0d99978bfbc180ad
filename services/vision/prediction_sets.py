"""Sets of categories that contain the true one with a chosen probability: split-conformal prediction.

A category belongs to the set if its probability reaches a threshold: the k-th highest that the true category got in
n calibration images, with k = ceil((n + 1) * coverage) (Sadinle et al., 2019, "Least Ambiguous Set-Valued Classifiers
with Bounded Error Levels"). If the image is exchangeable with those, the set contains its category with at least the
probability `coverage`, however wrong the model's own probabilities are.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

KEPT = 1_000  # probabilities in a card


@dataclass(frozen=True, slots=True)
class Calibration:
    """The true category's probabilities in images that were not trained on, the highest first.

    Of more than KEPT images, KEPT evenly spaced ones; thresholds are then rounded down, so sets are never too small.
    """

    image_count: int
    probabilities: tuple[float, ...]

    @classmethod
    def of(cls, probabilities: Iterable[float]) -> "Calibration":
        """From the true categories' probabilities, in any order."""
        true = sorted(probabilities, reverse=True)
        count, kept = len(true), min(len(true), KEPT)
        ranks = [-(-(place * count) // kept) for place in range(1, kept + 1)]
        return cls(count, tuple(true[rank - 1] for rank in ranks))

    @property
    def highest_coverage(self) -> float:
        """The highest coverage that so many images allow."""
        return self.image_count / (self.image_count + 1)

    def threshold(self, coverage: float) -> float | None:
        """The probability from which a category belongs to the set; None if there are too few images."""
        rank = _rank(coverage, self.image_count)
        if not 1 <= rank <= self.image_count:
            return None
        return self.probabilities[-(-rank * len(self.probabilities) // self.image_count) - 1]


def images_needed(coverage: float) -> int:
    """The fewest calibration images with which a coverage is possible."""
    return math.ceil(round(coverage / (1 - coverage), 9))


def members(probabilities: Sequence[float], threshold: float) -> list[int]:
    """The indices of the set's categories, most probable first; the most probable one always belongs to it."""
    order = sorted(range(len(probabilities)), key=lambda index: -probabilities[index])
    return order[: max(1, sum(probability >= threshold for probability in probabilities))]


def _rank(coverage: float, image_count: int) -> int:
    """Rounded first, as 0.55 * 100 is above 55."""
    return math.ceil(round((image_count + 1) * coverage, 9))
