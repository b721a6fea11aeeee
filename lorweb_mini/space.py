"""The LoRA space: where analogies land in it, what can be read off there, and how the basis LoRAs lie to each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import normalized_mutual_info_score, silhouette_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from .basis import Basis
from .editor import Editor
from .images import InputError, load_emoji
from .relations import Analogy, as_batch
from .router import routing_statistics

CHUNK = 256
PROBE_COMPONENTS = 64


def coefficients_of(editor: Editor, items: Sequence[Analogy]) -> Tensor:
    """Mixing coefficients of k analogies, [k, layers, N]."""
    if not items:
        raise InputError("expected at least one analogy, got none")
    parts = [list(items[i : i + CHUNK]) for i in range(0, len(items), CHUNK)]
    return torch.cat([editor.route(*as_batch(part)[:3]) for part in parts])


def routing_vectors(editor: Editor, items: Sequence[Analogy]) -> np.ndarray:
    """Where k analogies lie: all layers' coefficients in a row, float32 [k, layers · N]."""
    return coefficients_of(editor, items).flatten(1).numpy()


def concepts_of(items: Sequence[Analogy]) -> list[str]:
    """The base concept that b shows, for each analogy: the unit by which data are split."""
    emoji = load_emoji()
    return [emoji.emojis[emoji.index[x.keys[2].rsplit("@", 1)[0]]].concept for x in items]


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


@dataclass(frozen=True)
class Probe:
    """How well a linear classifier names the label from a vector.

    Attributes:
        accuracy: on concepts that the classifier was not fitted on, averaged over classes' folds.
        shuffled: the same after shuffling the labels, what chance and overfitting give.
        chance: share of the most frequent label.
    """

    accuracy: float
    shuffled: float
    chance: float


def linear_probe(
    vectors: np.ndarray, labels: Sequence[str], concepts: Sequence[str], folds: int = 4, seed: int = 0
) -> Probe:
    """Logistic regression, cross-validated so that no concept lies on both sides.

    Vectors [k, dimensions] are standardised and reduced to at most 64 principal components, within each fold.

    Raises:
        InputError: lengths differ, fewer than two labels, or fewer concepts or vectors of a label than folds.
    """
    vectors, names, groups = np.asarray(vectors), np.asarray(labels), np.asarray(concepts)
    if not len(vectors) == len(names) == len(groups):
        raise InputError(
            f"expected one label and one concept a vector, got {len(vectors)} vectors, {len(names)} and {len(groups)}"
        )
    if len(set(names)) < 2 or len(set(groups)) < folds:
        raise InputError(
            f"expected at least two labels and {folds} concepts, got {len(set(names))} and {len(set(groups))}"
        )

    _, counts = np.unique(names, return_counts=True)
    if counts.max() < folds:
        raise InputError(f"expected a label with at least {folds} vectors, got at most {counts.max()} of one")

    def accuracy(target: np.ndarray) -> float:
        right = 0
        splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
        for fit, check in splitter.split(vectors, target, groups):
            if len(set(target[fit])) < 2:
                continue
            components = min(PROBE_COMPONENTS, len(fit) - 1, vectors.shape[1])
            model = make_pipeline(
                StandardScaler(),
                PCA(components, random_state=seed),
                StandardScaler(),
                LogisticRegression(C=0.1, max_iter=500),
            )
            right += int((model.fit(vectors[fit], target[fit]).predict(vectors[check]) == target[check]).sum())
        return right / len(target)

    shuffled = np.random.default_rng(seed).permutation(names)
    return Probe(accuracy(names), accuracy(shuffled), float(counts.max() / len(names)))


@dataclass(frozen=True)
class Clustering:
    """Whether points of one label lie together.

    Attributes:
        nmi: normalised mutual information of the labels and as many k-means clusters, 0 to 1.
        silhouette: of the labels themselves, -1 to 1; above 0 the labels lie apart.
    """

    nmi: float
    silhouette: float


def clustering(vectors: np.ndarray, labels: Sequence[str], seed: int = 0) -> Clustering:
    """Clustering scores of vectors [k, dimensions] with k labels; InputError unless 2 ≤ number of labels < k."""
    number = len(set(labels))
    if not 2 <= number < len(vectors) or len(labels) != len(vectors):
        raise InputError(
            f"expected between 2 and {len(vectors) - 1} different labels, one a vector, got {number} in {len(labels)}"
        )
    found = KMeans(number, n_init=4, random_state=seed).fit_predict(vectors)
    return Clustering(
        float(normalized_mutual_info_score(labels, found)), float(silhouette_score(vectors, list(labels)))
    )


@dataclass(frozen=True)
class Usage:
    """How a set of analogies uses the basis.

    Attributes:
        mean: average coefficient, [layers, N].
        effective: for each layer exp(entropy of the mean), the number of LoRAs that carry the load, 1 to N, [layers].
        entropy, usage, variation: see :func:`~lorweb_mini.router.routing_statistics`.
    """

    mean: np.ndarray
    effective: np.ndarray
    entropy: float
    usage: float
    variation: float


def basis_usage(coefficients: Tensor) -> Usage:
    """Usage of the basis from coefficients [k, layers, N] whose rows sum to 1."""
    mean = coefficients.mean(0)
    effective = torch.special.entr(mean).sum(-1).exp()
    return Usage(mean.numpy(), effective.numpy(), **routing_statistics(coefficients))


def update_gram(basis: Basis, layer: int) -> Tensor:
    """Inner products ⟨ΔW_m, ΔW_n⟩ of one layer's weight updates ΔW_n = B_n A_n, float64 [N, N].

    tr((B_m A_m)ᵀ B_n A_n) = sum((A_m A_nᵀ) ∘ (B_mᵀ B_n)), so r × r products do, and no ΔW is ever built. The update of
    a mixture c has the squared norm cᵀ G c.

    Raises:
        InputError: no such layer.
    """
    if not 0 <= layer < len(basis.layers):
        raise InputError(f"expected a layer from 0 to {len(basis.layers) - 1}, got {layer}")
    low, high = (x.detach().double() for x in basis.factors(layer))
    inner = torch.einsum("mri,nsi->mnrs", low, low)
    outer = torch.einsum("mor,nos->mnrs", high, high)
    return (inner * outer).sum((2, 3))


def cosines(gram: Tensor) -> Tensor:
    """Inner products [N, N] to cosines; 0 where an update is 0."""
    norm = gram.diagonal().clamp(min=0).sqrt()
    return torch.where(norm[:, None] * norm > 0, gram / (norm[:, None] * norm), 0.0)
