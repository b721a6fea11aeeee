"""The encoder of the pair: from a and a' together to an embedding that says what changed.

The paper's query puts separate embeddings of a, a' and b side by side, and its router is linear in them; what changed
between two pictures is not a linear function of their embeddings. This network sees both latents at every place at
once. It is trained before any basis: to tell the kinds, strengths and order of the edits of a fresh chain, and which
of the artists' relations a pair shows. It is an addition of this project; the paper has no such part.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .tiny_clip import LatentTower


class PairEncoder(LatentTower):
    """Stacked latents of a and a' to one embedding.

    Args:
        kinds: the kinds of edit that it is trained to recognise.
        relations: the artists' relations that it is trained to recognise.
        strengths: how many numbers all strengths take, see :mod:`~lorweb_mini.training.pair_encoder`.
        longest: length of the longest chain of edits.
        width, layers: of the CLIP vision tower; stem_width: channels of the convolutions before it.
        embedding_dim: width of the embedding.

    Attributes:
        stem, vision: what the router uses.
        present, order, strength, relation: linear heads that only training and its report use.
    """

    def __init__(
        self,
        kinds: Sequence[str],
        relations: Sequence[str],
        strengths: int,
        longest: int = 3,
        width: int = 160,
        layers: int = 4,
        embedding_dim: int = 192,
        stem_width: int = 80,
    ) -> None:
        taught = {"kinds": list(kinds), "relations": list(relations), "strengths": strengths, "longest": longest}
        sizes = {"width": width, "layers": layers, "embedding_dim": embedding_dim, "stem_width": stem_width}
        super().__init__(32, taught | sizes)
        self.kinds, self.relations = tuple(kinds), tuple(relations)
        self.present = nn.Linear(embedding_dim, len(kinds))
        self.order = nn.Linear(embedding_dim, len(kinds) * longest)
        self.strength = nn.Linear(embedding_dim, strengths)
        self.relation = nn.Linear(embedding_dim, len(relations))

    def forward(self, a: Tensor, a_prime: Tensor) -> Tensor:
        """Normalised latents [B, 16, 8, 8] of a and a' to embeddings [B, embedding_dim] of norm 10."""
        return self._embedding(torch.cat([a, a_prime], 1))
