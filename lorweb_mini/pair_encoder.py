"""The encoder of the pair: from a and a' together to an embedding that says what changed.

The paper's query puts separate embeddings of a, a' and b side by side, and its router is linear in them; what changed
between two pictures is no linear function of their embeddings. This tower sees both latents at every place at once. It
is taught directly, before any basis: to tell the kinds, strengths and order of the edits of a fresh chain, and which of
the artists' relations a pair shows. It is an addition of this project; the paper has no such part.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from .autoencoder import ResidualBlock
from .distributions import CIRCULAR, LONGEST, Chains
from .edits import EDITS
from .encoder import EMBEDDING_NORM
from .images import InputError
from .weights import load_state, load_weights, save_weights


class PairEncoder(nn.Module):
    """Stacked latents of a and a' to one embedding.

    Args:
        kinds: the kinds of edit that it is taught to tell.
        relations: the artists' relations that it is taught to tell.
        width, layers: of the CLIP vision tower; stem_width: channels of the convolutions before it.
        embedding_dim: width of the embedding.

    Attributes:
        stem, vision: what the router uses.
        present, order, strength, relation: linear heads that only the teaching and its report use.
    """

    def __init__(
        self,
        kinds: tuple[str, ...],
        relations: tuple[str, ...],
        width: int = 160,
        layers: int = 4,
        embedding_dim: int = 192,
        stem_width: int = 80,
    ) -> None:
        super().__init__()
        self.config = {
            "kinds": list(kinds),
            "relations": list(relations),
            "width": width,
            "layers": layers,
            "embedding_dim": embedding_dim,
            "stem_width": stem_width,
        }
        self.kinds, self.relations = tuple(kinds), tuple(relations)
        self.stem = nn.Sequential(
            nn.Conv2d(32, stem_width, 3, padding=1), ResidualBlock(stem_width), ResidualBlock(stem_width)
        )
        self.vision = CLIPVisionModelWithProjection(
            CLIPVisionConfig(
                hidden_size=width,
                intermediate_size=4 * width,
                num_hidden_layers=layers,
                num_attention_heads=width // 32,
                num_channels=stem_width,
                image_size=8,
                patch_size=2,
                projection_dim=embedding_dim,
            )
        )
        self.places = strength_places(self.kinds)
        self.present = nn.Linear(embedding_dim, len(kinds))
        self.order = nn.Linear(embedding_dim, len(kinds) * LONGEST)
        self.strength = nn.Linear(embedding_dim, max(p.stop for p in self.places.values()))
        self.relation = nn.Linear(embedding_dim, len(relations))

    @property
    def embedding_dim(self) -> int:
        """Width of an embedding."""
        return self.config["embedding_dim"]  # type: ignore[return-value]

    def forward(self, a: Tensor, a_prime: Tensor) -> Tensor:
        """Normalised latents [B, 16, 8, 8] of a and a' to embeddings [B, embedding_dim] of norm 10."""
        seen = self.vision(self.stem(torch.cat([a, a_prime], 1))).image_embeds
        return EMBEDDING_NORM * F.normalize(seen, dim=-1)

    def save(self, folder: str | Path) -> None:
        """Writes config.json and model.safetensors (half precision)."""
        save_weights(folder, self.config, self.state_dict())

    @classmethod
    def load(cls, folder: str | Path) -> PairEncoder:
        """Reads what :meth:`save` wrote, for inference."""
        config, state = load_weights(folder)
        try:
            encoder = cls(**{**config, "kinds": tuple(config["kinds"]), "relations": tuple(config["relations"])})
        except (TypeError, KeyError) as error:
            raise InputError(f"expected the configuration of an encoder of pairs in {folder}, got {error}") from None
        load_state(encoder, state, folder)
        return encoder.eval().requires_grad_(False)


def strength_places(kinds: tuple[str, ...]) -> dict[str, slice]:
    """Where each kind's numbers stand in a vector of all strengths; an angle takes two, its cosine and sine."""
    found, start = {}, 0
    for kind in kinds:
        if EDITS[kind].range == (1, 1):
            continue
        count = EDITS[kind].parameters * (2 if kind in CIRCULAR else 1)
        found[kind] = slice(start, start + count)
        start += count
    return found


def scaled_strength(kind: str, strength: Tensor) -> Tensor:
    """Strengths [B, P] as numbers of size about 1: angles as cosine and sine, others from -1 to 1 over the range."""
    if kind in CIRCULAR:
        angle = torch.deg2rad(strength)
        return torch.stack([angle.cos(), angle.sin()], -1).flatten(1)
    low, high = EDITS[kind].range
    return 2 * (strength - low) / (high - low) - 1


def unscaled_strength(kind: str, scaled: Tensor) -> Tensor:
    """Inverse of :func:`scaled_strength`; angles come out in [0, 360)."""
    if kind in CIRCULAR:
        cosine, sine = scaled.view(len(scaled), -1, 2).unbind(-1)
        return torch.rad2deg(torch.atan2(sine, cosine)) % 360
    low, high = EDITS[kind].range
    return low + (scaled + 1) / 2 * (high - low)


def pair_targets(encoder: PairEncoder, chains: Chains) -> dict[str, Tensor]:
    """What a chain teaches: ``present`` [B, K] 0 or 1, ``order`` [B, K] its place or -1, ``strength`` and its mask."""
    kinds, size = encoder.kinds, len(chains)
    present = torch.zeros(size, len(kinds))
    order = torch.full((size, len(kinds)), -1)
    strength = torch.zeros(size, encoder.strength.out_features)
    mask = torch.zeros_like(strength)
    for place in range(LONGEST):
        for index, kind in enumerate(kinds):
            rows = torch.from_numpy(np.flatnonzero(chains.kinds[:, place] == kind))
            if not len(rows):
                continue
            present[rows, index] = 1
            order[rows, index] = place
            if kind in encoder.places:
                where = encoder.places[kind]
                strength[rows, where] = scaled_strength(kind, chains.strengths[rows, place, : EDITS[kind].parameters])
                mask[rows, where] = 1
    return {"present": present, "order": order, "strength": strength, "mask": mask}
