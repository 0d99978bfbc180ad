"""A linear discriminant with a shrunken covariance: in closed form, and strong with few images per category.

Friedman (1989), "Regularized Discriminant Analysis"; on features of pretrained networks, Wang et al. (2024), "A
Hard-to-Beat Baseline for Training-free CLIP-based Adaptation".
"""

import numpy as np
import torch

from services.trainer.engine.data import Floats, Indices

SHRINKAGE = 0.5  # from the within-category covariance towards one that is equal in all directions


def solve_discriminant(rows: Floats, labels: Indices, categories: int, width: int) -> Floats:
    """Weights [features + 1, categories], the last row being the bias, for equally frequent categories.

    `width` is the number of features before the rows were rotated into their span.
    """
    wide = rows.astype(np.float64)
    counts = np.maximum(np.bincount(labels, minlength=categories), 1)
    means = np.eye(categories)[labels].T @ wide / counts[:, None]
    within = wide - means[labels]
    covariance = within.T @ within / max(1, len(wide) - categories)
    even = np.trace(covariance) / width
    covariance *= 1 - SHRINKAGE
    covariance[np.diag_indices_from(covariance)] += SHRINKAGE * even + 1e-12
    factor = torch.linalg.cholesky(torch.from_numpy(covariance))
    weights = torch.cholesky_solve(torch.from_numpy(means.T), factor).numpy()
    bias = -0.5 * (means.T * weights).sum(axis=0)
    return np.vstack([weights, bias]).astype(np.float32)
