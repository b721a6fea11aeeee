"""The LoRA space: where analogies land in it, what can be read off there, and how the basis LoRAs lie to each other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

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

from .. import algebra
from ..core.basis import Basis
from ..core.editor import Editor
from ..core.router import routing_statistics
from ..emoji.relations import Analogy, as_batch, get_relation
from ..emoji.sheets import load_emoji
from ..errors import InputError, whole_number

CHUNK = 256
PROBE_COMPONENTS = 64
DEALS = 3  # of concepts to folds, where a vector shows several


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
    return [_concept(x.keys[2]) for x in items]


def spread_out(names: Sequence[str], count: int) -> list[str]:
    """At most ``count`` names, evenly spaced in alphabetical order: the same ones each time."""
    places = np.linspace(0, len(names) - 1, min(count, len(names))).round().astype(int)
    return [sorted(names)[i] for i in places]


def _concept(key: str) -> str:
    emoji = load_emoji()
    return emoji.emojis[emoji.index[key.rsplit("@", 1)[0]]].concept


@dataclass(frozen=True, eq=False)
class Cloud:
    """Where k analogies lie, without their pictures, which would need a gigabyte for every few thousand.

    Attributes:
        coefficients: [k, layers, N].
        queries: what the router reads them off, the standardised embeddings of a, a' and b, [k, 3 · embedding_dim].
        relations: k names.
        keys: the four pictures of each, as in :class:`~lorweb_mini.emoji.relations.Analogy`.
    """

    coefficients: Tensor
    queries: Tensor
    relations: np.ndarray
    keys: tuple[tuple[str, str, str, str], ...]

    def __len__(self) -> int:
        return len(self.keys)

    @cached_property
    def vectors(self) -> np.ndarray:
        """Routing vectors, float32 [k, layers · N]."""
        return self.coefficients.flatten(1).numpy()

    @cached_property
    def families(self) -> np.ndarray:
        """Family of each relation (:class:`~lorweb_mini.emoji.relations.Relation`); an edit may have any strength."""
        names, index = np.unique(self.relations, return_inverse=True)
        return np.array([n.split("=")[0] if n.startswith("edit/") else get_relation(n).family for n in names])[index]

    @cached_property
    def styles(self) -> np.ndarray:
        """Whose drawing b is."""
        return np.array([key[2].rsplit("@", 1)[1] for key in self.keys])

    @cached_property
    def concepts(self) -> np.ndarray:
        """Base concept of b."""
        return self.shown[:, 2]

    @cached_property
    def shown(self) -> np.ndarray:
        """Base concepts of a, a' and b, all that the router was shown, [k, 3]."""
        return np.array([[_concept(key) for key in keys[:3]] for keys in self.keys])


@torch.no_grad()
def cloud_of(editor: Editor, batches: Iterable[Sequence[Analogy]]) -> Cloud:
    """Routes analogies and forgets their pictures.

    Args:
        batches: lists of analogies, one a relation for example. A generator of them is taken one list at a time, so
            that only one list's pictures are in memory.

    Raises:
        InputError: no analogies, or an editor without a router.
    """
    if editor.router is None:
        raise InputError("expected an editor with a router, got one without")
    coefficients, queries, names, keys = [], [], [], []
    for items in batches:
        for start in range(0, len(items), CHUNK):
            part = list(items[start : start + CHUNK])
            latents = editor.autoencoder.to_latent(torch.cat(as_batch(part)[:3]))
            query = editor.router.query(*editor.embeddings(*latents.chunk(3)))
            queries.append(query)
            coefficients.append(editor.router.logits(query).softmax(-1))
            names += [x.relation for x in part]
            keys += [x.keys for x in part]
    if not keys:
        raise InputError("expected at least one analogy, got none")
    return Cloud(torch.cat(coefficients), torch.cat(queries), np.array(names), tuple(keys))


# --- what can be read off -------------------------------------------------------------------------


def read_off(
    vectors: np.ndarray,
    labels: Sequence[str] | np.ndarray,
    concepts: Sequence[str] | np.ndarray,
    folds: int = 4,
    seed: int = 0,
) -> np.ndarray:
    """How often a linear classifier names each vector rightly that has not seen any of its concepts, float [k].

    Logistic regression, cross-validated. Vectors [k, dimensions] are standardised and reduced to at most
    :data:`PROBE_COMPONENTS` principal components, within each fold.

    Args:
        concepts: what is held out together. [k]: every vector is judged once, by a classifier that met no other of its
            concept. [k, m], for vectors that show several: concepts are dealt out to folds, :data:`DEALS` times; a
            vector is judged when all of its concepts are in the fold, by a classifier fitted on the vectors that have
            none there, if its label is among those. A vector that is never judged is NaN.

    Raises:
        InputError: lengths differ, fewer than two labels, or fewer concepts or vectors of a label than folds.
    """
    vectors, names, groups = np.asarray(vectors), np.asarray(labels), np.asarray(concepts)
    if not len(vectors) == len(names) == len(groups):
        raise InputError(
            f"expected one label and one concept a vector, got {len(vectors)} vectors, {len(names)} and {len(groups)}"
        )
    different, counts = np.unique(names, return_counts=True)
    if len(different) < 2 or len(np.unique(groups)) < folds:
        raise InputError(
            f"expected at least two labels and {folds} concepts, got {len(different)} and {len(np.unique(groups))}"
        )
    if counts.max() < folds:
        raise InputError(f"expected a label with at least {folds} vectors, got at most {counts.max()} of one")
    right, judged = np.zeros(len(names)), np.zeros(len(names))
    for fit, check in _held_out(names, groups, folds, seed):
        judged[check] += 1
        if len(set(names[fit])) < 2:
            continue
        components = min(PROBE_COMPONENTS, len(fit) - 1, vectors.shape[1])
        reduce = make_pipeline(StandardScaler(), PCA(components, random_state=seed), StandardScaler())
        model = make_pipeline(reduce, LogisticRegression(C=0.1, max_iter=500))
        right[check] += model.fit(vectors[fit], names[fit]).predict(vectors[check]) == names[check]
    return np.divide(right, judged, out=np.full(len(names), np.nan), where=judged > 0)


def _held_out(names: np.ndarray, groups: np.ndarray, folds: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Indices to fit on and to judge on, see :func:`read_off`."""
    if groups.ndim == 1:
        yield from StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(names, names, groups)
        return
    concepts, index = np.unique(groups, return_inverse=True)
    rng = np.random.default_rng(seed)
    for _ in range(DEALS):
        side = rng.permutation(len(concepts))[index.reshape(groups.shape)] % folds
        for fold in range(folds):
            check, fit = (np.flatnonzero(x.all(1)) for x in (side == fold, side != fold))
            check = check[np.isin(names[check], names[fit])]
            if len(check):
                yield fit, check


@dataclass(frozen=True)
class Clustering:
    """Whether points of one label lie together.

    Attributes:
        nmi: normalised mutual information of the labels and as many k-means clusters, 0 to 1.
        silhouette: of the labels themselves, -1 to 1; above 0 the labels lie apart.
    """

    nmi: float
    silhouette: float


def clustering(vectors: np.ndarray, labels: Sequence[str] | np.ndarray, seed: int = 0) -> Clustering:
    """Clustering scores of vectors [k, dimensions] with k labels; InputError unless 2 ≤ number of labels < k."""
    number = len(set(labels))
    if not 2 <= number < len(vectors) or len(labels) != len(vectors):
        raise InputError(
            f"expected between 2 and {len(vectors) - 1} different labels, one a vector, got {number} in {len(labels)}"
        )
    clusters = KMeans(number, n_init=4, random_state=seed).fit_predict(vectors)
    nmi, silhouette = normalized_mutual_info_score(labels, clusters), silhouette_score(vectors, list(labels))
    return Clustering(float(nmi), float(silhouette))


def variance_share(values: np.ndarray, labels: Sequence[str] | np.ndarray) -> np.ndarray:
    """Share of the variance of values [k, ..., d] that k labels account for, [...]: summed over the last axis.

        ε² = 1 − (k − 1) / (k − G) · SS_within / SS_total        for G different labels,

    which is η² less what labels without any meaning would account for: 0 is expected of those, 1 is everything.
    NaN where nothing varies.

    Raises:
        InputError: unless 2 ≤ G < k and there is one label a value.
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
    vectors: np.ndarray, labels: Sequence[str] | np.ndarray, known: Iterable[str], count: int = 3
) -> dict[str, list[tuple[str, float]]]:
    """For each relation that is not among the known ones, the ``count`` nearest of these with their cosines.

    Nearness is the cosine of mean routing vectors, seen from the mean of the known relations' means.

    Args:
        vectors, labels: k vectors [k, dimensions] and their relations.
        known: relations to look among; those without a vector are passed over.

    Raises:
        InputError: fewer known relations with vectors than ``count``.
    """
    names = np.asarray(labels)
    present = sorted(set(known) & set(names))
    if len(present) < count:
        raise InputError(f"expected vectors of at least {count} known relations, got {len(present)}")
    means = {name: np.asarray(vectors)[names == name].mean(0) for name in dict.fromkeys(names)}
    origin = np.mean([means[name] for name in present], 0)
    directions = {name: (mean - origin) / np.linalg.norm(mean - origin) for name, mean in means.items()}
    among = np.stack([directions[name] for name in present])
    nearest = {}
    for name in means:
        if name not in present:
            cosine = among @ directions[name]
            nearest[name] = [(present[i], float(cosine[i])) for i in np.argsort(-cosine)[:count]]
    return nearest


# --- the basis ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Usage:
    """How a set of analogies uses the basis.

    Attributes:
        mean: average coefficient, [layers, N].
        effective: for each layer exp(entropy of the mean), the number of LoRAs that carry the load, 1 to N, [layers].
        entropy, usage, variation: see :func:`~lorweb_mini.core.router.routing_statistics`.
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

    See :func:`~lorweb_mini.algebra.gram`; :class:`InputError` for a layer that is not there.
    """
    return algebra.gram(*_factors(basis, layer))


def update_spectrum(basis: Basis, layer: int, mixture: Tensor) -> Tensor:
    """Singular values of one layer's mixed update ΔW = sum_n c_n B_n A_n, largest first, float64 [min(N·r, in, out)].

    Raises:
        InputError: no such layer, or a mixture that has not the shape [N].
    """
    low, high = _factors(basis, layer)
    if mixture.shape != (basis.n_loras,):
        raise InputError(f"expected coefficients [{basis.n_loras}] of one layer, got {list(mixture.shape)}")
    low, high = algebra.fold(low, high, mixture)
    return algebra.svd_of_product(high, low)[1]


def _factors(basis: Basis, layer: int) -> tuple[Tensor, Tensor]:
    low, high = basis.factors(whole_number(layer, "a layer", 0, len(basis.layers) - 1))
    return low.detach().double(), high.detach().double()
