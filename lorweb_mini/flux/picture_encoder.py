"""The router's picture encoder at full scale, CLIP or SigLIP through transformers, and reading pictures for it.

The released router reads the projected ``image_embeds`` of CLIP ViT-L/14, 768 numbers a picture, not normalised.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import AutoConfig, AutoImageProcessor, CLIPVisionModelWithProjection, SiglipVisionModel
from transformers.utils import logging

from ..core.layout import grid
from ..errors import InputError
from ..images import _check_size, _from_array, _kind, _open, _to_rgba, to_pil
from .dataset import fit_pictures

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
        drawn = [to_pil(x) for x in pictures]
        pixels = self.processor(images=drawn, return_tensors="pt")["pixel_values"]
        out = self.model(pixel_values=pixels.to(self.model.device, self.model.dtype))
        return out.image_embeds if self.projected else out.pooler_output

    def query(self, a: Tensor, a_prime: Tensor, b: Tensor) -> Tensor:
        """Embeddings of a, a' and b in a row, [B, 3 · D], of pictures [B, 3, H, W] of one size.

        As in the release, the three are cut out of the grid [[a, a'], [b, b]] with the width of a as their height, too.
        A picture taller than wide loses its lower part, and the cut of b begins above b; a square one is itself.
        """
        (height, width), whole = a.shape[-2:], grid(a, a_prime, b, b)
        edge = width if width < 2 * height else height  # beyond that nothing of b would be left
        cuts = (whole[..., :edge, :width], whole[..., :edge, width:], whole[..., edge:, :width])
        return torch.cat([self(x) for x in cuts], dim=1)

    @classmethod
    def load(cls, name: str | Path = CLIP_L, token: str | None = None) -> PictureEncoder:
        """Reads a local folder or a model of the hub.

        Raises:
            InputError: neither is there, or it is neither CLIP nor SigLIP.
        """
        verbosity = logging.get_verbosity()
        logging.set_verbosity_error()  # the text tower of the same file would be reported, key by key
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
        finally:
            logging.set_verbosity(verbosity)
        return cls(model, processor)


def read_picture(x: Any, name: str) -> Tensor:
    """One picture at its own size, float32 [1, 3, H, W] in [-1, 1]; transparency is composed on white.

    Args:
        x: a path, PIL picture, array or tensor [3, H, W] in [-1, 1], as in :func:`~lorweb_mini.images.read_image`.
        name: what the caller calls it, for messages.

    Raises:
        InputError: something that is no picture, or a damaged one.
    """
    if isinstance(x, Tensor):
        if x.ndim != 3 or x.shape[0] != 3 or not x.is_floating_point() or not bool((x.abs() <= 1.001).all()):
            raise InputError(f"{name}: expected a float tensor [3, H, W] in [-1, 1]; got {_kind(x)}")
        return x.detach().to("cpu", torch.float32).clamp(-1, 1)[None]
    if isinstance(x, np.ndarray):
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
    except Exception as error:  # decoders raise nearly every built-in exception on damaged files
        raise InputError(f"{name}: expected a whole picture; got one that cannot be decoded: {error}") from error
    opaque = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return torch.from_numpy(np.array(opaque)).permute(2, 0, 1).float().div_(127.5).sub_(1)[None]


def read_triplets(a: Any, a_prime: Any, b: Any) -> list[list[Tensor]]:
    """One [a, a', b] an analogy, a' and b stretched to a's size: tensors [1, 3, H, W] in [-1, 1].

    Each argument is a picture (see :func:`read_picture`), a list of them or a tensor [B, 3, H, W]; one picture serves
    all analogies.

    Raises:
        InputError: as :func:`read_picture`, an empty list, or lengths that differ.
    """
    named = [
        (list(x) if isinstance(x, (list, tuple)) or (isinstance(x, Tensor) and x.ndim == 4) else [x], name)
        for x, name in ((a, "a"), (a_prime, "a_prime"), (b, "b"))
    ]
    pictures = [
        [read_picture(item, f"{name}[{i}]" if len(x) > 1 else name) for i, item in enumerate(x)] for x, name in named
    ]
    size = max(map(len, pictures))
    if {len(x) for x in pictures} - {1, size} or not all(pictures):
        counts = ", ".join(str(len(x)) for x in pictures)
        raise InputError(f"expected as many pictures a as a_prime as b (or one for all), got {counts}")
    return [fit_pictures(*(x[i if len(x) > 1 else 0] for x in pictures)) for i in range(size)]
