"""Distances to what was seen, and how well a number ranks failures."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from lorweb_mini.analysis.bootstrap import Estimate
from lorweb_mini.analysis.generalisation import NEIGHBOURS, _auc, distance_to_seen, foreseen, ranking
from lorweb_mini.analysis.unseen import seen_analogies
from lorweb_mini.commands.train import STARTER_KINDS
from lorweb_mini.emoji.distributions import Chains, held_out
from lorweb_mini.emoji.relations import get_relation
from lorweb_mini.errors import InputError


def test_distance_by_hand() -> None:
    rng = np.random.default_rng(0)
    vectors, seen = rng.normal(size=(6, 4)), rng.normal(size=(20, 4))
    expected = [np.sort([np.linalg.norm(v - s) for s in seen])[:NEIGHBOURS].mean() for v in vectors]
    assert distance_to_seen(vectors, seen) == pytest.approx(np.array(expected))
    with pytest.raises(InputError, match="at least 5 seen vectors, got 3"):
        distance_to_seen(vectors, seen[:3])
    with pytest.raises(InputError, match="vectors of one width"):
        distance_to_seen(vectors, seen[:, :2])


def test_auc_by_counting_pairs() -> None:
    rng = np.random.default_rng(1)
    failed, score = rng.random(40) < 0.4, rng.integers(0, 5, 40).astype(float)
    pairs = [(x > y) + 0.5 * (x == y) for x in score[failed] for y in score[~failed]]
    found = ranking(score, failed, np.arange(40))
    assert found.value == pytest.approx(np.mean(pairs))
    assert found.value == pytest.approx(roc_auc_score(failed, score))
    assert found.low < found.value < found.high
    perfect = ranking(failed.astype(float), failed, np.arange(40))
    assert (perfect.value, perfect.low, perfect.high) == (1, 1, 1)


def test_weighted_auc_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(3)
    failed, score = rng.random(30) < 0.5, rng.integers(0, 6, 30).astype(float)
    weights = rng.integers(0, 3, (7, 30)).astype(float)
    expected = [roc_auc_score(failed[w > 0], score[w > 0], sample_weight=w[w > 0]) for w in weights]
    assert _auc(score, failed)(weights) == pytest.approx(np.array(expected))
    assert np.isnan(_auc(score, failed)(~failed[None] * 1.0)).all()


def test_two_scores_are_compared_on_the_same_resamples() -> None:
    rng = np.random.default_rng(4)
    failed, score, units = rng.random(60) < 0.5, rng.normal(size=60), np.arange(60)
    other = score + rng.normal(size=60)
    gap = ranking(score, failed, units, other)
    assert gap.value == pytest.approx(roc_auc_score(failed, score) - roc_auc_score(failed, other))
    same = ranking(score, failed, units, score)
    assert (same.value, same.low, same.high) == (0, 0, 0), "resampled apart, the interval would have a width"
    relations = np.arange(60)
    assert [foreseen(Estimate(x, x - 0.1, x + 0.1), failed, relations, 0) for x in (0.2, 0.0, -0.2)] == [1, 0, -1]


def test_the_interval_resamples_units() -> None:
    """Ten relations, all ten analogies of each alike: as good as ten analogies, not a hundred."""
    rng = np.random.default_rng(2)
    relation = np.repeat(np.arange(10), 10)
    failed, score = (relation % 2).astype(bool), (rng.normal(size=10) + np.arange(10) % 2)[relation]
    alone, grouped = ranking(score, failed, np.arange(100)), ranking(score, failed, relation)
    assert alone.value == grouped.value
    assert grouped.high - grouped.low > 1.5 * (alone.high - alone.low)


def test_no_verdict_on_few_relations() -> None:
    sure, unsure, turned = Estimate(0.9, 0.8, 1.0), Estimate(0.6, 0.4, 0.8), Estimate(0.1, 0.0, 0.2)
    failed, relations = np.arange(12) < 6, np.arange(12)
    assert [foreseen(x, failed, relations) for x in (sure, unsure, turned)] == [1, 0, -1]
    assert foreseen(sure, np.arange(12) < 11, relations) == 0, "one success decides nothing"
    missing = ranking(np.arange(12.0), np.zeros(12, bool), relations)
    assert math.isnan(missing.value) and foreseen(missing, np.zeros(12, bool), relations) == 0
    with pytest.raises(InputError, match="expected a score and a unit of each outcome, got 3, 3, 2"):
        ranking(np.zeros(3), np.zeros(2, bool), np.zeros(3))


def test_seen_analogies_could_have_been_sampled() -> None:
    items = seen_analogies(STARTER_KINDS, 5)
    assert len(items) == len({x.relation for x in items}) == 5 and {x.split for x in items} == {"train"}
    chains = [get_relation(x.relation).edits for x in items]
    assert {kind for chain in chains for kind, _ in chain} <= set(STARTER_KINDS)
    assert not held_out().chains(Chains.of(chains)).any()
    assert [x.keys for x in seen_analogies(STARTER_KINDS, 5)] == [x.keys for x in items]
