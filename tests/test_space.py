"""The space measures against naive recomputations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lorweb_mini.base import transformer_of
from lorweb_mini.basis import Basis
from lorweb_mini.images import InputError
from lorweb_mini.space import basis_usage, clustering, cosines, linear_probe, pca, update_gram


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
    with pytest.raises(InputError, match="expected a layer from 0"):
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
    found = linear_probe(*clouds())
    assert found.accuracy > 0.95
    assert found.shuffled < 0.55
    assert found.chance == pytest.approx(1 / 3)


def test_probe_does_not_profit_from_concepts_it_has_seen() -> None:
    rng = np.random.default_rng(2)
    concepts = [f"concept {i}" for i in range(30) for _ in range(8)]
    # Each concept has one label and one place: a split by sample would find it, a split by concept cannot.
    points = np.repeat(rng.normal(size=(30, 10)), 8, 0) + 0.01 * rng.normal(size=(240, 10))
    labels = [label for label in rng.integers(2, size=30).astype(str) for _ in range(8)]
    assert linear_probe(points, labels, concepts).accuracy < 0.8


def test_probe_refuses_what_it_cannot_answer() -> None:
    points, labels, concepts = clouds()
    with pytest.raises(InputError, match="one label and one concept"):
        linear_probe(points, labels[:-1], concepts)
    with pytest.raises(InputError, match="at least two labels"):
        linear_probe(points, ["same"] * len(labels), concepts)


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
