"""What trainings sample: relations by weight, and analogies of fresh edits beside the artists' pairs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ..emoji.distributions import Chains, Distribution
from ..emoji.latents import SAME_LATENT, PictureSource
from ..emoji.relations import Relation, relations
from ..errors import InputError
from .augmentation import augmented_latents, shared_edits


def known_relations() -> list[Relation]:
    """Every relation that the frozen parts may know and that has a train pair."""
    return [r for r in relations().values() if r.known_to_base and len(r.pairs("train"))]


def relation_weights(
    relations: Sequence[Relation], counts: Sequence[int], emphasis: Mapping[str, float], cap: int = 400
) -> np.ndarray:
    """Probability of each relation: the square root of its number of pairs up to a cap, times its family's emphasis."""
    weight = np.sqrt(np.minimum(counts, cap)) * [emphasis.get(r.family, 1.0) for r in relations]
    if not len(weight) or weight.sum() == 0:
        raise InputError("expected relations with pairs to train on, got none")
    return weight / weight.sum()


class Listed:
    """M fixed relations of a distribution, each as likely as the others; of one seed, the lists are nested.

    Raises:
        InputError: fewer than one relation, or more than :attr:`LARGEST`.
    """

    LARGEST = 4096

    def __init__(self, distribution: Distribution, size: int, seed: int = 0) -> None:
        if not 1 <= size <= self.LARGEST:
            raise InputError(f"expected from 1 to {self.LARGEST} relations, got {size}")
        self.kinds, self.held_out = distribution.kinds, distribution.held_out
        self.chains = distribution.draw(np.random.default_rng([seed, 4096]), self.LARGEST)[:size]

    def draw(self, rng: np.random.Generator, size: int) -> Chains:
        """``size`` of the relations, with replacement."""
        return self.chains[rng.integers(len(self.chains), size=size)]


class FreshAnalogies:
    """Analogies of the training distribution: a fresh chain of edits for each, beside the artists' pairs.

    Args:
        artists: relations of which two true pairs make an analogy.
        share: of the artists; ``followed``: of these, how many have their second pictures edited as well.
    """

    SPARE = 1.25  # drawn in excess, since some edits leave some drawings as they are

    def __init__(
        self,
        pictures: PictureSource,
        distribution: Distribution | Listed,
        artists: Sequence[Relation] = (),
        share: float = 0.4,
        followed: float = 0.15,
        emphasis: Mapping[str, float] | None = None,
    ) -> None:
        self.pictures, self.distribution, self.followed = pictures, distribution, followed
        self.artists = list(artists)
        self.share = share if self.artists else 0.0
        self.pairs = {s: [r.pairs(s) for r in self.artists] for s in ("train", "val")}
        self.weights = {
            s: relation_weights(self.artists, [len(p) * (len(p) > 1) for p in pairs], emphasis or {})
            for s, pairs in self.pairs.items()
            if self.artists and any(len(p) > 1 for p in pairs)
        }

    def draw(
        self, rng: np.random.Generator, size: int, split: str = "train"
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Latents a, a', b, b' [size, 16, 8, 8], and bool [size]: whether the edit is exact (no artists' pair)."""
        spare = math.ceil(self.SPARE * size)
        one, two = self.pictures.draw(rng, spare, split), self.pictures.draw(rng, spare, split)
        first, second = np.concatenate([one, one], 1), np.concatenate([two, two], 1)
        exact = rng.random(spare) >= self.share
        edited = exact | (rng.random(spare) < self.followed)
        families = [""] * spare
        for i in np.flatnonzero(~exact):
            index = rng.choice(len(self.artists), p=self.weights[split])
            pairs = self.pairs[split][index]
            first[i], second[i] = pairs[rng.choice(len(pairs), 2, replace=False)]
            families[i] = self.artists[index].family
        chains = self.distribution.draw(rng, spare)
        if split != "train":
            families = [""] * spare
        a, a_prime, b, b_prime = (
            x
            for pairs in (first, second)
            for x in augmented_latents(self.pictures, pairs, chains, edited, *shared_edits(rng, families))
        )
        change = torch.minimum((a_prime - a).abs().mean((1, 2, 3)), (b_prime - b).abs().mean((1, 2, 3)))
        keep = (change < SAME_LATENT).long().argsort(stable=True)[:size]
        return a[keep], a_prime[keep], b[keep], b_prime[keep], torch.from_numpy(exact).to(keep.device)[keep]
