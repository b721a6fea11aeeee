"""Order statistics on synthetic lines, circles and noise, whose answers are known, and against naive sums."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import spearmanr

from lorweb_mini.analysis.bootstrap import Estimate
from lorweb_mini.analysis.order import (
    CIRCLE,
    LINE,
    circular_correlation,
    corrected,
    held_out_order,
    order_of,
    position_distances,
    rank_correlation,
    verdict,
)
from lorweb_mini.errors import InputError

LEVELS = 7
QUICK = {"arrangements": 300, "resamples": 60}


def cloud(centres: np.ndarray, concepts: int = 12, noise: float = 0.3, seed: int = 0):
    """Points around centres [m, d], one of each level a concept; concepts shift all their points alike."""
    rng = np.random.default_rng(seed)
    m, d = centres.shape
    shift = rng.normal(size=(concepts, 1, d))
    points = centres + shift + noise * rng.normal(size=(concepts, m, d))
    labels = [f"level {i}" for _ in range(concepts) for i in range(m)]
    groups = [f"concept {c}" for c in range(concepts) for _ in range(m)]
    return points.reshape(-1, d), labels, groups


def positions(m: int, shape: str) -> dict[str, float]:
    return {f"level {i}": i / m if shape == CIRCLE else float(i) for i in range(m)}


def line(m: int = LEVELS, d: int = 30) -> np.ndarray:
    return np.arange(m)[:, None] * np.random.default_rng(5).normal(size=d)


def circle(m: int = LEVELS, d: int = 30) -> np.ndarray:
    angle = 2 * np.pi * np.arange(m) / m
    plane = np.linalg.qr(np.random.default_rng(6).normal(size=(d, 2)))[0]
    return 10 * np.stack([np.cos(angle), np.sin(angle)], 1) @ plane.T


def simplex(m: int = LEVELS, d: int = 30) -> np.ndarray:
    """Levels that lie equally far from each other: no order at all."""
    return 6 * np.eye(m, d)


# --- statistics against naive sums ----------------------------------------------------------------


def test_circular_correlation_is_the_sum_over_pairs() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.uniform(0, 7, 23), rng.uniform(0, 7, 23)
    top = below_x = below_y = 0.0
    for i in range(23):
        for j in range(i + 1, 23):
            top += math.sin(x[i] - x[j]) * math.sin(y[i] - y[j])
            below_x += math.sin(x[i] - x[j]) ** 2
            below_y += math.sin(y[i] - y[j]) ** 2
    assert circular_correlation(x, y) == pytest.approx(top / math.sqrt(below_x * below_y))


def test_circular_correlation_of_a_turned_a_mirrored_and_a_constant_circle() -> None:
    x = np.random.default_rng(2).uniform(0, 2 * np.pi, 40)
    assert circular_correlation(x, (x + 2.5) % (2 * np.pi)) == pytest.approx(1)
    assert circular_correlation(x, 1.2 - x) == pytest.approx(-1)
    assert circular_correlation(x, np.full(40, 0.7)) == 0


def test_rank_correlation_is_scipys_and_survives_a_constant() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=50), rng.integers(4, size=50)
    assert rank_correlation(x, y) == pytest.approx(spearmanr(x, y).statistic)
    assert rank_correlation(x, np.ones(50)) == 0


def test_distances_of_positions() -> None:
    turns = np.array([0.0, 0.25, 0.9])
    np.testing.assert_allclose(position_distances(turns, CIRCLE), [[0, 0.25, 0.1], [0.25, 0, 0.35], [0.1, 0.35, 0]])
    np.testing.assert_allclose(position_distances(turns, LINE), [[0, 0.25, 0.9], [0.25, 0, 0.65], [0.9, 0.65, 0]])


def test_mantel_is_the_rank_correlation_of_all_pairs_of_centres() -> None:
    points, labels, groups = cloud(np.random.default_rng(4).normal(size=(LEVELS, 8)), noise=1.0)
    centres = [points[np.array(labels) == f"level {i}"].mean(0) for i in range(LEVELS)]
    pairs = [(i, j) for i in range(LEVELS) for j in range(i + 1, LEVELS)]
    naive = spearmanr([np.linalg.norm(centres[i] - centres[j]) for i, j in pairs], [j - i for i, j in pairs])
    found = order_of(points, labels, positions(LEVELS, LINE), groups, **QUICK)
    assert found.mantel.value == pytest.approx(naive.statistic)


# --- known answers --------------------------------------------------------------------------------


def test_a_line_is_a_line_and_no_circle() -> None:
    points, labels, groups = cloud(line())
    found = order_of(points, labels, positions(LEVELS, LINE), groups, **QUICK)
    assert found.held_out.value > 0.95 and found.mantel.value > 0.95
    assert found.held_out.low - 0.01 <= found.held_out.value <= found.held_out.high + 0.01
    assert max(found.p, found.mantel_p) < 0.02
    assert found.share > 0.95
    assert (found.levels, found.analogies) == (LEVELS, 12 * LEVELS)
    bent = order_of(points, labels, positions(LEVELS, CIRCLE), groups, CIRCLE, **QUICK)
    assert bent.held_out.value < 0.5 and bent.mantel.value < found.mantel.value
    assert verdict([found, bent]) == "in order on a line"


def test_a_circle_is_a_circle_and_no_line() -> None:
    points, labels, groups = cloud(circle())
    found = order_of(points, labels, positions(LEVELS, CIRCLE), groups, CIRCLE, **QUICK)
    assert found.held_out.value > 0.95 and found.mantel.value > 0.8  # ranks: equal distances never come out equal
    assert max(found.p, found.mantel_p) < 0.02
    straight = order_of(points, labels, positions(LEVELS, LINE), groups, LINE, **QUICK)
    assert straight.held_out.value < 0.7
    assert verdict([straight, found]) == "in order on a circle"


@pytest.mark.parametrize("shape", [LINE, CIRCLE])
def test_levels_without_order_are_not_called_ordered(shape: str) -> None:
    found = [
        order_of(*cloud(simplex(), seed=seed)[:2], positions(LEVELS, shape), cloud(simplex())[2], shape, **QUICK)
        for seed in range(5)
    ]
    assert np.mean([x.p for x in found]) > 0.15 and np.mean([x.mantel_p for x in found]) > 0.15
    assert abs(np.mean([x.mantel.value for x in found])) < 0.4


def test_a_line_in_another_order_is_refused() -> None:
    points, labels, groups = cloud(line()[[3, 0, 5, 1, 6, 2, 4]])
    found = order_of(points, labels, positions(LEVELS, LINE), groups, **QUICK)
    assert min(found.p, found.mantel_p) > 0.05
    assert verdict([found]) == "not on a line"


def test_any_order_can_be_read_off_by_a_direction_that_is_fitted_to_it() -> None:
    """Why levels are dealt out, and why the direction must not see the order: the trap that the module names."""
    points, labels, groups = cloud(simplex())
    index, concept = np.array([int(label[-1]) for label in labels]), np.array(groups)
    fit = np.isin(concept, [f"concept {i}" for i in range(6)])
    for order in np.random.default_rng(0).permuted(np.tile(np.arange(LEVELS), (5, 1)), axis=1):
        centres = np.stack([points[fit & (index == i)].mean(0) for i in range(LEVELS)])
        fitted = (order - order.mean()) @ (centres - centres.mean(0))
        assert rank_correlation(points[~fit] @ fitted, order[index[~fit]]) > 0.8
    assert held_out_order(points, labels, positions(LEVELS, LINE), groups) < 0.7


def test_a_difference_between_concepts_does_not_pass_for_order() -> None:
    """Concepts far apart, levels together: nothing to see, though each concept has all its levels."""
    for seed in range(4):
        points, labels, groups = cloud(np.zeros((LEVELS, 30)), seed=seed)
        found = order_of(points, labels, positions(LEVELS, LINE), groups, **QUICK)
        assert abs(found.held_out.value) < 0.5
        assert verdict([found]) != "in order on a line"


def test_all_arrangements_of_few_levels_are_tried() -> None:
    points, labels, groups = cloud(line(5))
    found = order_of(points, labels, positions(5, LINE), groups, arrangements=120, resamples=20)
    assert found.p == pytest.approx(2 / 120)  # the true order and its mirror image
    assert found.mantel_p == pytest.approx(2 / 120)


def test_many_positions_at_once_are_as_many_single_ones() -> None:
    rng = np.random.default_rng(8)
    x, y = rng.uniform(0, 6, 9), rng.uniform(0, 6, (2, 4, 9)).round(1)
    for function in (rank_correlation, circular_correlation):
        np.testing.assert_allclose(function(x, y), [[function(x, row) for row in rows] for rows in y])


def test_groups_that_move_all_their_levels_do_not_hide_the_order() -> None:
    """Each concept has every level, far from those of the others: what b shows is not what was done to it."""
    points, labels, groups = cloud(circle())
    far = 100 * np.random.default_rng(7).normal(size=(12, 1, 30))
    moved = (points.reshape(12, LEVELS, 30) + far).reshape(-1, 30)
    assert held_out_order(moved, labels, positions(LEVELS, CIRCLE), groups, CIRCLE) > 0.95


def test_vectors_that_levels_do_not_move_have_no_order_but_for_rounding() -> None:
    points, labels, groups = cloud(np.zeros((LEVELS, 30)), noise=0)
    points += 1e-9 * np.tile(np.arange(LEVELS), 12)[:, None]
    for shape in (LINE, CIRCLE):
        assert held_out_order(points, labels, positions(LEVELS, shape), groups, shape) == 0


def test_held_out_alone_is_the_same_number() -> None:
    points, labels, groups = cloud(circle(), noise=3)
    places = positions(LEVELS, CIRCLE)
    alone = held_out_order(points, labels, places, groups, CIRCLE)
    assert alone == order_of(points, labels, places, groups, CIRCLE, arrangements=1, resamples=2).held_out.value


def test_correction_for_many_tests_and_the_words_for_it() -> None:
    points, labels, groups = cloud(line())
    found = order_of(points, labels, positions(LEVELS, LINE), groups, **QUICK)
    many = corrected([replace(found, p=0.03, mantel_p=0.04), *[replace(found, p=0.9, mantel_p=0.8)] * 9])
    assert many[0].p > 0.05 and many[0].mantel_p > 0.05
    assert verdict(many[:1]) == "undecided: as if on a line, which 7 levels may be by luck"
    rough, low = Estimate(0.6, 0.3, 0.8), Estimate(0.2, 0.0, 0.4)
    assert verdict([replace(found, held_out=rough)]) == "roughly in order on a line"
    weak = replace(found, held_out=low, p=0.5, mantel_p=0.5)
    assert verdict([weak]) == "not on a line"
    assert verdict([weak, replace(weak, shape=CIRCLE)]) == "not on a line nor on a circle"
    assert verdict([replace(weak, p=0.01)]).endswith("though in order along the widest direction")
    assert verdict([replace(weak, mantel_p=0.01)]).endswith("though near positions lie near each other")


def test_bad_input_is_refused() -> None:
    points, labels, groups = cloud(line())
    places = positions(LEVELS, LINE)
    with pytest.raises(InputError, match="expected the shape line or circle"):
        order_of(points, labels, places, groups, "spiral")
    with pytest.raises(InputError, match="one label and one group a vector"):
        order_of(points[:-1], labels, places, groups)
    with pytest.raises(InputError, match="a position for every label"):
        order_of(points, labels, {"level 0": 0.0}, groups)
    few = np.isin(labels, ["level 0", "level 1", "level 2"])
    with pytest.raises(InputError, match="at least 4 levels"):
        order_of(points[few], np.array(labels)[few], places, np.array(groups)[few])
    for few_groups in (labels, ["one"] * len(labels)):
        with pytest.raises(InputError, match="groups that can be halved so that every level is in both"):
            order_of(points, labels, places, few_groups)
