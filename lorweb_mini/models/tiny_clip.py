"""Tiny CLIP, the frozen picture encoder of the router, and the network that it shares with the encoder of pairs.

The network reads latents instead of pixels: a stem of convolutions, which a small transformer on few pictures needs,
then a CLIP vision tower (transformers) on 16 patches. Tiny CLIP is trained on three contrasts: one emoji as drawn by
two artists, a picture and its Unicode name, and a *pair* of pictures and the instruction that leads from one to the
other. The first two make it know what is shown, the third how it is shown; see ``EncoderRecipe``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from ..errors import InputError
from .autoencoder import ResidualBlock
from .base import TEXT_WIDTH
from .weights import check_config, load_state, load_weights, save_weights

EMBEDDING_NORM = 10.0  # about the norm of CLIP ViT-L/14's image embeddings, which the paper's router reads


class LatentTower(nn.Module):
    """Residual convolutions at the latents' own 8×8, then a CLIP vision tower.

    Args:
        channels: of the latents.
        config: all arguments of the subclass, among them ``width``, ``layers``, ``embedding_dim`` and ``stem_width``.
    """

    def __init__(self, channels: int, config: dict[str, Any]) -> None:
        super().__init__()
        self.config, self.embedding_dim = config, config["embedding_dim"]
        width, stem_width = config["width"], config["stem_width"]
        self.stem = nn.Sequential(
            nn.Conv2d(channels, stem_width, 3, padding=1), ResidualBlock(stem_width), ResidualBlock(stem_width)
        )
        self.vision = CLIPVisionModelWithProjection(
            CLIPVisionConfig(
                hidden_size=width,
                intermediate_size=4 * width,
                num_hidden_layers=config["layers"],
                num_attention_heads=width // 32,
                num_channels=stem_width,
                image_size=8,
                patch_size=2,
                projection_dim=config["embedding_dim"],
            )
        )

    def _embedding(self, latent: Tensor) -> Tensor:
        """Latents [B, channels, 8, 8] to embeddings [B, embedding_dim] of norm 10."""
        return EMBEDDING_NORM * F.normalize(self.vision(self.stem(latent)).image_embeds, dim=-1)

    def save(self, folder: str | Path) -> None:
        """Writes config.json and model.safetensors (half precision)."""
        save_weights(folder, self.config, self.state_dict())

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Reads what :meth:`save` wrote, for inference; InputError for a missing file, or one of another encoder."""
        config, state = load_weights(folder)
        check_config(cls.__init__, config, folder)
        try:
            encoder = cls(**config)
        except Exception as error:  # transformers has kinds of its own for numbers that do not go together
            raise InputError(f"expected the sizes of an encoder in {folder}, got others: {error!r:.200}") from None
        load_state(encoder, state, folder)
        return encoder.eval().requires_grad_(False)


class TinyCLIP(LatentTower):
    """Latents to embeddings.

    Attributes:
        stem, vision: what the router uses.
        identity, name: projections of a picture and of a name's sentence vector into one space.
        pair, request: projections of two pictures and of an instruction's sentence vector into another.
            Retrieval uses these four, the router does not.
    """

    def __init__(self, width: int = 128, layers: int = 4, embedding_dim: int = 192, stem_width: int = 64) -> None:
        sizes = {"width": width, "layers": layers, "embedding_dim": embedding_dim, "stem_width": stem_width}
        super().__init__(16, sizes)
        self.identity = nn.Linear(embedding_dim, embedding_dim, bias=False)
        self.name = nn.Linear(TEXT_WIDTH, embedding_dim, bias=False)
        self.pair = nn.Linear(2 * embedding_dim, embedding_dim, bias=False)
        self.request = nn.Linear(TEXT_WIDTH, embedding_dim, bias=False)

    def forward(self, latent: Tensor) -> Tensor:
        """Normalised latents [B, 16, 8, 8] to embeddings [B, embedding_dim] of norm 10."""
        return self._embedding(latent)

    def identity_embedding(self, latent: Tensor) -> Tensor:
        """Unit vectors [B, embedding_dim] in which the drawings of one emoji by several artists lie together."""
        return F.normalize(self.identity(self(latent)), dim=-1)

    def name_embedding(self, sentence: Tensor) -> Tensor:
        """Sentence vectors [B, 384] of names to unit vectors in the space of :meth:`identity_embedding`."""
        return F.normalize(self.name(sentence), dim=-1)

    def pair_embedding(self, first: Tensor, second: Tensor) -> Tensor:
        """Two normalised latents [B, 16, 8, 8] to unit vectors [B, embedding_dim] that say what changed."""
        return F.normalize(self.pair(torch.cat([self(first), self(second)], -1)), dim=-1)

    def request_embedding(self, sentence: Tensor) -> Tensor:
        """Sentence vectors [B, 384] of instructions to unit vectors in the space of :meth:`pair_embedding`."""
        return F.normalize(self.request(sentence), dim=-1)
