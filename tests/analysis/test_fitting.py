"""Fitting an edit to one example: what moves, what stays, and that examples do not touch each other."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_models import pictures, tiny_editor

from lorweb_mini.analysis.fitting import fit_coefficients, fit_loras, render
from lorweb_mini.core.editor import Editor
from lorweb_mini.errors import InputError
from lorweb_mini.training.flow import EXACT_SHIFT


@pytest.fixture
def editor() -> Editor:
    """Tiny, with LoRAs that do something."""
    one = tiny_editor(n_loras=3)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in one.basis.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return one


def test_only_the_mixture_moves_and_towards_the_example(editor: Editor) -> None:
    a, a_prime, b = (pictures(2, seed) for seed in range(3))
    before = editor.edit(a, a_prime, b, steps=1).pictures
    weights = [p.clone() for p in editor.basis.parameters()]
    fit = fit_coefficients(editor, a, a_prime, steps=40)
    assert fit.coefficients.shape == (2, len(editor.basis.layers), 3)
    assert torch.allclose(fit.coefficients.sum(-1), torch.ones(2, len(editor.basis.layers)), atol=1e-5)
    assert fit.losses[-10:].mean() < fit.losses[:10].mean()
    assert torch.all(fit.seconds.diff() > 0)
    assert all(torch.equal(x, y) for x, y in zip(weights, editor.basis.parameters(), strict=True))
    assert torch.equal(before, editor.edit(a, a_prime, b, steps=1).pictures)
    drawn = editor.generate(b, fit.coefficients, steps=2).pictures
    assert torch.allclose(render(editor, fit, b, steps=2), drawn, atol=1e-6)


def test_first_loss_by_hand(editor: Editor) -> None:
    a, a_prime = (pictures(1, seed) for seed in range(2))
    start = editor.route(a, a_prime, a)
    seen: list[torch.Tensor] = []
    taken: list[int] = []

    def show(step: int, mixture: torch.Tensor) -> None:
        taken.append(step)
        seen.append(mixture)

    fit = fit_coefficients(editor, a, a_prime, steps=1, seed=7, show=show)
    assert taken == [0, 1]
    torch.testing.assert_close(seen[0], start, atol=1e-6, rtol=0)
    clean, reference = (
        z.view(1, 16, 4, 2, 4, 2).permute(0, 2, 4, 1, 3, 5).reshape(1, 16, 64)
        for z in (editor.autoencoder.to_latent(a_prime), editor.autoencoder.to_latent(a))
    )
    generator = torch.Generator().manual_seed(7)
    t = torch.sigmoid(torch.randn(1, generator=generator) + EXACT_SHIFT)
    noise = torch.randn(1, 16, 64, generator=generator)
    with torch.no_grad(), editor.basis.mixed(start):
        v = editor.base.velocity((1 - t) * clean + t * noise, t, reference, editor.layout.ids())
    assert fit.losses[0].item() == pytest.approx((v + clean - noise).square().mean().item(), rel=1e-4)
    # The first step of Adam moves every logit that has a gradient by the learning rate.
    moved = (seen[1].log() - seen[0].log()).abs()
    assert 0 < moved.max() < 0.61


def test_pairs_of_one_example_share_their_mixture(editor: Editor) -> None:
    a, a_prime = (torch.stack([pictures(3, seed), pictures(3, seed + 10)]) for seed in (1, 2))
    fit = fit_coefficients(editor, a, a_prime, steps=3)
    assert len(fit.coefficients) == 2
    start = editor.route(a.flatten(0, 1), a_prime.flatten(0, 1), a.flatten(0, 1)).view(2, 3, -1, 3).mean(1)
    seen: list[torch.Tensor] = []
    fit_coefficients(editor, a, a_prime, steps=1, show=lambda _, c: seen.append(c))
    torch.testing.assert_close(seen[0], start, atol=1e-5, rtol=0)


def test_loras_of_different_examples_do_not_touch_each_other(editor: Editor) -> None:
    a, a_prime, b, other = (pictures(2, seed) for seed in range(4))
    first = fit_loras(editor, a, a_prime, steps=5)
    changed = torch.stack([a_prime[0], other[1]])
    second = fit_loras(editor, a, changed, steps=5)
    one, two = render(editor, first, b, steps=1), render(editor, second, b, steps=1)
    torch.testing.assert_close(one[0], two[0], atol=1e-5, rtol=0)
    assert not torch.allclose(one[1], two[1], atol=1e-3)
    assert first.losses[-1] < first.losses[0]
    bare = render(editor, replace(first, coefficients=torch.zeros_like(first.coefficients)), b, steps=1)
    zero = torch.zeros(len(editor.basis.layers), 3)
    torch.testing.assert_close(bare, editor.generate(b, zero, steps=1).pictures, atol=1e-5, rtol=0)


def test_refusals(editor: Editor) -> None:
    a = pictures(2)
    with pytest.raises(InputError, match="expected as many pictures a as a', got 2 and 1"):
        fit_coefficients(editor, a, a[:1])
    with pytest.raises(InputError, match="layout b"):
        fit_coefficients(tiny_editor(layout="tokens"), a, a)
    with pytest.raises(InputError, match="layout b"):
        fit_loras(tiny_editor(layout="tokens"), a, a)
    with pytest.raises(InputError, match="expected steps"):
        fit_coefficients(editor, a, a, steps=0)
