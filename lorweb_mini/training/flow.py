"""Flow matching: a straight line from picture to noise, and the loss of its velocity.

z_t = (1 − t) x + t e for a clean x and noise e; the transformer predicts v = e − x. logit(t) is normal.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .loop import torch_generator

SHIFT = 0.8  # towards noise, where it is decided what to draw; near t = 0 it is only finished


def flow_sample(rng: np.random.Generator, clean: Tensor, shift: float | Tensor = SHIFT) -> dict[str, Tensor]:
    """Times t, noise e, and the noisy tokens z_t = (1 − t) x + t e for clean tokens x [B, T, 64].

    logit(t) is normal with mean ``shift``, one for all or [B], and deviation 1.
    """
    generator = torch_generator(rng)
    t = torch.sigmoid(torch.randn(len(clean), generator=generator) + shift)
    noise = torch.randn(clean.shape, generator=generator)
    noisy = torch.lerp(clean, noise, t[:, None, None])
    return {"t": t, "noisy": noisy, "velocity": noise - clean}
