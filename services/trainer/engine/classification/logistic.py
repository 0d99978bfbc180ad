"""Multinomial logistic regression with an L2 penalty, and what heads share: rotation, application, log losses."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from services.kit import pulse
from services.trainer.engine.data import Floats, Indices

PENALTY = 1e-4  # of the squared weights, on rows whose mean squared length is 1
MAX_STEPS = 200
RIDGE = 1e-9  # of the mean squared length of rows: added to it, so that equal rows can be told apart
TOLERANCE = 2e-5  # of the gradient's largest entry


def rotated(rows: Floats) -> tuple[Floats, Callable[[Floats], Floats]]:
    """(coordinates, back): the rows in coordinates of their span, and what turns weights of these into the features'.

    They are the rows themselves if that saves nothing. Rotating the rows into their span changes neither an L2 penalty
    nor the solution (the representer theorem) and shrinks the problem from features to rows.
    """
    if 2 * len(rows) >= rows.shape[1]:
        return rows, lambda weights: weights
    wide = rows.astype(np.float64)
    gram = wide @ wide.T
    gram[np.diag_indices_from(gram)] += max(RIDGE * np.trace(gram) / len(gram), 1e-12)
    factor = np.linalg.cholesky(gram)  # whose rows have the same products with each other

    def back(weights: Floats) -> Floats:
        upper, right = torch.from_numpy(factor).T, torch.from_numpy(weights.astype(np.float64))
        of_rows = torch.linalg.solve_triangular(upper, right, upper=True).numpy()
        return (rows.T @ of_rows).astype(np.float32)

    return factor.astype(np.float32), back


def solve(rows: Floats, labels: Indices, categories: int, offset: Floats | None = None) -> Floats:
    """Weights [features + 1, categories], the last row being the bias, that minimise mean cross-entropy and penalty.

    They are for logits that are added to `offset` [rows, categories]. If that is what other weights give, the penalty
    draws to those, and the result is the difference from them.
    """
    x, y = torch.from_numpy(np.ascontiguousarray(rows)), torch.from_numpy(labels)
    start = torch.zeros(1) if offset is None else torch.from_numpy(offset)
    weights, gradient = (torch.zeros(categories, x.shape[1] + 1) for _ in range(2))
    weights.grad = gradient
    optimizer = torch.optim.LBFGS(
        [weights], max_iter=MAX_STEPS, tolerance_grad=TOLERANCE, history_size=10, line_search_fn="strong_wolfe"
    )

    def evaluate() -> torch.Tensor:
        """The loss and its gradient, for which autograd would multiply in an order that takes four times as long."""
        pulse.beat()
        logits = torch.nn.functional.linear(x, weights[:, :-1], weights[:, -1]) + start
        loss = torch.nn.functional.cross_entropy(logits, y) + 0.5 * PENALTY * weights[:, :-1].square().sum()
        excess = logits.softmax(dim=1)
        excess[torch.arange(len(y)), y] -= 1
        excess /= len(y)
        gradient[:, :-1] = excess.T @ x + PENALTY * weights[:, :-1]
        gradient[:, -1] = excess.sum(dim=0)
        return loss

    optimizer.step(evaluate)
    return weights.numpy().T


def apply(rows: Floats, weights: Floats) -> Floats:
    """Logits [rows, categories]."""
    return rows @ weights[:-1] + weights[-1]


def log_losses(logits: Floats, labels: Indices) -> NDArray[np.float64]:
    """Cross-entropy of each row."""
    wide = logits.astype(np.float64)
    top = wide.max(axis=1, keepdims=True)
    total = top[:, 0] + np.log(np.exp(wide - top).sum(axis=1))
    return total - wide[np.arange(len(labels)), labels]
