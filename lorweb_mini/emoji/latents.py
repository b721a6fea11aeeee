"""Latents of drawings, encoded once and kept on disk; what is edited for a sample is encoded on the spot.

Encoding a picture costs about as much as a training step on it.
"""

from __future__ import annotations

import contextlib
import re
import warnings
import zlib
from collections.abc import Callable

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor
from tqdm.auto import tqdm

from ..errors import InputError
from ..files import cache_dir, write_atomically
from ..models.autoencoder import MiniAutoencoder
from ..models.weights import latent_fingerprint, load_tensors
from .distributions import Chains
from .relations import SPLITS, concept_sides
from .sheets import composed, load_emoji

SAME_LATENT = 0.03  # mean distance of normalised latents below which two pictures look the same


class PictureSource:
    """Drawings and their latents; what is edited is edited and encoded on the spot.

    Args:
        drawings: emoji and style [P, 2] of those that are encoded once; all of them by default.
    """

    def __init__(self, autoencoder: MiniAutoencoder, drawings: np.ndarray | None = None) -> None:
        self.autoencoder = autoencoder.requires_grad_(False)
        self.drawings = np.argwhere(load_emoji().present) if drawings is None else drawings
        self.row_of = rows_of(self.drawings)
        self.plain = encoded(autoencoder, "drawings", self.drawings, lambda x: x)
        self.sheet: Tensor | None = None  # the drawings' pixels, away from the CPU
        sides = concept_sides()[self.drawings[:, 0]]
        concepts = np.array([e.concept for e in load_emoji().emojis])[self.drawings[:, 0]]
        self.sides: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for index, split in enumerate(SPLITS):
            rows = np.flatnonzero(sides == index)
            # Most drawings are the skin tones of a few people: a concept counts by the root of its drawings.
            _, inverse, count = np.unique(concepts[rows], return_inverse=True, return_counts=True)
            weight = 1 / np.sqrt(count[inverse])
            self.sides[split] = (self.drawings[rows], np.cumsum(weight / weight.sum()))

    def draw(self, rng: np.random.Generator, size: int, split: str = "train") -> np.ndarray:
        """Random drawings of one split's concepts, each paired with itself: emoji and style, twice, [size, 4]."""
        drawings, cumulative = self.sides[split]
        drawn = drawings[np.searchsorted(cumulative, rng.random(size)).clip(0, len(drawings) - 1)]
        return np.concatenate([drawn, drawn], 1)

    @torch.no_grad()
    def latents(self, pairs: np.ndarray, chains: Chains, edited: np.ndarray) -> tuple[Tensor, Tensor]:
        """Latents of the first and the second drawing of pairs [B, 4]; the second is edited where bool [B] says so."""
        first, second = self._plain(pairs[:, :2]), self._plain(pairs[:, 2:])
        if edited.any():
            rows = np.flatnonzero(edited)
            pictures = chains[rows].apply(self.as_drawn(pairs[rows, 2:]))
            second[torch.from_numpy(rows)] = self.autoencoder.to_latent(pictures)
        return first, second

    def _plain(self, shown: np.ndarray) -> Tensor:
        """Latents [B, 16, 8, 8] of drawings as they are."""
        rows = self.row_of[shown[:, 0], shown[:, 1]]
        latents = self.plain[rows].float()
        if (missing := np.flatnonzero(rows < 0)).size:
            latents[torch.from_numpy(missing)] = self.autoencoder.to_latent(self.as_drawn(shown[missing]))
        return latents

    def as_drawn(self, shown: np.ndarray) -> Tensor:
        """Drawings [B, 2] of :attr:`drawings` or others as pictures [B, 3, 64, 64] in [-1, 1]."""
        rows = self.row_of[shown[:, 0], shown[:, 1]]
        if self.sheet is None or (rows < 0).any():
            return load_emoji().tensor(*shown.T).to(self.plain.device)
        return composed(self.sheet[rows])

    def to(self, device: torch.device) -> PictureSource:
        """Draws, edits and encodes on another device from now on."""
        self.autoencoder.to(device)
        self.plain = self.plain.to(device)
        self.sheet = None
        if device.type != "cpu":
            self.sheet = torch.from_numpy(load_emoji().rgba[self.drawings[:, 0], self.drawings[:, 1]]).to(device)
        return self


def rows_of(drawings: np.ndarray) -> np.ndarray:
    """The row in drawings [P, 2] of each emoji in each style, -1 for those that are not among them."""
    rows = np.full(load_emoji().present.shape, -1)
    rows[drawings[:, 0], drawings[:, 1]] = np.arange(len(drawings))
    return rows


@torch.no_grad()
def encoded(autoencoder: MiniAutoencoder, name: str, shown: np.ndarray, edit: Callable[[Tensor], Tensor]) -> Tensor:
    """Latents of pictures [P, 2] (emoji, style) after an edit, from the cache where they are there."""
    short = re.sub(r"[^a-z0-9]+", "_", name)
    # Names that are short for others end in a checksum of the whole: hue=60 and hue=-60 are short for one.
    pixels = _checksum(shown, 0 if short == name else zlib.crc32(name.encode()))
    path = cache_dir() / f"{latent_fingerprint(autoencoder)}-{short}-{pixels:08x}.safetensors"
    channels = autoencoder.config["latent_channels"]
    if path.is_file():
        with contextlib.suppress(InputError):  # cut short by a full disk, say: it is made again
            stored = load_tensors(path).get("latents")
            if stored is not None and stored.dtype == torch.float16 and stored.shape[:2] == (len(shown), channels):
                return stored
    parts = []
    for start in tqdm(range(0, len(shown), 128), desc=f"encoding {name}", leave=False):
        part = shown[start : start + 128]
        parts.append(autoencoder.to_latent(edit(load_emoji().tensor(part[:, 0], part[:, 1]))).half())
    latents = torch.cat(parts).contiguous()
    try:
        write_atomically(path, save({"latents": latents}))
    except (OSError, InputError) as error:
        said = f"encoded pictures are not kept, set LORWEB_CACHE to a folder that can be written: {error}"
        warnings.warn(said, stacklevel=2)
    return latents


def _checksum(shown: np.ndarray, total: int) -> int:
    """A checksum of the pixels of drawings [P, 2], so that a cache does not outlive the sheets; it starts at total."""
    rgba = load_emoji().rgba
    for start in range(0, len(shown), 1024):
        part = shown[start : start + 1024]
        total = zlib.crc32(rgba[part[:, 0], part[:, 1]].tobytes(), total)
    return total
