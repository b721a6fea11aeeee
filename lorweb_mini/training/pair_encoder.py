"""Training of the encoder of the pair."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..emoji.distributions import LONGEST, Distribution, held_out
from ..emoji.latents import SAME_LATENT, PictureSource
from ..emoji.relations import select
from ..models.autoencoder import MiniAutoencoder
from ..models.pair_encoder import PairEncoder
from ..models.weights import weights_dir
from .analogies import relation_weights
from .augmentation import FRESH, augmented_latents, shared_edits
from .loop import Recipe
from .pair_targets import pair_targets, strength_count


class PairRecipe(Recipe):
    """Teaches the encoder of the pair: kinds, strengths and order of fresh chains, and the artists' relations.

    Half of the pairs get the same small edit on both pictures first, so that a few thousand drawings become many.
    """

    ARTISTS = 0.35
    FOLLOWED = 0.25
    LENGTHS = (0.4, 0.35, 0.25)  # chains of one, two and three edits; those of several are hard to read
    WEIGHTS = MappingProxyType({"present": 1.0, "order": 0.3, "strength": 4.0, "relation": 0.5})
    VALIDATION = 512

    def __init__(self, pictures: PictureSource | None = None) -> None:
        super().__init__()
        self.pictures = pictures or PictureSource(MiniAutoencoder.load(weights_dir() / "autoencoder"))
        self.fresh = Distribution(held_out=held_out(), lengths=self.LENGTHS)
        self.artists = [r for r in select("seen", known_to_base=True) if not r.edits and len(r.pairs("train")) > 1]
        self.artist_pairs = [r.pairs("train") for r in self.artists]
        self.weights = relation_weights(self.artists, [len(p) for p in self.artist_pairs], {})
        kinds = tuple(self.fresh.kinds)
        self.encoder = PairEncoder(kinds, tuple(r.name for r in self.artists), strength_count(kinds), LONGEST)
        self._fixed: dict[str, Tensor] | None = None

    def batch(self, rng: np.random.Generator, size: int, split: str = "train") -> dict[str, Tensor]:
        rows = self.pictures.draw(rng, size, split)
        pairs = np.concatenate([rows, rows], 1)
        chains = self.fresh.draw(rng, size)
        edited = np.ones(size, bool)
        relation = torch.full((size,), -1)
        families = [FRESH] * size
        for i in np.flatnonzero(rng.random(size) < self.ARTISTS):
            index = rng.choice(len(self.artists), p=self.weights)
            possible = self.artist_pairs[index] if split == "train" else self.artists[index].pairs(split)
            if not len(possible):
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
        targets["present"][plain] = 0
        targets["order"][plain] = -1
        targets["mask"][plain] = 0
        # A pair that shows no change teaches nothing.
        return {
            "a": a,
            "a_prime": a_prime,
            "relation": torch.where(visible, relation, -1),
            "visible": visible,
            **targets,
        }

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
        loss = torch.stack([self.WEIGHTS[k] * v for k, v in terms.items()]).sum()
        return {"loss": loss, **{k: v.detach() for k, v in terms.items()}, "relation_top1": right, "kinds_right": kinds}

    def validation(self) -> dict[str, float]:
        if self._fixed is None:
            device = next(self.encoder.parameters()).device
            drawn = self.batch(np.random.default_rng(2026), self.VALIDATION, "val")
            self._fixed = {k: v.to(device) for k, v in drawn.items()}
        with torch.no_grad():
            return {k: float(v) for k, v in self(self._fixed).items()}

    def save(self, folder: Path) -> None:
        self.encoder.save(folder)

    def start_from(self, folder: Path) -> None:
        self.encoder.load_state_dict(PairEncoder.load(folder).state_dict())
