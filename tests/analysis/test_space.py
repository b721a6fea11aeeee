"""The space measures against naive recomputations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tiny_models import tiny_editor

from lorweb_mini.algebra import cosines, effective_rank, pca
from lorweb_mini.analysis.space import (
    basis_usage,
    cloud_of,
    clustering,
    coefficients_of,
    concepts_of,
    nearest_known,
    read_off,
    spread_out,
    update_gram,
    update_spectrum,
    variance_share,
)
from lorweb_mini.core.basis import Basis
from lorweb_mini.emoji.relations import analogies, get_relation
from lorweb_mini.emoji.sheets import load_emoji
from lorweb_mini.errors import InputError
from lorweb_mini.models.base import transformer_of


@pytest.fixture
def basis() -> Basis:
    basis = Basis(transformer_of(width=64, double_blocks=1, single_blocks=1), n_loras=5, rank=3)
    for parameter in basis.parameters():
        parameter.data.normal_()
    return basis


@pytest.mark.parametrize("layer", [0, 3])
def test_gram_of_updates_is_that_of_the_full_matrices(basis: Basis, layer: int) -> None:
    A, B = basis.factors(layer)
    updates = [(B[n] @ A[n]).detach().double() for n in range(5)]
    naive = torch.stack([torch.stack([(x * y).sum() for y in updates]) for x in updates])
    gram = update_gram(basis, layer)
    torch.testing.assert_close(gram, naive, rtol=1e-4, atol=1e-2)
    c = torch.tensor([0.3, -1.0, 0.2, 0.0, 2.0], dtype=torch.float64)
    mixture = sum(w * x for w, x in zip(c, updates, strict=True))
    assert float(c @ gram @ c) == pytest.approx(float(mixture.pow(2).sum()), rel=1e-4)


def test_cosines_have_a_unit_diagonal_and_survive_an_empty_lora(basis: Basis) -> None:
    found = cosines(update_gram(basis, 1))
    torch.testing.assert_close(found.diagonal(), torch.ones(5, dtype=torch.float64))
    assert found.abs().max() <= 1 + 1e-9
    basis.factors(1)[1][2].detach().zero_()
    assert torch.isfinite(cosines(update_gram(basis, 1))).all()


def test_gram_refuses_a_layer_that_is_not_there(basis: Basis) -> None:
    with pytest.raises(InputError, match=r"expected a layer .* from 0"):
        update_gram(basis, len(basis.layers))


def test_pca_is_the_eigendecomposition_of_the_covariance() -> None:
    x = np.random.default_rng(0).normal(size=(60, 7)) * np.arange(1, 8)
    found = pca(x, 3)
    values, vectors = np.linalg.eigh(np.cov(x.T))
    np.testing.assert_allclose(found.explained, values[::-1][:3] / values.sum(), rtol=1e-6)
    for axis, vector in zip(found.axes, vectors.T[::-1], strict=False):
        assert abs(axis @ vector) == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(found.place(x), found.points, atol=1e-8)
    whole = pca(x, 7)
    np.testing.assert_allclose(whole.points @ whole.axes + whole.centre, x, atol=1e-8)
    with pytest.raises(InputError, match="at least 8"):
        pca(x, 8)


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


def test_usage_of_a_uniform_and_of_a_collapsed_routing() -> None:
    uniform = basis_usage(torch.full((6, 2, 8), 1 / 8))
    np.testing.assert_allclose(uniform.effective, 8, rtol=1e-5)
    assert uniform.entropy == pytest.approx(math.log(8), rel=1e-5)
    collapsed = torch.zeros(6, 2, 8)
    collapsed[..., 3] = 1
    found = basis_usage(collapsed)
    np.testing.assert_allclose(found.effective, 1, rtol=1e-5)
    assert found.entropy == found.usage == found.variation == 0
    assert found.mean[:, 3].tolist() == [1, 1]


# --- clouds ---------------------------------------------------------------------------------------


def test_cloud_is_the_routing_of_its_analogies() -> None:
    editor = tiny_editor()
    lists = [analogies("test", name, n=5) for name in ("edit/hue=120", "tone/yellow>dark")]
    cloud = cloud_of(editor, iter(lists))
    items = [x for part in lists for x in part]
    assert len(cloud) == len(items) == 10
    torch.testing.assert_close(cloud.coefficients, coefficients_of(editor, items))
    torch.testing.assert_close(editor.router.logits(cloud.queries).softmax(-1), cloud.coefficients)
    assert cloud.vectors.shape == (10, cloud.coefficients[0].numel())
    assert cloud.relations.tolist() == [x.relation for x in items]
    assert cloud.concepts.tolist() == cloud.shown[:, 2].tolist() == concepts_of(items)
    of = {e.key: e.concept for e in load_emoji().emojis}
    assert cloud.shown.tolist() == [[of[key.split("@")[0]] for key in x.keys[:3]] for x in items]
    assert cloud.styles.tolist() == [x.keys[2].split("@")[1] for x in items]
    assert cloud.families.tolist() == [get_relation(x.relation).family for x in items]


def test_cloud_refuses_what_has_no_routing() -> None:
    with pytest.raises(InputError, match="at least one analogy"):
        cloud_of(tiny_editor(), [[]])
    with pytest.raises(InputError, match="an editor with a router"):
        cloud_of(tiny_editor(layout="tokens", routed=False), [])


# --- what labels account for ----------------------------------------------------------------------


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


# --- spectra --------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [0, 3])
def test_spectrum_of_a_mixture_is_that_of_the_full_matrix(basis: Basis, layer: int) -> None:
    A, B = basis.factors(layer)
    c = torch.tensor([0.3, -1.0, 0.2, 0.0, 2.0])
    update = sum(w * (B[n] @ A[n]).double() for n, w in enumerate(c.double()))
    found = update_spectrum(basis, layer, c)
    assert len(found) == min(15, *update.shape)
    torch.testing.assert_close(found, torch.linalg.svdvals(update)[: len(found)], rtol=1e-4, atol=1e-3)
    # Frobenius norm: the Gram matrix of the same layer knows it, too.
    gram = update_gram(basis, layer)
    assert float(found.square().sum()) == pytest.approx(float(c.double() @ gram @ c.double()), rel=1e-4)


def test_spectrum_does_not_feel_the_gauge(basis: Basis) -> None:
    c = torch.full((5,), 0.2)
    before = update_spectrum(basis, 1, c), update_gram(basis, 1)
    A, B = basis.factors(1)
    for n in range(5):
        turn = torch.randn(3, 3)
        A.data[n], B.data[n] = turn @ A.data[n], B.data[n] @ torch.linalg.inv(turn)
    after = update_spectrum(basis, 1, c), update_gram(basis, 1)
    for x, y in zip(before, after, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-3, atol=1e-3 * float(x.abs().max()))


def test_spectrum_refuses_what_is_not_there(basis: Basis) -> None:
    with pytest.raises(InputError, match="expected a layer"):
        update_spectrum(basis, -1, torch.ones(5))
    with pytest.raises(InputError, match=r"coefficients \[5\]"):
        update_spectrum(basis, 0, torch.ones(4))


def test_effective_rank_counts_equal_singular_values() -> None:
    assert effective_rank(torch.tensor([2.0, 2.0, 2.0, 0.0])) == pytest.approx(3)
    assert 1 < effective_rank(torch.tensor([1.0, 0.01])) < 1.1
    assert effective_rank(torch.zeros(4)) == 0


@pytest.mark.parametrize(("size", "count"), [(1, 8), (5, 8), (8, 8), (40, 8)])
def test_sample_of_relations_is_spread_out(size: int, count: int) -> None:
    names = [f"{i:02}" for i in range(size)]
    found = spread_out(names[::-1], count)
    assert found == spread_out(names, count) and len(set(found)) == len(found) == min(size, count)
    assert found[0] == names[0] and (size == 1 or found[-1] == names[-1])
