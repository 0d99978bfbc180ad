"""What to compare a served classifier with: one plain linear head on the features of one frozen network.

The features are those that the ladder's heads read: of the first two networks, in both framings.
"""

import tempfile
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from bench.engine import ALLOWANCE
from bench.snapshots import pack
from services.trainer.domain import Hyperparameters
from services.trainer.engine.classification import logistic
from services.trainer.engine.classification.discriminant import Moments
from services.trainer.engine.classification.features import Extractor
from services.trainer.engine.classification.heads import normalised
from services.trainer.engine.data import Floats, Images, Indices, open_images
from services.trainer.engine.pretrained import load_backbones, middle_blocks
from services.trainer.engine.session import Meter, Session
from services.trainer.messages import TrainTask
from services.trainer.planner import classifier_recipes
from services.trainer.recipe import Recipe
from services.vision.catalogue import BACKBONES
from services.vision.snapshot import AnnotationKind
from services.vision.weights import WeightsResolver

KIND = AnnotationKind.IMAGE_CLASSIFICATION
Solve = Callable[[Floats, Indices, int, int], Floats]  # rows, labels, categories and features into weights

KINDS: MappingProxyType[str, Solve] = MappingProxyType(
    {
        "logistic": lambda rows, labels, categories, _: logistic.solve(rows, labels, categories),
        "discriminant": lambda rows, labels, categories, width: Moments.of(rows, labels, categories).solve(width),
    }
)


class PlainHeads:
    """The features of one image set, from which heads are fitted on any of its training images."""

    def __init__(self, folder: Path, weights: Path) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            parts = [pack(folder / f"{part}.json", Path(scratch) / part, KIND) for part in ("train", "test")]
            self._train, self._test = (open_images(part, folder.name) for part in parts)
            self._of_train, self._of_test = (dict(_features(part, weights)) for part in parts)

    def accuracies(self, chosen: set[int]) -> dict[str, float]:
        """Top-1 on the test images of each network, framing and kind of head, trained on the chosen image ids."""
        rows = np.flatnonzero(np.isin(self._train.ids, list(chosen)))
        labels, categories = self._train.labels, len(self._train.categories)
        found: dict[str, float] = {}
        for (features, train), (kind, solve) in product(self._of_train.items(), KINDS.items()):
            shown, asked = _scaled(train[rows], self._of_test[features])
            coordinates, back = logistic.rotated(shown)
            weights = solve(coordinates, labels[rows], categories, shown.shape[1])
            predicted = (asked @ back(weights[:-1]) + weights[-1]).argmax(axis=1)
            found[f"{features}, {kind}"] = float((predicted == self._test.labels).mean())
        return found


def several(weights: Path, image_count: int) -> Recipe:
    """The ladder's head on several networks, for the weights that there are."""
    found = WeightsResolver(weights, download=False)
    names = tuple(name for name, backbone in BACKBONES.items() if found.available(backbone))
    return classifier_recipes.pretrained(names, Hyperparameters(), image_count)[0]


def _features(snapshot: Path, weights: Path) -> Iterator[tuple[str, Floats]]:
    """The name and the features of each network's last stage in each framing."""
    images: Images = open_images(snapshot, "bench")
    with tempfile.TemporaryDirectory() as scratch:
        task = TrainTask(
            trial="bench",
            dataset="bench",
            directory=str(snapshot),
            recipe=several(weights, len(images.samples)),
            allowance=ALLOWANCE,
            output_directory=scratch,
            cache_directory=scratch,
            weights_directory=str(weights),
        )
        backbones = load_backbones(task, images)
        for backbone in backbones:
            backbone.network.eval()
        blocks = Extractor(task, Session(Meter(ALLOWANCE), lambda _: None), images, backbones, 1).run()[0]
    last = [block for block, of_middle in zip(blocks, middle_blocks(backbones), strict=True) if not of_middle]
    for backbone, block in zip(backbones, last, strict=True):
        yield f"{backbone.name} {backbone.rule.fit} {backbone.rule.size}", block


def _scaled(train: Floats, test: Floats) -> tuple[Floats, Floats]:
    """Rows of unit length, centred and scaled to a mean squared length of 1 on the training images."""
    train, test = normalised(train), normalised(test)
    mean: NDArray[np.float32] = train.mean(axis=0)
    factor = np.float32(1 / np.sqrt(max(1e-12, float(np.square(train - mean).sum(axis=1).mean()))))
    return (train - mean) * factor, (test - mean) * factor
