"""Do ordered relations lie in order: on a line, or on a circle?

*Levels* are relations with a position that we know: five tones, seven steps of the moon, a blur of rising radius. Each
level has a cloud of routing vectors, whose mean is its centre. Two statistics ask whether the centres lie as the
positions say:

* **held out**: the first principal component of the levels' centres (for a circle the plane of the first two) is fitted
  on half of the concepts, and the centres of the *other* concepts are projected onto it. Line: Spearman's rank
  correlation of projection and position. Circle: the circular-circular correlation of angle and position (Fisher and
  Lee, Biometrika 70, 1983). The positions enter the fit only as the sign of the direction, or the sense of the circle.
* **Mantel**: rank correlation of the centres' distances with the positions' distances (Mantel, Cancer Research 27,
  1967). Nothing is fitted.

Both are tested by dealing the positions out anew, to **whole levels**. Dealing them out to single analogies would test
whether the levels differ at all, another and a much easier question: levels that lie apart in any arrangement can be
read off in *any* order, on held-out concepts too, along a direction that was fitted to that order.
"""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.stats import false_discovery_control, rankdata

from ..emoji.edits import apply_edit, relation_name
from ..emoji.relations import SPLITS, Analogy, concept_sides, differ, get_relation
from ..emoji.sheets import STYLES, load_emoji
from ..errors import InputError
from .bootstrap import Estimate, resampling_weights

LINE, CIRCLE = "line", "circle"
CANDIDATES = 60  # pairs of a relation that are set side by side
TURN = 2 * np.pi
CLEAR, LIKELY = 0.8, 0.5  # correlations from which a verdict is plain, or left open
SPLITS_TRIED, LEAST = 2000, 0.2  # random halves of the concepts; the smaller half's share of the analogies


# --- analogies at every level ---------------------------------------------------------------------


def crossed(relation: str, n: int, seed: int = 0, subgroup: str | None = None) -> list[Analogy]:
    """Up to n test analogies of a relation out of all ways to set two of its pairs side by side.

    ``analogies`` gives each pair once as (b, b'); a relation of few pairs, such as a step of the moon, has many more
    analogies. As there, the two pairs show different concepts, or different pictures where there is one concept only.

    Args:
        subgroup: Unicode subgroup that all four pictures must belong to, for example ``arrow``.

    Raises:
        InputError: unknown relation.
    """
    emojis, found = load_emoji().emojis, get_relation(relation)
    pairs = found.pairs("test")
    if subgroup is not None:
        pairs = pairs[[all(emojis[e].subgroup == subgroup for e in row[[0, 2]]) for row in pairs]]
    rng = np.random.default_rng([seed, zlib.crc32(relation.encode())])
    pairs = rng.permutation(pairs)[:CANDIDATES]
    if len(pairs) == 0 or n == 0:
        return []
    first, second = found.pictures(pairs)
    visible = differ(first, second).numpy()
    pairs, first, second = pairs[visible], first[visible], second[visible]
    concepts = np.array([[emojis[e].concept for e in row[[0, 2]]] for row in pairs]).reshape(-1, 2)
    apart = (concepts[:, None] != concepts).all(-1)
    if not apart.any():
        apart = (pairs[:, None, [0, 2]] != pairs[:, [0, 2]]).all(-1)
    items = []
    for i, j in rng.permutation(np.argwhere(apart))[:n]:
        keys = [_key(*pair) for pair in (pairs[i, :2], pairs[i, 2:], pairs[j, :2], pairs[j, 2:])]
        quartet = (keys[0], keys[1], keys[2], keys[3])
        items.append(Analogy(first[i], second[i], first[j], second[j], relation, "test", quartet))
    return items


def dial(kind: str, strengths: Sequence[float], n: int, seed: int = 0) -> list[list[Analogy]]:
    """Analogies all along an edit's dial, also where no relation has a strength.

    The n pairs of drawings are the same at all strengths. Every drawing is of another test concept, so a split by b's
    concept is one by a's, too. Drawings that a strength leaves as they are (grey ones under another hue) are passed by.

    Returns:
        One list of n analogies for each strength.

    Raises:
        InputError: unknown kind, a strength outside its range, or fewer than 2n concepts.
    """
    names = [relation_name(kind, strength) for strength in strengths]
    emoji = load_emoji()
    drawings = np.argwhere(emoji.present & (concept_sides() == SPLITS.index("test"))[:, None])
    chosen: dict[str, tuple[str, torch.Tensor, torch.Tensor]] = {}
    for row in np.random.default_rng([seed, zlib.crc32(kind.encode())]).permutation(drawings):
        concept = emoji.emojis[row[0]].concept
        if len(chosen) == 2 * n or concept in chosen:
            continue
        picture = emoji.tensor(*row)
        edited = torch.cat([apply_edit(picture, kind, strength) for strength in strengths])
        if bool(differ(picture.expand_as(edited), edited).all()):
            chosen[concept] = (_key(*row), picture[0], edited)
    if len(chosen) < 2 * n:
        raise InputError(f"expected {2 * n} test concepts that {kind} changes, found {len(chosen)}")
    drawn = list(chosen.values())
    return [
        [
            Analogy(a, a_primes[i], b, b_primes[i], name, "test", (a_key, a_key, b_key, b_key))
            for (a_key, a, a_primes), (b_key, b, b_primes) in zip(drawn[::2], drawn[1::2], strict=True)
        ]
        for i, name in enumerate(names)
    ]


def _key(emoji: int, style: int) -> str:
    return f"{load_emoji().emojis[emoji].key}@{STYLES[style]}"


# --- statistics -----------------------------------------------------------------------------------


def rank_correlation(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Spearman's correlation of x [k] with each row of y [..., k], ties sharing their mean rank; 0 of a constant."""
    x, y = (ranks - ranks.mean(-1, keepdims=True) for ranks in (rankdata(x), rankdata(y, axis=-1)))
    size = np.sqrt(np.square(x).sum() * np.square(y).sum(-1))
    return np.where(size > 0, (x * y).sum(-1) / np.where(size > 0, size, 1), 0.0)[()]


def circular_correlation(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Fisher and Lee's correlation of angles x [k] with each row of y [..., k], in radians, from −1 to 1.

        ρ = sum_{i<j} sin(x_i − x_j) sin(y_i − y_j) / sqrt( sum_{i<j} sin²(x_i − x_j) · sum_{i<j} sin²(y_i − y_j) )

    1 where y is x turned by any angle, −1 where it is also mirrored; 0 where one of them is constant. Computed from
    sums over single angles, without the pairs.
    """
    cc, ss = (np.cos(x) * np.cos(y)).sum(-1), (np.sin(x) * np.sin(y)).sum(-1)
    cs, sc = (np.cos(x) * np.sin(y)).sum(-1), (np.sin(x) * np.cos(y)).sum(-1)
    k = len(x)
    left, right = (k**2 - np.square(np.cos(2 * z).sum(-1)) - np.square(np.sin(2 * z).sum(-1)) for z in (x, y))
    varied = np.minimum(left, right) > 1e-9 * k**2
    return np.where(varied, 4 * (cc * ss - cs * sc) / np.sqrt(np.where(varied, left * right, 1)), 0.0)[()]


def position_distances(positions: np.ndarray, shape: str) -> np.ndarray:
    """How far positions [m] are from each other, [m, m]: along the line, or the shorter way round (in turns)."""
    apart = np.abs(positions[:, None] - positions)
    return np.minimum(apart % 1, 1 - apart % 1) if shape == CIRCLE else apart


@dataclass(frozen=True)
class Order:
    """Whether levels lie in order on a line or a circle.

    Attributes:
        shape, levels, analogies: what was tested, and how many there were.
        held_out: correlation of place and position on concepts that the direction or plane was not fitted on, the mean
            over several random halves, with a 95 % bootstrap interval over concepts.
        p: share of arrangements of the levels with a correlation at least as large, the true one among them.
        mantel, mantel_p: the same for the correlation of distances.
        share: of the variance between centres, what the fitted direction or plane holds.
    """

    shape: str
    levels: int
    analogies: int
    held_out: Estimate
    p: float
    mantel: Estimate
    mantel_p: float
    share: float


@dataclass(frozen=True)
class _Half:
    """Half of the groups, on whose level centres axes were fitted.

    fitted: these centres on the axes [m, q]. points: all vectors there [k, q]. others: 1 for the other groups [g].
    """

    fitted: np.ndarray
    points: np.ndarray
    others: np.ndarray


class _Levels:
    """Vectors [k, d] with the level [k] and the group [k] of each, and the positions [m] of the levels."""

    def __init__(
        self,
        vectors: np.ndarray,
        labels: Sequence[str] | np.ndarray,
        positions: Mapping[str, float],
        groups: Sequence[str] | np.ndarray,
        shape: str,
        splits: int,
        seed: int,
    ) -> None:
        if shape not in (LINE, CIRCLE):
            raise InputError(f"expected the shape {LINE} or {CIRCLE}, got {shape!r}")
        if not len(vectors) == len(labels) == len(groups):
            raise InputError(
                f"expected one label and one group a vector, got {len(vectors)}, {len(labels)} and {len(groups)}"
            )
        if unknown := set(labels) - set(positions):
            raise InputError(f"expected a position for every label, got none for {sorted(unknown)}")
        names = [name for name in positions if name in set(labels)]
        if len(names) < 4:
            raise InputError(f"expected at least 4 levels, since 3 lie on a circle in any order; got {len(names)}")
        self.vectors, self.shape = np.asarray(vectors, np.float64), shape
        self.positions = np.array([positions[name] for name in names], np.float64)
        self.member = np.array(labels) == np.array(names)[:, None]  # [m, k]
        self.groups, self.group = np.unique(np.asarray(groups), return_inverse=True)
        # Below this a difference is rounding: a picture's embedding depends a little on the batch it was in.
        self.least = 1e-5 * float(np.sqrt(self.vectors.var(0).sum()))
        self.everyone = np.ones(len(self.groups))
        self.halves = [self._half(side) for side in self._sides(splits, seed)]

    def _sides(self, count: int, seed: int) -> list[np.ndarray]:
        """Up to ``count`` splits of the groups, each taken both ways; every level has analogies on both sides."""
        rng, found = np.random.default_rng(seed), dict[bytes, np.ndarray]()
        for side in rng.integers(2, size=(SPLITS_TRIED, len(self.groups))).astype(bool):
            mine = side[self.group]
            both = (self.member & mine).any(1) & (self.member & ~mine).any(1)
            if both.all() and min(mine.mean(), 1 - mine.mean()) >= LEAST:
                found[(side ^ side[0]).tobytes()] = side
            if len(found) == count:
                break
        if not found:
            raise InputError("expected groups that can be halved so that every level is in both halves, found no such")
        return [half for side in found.values() for half in (side, ~side)]

    def _half(self, side: np.ndarray) -> _Half:
        centres = self.centres(self.vectors, side)
        axes = np.linalg.svd(centres, full_matrices=False)[2][: 1 if self.shape == LINE else 2]
        return _Half(centres @ axes.T, self.vectors @ axes.T, (~side).astype(float))

    def centres(self, points: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Levels' mean points, seen from their own mean [m, q]; groups count by weight, NaN for a level without any."""
        each = self.member * np.asarray(weights, float)[self.group]
        with np.errstate(invalid="ignore"):
            means = (each @ points) / each.sum(1, keepdims=True)
        return means - np.nanmean(means, 0)

    def score(self, centres: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Correlation of centres on the axes [m, q] with positions [..., m]."""
        present = ~np.isnan(centres[:, 0])
        centres, positions = np.where(np.abs(centres) < self.least, 0, centres)[present], positions[..., present]
        if self.shape == LINE:
            return rank_correlation(centres[:, 0], positions)
        return circular_correlation(np.arctan2(centres[:, 1], centres[:, 0]), TURN * positions)

    def held_out(self, positions: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Mean over halves of the others' correlation with positions [..., m], its sign set by the half itself."""
        scores = [
            np.where(self.score(half.fitted, positions) < 0, -1, 1)
            * self.score(self.centres(half.points, weights * half.others), positions)
            for half in self.halves
            if (weights * half.others).any()
        ]
        return np.mean(scores, 0)

    def mantel(self, apart: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Rank correlation of the centres' distances with the positions' distances [..., m, m]."""
        centres = self.centres(self.vectors, weights)
        first, second = np.triu_indices(len(centres), 1)
        distances = np.sqrt(np.square(centres[first] - centres[second]).sum(-1))
        present = ~np.isnan(distances)
        return rank_correlation(distances[present], apart[..., first, second][..., present])

    def share(self) -> float:
        """Of the variance between all centres, what the axes fitted to them hold."""
        variances = np.square(np.linalg.svd(self.centres(self.vectors, self.everyone), compute_uv=False))
        return float(variances[: 1 if self.shape == LINE else 2].sum() / variances.sum())


def held_out_order(
    vectors: np.ndarray,
    labels: Sequence[str] | np.ndarray,
    positions: Mapping[str, float],
    groups: Sequence[str] | np.ndarray,
    shape: str = LINE,
    splits: int = 5,
    seed: int = 0,
) -> float:
    """The held-out correlation of :func:`order_of` alone, without tests and intervals: for comparisons."""
    found = _Levels(vectors, labels, positions, groups, shape, splits, seed)
    return float(found.held_out(found.positions, found.everyone))


def order_of(
    vectors: np.ndarray,
    labels: Sequence[str] | np.ndarray,
    positions: Mapping[str, float],
    groups: Sequence[str] | np.ndarray,
    shape: str = LINE,
    arrangements: int = 2000,
    resamples: int = 500,
    splits: int = 5,
    seed: int = 0,
) -> Order:
    """Tests whether levels lie in order, see the head of this module.

    Args:
        vectors: [k, dimensions]; labels: the level of each, [k]; groups: what is held out together, the concept, [k].
        positions: level to position, any number on a line, a share of a full turn on a circle.
        arrangements: all are tried where the levels have no more, else as many random ones; at least 1.
        splits: random halves of the groups at most, each taken both ways.

    Raises:
        InputError: fewer than 4 levels, a label without a position, lengths that differ, or groups of which no two
            halves both have every level.
    """
    found = _Levels(vectors, labels, positions, groups, shape, splits, seed)
    rng = np.random.default_rng(seed)
    truth, everyone = found.positions, found.everyone
    dealt = truth[_arrangements(len(truth), arrangements, rng)]  # the first row is the truth
    apart = np.stack([position_distances(row, shape) for row in dealt])
    held_out, mantel = found.held_out(dealt, everyone), found.mantel(apart, everyone)
    again = [
        (found.held_out(truth, weights), found.mantel(apart[0], weights))
        for weights in resampling_weights(len(everyone), resamples, rng)
    ]
    low, high = np.nanquantile(again, [0.025, 0.975], axis=0)
    return Order(
        shape,
        len(truth),
        len(found.vectors),
        Estimate(float(held_out[0]), float(low[0]), float(high[0])),
        float((held_out >= held_out[0] - 1e-9).mean()),
        Estimate(float(mantel[0]), float(low[1]), float(high[1])),
        float((mantel >= mantel[0] - 1e-9).mean()),
        found.share(),
    )


def _arrangements(m: int, limit: int, rng: np.random.Generator) -> np.ndarray:
    """Orders of m levels, [n, m], the true one first: all of them, or ``limit`` at random where there are more."""
    if math.factorial(m) <= limit:
        return np.array(list(itertools.permutations(range(m))))
    return np.stack([np.arange(m), *(rng.permutation(m) for _ in range(limit - 1))])


def corrected(orders: Sequence[Order]) -> list[Order]:
    """The same orders with p-values corrected for how many there are: false discovery rate, Benjamini and Hochberg."""
    p = false_discovery_control([p for order in orders for p in (order.p, order.mantel_p)]).reshape(-1, 2)
    return [replace(x, p=float(a), mantel_p=float(b)) for x, (a, b) in zip(orders, p, strict=True)]


def verdict(orders: Sequence[Order], level: float = 0.05) -> str:
    """What the tests of one set of levels, for one shape or for both, allow to say.

    In order on a shape: both p-values are below ``level``, and roughly so where the held-out correlation is below
    :data:`CLEAR`; of two such shapes the one with the larger correlations. Undecided: no such shape, but both
    correlations with one are above :data:`LIKELY`.
    """
    certain = [x for x in orders if max(x.p, x.mantel_p) < level]
    if certain:
        best = max(certain, key=lambda x: x.held_out.value + x.mantel.value)
        return f"{'in order' if best.held_out.value >= CLEAR else 'roughly in order'} on a {best.shape}"
    likely = [x for x in orders if min(x.held_out.value, x.mantel.value) > LIKELY]
    if likely:
        return f"undecided: as if on a {likely[0].shape}, which {likely[0].levels} levels may be by luck"
    nowhere = "not on a " + " nor on a ".join(x.shape for x in orders)
    if any(x.mantel_p < level for x in orders):
        return f"{nowhere}, though near positions lie near each other"
    if any(x.p < level for x in orders):
        return f"{nowhere}, though in order along the widest direction"
    return nowhere
