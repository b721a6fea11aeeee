"""Intervals against naive bootstraps, against formulas, and on concepts that are no independent samples."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lorweb_mini.analysis.bootstrap import (
    beyond_doubt,
    interval,
    mean_of,
    median_ratio,
    over_concepts,
    resampling_weights,
)
from lorweb_mini.errors import InputError


def test_interval_is_that_of_a_naive_bootstrap() -> None:
    rng = np.random.default_rng(0)
    weights = resampling_weights(6, 4000, rng)
    assert (weights.sum(1) == 6).all()
    numerator, denominator = rng.random(6), 1 + rng.random(6)
    fast = (weights @ numerator) / (weights @ denominator)
    draws = rng.integers(6, size=(4000, 6))
    slow = numerator[draws].sum(1) / denominator[draws].sum(1)
    np.testing.assert_allclose(
        np.quantile(fast, [0.025, 0.5, 0.975]), np.quantile(slow, [0.025, 0.5, 0.975]), atol=0.02
    )


def test_intervals_draw_whole_concepts() -> None:
    values = np.array([0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0])
    apart = interval(mean_of(values), [str(i) for i in range(8)])
    together = interval(mean_of(values), list("aaaabbbb"))
    assert apart.value == together.value == 0.5
    assert (together.low, together.high) == (0, 1)  # two concepts: a resample often misses one of them
    assert apart.low > 0 and apart.high < 1
    rng = np.random.default_rng(0)
    counts = rng.multinomial(2, [0.5, 0.5], size=1000)
    expected = np.quantile(counts @ [0, 4] / (counts @ [4, 4]), [0.025, 0.975])
    np.testing.assert_allclose((together.low, together.high), expected)
    with pytest.raises(InputError, match="two concepts"):
        interval(mean_of(values), ["same"] * 8)


def test_the_median_over_relations_against_a_loop() -> None:
    top, bottom = np.array([1.0, 2, 3, 4, 5]), np.array([2.0, 2, 6, 1, 1])
    groups = ["x", "x", "y", "z", "z"]
    weights = np.array([[1.0, 1, 1, 1, 1], [2, 0, 1, 0, 1], [0, 0, 0, 3, 1]])
    found = median_ratio(top, bottom, groups)(weights)
    assert found.tolist() == pytest.approx([np.median([3 / 4, 0.5, 4.5]), np.median([0.5, 0.5, 5]), 17 / 4])


def test_verdicts_on_concepts_that_differ_by_luck_alone_are_rare() -> None:
    rng, concepts = np.random.default_rng(0), list("abcdef")
    coins = rng.choice([-1.0, 1.0], (600, 6))
    found = [beyond_doubt(interval(mean_of(row), concepts, 400), concepts) for row in coins]
    assert 0 < np.mean(np.abs(found)) < 0.05
    alike = [beyond_doubt(interval(mean_of(row), concepts, 400), [*concepts, "g"]) for row in np.abs(coins[:2])]
    assert alike == [1, 1]


def test_interval_is_the_binomial_one_where_each_value_is_a_concept() -> None:
    values = np.random.default_rng(0).random(300) < 0.7
    found = over_concepts(values, [f"concept {i}" for i in range(300)])
    half = 1.96 * math.sqrt(values.mean() * (1 - values.mean()) / 300)
    assert found.value == values.mean()
    assert found.low == pytest.approx(found.value - half, abs=0.01)
    assert found.high == pytest.approx(found.value + half, abs=0.01)


def test_interval_knows_that_a_concept_repeated_says_nothing_new() -> None:
    values, concepts = np.random.default_rng(0).random(40) < 0.7, [f"concept {i}" for i in range(40)]
    once, often = over_concepts(values, concepts), over_concepts(np.tile(values, 9), concepts * 9)
    assert (once.low, once.high) == (often.low, often.high)


def test_interval_of_two_crossed_sets_of_concepts_knows_both() -> None:
    """Values u_a + v_b on a grid: the variance of their mean is var(u) / 30 + var(v) / 30."""
    rng = np.random.default_rng(5)
    u, v = rng.normal(size=30), 3 * rng.normal(size=30)
    a, b = (x.ravel() for x in np.meshgrid(np.arange(30), np.arange(30)))
    values, names = u[a] + v[b], np.stack([np.char.add("a", a.astype(str)), np.char.add("b", b.astype(str))], 1)
    found = over_concepts(values, names)
    expected = 2 * 1.96 * math.sqrt(u.var() / 30 + v.var() / 30)
    assert found.high - found.low == pytest.approx(expected, rel=0.15)
    of_a_alone = over_concepts(values, names[:, 0])
    assert of_a_alone.high - of_a_alone.low < 0.5 * expected
    same = over_concepts(values, names[:, [0, 0]])  # the same concept twice is no second one
    assert (same.low, same.high) == (of_a_alone.low, of_a_alone.high)


def test_interval_leaves_out_what_is_not_known() -> None:
    values, concepts = np.array([1.0, 0.0, 1.0, np.nan]), list("abcd")
    assert over_concepts(values, concepts) == over_concepts(values[:3], concepts[:3])
    with pytest.raises(InputError, match="at least one value"):
        over_concepts(np.full(4, np.nan), concepts)
