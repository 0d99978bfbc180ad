"""The accuracy to expect of a head with all images, from a few: a power law through the start of its learning curve."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from services.trainer.engine.classification import logistic
from services.trainer.engine.classification.features import Extractor
from services.trainer.engine.classification.heads import normalised
from services.trainer.engine.data import Floats, Indices, open_images
from services.trainer.engine.pretrained import load_backbones
from services.trainer.engine.session import Session
from services.trainer.estimate import Expectation
from services.trainer.messages import TrainTask
from services.trainer.performance import Interval

DRAWS = 8  # of training images, for each size
RESAMPLES = 500
SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)  # images of a category to train on
MAX_EXPONENT = 1.0  # no error falls faster than the number of images rises

Wrong = NDArray[np.float64]  # [sizes, draws, images]: 1 for a mistake, 0 for none, NaN where the image trained


def expected_accuracy(task: TrainTask, session: Session, images_per_category: float) -> Expectation | None:
    """For the features of the task's recipe; None if the sample is too small for a curve."""
    images = open_images(Path(task.directory), task.dataset)
    backbones = load_backbones(task, images)
    for backbone in backbones:
        backbone.network.to(task.device).eval()
    blocks = Extractor(task, session, images, backbones, 1).run()[0]
    sound = np.isfinite(blocks[0]).all(axis=1)
    return extrapolated([block[sound] for block in blocks], images.labels[sound], images_per_category, task.seed)


def extrapolated(blocks: Sequence[Floats], labels: Indices, target: float, seed: int) -> Expectation | None:
    """What a linear head on the features of each backbone, [images, width], reaches with `target` images a category.

    Heads are fitted on one, two, ... images of each category and predict the others. The interval reaches from no
    further gain to the power law going on, each as far as so few images leave it open. None if no category has three
    images.
    """
    per_category = np.bincount(labels)
    most = int(per_category.max()) - 1
    if most < 2:
        return None
    rows, _ = logistic.rotated(_rows(blocks))
    random = np.random.default_rng(seed)
    sizes = [size for size in SIZES if size <= most]
    wrong = np.stack([np.stack([_mistakes(rows, labels, size, random) for _ in range(DRAWS)]) for size in sizes])
    shown = np.array([np.minimum(size, np.maximum(per_category[per_category > 0] - 1, 1)).mean() for size in sizes])
    share, count = float(_errors(wrong)[-1]), len(labels)
    last = random.beta(share * count, (1 - share) * count, RESAMPLES)  # the errors that these images may come from
    reached = np.empty(RESAMPLES)
    for number in range(RESAMPLES):
        drawn = wrong[:, random.integers(0, DRAWS, DRAWS)][:, :, random.integers(0, count, count)]
        errors = _errors(drawn)
        reached[number] = _power_law(shown, errors * (last[number] / errors[-1]), target)
    low, high = 1 - float(np.percentile(last, 97.5)), 1 - float(np.percentile(reached, 2.5))
    value = 1 - float(np.median(reached))
    return Expectation(value=value, interval=Interval(min(low, value), max(high, value)))


def _rows(blocks: Sequence[Floats]) -> Floats:
    """Centred rows with a mean squared length of 1, to which every backbone contributes equally."""
    centred = [block - block.mean(axis=0) for block in map(normalised, blocks)]
    lengths = [float(np.square(block).sum(axis=1).mean()) for block in centred]
    scales = [np.float32(1 / np.sqrt(max(length, 1e-12) * len(blocks))) for length in lengths]
    return np.concatenate([block * scale for block, scale in zip(centred, scales, strict=True)], axis=1)


def _mistakes(rows: Floats, labels: Indices, size: int, random: np.random.Generator) -> Wrong:
    """[images]: the mistakes of a head that was fitted on `size` drawn images of each category, or all but one."""
    train = np.zeros(len(labels), np.bool_)
    for label in np.unique(labels):
        own = random.permutation(np.flatnonzero(labels == label))
        train[own[: max(1, min(size, len(own) - 1))]] = True
    weights = logistic.solve(rows[train], labels[train], int(labels.max()) + 1)
    wrong = (logistic.apply(rows, weights).argmax(axis=1) != labels).astype(np.float64)
    wrong[train] = np.nan
    return wrong


def _errors(wrong: Wrong) -> NDArray[np.float64]:
    """[sizes]: the share of mistakes; as if half of one more image had been mistaken, so that it is never 0 or 1."""
    images = wrong.shape[2]
    shares = np.nansum(wrong, axis=(1, 2)) / np.maximum(np.isfinite(wrong).sum(axis=(1, 2)), 1)
    return (shares * images + 0.5) / (images + 1)


def _power_law(sizes: NDArray[np.float64], errors: NDArray[np.float64], target: float) -> float:
    """The error at `target`, on the straight line through the logarithms that fits best and does not rise."""
    slope = float(np.polyfit(np.log(sizes), np.log(errors), 1)[0])
    centre = float(np.log(errors).mean()), float(np.log(sizes).mean())
    slope = min(0.0, max(-MAX_EXPONENT, slope))
    return float(np.exp(min(0.0, centre[0] + slope * (np.log(target) - centre[1]))))
