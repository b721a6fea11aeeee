"""Gains that change a mixture of LoRAs, shares, the strongest LoRAs, LoRAs of different layers that go together."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ..errors import InputError, finite_number, whole_number


def remix(coefficients: Tensor, gains: Mapping[int, float], layer: int | None = None) -> Tensor:
    """Turns chosen LoRAs of a mixture up or down, in all layers alike or in one.

        c'_{l,n} = g_n c_{l,n} / sum_m g_m c_{l,m},        g_n = 1 for every LoRA without a gain

    so that a gain of 0 takes a LoRA out, a large one lets it take over wherever the router gave it anything, and every
    row sums to 1. A row from which everything was taken is zero: that layer is the bare base's. Remixing twice
    multiplies the gains.

    Args:
        coefficients: [..., layers, N], not negative.
        gains: index of a LoRA to its gain, at least 0 and finite.
        layer: the only one that changes; None for all.
    """
    layers, count = coefficients.shape[-2:]
    if layer is not None:
        whole_number(layer, "a layer", 0, layers - 1)
    factor = torch.ones_like(coefficients)
    rows = slice(None) if layer is None else layer
    for n, gain in gains.items():
        factor[..., rows, whole_number(n, "a LoRA", 0, count - 1)] = finite_number(gain, f"the gain of LoRA {n}")
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


def matched(coefficients: Tensor) -> tuple[np.ndarray, float]:
    """Groups LoRAs of different layers that the router turns up and down together.

    In every layer the N LoRAs may be renumbered, with their keys, without any change of what is drawn: *LoRA n across
    layers* is no object until the layers are matched. Each layer is assigned, one to one, to N profiles over the
    analogies by correlation, and the profiles become the means of what was assigned to them, in turn.

    Args:
        coefficients: of k ≥ 3 analogies in at least two layers, [k, layers, N].

    Returns:
        The LoRA of each layer that belongs to each group, int [layers, N], and the mean correlation of the members with
        their group's profile in the other layers.
    """
    k, layers, count = coefficients.shape
    if k < 3 or layers < 2:
        raise InputError(f"expected coefficients of at least 3 analogies in 2 layers, got {list(coefficients.shape)}")
    own = coefficients.permute(1, 2, 0).double().numpy()  # [layers, N, k]
    own = _of_length_one(own - own.mean(-1, keepdims=True))
    groups = np.tile(np.arange(count), (layers, 1))
    profiles = own[int(coefficients.std(0).sum(-1).argmax())]
    for _ in range(20):
        new = np.stack([linear_sum_assignment(profiles @ layer.T, maximize=True)[1] for layer in own])
        members = np.take_along_axis(own, new[..., None], 1)
        profiles = _of_length_one(members.sum(0))
        if (new == groups).all():
            break
        groups = new
    others = _of_length_one(members.sum(0) - members)
    return groups, float((others * members).sum(-1).mean())


def _of_length_one(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True).clip(1e-12)
