"""Prediction sets on real images: how often they contain the true category, and how large they are, by kind of score.

Reads SIGHTLINE_TEST_DATA and SIGHTLINE_WEIGHTS_DIR. `python bench/bench_prediction_sets.py [SET ...] [--images N ...]
[--seeds N]`. Trains the ladder's second recipe with the engine alone, calibrates on its out-of-fold predictions, and
measures on the test images. A category belongs to a set if its score is at most the quantile of the true categories'
scores.
"""

import argparse
import math
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from bench import support
from bench.bench_recipes import KIND, SETS, few, ladder
from bench.engine import tested, trained
from bench.snapshots import pack
from services.trainer.engine.warm_up import warm_up
from services.trainer.predictions import Predictions, read_predictions

COVERAGES = (0.8, 0.9, 0.95)
Scores = NDArray[np.float64]  # [images, categories]; lower fits better
Predicted = tuple[Scores, NDArray[np.int64]]  # probabilities, and the true categories


def cumulative(probabilities: Scores, penalty: float = 0.0, free: int = 0) -> Scores:
    """The probability of the category and all above it (APS), with a penalty for each rank above `free` (RAPS)."""
    order = np.argsort(-probabilities, axis=1)
    ranks = np.arange(1, probabilities.shape[1] + 1)
    sums = np.take_along_axis(probabilities, order, 1).cumsum(axis=1) + penalty * np.maximum(0, ranks - free)
    scores = np.empty_like(probabilities)
    np.put_along_axis(scores, order, sums, 1)
    return scores


SCORES: MappingProxyType[str, Callable[[Scores], Scores]] = MappingProxyType(
    {
        "1 - p": lambda p: 1 - p,
        "1 - p / p of the first": lambda p: 1 - p / p.max(axis=1, keepdims=True),
        "APS": cumulative,
        "APS without itself": lambda p: cumulative(p) - p,
        "RAPS, 0.01 above 2": lambda p: cumulative(p, 0.01, 2),
        "RAPS, 0.1 above 1": lambda p: cumulative(p, 0.1, 1),
    }
)


def main() -> None:
    """Prints the share of sets that contain the true category, and their mean size, for each set and in the mean."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sets", nargs="*", default=list(SETS), metavar="SET", help=f"of {', '.join(SETS)}")
    parser.add_argument("--images", type=int, nargs="+", default=[0], help="per category; 0: all")
    parser.add_argument("--seeds", type=int, default=1)
    arguments = parser.parse_args()
    data, weights = support.folder("SIGHTLINE_TEST_DATA"), support.folder("SIGHTLINE_WEIGHTS_DIR")
    warm_up()
    print(support.machine())
    found: defaultdict[tuple[int, float, str], list[tuple[float, float]]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as scratch:
        for name in arguments.sets:
            test = pack(data / name / "test.json", Path(scratch) / name / "test", KIND)
            for images in arguments.images:
                for seed in range(arguments.seeds):
                    root = Path(scratch) / name / f"{images}-{seed}"
                    train = pack(data / name / "train.json", root / "train", KIND, keep=few(images, seed))
                    print(f"\n{name}, {images or 'all'} images per category, seed {seed}")
                    calibration, measured = predicted(train, test, weights, root, seed)
                    for coverage, score, share, size in rows(calibration, measured):
                        found[images, coverage, score].append((share, size))
                        print(f"{coverage:.2f} {score:24} contain it {share:.3f} | categories {size:.2f}", flush=True)
    print("\nmean over sets and seeds")
    for (images, coverage, score), pairs in sorted(found.items()):
        share, size = (statistics.mean(column) for column in zip(*pairs, strict=True))
        print(f"{images or 'all':>3} {coverage:.2f} {score:24} contain it {share:.3f} | categories {size:.2f}")


def predicted(train: Path, test: Path, weights: Path, root: Path, seed: int) -> tuple[Predicted, Predicted]:
    """A trained model's predictions: out of fold, and for the test images."""
    result = trained(ladder(weights, 0)[1], train, root / "out", root / "cache", weights, seed)
    measured = tested(result, test, root / "test")
    return _read(result.predictions_path), _read(measured.predictions_path)


def rows(calibration: Predicted, measured: Predicted) -> Iterator[tuple[float, str, float, float]]:
    """(coverage, score, share of sets that contain the true category, their mean size) where images suffice."""
    count = len(calibration[1])
    for coverage in COVERAGES:
        rank = math.ceil(round((count + 1) * coverage, 9))
        for name, score in SCORES.items() if rank <= count else ():
            limit = np.sort(score(calibration[0])[np.arange(count), calibration[1]])[rank - 1]
            probabilities, labels = measured
            chosen = score(probabilities) <= limit
            chosen[np.arange(len(labels)), probabilities.argmax(axis=1)] = True
            right = chosen[np.arange(len(labels)), labels]
            yield coverage, name, float(right.mean()), float(chosen.sum(axis=1).mean())


def _read(path: str) -> Predicted:
    found = read_predictions(Path(path).read_bytes())
    assert isinstance(found, Predictions), "a classifier's"
    return np.array(found.probabilities), np.array(found.labels)


if __name__ == "__main__":
    main()
