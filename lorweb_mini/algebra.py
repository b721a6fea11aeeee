"""Low-rank products, principal components, cosines and effective rank; nothing here builds an out × in matrix.

A layer of a basis holds N LoRAs as factors ``low`` = A [N, r, in] and ``high`` = B [N, out, r]; the n-th weight update
is ΔW_n = B_n A_n, and a mixture c of them is one product B A of rank N·r (:func:`fold`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .errors import InputError, whole_number

# A LoRA of every adapted layer: module name to (A [R, in], B [out, R]).
Layers = Mapping[str, tuple[Tensor, Tensor]]


def fold(low: Tensor, high: Tensor, mixture: Tensor) -> tuple[Tensor, Tensor]:
    """One layer's mixture sum_n c_n B_n A_n as one LoRA, in single precision or, from double factors, in double.

    From A [N, r, in], B [N, out, r] and coefficients c [N] to A [N·r, in] and B [out, N·r], with c multiplied into B.
    """
    dtype = torch.promote_types(high.dtype, torch.float32)
    # [out, N, r], as a basis keeps B in memory, so that nothing but the product is copied.
    scaled = high.detach().permute(1, 0, 2).to(dtype) * mixture.to(high.device, dtype)[:, None]
    return low.detach().to(dtype).flatten(0, 1), scaled.flatten(1)


def svd_of_product(high: Tensor, low: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Singular value decomposition of B A from its factors, in O((out + in) R²).

    With the QR decompositions B = Q_B R_B and Aᵀ = Q_A R_A the product is Q_B (R_B R_Aᵀ) Q_Aᵀ, and only the small
    matrix in the middle is decomposed.

    Returns:
        U [out, k], s [k] in falling order, V [in, k] with B A = U diag(s) Vᵀ and k = min(R, out, in), for B [out, R]
        and A [R, in]. Below rank k the last s are zero up to rounding and their directions arbitrary.
    """
    left, left_triangle = torch.linalg.qr(high)
    right, right_triangle = torch.linalg.qr(low.T)
    u, strength, vh = torch.linalg.svd(left_triangle @ right_triangle.T, full_matrices=False)
    return left @ u, strength, right @ vh.T


def gram(low: Tensor, high: Tensor) -> Tensor:
    """Inner products G [N, N] of N weight updates from A [N, r, in] and B [N, out, r], in double precision.

    tr((B_m A_m)ᵀ B_n A_n) = sum((A_m A_nᵀ) ∘ (B_mᵀ B_n)). A mixture's update has the squared norm cᵀ G c.
    """
    low, high = low.detach().double(), high.detach().double()
    inner = torch.einsum("mri,nsi->mnrs", low, low)
    outer = torch.einsum("mor,nos->mnrs", high, high)
    return (inner * outer).sum((2, 3))


@dataclass(frozen=True)
class Truncation:
    """A LoRA cut to a smaller rank, and what that costs.

    Attributes:
        layers: the cut LoRA.
        errors: ‖ΔW − ΔW_cut‖ / ‖ΔW‖ of every layer (Frobenius norms); no other LoRA of that rank has a smaller one.
        error: the same over all layers together.
    """

    layers: dict[str, tuple[Tensor, Tensor]]
    errors: dict[str, float]
    error: float


def truncated(layers: Layers, rank: int) -> Truncation:
    """The best approximation of every layer's B A by a LoRA of a smaller rank (Eckart and Young).

    Raises:
        InputError: a rank below 1.
    """
    rank = whole_number(rank, "a rank")
    cut, lost, whole = {}, {}, {}
    for name, (low, high) in layers.items():
        u, strength, v = svd_of_product(high.double(), low.double())
        root = strength[:rank].sqrt()
        cut[name] = ((root[:, None] * v[:, :rank].T).float(), (u[:, :rank] * root).float())
        lost[name], whole[name] = float(strength[rank:].square().sum()), float(strength.square().sum())
    errors = {name: (lost[name] / whole[name]) ** 0.5 if whole[name] else 0.0 for name in cut}
    return Truncation(cut, errors, (sum(lost.values()) / (sum(whole.values()) or 1.0)) ** 0.5)


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
        InputError: fewer vectors or dimensions than components, or NaN or infinity among them.
    """
    vectors = np.asarray(vectors, dtype=np.float64)
    if vectors.ndim != 2 or not 1 <= components <= min(vectors.shape) or not np.isfinite(vectors).all():
        raise InputError(
            f"expected a finite array [k, dimensions] with at least {components} of both, got {list(vectors.shape)}"
        )
    from sklearn.decomposition import PCA  # takes a second to import, which an edit need not wait for

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
