"""Training of the encoder of the pair: which kinds of edit a chain has, in which order, how strong."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..emoji.distributions import CIRCULAR, LONGEST, Chains, Distribution, held_out
from ..emoji.edits import EDITS
from ..emoji.latents import SAME_LATENT, PictureSource
from ..models.autoencoder import MiniAutoencoder
from ..models.pair_encoder import PairEncoder
from ..models.weights import weights_dir
from .analogies import artists_relations, relation_weights
from .augmentation import FRESH, augmented_latents, shared_edits
from .loop import Recipe

TERMS = {"present": 1.0, "order": 0.3, "strength": 4.0, "relation": 0.5}  # of the loss, with their weights


def strength_places(kinds: Sequence[str]) -> dict[str, slice]:
    """Where each kind's numbers stand in a vector of all strengths; an angle takes two, its cosine and sine."""
    found, start = {}, 0
    for kind in kinds:
        if EDITS[kind].range == (1, 1):
            continue
        count = EDITS[kind].parameters * (2 if kind in CIRCULAR else 1)
        found[kind] = slice(start, start + count)
        start += count
    return found


def strength_count(kinds: Sequence[str]) -> int:
    """How many numbers all strengths take together."""
    return max(place.stop for place in strength_places(kinds).values())


def scaled_strength(kind: str, strength: Tensor) -> Tensor:
    """Strengths [B, P] as numbers of size about 1: angles as cosine and sine, others from -1 to 1 over the range."""
    if kind in CIRCULAR:
        angle = torch.deg2rad(strength)
        return torch.stack([angle.cos(), angle.sin()], -1).flatten(1)
    low, high = EDITS[kind].range
    return 2 * (strength - low) / (high - low) - 1


def pair_targets(kinds: Sequence[str], chains: Chains) -> dict[str, Tensor]:
    """What a chain teaches: ``present`` [B, K] 0 or 1, ``order`` [B, K] its place or -1, ``strength`` and its mask."""
    size, places = len(chains), strength_places(kinds)
    present = torch.zeros(size, len(kinds))
    order = torch.full((size, len(kinds)), -1)
    strength = torch.zeros(size, strength_count(kinds))
    mask = torch.zeros_like(strength)
    for place in range(LONGEST):
        for index, kind in enumerate(kinds):
            rows = torch.from_numpy(np.flatnonzero(chains.kinds[:, place] == kind))
            present[rows, index] = 1
            order[rows, index] = place
            if kind in places:
                given = chains.strengths[rows, place, : EDITS[kind].parameters]
                strength[rows, places[kind]] = scaled_strength(kind, given)
                mask[rows, places[kind]] = 1
    return {"present": present, "order": order, "strength": strength, "mask": mask}


class PairRecipe(Recipe):
    """Teaches the encoder of the pair: kinds, strengths and order of fresh chains, and the artists' relations.

    Half of the pairs get the same small edit on both pictures first, so that a few thousand drawings become many.
    """

    ARTISTS = 0.35
    FOLLOWED = 0.25
    LENGTHS = (0.4, 0.35, 0.25)  # chains of one, two and three edits; those of several are hard to read
    VALIDATION = 512

    def __init__(self, pictures: PictureSource | None = None) -> None:
        super().__init__()
        self.pictures = pictures or PictureSource(MiniAutoencoder.load(weights_dir() / "autoencoder"))
        self.fresh = Distribution(held_out=held_out(), lengths=self.LENGTHS)
        self.artists = artists_relations()
        self.pairs = {split: [r.pairs(split) for r in self.artists] for split in ("train", "val")}
        self.weights = relation_weights(self.artists, [len(p) for p in self.pairs["train"]])
        kinds = tuple(self.fresh.kinds)
        self.encoder = PairEncoder(kinds, tuple(r.name for r in self.artists), strength_count(kinds), LONGEST)

    def batch(self, rng: np.random.Generator, size: int, split: str = "train") -> dict[str, Tensor]:
        pairs = self.pictures.draw(rng, size, split)
        chains = self.fresh.draw(rng, size)
        edited = np.ones(size, bool)
        relation = torch.full((size,), -1)
        families = [FRESH] * size
        for i in np.flatnonzero(rng.random(size) < self.ARTISTS):
            index = rng.choice(len(self.artists), p=self.weights)
            if not len(possible := self.pairs[split][index]):
                continue
            pairs[i] = possible[rng.integers(len(possible))]
            edited[i] = rng.random() < self.FOLLOWED
            relation[i] = index
            families[i] = self.artists[index].family
        if split != "train":
            families = [""] * size
        a, a_prime = augmented_latents(self.pictures, pairs, chains, edited, *shared_edits(rng, families))
        visible = (a - a_prime).abs().mean((1, 2, 3)) > SAME_LATENT
        targets = pair_targets(self.encoder.kinds, chains)
        plain = torch.from_numpy(~edited)
        for name, nothing in (("present", 0), ("order", -1), ("mask", 0)):
            targets[name][plain] = nothing
        # A pair that shows no change teaches nothing.
        relation = torch.where(visible, relation, -1)
        return {"a": a, "a_prime": a_prime, "relation": relation, "visible": visible, **targets}

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        net, seen = self.encoder, batch["visible"]
        e = net(batch["a"][seen], batch["a_prime"][seen])
        present, order, mask = (batch[k][seen] for k in ("present", "order", "mask"))
        logits, named, relation = net.present(e), net.relation(e), batch["relation"][seen]
        count = (relation >= 0).sum().clamp_min(1)
        terms = {
            "present": F.binary_cross_entropy_with_logits(logits, present) * len(net.kinds) / 4,
            "order": F.cross_entropy(net.order(e).view(-1, LONGEST), order.view(-1), ignore_index=-1),
            "strength": ((net.strength(e) - batch["strength"][seen]).pow(2) * mask).sum() / mask.sum().clamp_min(1),
            "relation": F.cross_entropy(named, relation, ignore_index=-1, reduction="sum") / count,
        }
        right = (named.argmax(-1) == relation).sum() / count  # -1, no relation, is never right
        kinds = ((logits > 0) == present.bool()).all(-1).float().mean()
        loss = torch.stack([TERMS[k] * v for k, v in terms.items()]).sum()
        return {"loss": loss, **{k: v.detach() for k, v in terms.items()}, "relation_top1": right, "kinds_right": kinds}

    @cached_property
    def _fixed(self) -> dict[str, Tensor]:
        device = next(self.encoder.parameters()).device
        return {k: v.to(device) for k, v in self.batch(np.random.default_rng(2026), self.VALIDATION, "val").items()}

    @torch.no_grad()
    def validation(self) -> dict[str, float]:
        return {k: float(v) for k, v in self(self._fixed).items()}

    def save(self, folder: Path) -> None:
        self.encoder.save(folder)

    def start_from(self, folder: Path) -> None:
        self.encoder.load_state_dict(PairEncoder.load(folder).state_dict())
