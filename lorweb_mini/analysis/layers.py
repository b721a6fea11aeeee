"""What the layers of one analogy do: gates measured on activations, mixtures replaced layer by layer, update sizes."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.basis import ADAPTER, Basis
from ..core.editor import Editor
from ..errors import InputError
from ..models.base import STEPS
from .evaluation import CHUNK
from .space import update_gram

CHANGES = {"uniform": "all LoRAs alike", "other": "the other analogy's", "off": "switched off"}
KINDS = {
    "norm1.linear": "modulation, picture",
    "norm1_context.linear": "modulation, text",
    "attn.to_q": "query, picture",
    "attn.to_k": "key, picture",
    "attn.to_v": "value, picture",
    "attn.add_q_proj": "query, text",
    "attn.add_k_proj": "key, text",
    "attn.add_v_proj": "value, text",
    "attn.to_out.0": "attention out, picture",
    "attn.to_add_out": "attention out, text",
    "ff.net.0.proj": "MLP in, picture",
    "ff.net.2": "MLP out, picture",
    "ff_context.net.0.proj": "MLP in, text",
    "ff_context.net.2": "MLP out, text",
    "norm.linear": "modulation",
    "proj_mlp": "MLP in",
    "proj_out": "attention and MLP out",
}
"""Linears of the double blocks, then those of the single blocks that have names of their own."""


def layer_label(name: str) -> tuple[str, str]:
    """Block and kind of an adapted Linear, for a reader: ``transformer_blocks.0.attn.to_q`` is ("double block 1",
    "query, picture"). Double blocks have weights of their own for picture and text tokens, single blocks share them.
    """
    first, number, rest = name.split(".", 2)
    sort = "single" if first.startswith("single") else "double"
    kind = KINDS[rest].removesuffix(", picture") if sort == "single" else KINDS[rest]
    return f"{sort} block {int(number) + 1}", kind


def perplexity(coefficients: Tensor) -> Tensor:
    """exp(entropy) of mixtures [..., N], not negative: how many LoRAs share the work, 1 to N; [...]."""
    share = coefficients / coefficients.sum(-1, keepdim=True)
    return torch.special.entr(share).sum(-1).exp()


def update_norms(basis: Basis, coefficients: Tensor) -> Tensor:
    """‖ΔW‖ / ‖W‖ of a mixture [layers, N] in every layer: [layers], with ‖ΔW‖² = cᵀ G c (:func:`update_gram`)."""
    (checked,) = basis.check(coefficients).double()
    weights = [module.get_base_layer().weight.detach().double().norm() for module in basis.modules]
    squares = [c @ update_gram(basis, layer) @ c for layer, c in enumerate(checked)]
    return torch.stack(squares).clamp_min(0).sqrt() / torch.stack(weights)


@dataclass(frozen=True)
class GateRecord:
    """What hooks counted and measured during one edit.

    The gate that each run of the transformer applied is ⟨A_n x, gated A_n x⟩ / ⟨A_n x, A_n x⟩ over the first sample's
    tokens.
    """

    router_calls: int
    times: list[float]  # time t of each run, [steps]
    routed: Tensor  # the router's coefficients, [layers, N]
    gates: Tensor  # [steps, layers, N]
    inputs: Tensor  # root mean square of A_n x, what the gate had to weigh, [steps, layers, N]
    picture: Tensor  # the result [3, 64, 64]

    @property
    def spread(self) -> Tensor:
        """Largest difference of any layer's any gate to that of the first step, for each step: [steps]."""
        return (self.gates - self.gates[0]).abs().amax((1, 2))

    @property
    def input_spread(self) -> Tensor:
        """Median over layers and LoRAs of the relative difference of an input to that of the first step: [steps]."""
        return ((self.inputs - self.inputs[0]).abs() / self.inputs[0].clamp_min(1e-12)).flatten(1).quantile(0.5, 1)


def record_gates(editor: Editor, a: Any, a_prime: Any, b: Any, steps: int = 8, seed: int = 0) -> GateRecord:
    """Edits b as :meth:`Editor.edit` does, with a hook on the router and on every layer's A.

    The gate is read off the activations, before and after it, not from where it is stored.
    """
    if editor.router is None:
        raise InputError("expected an editor with a router, got one without")
    basis = editor.basis
    answers, gates, inputs, times = list[Tensor](), list[Tensor](), list[Tensor](), list[float]()

    def begin(module: nn.Module, arguments: tuple, named: dict[str, Any]) -> None:
        times.append(float(named["timestep"][0]))
        for seen in (gates, inputs):
            seen.append(torch.zeros(len(basis.layers), basis.n_loras, dtype=torch.float64))

    def measure(layer: int, module: nn.Linear, arguments: tuple[Tensor], gated: Tensor) -> None:
        # This hook comes after the basis's own, so what it is given is gated.
        both = F.linear(arguments[0], module.weight), gated
        plain, after = (x[0].double().reshape(-1, basis.n_loras, basis.rank) for x in both)
        square = plain.pow(2).sum((0, 2))
        gates[-1][layer] = (plain * after).sum((0, 2)) / square.clamp_min(1e-30)
        inputs[-1][layer] = (square / (len(plain) * basis.rank)).sqrt()

    with ExitStack() as hooks:
        hooks.callback(editor.router.register_forward_hook(lambda m, i, o: answers.append(o.detach())).remove)
        hooks.callback(basis.transformer.register_forward_pre_hook(begin, with_kwargs=True).remove)
        for layer, module in enumerate(basis.modules):
            hooks.callback(module.lora_A[ADAPTER].register_forward_hook(partial(measure, layer)).remove)
        result = editor.edit(a, a_prime, b, steps=steps, seed=seed)
    return GateRecord(len(answers), times, answers[0][0], torch.stack(gates), torch.stack(inputs), result.pictures[0])


def variants(coefficients: Tensor, other: Tensor, layer: int | None) -> dict[str, Tensor]:
    """A mixture [layers, N] with one layer's row, or every row, replaced in each way of :data:`CHANGES`.

    ``other`` is another analogy's mixture, [layers, N].
    """
    uniform = torch.full_like(coefficients, 1 / coefficients.shape[-1])
    replaced = torch.zeros(len(coefficients), 1, dtype=torch.bool)
    replaced[slice(None) if layer is None else layer] = True
    rows = (uniform, other, torch.zeros_like(coefficients))
    return {kind: torch.where(replaced, row, coefficients) for kind, row in zip(CHANGES, rows, strict=True)}


def difference(x: Tensor, y: Tensor) -> Tensor:
    """Root mean square difference of pictures [..., 3, H, W] in [-1, 1], in grey levels of 255: [...]."""
    return (x - y).pow(2).mean((-3, -2, -1)).sqrt() * 127.5


def layer_changes(
    editor: Editor,
    b: Any,
    coefficients: Tensor,
    other: Tensor,
    kind: str,
    context: tuple[Any, Any] | None = None,
    steps: int = STEPS,
    seed: int = 0,
) -> np.ndarray:
    """How much the picture changes (:func:`difference`) when one layer's mixture is replaced, for each layer: [layers].

    ``kind`` is one of :data:`CHANGES`.
    """
    if kind not in CHANGES:
        raise InputError(f"expected one of {', '.join(CHANGES)}, got {kind!r}")
    many = [variants(coefficients, other, layer)[kind] for layer in range(len(editor.basis.layers))]
    mixtures = torch.stack([coefficients, *many])
    drawn = torch.cat([editor.generate(b, x, context, steps=steps, seed=seed).pictures for x in mixtures.split(CHUNK)])
    return difference(drawn[1:], drawn[0]).numpy()
