"""A linear discriminant with a shrunken covariance: in closed form, and strong with few images per category.

Friedman (1989), "Regularized Discriminant Analysis"; on features of pretrained networks, Wang et al. (2024), "A
Hard-to-Beat Baseline for Training-free CLIP-based Adaptation".
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from services.trainer.engine.data import Floats, Indices

SHRINKAGE = 0.5  # from the within-category covariance towards one that is equal in all directions
BLOCK = 2048  # rows


@dataclass(frozen=True, slots=True)
class Moments:
    """What a discriminant needs to know of rows; that of some rows can be taken away from that of all."""

    counts: NDArray[np.float64]  # [categories]
    sums: NDArray[np.float64]  # [categories, features]
    products: NDArray[np.float64]  # [features, features], summed over the rows

    @classmethod
    def of(cls, rows: Floats, labels: Indices, categories: int) -> "Moments":
        """Those of these rows, summed in blocks by category, so that a block's one-hot labels are narrow."""
        width, order = rows.shape[1], np.argsort(labels, kind="stable")
        sums, products = np.zeros((categories, width)), np.zeros((width, width))
        for start in range(0, len(rows), BLOCK):
            block = order[start : start + BLOCK]
            wide = rows[block].astype(np.float64)
            found, place = np.unique(labels[block], return_inverse=True)
            sums[found] += np.eye(len(found))[place].T @ wide
            products += wide.T @ wide
        return cls(np.bincount(labels, minlength=categories).astype(np.float64), sums, products)

    def without(self, some: "Moments") -> "Moments":
        """Those of the other rows."""
        return Moments(self.counts - some.counts, self.sums - some.sums, self.products - some.products)

    def solve(self, width: int) -> Floats:
        """Weights [features + 1, categories], the last row being the bias, for equally frequent categories.

        `width` is the number of features before the rows were rotated into their span.
        """
        means = self.sums / np.maximum(self.counts, 1)[:, None]
        covariance = (self.products - self.sums.T @ means) / max(1, self.counts.sum() - len(means))
        even = np.trace(covariance) / width
        covariance *= 1 - SHRINKAGE
        covariance[np.diag_indices_from(covariance)] += SHRINKAGE * even + 1e-12
        factor = torch.linalg.cholesky(torch.from_numpy(covariance))
        weights = torch.cholesky_solve(torch.from_numpy(means.T), factor).numpy()
        bias = -0.5 * (means.T * weights).sum(axis=0)
        return np.vstack([weights, bias]).astype(np.float32)
