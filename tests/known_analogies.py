"""Analogies and an autoencoder for which every measure's value is known by hand."""

from __future__ import annotations

import torch
from torch import Tensor

from lorweb_mini.emoji.relations import Analogy
from lorweb_mini.models.autoencoder import MiniAutoencoder


class Lossless(MiniAutoencoder):
    """Gives pictures back as they are."""

    def to_latent(self, x: Tensor) -> Tensor:
        return x

    def to_picture(self, z: Tensor) -> Tensor:
        return z.clamp(-1, 1)


def random_analogy(relation: str, seed: int) -> Analogy:
    """Four random pictures; the upper half of b' is that of b."""
    pictures = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    pictures[3, :, :32] = pictures[2, :, :32]
    a, a_prime, b, b_prime = pictures
    return Analogy(a, a_prime, b, b_prime, relation, "test", ("x@noto",) * 4)


def random_analogies() -> dict[str, list[Analogy]]:
    """Three relations with 3, 4 and 5 analogies."""
    return {
        name: [random_analogy(name, 10 * i + j) for j in range(3 + i)] for i, name in enumerate(("one", "two", "three"))
    }
