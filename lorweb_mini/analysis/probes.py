"""How well labels can be predicted from vectors: linear probes, clusters, shares of variance, nearest relations."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import normalized_mutual_info_score, silhouette_score
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ..errors import InputError
from .bootstrap import Names

COMPONENTS = 64
FOLDS, DEALS = 4, 3  # DEALS: of concepts to folds, where a vector shows several


def read_off(vectors: np.ndarray, labels: Names, concepts: Names, seed: int = 0) -> np.ndarray:
    """How often a linear classifier names each vector rightly that has not seen any of its concepts, float [k].

    Logistic regression, cross-validated. Vectors [k, dimensions] are standardised and reduced to at most
    :data:`COMPONENTS` principal components, within each fold.

    Args:
        concepts: what is held out together. [k]: every vector is judged once, by a classifier that was fitted on none
            of its concept. [k, m], for vectors that show several: concepts are assigned to folds at random,
            :data:`DEALS` times; a vector is judged when all of its concepts are in the fold, by a classifier fitted on
            the vectors that have none there, if its label is among those. A vector that is never judged is NaN.
    """
    vectors, names, groups = np.asarray(vectors), np.asarray(labels), np.asarray(concepts)
    if not len(vectors) == len(names) == len(groups):
        raise InputError(
            f"expected one label and one concept a vector, got {len(vectors)} vectors, {len(names)} and {len(groups)}"
        )
    (different, counts), shown = np.unique(names, return_counts=True), len(np.unique(groups))
    if len(different) < 2 or shown < FOLDS:
        raise InputError(f"expected at least two labels and {FOLDS} concepts, got {len(different)} and {shown}")
    if counts.max() < FOLDS:
        raise InputError(f"expected a label with at least {FOLDS} vectors, got at most {counts.max()} of one")
    right, judged = np.zeros((2, len(names)))
    for fit, check in _held_out(names, groups, seed):
        judged[check] += 1
        if len(set(names[fit])) < 2:
            continue
        components = min(COMPONENTS, len(fit) - 1, vectors.shape[1])
        reduce = (StandardScaler(), PCA(components, random_state=seed), StandardScaler())
        model = make_pipeline(*reduce, LogisticRegression(C=0.1, max_iter=500))
        right[check] += model.fit(vectors[fit], names[fit]).predict(vectors[check]) == names[check]
    return np.divide(right, judged, out=np.full(len(names), np.nan), where=judged > 0)


def _held_out(names: np.ndarray, groups: np.ndarray, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Indices to fit on and to judge on, see :func:`read_off`."""
    if groups.ndim == 1:
        yield from StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed).split(names, names, groups)
        return
    concepts, index = np.unique(groups, return_inverse=True)
    rng = np.random.default_rng(seed)
    for _ in range(DEALS):
        side = rng.permutation(len(concepts))[index.reshape(groups.shape)] % FOLDS
        for fold in range(FOLDS):
            check, fit = (np.flatnonzero(x.all(1)) for x in (side == fold, side != fold))
            check = check[np.isin(names[check], names[fit])]
            if len(check):
                yield fit, check


@dataclass(frozen=True)
class Clustering:
    """Whether points of one label lie together."""

    nmi: float  # normalised mutual information of the labels and as many k-means clusters, 0 to 1
    silhouette: float  # of the labels themselves, -1 to 1; above 0 the labels lie apart


def clustering(vectors: np.ndarray, labels: Names, seed: int = 0) -> Clustering:
    """Clustering scores of vectors [k, dimensions] with k labels; InputError unless 2 ≤ number of labels < k."""
    number = len(set(labels))
    if not 2 <= number < len(vectors) or len(labels) != len(vectors):
        raise InputError(
            f"expected between 2 and {len(vectors) - 1} different labels, one a vector, got {number} in {len(labels)}"
        )
    clusters = KMeans(number, n_init=4, random_state=seed).fit_predict(vectors)
    nmi, silhouette = normalized_mutual_info_score(labels, clusters), silhouette_score(vectors, list(labels))
    return Clustering(float(nmi), float(silhouette))


def variance_share(values: np.ndarray, labels: Names) -> np.ndarray:
    """Share of the variance of values [k, ..., d] that k labels account for, [...]: summed over the last axis.

        ε² = 1 − (k − 1) / (k − G) · SS_within / SS_total        for G different labels,

    which is η² less what labels without any meaning would account for: 0 is expected of those, 1 is everything.
    NaN where nothing varies; InputError unless 2 ≤ G < k and there is one label a value.
    """
    values = np.asarray(values, dtype=np.float64)
    names, index = np.unique(np.asarray(labels), return_inverse=True)
    k, groups = len(values), len(names)
    if len(index) != k or not 2 <= groups < k:
        raise InputError(
            f"expected one label a value, between 2 and {k - 1} different ones, got {groups} in {len(index)} labels"
        )
    means = np.stack([values[index == i].mean(0) for i in range(groups)])
    within = np.square(values - means[index]).sum((0, -1))
    total = np.square(values - values.mean(0)).sum((0, -1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return 1 - (k - 1) / (k - groups) * np.where(total > 0, within / total, np.nan)


def nearest_known(
    vectors: np.ndarray, labels: Names, known: Iterable[str], count: int = 3
) -> dict[str, list[tuple[str, float]]]:
    """For each relation that is not among the known ones, the ``count`` nearest of these with their cosines.

    Nearness is the cosine of mean vectors [k, dimensions], seen from the mean of the known relations' means. Known
    relations without a vector are passed over; InputError where fewer are left than ``count``.
    """
    names = np.asarray(labels)
    present = sorted(set(known) & set(names))
    if len(present) < count:
        raise InputError(f"expected vectors of at least {count} known relations, got {len(present)}")
    means = {name: np.asarray(vectors)[names == name].mean(0) for name in dict.fromkeys(names)}
    origin = np.mean([means[name] for name in present], 0)
    among = [means[name] - origin for name in present]
    nearest = {}
    for name in [x for x in means if x not in present]:
        (cosine,) = cosine_similarity([means[name] - origin], among)
        nearest[name] = [(present[i], float(cosine[i])) for i in np.argsort(-cosine)[:count]]
    return nearest
