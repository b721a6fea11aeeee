"""Flow matching: a straight line from picture to noise, and the velocity along it.

For a clean x and noise e, z_t = (1 − t) x + t e; the transformer is trained to predict v = e − x from z_t and t.
logit(t) is normal: near t = 1 it is decided what to draw, near t = 0 it is only finished.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from .loop import torch_generator

SHIFT = 0.8  # mean of logit(t)
EXACT_SHIFT = 2.0  # where x is a function of the references, nothing is left to decide away from the noise


def flow_sample(clean: Tensor, t: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """z_t and v for clean x [B, ...] and times t [B], with noise from a generator: ``t``, ``noisy``, ``velocity``."""
    noise, t = torch.randn(clean.shape, generator=generator).to(clean.device), t.to(clean.device)
    noisy = torch.lerp(clean, noise, t.view(-1, *[1] * (clean.ndim - 1)))
    return {"t": t, "noisy": noisy, "velocity": noise - clean}


def random_times(size: int, generator: torch.Generator, shift: float | Tensor = SHIFT) -> Tensor:
    """Times [size] whose logits have mean ``shift``, one for all or [size], and deviation 1."""
    return torch.sigmoid(torch.randn(size, generator=generator) + shift)


def clean_of(batch: Mapping[str, Tensor]) -> Tensor:
    """The clean x of what :func:`flow_sample` gave, [B, T, C]: z_t = x + t v."""
    return batch["noisy"] - batch["t"][:, None, None] * batch["velocity"]


def by_change(errors: Tensor, change: Tensor, floor: float, told: Tensor | None = None) -> Tensor:
    """The mean of squared errors [B, T, C], each sample's divided by its mean squared change [B, T, C] plus a floor.

    Where bool [B] ``told`` is False, nothing was to be changed: such a sample counts as it is.
    """
    scale = change.pow(2).mean((1, 2)) + floor
    return (errors.mean((1, 2)) / (scale if told is None else torch.where(told, scale, 1.0))).mean()


def training_sample(rng: np.random.Generator, clean: Tensor, shift: float | Tensor = SHIFT) -> dict[str, Tensor]:
    """:func:`flow_sample` at random times."""
    generator = torch_generator(rng)  # the CPU's on every device, so that seed and step decide
    shift = shift.cpu() if isinstance(shift, Tensor) else shift
    return flow_sample(clean, random_times(len(clean), generator, shift), generator)


def validation_sample(rng: np.random.Generator, clean: Tensor) -> dict[str, Tensor]:
    """:func:`flow_sample` at times whose logits lie evenly from −1.5 to 3.5, the same for every training."""
    return flow_sample(clean, torch.sigmoid(torch.linspace(-1.5, 3.5, len(clean))), torch_generator(rng))
