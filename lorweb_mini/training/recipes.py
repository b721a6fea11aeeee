"""What is trained: autoencoder, tiny CLIP, base, and the basis with its router."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.editor import BasisConfig, Editor, load, new_editor
from ..core.layout import pack, position_ids
from ..core.router import routing_statistics
from ..emoji.distributions import LONGEST, Distribution, held_out
from ..emoji.edits import apply_edit, parse_relation
from ..emoji.latents import SAME_LATENT, LatentBank, PictureSource, encoded
from ..emoji.relations import Relation, relations, select, training_pictures
from ..emoji.sheets import load_emoji
from ..emoji.words import chain_vectors, joined
from ..errors import InputError
from ..models.autoencoder import MiniAutoencoder
from ..models.base import Base
from ..models.pair_encoder import PairEncoder
from ..models.text import vectors_of
from ..models.tiny_clip import TinyCLIP
from ..models.weights import weights_dir
from .loop import Recipe, torch_generator
from .pair_targets import pair_targets, strength_count

SCALE_ROWS = 2048  # pictures that set the latents' scale and shift, and the router's
SHIFT = 0.8  # towards noise, where it is decided what to draw; near t = 0 it is only finished
ROUTER_SCALE = 0.1  # at the LoRAs' own rate the router collapses onto one LoRA within a hundred steps


def known_relations() -> list[Relation]:
    """Every relation that the frozen parts may know and that has a train pair."""
    return [r for r in relations().values() if r.known_to_base and len(r.pairs("train"))]


def flow_sample(rng: np.random.Generator, clean: Tensor, shift: float | Tensor = SHIFT) -> dict[str, Tensor]:
    """Times t, noise e, and the noisy tokens z_t = (1 − t) x + t e for clean tokens x [B, T, 64].

    logit(t) is normal with mean ``shift``, one for all or [B], and deviation 1.
    """
    generator = torch_generator(rng)
    t = torch.sigmoid(torch.randn(len(clean), generator=generator) + shift)
    noise = torch.randn(clean.shape, generator=generator)
    noisy = torch.lerp(clean, noise, t[:, None, None])
    return {"t": t, "noisy": noisy, "velocity": noise - clean}


class AutoencoderRecipe(Recipe):
    """Reconstruction of drawings as they are, on coloured grounds, recoloured, and edited in many ways.

    Args:
        decoder_only: leaves the encoder as it is, so that latents, and all that was trained on them, stay valid.
    """

    def __init__(self, autoencoder: MiniAutoencoder | None = None, decoder_only: bool = False) -> None:
        super().__init__()
        self.autoencoder = autoencoder if autoencoder is not None else MiniAutoencoder()
        self.autoencoder.to(memory_format=torch.channels_last)  # a tenth faster on a CPU
        self.decoder_only = decoder_only
        self.autoencoder.encoder.requires_grad_(not decoder_only)
        self.autoencoder.decoder.requires_grad_(True)
        self.pictures = training_pictures()
        names = [r.name for r in select("seen", known_to_base=True) if r.name.startswith("edit/")]
        self.edits = [parse_relation(n) for n in names]

    def configuration(self) -> dict[str, Any]:
        return {"decoder_only": self.decoder_only}

    def batch(self, rng: np.random.Generator, size: int) -> dict[str, Tensor]:
        chosen = self.pictures[rng.integers(len(self.pictures), size=size)]
        x = load_emoji().tensor(chosen[:, 0], chosen[:, 1])
        half, quarter = size // 2, size // 4
        # Half as drawn on white, a quarter on a random ground, the rest edited in groups of four, half of these with
        # their channels mixed first.
        grounds = torch.from_numpy(rng.random((quarter, 3))).float()
        for i, ground in enumerate(grounds):
            k = half + i
            x[k : k + 1] = load_emoji().tensor(chosen[k : k + 1, 0], chosen[k : k + 1, 1], background=ground.tolist())
        for start in range(half + quarter, size, 4):
            group = x[start : start + 4]
            if rng.random() < 0.5:
                weights = torch.from_numpy(rng.dirichlet([0.4] * 3, size=3)).float()
                group = torch.einsum("ij,bjhw->bihw", weights, group).clamp(-1, 1)
            kind, strength = self.edits[rng.integers(len(self.edits))]
            x[start : start + 4] = apply_edit(group, kind, strength)
        flip = torch.from_numpy(rng.random(size) < 0.5)
        x[flip] = x[flip].flip(3)
        noise = torch.randn(size, 16, 8, 8, generator=torch_generator(rng))
        return {"x": x, "noise": noise}

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        x = batch["x"].contiguous(memory_format=torch.channels_last)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.decoder_only):
            mean = self.autoencoder.encoder(x)
        error = self.autoencoder.decoder(mean + self.autoencoder.config["latent_noise"] * batch["noise"]) - x
        # The difference of neighbouring errors keeps line art sharp; the last term keeps latents from drifting away.
        edges = error.diff(dim=3).abs().mean() + error.diff(dim=2).abs().mean()
        square = error.pow(2).mean()
        loss = square + 0.2 * error.abs().mean() + 0.3 * edges + 1e-4 * mean.pow(2).mean()
        return {"loss": loss, "psnr": -10 * torch.log10(square.detach() / 4)}

    def save(self, folder: Path) -> None:
        """Fixes scale and shift from training pictures, unless the encoder is as it was, then writes the model."""
        if not self.decoder_only:
            chosen = self.pictures[np.random.default_rng(0).integers(len(self.pictures), size=SCALE_ROWS)]
            with torch.no_grad():
                parts = [
                    self.autoencoder.encoder(load_emoji().tensor(p[:, 0], p[:, 1])) for p in np.array_split(chosen, 16)
                ]
            latents = torch.cat(parts)
            self.autoencoder.register_to_config(
                scaling_factor=1 / latents.std().item(), shift_factor=latents.mean().item()
            )
        self.autoencoder.save(folder)

    def start_from(self, folder: Path) -> None:
        start = MiniAutoencoder.load(folder)
        self.autoencoder.load_state_dict(start.state_dict())
        self.autoencoder.register_to_config(
            **{k: start.config[k] for k in ("latent_noise", "scaling_factor", "shift_factor")}
        )


class EncoderRecipe(Recipe):
    """Tiny CLIP's three contrasts: drawing and drawing, drawing and name, pair and instruction.

    Of every batch a half are concepts, each drawn by two artists and seen through two random views, and a half are true
    pairs, told from all other requests that the frozen parts may know. Concepts are drawn, not emojis: most emojis are
    the skin tones of a few people, and a batch of these would teach little but tones.
    """

    VIEWS = 8
    LATENT_NOISE = 0.1

    def __init__(self, edited_pairs: int = 1200) -> None:
        super().__init__()
        self.encoder = TinyCLIP()
        known = known_relations()
        autoencoder = MiniAutoencoder.load(weights_dir() / "autoencoder")
        self.bank = LatentBank(autoencoder, known, edited_pairs)
        self.weights = self.bank.sampling_weights(least=1)
        # Relations that are asked for in the same words are one class.
        requests = [r.instructions[0] for r in known]
        self.classes = sorted(set(requests))
        self.class_of = np.array([self.classes.index(x) for x in requests])
        self.instructions = vectors_of(self.classes)
        self.temperature = nn.Parameter(torch.tensor([3.0, 3.0, 3.0]))
        drawings = training_pictures()
        self.views = torch.stack([encoded_views(autoencoder, drawings, k) for k in range(self.VIEWS)])
        emojis = load_emoji().emojis
        self.names = vectors_of([e.name for e in emojis])
        self.emoji = drawings[:, 0]
        concepts: dict[str, dict[int, list[int]]] = {}
        for row, emoji in enumerate(self.emoji):
            concepts.setdefault(emojis[emoji].concept, {}).setdefault(emoji, []).append(row)
        self.concepts = [list(members.values()) for members in concepts.values()]

    def batch(self, rng: np.random.Generator, size: int) -> dict[str, Tensor]:
        half = size // 2
        drawn = []
        for i in rng.choice(len(self.concepts), half, replace=False):
            members = self.concepts[i]
            drawn.append(rng.choice(members[rng.integers(len(members))], 2, replace=False))
        rows = np.array(drawn)
        view = rng.integers(self.VIEWS, size=rows.shape)
        relation = rng.choice(len(self.weights), half, p=self.weights)
        before, after = self.bank.draw_pairs(rng, relation)
        latents = [self.views[view[:, 0], rows[:, 0]], self.views[view[:, 1], rows[:, 1]], before, after]
        generator = torch_generator(rng)
        first, second, before, after = (
            x.float() + self.LATENT_NOISE * torch.randn(x.shape, generator=generator) for x in latents
        )
        return {
            "first": first,
            "second": second,
            "name": self.names[self.emoji[rows[:, 0]]],
            "before": before,
            "after": after,
            "request": torch.from_numpy(self.class_of[relation]),
        }

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        first = self.encoder.identity_embedding(batch["first"])
        second = self.encoder.identity_embedding(batch["second"])
        name = self.encoder.name_embedding(batch["name"])
        scale = self.temperature.exp().clamp(max=100)
        drawing = self._contrast(scale[0] * first @ second.T)
        named = self._contrast(scale[1] * first @ name.T)
        pair = self.encoder.pair_embedding(batch["before"], batch["after"])
        logits = scale[2] * pair @ self.encoder.request_embedding(self.instructions).T
        request = F.cross_entropy(logits, batch["request"])
        right = (logits.argmax(-1) == batch["request"]).float().mean()
        return {
            "loss": drawing + 0.5 * named + request,
            "drawing": drawing.detach(),
            "named": named.detach(),
            "request": request.detach(),
            "request_top1": right,
        }

    def _contrast(self, logits: Tensor) -> Tensor:
        target = torch.arange(len(logits), device=logits.device)
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2

    def save(self, folder: Path) -> None:
        self.encoder.save(folder)

    def start_from(self, folder: Path) -> None:
        self.encoder.load_state_dict(TinyCLIP.load(folder).state_dict())


def encoded_views(autoencoder: MiniAutoencoder, drawings: np.ndarray, number: int) -> Tensor:
    """Latents of one random view of every drawing [P, 2]: turned, scaled, moved, lighter or darker; the same always."""
    generator = torch.Generator().manual_seed(number)

    def view(x: Tensor) -> Tensor:
        turn, scale, right, down, light = (2 * torch.rand(5, len(x), generator=generator) - 1).unbind()
        angle, size = 0.25 * turn, torch.exp(0.2 * scale)
        cos, sin = size * torch.cos(angle), size * torch.sin(angle)
        affine = torch.stack([cos, -sin, 0.15 * right, sin, cos, 0.15 * down], 1).view(-1, 2, 3)
        grid = F.affine_grid(affine, list(x.shape), align_corners=False)
        moved = F.grid_sample(x, grid, padding_mode="border", align_corners=False)
        return ((moved + 1) * (1 + 0.15 * light[:, None, None, None]) - 1).clamp(-1, 1)

    return encoded(autoencoder, f"view {number}", drawings, view)


class BaseRecipe(Recipe):
    """Instruction editing: fresh edits with their words, artists' pairs, and the named edits with their sentences.

    A tenth of the samples has no instruction and the reference as its target. The last phrasing of every relation is
    never shown, so that it can tell whether the base understands words that it has not seen. Of two phrasings that it
    has seen it gets a random mixture.
    """

    NO_INSTRUCTION = 0.1
    SHARES = (0.45, 0.45, 0.1)  # artists' pairs, fresh edits, named edits
    FOLLOWED = 0.25  # share of the artists' pairs whose second picture is edited as well
    EXACT_SHIFT = 2.0  # of times for exact edits: only near the noise is it decided what to draw
    # What is learnt slowly is drawn more often: what moves pixels far, and what needs knowledge of the drawings.
    EMPHASIS = MappingProxyType(
        {
            "edit/rotate": 2.0,
            "edit/flip_vertical": 2.0,
            "edit/threshold": 2.0,
            "edit/outline": 2.0,
            "gender": 4.0,
            "style": 2.0,
            "tone": 1.5,
            "moon": 2.0,
            "colour": 0.5,
        }
    )
    # Edits that the base is told about and that no basis of LoRAs is shown.
    KNOWN_TO_BASE: MappingProxyType = MappingProxyType(
        {
            "duotone": (1.0, lambda rng, n: rng.uniform(0, 360, (n, 2))),
            "transpose": (0.7, lambda rng, n: np.ones((n, 1))),
            "mirror_half": (0.7, lambda rng, n: np.ones((n, 1))),
            "sepia": (0.5, lambda rng, n: np.ones((n, 1))),
        }
    )
    VALIDATION = 48  # samples of each family

    def __init__(self, base: Base | None = None, pictures: PictureSource | None = None) -> None:
        super().__init__()
        self.base = base if base is not None else Base()
        self.base.transformer.requires_grad_(True)
        self.pictures = pictures or PictureSource(MiniAutoencoder.load(weights_dir() / "autoencoder"))
        known = known_relations()
        self.artists = [r for r in known if not r.edits]
        self.named = [r for r in known if r.edits]
        self.artist_pairs = [r.pairs("train") for r in self.artists]
        self.artist_weights = relation_weights(self.artists, [len(p) for p in self.artist_pairs], self.EMPHASIS)
        self.named_weights = relation_weights(self.named, [400] * len(self.named), self.EMPHASIS)
        self.instructions = {r.name: vectors_of(list(r.training_instructions)) for r in known}
        self.fresh = Distribution(held_out=held_out(known_to_base=True), extra=dict(self.KNOWN_TO_BASE))
        self.ids = torch.cat([position_ids(4, 4, 0), position_ids(4, 4, 1)])
        self._fixed: dict[str, dict[str, Tensor]] | None = None

    def batch(self, rng: np.random.Generator, size: int) -> dict[str, Tensor]:
        sort = rng.choice(3, size, p=self.SHARES)
        rows = self.pictures.draw(rng, size)
        pairs = np.concatenate([rows, rows], 1)
        chains = self.fresh.draw(rng, size)
        told = chain_vectors(chains, torch_generator(rng))
        edited = sort > 0
        for i in np.flatnonzero(sort != 1):
            some, weights = (self.artists, self.artist_weights) if sort[i] == 0 else (self.named, self.named_weights)
            index = rng.choice(len(weights), p=weights)
            words = self._mixture(rng, self.instructions[some[index].name])
            if sort[i] == 0:
                pairs[i] = self.artist_pairs[index][rng.integers(len(self.artist_pairs[index]))]
                edited[i] = rng.random() < self.FOLLOWED
                told[i] = words + told[i] if edited[i] else words
            else:
                chains.put(int(i), some[index].edits)
                told[i] = words
        told = joined(told)
        reference, target = self.pictures.latents(pairs, chains, edited)
        none = torch.from_numpy(rng.random(size) < self.NO_INSTRUCTION)
        told[none] = 0
        target[none] = reference[none]
        shift = torch.where(torch.from_numpy(sort > 0), self.EXACT_SHIFT, SHIFT)
        return {"reference": pack(reference), "instruction": told, **flow_sample(rng, pack(target), shift)}

    @staticmethod
    def _mixture(rng: np.random.Generator, phrasings: Tensor) -> Tensor:
        """A point between two of the phrasings' vectors [k, 384], of their norm."""
        first, second = phrasings[rng.integers(len(phrasings), size=2)]
        mixed = torch.lerp(first, second, float(rng.random()))
        return mixed * first.norm() / mixed.norm()

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        v = self.base.velocity(batch["noisy"], batch["t"], batch["reference"], self.ids, batch["instruction"])
        return {"loss": (v - batch["velocity"]).pow(2).mean()}

    def validation(self) -> dict[str, float]:
        if self._fixed is None:
            self._fixed = self._validation_samples()
        with torch.no_grad():
            return {name: float(self(batch)["loss"]) for name, batch in self._fixed.items()}

    def _validation_samples(self) -> dict[str, dict[str, Tensor]]:
        """Pictures of validation concepts: artists' pairs by family, and fresh edits by number; t evenly in logit."""
        rng = np.random.default_rng(2026)
        found = {}
        for family in ("tone", "gender", "style", "other"):
            some = [
                (r, p)
                for r in self.artists
                if (r.family if r.family in ("tone", "gender", "style") else "other") == family
                and len(p := r.pairs("val"))
            ]
            if not some:
                continue
            chosen = [some[i] for i in rng.integers(len(some), size=self.VALIDATION)]
            pairs = np.stack([p[rng.integers(len(p))] for _, p in chosen])
            told = torch.stack([self.instructions[r.name][0] for r, _ in chosen])
            chains = self.fresh.draw(rng, len(pairs))
            found[family] = self._sample(rng, pairs, chains, np.zeros(len(pairs), bool), told)
        for name, lengths in (("edit", (1, 0, 0)), ("two edits", (0, 1, 0)), ("three edits", (0, 0, 1))):
            drawn = Distribution(held_out=self.fresh.held_out, lengths=lengths).draw(rng, 2 * self.VALIDATION)
            rows = self.pictures.draw(rng, len(drawn), "val")
            pairs = np.concatenate([rows, rows], 1)
            found[name] = self._sample(rng, pairs, drawn, np.ones(len(rows), bool), chain_vectors(drawn))
        return found

    def _sample(self, rng, pairs, chains, edited, told) -> dict[str, Tensor]:
        reference, target = (pack(z) for z in self.pictures.latents(pairs, chains, edited))
        t = torch.sigmoid(torch.linspace(-1.5, 3.5, len(target)))
        noise = torch.randn(target.shape, generator=torch_generator(rng))
        noisy = torch.lerp(target, noise, t[:, None, None])
        return {"reference": reference, "instruction": told, "t": t, "noisy": noisy, "velocity": noise - target}

    def save(self, folder: Path) -> None:
        self.base.save(folder)

    def start_from(self, folder: Path) -> None:
        self.base.load_state_dict(Base.load(folder).state_dict())


def relation_weights(
    relations: Sequence[Relation], counts: Sequence[int], emphasis: Mapping[str, float], cap: int = 400
) -> np.ndarray:
    """Probability of each relation: the square root of its number of pairs up to a cap, times its family's emphasis."""
    weight = np.sqrt(np.minimum(counts, cap)) * [emphasis.get(r.family, 1.0) for r in relations]
    if not len(weight) or weight.sum() == 0:
        raise InputError("expected relations with pairs to train on, got none")
    return weight / weight.sum()


class PairRecipe(Recipe):
    """Teaches the encoder of the pair: kinds, strengths and order of fresh chains, and the artists' relations."""

    ARTISTS = 0.35
    FOLLOWED = 0.25
    WEIGHTS = MappingProxyType({"present": 1.0, "order": 0.3, "strength": 4.0, "relation": 0.5})
    VALIDATION = 512

    def __init__(self, pictures: PictureSource | None = None) -> None:
        super().__init__()
        self.pictures = pictures or PictureSource(MiniAutoencoder.load(weights_dir() / "autoencoder"))
        self.fresh = Distribution(held_out=held_out())
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
        for i in np.flatnonzero(rng.random(size) < self.ARTISTS):
            index = rng.choice(len(self.artists), p=self.weights)
            possible = self.artist_pairs[index] if split == "train" else self.artists[index].pairs(split)
            if not len(possible):
                continue
            pairs[i] = possible[rng.integers(len(possible))]
            edited[i] = rng.random() < self.FOLLOWED
            relation[i] = index
        a, a_prime = self.pictures.latents(pairs, chains, edited)
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
        logits = net.present(e)
        terms = {
            "present": F.binary_cross_entropy_with_logits(logits, present) * len(net.kinds) / 4,
            "order": F.cross_entropy(net.order(e).view(-1, LONGEST), order.view(-1), ignore_index=-1),
            "strength": ((net.strength(e) - batch["strength"][seen]).pow(2) * mask).sum() / mask.sum().clamp_min(1),
            "relation": F.cross_entropy(net.relation(e), batch["relation"][seen], ignore_index=-1),
        }
        known = batch["relation"][seen] >= 0
        right = (net.relation(e).argmax(-1) == batch["relation"][seen])[known].float().mean()
        kinds = ((logits > 0) == present.bool()).all(-1).float().mean()
        loss = torch.stack([self.WEIGHTS[k] * v for k, v in terms.items()]).sum()
        return {"loss": loss, **{k: v.detach() for k, v in terms.items()}, "relation_top1": right, "kinds_right": kinds}

    def validation(self) -> dict[str, float]:
        if self._fixed is None:
            self._fixed = self.batch(np.random.default_rng(2026), self.VALIDATION, "val")
        with torch.no_grad():
            return {k: float(v) for k, v in self(self._fixed).items()}

    def save(self, folder: Path) -> None:
        self.encoder.save(folder)

    def start_from(self, folder: Path) -> None:
        self.encoder.load_state_dict(PairEncoder.load(folder).state_dict())


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
        distribution: Distribution,
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
        for i in np.flatnonzero(~exact):
            index = rng.choice(len(self.artists), p=self.weights[split])
            pairs = self.pairs[split][index]
            first[i], second[i] = pairs[rng.choice(len(pairs), 2, replace=False)]
        chains = self.distribution.draw(rng, spare)
        a, a_prime, b, b_prime = (
            *self.pictures.latents(first, chains, edited),
            *self.pictures.latents(second, chains, edited),
        )
        change = torch.minimum((a_prime - a).abs().mean((1, 2, 3)), (b_prime - b).abs().mean((1, 2, 3)))
        keep = (change < SAME_LATENT).long().argsort(stable=True)[:size]
        return a[keep], a_prime[keep], b[keep], b_prime[keep], torch.from_numpy(exact)[keep]


class BasisRecipe(Recipe):
    """The paper's training: flow matching on b' given a, a', b and no text; only basis and router learn.

    Args:
        chosen: the relations to learn; with ``fresh`` only the artists' among them, the named edits are left out.
        fresh: a distribution of edits, of which every sample gets its own; None draws from the chosen relations alone.
        artists_share: of artists' pairs beside the fresh edits.
        pair_rate: learning rate of the encoder of the pair as a share of the LoRAs'; 0 leaves it frozen.
        balance: weight of the term ln N − entropy of the batch's mean coefficients, against LoRAs that are never used.
        exact_shift: mean of logit(t) for exact edits.
        teacher: share τ of the frozen base in the target, 0 to 1. The base is told the relation in words and says the
            velocity v̂; the target is (1 − τ)(e − b') + τ v̂. Its mean is the same where the base is right, and it has
            none of the noise that one artist's b' and one draw of e bring.

    Raises:
        InputError: a teacher outside [0, 1], or one with a layout other than ``b``, which the base does not read.
    """

    def __init__(
        self,
        config: BasisConfig,
        chosen: Sequence[Relation],
        edited_pairs: int = 1200,
        seed: int = 0,
        editor: Editor | None = None,
        notes: dict[str, Any] | None = None,
        teacher: float = 0.0,
        fresh: Distribution | None = None,
        artists_share: float = 0.4,
        emphasis: Mapping[str, float] | None = None,
        pair_rate: float = 0.0,
        balance: float = 0.0,
        exact_shift: float = 2.0,
        pictures: PictureSource | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= teacher <= 1 or (teacher and config.layout != "b"):
            raise InputError(
                f"expected a teacher's share from 0 to 1, and layout b for more than 0, "
                f"got {teacher} with layout {config.layout}"
            )
        self.teacher = teacher
        self.editor = editor if editor is not None else new_editor(config, seed)
        self.transformer = self.editor.base.transformer
        self.router = self.editor.router
        self.notes = {"relations": [r.name for r in chosen], **(notes or {})}
        if teacher:
            self.notes["teacher"] = teacher
            self.instructions = vectors_of([r.instructions[0] for r in chosen])
        self.balance, self.exact_shift, self.pair_rate = balance, exact_shift, pair_rate
        self.analogies: FreshAnalogies | None = None
        if fresh is not None:
            artists = [r for r in chosen if not r.edits]
            self.analogies = FreshAnalogies(
                pictures or PictureSource(self.editor.autoencoder), fresh, artists, artists_share, emphasis=emphasis
            )
            self.notes |= {"relations": [r.name for r in artists], "kinds": fresh.kinds, "artists_share": artists_share}
        else:
            self.bank = LatentBank(self.editor.autoencoder, chosen, edited_pairs)
            self.weights = self.bank.sampling_weights()
        self.ids = self.editor.layout.ids()
        self._fixed: dict[str, dict[str, Tensor]] | None = None
        # A module that the optimiser trains has to be one of the recipe's own.
        self.pair_encoder = self.editor.pair_encoder if pair_rate else None
        if self.pair_encoder is not None:
            self.notes["tuned_pair_encoder"] = pair_rate
        if self.router is not None:
            triplets = self._draw(np.random.default_rng(0), SCALE_ROWS)[0][:3]
            with torch.no_grad():
                self.router.standardise(*self.editor.embeddings(*triplets))

    def parameter_groups(self) -> list[dict[str, Any]]:
        groups: list[dict[str, Any]] = [{"params": self.editor.basis.parameters(), "scale": 1.0}]
        for parameter in self.editor.basis.parameters():
            parameter.requires_grad_(True)
        if self.router is not None:
            self.router.requires_grad_(True)
            groups.append({"params": list(self.router.parameters()), "scale": ROUTER_SCALE})
        if self.pair_encoder is not None:
            tuned = [*self.pair_encoder.stem.parameters(), *self.pair_encoder.vision.parameters()]
            for parameter in tuned:
                parameter.requires_grad_(True)
            groups.append({"params": tuned, "scale": self.pair_rate})
        return groups

    def configuration(self) -> dict[str, Any]:
        return {"basis": asdict(self.editor.config), **self.notes}

    def _draw(
        self, rng: np.random.Generator, size: int, split: str = "train"
    ) -> tuple[tuple[Tensor, Tensor, Tensor, Tensor], dict[str, Any]]:
        """Latents of a, a', b, b'; then mean of logit(t), and the instructions where there is a teacher."""
        if self.analogies is not None:
            *latents, exact = self.analogies.draw(rng, size, split)
            return tuple(latents), {"shift": torch.where(exact, self.exact_shift, SHIFT)}  # type: ignore[return-value]
        chosen = rng.choice(len(self.weights), size, p=self.weights)
        told = {"instruction": self.instructions[chosen]} if self.teacher else {}
        return self.bank.draw_analogies(rng, chosen), {"shift": SHIFT, **told}

    def batch(self, rng: np.random.Generator, size: int) -> dict[str, Tensor]:
        (a, a_prime, b, b_prime), more = self._draw(rng, size)
        target = self.editor.layout.target(a, a_prime, b, b_prime)
        return {"a": a, "a_prime": a_prime, "b": b, **flow_sample(rng, target, more.pop("shift")), **more}

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        editor, a, a_prime, b = self.editor, batch["a"], batch["a_prime"], batch["b"]
        coefficients = editor.coefficients(a, a_prime, b)
        references = editor.layout.references(a, a_prime, b)
        target = batch["velocity"]
        if self.teacher:
            with torch.no_grad(), editor.basis.disabled():
                taught = editor.base.velocity(batch["noisy"], batch["t"], references, self.ids, batch["instruction"])
            target = torch.lerp(target, taught, self.teacher)
        with editor.basis.mixed(coefficients):
            v = editor.base.velocity(batch["noisy"], batch["t"], references, self.ids)
        loss = (v - target).pow(2).mean()
        out = {"loss": loss}
        if self.teacher:
            out["flow_matching"] = (v.detach() - batch["velocity"]).pow(2).mean()
        if self.balance:
            used = torch.special.entr(coefficients.mean(0)).sum(-1).mean()
            out = {"loss": loss + self.balance * (math.log(coefficients.shape[-1]) - used), "flow_matching": loss}
        if self.router is not None:
            out |= {k: torch.tensor(x) for k, x in routing_statistics(coefficients.detach()).items()}
        return out

    def validation(self) -> dict[str, float]:
        """Flow-matching losses on pictures of validation concepts: fresh edits of 1, 2 and 3, and the artists'."""
        if self.analogies is None:
            return {}
        if self._fixed is None:
            self._fixed = self._validation_samples()
        with torch.no_grad():
            losses = {k: self(batch) for k, batch in self._fixed.items()}
        return {k: float(v.get("flow_matching", v["loss"])) for k, v in losses.items()}

    def _validation_samples(self) -> dict[str, dict[str, Tensor]]:
        assert self.analogies is not None
        source, own = self.analogies, self.analogies.distribution
        rng = np.random.default_rng(2026)
        found = {}
        for name, lengths in (("edit", (1, 0, 0)), ("two edits", (0, 1, 0)), ("three edits", (0, 0, 1))):
            fresh = Distribution(own.kinds, own.held_out, lengths)
            found[name] = FreshAnalogies(source.pictures, fresh).draw(rng, 96, "val")[:4]
        if "val" in source.weights:
            only = copy.copy(source)
            only.share, only.followed = 1.0, 0.0
            found["artists"] = only.draw(rng, 96, "val")[:4]
        batches = {}
        for name, (a, a_prime, b, b_prime) in found.items():
            target = self.editor.layout.target(a, a_prime, b, b_prime)
            t = torch.sigmoid(torch.linspace(-1.5, 3.5, len(target)))
            noise = torch.randn(target.shape, generator=torch_generator(rng))
            noisy = torch.lerp(target, noise, t[:, None, None])
            batches[name] = {"a": a, "a_prime": a_prime, "b": b, "t": t, "noisy": noisy, "velocity": noise - target}
        return batches

    def save(self, folder: Path) -> None:
        self.editor.save(folder, **self.notes)

    def start_from(self, folder: Path) -> None:
        start = load(folder)
        if start.config != self.editor.config:
            raise InputError(f"expected a basis of the shape {self.editor.config}, got {start.config} in {folder}")
        self.editor.basis.load_state_dict(start.basis.state_dict())
        if self.router is not None and start.router is not None:
            self.router.load_state_dict(start.router.state_dict())
        if self.editor.pair_encoder is not None and start.pair_encoder is not None:
            self.editor.pair_encoder.load_state_dict(start.pair_encoder.state_dict())
