"""A bank of latents: every picture that training needs, encoded once.

Encoding costs more than a training step's share of it, so each recipe draws from here: rows of latents, and for each
relation the rows of its true pairs.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm.auto import tqdm

from .autoencoder import MiniAutoencoder
from .images import InputError, load_emoji
from .relations import Relation
from .weights import fingerprint, weights_dir

SAME_LATENT = 0.03  # mean distance of normalised latents below which two pictures look the same


def cache_dir() -> Path:
    """Where encoded banks are kept: ``LORWEB_CACHE``, or the user's cache folder."""
    return Path(os.environ.get("LORWEB_CACHE", Path.home() / ".cache" / "lorweb_mini"))


class LatentBank:
    """Latents of true pairs.

    Attributes:
        latents: normalised latents in half precision [rows, 16, 8, 8].
        emoji, style: what each row shows, int [rows]; ``edited_by``: index of the relation whose edits were applied,
            -1 for a drawing as it is.
        pairs: for each relation an int array [P, 2] of rows.
    """

    def __init__(
        self,
        autoencoder: MiniAutoencoder,
        relations: Sequence[Relation],
        split: str = "train",
        edited_pairs: int = 2000,
        seed: int = 0,
        cache: bool = True,
    ) -> None:
        self.relations = list(relations)
        rng = np.random.default_rng([seed, 1])
        chosen = []
        for relation in self.relations:
            pairs = relation.pairs(split)
            if relation.edits and len(pairs) > edited_pairs:
                pairs = pairs[rng.choice(len(pairs), edited_pairs, replace=False)]
            chosen.append(pairs)
        plain = [p[:, :2] for p in chosen]
        plain += [p[:, 2:] for p, r in zip(chosen, self.relations, strict=True) if not r.edits]
        originals, inverse = np.unique(np.concatenate(plain), axis=0, return_inverse=True)
        inverse = inverse.reshape(-1)
        spans = np.cumsum([0, *map(len, plain)])
        rows = [inverse[spans[i] : spans[i + 1]] for i in range(len(plain))]
        firsts, seconds = rows[: len(chosen)], iter(rows[len(chosen) :])
        emoji, style, edited = [originals[:, 0]], [originals[:, 1]], [np.full(len(originals), -1)]
        self.pairs: list[np.ndarray] = []
        count = len(originals)
        for index, (relation, pairs, first) in enumerate(zip(self.relations, chosen, firsts, strict=True)):
            if relation.edits:
                second = np.arange(count, count + len(pairs))
                count += len(pairs)
                emoji.append(pairs[:, 2])
                style.append(pairs[:, 3])
                edited.append(np.full(len(pairs), index))
            else:
                second = next(seconds)
            self.pairs.append(np.stack([first, second], 1))
        self.emoji, self.style, self.edited_by = map(np.concatenate, (emoji, style, edited))
        self.latents = self._encode(autoencoder, split, edited_pairs, seed, cache)
        self.pairs = [p[self._differ(p)] for p in self.pairs]

    def _encode(self, autoencoder: MiniAutoencoder, split: str, edited_pairs: int, seed: int, cache: bool) -> Tensor:
        names = [r.name for r in self.relations]
        key = repr((fingerprint(weights_dir() / "autoencoder"), names, split, edited_pairs, seed, len(self.emoji)))
        path = cache_dir() / f"bank-{hashlib.sha256(key.encode()).hexdigest()[:16]}.safetensors"
        if cache and path.is_file():
            return load_file(path)["latents"]
        latents = torch.empty(len(self.emoji), 16, 8, 8, dtype=torch.half)
        pictures, edited = load_emoji(), self.edited_by
        bounds = [0, *(np.flatnonzero(np.diff(edited)) + 1), len(edited)]
        chunks = [(j, min(j + 128, hi)) for lo, hi in pairwise(bounds) for j in range(lo, hi, 128)]
        for lo, hi in tqdm(chunks, desc="encoding pictures", mininterval=1):
            x = pictures.tensor(self.emoji[lo:hi], self.style[lo:hi])
            if edited[lo] >= 0:
                x = self.relations[edited[lo]].apply_edits(x)
            with torch.no_grad():
                latents[lo:hi] = autoencoder.to_latent(x).half()
        if cache:
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(path.name + f".{os.getpid()}.part")
            save_file({"latents": latents}, part)
            os.replace(part, path)
        return latents

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
        rows = []
        for r in relation:
            i, j = rng.choice(len(self.pairs[r]), 2, replace=False)
            rows.append(np.concatenate([self.pairs[r][i], self.pairs[r][j]]))
        picked = np.stack(rows)
        a, a_prime, b, b_prime = (self.latents[picked[:, k]].float() for k in range(4))
        return a, a_prime, b, b_prime

    def sampling_weights(self, cap: int = 400, least: int = 2) -> np.ndarray:
        """Probability of each relation, as the square root of its number of pairs up to ``cap``.

        Most pairs are skin tones; drawing by pair would teach little else.
        """
        count = np.array([len(p) for p in self.pairs])
        weight = np.where(count >= least, np.sqrt(np.minimum(count, cap)), 0.0)
        if weight.sum() == 0:
            raise InputError(f"expected a relation with at least {least} pairs, got none")
        return weight / weight.sum()
