"""One picture under many mixtures, fast enough to follow a slider.

:class:`Renderer` gives the picture of :meth:`Editor.generate`, to within rounding, with the same weights and formulas.
In the editor, diffusers, PEFT and the gate's hooks call more than a thousand operators a step, and for one picture most
of them cost more to call than to compute. Here

* Linear layers that read the same input are one product, the A of their LoRAs among its rows;
* whatever the mixture cannot change is prepared once: position tables, time embeddings, the reference's tokens;
* the modulation of all blocks, which sees the time but no token, is one product for all steps;
* the last block computes only the rows of the tokens that become the picture.

The keys and values of the reference cannot be kept from step to step. They would be fixed in an encoder; here the
reference's tokens attend to the noisy ones and are modulated by the time, so they are others at every step.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.transformers.transformer_flux import FluxAttention
from torch import Tensor

from ..core.basis import ADAPTER, Basis
from ..core.editor import Editor
from ..errors import InputError, check_seed, check_steps
from ..images import read_image
from ..models.base import TEXT_WIDTH, noise_for

ALL = slice(None)
TEXT, PICTURE = slice(0, 1), slice(1, None)  # rows of the tokens


@contextmanager
def _alone() -> Iterator[None]:
    """Inference in single precision, whatever a caller has set."""
    with torch.inference_mode(), torch.autocast("cpu", enabled=False):
        yield


def one_mixture(editor: Editor, coefficients: Tensor) -> Tensor:
    """Coefficients [layers, N] or [1, layers, N] as [layers, N]; InputError for others, or not finite ones."""
    checked = editor.basis.check(coefficients)
    if len(checked) != 1:
        raise InputError(f"expected the coefficients of one analogy, got a batch of {len(checked)}")
    return checked[0]


class _Linears:
    """Adapted Linear layers that read the same input, as one product, and the LoRAs' second half behind it.

        [W_1; …; W_k; A_1; …; A_k] x,   then   y_i = W_i x + B_i (gate_i ∘ A_i x)

    ``layers`` are their positions in the basis; ``gate``, the coefficients as [k · N · r], is set before every picture.
    """

    gate: Tensor

    def __init__(self, basis: Basis, *names: str, block: str = "") -> None:
        self.layers = [basis.layers.index(block + name) for name in names]
        modules = [basis.modules[layer] for layer in self.layers]
        bases = [module.get_base_layer() for module in modules]
        lows = [module.lora_A[ADAPTER].weight for module in modules]
        self.sizes = [*(len(base.weight) for base in bases), sum(map(len, lows))]
        # [in, out], the other way round than in a module: with few rows that is a quarter faster.
        self.weight = torch.cat([*(base.weight for base in bases), *lows]).detach().T.contiguous()
        self.bias = torch.cat([*(base.bias for base in bases), *(low.new_zeros(len(low)) for low in lows)]).detach()
        self.lifts = [module.lora_B[ADAPTER].weight.detach().T.contiguous() for module in modules]

    def __call__(self, x: Tensor) -> list[Tensor]:
        """x [rows, in] to the outputs of all layers, [rows, out_i] each."""
        *outputs, low = torch.addmm(self.bias, x, self.weight).split(self.sizes, 1)
        lows = (low * self.gate).chunk(len(outputs), 1)
        for output, low, lift in zip(outputs, lows, self.lifts, strict=True):
            output.addmm_(low, lift)
        return outputs


def _normed(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Layer norm whose weight and bias are the modulation of this step; ``scale`` has its 1 already."""
    return F.layer_norm(x, scale.shape, scale, shift, 1e-6)


def _activated(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


class _Heads:
    """Joint attention of one block. Queries and keys are normalised and turned by their positions."""

    def __init__(self, rotary: tuple[Tensor, Tensor], *weights: Tensor, eps: float) -> None:
        """``weights`` of the norms of queries and of keys: [tokens or 1, channels] each."""
        cos, sin = rotary
        # Channels 2i and 2i + 1 are turned as one complex number.
        self.angle = torch.complex(cos[:, ::2], sin[:, ::2])[:, None]
        self.weights = [weight.expand(len(cos), -1)[:, None] for weight in weights]
        self.eps = eps

    def _turned(self, x: Tensor, weight: Tensor, rows: slice) -> Tensor:
        x = x.unflatten(1, (-1, weight.shape[-1]))
        x = F.rms_norm(x, x.shape[-1:], eps=self.eps) * weight[rows]
        return torch.view_as_real(torch.view_as_complex(x.unflatten(2, (-1, 2))) * self.angle[rows]).flatten(2)

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, rows: slice = ALL) -> Tensor:
        """Queries of some rows, keys and values of all, [tokens, width] each, to [rows, width]."""
        query, key = self._turned(query, self.weights[0], rows), self._turned(key, self.weights[1], ALL)
        query, key, value = (x.transpose(0, 1)[None] for x in (query, key, value.unflatten(1, key.shape[1:])))
        return F.scaled_dot_product_attention(query, key, value)[0].transpose(0, 1).flatten(1)


class _DoubleBlock:
    """A block with weights of their own for text and picture, which meet in the attention."""

    chunks = 12  # norm1 and norm1_context: shift, scale and gate of the attention and of the feed-forward layer
    modulation = ("norm1.linear", "norm1_context.linear")

    def __init__(self, basis: Basis, block: str, attention: FluxAttention, rotary: tuple[Tensor, Tensor]) -> None:
        picture = ("attn.to_q", "attn.to_k", "attn.to_v"), ("attn.to_out.0",), ("ff.net.0.proj",), ("ff.net.2",)
        text = (
            *(("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"), ("attn.to_add_out",)),
            *(("ff_context.net.0.proj",), ("ff_context.net.2",)),
        )
        self.text, self.picture = ([_Linears(basis, *names, block=block) for names in own] for own in (text, picture))
        self.products = [*self.picture, *self.text]
        norms = (attention.norm_added_q, attention.norm_q), (attention.norm_added_k, attention.norm_k)
        tokens = len(rotary[0]) - 1
        weights = [torch.cat([text.weight[None], picture.weight.expand(tokens, -1)]) for text, picture in norms]
        self.heads = _Heads(rotary, *weights, eps=attention.norm_q.eps)

    def __call__(self, x: Tensor, modulation: Sequence[Tensor]) -> Tensor:
        """Tokens [1 + T + R, width], the text first, to as many."""
        streams = (self.text, modulation[6:], TEXT), (self.picture, modulation[:6], PICTURE)
        joined = [linears[0](_normed(x[rows], mod[1], mod[0])) for linears, mod, rows in streams]
        query, key, value = (torch.cat(both) for both in zip(*joined, strict=True))
        attended = self.heads(query, key, value)
        parts = []
        for (_, out, up, down), mod, rows in streams:
            part = torch.addcmul(x[rows], mod[2], out(attended[rows])[0])
            hidden = _activated(up(_normed(part, mod[4], mod[3]))[0])
            parts.append(torch.addcmul(part, mod[5], down(hidden)[0]))
        return torch.cat(parts)


class _SingleBlock:
    """A block in which text and picture share weights, and the feed-forward layer runs beside the attention."""

    chunks = 3  # shift, scale, gate
    modulation = ("norm.linear",)

    def __init__(
        self, basis: Basis, block: str, attention: FluxAttention, rotary: tuple[Tensor, Tensor], rows: slice = ALL
    ) -> None:
        """``rows`` are the tokens that the next block needs."""
        self.rows = rows
        names = ("attn.to_k", "attn.to_v"), ("attn.to_q", "proj_mlp"), ("proj_out",)
        self.products = [_Linears(basis, *own, block=block) for own in names]
        weights = [norm.weight[None] for norm in (attention.norm_q, attention.norm_k)]
        self.heads = _Heads(rotary, *weights, eps=attention.norm_q.eps)

    def __call__(self, x: Tensor, modulation: Sequence[Tensor]) -> Tensor:
        """Tokens [1 + T + R, width] to those in ``rows``."""
        (shift, scale, gate), (context, own, out) = modulation, self.products
        normed = _normed(x, scale, shift)
        query, hidden = own(normed[self.rows])
        key, value = context(normed)
        both = torch.cat([self.heads(query, key, value, self.rows), _activated(hidden)], 1)
        return torch.addcmul(x[self.rows], gate, out(both)[0])


class Renderer:
    """Renders one picture b under any mixture: ``renderer(coefficients)``.

    The weights are copied at the start; a basis that was trained further needs a new renderer.

    Args:
        editor: any editor.
        b: one picture.
        context: (a, a_prime) for layouts whose transformer sees them.
        steps, seed: as in :meth:`Editor.generate`.

    Raises:
        InputError: a picture that cannot be read, a missing context, steps below 1, a seed outside [0, 2^63), or an
            editor inside ``freeze``, whose weights are not those that it would copy.
    """

    def __init__(
        self, editor: Editor, b: Any, context: tuple[Any, Any] | None = None, steps: int = 4, seed: int = 0
    ) -> None:
        steps, seed = check_steps(steps), check_seed(seed)
        pictures = [read_image(b, "b")]
        if editor.layout.needs_context:
            if not isinstance(context, (tuple, list)) or len(context) != 2:
                raise InputError(
                    f"expected context=(a, a_prime) for the layout {editor.config.layout!r}, got {context!r}"
                )
            pictures += [read_image(context[0], "a"), read_image(context[1], "a_prime")]
        self.editor, self.steps = editor, steps
        with editor.basis.turn(), _alone():
            if editor.basis.merged is not None:
                raise InputError("expected an editor outside of freeze, got one inside, of merged weights")
            self._prepare(torch.stack(pictures), seed)

    def _prepare(self, pictures: Tensor, seed: int) -> None:
        """Everything that no mixture changes."""
        layout, transformer = self.editor.layout, self.editor.base.transformer
        latents = self.editor.autoencoder.to_latent(pictures).split(1)
        self.size = (latents[0].shape[2], latents[0].shape[3])
        a, a_prime = latents[1:] if layout.needs_context else (None, None)
        drawn, ids = layout.drawn(*self.size), layout.ids(*self.size)
        self.noise = noise_for([seed], drawn)[0]
        nothing = self.noise.new_zeros(1, TEXT_WIDTH)  # the instruction
        self.references = transformer.x_embedder(layout.references(a, a_prime, latents[0])[0])
        self.text = transformer.context_embedder(nothing)

        scheduler = copy.copy(self.editor.base.scheduler)
        with torch.device("cpu"):
            scheduler.set_timesteps(sigmas=[1 - i / self.steps for i in range(self.steps)])
        self.lengths = scheduler.sigmas.diff().tolist()
        times = scheduler.timesteps / scheduler.config["num_train_timesteps"] * 1000
        self.time = F.silu(transformer.time_text_embed(times, nothing.expand(self.steps, -1)))
        scale, shift = transformer.norm_out.linear(self.time).chunk(2, 1)
        self.outermost = list(zip(1 + scale, shift, strict=True))
        self._prepare_blocks(transformer.pos_embed(torch.cat([ids.new_zeros(1, 3), ids])), slice(1, 1 + drawn))

    def _prepare_blocks(self, rotary: tuple[Tensor, Tensor], drawn: slice) -> None:
        """The weights; ``drawn`` are the rows of the tokens that become the picture."""
        basis, transformer = self.editor.basis, self.editor.base.transformer
        self.blocks: list[_DoubleBlock | _SingleBlock] = []
        names: list[str] = []
        for i, block in enumerate(transformer.transformer_blocks):
            name = f"transformer_blocks.{i}."
            self.blocks.append(_DoubleBlock(basis, name, block.attn, rotary))
            names += [name + own for own in _DoubleBlock.modulation]
        last = len(transformer.single_transformer_blocks) - 1
        for i, block in enumerate(transformer.single_transformer_blocks):
            name = f"single_transformer_blocks.{i}."
            self.blocks.append(_SingleBlock(basis, name, block.attn, rotary, drawn if i == last else ALL))
            names += [name + own for own in _SingleBlock.modulation]
        self.modulation = _Linears(basis, *names)
        self.products = [self.modulation, *(product for block in self.blocks for product in block.products)]
        order = [layer for product in self.products for layer in product.layers]
        self.order = torch.tensor(order, device="cpu")

    def _mix(self, coefficients: Tensor) -> list[list[list[Tensor]]]:
        """Sets the gates, and gives the modulation by step and block: its chunks, each scale with 1 added."""
        gates = coefficients.repeat_interleave(self.editor.basis.rank, 1)[self.order]
        for product, gate in zip(self.products, gates.split([len(p.layers) for p in self.products]), strict=True):
            product.gate = gate.flatten()
        chunks = torch.cat(self.modulation(self.time), 1).unflatten(1, (-1, self.time.shape[1]))
        chunks[:, 1::3] += 1  # shift, scale and gate follow each other everywhere
        counts = [block.chunks for block in self.blocks]
        return [[list(part) for part in step.split(counts)] for step in chunks]

    def tokens(self, coefficients: Tensor) -> Tensor:
        """The tokens of the result, [T, 64], under a mixture [layers, N]."""
        transformer = self.editor.base.transformer
        z = self.noise
        modulations = self._mix(coefficients)
        for modulation, (scale, shift), length in zip(modulations, self.outermost, self.lengths, strict=True):
            x = torch.cat([self.text, transformer.x_embedder(z), self.references])
            for block, chunks in zip(self.blocks, modulation, strict=True):
                x = block(x, chunks)
            z = torch.add(z, transformer.proj_out(_normed(x, scale, shift)), alpha=length)
        return z

    def __call__(self, coefficients: Tensor) -> Tensor:
        """The picture [3, 64, 64] in [-1, 1] under a mixture, :func:`one_mixture` says in which form."""
        mixture = one_mixture(self.editor, coefficients)
        with _alone():
            latent = self.editor.layout.result(self.tokens(mixture)[None], *self.size)
            picture = self.editor.autoencoder.to_picture(latent)[0]
        return picture.clone()  # outside of inference mode a tensor like any other
