"""Values with their 95 % bootstrap intervals.

A statistic is a function of weights [R, k], which say how often each of k items occurs in each of R resamples. So
numerators and denominators of single items are all that an interval needs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import InputError

ENOUGH = 6  # concepts, for a verdict: all of them agree by chance once in 32 times

Names = Sequence[str] | np.ndarray
"""A label or a concept of each of k items, [k]."""
Statistic = Callable[[np.ndarray], np.ndarray]
"""Weights [R, k] of k items to R values."""
Resampled = tuple[float, np.ndarray]
"""A value, and the values [R] of its resamples."""


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % bootstrap interval; all NaN where the measure is missing."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, value: float, resampled: np.ndarray) -> Estimate:
        """From a value and its resamples [R], of which some may be NaN."""
        return MISSING if math.isnan(value) else cls(float(value), *np.nanquantile(resampled, [0.025, 0.975]).tolist())

    def __str__(self) -> str:
        return "–" if math.isnan(self.value) else f"{self.value:.2f} ({self.low:.2f}–{self.high:.2f})"


MISSING = Estimate(math.nan, math.nan, math.nan)


def resampling_weights(k: int, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """How often each of k items occurs in each bootstrap sample, [resamples, k]."""
    return rng.multinomial(k, np.full(k, 1 / k), size=resamples).astype(float)


def ratio(numerator: np.ndarray, denominator: np.ndarray, root: bool = False) -> Statistic:
    """Sum of k numerators over sum of k denominators, or the root of that; NaN where the denominator is 0."""

    def statistic(weights: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            value = (weights @ numerator) / (weights @ denominator)
        return np.sqrt(value) if root else value

    return statistic


def mean_of(values: np.ndarray) -> Statistic:
    """The weighted mean of values [k]."""
    return ratio(values, np.ones(len(values)))


def median_ratio(numerator: np.ndarray, denominator: np.ndarray, groups: Sequence[str]) -> Statistic:
    """Sum over sum within each group of items, then the median over groups: the normalised error of relations."""
    members = [np.asarray(groups) == group for group in set(groups)]
    ratios = [ratio(numerator * mine, denominator * mine) for mine in members]
    return lambda weights: np.nanmedian([one(weights) for one in ratios], axis=0)


def resampled(statistic: Statistic, weights: np.ndarray) -> Resampled:
    """A statistic as it is, and under each of the resampling weights [R, k]."""
    return float(statistic(np.ones((1, weights.shape[1])))[0]), statistic(weights)


def summary(parts: Sequence[Resampled], mean: bool = False) -> Estimate:
    """Median (or mean) over relations; those whose value is NaN are left out."""
    kept = [part for part in parts if not math.isnan(part[0])]
    if not kept:
        return MISSING
    values, again = np.array([value for value, _ in kept]), np.stack([each for _, each in kept])
    # A resample may miss every analogy that has the measure; it then counts with the relation's own value.
    again = np.where(np.isnan(again), values[:, None], again)
    reduce = np.mean if mean else np.median
    return Estimate.of(float(reduce(values)), reduce(again, axis=0))


def interval(statistic: Statistic, concepts: Names, resamples: int = 1000) -> Estimate:
    """A statistic of k items with its 95 % interval, whole concepts resampled; InputError for fewer than two concepts.

    The tones and styles of one concept are not independent samples: they are resampled, or left out, together.

    Args:
        concepts: of each item, [k] or, for items that show several, [k, m]. An item then counts as often as the
            product of how often each of its concepts was resampled (the pigeonhole bootstrap of Owen, Annals of
            Applied Statistics 1, 2007), which gives rather too wide an interval than too narrow a one.
    """
    names, index = np.unique(np.asarray(concepts), return_inverse=True)
    if len(names) < 2:
        raise InputError(f"expected items of at least two concepts, got {len(names)}")
    index = index.reshape(len(concepts), -1)
    counts = resampling_weights(len(names), resamples, np.random.default_rng(0))
    weights = counts[:, index[:, 0]]
    for column in range(1, index.shape[1]):
        repeated = (index[:, :column] == index[:, column : column + 1]).any(1)  # a concept shown twice counts once
        weights = weights * np.where(repeated, 1, counts[:, index[:, column]])
    return Estimate.of(*resampled(statistic, weights))


def over_concepts(values: np.ndarray, concepts: Names) -> Estimate:
    """Mean of those values [k] that are not NaN, with its :func:`interval`; InputError where all are NaN."""
    known = ~np.isnan(values := np.asarray(values, dtype=float))
    if not known.any():
        raise InputError("expected at least one value that is not NaN, got none")
    return interval(mean_of(values[known]), np.asarray(concepts)[known])


def beyond_doubt(gap: Estimate, concepts: Sequence[str], least: float = 0.0) -> int:
    """The sign of a difference if its interval leaves no doubt of it and it is at least so large, otherwise 0.

    Never on fewer than :data:`ENOUGH` concepts, however narrow the interval: of five that differ only by chance,
    all lie on the same side in one case of 16, which a bootstrap of those five cannot know.
    """
    if len(set(concepts)) < ENOUGH or abs(gap.value) < least:
        return 0
    return int(gap.low > 0) - int(gap.high < 0)
