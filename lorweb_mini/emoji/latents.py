"""The latent cache: every picture that training needs, encoded once and kept on disk.

Encoding a picture costs about as much as a training step on it, so the recipes sample from here: rows of latents, and
for each relation the rows of its true pairs.
"""

from __future__ import annotations

import contextlib
import re
import warnings
import zlib
from collections.abc import Callable, Sequence

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
from .relations import SPLITS, Relation, concept_sides, training_pictures
from .sheets import composed, load_emoji

SAME_LATENT = 0.03  # mean distance of normalised latents below which two pictures look the same


class LatentBank:
    """Latents of the true pairs of train concepts.

    Args:
        edited_pairs: how many pictures a relation with procedural edits is shown on; chosen once, at random.

    Attributes:
        latents: normalised latents in half precision [rows, 16, 8, 8]; first every drawing as it is, then the edited
            ones, relation by relation.
        emoji, style: what each row shows, int [rows]; ``edited_by``: index of the relation whose edits were applied,
            -1 for a drawing as it is.
        pairs: for each relation an int array [P, 2] of rows; pairs that look the same are left out.
    """

    def __init__(self, autoencoder: MiniAutoencoder, relations: Sequence[Relation], edited_pairs: int = 1200) -> None:
        self.relations = list(relations)
        drawings = training_pictures()
        row_of = _rows_of(drawings)
        blocks = [encoded(autoencoder, "drawings", drawings, lambda x: x)]
        shown, edited_by = [drawings], [np.full(len(drawings), -1)]
        self.pairs: list[np.ndarray] = []
        count = len(drawings)
        for index, relation in enumerate(self.relations):
            pairs = relation.pairs("train")
            if relation.edits:
                rng = np.random.default_rng(zlib.crc32(relation.name.encode()))
                pairs = pairs[rng.permutation(len(pairs))[:edited_pairs]]
                blocks.append(encoded(autoencoder, relation.name, pairs[:, 2:], relation.apply_edits))
                shown.append(pairs[:, 2:])
                edited_by.append(np.full(len(pairs), index))
                second = np.arange(count, count + len(pairs))
                count += len(pairs)
            else:
                second = row_of[pairs[:, 2], pairs[:, 3]]
            self.pairs.append(np.stack([row_of[pairs[:, 0], pairs[:, 1]], second], 1))
        self.latents = torch.cat(blocks)
        self.emoji, self.style = np.concatenate(shown).T
        self.edited_by = np.concatenate(edited_by)
        self.pairs = [p[self._differ(p)] for p in self.pairs]

    def _differ(self, pairs: np.ndarray) -> np.ndarray:
        keep = [
            ((self.latents[part[:, 0]].float() - self.latents[part[:, 1]].float()).abs().mean((1, 2, 3)) > SAME_LATENT)
            for part in np.array_split(pairs, max(1, len(pairs) // 2048))
        ]
        return torch.cat(keep).numpy()

    def draw_pairs(self, rng: np.random.Generator, relation: np.ndarray) -> tuple[Tensor, Tensor]:
        """One random pair of each given relation (indices [B]): two latents [B, 16, 8, 8]."""
        rows = np.stack([self.pairs[r][rng.integers(len(self.pairs[r]))] for r in relation])
        return self.latents[rows[:, 0]].float(), self.latents[rows[:, 1]].float()

    def draw_analogies(self, rng: np.random.Generator, relation: np.ndarray) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Two different random pairs of each given relation: latents of a, a', b, b'."""
        chosen = [self.pairs[r][rng.choice(len(self.pairs[r]), 2, replace=False)].ravel() for r in relation]
        a, a_prime, b, b_prime = (self.latents[rows].float() for rows in np.stack(chosen, 1))
        return a, a_prime, b, b_prime

    def sampling_weights(self, cap: int = 400, least: int = 2) -> np.ndarray:
        """Probability of each relation, as the square root of its number of pairs up to ``cap``.

        Most pairs are skin tones; sampling by pair would teach little else.
        """
        count = np.array([len(p) for p in self.pairs])
        weight = np.where(count >= least, np.sqrt(np.minimum(count, cap)), 0.0)
        if weight.sum() == 0:
            raise InputError(f"expected a relation with at least {least} pairs, got none")
        return weight / weight.sum()


class PictureSource:
    """Drawings and their latents; what is edited is edited and encoded on the spot.

    Args:
        drawings: emoji and style [P, 2] of those that are encoded once; all of them by default.
    """

    def __init__(self, autoencoder: MiniAutoencoder, drawings: np.ndarray | None = None) -> None:
        self.autoencoder = autoencoder.requires_grad_(False)
        self.drawings = np.argwhere(load_emoji().present) if drawings is None else drawings
        self.row_of = _rows_of(self.drawings)
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
        """Emoji and style of random drawings of one split's concepts, [size, 2]."""
        drawings, cumulative = self.sides[split]
        return drawings[np.searchsorted(cumulative, rng.random(size)).clip(0, len(drawings) - 1)]

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


def _rows_of(drawings: np.ndarray) -> np.ndarray:
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
    except OSError as error:
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
