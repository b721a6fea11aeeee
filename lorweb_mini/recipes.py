"""What is trained: autoencoder, tiny CLIP, base, and the basis with its router."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .autoencoder import MiniAutoencoder
from .bank import LatentBank
from .base import Base, pack, position_ids
from .editor import BasisConfig, Editor, load, new_editor
from .edits import apply_edit, parse_relation
from .encoder import TinyCLIP
from .images import InputError, load_emoji
from .instructions import vectors_of
from .relations import Relation, relations, select, training_pictures
from .router import routing_statistics
from .training import Recipe
from .weights import weights_dir

SCALE_ROWS = 2048  # pictures that set the latents' scale and shift, and the router's
ROUTER_SCALE = 0.1  # at the LoRAs' own rate the router collapses onto one LoRA within a hundred steps


def torch_generator(rng: np.random.Generator) -> torch.Generator:
    """A torch generator seeded from a numpy one."""
    return torch.Generator().manual_seed(int(rng.integers(2**62)))


def known_relations() -> list[Relation]:
    """Every relation that the frozen parts may know and that has a train pair."""
    return [r for r in relations().values() if r.known_to_base and len(r.pairs("train"))]


def flow_sample(rng: np.random.Generator, clean: Tensor) -> dict[str, Tensor]:
    """Times from a logit-normal, noise, and the noisy tokens z_t = (1 − t) x + t e for clean tokens x [B, T, 64]."""
    generator = torch_generator(rng)
    t = torch.sigmoid(torch.randn(len(clean), generator=generator) + 0.3)
    noise = torch.randn(clean.shape, generator=generator)
    noisy = torch.lerp(clean, noise, t[:, None, None])
    return {"t": t, "noisy": noisy, "velocity": noise - clean}


class AutoencoderRecipe(Recipe):
    """Reconstruction of drawings as they are, on coloured grounds, and edited in every way the base will know."""

    def __init__(self, autoencoder: MiniAutoencoder | None = None) -> None:
        super().__init__()
        self.autoencoder = autoencoder if autoencoder is not None else MiniAutoencoder()
        self.autoencoder.to(memory_format=torch.channels_last)  # a tenth faster on a CPU
        self.pictures = training_pictures()
        names = [r.name for r in select("seen", known_to_base=True) if r.name.startswith("edit/")]
        self.edits = [parse_relation(n) for n in names]

    def batch(self, rng: np.random.Generator, size: int) -> dict[str, Tensor]:
        chosen = self.pictures[rng.integers(len(self.pictures), size=size)]
        x = load_emoji().tensor(chosen[:, 0], chosen[:, 1])
        half, quarter = size // 2, size // 4
        # Half as drawn on white, a quarter on a random ground, the rest edited in groups of four.
        grounds = torch.from_numpy(rng.random((quarter, 3))).float()
        for i, ground in enumerate(grounds):
            k = half + i
            x[k : k + 1] = load_emoji().tensor(chosen[k : k + 1, 0], chosen[k : k + 1, 1], background=ground.tolist())
        for start in range(half + quarter, size, 4):
            kind, strength = self.edits[rng.integers(len(self.edits))]
            x[start : start + 4] = apply_edit(x[start : start + 4], kind, strength)
        flip = torch.from_numpy(rng.random(size) < 0.5)
        x[flip] = x[flip].flip(3)
        noise = torch.randn(size, 16, 8, 8, generator=torch_generator(rng))
        return {"x": x, "noise": noise}

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        x = batch["x"].contiguous(memory_format=torch.channels_last)
        mean = self.autoencoder.encoder(x)
        error = self.autoencoder.decoder(mean + self.autoencoder.config["latent_noise"] * batch["noise"]) - x
        # The difference of neighbouring errors keeps line art sharp; the last term keeps latents from drifting away.
        edges = error.diff(dim=3).abs().mean() + error.diff(dim=2).abs().mean()
        square = error.pow(2).mean()
        loss = square + 0.2 * error.abs().mean() + 0.3 * edges + 1e-4 * mean.pow(2).mean()
        return {"loss": loss, "psnr": -10 * torch.log10(square.detach() / 4)}

    def save(self, folder: Path) -> None:
        """Fixes scale and shift from training pictures, then writes the model."""
        chosen = self.pictures[np.random.default_rng(0).integers(len(self.pictures), size=SCALE_ROWS)]
        with torch.no_grad():
            parts = [
                self.autoencoder.encoder(load_emoji().tensor(p[:, 0], p[:, 1])) for p in np.array_split(chosen, 16)
            ]
        latents = torch.cat(parts)
        self.autoencoder.register_to_config(scaling_factor=1 / latents.std().item(), shift_factor=latents.mean().item())
        self.autoencoder.save(folder)

    def start_from(self, folder: Path) -> None:
        self.autoencoder.load_state_dict(MiniAutoencoder.load(folder).state_dict())


class EncoderRecipe(Recipe):
    """Tiny CLIP's three contrasts: drawing and drawing, drawing and name, pair and instruction.

    Of every batch a half are emojis, each drawn by two artists, and a half are true pairs, told from all other
    relations that the frozen parts may know.
    """

    def __init__(self, edited_pairs: int = 1200) -> None:
        super().__init__()
        self.encoder = TinyCLIP()
        known = known_relations()
        self.bank = LatentBank(MiniAutoencoder.load(weights_dir() / "autoencoder"), known, edited_pairs)
        self.weights = self.bank.sampling_weights(least=1)
        self.instructions = vectors_of([r.instructions[0] for r in known])
        self.temperature = nn.Parameter(torch.tensor([3.0, 3.0, 3.0]))
        drawn = np.flatnonzero(self.bank.edited_by < 0)
        drawn = drawn[np.argsort(self.bank.emoji[drawn], kind="stable")]
        self.emojis, first = np.unique(self.bank.emoji[drawn], return_index=True)
        self.rows = np.split(drawn, first[1:])
        self.names = vectors_of([load_emoji().emojis[i].name for i in self.emojis])

    def batch(self, rng: np.random.Generator, size: int) -> dict[str, Tensor]:
        half = size // 2
        chosen = rng.choice(len(self.emojis), half, replace=False)
        rows = np.array([rng.choice(self.rows[i], 2, replace=False) for i in chosen])
        relation = rng.choice(len(self.weights), half, p=self.weights)
        before, after = self.bank.draw_pairs(rng, relation)
        return {
            "first": self.bank.latents[rows[:, 0]].float(),
            "second": self.bank.latents[rows[:, 1]].float(),
            "name": self.names[chosen],
            "before": before,
            "after": after,
            "relation": torch.from_numpy(relation),
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
        request = F.cross_entropy(logits, batch["relation"])
        right = (logits.argmax(-1) == batch["relation"]).float().mean()
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


class BaseRecipe(Recipe):
    """Instruction editing over every relation that the base may know; a tenth of the samples has no instruction."""

    NO_INSTRUCTION = 0.1

    def __init__(self, base: Base | None = None, edited_pairs: int = 1200) -> None:
        super().__init__()
        self.base = base if base is not None else Base()
        self.base.transformer.requires_grad_(True)
        known = known_relations()
        self.bank = LatentBank(MiniAutoencoder.load(weights_dir() / "autoencoder"), known, edited_pairs)
        self.weights = self.bank.sampling_weights(least=1)
        self.instructions = [vectors_of(list(r.instructions)) for r in known]
        self.ids = torch.cat([position_ids(4, 4, 0), position_ids(4, 4, 1)])

    def batch(self, rng: np.random.Generator, size: int) -> dict[str, Tensor]:
        chosen = rng.choice(len(self.weights), size, p=self.weights)
        reference, target = self.bank.draw_pairs(rng, chosen)
        instruction = torch.stack([self.instructions[r][rng.integers(len(self.instructions[r]))] for r in chosen])
        none = torch.from_numpy(rng.random(size) < self.NO_INSTRUCTION)
        instruction[none] = 0
        target[none] = reference[none]
        return {"reference": pack(reference), "instruction": instruction, **flow_sample(rng, pack(target))}

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        v = self.base.velocity(batch["noisy"], batch["t"], batch["reference"], self.ids, batch["instruction"])
        return {"loss": (v - batch["velocity"]).pow(2).mean()}

    def save(self, folder: Path) -> None:
        self.base.save(folder)

    def start_from(self, folder: Path) -> None:
        self.base.load_state_dict(Base.load(folder).state_dict())


class BasisRecipe(Recipe):
    """The paper's training: flow matching on b' given a, a', b and no text; only basis and router learn."""

    def __init__(
        self,
        config: BasisConfig,
        chosen: Sequence[Relation],
        edited_pairs: int = 1200,
        seed: int = 0,
        editor: Editor | None = None,
        notes: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.editor = editor if editor is not None else new_editor(config, seed)
        self.transformer = self.editor.base.transformer
        self.router = self.editor.router
        self.notes = {"relations": [r.name for r in chosen], **(notes or {})}
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
        return {"a": a, "a_prime": a_prime, "b": b, **flow_sample(rng, target)}

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        editor, a, a_prime, b = self.editor, batch["a"], batch["a_prime"], batch["b"]
        coefficients = editor.coefficients(a, a_prime, b)
        references = editor.layout.references(a, a_prime, b)
        with editor.basis.mixed(coefficients):
            v = editor.base.velocity(batch["noisy"], batch["t"], references, self.ids)
        out = {"loss": (v - batch["velocity"]).pow(2).mean()}
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
