"""Training of tiny CLIP, the encoder of the router."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..emoji.latents import encoded
from ..emoji.relations import training_pictures
from ..emoji.sheets import load_emoji
from ..errors import InputError, whole_number
from ..models.autoencoder import MiniAutoencoder
from ..models.text import vectors_of
from ..models.tiny_clip import TinyCLIP
from ..models.weights import weights_dir
from .analogies import LatentBank, known_relations
from .loop import Recipe, torch_generator


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
        self.edited_pairs = whole_number(edited_pairs, "edited_pairs")
        self.encoder = TinyCLIP()
        known = known_relations()
        autoencoder = MiniAutoencoder.load(weights_dir() / "autoencoder")
        self.bank = LatentBank(autoencoder, known, edited_pairs)
        self.weights = self.bank.weights(least=1)
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

    def configuration(self) -> dict[str, Any]:
        return {"edited_pairs": self.edited_pairs}

    def place(self, device: torch.device) -> None:
        self.instructions = self.instructions.to(device)

    def batch(self, rng: np.random.Generator, size: int) -> dict[str, Tensor]:
        half = size // 2
        if half > len(self.concepts):
            raise InputError(f"expected a batch of at most {2 * len(self.concepts)}, two a concept, got {size}")
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
        terms = {"drawing": drawing.detach(), "named": named.detach(), "request": request.detach()}
        return {"loss": drawing + 0.5 * named + request, **terms, "request_top1": right}

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
