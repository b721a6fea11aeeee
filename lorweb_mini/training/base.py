"""Training of the base: instruction editing by flow matching."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.layout import pack, position_ids
from ..emoji.distributions import Chains, Distribution, held_out
from ..emoji.latents import PictureSource
from ..emoji.relations import Relation
from ..emoji.words import chain_vectors, joined
from ..models.autoencoder import MiniAutoencoder
from ..models.base import TEXT_WIDTH, Base
from ..models.text import vectors_of
from ..models.weights import weights_dir
from .analogies import known_relations, relation_weights
from .augmentation import augmented_latents, shared_edits
from .flow import EXACT_SHIFT, NUMBERS_OF_EDITS, SHIFT, FlowRecipe, training_sample, validation_sample
from .loop import torch_generator, without_cudnn_attention

# What is learnt slowly is drawn more often: what moves pixels far, and what needs knowledge of the drawings.
EMPHASIS = {
    **dict.fromkeys(("edit/rotate", "edit/flip_vertical", "edit/threshold", "edit/outline", "style", "moon"), 2.0),
    "gender": 4.0,
    "tone": 1.5,
    "colour": 0.5,
}
# Edits that the base is told about and that no basis of LoRAs is shown.
KNOWN_TO_BASE = {
    "duotone": (1.0, lambda rng, n: rng.uniform(0, 360, (n, 2))),
    "transpose": (0.7, lambda rng, n: np.ones((n, 1))),
    "mirror_half": (0.7, lambda rng, n: np.ones((n, 1))),
    "sepia": (0.5, lambda rng, n: np.ones((n, 1))),
}


class BaseRecipe(FlowRecipe):
    """Instruction editing: fresh edits with their words, artists' pairs, and the named edits with their sentences.

    A tenth of the samples has no instruction and the reference as its target. The last phrasing of every relation is
    never shown, so that it can tell whether the base understands words that it has not seen. Of two phrasings that it
    has seen it gets a random mixture.
    """

    NO_INSTRUCTION = 0.1
    SHARES = (0.45, 0.45, 0.1)  # artists' pairs, fresh edits, named edits
    FOLLOWED = 0.25  # share of the artists' pairs whose second picture is edited as well
    VALIDATION = 48  # samples of each family

    def __init__(
        self, base: Base | None = None, pictures: PictureSource | None = None, change_floor: float | None = None
    ) -> None:
        super().__init__(change_floor)
        self.base = base if base is not None else Base()
        self.base.transformer.requires_grad_(True)
        self.pictures = pictures or PictureSource(MiniAutoencoder.load(weights_dir() / "autoencoder"))
        known = known_relations()
        self.artists = [r for r in known if not r.edits]
        self.named = [r for r in known if r.edits]
        self.artist_pairs = [r.pairs("train") for r in self.artists]
        self.artist_weights = relation_weights(self.artists, [len(p) for p in self.artist_pairs], EMPHASIS)
        self.named_weights = relation_weights(self.named, [400] * len(self.named), EMPHASIS)
        self.named_chains = Chains.of([r.edits for r in self.named])
        self.instructions = {r.name: vectors_of(list(r.training_instructions)) for r in known}
        self.fresh = Distribution(held_out=held_out(known_to_base=True), extra=KNOWN_TO_BASE)
        self.ids = torch.cat([position_ids(4, 4, 0), position_ids(4, 4, 1)])

    def place(self, device: torch.device) -> None:
        without_cudnn_attention(device)
        self.pictures.to(device)
        self.ids = self.ids.to(device)

    def batch(self, rng: np.random.Generator, size: int) -> dict[str, Tensor]:
        sort = rng.choice(3, size, p=self.SHARES)
        pairs = self.pictures.draw(rng, size)
        chains = self.fresh.draw(rng, size)
        told = chain_vectors(chains, torch_generator(rng))
        edited = sort > 0
        families = np.full(size, "", dtype=object)
        artists, named = np.flatnonzero(sort == 0), np.flatnonzero(sort == 2)
        chosen = rng.choice(len(self.artists), len(artists), p=self.artist_weights)
        shown = [self.artist_pairs[i][rng.integers(len(self.artist_pairs[i]))] for i in chosen]
        pairs[artists] = np.reshape(shown, (-1, 4))
        edited[artists] = rng.random(len(artists)) < self.FOLLOWED
        families[artists] = [self.artists[i].family for i in chosen]
        words = self._mixtures(rng, [self.artists[i] for i in chosen])
        also = torch.from_numpy(edited[artists]).float()[:, None]
        told[artists] = words + also * told[artists]
        chosen = rng.choice(len(self.named), len(named), p=self.named_weights)
        chains[named] = self.named_chains[chosen]
        told[named] = self._mixtures(rng, [self.named[i] for i in chosen])
        shared = shared_edits(rng, families.tolist())
        reference, target = augmented_latents(self.pictures, pairs, chains, edited, *shared)
        told = joined(told).to(reference.device)
        none = torch.from_numpy(rng.random(size) < self.NO_INSTRUCTION)
        told[none] = 0
        target[none] = reference[none]
        shift = torch.where(torch.from_numpy(sort > 0), EXACT_SHIFT, SHIFT)
        return {"reference": pack(reference), "instruction": told, **training_sample(rng, pack(target), shift)}

    def _mixtures(self, rng: np.random.Generator, chosen: Sequence[Relation]) -> Tensor:
        """For each of k relations a point between two of its phrasings' vectors, of their norm, [k, 384]."""
        said = [self.instructions[r.name] for r in chosen]
        pairs = [phrasings[rng.integers(len(phrasings), size=2)] for phrasings in said]
        first, second = torch.stack(pairs).unbind(1) if pairs else torch.zeros(2, 0, TEXT_WIDTH)
        mixed = torch.lerp(first, second, torch.from_numpy(rng.random((len(said), 1))).float())
        return mixed * first.norm(dim=1, keepdim=True) / mixed.norm(dim=1, keepdim=True)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        v = self.base.velocity(batch["noisy"], batch["t"], batch["reference"], self.ids, batch["instruction"])
        return self.losses(v, batch, batch["reference"], told=batch["instruction"].any(1))

    def validation_samples(self) -> dict[str, dict[str, Tensor]]:
        """Pictures of validation concepts: artists' pairs by family, and fresh edits by number."""
        rng = np.random.default_rng(2026)
        found = {}
        families: dict[str, list[tuple[Relation, np.ndarray]]] = {"tone": [], "gender": [], "style": [], "other": []}
        for relation in self.artists:
            if len(pairs := relation.pairs("val")):
                families.get(relation.family, families["other"]).append((relation, pairs))
        for family, some in families.items():
            if not some:
                continue
            chosen = [some[i] for i in rng.integers(len(some), size=self.VALIDATION)]
            shown = np.stack([pairs[rng.integers(len(pairs))] for _, pairs in chosen])
            told = torch.stack([self.instructions[r.name][0] for r, _ in chosen])
            chains = self.fresh.draw(rng, len(shown))
            found[family] = self._sample(rng, shown, chains, np.zeros(len(shown), bool), told)
        for name, lengths in NUMBERS_OF_EDITS.items():
            chains = Distribution(held_out=self.fresh.held_out, lengths=lengths).draw(rng, 2 * self.VALIDATION)
            shown = self.pictures.draw(rng, len(chains), "val")
            found[name] = self._sample(rng, shown, chains, np.ones(len(shown), bool), chain_vectors(chains))
        return found

    def _sample(
        self, rng: np.random.Generator, pairs: np.ndarray, chains: Chains, edited: np.ndarray, told: Tensor
    ) -> dict[str, Tensor]:
        reference, target = (pack(z) for z in self.pictures.latents(pairs, chains, edited))
        return {"reference": reference, "instruction": told.to(target.device), **validation_sample(rng, target)}

    def configuration(self) -> dict[str, Any]:
        return {} if self.change_floor is None else {"change_floor": self.change_floor}

    def save(self, folder: Path) -> None:
        self.base.save(folder)

    def start_from(self, folder: Path) -> None:
        self.base.load_state_dict(Base.load(folder).state_dict())
