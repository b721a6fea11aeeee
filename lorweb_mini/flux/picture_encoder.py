"""Pictures at full scale: read, laid out as the released inference does, and encoded for the router.

The released router reads the projected ``image_embeds`` of CLIP ViT-L/14, 768 numbers a picture, not normalised.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.pipelines.flux.pipeline_flux_kontext import PREFERRED_KONTEXT_RESOLUTIONS
from PIL import Image
from torch import Tensor, nn
from transformers import AutoConfig, AutoImageProcessor, CLIPVisionModelWithProjection, SiglipVisionModel
from transformers.utils import logging

from ..core.layout import grid
from ..errors import InputError, whole_number
from ..images import REDUCING_GAP, checked_tensor, is_plain, to_pil, to_rgb

CLIP_L = "openai/clip-vit-large-patch14"


class PictureEncoder(nn.Module):
    """A frozen CLIP or SigLIP vision tower in single precision, with its own preprocessing; embeddings are D wide."""

    def __init__(self, model: Any, processor: Any) -> None:
        super().__init__()
        self.model, self.processor = model.eval().requires_grad_(False), processor
        self.projected = isinstance(model, CLIPVisionModelWithProjection)
        self.embedding_dim: int = model.config.projection_dim if self.projected else model.config.hidden_size

    @torch.no_grad()
    def forward(self, pictures: Tensor) -> Tensor:
        """Pictures [B, 3, H, W] in [-1, 1] to embeddings [B, D]: CLIP's image_embeds, SigLIP's pooled output."""
        pixels = self.processor(images=[to_pil(x) for x in pictures], return_tensors="pt")["pixel_values"]
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
        return torch.cat([self(x) for x in cuts], dim=1).float()

    def check_width(self, query_dim: int) -> None:
        """InputError unless three embeddings make a query of a router."""
        if 3 * self.embedding_dim != query_dim:
            raise InputError(
                f"expected an encoder with embeddings of {query_dim / 3:g} numbers, a third of the router's query, "
                f"got one with {self.embedding_dim}"
            )

    @classmethod
    def load(cls, name: str | Path = CLIP_L) -> PictureEncoder:
        """Reads a local folder or a model of the hub; InputError for one that is neither CLIP nor SigLIP."""
        families = {"clip": CLIPVisionModelWithProjection, "siglip": SiglipVisionModel}
        verbosity = logging.get_verbosity()
        logging.set_verbosity_error()  # the text tower of the same file would be reported, key by key
        try:
            kind = AutoConfig.from_pretrained(name).model_type.split("_")[0]
            if kind not in families:
                raise ValueError(f"it is of type {kind}")
            model = families[kind].from_pretrained(name, dtype=torch.float32)
            # Pillow's resizing wherever it runs, so that a picture has one embedding.
            return cls(model, AutoImageProcessor.from_pretrained(name, backend="pil"))
        except (OSError, ValueError) as error:
            detail = " ".join(str(error).split())[:300]
            raise InputError(
                f"expected the folder or hub name of a CLIP or SigLIP model, got {str(name)!r}: {detail}"
            ) from None
        finally:
            logging.set_verbosity(verbosity)


def read_picture(x: Any, name: str) -> Tensor:
    """One picture, as :func:`~lorweb_mini.images.read_image` takes it, at its own size: [1, 3, H, W] in [-1, 1]."""
    return checked_tensor(x, name)[None] if isinstance(x, Tensor) else _tensor([to_rgb(x, name)])


def read_triplets(a: Any, a_prime: Any, b: Any) -> list[list[Tensor]]:
    """One [a, a', b] an analogy, a' and b stretched to a's size: tensors [1, 3, H, W] in [-1, 1].

    Each argument is a picture, a list of them or a tensor [B, 3, H, W]; one picture serves all analogies. InputError
    for what is no picture, for an empty list, and for lengths that differ.
    """

    def read(x: Any, name: str) -> list[Tensor]:
        several = isinstance(x, (list, tuple)) or (isinstance(x, Tensor) and is_plain(x) and x.ndim == 4)
        return [read_picture(item, f"{name}[{i}]") for i, item in enumerate(x)] if several else [read_picture(x, name)]

    pictures = [read(a, "a"), read(a_prime, "a_prime"), read(b, "b")]
    size = max(map(len, pictures))
    if {len(x) for x in pictures} - {1, size} or not all(pictures):
        counts = ", ".join(str(len(x)) for x in pictures)
        raise InputError(f"expected as many pictures a as a_prime as b (or one for all), got {counts}")
    return [fit_pictures(*(x[i if len(x) > 1 else 0] for x in pictures)) for i in range(size)]


def check_side(side: Any, most: int | None = None) -> int:
    """The side of one square picture in pixels; InputError for what is no multiple of 16, of which a token is made."""
    if whole_number(side, "side", 16, most) % 16:
        raise InputError(f"expected side as a multiple of 16 pixels, got {side!r}")
    return int(side)


def grid_size(width: int, height: int, side: int = 512) -> tuple[int, int]:
    """Width and height in pixels of the grid [[a, a'], [b, b']] that the transformer draws for an a of this size.

    It is the resolution nearest in aspect among those that Kontext was trained on, scaled by side / 512 and rounded to
    tokens of 16 pixels: pictures of 384×576 give a grid of 832×1248.
    """
    _, wide, high = min((abs(width / height - w / h), w, h) for w, h in PREFERRED_KONTEXT_RESOLUTIONS)
    return max(16, round(wide * side / 8192) * 16), max(16, round(high * side / 8192) * 16)


def fit_pictures(a: Tensor, *others: Tensor) -> list[Tensor]:
    """a as it is, and the others stretched (bicubic) to its size, as the released inference does; [B, 3, H, W] each."""
    return [a, *(resized(x, (a.shape[-1], a.shape[-2]), Image.Resampling.BICUBIC) for x in others)]


def scaled_grid(a: Tensor, a_prime: Tensor, b: Tensor, corner: Tensor, side: int) -> Tensor:
    """The grid [[a, a'], [b, corner]] of pictures of one size, at the size of :func:`grid_size`."""
    return resized(grid(a, a_prime, b, corner), grid_size(a.shape[-1], a.shape[-2], side))


def resized(pictures: Tensor, size: tuple[int, int], resample: Image.Resampling = Image.Resampling.LANCZOS) -> Tensor:
    """Pictures [B, 3, H, W] in [-1, 1] at another (width, height), through 8 bits as Pillow does; else unchanged."""
    if (pictures.shape[-1], pictures.shape[-2]) == tuple(size):
        return pictures
    return _tensor([to_pil(x).resize(size, resample, reducing_gap=REDUCING_GAP) for x in pictures])


def _tensor(pictures: list[Image.Image]) -> Tensor:
    arrays = np.stack([np.array(x) for x in pictures])
    return torch.from_numpy(arrays).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)
