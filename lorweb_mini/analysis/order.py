"""Do ordered relations lie in order: on a line, or on a circle?

*Levels* are relations with a position that we know: tones, steps of the moon, a blur of rising radius. Each has a cloud
of routing vectors, whose mean is its centre. Two statistics test whether the centres are arranged as the positions:

* **held out**: the first principal component of the levels' centres (for a circle the plane of the first two) is fitted
  on half of the concepts, and the centres of the *other* concepts are projected onto it. Line: Spearman's rank
  correlation of projection and position. Circle: the circular-circular correlation of angle and position (Fisher and
  Lee, Biometrika 70, 1983). The positions enter the fit only as the sign of the direction, or the sense of the circle.
* **Mantel**: rank correlation of the centres' distances with the positions' distances (Mantel, Cancer Research 27,
  1967). Nothing is fitted.

Both permute the positions of **whole levels**. Permuting those of single analogies would test whether the levels differ
at all, a much easier question: levels that lie apart can be sorted into *any* order along a direction fitted to it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import false_discovery_control, rankdata

from ..errors import InputError
from .bootstrap import Estimate, Names, resampling_weights

LINE, CIRCLE = "line", "circle"
TURN = 2 * np.pi
LEVEL = 0.05  # of significance
CLEAR, LIKELY = 0.8, 0.5  # correlations from which a verdict is plain, or left open
SPLITS, SPLITS_TRIED = 5, 2000  # random halves of the concepts, each taken both ways
LEAST = 0.2  # the smaller half's share of the analogies


def rank_correlation(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Spearman's correlation of x [k] with each row of y [..., k], ties sharing their mean rank; 0 of a constant."""
    x, y = (ranks - ranks.mean(-1, keepdims=True) for ranks in (rankdata(x), rankdata(y, axis=-1)))
    size = np.sqrt(np.square(x).sum() * np.square(y).sum(-1))
    return np.where(size > 0, (x * y).sum(-1) / np.where(size > 0, size, 1), 0.0)[()]


def circular_correlation(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Fisher and Lee's correlation of angles x [k] with each row of y [..., k], in radians, from −1 to 1.

        ρ = sum_{i<j} sin(x_i − x_j) sin(y_i − y_j) / sqrt( sum_{i<j} sin²(x_i − x_j) · sum_{i<j} sin²(y_i − y_j) )

    1 where y is x turned, −1 where it is also mirrored; 0 where one is constant. Computed without the pairs.
    """
    cc, ss = (np.cos(x) * np.cos(y)).sum(-1), (np.sin(x) * np.sin(y)).sum(-1)
    cs, sc = (np.cos(x) * np.sin(y)).sum(-1), (np.sin(x) * np.cos(y)).sum(-1)
    k = len(x)
    left, right = (k**2 - np.square(np.cos(2 * z).sum(-1)) - np.square(np.sin(2 * z).sum(-1)) for z in (x, y))
    varied = np.minimum(left, right) > 1e-9 * k**2
    return np.where(varied, 4 * (cc * ss - cs * sc) / np.sqrt(np.where(varied, left * right, 1)), 0.0)[()]


def position_distances(positions: np.ndarray, shape: str) -> np.ndarray:
    """How far positions [..., m] are from each other, [..., m, m]: along the line, or the shorter way (in turns)."""
    apart = np.abs(positions[..., :, None] - positions[..., None, :])
    return np.minimum(apart % 1, 1 - apart % 1) if shape == CIRCLE else apart


@dataclass(frozen=True)
class Order:
    """Whether levels lie in order on a line or a circle; intervals are over concepts.

    A p is the share of arrangements of the levels with a correlation at least as large, the true one among them.
    """

    shape: str
    levels: int
    analogies: int
    held_out: Estimate  # correlation on concepts that nothing was fitted on, the mean over several random halves
    p: float
    mantel: Estimate
    mantel_p: float
    share: float  # of the variance between centres, what the fitted direction or plane holds


class _Levels:
    """Vectors [k, d] of m levels, each with a group, and the axes fitted to the centres of halves of the groups."""

    def __init__(
        self, vectors: np.ndarray, labels: np.ndarray, names: list[str], groups: np.ndarray, shape: str, seed: int
    ) -> None:
        self.vectors, self.shape = np.asarray(vectors, np.float64), shape
        self.axes = 1 if shape == LINE else 2
        self.member = labels == np.array(names)[:, None]  # [m, k]
        self.groups, self.group = np.unique(groups, return_inverse=True)
        # Below this a difference is rounding: a picture's embedding depends a little on the batch it was in.
        self.least = 1e-5 * float(np.sqrt(self.vectors.var(0).sum()))
        self.halves: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        for half in (half for side in self._sides(seed) for half in (side, ~side)):
            centres = self.centres(self.vectors, half)
            axes = np.linalg.svd(centres, full_matrices=False)[2][: self.axes]
            self.halves.append((centres @ axes.T, self.vectors @ axes.T, (~half).astype(float)))

    def _sides(self, seed: int) -> list[np.ndarray]:
        """Random halves of the groups, bool, such that every level has analogies in both."""
        rng, sides = np.random.default_rng(seed), dict[bytes, np.ndarray]()
        for side in rng.integers(2, size=(SPLITS_TRIED, len(self.groups))).astype(bool):
            mine = side[self.group]
            both = (self.member & mine).any(1) & (self.member & ~mine).any(1)
            if both.all() and min(mine.mean(), 1 - mine.mean()) >= LEAST:
                sides[(side ^ side[0]).tobytes()] = side
            if len(sides) == SPLITS:
                break
        if not sides:
            raise InputError("expected groups that can be halved so that every level is in both halves, found no such")
        return list(sides.values())

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
        scores = []
        for fitted, points, others in self.halves:
            if (weights * others).any():
                sign = np.where(self.score(fitted, positions) < 0, -1, 1)
                scores.append(sign * self.score(self.centres(points, weights * others), positions))
        return np.mean(scores, 0)

    def mantel(self, positions: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Rank correlation of the centres' distances with the distances of positions [..., m]."""
        centres = self.centres(self.vectors, weights)
        first, second = np.triu_indices(len(centres), 1)
        distances = np.sqrt(np.square(centres[first] - centres[second]).sum(-1))
        present = ~np.isnan(distances)
        apart = position_distances(positions, self.shape)
        return rank_correlation(distances[present], apart[..., first, second][..., present])

    def share(self) -> float:
        """Of the variance between all centres, what the axes fitted to them hold."""
        centres = self.centres(self.vectors, np.ones(len(self.groups)))
        variances = np.square(np.linalg.svd(centres, compute_uv=False))
        return float(variances[: self.axes].sum() / variances.sum())


def held_out_order(
    vectors: np.ndarray, labels: Names, positions: Mapping[str, float], groups: Names, shape: str = LINE
) -> float:
    """The held-out correlation of :func:`order_of` alone, without tests and intervals: for comparisons."""
    return order_of(vectors, labels, positions, groups, shape, arrangements=1, resamples=1).held_out.value


def order_of(
    vectors: np.ndarray,
    labels: Names,
    positions: Mapping[str, float],
    groups: Names,
    shape: str = LINE,
    arrangements: int = 2000,
    resamples: int = 500,
    seed: int = 0,
) -> Order:
    """Tests whether at least 4 levels lie in order, see the head of this module.

    Args:
        vectors: [k, dimensions]; labels: the level of each, [k]; groups: what is held out together, the concept, [k].
        positions: level to position, any number on a line, a share of a full turn on a circle.
        arrangements: all are tried where the levels have no more, else as many random ones; at least 1.
    """
    if shape not in (LINE, CIRCLE):
        raise InputError(f"expected the shape {LINE} or {CIRCLE}, got {shape!r}")
    if len(set(sizes := (len(vectors), len(labels), len(groups)))) > 1:
        raise InputError(f"expected one label and one group a vector, got {sizes}")
    if unknown := set(labels) - set(positions):
        raise InputError(f"expected a position for every label, got none for {sorted(unknown)}")
    names = [name for name in positions if name in set(labels)]
    if len(names) < 4:
        raise InputError(f"expected at least 4 levels, since 3 lie on a circle in any order; got {len(names)}")
    levels = _Levels(vectors, np.asarray(labels), names, np.asarray(groups), shape, seed)
    rng = np.random.default_rng(seed)
    truth, everyone = np.array([positions[name] for name in names], np.float64), np.ones(len(levels.groups))
    arranged = truth[_arrangements(len(truth), arrangements, rng)]  # the first row is the truth
    weights = resampling_weights(len(everyone), resamples, rng)

    def tested(statistic: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> tuple[Estimate, float]:
        values = statistic(arranged, everyone)
        estimate = Estimate.of(values[0], np.array([statistic(truth, each) for each in weights]))
        return estimate, float((values >= values[0] - 1e-9).mean())

    held_out, mantel = tested(levels.held_out), tested(levels.mantel)
    return Order(shape, len(truth), len(levels.vectors), *held_out, *mantel, levels.share())


def _arrangements(m: int, limit: int, rng: np.random.Generator) -> np.ndarray:
    """Orders of m levels, [n, m], the true one first."""
    if math.factorial(m) <= limit:
        return np.array(list(itertools.permutations(range(m))))
    return np.stack([np.arange(m), *(rng.permutation(m) for _ in range(limit - 1))])


def corrected(orders: Sequence[Order]) -> list[Order]:
    """The same orders with p-values corrected for how many there are: false discovery rate, Benjamini and Hochberg."""
    p = false_discovery_control([p for order in orders for p in (order.p, order.mantel_p)]).reshape(-1, 2)
    return [replace(x, p=float(a), mantel_p=float(b)) for x, (a, b) in zip(orders, p, strict=True)]


def verdict(orders: Sequence[Order]) -> str:
    """What the tests of one set of levels, for one shape or for both, allow to say.

    In order on a shape: both p-values are below :data:`LEVEL`, and roughly so where the held-out correlation is below
    :data:`CLEAR`; of two such shapes the one with the larger correlations. Undecided: no such shape, but both
    correlations with one are above :data:`LIKELY`.
    """
    certain = [x for x in orders if max(x.p, x.mantel_p) < LEVEL]
    if certain:
        best = max(certain, key=lambda x: x.held_out.value + x.mantel.value)
        return f"{'in order' if best.held_out.value >= CLEAR else 'roughly in order'} on a {best.shape}"
    likely = [x for x in orders if min(x.held_out.value, x.mantel.value) > LIKELY]
    if likely:
        return f"undecided: as if on a {likely[0].shape}, which {likely[0].levels} levels may be by luck"
    nowhere = "not on a " + " nor on a ".join(x.shape for x in orders)
    if any(x.mantel_p < LEVEL for x in orders):
        return f"{nowhere}, though near positions lie near each other"
    if some := next((x for x in orders if x.p < LEVEL), None):
        where = "round the widest plane" if some.shape == CIRCLE else "along the widest direction"
        return f"{nowhere}, though in order {where}"
    return nowhere
