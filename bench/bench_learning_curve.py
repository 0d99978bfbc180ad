"""Whether learning curves tell what more images are worth: predicted against measured gains on the real image sets.

Reads SIGHTLINE_TEST_DATA and SIGHTLINE_WEIGHTS_DIR. `python bench/bench_learning_curve.py [SET ...] [--seeds N]`.

Half of the training images give a curve, which predicts what 10 more images of every category, and of each alone, are
worth. These are then added from the other half, and the head that ships is measured on the test images before and
after. Where the other half has fewer than 10 of a category, the gain of as many as there are is predicted.
"""

import argparse
import tempfile
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench import support
from bench.bench_recipes import KIND, SETS
from bench.snapshots import pack
from services.trainer.domain import Hyperparameters
from services.trainer.engine.classification.features import Extractor
from services.trainer.engine.classification.heads import fit_head
from services.trainer.engine.classification.learning_curve import learning_curve
from services.trainer.engine.data import Floats, Indices, open_images
from services.trainer.engine.pretrained import load_backbones
from services.trainer.engine.session import Meter, Session
from services.trainer.engine.split import divide
from services.trainer.engine.warm_up import warm_up
from services.trainer.insight import ADDED_IMAGES, Gain, LearningCurve
from services.trainer.messages import TrainTask
from services.trainer.planner import classifier_recipes
from services.trainer.recipe import Split

DRAWS = 3  # of the added images
CATEGORIES = 6  # of a set, whose images are added alone


class Part(NamedTuple):
    """Features and labels."""

    features: Floats
    labels: Indices

    def of(self, rows: Indices) -> "Part":
        """Some of the images."""
        return Part(self.features[rows], self.labels[rows])


@dataclass
class Tally:
    """Predicted and measured gains, and how often the interval held the measured one, given the error of that."""

    predicted: list[float] = field(default_factory=list[float])
    measured: list[float] = field(default_factory=list[float])
    held: list[bool] = field(default_factory=list[bool])

    def add(self, gain: Gain, measured: float, error: float) -> str:
        """Counts one; returns it in words."""
        low, high = gain.interval.low, gain.interval.high
        apart = max(low - measured, measured - high, 0.0)
        self.predicted.append(gain.value)
        self.measured.append(measured)
        self.held.append(apart <= 1.96 * error)
        points = f"{100 * gain.value:+5.1f} ({100 * low:+5.1f} to {100 * high:+5.1f})"
        return f"predicted {points} | measured {100 * measured:+5.1f} ± {100 * error:.1f} points"

    def summary(self) -> str:
        """Means and coverage."""
        ends = " | ".join(f"{name} {100 * np.mean(values):+.1f}" for name, values in (
            ("mean predicted", self.predicted), ("mean measured", self.measured)))  # fmt: skip
        alike = np.corrcoef(self.predicted, self.measured)[0, 1] if len(self.held) > 2 else float("nan")
        return f"{ends} points | correlation {alike:.2f} | held {sum(self.held)} of {len(self.held)}"


def main() -> None:
    """Prints a line for each set and seed, the categories' gains, and the summaries."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sets", nargs="*", default=list(SETS), metavar="SET", help=f"of {', '.join(SETS)}")
    parser.add_argument("--seeds", type=int, default=2)
    arguments = parser.parse_args()
    data, weights = support.folder("SIGHTLINE_TEST_DATA"), support.folder("SIGHTLINE_WEIGHTS_DIR")
    warm_up()
    print(support.machine())
    overall, alone, net_alone = Tally(), Tally(), Tally()
    for name in arguments.sets:
        with tempfile.TemporaryDirectory() as scratch:
            train, test = (features(data / name / f"{part}.json", weights, Path(scratch)) for part in ("train", "test"))
        for seed in range(arguments.seeds):
            measure(name, train, test, seed, overall, alone, net_alone)
    print(f"\nall categories: {overall.summary()}\none category, its recall: {alone.summary()}")
    print(f"one category, net: {net_alone.summary()}")


def features(coco: Path, weights: Path, scratch: Path) -> Part:
    """Of the ladder's first network."""
    directory = pack(coco, scratch / coco.stem, KIND)
    task = TrainTask(
        trial="bench", dataset="bench", directory=str(directory), recipe=classifier_recipes.first(Hyperparameters()),
        allowance=timedelta(hours=1), output_directory=str(scratch), cache_directory=str(scratch / "cache"),
        weights_directory=str(weights),
    )  # fmt: skip
    images = open_images(directory, "bench")
    backbones = load_backbones(task, images)
    for backbone in backbones:
        backbone.network.eval()
    views = Extractor(task, Session(Meter(task.allowance), lambda _: None), images, backbones, 1).run()
    return Part(views[0][0], images.labels)


def measure(name: str, train: Part, test: Part, seed: int, overall: Tally, alone: Tally, net_alone: Tally) -> None:
    """One half of a set."""
    random = np.random.default_rng(seed)
    categories = int(train.labels.max()) + 1
    shuffled = [random.permutation(np.flatnonzero(train.labels == label)) for label in range(categories)]
    half = np.sort(np.concatenate([rows[: len(rows) // 2] for rows in shuffled]))
    rest = [rows[len(rows) // 2 :] for rows in shuffled]
    added = min(ADDED_IMAGES, *(len(rows) for rows in rest))
    curve = curve_of(train.of(half), categories, seed, added)
    if curve.gain is None:
        print(f"{name}, seed {seed}: {curve.unavailable}")
        return
    before = predicted(train.of(half), test, categories)
    draws = [[random.permutation(rows)[:added] for rows in rest] for _ in range(DRAWS)]
    after = [predicted(train.of(np.concatenate([half, *draw])), test, categories) for draw in draws]
    difference = np.mean([now == test.labels for now in after], axis=0) - (before == test.labels)
    print(f"{name}, seed {seed}, +{added} of each: {overall.add(curve.gain, *mean_and_error(difference))}", flush=True)
    for gain in curve.categories[:CATEGORIES]:
        label = int(gain.category)
        more = [predicted(train.of(np.concatenate([half, draw[label]])), test, categories) for draw in draws]
        net = np.mean([net_gain(test.labels, before, now, label) for now in more], axis=0)
        count = int((test.labels == label).sum())
        error = float(np.sqrt(np.square(net).sum() + 0.25)) / count
        net_alone.add(gain.net_gain, net.sum() / count, error)
        own = net[test.labels == label]
        alone.add(gain.gain, *mean_and_error(own))


def curve_of(part: Part, categories: int, seed: int, added: int) -> LearningCurve:
    """The curve of these images."""
    partition = divide(part.labels, Split(seed=seed))
    names = [str(label) for label in range(categories)]
    return learning_curve(
        [part.features], part.labels, partition.fold, partition.folds, names, seed, lambda: False, added
    )


def predicted(train: Part, test: Part, categories: int) -> Indices:
    """[test images]: the category that the head that ships predicts."""
    partition = divide(train.labels, Split())
    head = fit_head([[train.features]], train.labels, partition.fold, partition.folds, categories)
    return head.logits([test.features]).argmax(axis=1)


def net_gain(labels: Indices, before: Indices, after: Indices, label: int) -> NDArray[np.float64]:
    """[images]: 1 where an image of the category, or one taken for it, is right now only, -1 where it was before."""
    concerned = (labels == label) | (before == label) | (after == label)
    return np.where(concerned, (after == labels).astype(np.float64) - (before == labels), 0.0)


def mean_and_error(values: NDArray[np.float64]) -> tuple[float, float]:
    """The mean, and its standard error, which is not 0 if all values are equal."""
    count = len(values)
    return float(np.mean(values)), float(np.sqrt(np.var(values) + 0.25 / count) / np.sqrt(count))


if __name__ == "__main__":
    main()
