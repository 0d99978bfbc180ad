"""What a classifier's suggested thresholds reach on unseen images: the mean F1 of the categories, each by itself.

Reads SIGHTLINE_TEST_DATA and SIGHTLINE_WEIGHTS_DIR. `python bench/bench_thresholds.py [SET ...] [--images N ...]
[--seeds N]`. Trains the ladder's second recipe with the engine alone, chooses thresholds by its predictions out of fold
and measures them on the test images.
"""

import argparse
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from bench import support
from bench.bench_prediction_sets import Predicted, Scores, predicted
from bench.bench_recipes import KIND, SETS, few
from bench.snapshots import pack
from services.trainer.engine.warm_up import warm_up
from services.vision.classification_metrics import classification_report, expected_thresholds

Labels = NDArray[np.int64]


def f1(scores: NDArray[np.float64], positive: NDArray[np.bool_], threshold: float) -> float:
    """Of one category, if scores of at least the threshold are accepted."""
    accepted = scores >= threshold
    return float(2 * (accepted & positive).sum() / max(1, accepted.sum() + positive.sum()))


def lowest_accepted(scores: Scores, labels: Labels) -> list[float]:
    """The lowest score that the best F1 on these images accepts; 0.5 without images of the category."""
    found: list[float] = []
    for category, column in enumerate(scores.T):
        positive = labels == category
        found.append(max(column[positive], key=lambda least, of=(column, positive): f1(*of, least), default=0.5))
    return found


def halfway(scores: Scores, labels: Labels) -> list[float]:
    """The same, halfway to the next lower score."""
    return [category.suggested_threshold for category in classification_report(scores, labels).categories]


RULES: MappingProxyType[str, Callable[[Scores, Labels], list[float]]] = MappingProxyType(
    {
        "lowest accepted": lowest_accepted,
        "halfway below": halfway,
        "0.5": lambda scores, _: [0.5] * scores.shape[1],
        "half of the expected F1": lambda scores, labels: expected_thresholds(scores, labels).tolist(),
    }
)


def rows(chosen_by: Predicted, measured: Predicted) -> dict[str, float]:
    """The mean F1 by each rule, and by the thresholds that are best on the test images themselves."""
    scores, labels = measured
    rules = {name: rule(*chosen_by) for name, rule in RULES.items()} | {"best possible": lowest_accepted(*measured)}
    found = np.unique(labels).tolist()
    return {
        name: statistics.mean(f1(scores[:, each], labels == each, thresholds[each]) for each in found)
        for name, thresholds in rules.items()
    }


def main() -> None:
    """Prints a row for each set and number of images, means over the seeds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sets", nargs="*", default=list(SETS), metavar="SET", help=f"of {', '.join(SETS)}")
    parser.add_argument("--images", type=int, nargs="+", default=[5, 10, 0], help="per category; 0: all")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    data, weights = support.folder("SIGHTLINE_TEST_DATA"), support.folder("SIGHTLINE_WEIGHTS_DIR")
    warm_up()
    print(support.machine())
    print(f"| set | images | {' | '.join(RULES)} | best possible |")
    print("|---" * (len(RULES) + 3) + "|")
    with tempfile.TemporaryDirectory() as scratch:
        for name in arguments.sets:
            test = pack(data / name / "test.json", Path(scratch) / name / "test", KIND)
            for images in arguments.images:
                found: defaultdict[str, list[float]] = defaultdict(list)
                for seed in range(arguments.seeds if images else 1):
                    root = Path(scratch) / name / f"{images}-{seed}"
                    train = pack(data / name / "train.json", root / "train", KIND, keep=few(images, seed))
                    for rule, value in rows(*predicted(train, test, weights, root, seed)).items():
                        found[rule].append(value)
                means = " | ".join(f"{statistics.mean(values):.3f}" for values in found.values())
                print(f"| {name} | {images or 'all'} | {means} |", flush=True)


if __name__ == "__main__":
    main()
