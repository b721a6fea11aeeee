"""What is trained: autoencoder, tiny CLIP, base, and the basis with its router."""

from __future__ import annotations

from collections.abc import Sequence
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
from ..emoji.edits import apply_edit, parse_relation
from ..emoji.latents import LatentBank, encoded
from ..emoji.relations import Relation, relations, select, training_pictures
from ..emoji.sheets import load_emoji
from ..errors import InputError
from ..models.autoencoder import MiniAutoencoder
from ..models.base import Base
from ..models.text import vectors_of
from ..models.tiny_clip import TinyCLIP
from ..models.weights import weights_dir
from .loop import Recipe, torch_generator

SCALE_ROWS = 2048  # pictures that set the latents' scale and shift, and the router's
SHIFT = 0.8  # towards noise, where it is decided what to draw; near t = 0 it is only finished
ROUTER_SCALE = 0.1  # at the LoRAs' own rate the router collapses onto one LoRA within a hundred steps


def known_relations() -> list[Relation]:
    """Every relation that the frozen parts may know and that has a train pair."""
    return [r for r in relations().values() if r.known_to_base and len(r.pairs("train"))]


def flow_sample(rng: np.random.Generator, clean: Tensor) -> dict[str, Tensor]:
    """Times t, noise e, and the noisy tokens z_t = (1 − t) x + t e for clean tokens x [B, T, 64].

    logit(t) is normal with mean :data:`SHIFT` and deviation 1.
    """
    generator = torch_generator(rng)
    t = torch.sigmoid(torch.randn(len(clean), generator=generator) + SHIFT)
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
    """Instruction editing over every relation that the base may know; a tenth of the samples has no instruction.

    The last phrasing of every relation is never shown, so that it can tell whether the base understands words that it
    has not seen. Of two phrasings that it has seen it gets a random mixture.
    """

    NO_INSTRUCTION = 0.1
    # What is learnt slowly is drawn more often: what moves pixels far, and what needs knowledge of the drawings.
    EMPHASIS = MappingProxyType(
        {
            "edit/rotate": 4.0,
            "edit/flip_vertical": 4.0,
            "edit/threshold": 3.0,
            "edit/outline": 3.0,
            "edit/zoom": 2.5,
            "edit/tile": 2.5,
            "edit/wave": 2.0,
            "gender": 4.0,
            "style": 2.0,
            "tone": 1.5,
            "moon": 2.0,
            "colour": 0.5,
        }
    )

    def __init__(self, base: Base | None = None, edited_pairs: int = 1200) -> None:
        super().__init__()
        self.base = base if base is not None else Base()
        self.base.transformer.requires_grad_(True)
        known = known_relations()
        self.bank = LatentBank(MiniAutoencoder.load(weights_dir() / "autoencoder"), known, edited_pairs)
        emphasis = np.array([self.EMPHASIS.get(r.family, 1.0) for r in known])
        weights = self.bank.sampling_weights(least=1) * emphasis
        self.weights = weights / weights.sum()
        self.instructions = [vectors_of(list(r.training_instructions)) for r in known]
        self.ids = torch.cat([position_ids(4, 4, 0), position_ids(4, 4, 1)])

    def batch(self, rng: np.random.Generator, size: int) -> dict[str, Tensor]:
        chosen = rng.choice(len(self.weights), size, p=self.weights)
        reference, target = self.bank.draw_pairs(rng, chosen)
        instruction = torch.stack([self._mixture(rng, self.instructions[r]) for r in chosen])
        none = torch.from_numpy(rng.random(size) < self.NO_INSTRUCTION)
        instruction[none] = 0
        target[none] = reference[none]
        return {"reference": pack(reference), "instruction": instruction, **flow_sample(rng, pack(target))}

    @staticmethod
    def _mixture(rng: np.random.Generator, phrasings: Tensor) -> Tensor:
        """A point between two of the phrasings' vectors [k, 384], of their norm."""
        first, second = phrasings[rng.integers(len(phrasings), size=2)]
        mixed = torch.lerp(first, second, float(rng.random()))
        return mixed * first.norm() / mixed.norm()

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        v = self.base.velocity(batch["noisy"], batch["t"], batch["reference"], self.ids, batch["instruction"])
        return {"loss": (v - batch["velocity"]).pow(2).mean()}

    def save(self, folder: Path) -> None:
        self.base.save(folder)

    def start_from(self, folder: Path) -> None:
        self.base.load_state_dict(Base.load(folder).state_dict())


class BasisRecipe(Recipe):
    """The paper's training: flow matching on b' given a, a', b and no text; only basis and router learn.

    Args:
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
        self.bank = LatentBank(self.editor.autoencoder, chosen, edited_pairs)
        self.weights = self.bank.sampling_weights()
        self.ids = self.editor.layout.ids()
        if self.router is not None:
            rng = np.random.default_rng(0)
            triplets = self.bank.draw_analogies(rng, rng.choice(len(self.weights), SCALE_ROWS, p=self.weights))[:3]
            with torch.no_grad():
                self.router.standardise(*[self.editor.encoder(x) for x in triplets])

    def parameter_groups(self) -> list[dict[str, Any]]:
        groups: list[dict[str, Any]] = [{"params": self.editor.basis.parameters(), "scale": 1.0}]
        for parameter in self.editor.basis.parameters():
            parameter.requires_grad_(True)
        if self.router is not None:
            self.router.requires_grad_(True)
            groups.append({"params": list(self.router.parameters()), "scale": ROUTER_SCALE})
        return groups

    def configuration(self) -> dict[str, Any]:
        return {"basis": asdict(self.editor.config), **self.notes}

    def batch(self, rng: np.random.Generator, size: int) -> dict[str, Tensor]:
        chosen = rng.choice(len(self.weights), size, p=self.weights)
        a, a_prime, b, b_prime = self.bank.draw_analogies(rng, chosen)
        target = self.editor.layout.target(a, a_prime, b, b_prime)
        told = {"instruction": self.instructions[chosen]} if self.teacher else {}
        return {"a": a, "a_prime": a_prime, "b": b, **told, **flow_sample(rng, target)}

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
        out = {"loss": (v - target).pow(2).mean()}
        if self.teacher:
            out["flow_matching"] = (v.detach() - batch["velocity"]).pow(2).mean()
        if self.router is not None:
            out |= {k: torch.tensor(x) for k, x in routing_statistics(coefficients.detach()).items()}
        return out

    def save(self, folder: Path) -> None:
        self.editor.save(folder, **self.notes)

    def start_from(self, folder: Path) -> None:
        start = load(folder)
        if start.config != self.editor.config:
            raise InputError(f"expected a basis of the shape {self.editor.config}, got {start.config} in {folder}")
        self.editor.basis.load_state_dict(start.basis.state_dict())
        if self.router is not None and start.router is not None:
            self.router.load_state_dict(start.router.state_dict())
