"""Multinomial logistic regression with an L2 penalty, and what heads share: rotation, application, log losses."""

import numpy as np
import torch
from numpy.typing import NDArray

from services.kit import pulse
from services.trainer.engine.data import Floats, Indices

PENALTY = 1e-4  # of the squared weights, on rows whose mean squared length is 1
MAX_STEPS = 200
TOLERANCE = 2e-5  # of the gradient's largest entry


def rotated(rows: Floats) -> tuple[Floats, Floats | None]:
    """(coordinates, basis) with coordinates @ basis = rows; (rows, None) if that saves nothing.

    Rotating the rows into their span changes neither an L2 penalty nor the solution (the representer theorem) and
    shrinks the problem from features to rows.
    """
    if 2 * len(rows) >= rows.shape[1]:
        return rows, None
    gram = rows.astype(np.float64) @ rows.T.astype(np.float64)
    values, vectors = np.linalg.eigh(gram)
    kept = values > values[-1] * 1e-7
    roots = np.sqrt(values[kept])
    basis = (vectors[:, kept] / roots).T @ rows
    return (vectors[:, kept] * roots).astype(np.float32), basis.astype(np.float32)


def solve(rows: Floats, labels: Indices, categories: int, offset: Floats | None = None) -> Floats:
    """Weights [features + 1, categories], the last row being the bias, that minimise mean cross-entropy and penalty.

    They are for logits that are added to `offset` [rows, categories]. If that is what other weights give, the penalty
    draws to those, and the result is the difference from them.
    """
    x, y = torch.from_numpy(np.ascontiguousarray(rows)), torch.from_numpy(labels)
    start = torch.zeros(1) if offset is None else torch.from_numpy(offset)
    weights = torch.zeros(x.shape[1] + 1, categories, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weights], max_iter=MAX_STEPS, tolerance_grad=TOLERANCE, history_size=10, line_search_fn="strong_wolfe"
    )

    def evaluate() -> torch.Tensor:
        pulse.beat()
        optimizer.zero_grad()
        logits = x @ weights[:-1] + weights[-1] + start
        loss = torch.nn.functional.cross_entropy(logits, y) + 0.5 * PENALTY * weights[:-1].square().sum()
        loss.backward()
        return loss

    optimizer.step(evaluate)
    return weights.detach().numpy()


def apply(rows: Floats, weights: Floats) -> Floats:
    """Logits [rows, categories]."""
    return rows @ weights[:-1] + weights[-1]


def log_losses(logits: Floats, labels: Indices) -> NDArray[np.float64]:
    """Cross-entropy of each row."""
    wide = logits.astype(np.float64)
    top = wide.max(axis=1, keepdims=True)
    total = top[:, 0] + np.log(np.exp(wide - top).sum(axis=1))
    return total - wide[np.arange(len(labels)), labels]
