"""Sharpness: how much a picture changes from pixel to pixel."""

from __future__ import annotations

import numpy as np
from torch import Tensor


def gradient_energy(x: Tensor) -> np.ndarray:
    """‖∇x‖² of each picture [k, 3, 64, 64] by differences of neighbouring pixels, float64 [k]."""
    x = x.double()
    return (x.diff(dim=3).pow(2).sum((1, 2, 3)) + x.diff(dim=2).pow(2).sum((1, 2, 3))).numpy()
