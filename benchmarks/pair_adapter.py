"""A rival of the basis: one LoRA and, in every block, cross-attention to embeddings of the example pair.

This is the kind of adapter that RelationAdapter puts on FLUX. The conditioning enters the activations as further keys
and values, where LoRWeB changes the weights. It reads exactly what the router reads. A linear layer makes a few tokens
of it (IP-Adapter's way), and in block l

    out_l(x) = Attention_l(x) + O_l · Attention(Q_l x, K_l tokens, V_l tokens),

with O_l = 0 before training. It stands in the router's place: an editor whose ``router`` is a :class:`PairAdapter`
gets constant coefficients from it, trains by the same recipe and draws by the same code.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorweb_mini.core.editor import BasisConfig, Editor, new_editor
from lorweb_mini.core.router import Router, Standardised
from lorweb_mini.errors import InputError
from lorweb_mini.models.weights import load_state, load_weights

TOKENS, WIDTH, HEAD = 8, 128, 64
# The one LoRA's constant coefficient, 1/N of the starter: its weights then move as far in a step as the starter's.
COEFFICIENT = 1 / 16


class CrossAttention(nn.Module):
    """From hidden states [B, T, d] to tokens [B, K, width]; its output starts at zero."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.q, self.o = nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim, bias=False)
        self.k, self.v = nn.Linear(width, dim, bias=False), nn.Linear(width, dim, bias=False)
        nn.init.zeros_(self.o.weight)

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        """What is added to the block's own attention, [B, T, d]."""
        q, k, v = (y.unflatten(-1, (-1, min(HEAD, y.shape[-1]))).transpose(1, 2) for y in
                   (self.q(x), self.k(tokens), self.v(tokens)))  # fmt: skip
        return self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class PairAdapter(Standardised):
    """Cross-attention in every block of an editor's transformer.

    Its forward pass reads the embeddings and keeps their tokens for the blocks, until the next one: unlike a router it
    cannot be used from several threads, and ``generate`` draws with the pair that was read last.

    Args:
        editor: a basis of one LoRA on layout ``b``, with a router whose query this adapter reads instead.

    Raises:
        InputError: an editor of another kind.
    """

    def __init__(self, editor: Editor) -> None:
        if not isinstance(editor.router, Router) or editor.layout.needs_context or editor.basis.n_loras != 1:
            raise InputError("expected an editor with a single LoRA, a router and layout b, got another one")
        query, transformer = editor.router.query_projection.shape[-1], editor.base.transformer
        super().__init__(query)
        self.layers = len(editor.basis.layers)
        self.project = nn.Linear(query, TOKENS * WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        blocks = [*transformer.transformer_blocks, *transformer.single_transformer_blocks]
        self.attention = nn.ModuleList(CrossAttention(transformer.inner_dim, WIDTH) for _ in blocks)
        self.tokens: Tensor | None = None
        for index, block in enumerate(blocks):
            block.attn.register_forward_hook(partial(self._add, index), with_kwargs=True)

    def forward(self, *embeddings: Tensor) -> Tensor:
        """Reads what the router's query is made of; returns the constant coefficients [B, layers, 1]."""
        query = self.query(*embeddings)
        self.tokens = self.norm(self.project(query).unflatten(-1, (TOKENS, WIDTH)))
        return query.new_full((len(query), self.layers, 1), COEFFICIENT)

    def _add(self, index: int, module: nn.Module, inputs: Any, named: dict[str, Any], output: Any) -> Any:
        if self.tokens is None:
            return output
        added = self.attention[index](named["hidden_states"], self.tokens)
        # A double block's attention also returns the text's part, which stays as it is.
        return (output[0] + added, *output[1:]) if isinstance(output, tuple) else output + added


def new_pair_editor(config: BasisConfig, seed: int = 0) -> Editor:
    """An untrained adapter on the shipped frozen parts; it starts as the base."""
    editor = new_editor(config, seed)
    with torch.random.fork_rng(), torch.device("cpu"):
        torch.manual_seed(seed)
        editor.router = PairAdapter(editor)
    return editor


def load_pair_editor(folder: str | Path) -> Editor:
    """Reads what a training of :func:`new_pair_editor` wrote, for inference.

    Raises:
        InputError: the folder holds no such weights, or damaged ones.
    """
    stored, state = load_weights(folder)
    editor = new_pair_editor(BasisConfig(**{k: v for k, v in stored.items() if k in BasisConfig.__dataclass_fields__}))
    editor.basis.load_state_dict({k.removeprefix("basis."): v for k, v in state.items() if k.startswith("basis.")})
    own = {k.removeprefix("router."): v for k, v in state.items() if k.startswith("router.")}
    load_state(editor.router, own, folder)
    editor.router.requires_grad_(False)
    for parameter in editor.basis.parameters():
        parameter.requires_grad_(False)
    return editor
