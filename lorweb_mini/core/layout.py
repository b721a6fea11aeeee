"""How a triplet is presented to the transformer: which pictures it sees, where, and which tokens it draws.

* ``tokens``: it draws b' (16 tokens) and sees b, a and a' as reference pictures 1, 2 and 3: 64 tokens in all.
* ``grid``: the paper's layout: it draws the grid [[a, a'], [b, b']] and sees [[a, a'], [b, b]]: 128 tokens; the
  bottom-right quarter is the result.
* ``b``: it draws b' and sees b alone, 32 tokens; what the edit is must come through the LoRA mixture.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError

LAYOUTS = ("b", "tokens", "grid")


def pack(latent: Tensor) -> Tensor:
    """Latents [B, C, h, w] to tokens [B, h/2 · w/2, 4C], the same order as diffusers' Flux pipelines."""
    b, c, h, w = latent.shape
    return latent.reshape(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(b, h * w // 4, 4 * c)


def unpack(tokens: Tensor, height: int = 8, width: int = 8) -> Tensor:
    """Tokens [B, h/2 · w/2, 4C] back to latents [B, C, h, w]; inverse of :func:`pack`."""
    b, _, c = tokens.shape
    grid = tokens.reshape(b, height // 2, width // 2, c // 4, 2, 2)
    return grid.permute(0, 3, 1, 4, 2, 5).reshape(b, c // 4, height, width)


def position_ids(rows: int, columns: int, picture: int = 0) -> Tensor:
    """Ids [rows · columns, 3] of one picture's tokens: (picture, row, column)."""
    # Written out, since another library may have set another default dtype or device.
    axes = [torch.arange(n, dtype=torch.float32, device="cpu") for n in (rows, columns)]
    row, column = torch.meshgrid(*axes, indexing="ij")
    return torch.stack([torch.full_like(row, picture), row, column], -1).reshape(rows * columns, 3)


@dataclass(frozen=True)
class Layout:
    """One of :data:`LAYOUTS`. All pictures are normalised latents [B, 16, h, w] of one size."""

    name: str

    def __post_init__(self) -> None:
        if self.name not in LAYOUTS:
            raise InputError(f"expected a layout out of {LAYOUTS}, got {self.name!r}")

    @property
    def needs_context(self) -> bool:
        """Whether the transformer itself sees a and a'."""
        return self.name != "b"

    def references(self, a: Tensor | None, a_prime: Tensor | None, b: Tensor) -> Tensor:
        """Reference tokens [B, R, 64]."""
        if self.name == "b":
            return pack(b)
        if a is None or a_prime is None:
            raise InputError(f"expected a context (a, a_prime) for the layout {self.name!r}, got none")
        if self.name == "tokens":
            return torch.cat([pack(b), pack(a), pack(a_prime)], dim=1)
        return pack(grid(a, a_prime, b, b))

    def target(self, a: Tensor, a_prime: Tensor, b: Tensor, b_prime: Tensor) -> Tensor:
        """Clean tokens [B, T, 64] that the transformer learns to draw."""
        return pack(grid(a, a_prime, b, b_prime) if self.name == "grid" else b_prime)

    def ids(self, height: int = 8, width: int = 8) -> Tensor:
        """Position ids [T + R, 3] for pictures whose latents are height × width."""
        rows, columns = (height, width) if self.name == "grid" else (height // 2, width // 2)
        count = {"b": 1, "tokens": 3, "grid": 1}[self.name]
        return torch.cat([position_ids(rows, columns, k) for k in range(count + 1)])

    def drawn(self, height: int = 8, width: int = 8) -> int:
        """Number T of tokens that the transformer draws."""
        return height * width // 4 * (4 if self.name == "grid" else 1)

    def result(self, tokens: Tensor, height: int = 8, width: int = 8) -> Tensor:
        """Drawn tokens [B, T, 64] to the latent of the result [B, 16, h, w]."""
        if self.name == "grid":
            return unpack(tokens, 2 * height, 2 * width)[:, :, height:, width:]
        return unpack(tokens, height, width)


def grid(top_left: Tensor, top_right: Tensor, bottom_left: Tensor, bottom_right: Tensor) -> Tensor:
    """Four latents [B, C, h, w] as one [B, C, 2h, 2w]."""
    return torch.cat([torch.cat([top_left, top_right], 3), torch.cat([bottom_left, bottom_right], 3)], 2)
