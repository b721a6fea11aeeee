"""The router's eye at full scale: CLIP or SigLIP through transformers, and pictures at more than 64×64.

The released router reads the projected ``image_embeds`` of CLIP ViT-L/14, 768 numbers a picture, not normalised.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn
from transformers import AutoConfig, AutoImageProcessor, CLIPVisionModelWithProjection, SiglipVisionModel

from ..errors import InputError
from ..images import _check_size, _from_array, _kind, _open, _to_rgba, to_pil

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
        images = [to_pil(x) for x in pictures]
        pixels = self.processor(images=images, return_tensors="pt")["pixel_values"]
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


def read_squares(x: Any, name: str, side: int) -> Tensor:
    """Pictures of any size as squares.

    Args:
        x: a path, PIL picture, array or tensor [3, H, W] in [-1, 1], or a list of these, as in
            :func:`~lorweb_mini.images.read_images`; transparency is composed on white.
        name: what the caller calls it, for messages.
        side: of the result, in pixels. Pictures are padded with white to a square, then resized.

    Returns:
        float32 [B, 3, side, side] in [-1, 1].

    Raises:
        InputError: an empty list, or something that is no picture.
    """
    if isinstance(x, Tensor) and x.ndim == 4:
        x = list(x)
    if not isinstance(x, (list, tuple)):
        return _square(x, name, side)[None]
    if not x:
        raise InputError(f"{name}: expected at least one picture; got an empty list")
    return torch.stack([_square(item, f"{name}[{i}]", side) for i, item in enumerate(x)])


def read_triplet(a: Any, a_prime: Any, b: Any, side: int) -> list[Tensor]:
    """a, a' and b by :func:`read_squares`, one of them repeated where the others are lists of one length.

    Raises:
        InputError: as :func:`read_squares`, or lengths that differ.
    """
    pictures = [read_squares(x, name, side) for x, name in ((a, "a"), (a_prime, "a_prime"), (b, "b"))]
    size = max(map(len, pictures))
    if {len(x) for x in pictures} - {1, size}:
        found = ", ".join(str(len(x)) for x in pictures)
        raise InputError(f"expected as many pictures a as a_prime as b (or one for all), got {found}")
    return [x.expand(size, *x.shape[1:]) for x in pictures]


def _square(x: Any, name: str, side: int) -> Tensor:
    if isinstance(x, Tensor):
        if x.ndim != 3 or x.shape[0] != 3 or not x.is_floating_point() or not bool((x.abs() <= 1.001).all()):
            raise InputError(f"{name}: expected a float tensor [3, H, W] in [-1, 1]; got {_kind(x)}")
        if x.shape[1:] == (side, side):
            return x.detach().to("cpu", torch.float32).clamp(-1, 1)
        picture = to_pil(x)
    elif isinstance(x, np.ndarray):
        picture = _from_array(x, name)
    elif isinstance(x, (str, os.PathLike)):
        picture = _open(Path(x), name)
    elif isinstance(x, Image.Image):
        picture = x
    else:
        raise InputError(f"{name}: expected a path, PIL picture, array or tensor; got {_kind(x)}")
    _check_size(*picture.size, name)
    try:
        rgba = _to_rgba(picture)
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError(f"{name}: expected a whole picture; got one that cannot be decoded: {error}") from error
    opaque = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    square = ImageOps.pad(opaque, (side, side), Image.Resampling.LANCZOS, color="white")
    return torch.from_numpy(np.array(square)).permute(2, 0, 1).float().div_(127.5).sub_(1)
