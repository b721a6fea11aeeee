"""Augmentation of the artists' pairs: the same small edit on both pictures, under which the relation still holds.

A few thousand pairs of drawings are soon known by heart. A man turned into a woman stays so when both are mirrored,
moved or recoloured, so each pair becomes many.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..emoji.distributions import Chains, Distribution
from ..emoji.latents import PictureSource

AUGMENTED = 0.5  # share of the artists' pairs
RECOLOURED = 0.4  # of these, where a recolouring leaves the relation what it is
# A mirror image of these is another relation's pair, or none.
DIRECTED = frozenset({"arrow", "clock", "digit", "mirror", "moon", "rotate", "sign", "volume", "zodiac"})
FRESH = "fresh"  # in place of a family where a pair is of a fresh edit
COLOURLESS = frozenset({"age", "aid", "couple", FRESH, "gender", "role"})


def _uniform(low: float, high: float, numbers: int = 1):
    return lambda rng, n: rng.uniform(low, high, (n, numbers))


_SMALL = {
    "shrink": (1.0, _uniform(0.7, 0.95)),
    "zoom": (0.7, _uniform(1.05, 1.2)),
    "move": (1.0, _uniform(-5, 5, 2)),
    "rotate": (0.7, _uniform(-12, 12)),
    "flip_horizontal": (2.0, lambda rng, n: np.ones((n, 1))),
}
UPRIGHT = Distribution(("shrink", "zoom", "move"), lengths=(0.7, 0.3, 0), extra=_SMALL)
ANY_SIDE = Distribution(tuple(_SMALL), lengths=(0.6, 0.4, 0), extra=_SMALL)
COLOURS = Distribution(("hue", "mix", "grey", "invert"), lengths=(1, 0, 0))


def shared_edits(rng: np.random.Generator, families: Sequence[str]) -> tuple[Chains, np.ndarray]:
    """For each relation's family a chain of edits for both pictures of a pair, and whether to apply it, bool [B].

    No family, "", is never augmented.
    """
    size = len(families)
    directed = np.array([f in DIRECTED for f in families])
    recoloured = np.array([f in COLOURLESS for f in families]) & (rng.random(size) < RECOLOURED)
    augmented = (rng.random(size) < AUGMENTED) & np.array([bool(f) for f in families])
    upright, chains, colours = (edits.draw(rng, size) for edits in (UPRIGHT, ANY_SIDE, COLOURS))
    chains[directed] = upright[directed]
    chains[recoloured] = colours[recoloured]
    return chains, augmented


def augmented_latents(
    pictures: PictureSource,
    pairs: np.ndarray,
    chains: Chains,
    edited: np.ndarray,
    shared: Chains,
    augmented: np.ndarray,
) -> tuple[Tensor, Tensor]:
    """As :meth:`PictureSource.latents`, with the shared edits on both pictures first where ``augmented`` says so."""
    first, second = pictures.latents(pairs, chains, edited & ~augmented)
    if len(rows := np.flatnonzero(augmented)):
        x, y = (shared[rows].apply(pictures.as_drawn(pairs[rows, i : i + 2])) for i in (0, 2))
        if len(again := np.flatnonzero(edited[rows])):
            y[torch.from_numpy(again)] = chains[rows[again]].apply(y[torch.from_numpy(again)])
        with torch.no_grad():
            latents = pictures.autoencoder.to_latent(torch.cat([x, y])).chunk(2)
        for out, new in zip((first, second), latents, strict=True):
            out[torch.from_numpy(rows)] = new
    return first, second
