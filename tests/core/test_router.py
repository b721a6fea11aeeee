"""Coefficients recomputed number by number from the router's formula."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from lorweb_mini.core.router import Router
from lorweb_mini.training.log import routing_statistics

LAYERS, N, WIDTH, KEYS, BATCH = 4, 5, 6, 8, 3


@pytest.fixture
def router() -> Router:
    torch.manual_seed(0)
    return Router(LAYERS, N, WIDTH, KEYS)


def _embeddings(seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [10 * torch.nn.functional.normalize(torch.randn(BATCH, WIDTH, generator=generator)) for _ in range(3)]


def test_formula(router: Router) -> None:
    a, a_prime, b = _embeddings()
    got = router(a, a_prime, b)
    assert got.shape == (BATCH, LAYERS, N)
    keys, projections = router.keys.detach().double().numpy(), router.query_projection.detach().double().numpy()
    for sample in range(BATCH):
        q = np.concatenate([x[sample].double().numpy() for x in (a, a_prime, b)])
        for layer in range(LAYERS):
            scores = [keys[layer, n] @ (projections[layer] @ q) / math.sqrt(KEYS) for n in range(N)]
            weights = np.exp(scores) / np.exp(scores).sum()
            np.testing.assert_allclose(got[sample, layer].detach().numpy(), weights, atol=1e-5)


def test_standardised_query(router: Router) -> None:
    """Mean 0 and deviation 1 in every dimension of the triplets it was fixed on; other triplets are moved alike."""
    seen = [3 + (1 + i) * torch.randn(200, WIDTH) for i in range(3)]
    router.standardise(*seen)
    query = router.query(*seen)
    np.testing.assert_allclose(query.mean(0).numpy(), 0, atol=1e-5)
    np.testing.assert_allclose(query.var(0, correction=1).numpy(), 1, atol=1e-4)
    other = _embeddings()
    columns = np.concatenate([x.numpy() for x in seen], 1).astype(float)
    expected = (np.concatenate([x.numpy() for x in other], 1) - columns.mean(0)) / columns.std(0, ddof=1)
    np.testing.assert_allclose(router.query(*other).numpy(), expected, atol=1e-4)
    assert {"mean", "deviation"} <= router.state_dict().keys(), "saved with the weights"


def test_rows_sum_to_one_and_are_positive(router: Router) -> None:
    c = router(*_embeddings(3))
    torch.testing.assert_close(c.sum(-1), torch.ones(BATCH, LAYERS), atol=1e-6, rtol=0)
    assert c.min() > 0


def test_order_of_the_pair_matters(router: Router) -> None:
    a, a_prime, b = _embeddings()
    assert (router(a, a_prime, b) - router(a_prime, a, b)).abs().max() > 1e-3


def test_each_of_the_three_pictures_matters(router: Router) -> None:
    triplet = _embeddings()
    whole = router(*triplet)
    for i in range(3):
        changed = list(triplet)
        changed[i] = _embeddings(7)[i]
        assert (router(*changed) - whole).abs().max() > 1e-3


def test_samples_are_independent(router: Router) -> None:
    triplet = _embeddings()
    alone = torch.cat([router(*[x[i : i + 1] for x in triplet]) for i in range(BATCH)])
    torch.testing.assert_close(router(*triplet), alone, atol=1e-6, rtol=0)


def test_starts_close_to_uniform() -> None:
    torch.manual_seed(0)
    c = Router(20, 16, 256, 64)(*[10 * torch.nn.functional.normalize(torch.randn(64, 256)) for _ in range(3)])
    perplexity = torch.special.entr(c).sum(-1).exp().mean()
    assert 12 < perplexity <= 16, "the paper's initialisation routes almost uniformly"


def test_b_prime_has_no_way_in(router: Router) -> None:
    a, a_prime, b = _embeddings()
    with pytest.raises(RuntimeError, match="size"):
        router(a, a_prime, b, b)


def test_gradients_reach_keys_and_projections_and_match_finite_differences(router: Router) -> None:
    router.double()
    triplet = [x.double() for x in _embeddings()]
    target = torch.rand(BATCH, LAYERS, N, dtype=torch.double)

    def loss() -> Tensor:
        return (router(*triplet) * target).sum()

    loss().backward()
    for parameter in (router.keys, router.query_projection):
        assert parameter.grad is not None and (parameter.grad.abs().flatten(1).sum(1) > 0).all()
        for index in ((0, 0, 0), (LAYERS - 1, N - 1, KEYS - 1)):
            with torch.no_grad():
                parameter[index] += 1e-5
                above = loss()
                parameter[index] -= 2e-5
                below = loss()
                parameter[index] += 1e-5
            torch.testing.assert_close((above - below) / 2e-5, parameter.grad[index], rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("mixing", ["tanh", "top-1", "top-2"])
def test_other_mixings_by_hand(mixing: str) -> None:
    torch.manual_seed(0)
    one = Router(LAYERS, N, WIDTH, KEYS, mixing=mixing, temperature=0.5)
    plain = Router(LAYERS, N, WIDTH, KEYS)
    plain.load_state_dict(one.state_dict())
    triplet = _embeddings()
    logits = 2 * plain.logits(plain.query(*triplet))
    got = one(*triplet)
    for index in np.ndindex(BATCH, LAYERS):
        row = logits[index].tolist()
        if mixing == "tanh":
            expected = [math.tanh(x) for x in row]
        else:
            kept = sorted(range(N), key=lambda n, row=row: -row[n])[: int(mixing[-1])]
            total = sum(math.exp(row[n]) for n in kept)
            expected = [math.exp(row[n]) / total if n in kept else 0.0 for n in range(N)]
        np.testing.assert_allclose(got[index].detach().numpy(), expected, atol=1e-5)


def test_shared_router_gives_all_layers_one_mixture() -> None:
    torch.manual_seed(0)
    one = Router(LAYERS, N, WIDTH, KEYS, shared=True)
    single = Router(1, N, WIDTH, KEYS)
    single.load_state_dict(one.state_dict())
    triplet = _embeddings()
    got = one(*triplet)
    assert got.shape == (BATCH, LAYERS, N)
    for layer in range(LAYERS):
        torch.testing.assert_close(got[:, layer], single(*triplet)[:, 0])


def test_fresh_parameters_are_those_of_a_new_router(router: Router) -> None:
    torch.manual_seed(0)
    again = Router(LAYERS, N, WIDTH, KEYS)
    router.standardise(*_embeddings())
    torch.manual_seed(0)
    router.reset_parameters()
    assert torch.equal(again.keys, router.keys) and torch.equal(again.query_projection, router.query_projection)
    assert not torch.equal(again.mean, router.mean)


def test_statistics_by_hand() -> None:
    c = torch.rand(BATCH, LAYERS, N).softmax(-1)
    values = c.double().numpy()
    entropy = -(values * np.log(values)).sum(-1).mean()
    mean = values.mean(0)
    expected = {
        "entropy": entropy,
        "usage": -(mean * np.log(mean)).sum(-1).mean(),
        "variation": np.abs(values - mean).sum(-1).mean(),
    }
    assert routing_statistics(c) == pytest.approx(expected, rel=1e-5)


def test_statistics_of_the_two_ways_to_fail() -> None:
    uniform = routing_statistics(torch.full((BATCH, LAYERS, N), 1 / N))
    assert uniform == pytest.approx({"entropy": math.log(N), "usage": math.log(N), "variation": 0.0}, abs=1e-6)
    collapsed = routing_statistics(torch.eye(N)[0].expand(BATCH, LAYERS, N))
    assert collapsed == pytest.approx({"entropy": 0.0, "usage": 0.0, "variation": 0.0}, abs=1e-6)


def test_signed_coefficients_have_no_entropy() -> None:
    signed = torch.linspace(-1, 1, BATCH * LAYERS * N).view(BATCH, LAYERS, N)
    found = routing_statistics(signed)
    assert math.isnan(found["entropy"]) and math.isfinite(found["variation"])
