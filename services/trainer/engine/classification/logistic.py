"""Multinomial logistic regression with an L2 penalty, its strength chosen by stratified cross-validation.

All folds are solved at once by one L-BFGS over a block of weights. Where there are fewer rows than features, the
rows are first rotated into their own span, which changes neither the penalty nor the solution (the representer
theorem) and shrinks the problem from features to rows.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from services.trainer.engine.data import Floats, Indices

STRENGTHS = (10.0, 1.0, 0.1, 0.01, 0.001, 0.0001)  # of the penalty per standardised feature; each starts the next
CELLS = 3e11  # rows x features x categories x folds: beyond this fewer folds are solved
WORSE = 1.15  # times the best log loss: there the search ends
MAX_STEPS = 60  # of L-BFGS, while choosing
FINAL_STEPS = 200
TOLERANCE = 2e-5  # of the gradient's largest entry

Evaluate = Callable[[torch.Tensor], tuple[float, torch.Tensor]]  # weights into loss and gradient


@dataclass(frozen=True, slots=True)
class Scaling:
    """(features - mean) * factor; linear, so that it folds into a head's weights."""

    mean: Floats
    factor: Floats


@dataclass(frozen=True, slots=True)
class Choice:
    """What cross-validation found.

    `logits` are out of fold, [rows, categories], each row by the strength that the other folds chose;
    `solved` says which rows have any, as not every fold is solved where there are very many rows.
    """

    strength: float
    logits: Floats
    solved: NDArray[np.bool_]


def fit_scaling(features: Floats, widths: tuple[int, ...]) -> Scaling:
    """Each feature to unit variance, then each backbone's block to the same weight, whatever its width.

    Fitted on all training rows, the out-of-fold ones too: it sees no label.
    """
    mean = features.mean(axis=0)
    factor = 1 / (features.std(axis=0) + 1e-3 * float(features.std()) + 1e-12)
    start = 0
    for width in widths:
        factor[start : start + width] /= np.sqrt(width)
        start += width
    return Scaling(mean.astype(np.float32), factor.astype(np.float32))


def rotated(rows: Floats) -> tuple[Floats, Floats | None]:
    """(coordinates, basis) with coordinates @ basis = rows; the rows themselves and None where that saves nothing."""
    if 2 * len(rows) >= rows.shape[1]:
        return rows, None
    gram = rows.astype(np.float64) @ rows.T.astype(np.float64)
    values, vectors = np.linalg.eigh(gram)
    kept = values > values[-1] * 1e-7
    roots = np.sqrt(values[kept])
    basis = (vectors[:, kept] / roots).T @ rows
    return (vectors[:, kept] * roots).astype(np.float32), basis.astype(np.float32)


def choose(rows: Floats, labels: Indices, fold: Indices, categories: int, folds: int, *, of_image: Indices) -> Choice:
    """Cross-validates every strength. `of_image` names each row's image: an image's first row alone is scored.

    `fold` is per row. The logits returned are in the order of the images' first rows.
    """
    solved_folds = max(1, min(folds, int(CELLS // max(1, rows.size * categories))))
    _, first = np.unique(of_image, return_index=True)
    in_training = np.stack([fold != number for number in range(solved_folds)])
    scored = rows[first]
    weights = None
    tried: list[Floats] = []
    losses: list[float] = []
    solved = fold[first] < solved_folds
    for strength in STRENGTHS:
        weights = solve(rows, labels, in_training, categories, strength, start=weights)
        logits = np.zeros((len(first), categories), np.float32)
        for number in range(solved_folds):
            out = fold[first] == number
            logits[out] = _apply(scored[out], weights[number])
        tried.append(logits)
        losses.append(float(log_losses(logits[solved], labels[first][solved]).mean()))
        if losses[-1] > WORSE * min(losses):
            break  # weaker penalties only go on from here
    return _choice(np.stack(tried), labels[first], fold[first], solved_folds)


def solve(
    rows: Floats,
    labels: Indices,
    in_training: NDArray[np.bool_],
    categories: int,
    strength: float,
    *,
    start: Floats | None = None,
    steps: int = MAX_STEPS,
) -> Floats:
    """Weights [problems, features + 1, categories], the last row the bias; `in_training` is [problems, rows].

    Minimises for each problem the mean cross-entropy of its rows + strength / 2 x the squared weights / 100.
    """
    problems, width = len(in_training), rows.shape[1]
    x = torch.from_numpy(np.ascontiguousarray(rows))
    share = torch.from_numpy(in_training / in_training.sum(axis=1, keepdims=True)).float()
    truth = torch.zeros(len(rows), categories)
    truth[torch.arange(len(rows)), torch.from_numpy(labels)] = 1
    penalty = torch.full((width + 1, 1), strength / 100)
    penalty[-1] = 0
    flat = torch.zeros(problems, width + 1, categories) if start is None else torch.from_numpy(start.copy())

    def evaluate(weights: torch.Tensor) -> tuple[float, torch.Tensor]:
        logits = torch.matmul(x, weights[:, :-1]) + weights[:, -1:]
        log_p = torch.log_softmax(logits, dim=2)
        loss = -(share[:, :, None] * truth * log_p).sum() + 0.5 * (penalty * weights.square()).sum()
        residual = (log_p.exp() - truth) * share[:, :, None]
        gradient = torch.cat([torch.matmul(x.T, residual), residual.sum(dim=1, keepdim=True)], dim=1)
        return float(loss), gradient.add_(penalty * weights)

    with torch.inference_mode():
        return _minimised(evaluate, flat, steps).numpy()


def _minimised(evaluate: Evaluate, weights: torch.Tensor, steps: int, memory: int = 10) -> torch.Tensor:
    """L-BFGS with backtracking (Nocedal and Wright, algorithms 7.4 and 3.1)."""
    loss, gradient = evaluate(weights)
    history: list[tuple[torch.Tensor, torch.Tensor, float]] = []
    for _ in range(steps):
        if float(gradient.abs().max()) < TOLERANCE:
            break
        direction = -_two_loops(gradient, history)
        slope = float((direction * gradient).sum())
        if slope >= 0:
            history.clear()
            direction, slope = -gradient, -float(gradient.square().sum())
        size = 1.0 if history else min(1.0, 1.0 / float(gradient.norm()))
        for _ in range(20):
            candidate = weights + size * direction
            new_loss, new_gradient = evaluate(candidate)
            if new_loss <= loss + 1e-4 * size * slope:
                break
            size *= 0.5
        else:
            break  # at the limit of single precision
        moved, turned = candidate - weights, new_gradient - gradient
        curvature = float((moved * turned).sum())
        if curvature > 1e-12:
            history.append((moved, turned, 1 / curvature))
            del history[:-memory]
        small = loss - new_loss < 1e-6 * max(1.0, abs(loss))
        weights, loss, gradient = candidate, new_loss, new_gradient
        if small:
            break
    return weights


def _two_loops(gradient: torch.Tensor, history: list[tuple[torch.Tensor, torch.Tensor, float]]) -> torch.Tensor:
    direction = gradient.clone()
    alphas: list[float] = []
    for moved, turned, rho in reversed(history):
        alpha = rho * float((moved * direction).sum())
        alphas.append(alpha)
        direction.sub_(turned, alpha=alpha)
    if history:
        moved, turned, rho = history[-1]
        direction.mul_(1 / (rho * float(turned.square().sum())))
    for (moved, turned, rho), alpha in zip(history, reversed(alphas), strict=True):
        beta = rho * float((turned * direction).sum())
        direction.add_(moved, alpha=alpha - beta)
    return direction


def _apply(rows: Floats, weights: Floats) -> Floats:
    return rows @ weights[:-1] + weights[-1]


def _choice(logits: Floats, labels: Indices, fold: Indices, solved_folds: int) -> Choice:
    """The strength of the least log loss over all; each fold's logits by the strength that the other folds prefer."""
    losses = np.stack([log_losses(of_strength, labels) for of_strength in logits])
    solved = fold < solved_folds
    best = int(losses[:, solved].mean(axis=1).argmin())
    chosen = logits[best].copy()
    for number in range(solved_folds if solved_folds > 1 else 0):
        others = solved & (fold != number)
        preferred = int(losses[:, others].mean(axis=1).argmin())
        chosen[fold == number] = logits[preferred, fold == number]
    return Choice(STRENGTHS[best], chosen, solved)


def log_losses(logits: Floats, labels: Indices) -> NDArray[np.float64]:
    """Cross-entropy of each row."""
    wide = logits.astype(np.float64)
    top = wide.max(axis=1, keepdims=True)
    total = top[:, 0] + np.log(np.exp(wide - top).sum(axis=1))
    return total - wide[np.arange(len(labels)), labels]
