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
    coefficients_of,
    concepts_of,
    spread_out,
    update_gram,
    update_spectrum,
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
    with pytest.raises(InputError, match="expected a finite array"):
        pca(np.where(x == x[0, 0], np.nan, x))


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


def test_chance_has_the_norms_of_the_basis_and_other_directions(basis: Basis) -> None:
    A, B = basis.factors(2)
    one = torch.tensor([0.0, 0.0, 1.5, 0.0, 0.0])
    found = update_spectrum(basis, 2, one, torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(1)
    drawn = [torch.randn(x.shape, generator=generator, dtype=torch.float64)[2] for x in (A, B)]
    low, high = (d * x[2].norm() / d.norm() for d, x in zip(drawn, (A.double(), B.double()), strict=True))
    expected = torch.linalg.svdvals(1.5 * high @ low)
    torch.testing.assert_close(found[:3], expected[:3])
    assert not torch.allclose(found[:3], update_spectrum(basis, 2, one)[:3])


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
