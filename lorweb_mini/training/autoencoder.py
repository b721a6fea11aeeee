"""Training of the autoencoder, or of its decoder alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..emoji.edits import apply_edit
from ..emoji.relations import select, training_pictures
from ..emoji.sheets import composed, load_emoji
from ..models.autoencoder import MiniAutoencoder
from .loop import Recipe, torch_generator

SCALE_ROWS = 2048  # pictures that set the latents' scale and shift


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
        self.edits = [r.edits[0] for r in select("seen", known_to_base=True) if r.name.startswith("edit/")]

    def configuration(self) -> dict[str, Any]:
        return {"decoder_only": self.decoder_only}

    def batch(self, rng: np.random.Generator, size: int) -> dict[str, Tensor]:
        chosen = self.pictures[rng.integers(len(self.pictures), size=size)]
        x = load_emoji().tensor(*chosen.T)
        half, quarter = size // 2, size // 4
        # Half as drawn on white, a quarter on a random ground, the rest edited in groups of four, half of these with
        # their channels mixed first.
        grounds, places = torch.from_numpy(rng.random((quarter, 3))).float(), chosen[half : half + quarter]
        drawings = torch.from_numpy(load_emoji().rgba[places[:, 0], places[:, 1]])
        x[half : half + quarter] = composed(drawings, grounds[:, :, None, None])
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
            device = next(self.autoencoder.parameters()).device
            parts = (load_emoji().tensor(*p.T).to(device) for p in np.array_split(chosen, 16))
            with torch.no_grad():
                latents = torch.cat([self.autoencoder.encoder(x) for x in parts])
            fixed = {"scaling_factor": 1 / latents.std().item(), "shift_factor": latents.mean().item()}
            self.autoencoder.register_to_config(**fixed)
        self.autoencoder.save(folder)

    def start_from(self, folder: Path) -> None:
        start = MiniAutoencoder.load(folder)
        self.autoencoder.load_state_dict(start.state_dict())
        kept = ("latent_noise", "scaling_factor", "shift_factor")
        self.autoencoder.register_to_config(**{k: start.config[k] for k in kept})
