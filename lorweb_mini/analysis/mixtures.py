"""Gains that change a mixture of LoRAs, shares, the strongest LoRAs."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..errors import InputError


def remix(coefficients: Tensor, gains: Mapping[int, float], layer: int | None = None) -> Tensor:
    """Turns chosen LoRAs of a mixture up or down, in all layers alike or in one.

        c'_{l,n} = g_n c_{l,n} / sum_m g_m c_{l,m},        g_n = 1 for every LoRA without a gain

    so that a gain of 0 takes a LoRA out, a large one lets it take over wherever the router gave it anything, and every
    row sums to 1. A row from which everything was taken is zero: that layer is the bare base's. Remixing twice
    multiplies the gains.

    Args:
        coefficients: [..., layers, N], not negative.
        gains: index of a LoRA to its gain, at least 0.
        layer: the only one that changes; None for all.

    Raises:
        InputError: a LoRA or a layer that the basis does not have, or a gain that is negative or not finite.
    """
    count = coefficients.shape[-2]
    if layer is not None and not 0 <= layer < count:
        raise InputError(f"expected a layer from 0 to {count - 1}, got {layer}")
    factor = torch.ones_like(coefficients)
    rows = slice(None) if layer is None else layer
    for n, gain in gains.items():
        if not 0 <= n < factor.shape[-1]:
            raise InputError(f"expected LoRAs 0..{factor.shape[-1] - 1}, got {n}")
        if not 0 <= gain < float("inf"):
            raise InputError(f"expected a gain of at least 0 for LoRA {n}, got {gain}")
        factor[..., rows, n] = gain
    weighted = coefficients * factor
    total = weighted.sum(-1, keepdim=True)
    # A row that nothing changed stays as it is, whatever its sum.
    unchanged = (factor == 1).all(-1, keepdim=True)
    return torch.where(unchanged, coefficients, torch.where(total > 0, weighted / total.clamp_min(1e-12), 0.0))


def shares(coefficients: Tensor) -> Tensor:
    """How much of a mixture [layers, N] each LoRA is, averaged over layers: [N]."""
    return coefficients.mean(-2)


def strongest(coefficients: Tensor, count: int = 4) -> tuple[int, ...]:
    """The LoRAs with the largest share of a mixture [layers, N], largest first."""
    return tuple(shares(coefficients).topk(min(count, coefficients.shape[-1])).indices.tolist())
