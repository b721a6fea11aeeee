"""The encoder of the pair: from a and a' together to an embedding that says what changed.

The paper's query puts separate embeddings of a, a' and b side by side, and its router is linear in them; what changed
between two pictures is no linear function of their embeddings. This tower sees both latents at every place at once. It
is taught directly, before any basis: to tell the kinds, strengths and order of the edits of a fresh chain, and which of
the artists' relations a pair shows. It is an addition of this project; the paper has no such part.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from ..errors import InputError
from .autoencoder import ResidualBlock
from .tiny_clip import EMBEDDING_NORM
from .weights import load_state, load_weights, save_weights


class PairEncoder(nn.Module):
    """Stacked latents of a and a' to one embedding.

    Args:
        kinds: the kinds of edit that it is taught to tell.
        relations: the artists' relations that it is taught to tell.
        strengths: how many numbers all strengths take, see :mod:`~lorweb_mini.training.pair_targets`.
        longest: length of the longest chain of edits.
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
        strengths: int,
        longest: int = 3,
        width: int = 160,
        layers: int = 4,
        embedding_dim: int = 192,
        stem_width: int = 80,
    ) -> None:
        super().__init__()
        self.config = {
            "kinds": list(kinds),
            "relations": list(relations),
            "strengths": strengths,
            "longest": longest,
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
        self.present = nn.Linear(embedding_dim, len(kinds))
        self.order = nn.Linear(embedding_dim, len(kinds) * longest)
        self.strength = nn.Linear(embedding_dim, strengths)
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
