"""What trainings sample: relations by weight, true pairs encoded once, fresh edits beside the artists' pairs."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from ..emoji.distributions import Chains, Distribution
from ..emoji.latents import SAME_LATENT, PictureSource, encoded, rows_of
from ..emoji.relations import Relation, relations, select, training_pictures
from ..errors import InputError, finite_number
from ..models.autoencoder import MiniAutoencoder
from .augmentation import augmented_latents, shared_edits


def known_relations() -> list[Relation]:
    """Every relation that the frozen parts may know and that has a train pair."""
    return [r for r in relations().values() if r.known_to_base and len(r.pairs("train"))]


def artists_relations() -> list[Relation]:
    """The artists' relations that a basis may be shown, those with two train pairs at least."""
    return [r for r in select("seen", known_to_base=True) if not r.edits and len(r.pairs("train")) > 1]


def relation_weights(
    relations: Sequence[Relation], counts: Sequence[int], emphasis: Mapping[str, float] = MappingProxyType({})
) -> np.ndarray:
    """Probability of each relation: the root of its number of pairs up to 400, times its family's emphasis.

    Most pairs are skin tones; sampling by pair would teach little else.
    """
    weight = np.sqrt(np.minimum(counts, 400)) * [emphasis.get(r.family, 1.0) for r in relations]
    if not len(weight) or weight.sum() == 0:
        raise InputError("expected relations with pairs to train on, got none")
    return weight / weight.sum()


class LatentBank:
    """Analogies of train concepts' true pairs, whose latents are encoded once.

    Args:
        edited_pairs: how many pictures a relation with procedural edits is shown on; chosen once, at random.

    Attributes:
        latents: normalised latents in half precision [rows, 16, 8, 8]; first every drawing as it is, then the edited
            ones, relation by relation.
        pairs: for each relation an int array [P, 2] of rows; pairs that look the same are left out.
    """

    def __init__(self, autoencoder: MiniAutoencoder, relations: Sequence[Relation], edited_pairs: int = 1200) -> None:
        self.relations = list(relations)
        drawings = training_pictures()
        row_of, count = rows_of(drawings), len(drawings)
        blocks = [encoded(autoencoder, "drawings", drawings, lambda x: x)]
        self.pairs: list[np.ndarray] = []
        for relation in self.relations:
            pairs = relation.pairs("train")
            second = row_of[pairs[:, 2], pairs[:, 3]]
            if relation.edits:
                rng = np.random.default_rng(zlib.crc32(relation.name.encode()))
                pairs = pairs[rng.permutation(len(pairs))[:edited_pairs]]
                blocks.append(encoded(autoencoder, relation.name, pairs[:, 2:], relation.apply_edits))
                second = np.arange(count, count + len(pairs))
                count += len(pairs)
            self.pairs.append(np.stack([row_of[pairs[:, 0], pairs[:, 1]], second], 1))
        self.latents = torch.cat(blocks)
        self.pairs = [p[self._differ(p)] for p in self.pairs]

    def _differ(self, pairs: np.ndarray) -> np.ndarray:
        keep = [
            ((self.latents[part[:, 0]].float() - self.latents[part[:, 1]].float()).abs().mean((1, 2, 3)) > SAME_LATENT)
            for part in np.array_split(pairs, max(1, len(pairs) // 2048))
        ]
        return torch.cat(keep).numpy()

    def weights(self, least: int) -> np.ndarray:
        """Probability of each relation, 0 for those of fewer than ``least`` pairs."""
        return relation_weights(self.relations, [len(p) * (len(p) >= least) for p in self.pairs])

    def draw_pairs(self, rng: np.random.Generator, relation: np.ndarray) -> tuple[Tensor, Tensor]:
        """One random pair of each given relation (indices [B]): two latents [B, 16, 8, 8]."""
        rows = np.stack([self.pairs[r][rng.integers(len(self.pairs[r]))] for r in relation])
        return self.latents[rows[:, 0]].float(), self.latents[rows[:, 1]].float()

    def draw(self, rng: np.random.Generator, size: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """As :meth:`FreshAnalogies.draw`, of two different pairs of one relation each; none counts as exact."""
        weights = self.weights(least=2)
        relation = rng.choice(len(weights), size, p=weights)
        chosen = [self.pairs[r][rng.choice(len(self.pairs[r]), 2, replace=False)].ravel() for r in relation]
        a, a_prime, b, b_prime = (self.latents[rows].float() for rows in np.stack(chosen, 1))
        return a, a_prime, b, b_prime, torch.zeros(size, dtype=torch.bool)


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
        emphasis: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        self.pictures, self.distribution, self.artists = pictures, distribution, list(artists)
        self.followed, share = finite_number(followed, "followed", most=1), finite_number(share, "share", most=1)
        self.share = share if self.artists else 0.0
        self.pairs = {s: [r.pairs(s) for r in self.artists] for s in ("train", "val")}
        self.weights = {
            s: relation_weights(self.artists, [len(p) * (len(p) > 1) for p in pairs], emphasis)
            for s, pairs in self.pairs.items()
            if self.artists and any(len(p) > 1 for p in pairs)
        }

    def draw(
        self, rng: np.random.Generator, size: int, split: str = "train"
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Latents a, a', b, b' [size, 16, 8, 8], and bool [size]: whether the edit is exact (no artists' pair)."""
        spare = math.ceil(self.SPARE * size)
        first, second = self.pictures.draw(rng, spare, split), self.pictures.draw(rng, spare, split)
        exact = rng.random(spare) >= self.share
        edited = exact | (rng.random(spare) < self.followed)
        families = [""] * spare
        for i in np.flatnonzero(~exact):
            index = rng.choice(len(self.artists), p=self.weights[split])
            pairs = self.pairs[split][index]
            first[i], second[i] = pairs[rng.choice(len(pairs), 2, replace=False)]
            if split == "train":  # what is validated on is not augmented
                families[i] = self.artists[index].family
        chains = self.distribution.draw(rng, spare)
        a, a_prime, b, b_prime = (
            x
            for pairs in (first, second)
            for x in augmented_latents(self.pictures, pairs, chains, edited, *shared_edits(rng, families))
        )
        change = torch.minimum((a_prime - a).abs().mean((1, 2, 3)), (b_prime - b).abs().mean((1, 2, 3)))
        keep = (change < SAME_LATENT).long().argsort(stable=True)[:size]
        return a[keep], a_prime[keep], b[keep], b_prime[keep], torch.from_numpy(exact).to(keep.device)[keep]
