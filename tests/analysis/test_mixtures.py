"""Gains to coefficients against a loop, and which LoRAs are the strongest."""

from __future__ import annotations

import pytest
import torch

from lorweb_mini.analysis.mixtures import matched, remix, shares, strongest
from lorweb_mini.errors import InputError

LAYERS, N = 20, 6


@pytest.fixture
def mixture() -> torch.Tensor:
    return torch.rand(LAYERS, N).softmax(-1)


def test_gain_one_is_the_routers_mixture(mixture: torch.Tensor) -> None:
    torch.testing.assert_close(remix(mixture, {0: 1.0, 3: 1.0}), mixture)


def test_remix_against_a_loop(mixture: torch.Tensor) -> None:
    gains = {1: 0.0, 4: 3.5}
    found = remix(mixture, gains)
    for row, mixed in zip(mixture.tolist(), found.tolist(), strict=True):
        turned = [value * gains.get(n, 1.0) for n, value in enumerate(row)]
        assert mixed == pytest.approx([value / sum(turned) for value in turned], abs=1e-6)
    assert (found[:, 1] == 0).all()
    assert (found[:, 4] > mixture[:, 4]).all()
    torch.testing.assert_close(found.sum(-1), torch.ones(len(found)))


def test_remix_takes_batches(mixture: torch.Tensor) -> None:
    batch = torch.stack([mixture, mixture.flip(-1)])
    torch.testing.assert_close(remix(batch, {2: 2.0})[1], remix(mixture.flip(-1), {2: 2.0}))


def test_remix_of_one_layer_leaves_the_others(mixture: torch.Tensor) -> None:
    found = remix(mixture, {1: 0.0, 4: 3.5}, layer=2)
    assert torch.equal(found[[0, 1, *range(3, len(mixture))]], mixture[[0, 1, *range(3, len(mixture))]])
    torch.testing.assert_close(found[2], remix(mixture, {1: 0.0, 4: 3.5})[2])


def test_remixing_twice_multiplies_the_gains(mixture: torch.Tensor) -> None:
    twice = remix(remix(mixture, {0: 2.0, 3: 0.5}), {0: 1.5, 1: 4.0})
    torch.testing.assert_close(twice, remix(mixture, {0: 3.0, 1: 4.0, 3: 0.5}))


def test_nothing_left_is_the_bare_base(mixture: torch.Tensor) -> None:
    assert (remix(mixture, dict.fromkeys(range(N), 0.0)) == 0).all()


def test_remix_leaves_its_input_alone(mixture: torch.Tensor) -> None:
    before = mixture.clone()
    remix(mixture, {0: 0.0})
    assert torch.equal(mixture, before)


@pytest.mark.parametrize("gains", [{N: 1.0}, {-1: 1.0}, {0.5: 1.0}, {True: 1.0}, {0: -0.1}, {0: float("nan")}])
def test_remix_refuses(mixture: torch.Tensor, gains: dict[int, float]) -> None:
    with pytest.raises(InputError, match=r"expected .* got"):
        remix(mixture, gains)


@pytest.mark.parametrize("layer", [-1, 10_000, 0.5, True])
def test_remix_refuses_layers_that_are_not_there(mixture: torch.Tensor, layer: int) -> None:
    with pytest.raises(InputError, match="expected a layer as a whole number from 0 to"):
        remix(mixture, {0: 1.0}, layer)


def test_strongest_are_those_with_the_largest_share() -> None:
    c = torch.tensor([[0.5, 0.1, 0.4], [0.1, 0.2, 0.7]])
    assert strongest(c, 2) == (2, 0)
    assert strongest(c, 9) == (2, 0, 1)
    assert shares(c).tolist() == pytest.approx([0.3, 0.15, 0.55])


def test_matched_undoes_a_renumbering_of_every_layer() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(40, 1, N, generator=generator) + 0.3 * torch.randn(40, LAYERS, N, generator=generator)
    coefficients = logits.softmax(-1)
    orders = torch.stack([torch.randperm(N, generator=generator) for _ in range(LAYERS)])
    mixed = torch.stack([coefficients[:, layer, order] for layer, order in enumerate(orders)], 1)
    groups, together = matched(mixed)
    # orders[l][groups[l][n]] is which original LoRA belongs to group n: the same one in every layer.
    originals = torch.gather(orders, 1, torch.from_numpy(groups))
    assert (originals == originals[0]).all() and sorted(originals[0].tolist()) == list(range(N))
    assert together > 0.9
    alone, apart = matched(torch.rand(40, LAYERS, N, generator=generator))
    assert apart < 0.5 and all(sorted(row) == list(range(N)) for row in alone.tolist())
    with pytest.raises(InputError, match="at least 3 analogies in 2 layers"):
        matched(mixed[:2])
