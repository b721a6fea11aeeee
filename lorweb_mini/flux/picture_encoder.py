"""The router's eye at full scale: CLIP or SigLIP through transformers, and pictures at more than 64×64.

The released router reads the projected ``image_embeds`` of CLIP ViT-L/14, 768 numbers a picture, not normalised.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoImageProcessor, CLIPVisionModelWithProjection, SiglipVisionModel

from .. import images
from ..errors import InputError

CLIP_L = "openai/clip-vit-large-patch14"


class PictureEncoder(nn.Module):
    """A frozen CLIP or SigLIP vision tower with its own preprocessing.

    Attributes:
        model: ``CLIPVisionModelWithProjection`` or ``SiglipVisionModel``, in single precision.
        processor: the image processor saved beside it.
        embedding_dim: width D of an embedding.
    """

    def __init__(self, model: Any, processor: Any) -> None:
        super().__init__()
        self.model, self.processor = model.eval().requires_grad_(False), processor
        self.projected = isinstance(model, CLIPVisionModelWithProjection)
        self.embedding_dim: int = model.config.projection_dim if self.projected else model.config.hidden_size

    @torch.no_grad()
    def forward(self, pictures: Tensor) -> Tensor:
        """Pictures [B, 3, H, W] in [-1, 1] to embeddings [B, D]: CLIP's image_embeds, SigLIP's pooled output."""
        drawn = [images.to_pil(x) for x in pictures]
        pixels = self.processor(images=drawn, return_tensors="pt")["pixel_values"]
        out = self.model(pixel_values=pixels.to(self.model.device, self.model.dtype))
        return out.image_embeds if self.projected else out.pooler_output

    @classmethod
    def load(cls, name: str | Path = CLIP_L, token: str | None = None) -> PictureEncoder:
        """Reads a local folder or a model of the hub.

        Raises:
            InputError: neither is there, or it is neither CLIP nor SigLIP.
        """
        try:
            kind = AutoConfig.from_pretrained(name, token=token).model_type
            family = {"clip": CLIPVisionModelWithProjection, "siglip": SiglipVisionModel}.get(kind.split("_")[0])
            if family is None:
                raise InputError(f"expected a CLIP or SigLIP model, got {str(name)!r} of type {kind}")
            model = family.from_pretrained(name, token=token, dtype=torch.float32)
            # Pillow's resizing wherever it runs, so that a picture has one embedding.
            processor = AutoImageProcessor.from_pretrained(name, token=token, backend="pil")
        except (OSError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            detail = " ".join(str(error).split())[:300]
            raise InputError(
                f"expected the folder or hub name of a CLIP or SigLIP model, got {str(name)!r}: {detail}"
            ) from None
        return cls(model, processor)


read_squares = images.read_images  # pictures of any size to [B, 3, side, side]


def read_triplet(a: Any, a_prime: Any, b: Any, side: int) -> list[Tensor]:
    """a, a' and b by :func:`~lorweb_mini.images.read_triplet`, as squares [B, 3, side, side]."""
    return images.read_triplet(a, a_prime, b, partial(images.read_images, side=side))
