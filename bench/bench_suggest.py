"""What labelling suggested images is worth: against random ones, and against other ways to choose them.

Reads SIGHTLINE_TEST_DATA and SIGHTLINE_WEIGHTS_DIR. `python bench/bench_suggest.py [SET ...] [--seeds N]`.

A few training images of every category give a model; the others are what callers send. Of these, as many are chosen in
each way and labelled, and the head that ships is measured on the test images before and after. In a second run every
sent image comes three times, as from a camera that looks at the same thing: an image chosen twice then teaches nothing.
"""

import argparse
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench import support
from bench.bench_learning_curve import Part, features
from bench.bench_recipes import KIND
from bench.bench_recipes import SETS as ALL_SETS
from bench.snapshots import pack
from services.predictor.suggestions import by_answers, by_looks, ranked
from services.trainer.engine.classification.heads import LinearHead, fit_head
from services.trainer.engine.data import Floats, Indices, open_images
from services.trainer.engine.split import divide
from services.trainer.engine.warm_up import warm_up
from services.trainer.recipe import Split
from services.vision.decode import decode
from services.vision.fingerprint import perceptual_hash

FIRST = 5  # labelled images of each category
DRAWS = 3  # of random images
COPIES = 3  # of each image, in the second run
SETS = tuple(name for name in ALL_SETS if name != "hemlock_cherry")  # which has six images of a category
WAYS = ("suggested", "by looks", "uncertain")


class Set(NamedTuple):
    """An image set."""

    train: Part
    test: Part
    looks: list[bytes]  # of the training images

    @property
    def categories(self) -> int:
        """How many."""
        return int(self.train.labels.max()) + 1


def main() -> None:
    """Prints a line for each set: the mean gain in each way, and by how much it is more than that of random images."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sets", nargs="*", default=list(SETS), metavar="SET", help=f"of {', '.join(SETS)}")
    parser.add_argument("--seeds", type=int, default=4)
    arguments = parser.parse_args()
    data, weights = support.folder("SIGHTLINE_TEST_DATA"), support.folder("SIGHTLINE_WEIGHTS_DIR")
    warm_up()
    print(support.machine())
    for copies in (1, COPIES):
        print(f"\nevery image sent {copies} time(s): gain in points of accuracy on the test images")
        overall: list[NDArray[np.float64]] = []
        for name in arguments.sets:
            found = np.array([measure(read(data / name, weights), seed, copies) for seed in range(arguments.seeds)])
            overall.append(found)
            print(f"{name:16} {line(found)}", flush=True)
        print(f"{'all':16} {line(np.concatenate(overall))}", flush=True)


def line(gains: NDArray[np.float64]) -> str:
    """`gains` are [runs, ways], those of random images last."""
    parts = [f"random {100 * gains[:, -1].mean():+.1f}"]
    for column, way in enumerate(WAYS):
        more = gains[:, column] - gains[:, -1]
        error = more.std(ddof=1) / np.sqrt(len(more))
        won = f"better in {(more > 0).sum()} of {len(more)}"
        parts.append(
            f"{way} {100 * gains[:, column].mean():+.1f} ({100 * more.mean():+.1f} ± {100 * error:.1f}, {won})"
        )
    return " | ".join(parts)


def read(folder: Path, weights: Path) -> Set:
    """The set's features, and what its training images look like."""
    if folder.name not in _READ:
        with tempfile.TemporaryDirectory() as scratch:
            train, test = (features(folder / f"{part}.json", weights, Path(scratch)) for part in ("train", "test"))
            images = open_images(pack(folder / "train.json", Path(scratch) / "again", KIND), "bench")
            looks = [perceptual_hash(decode(images.read(row))) for row in range(len(images.labels))]
            _READ[folder.name] = Set(train, test, looks)
    return _READ[folder.name]


_READ: dict[str, Set] = {}


def measure(of: Set, seed: int, copies: int) -> list[float]:
    """The gain of each way, and of random images, on one division of the training images."""
    random = np.random.default_rng(seed)
    shuffled = [random.permutation(np.flatnonzero(of.train.labels == label)) for label in range(of.categories)]
    first = np.concatenate([rows[:FIRST] for rows in shuffled])
    sent = np.repeat(np.concatenate([rows[FIRST:] for rows in shuffled]), copies)
    count = min(len(first), len(sent) // 2)
    logits = fitted(of, first).logits([of.train.features[sent]])
    answers = probabilities(logits)
    ordered = np.sort(answers, axis=1)
    uncertainty = 1 - (ordered[:, -1] - ordered[:, -2])
    distances = by_answers(answers), by_looks([of.looks[row] for row in sent])
    chosen = [sent[ranked(uncertainty.tolist(), apart, count)] for apart in distances]
    chosen.append(sent[np.argsort(-uncertainty, kind="stable")[:count]])
    draws = [sent[random.permutation(len(sent))[:count]] for _ in range(DRAWS)]
    before = accuracy(of, first)
    gains = [accuracy(of, np.concatenate([first, rows])) - before for rows in (*chosen, *draws)]
    return [*gains[: len(WAYS)], float(np.mean(gains[len(WAYS) :]))]


def probabilities(logits: Floats) -> NDArray[np.float64]:
    """[images, categories]."""
    odds = np.exp((logits - logits.max(axis=1, keepdims=True)).astype(np.float64))
    return odds / odds.sum(axis=1, keepdims=True)


def accuracy(of: Set, rows: Indices) -> float:
    """On the test images, of the head on these training images."""
    return float((fitted(of, rows).logits([of.test.features]).argmax(axis=1) == of.test.labels).mean())


def fitted(of: Set, rows: Indices) -> LinearHead:
    """The head that ships, on these training images; one that is there twice counts once."""
    part = of.train.of(np.unique(rows))
    partition = divide(part.labels, Split())
    return fit_head([[part.features]], part.labels, partition.fold, partition.folds, of.categories)


if __name__ == "__main__":
    main()
