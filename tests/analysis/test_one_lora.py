"""One LoRA cut into its directions: the decomposition, and what a truncation draws."""

from __future__ import annotations

import pytest
import torch
from tiny_models import pictures, tiny_base, tiny_editor
from torch import Tensor

from lorweb_mini.analysis.one_lora import by_direction, energy_kept, kept, render, strengths
from lorweb_mini.core.editor import Editor
from lorweb_mini.errors import InputError

RANK = 6


@pytest.fixture(scope="module")
def lora() -> Editor:
    return tiny_editor(n_loras=1, rank=RANK)


@pytest.fixture(scope="module")
def directions(lora: Editor) -> Editor:
    return by_direction(lora, tiny_base())


def _update(editor: Editor, layer: int) -> Tensor:
    """ΔW of a layer, built."""
    low, high = editor.basis.factors(layer)
    return sum(b @ a for a, b in zip(low, high, strict=True)).detach()


def test_all_directions_are_the_lora(lora: Editor, directions: Editor) -> None:
    assert (directions.config.n_loras, directions.config.rank) == (RANK, 1)
    for layer in range(len(lora.basis.layers)):
        torch.testing.assert_close(_update(directions, layer), _update(lora, layer), atol=1e-4, rtol=1e-4)
    b = pictures(2)
    ones = torch.ones(len(lora.basis.layers), 1)
    torch.testing.assert_close(
        directions.generate(b, kept(directions.basis, RANK), steps=2).pictures,
        lora.generate(b, ones, steps=2).pictures,
        atol=1e-3,
        rtol=0,
    )


def test_the_first_directions_are_the_best_approximation(lora: Editor, directions: Editor) -> None:
    gates = kept(directions.basis, 2)
    for layer, (low, high) in enumerate(directions.basis.folded(gates).values()):
        built = _update(lora, layer)
        u, s, vh = torch.linalg.svd(built, full_matrices=False)
        torch.testing.assert_close(high @ low, u[:, :2] * s[:2] @ vh[:2], atol=1e-4, rtol=1e-3)


def test_the_lora_and_the_base_stay_as_they_were(lora: Editor) -> None:
    base = tiny_base()
    before = {name: tensor.clone() for name, tensor in lora.basis.state_dict().items()}
    names = set(base.state_dict())
    by_direction(lora, base)
    assert all(torch.equal(tensor, before[name]) for name, tensor in lora.basis.state_dict().items())
    assert set(base.state_dict()) == names


def test_strengths_are_singular_values(lora: Editor, directions: Editor) -> None:
    found = strengths(directions.basis)
    assert found.shape == (len(lora.basis.layers), RANK)
    energy = torch.zeros(RANK)
    for layer in range(len(lora.basis.layers)):
        expected = torch.linalg.svdvals(_update(lora, layer))[:RANK]
        torch.testing.assert_close(found[layer], expected, atol=1e-4, rtol=1e-4)
        energy += expected.square()
    for rank in range(RANK + 1):
        assert energy_kept(directions.basis, rank) == pytest.approx(float(energy[:rank].sum() / energy.sum()), abs=1e-5)


def test_kept_switches_and_scales(directions: Editor) -> None:
    assert kept(directions.basis, 0).abs().sum() == 0
    half = kept(directions.basis, 2, 0.5)
    assert half.shape == (len(directions.basis.layers), RANK)
    assert (half[:, :2] == 0.5).all() and (half[:, 2:] == 0).all()
    for rank in (-1, RANK + 1, 1.5, True):
        with pytest.raises(InputError, match=r"expected a rank .* from 0"):
            kept(directions.basis, rank)
    for strength in (float("nan"), "1", True):
        with pytest.raises(InputError, match="expected a finite strength"):
            kept(directions.basis, 1, strength)


def test_only_one_lora_has_directions() -> None:
    with pytest.raises(InputError, match="one LoRA, got one with 3"):
        by_direction(tiny_editor(), tiny_base())
    with pytest.raises(InputError, match="rank 1, got rank 2"):
        strengths(tiny_editor().basis)


def test_render_measures_against_reconstructions(directions: Editor) -> None:
    b, truth = pictures(2)
    gates = torch.stack([kept(directions.basis, rank) for rank in (0, RANK)])
    drawn, errors = render(directions, b, truth, gates, steps=2, seed=3)
    autoencoder = directions.autoencoder
    seen_b, seen_truth = (autoencoder.to_picture(autoencoder.to_latent(x[None]))[0] for x in (b, truth))
    for picture, error in zip(drawn, errors, strict=True):
        expected = (picture - seen_truth).square().sum() / (seen_b - seen_truth).square().sum()
        assert error == pytest.approx(float(expected), rel=1e-4)
    with directions.basis.disabled():
        bare = directions.generate(b, gates[1], steps=2, seed=3).pictures[0]
    torch.testing.assert_close(drawn[0], bare, atol=1e-5, rtol=0)
    assert (drawn[1] - bare).abs().max() > 1e-3
