"""One LoRA by direction: its directions sorted by strength, and mixtures that leave the weak ones out.

    B A  =  sum_n s_n u_n v_nᵀ,        s_1 ≥ s_2 ≥ … ≥ s_r

so a LoRA of rank r is r LoRAs of rank one. Written as such a basis (:func:`by_direction`) the gate of
:mod:`~lorweb_mini.core.basis` turns single directions off, and with ones for the first k directions and zeros for the
others each layer's update is its best approximation of rank k (Eckart and Young). No product B A is ever built.
"""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from numbers import Real

import torch
from torch import Tensor

from ..algebra import svd_of_product
from ..core.basis import Basis
from ..core.editor import Editor, Miniature
from ..errors import InputError, whole_number
from ..models.base import STEPS, Base
from .evaluation import reconstruct, squared


def by_direction(editor: Editor, base: Base) -> Editor:
    """An editor's one LoRA of rank r as r LoRAs of rank one, in each layer the strongest first.

    Its router, if it has one, is fresh: coefficients are what :func:`kept` gives.

    Args:
        editor: with N = 1; it stays as it is.
        base: the frozen base without adapters that the editor stands on; it is copied.
    """
    if editor.config.n_loras != 1:
        raise InputError(f"expected an editor with one LoRA, got one with {editor.config.n_loras}")
    config = replace(editor.config, n_loras=editor.config.rank, rank=1)
    directions = Editor(Miniature(editor.autoencoder, editor.encoder, copy.deepcopy(base), config, editor.pair_encoder))
    state = {}
    for layer, name in enumerate(editor.basis.layers):
        low, high = (factor[0].detach() for factor in editor.basis.factors(layer))
        u, strength, v = svd_of_product(high, low)
        state[f"{name}.lora_A.weight"] = strength.sqrt()[:, None] * v.T
        state[f"{name}.lora_B.weight"] = u * strength.sqrt()
    directions.basis.load_state_dict(state)
    for parameter in directions.basis.parameters():
        parameter.requires_grad_(False)
    return directions


def strengths(basis: Basis) -> Tensor:
    """Frobenius norms of rank-one updates B_n A_n, [layers, N]: the singular values after :func:`by_direction`."""
    if basis.rank != 1:
        raise InputError(f"expected LoRAs of rank 1, got rank {basis.rank}")
    factors = [basis.factors(layer) for layer in range(len(basis.layers))]
    return torch.stack([low.flatten(1).norm(dim=1) * high.flatten(1).norm(dim=1) for low, high in factors]).detach()


def energy_kept(basis: Basis, rank: int) -> float:
    """Share of ‖ΔW‖², summed over the layers, in the first ``rank`` directions of a basis of :func:`by_direction`."""
    energy = strengths(basis).square()
    return float(energy[:, :rank].sum() / energy.sum().clamp_min(1e-30))


def kept(basis: Basis, rank: int, strength: float = 1.0) -> Tensor:
    """Coefficients [layers, N] that keep the first 0 … N directions, scaled by ``strength``, and none of the others."""
    rank = whole_number(rank, "a rank", 0, basis.n_loras)
    if isinstance(strength, bool) or not isinstance(strength, Real) or not math.isfinite(strength):
        raise InputError(f"expected a finite strength, got {strength!r}")
    coefficients = torch.zeros(len(basis.layers), basis.n_loras)
    coefficients[:, :rank] = float(strength)
    return coefficients


def render(
    editor: Editor, b: Tensor, b_prime: Tensor, coefficients: Tensor, steps: int = STEPS, seed: int = 0
) -> tuple[Tensor, list[float]]:
    """One b [3, 64, 64] under k mixtures [k, layers, N]: pictures [k, 3, 64, 64] and their normalised errors."""
    drawn = editor.generate(b, coefficients, steps=steps, seed=seed).pictures
    seen_b, seen_truth = (reconstruct(editor.autoencoder, x[None]) for x in (b, b_prime))
    errors = squared(drawn, seen_truth.expand_as(drawn)) / squared(seen_b, seen_truth)
    return drawn, errors.tolist()
