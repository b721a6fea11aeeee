"""The pair-conditioned adapter, against attention written out with loops."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from tiny_models import pictures, tiny_data, tiny_editor, transformer_inputs

from benchmarks import pair_adapter
from benchmarks.pair_adapter import PairAdapter, load_pair_editor, new_pair_editor
from lorweb_mini.core.editor import BasisConfig, Editor
from lorweb_mini.errors import InputError


def adapted(zero: bool = False) -> tuple[Editor, PairAdapter]:
    """A tiny editor with an adapter in its router's place; ``zero`` leaves its output at zero."""
    editor = tiny_editor(n_loras=1)
    torch.manual_seed(3)
    adapter = PairAdapter(editor)
    if not zero:
        for layer in adapter.attention:
            torch.nn.init.normal_(layer.o.weight, std=0.3)
    editor.router = adapter
    return editor, adapter.requires_grad_(False)


def naive(layer: torch.nn.Module, x: torch.Tensor, tokens: torch.Tensor, head: int) -> torch.Tensor:
    """One sample's cross-attention, head by head and place by place: [T, d] and [K, width] to [T, d]."""
    q, k, v = x @ layer.q.weight.T, tokens @ layer.k.weight.T, tokens @ layer.v.weight.T
    out = torch.zeros_like(q)
    for start in range(0, q.shape[1], head):
        part = slice(start, start + head)
        for place in range(len(x)):
            score = torch.stack([q[place, part] @ key for key in k[:, part]]) / math.sqrt(head)
            weight = score.exp() / score.exp().sum()
            out[place, part] = sum(w * value for w, value in zip(weight, v[:, part], strict=True))
    return out @ layer.o.weight.T


@torch.no_grad()
def test_every_block_adds_attention_to_the_tokens() -> None:
    editor, adapter = adapted()
    blocks = [*editor.base.transformer.transformer_blocks, *editor.base.transformer.single_transformer_blocks]
    a, a_prime, b = (editor.autoencoder.to_latent(pictures(2, seed)) for seed in range(3))
    coefficients = editor.coefficients(a, a_prime, b)
    assert torch.equal(coefficients, torch.full((2, len(editor.basis.layers), 1), pair_adapter.COEFFICIENT))
    joined = torch.cat([editor.encoder(x) for x in (a, a_prime, b)], -1)
    flat = joined @ adapter.project.weight.T + adapter.project.bias
    tokens = torch.nn.functional.layer_norm(flat.reshape(2, pair_adapter.TOKENS, -1), (pair_adapter.WIDTH,))
    for index, block in enumerate(blocks):
        x = torch.randn(2, 5, editor.base.transformer.inner_dim)
        given = {"hidden_states": x}
        if index == 0:
            given["encoder_hidden_states"] = torch.randn(2, 1, x.shape[-1])
        with editor.basis.mixed(coefficients):
            with_it = block.attn(**given)
            adapter.tokens = None
            without = block.attn(**given)
        editor.coefficients(a, a_prime, b)
        if index == 0:
            assert torch.equal(with_it[1], without[1]), "the text's part stays"
            with_it, without = with_it[0], without[0]
        expected = torch.stack([naive(adapter.attention[index], *one, head=64) for one in zip(x, tokens, strict=True)])
        torch.testing.assert_close(with_it - without, expected, rtol=1e-3, atol=1e-5)


@torch.no_grad()
def test_it_starts_as_the_base_and_then_depends_on_the_pair() -> None:
    editor, adapter = adapted(zero=True)
    first, second, b = (pictures(1, seed) for seed in range(3))
    inputs = transformer_inputs(1)
    editor.route(first, second, b)
    with_it = editor.base.velocity(**inputs)
    adapter.tokens = None
    assert torch.equal(with_it, editor.base.velocity(**inputs))
    editor, _ = adapted()
    there, back = (editor.edit(*pair, b, steps=1).pictures for pair in ((first, second), (second, first)))
    assert (there - back).abs().max() > 1e-3


def test_saved_and_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_data(tmp_path / "data", monkeypatch)
    config = BasisConfig(1, 2, keys_dim=8)
    editor = new_pair_editor(config, seed=4)
    for layer in editor.router.attention:
        torch.nn.init.normal_(layer.o.weight, std=0.3)
    editor.save(tmp_path / "adapter")
    again = load_pair_editor(tmp_path / "adapter")
    triplet = [pictures(2, seed) for seed in range(3)]
    # The file is in half precision.
    torch.testing.assert_close(
        again.edit(*triplet, steps=1).pictures, editor.edit(*triplet, steps=1).pictures, atol=2e-2, rtol=0
    )


@pytest.mark.parametrize("other", [{"n_loras": 2}, {"layout": "tokens", "n_loras": 1, "routed": False}])
def test_other_editors_are_refused(other: dict) -> None:
    with pytest.raises(InputError, match="expected an editor with a single LoRA, a router and layout b"):
        PairAdapter(tiny_editor(**other))
