"""The frozen base: FLUX.1-Kontext in miniature, an instruction editor by flow matching.

A latent of 16 channels at 8×8 is packed 2×2 into 16 tokens of 64 channels. The tokens of the noisy picture and of the
reference pictures form one sequence; position ids (k, row, column) tell them apart: k = 0 for the noisy picture,
k = 1, 2, … for the references, as Kontext does. The instruction is one text token.

Flow matching: with noise e and picture x, z_t = (1 − t) x + t e, and the transformer learns v = e − x. Sampling
integrates dz = v dt from t = 1 to 0 with diffusers' ``FlowMatchEulerDiscreteScheduler``. Without an instruction (a zero
vector) the base returns the reference.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
from torch import Tensor, nn

from ..core.layout import pack, position_ids, unpack
from .weights import load_pretrained, save_pretrained

TEXT_WIDTH = 384  # MiniLM
TOKEN_WIDTH = 64  # 16 latent channels × 2 × 2
# Euler steps where none are named. On validation relations one has the least error, nearly as sharp as eight
# (benchmarks/results/mixer.md). Where several pictures are right answers, as for styles, more steps are sharper.
STEPS = 1


def transformer_of(width: int = 256, double_blocks: int = 2, single_blocks: int = 4) -> FluxTransformer2DModel:
    """A small Flux transformer with 64-wide heads and Flux's own split of the rotary axes."""
    return FluxTransformer2DModel(
        patch_size=1,
        in_channels=TOKEN_WIDTH,
        num_layers=double_blocks,
        num_single_layers=single_blocks,
        attention_head_dim=64,
        num_attention_heads=width // 64,
        joint_attention_dim=TEXT_WIDTH,
        pooled_projection_dim=TEXT_WIDTH,
        guidance_embeds=False,
        axes_dims_rope=(8, 28, 28),
    )


def noise_for(seeds: Sequence[int], tokens: int) -> Tensor:
    """Starting noise [B, tokens, 64]; each item has its own generator, so it does not depend on its batch."""
    # Type and device are written out, since another library may have set other defaults.
    noise = torch.empty(len(seeds), tokens, TOKEN_WIDTH, dtype=torch.float32, device="cpu")
    for row, seed in zip(noise, seeds, strict=True):
        row.normal_(generator=torch.Generator("cpu").manual_seed(int(seed)))
    return noise


class Base(nn.Module):
    """A Flux transformer with the conventions above."""

    def __init__(self, transformer: FluxTransformer2DModel | None = None) -> None:
        super().__init__()
        self.transformer = transformer if transformer is not None else transformer_of()
        self.scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)

    def velocity(
        self, noisy: Tensor, t: Tensor, references: Tensor, ids: Tensor, instruction: Tensor | None = None
    ) -> Tensor:
        """Predicted velocity v = e − x, [B, T, 64].

        Args:
            noisy: tokens z_t [B, T, 64].
            t: times in [0, 1], [B].
            references: tokens of all reference pictures in a row [B, R, 64].
            ids: position ids of noisy and reference tokens [T + R, 3].
            instruction: sentence vectors [B, 384]; None for no instruction.
        """
        if instruction is None:
            instruction = noisy.new_zeros(len(noisy), TEXT_WIDTH)
        out = self.transformer(
            hidden_states=torch.cat([noisy, references], dim=1),
            encoder_hidden_states=instruction[:, None],
            pooled_projections=instruction,
            timestep=t,
            img_ids=ids,
            txt_ids=ids.new_zeros(1, 3),
            return_dict=False,
        )[0]
        return out[:, : noisy.shape[1]]

    @torch.no_grad()
    def sample(
        self,
        noise: Tensor,
        references: Tensor,
        ids: Tensor,
        instruction: Tensor | None = None,
        steps: int = STEPS,
        guidance: float = 1.0,
    ) -> Tensor:
        """Integrates from noise [B, T, 64] at t = 1 to clean tokens at t = 0 in ``steps`` Euler steps.

        ``guidance`` other than 1 extrapolates from the prediction without instruction (classifier-free guidance), at
        twice the cost.
        """
        scheduler = copy.copy(self.scheduler)  # it counts its steps, and two threads may sample at once
        with torch.device("cpu"):
            scheduler.set_timesteps(sigmas=[1 - i / steps for i in range(steps)])
        z = noise
        for timestep in scheduler.timesteps:
            t = (timestep / scheduler.config["num_train_timesteps"]).expand(len(z)).to(z)
            v = self.velocity(z, t, references, ids, instruction)
            if guidance != 1.0 and instruction is not None:
                empty = self.velocity(z, t, references, ids)
                v = empty + guidance * (v - empty)
            z = scheduler.step(v, timestep, z, return_dict=False)[0]
        return z

    def edit(
        self,
        latent: Tensor,
        instruction: Tensor | None,
        seeds: Sequence[int],
        steps: int = STEPS,
        guidance: float = 1.0,
    ) -> Tensor:
        """Edits latents [B, 16, h, w] by sentence vectors [B, 384]; ``seeds`` are those of each starting noise."""
        rows, columns = latent.shape[2] // 2, latent.shape[3] // 2
        ids = torch.cat([position_ids(rows, columns, 0), position_ids(rows, columns, 1)])
        noise = noise_for(seeds, rows * columns).to(latent.device)
        tokens = self.sample(noise, pack(latent), ids.to(latent.device), instruction, steps, guidance)
        return unpack(tokens, *latent.shape[2:])

    def save(self, folder: str | Path) -> None:
        """Writes the transformer in diffusers' format and half precision, without the LoRAs of a basis.

        InputError inside ``freeze``, whose weights are not the base's.
        """
        save_pretrained(self.transformer, folder)

    @classmethod
    def load(cls, folder: str | Path) -> Base:
        """Reads what :meth:`save` wrote, in single precision, for inference."""
        return cls(load_pretrained(FluxTransformer2DModel, folder)).eval()
