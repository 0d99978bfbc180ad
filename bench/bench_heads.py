"""What fitting a head takes, beside the usual ways: eigenvectors for the rotation, autograd for the gradient.

`python bench/bench_heads.py [--rounds N]`: a head as in the ladder's second trial, on features like those of two
networks in both framings, with their middle stages, by both in turn; the medians, and the median of the rounds' ratios.
Heads of both must predict the same. Memory and threads are set as for training children.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from unittest.mock import patch

import numpy as np
import torch

from bench import support
from services.trainer.engine.classification import logistic
from services.trainer.engine.classification.heads import LinearHead, fit_head
from services.trainer.engine.data import Floats, Indices
from services.trainer.engine.split import divide
from services.trainer.recipe import Split

WIDTHS = (96, 1280, 96, 1280, 120, 1408, 120, 1408)  # middle and last stages
MIDDLE = (True, False) * 4
SETS = ((60, 6, 2), (180, 6, 2), (960, 24, 2), (1150, 10, 1), (1150, 10, 2))  # images, categories, views


def main() -> None:
    """Prints a line for each size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    support.become_like_a_training_child()
    print(support.machine())
    for images, categories, views in SETS:
        labels, features = drawn(images, categories, views)
        pairs: list[tuple[float, float]] = []
        for _ in range(rounds + 1):  # the first warms up
            with patch.object(logistic, "rotated", by_eigenvectors), patch.object(logistic, "solve", by_autograd):
                usual, slow = timed(labels, features, categories)
            ours, fast = timed(labels, features, categories)
            pairs.append((slow, fast))
            assert (usual.out_of_fold.argmax(axis=1) == ours.out_of_fold.argmax(axis=1)).mean() > 0.99
        before, after = (statistics.median(times) for times in zip(*pairs[1:], strict=True))
        ratio = statistics.median(slow / fast for slow, fast in pairs[1:])
        size = f"{images} images, {categories} categories, views: {views}"
        print(f"{size}: {before:.2f} s, now {after:.2f}; median ratio {ratio:.2f}", flush=True)


def drawn(images: int, categories: int, views: int) -> tuple[Indices, list[list[Floats]]]:
    """Labels, and features around a centre for each category, of a spectrum that falls as those of networks do."""
    random = np.random.default_rng(0)
    labels = np.arange(images) % categories
    centres = [0.3 * random.normal(size=(categories, width)) for width in WIDTHS]

    def view() -> list[Floats]:
        spread = [6 / np.sqrt(np.arange(width) + 3) for width in WIDTHS]
        noise = [random.normal(size=(images, width)) * each for width, each in zip(WIDTHS, spread, strict=True)]
        return [(centre[labels] + one).astype(np.float32) for centre, one in zip(centres, noise, strict=True)]

    return labels, [view() for _ in range(views)]


def timed(labels: Indices, views: list[list[Floats]], categories: int) -> tuple[LinearHead, float]:
    """A head, and the seconds that it took."""
    partition = divide(labels, Split())
    began = time.perf_counter()
    head = fit_head(views, labels, partition.fold, partition.folds, categories, MIDDLE)
    return head, time.perf_counter() - began


def by_eigenvectors(rows: Floats) -> tuple[Floats, Callable[[Floats], Floats]]:
    """As `logistic.rotated`."""
    if 2 * len(rows) >= rows.shape[1]:
        return rows, lambda weights: weights
    values, vectors = np.linalg.eigh(rows.astype(np.float64) @ rows.T.astype(np.float64))
    kept = values > values[-1] * 1e-7
    roots = np.sqrt(values[kept])
    basis = ((vectors[:, kept] / roots).T @ rows).astype(np.float32)
    return (vectors[:, kept] * roots).astype(np.float32), lambda weights: basis.T @ weights


def by_autograd(rows: Floats, labels: Indices, categories: int, offset: Floats | None = None) -> Floats:
    """As `logistic.solve`."""
    x, y = torch.from_numpy(np.ascontiguousarray(rows)), torch.from_numpy(labels)
    start = torch.zeros(1) if offset is None else torch.from_numpy(offset)
    weights = torch.zeros(x.shape[1] + 1, categories, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weights],
        max_iter=logistic.MAX_STEPS,
        tolerance_grad=logistic.TOLERANCE,
        history_size=10,
        line_search_fn="strong_wolfe",
    )

    def evaluate() -> torch.Tensor:
        optimizer.zero_grad()
        logits = x @ weights[:-1] + weights[-1] + start
        penalty = 0.5 * logistic.PENALTY * weights[:-1].square().sum()
        loss = torch.nn.functional.cross_entropy(logits, y) + penalty
        loss.backward()
        return loss

    optimizer.step(evaluate)
    return weights.detach().numpy()


if __name__ == "__main__":
    main()
