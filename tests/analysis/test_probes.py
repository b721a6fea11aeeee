"""Probes, clusters and shares of variance on clouds whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest

from lorweb_mini.analysis.probes import clustering, nearest_known, read_off, variance_share
from lorweb_mini.errors import InputError


def clouds(classes: int = 3, each: int = 40, apart: float = 6.0) -> tuple[np.ndarray, list[str], list[str]]:
    rng = np.random.default_rng(1)
    centres = rng.normal(size=(classes, 10)) * apart
    labels = [f"relation {i}" for i in range(classes) for _ in range(each)]
    points = np.repeat(centres, each, 0) + rng.normal(size=(classes * each, 10))
    return points, labels, [f"concept {j % 13}" for j in range(len(labels))]


def test_probe_reads_what_is_there_and_nothing_from_shuffled_labels() -> None:
    points, labels, concepts = clouds()
    right = read_off(points, labels, concepts)
    assert set(right) <= {0, 1} and right.mean() > 0.95
    assert read_off(points, np.random.default_rng(0).permutation(labels), concepts).mean() < 0.55


def test_probe_does_not_profit_from_concepts_it_has_seen() -> None:
    rng = np.random.default_rng(2)
    concepts = [f"concept {i}" for i in range(30) for _ in range(8)]
    # Each concept has one label and one place: a split by sample would find it, a split by concept cannot.
    points = np.repeat(rng.normal(size=(30, 10)), 8, 0) + 0.01 * rng.normal(size=(240, 10))
    labels = [label for label in rng.integers(2, size=30).astype(str) for _ in range(8)]
    assert read_off(points, labels, concepts).mean() < 0.8


def test_probe_does_not_profit_from_another_concept_that_it_has_seen() -> None:
    """Place and label are those of a's concept, by chance: nothing is left for who holds out a's concept, too."""
    rng = np.random.default_rng(3)
    a, b = rng.integers(30, size=(2, 600))
    points = rng.normal(size=(30, 40))[a] + 0.01 * rng.normal(size=(600, 40))
    labels = rng.integers(2, size=30).astype(str)[a]
    assert read_off(points, labels, b).mean() > 0.95
    right = read_off(points, labels, np.stack([a, b], 1))
    assert 0.2 < np.isnan(right).mean() < 0.8 and np.nanmean(right) < 0.75


def test_probe_reads_what_is_there_from_vectors_of_several_concepts() -> None:
    points, labels, concepts = clouds(each=200)
    right = read_off(points, labels, np.stack([concepts, np.random.default_rng(4).permutation(concepts)], 1))
    assert np.nanmean(right) > 0.95


def test_probe_refuses_what_it_cannot_answer() -> None:
    points, labels, concepts = clouds()
    with pytest.raises(InputError, match="one label and one concept"):
        read_off(points, labels[:-1], concepts)
    with pytest.raises(InputError, match="at least two labels"):
        read_off(points, ["same"] * len(labels), concepts)


def test_clustering_scores_tell_clouds_from_a_fog() -> None:
    points, labels, _ = clouds()
    apart = clustering(points, labels)
    fog = clustering(np.random.default_rng(0).normal(size=points.shape), labels)
    assert apart.nmi > 0.95 and apart.silhouette > 0.5
    assert fog.nmi < 0.2 and fog.silhouette < 0.1
    with pytest.raises(InputError, match="between 2 and"):
        clustering(points, ["same"] * len(points))


def test_variance_share_of_separate_groups_and_of_meaningless_ones() -> None:
    rng = np.random.default_rng(3)
    labels = [f"{i % 20}" for i in range(200)]
    noise = rng.normal(size=(200, 3, 5))
    moved = noise + np.array([0.0, 1.0, 100.0])[:, None] * rng.normal(size=(20, 1, 5))[np.arange(200) % 20]
    nothing, some, nearly_all = variance_share(moved, labels)
    assert abs(nothing) < 0.06 and 0.3 < some < 0.7 and nearly_all > 0.999


def test_variance_share_is_the_textbooks_epsilon_squared() -> None:
    rng = np.random.default_rng(4)
    values, labels = rng.normal(size=(30, 2)), rng.integers(3, size=30).astype(str)
    within = total = 0.0
    for column in values.T:
        total += ((column - column.mean()) ** 2).sum()
        for name in set(labels):
            within += ((column[labels == name] - column[labels == name].mean()) ** 2).sum()
    # Mean squares: of the remainder over that of everything.
    assert float(variance_share(values, labels)) == pytest.approx(1 - (within / 27) / (total / 29))
    assert np.isnan(variance_share(np.ones((30, 2)), labels))
    with pytest.raises(InputError, match="one label a value"):
        variance_share(values, labels[:-1])
    with pytest.raises(InputError, match="one label a value"):
        variance_share(values, ["same"] * 30)


def test_nearest_known_finds_the_relative() -> None:
    rng = np.random.default_rng(5)
    places = {"a": [9.0, 0, 0], "b": [0, 9.0, 0], "c": [0, 0, 9.0], "like a": [30.0, 2, 0], "like c": [1, 0, 7.0]}
    labels = [name for name in places for _ in range(10)]
    vectors = np.repeat(np.array(list(places.values())), 10, 0) + 0.1 * rng.normal(size=(50, 3))
    found = nearest_known(vectors, labels, ["a", "b", "c", "not here"], count=2)
    assert list(found) == ["like a", "like c"]
    assert found["like a"][0][0] == "a" and found["like c"][0][0] == "c"
    assert found["like a"][0][1] > 0.8 > 0 > found["like a"][1][1]
    with pytest.raises(InputError, match="at least 3 known relations"):
        nearest_known(vectors, labels, ["a", "b"])
