"""The fast drawing of one picture draws what the editor draws."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_models import mixtures, pictures, randomise, tiny_editor
from torch import Tensor, nn

import lorweb_mini as lw
from lorweb_mini.core.basis import ADAPTER
from lorweb_mini.core.editor import Editor
from lorweb_mini.errors import InputError
from lorweb_mini.widgets.rendering import Renderer

ROUNDING = 2e-5  # of a picture in [-1, 1]; a grey level is 8e-3


@pytest.mark.parametrize("layout", ["b", "tokens", "grid"])
@pytest.mark.parametrize(("steps", "seed"), [(1, 0), (2, 5), (6, 1)])
def test_draws_what_the_editor_draws(layout: str, steps: int, seed: int) -> None:
    editor = tiny_editor(layout)
    a, a_prime, b = pictures(3)
    context = (a, a_prime) if editor.layout.needs_context else None
    renderer = Renderer(editor, b, context, steps, seed)
    c = 8 * mixtures(4, editor)  # eight times, so that so small a model draws plainly different pictures
    expected = editor.generate(b, c, context, steps=steps, seed=seed).pictures
    # Backwards, so that nothing of one mixture may stay for the next one.
    for k in (3, 2, 1, 0):
        torch.testing.assert_close(renderer(c[k]), expected[k], atol=ROUNDING, rtol=0)
    assert float((expected[0] - expected[1]).abs().max()) > 50 * ROUNDING, "the mixtures draw different pictures"


@pytest.mark.parametrize("scale", [0.0, -1.5, 4.0])
def test_any_real_coefficients(scale: float) -> None:
    editor = tiny_editor(n_loras=5, rank=3)
    b = pictures(1)[0]
    c = scale * torch.randn(len(editor.basis.layers), 5)
    expected = editor.generate(b, c, steps=2).pictures[0]
    torch.testing.assert_close(Renderer(editor, b, steps=2)(c), expected, atol=ROUNDING, rtol=0)


def test_norms_biases_and_several_blocks() -> None:
    """Whatever a fresh model has at one or zero, and could be forgotten unseen, gets random values."""
    from lorweb_mini.core.editor import BasisConfig, Miniature
    from lorweb_mini.models.autoencoder import MiniAutoencoder
    from lorweb_mini.models.base import Base, transformer_of
    from lorweb_mini.models.tiny_clip import TinyCLIP

    base = Base(transformer_of(128, 2, 2)).eval().requires_grad_(False)
    for name, parameter in base.transformer.named_parameters():
        if parameter.ndim == 1:
            parameter.copy_(torch.randn_like(parameter) * 0.2 + ("norm_" in name))
    editor = Editor(Miniature(MiniAutoencoder().eval(), TinyCLIP(48, 1, 16), base, BasisConfig(3, 2, keys_dim=8)))
    randomise(editor)
    b, c = pictures(1)[0], mixtures(1, editor)[0]
    expected = editor.generate(b, c, steps=3).pictures[0]
    torch.testing.assert_close(Renderer(editor, b, steps=3)(c), expected, atol=ROUNDING, rtol=0)


@pytest.mark.parametrize("name", ["starter", "full"])
def test_shipped_weights(name: str) -> None:
    editor = lw.load(name)
    one = lw.analogies("test", "edit/invert", n=1)[0]
    context = (one.a, one.a_prime)
    routed = editor.route(*context, one.b)[0]
    for c in (routed, *mixtures(2, editor)):
        expected = editor.generate(one.b, c, context, steps=4).pictures[0]
        found = Renderer(editor, one.b, context, steps=4)(c[None])
        torch.testing.assert_close(found, expected, atol=20 * ROUNDING, rtol=0)


def test_the_references_keys_change_from_step_to_step() -> None:
    """Why they are computed anew: already the first block modulates them by the time, later ones mix in the noise."""
    editor = tiny_editor()
    seen: list[Tensor] = []

    def note(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        seen.append(inputs[0][0, 16:32])  # the reference's tokens, behind the noisy ones

    layer = editor.basis.modules[editor.basis.layers.index("transformer_blocks.0.attn.to_k")]
    handle = layer.register_forward_pre_hook(note)
    editor.generate(pictures(1)[0], mixtures(1, editor), steps=3)
    handle.remove()
    assert len(seen) == 3
    assert float((seen[0] - seen[1]).abs().mean()) > 1e-3 and float((seen[1] - seen[2]).abs().mean()) > 1e-3


def test_the_picture_is_a_tensor_like_any_other() -> None:
    editor = tiny_editor()
    picture = Renderer(editor, pictures(1)[0], steps=1)(mixtures(1, editor)[0])
    assert picture.shape == (3, 64, 64) and not picture.requires_grad and not picture.is_inference()
    weight = torch.ones(1, requires_grad=True)
    (picture * weight).sum().backward()
    assert weight.grad is not None


def test_the_weights_are_those_of_the_start() -> None:
    editor = tiny_editor()
    b, c = pictures(1)[0], mixtures(1, editor)[0]
    renderer = Renderer(editor, b, steps=1)
    before = renderer(c)
    with torch.no_grad():
        for module in editor.basis.modules:
            module.lora_B[ADAPTER].weight.mul_(-2)
    assert torch.equal(renderer(c), before)
    assert not torch.allclose(Renderer(editor, b, steps=1)(c), before, atol=1e-3)


def test_the_editor_is_left_as_it_was() -> None:
    editor = tiny_editor()
    b, c = pictures(1)[0], mixtures(1, editor)[0]
    state = {k: v.clone() for k, v in editor.basis.state_dict().items()}
    before = editor.generate(b, c, steps=3).pictures
    Renderer(editor, b, steps=5)(c)
    assert torch.equal(editor.generate(b, c, steps=3).pictures, before)
    assert all(torch.equal(v, state[k]) for k, v in editor.basis.state_dict().items())
    assert editor.basis.coefficients is None


@pytest.mark.parametrize("options", [{"steps": 0}, {"steps": True}, {"steps": 2.0}, {"seed": -1}, {"seed": "a"}])
def test_refuses_what_generate_refuses(options: dict[str, Any]) -> None:
    editor = tiny_editor()
    with pytest.raises(InputError, match="expected"):
        editor.generate(pictures(1)[0], mixtures(1, editor), **options)
    with pytest.raises(InputError, match="expected"):
        Renderer(editor, pictures(1)[0], **options)


def test_refuses_other_coefficients_and_a_missing_context() -> None:
    editor, b = tiny_editor(), pictures(1)[0]
    renderer = Renderer(editor, b, steps=1)
    with pytest.raises(InputError, match="batch of 2"):
        renderer(mixtures(2, editor))
    with pytest.raises(InputError, match="expected coefficients of shape"):
        renderer(mixtures(1, editor)[0, 1:])
    with pytest.raises(InputError, match="finite"):
        renderer(mixtures(1, editor) * float("nan"))
    with pytest.raises(InputError, match="expected context"):
        Renderer(tiny_editor("tokens"), b)
    with pytest.raises(InputError, match="a_prime: expected"):
        Renderer(tiny_editor("tokens"), b, (b, None))
