"""What the router may look through: four frozen encoders of one form, for the question how much the eye matters.

* ``tiny-clip``: :class:`~lorweb_mini.models.tiny_clip.TinyCLIP`, trained here on emoji, their names and instructions;
* ``latents``: the 1024 numbers of the autoencoder's latent, no encoder at all;
* ``pixels``: the decoded picture at 16×16, which knows colours and places and nothing else;
* ``efficientnet-lite0``: features of a network that others trained on photographs.
"""

from __future__ import annotations

from typing import Protocol

import torch.nn.functional as F
from torch import Tensor

from ..errors import InputError
from .autoencoder import MiniAutoencoder
from .judge import FEATURES, Judge
from .tiny_clip import EMBEDDING_NORM, TinyCLIP
from .weights import weights_dir

TINY_CLIP = "tiny-clip"
EFFICIENTNET = "efficientnet-lite0"
ENCODERS = (TINY_CLIP, "latents", "pixels", EFFICIENTNET)
SIDE = 16  # of the small picture, in pixels


class Encoder(Protocol):
    """A frozen picture encoder, as the router needs it."""

    @property
    def embedding_dim(self) -> int:
        """Width D of an embedding."""

    def __call__(self, latent: Tensor) -> Tensor:
        """Normalised latents [B, 16, 8, 8] to embeddings [B, D] of norm 10."""


class Latents:
    """The latent itself, as a vector."""

    embedding_dim = 16 * 8 * 8

    def __call__(self, latent: Tensor) -> Tensor:
        """Normalised latents [B, 16, 8, 8] to embeddings [B, 1024] of norm 10."""
        return _scaled(latent)


class Pixels:
    """The decoded picture, averaged over squares of 4×4 pixels."""

    embedding_dim = 3 * SIDE * SIDE

    def __init__(self, autoencoder: MiniAutoencoder) -> None:
        self.autoencoder = autoencoder

    def __call__(self, latent: Tensor) -> Tensor:
        """Normalised latents [B, 16, 8, 8] to embeddings [B, 768] of norm 10."""
        return _scaled(F.adaptive_avg_pool2d(self.autoencoder.to_picture(latent), SIDE))


class EfficientNetFeatures:
    """EfficientNet-lite0's features of the decoded picture. Who routes by them must not be judged by them.

    Raises:
        InputError: the optional packages of the judge are not installed.
    """

    embedding_dim = FEATURES

    def __init__(self, autoencoder: MiniAutoencoder) -> None:
        self.autoencoder, self.judge = autoencoder, Judge()

    def __call__(self, latent: Tensor) -> Tensor:
        """Normalised latents [B, 16, 8, 8] to embeddings [B, 1280] of norm 10."""
        return _scaled(self.judge.features(self.autoencoder.to_picture(latent)))


def _scaled(x: Tensor) -> Tensor:
    return EMBEDDING_NORM * F.normalize(x.flatten(1), dim=-1)


def encoder_of(name: str, autoencoder: MiniAutoencoder) -> Encoder:
    """One of :data:`ENCODERS`, with shipped weights where it has any.

    Raises:
        InputError: another name, or the optional packages of ``efficientnet-lite0`` are not installed.
    """
    if name == TINY_CLIP:
        return TinyCLIP.load(weights_dir() / "encoder")
    if name == "latents":
        return Latents()
    if name == "pixels":
        return Pixels(autoencoder)
    if name == EFFICIENTNET:
        return EfficientNetFeatures(autoencoder)
    raise InputError(f"expected an encoder out of {ENCODERS}, got {name!r}")
