"""Linear algebra that knows no model: principal components, cosines from inner products, effective rank."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.decomposition import PCA
from torch import Tensor

from .errors import InputError


@dataclass(frozen=True)
class Map:
    """Principal components of a cloud of points.

    Attributes:
        points: [k, components]; explained: share of the variance on each component.
        axes, centre: [components, dimensions] and [dimensions]; ``points @ axes + centre`` goes back.
    """

    points: np.ndarray
    explained: np.ndarray
    axes: np.ndarray
    centre: np.ndarray

    def place(self, vectors: np.ndarray) -> np.ndarray:
        """Other vectors [m, dimensions] on the same map, [m, components]."""
        return (vectors - self.centre) @ self.axes.T


def pca(vectors: np.ndarray, components: int = 2) -> Map:
    """Principal components of vectors [k, dimensions].

    Raises:
        InputError: fewer vectors or dimensions than components.
    """
    vectors = np.asarray(vectors, dtype=np.float64)
    if vectors.ndim != 2 or not 1 <= components <= min(vectors.shape):
        raise InputError(
            f"expected an array [k, dimensions] with at least {components} of both, got {list(vectors.shape)}"
        )
    model = PCA(components, svd_solver="full").fit(vectors)
    return Map(model.transform(vectors), model.explained_variance_ratio_, model.components_, model.mean_)


def cosines(gram: Tensor) -> Tensor:
    """Inner products [N, N] to cosines; 0 where an update is 0."""
    norm = gram.diagonal().clamp(min=0).sqrt()
    return torch.where(norm[:, None] * norm > 0, gram / (norm[:, None] * norm), 0.0)


def effective_rank(singular_values: Tensor) -> float:
    """exp(entropy of σ / sum σ) (Roy and Vetterli, EUSIPCO 2007): r for r equal ones, 0 for a zero matrix."""
    total = float(singular_values.sum())
    return float(torch.special.entr(singular_values / total).sum().exp()) if total > 0 else 0.0
