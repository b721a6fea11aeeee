"""Flow matching: a straight line from picture to noise, and the velocity along it.

For a clean x and noise e, z_t = (1 − t) x + t e; the transformer is trained to predict v = e − x from z_t and t.
logit(t) is normal: near t = 1 it is decided what to draw, near t = 0 it is only finished.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ..errors import finite_number
from .loop import Recipe, torch_generator

SHIFT = 0.8  # mean of logit(t)
EXACT_SHIFT = 2.0  # where x is a function of the references, nothing is left to decide away from the noise
# Probabilities of a chain of one, two and three edits, by the name of a family of validation samples.
NUMBERS_OF_EDITS = {"edit": (1, 0, 0), "two edits": (0, 1, 0), "three edits": (0, 0, 1)}


def flow_sample(clean: Tensor, t: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """z_t and v for clean x [B, ...] and times t [B], with noise from a generator: ``t``, ``noisy``, ``velocity``."""
    noise, t = torch.randn(clean.shape, generator=generator).to(clean.device), t.to(clean.device)
    noisy = torch.lerp(clean, noise, t.view(-1, *[1] * (clean.ndim - 1)))
    return {"t": t, "noisy": noisy, "velocity": noise - clean}


def random_times(size: int, generator: torch.Generator, shift: float | Tensor = SHIFT) -> Tensor:
    """Times [size] whose logits have mean ``shift``, one for all or [size], and deviation 1."""
    return torch.sigmoid(torch.randn(size, generator=generator) + shift)


def training_sample(rng: np.random.Generator, clean: Tensor, shift: float | Tensor = SHIFT) -> dict[str, Tensor]:
    """:func:`flow_sample` at random times."""
    generator = torch_generator(rng)  # the CPU's on every device, so that seed and step decide
    shift = shift.cpu() if isinstance(shift, Tensor) else shift
    return flow_sample(clean, random_times(len(clean), generator, shift), generator)


def validation_sample(rng: np.random.Generator, clean: Tensor) -> dict[str, Tensor]:
    """:func:`flow_sample` at times whose logits lie evenly from −1.5 to 3.5, the same for every training."""
    return flow_sample(clean, torch.sigmoid(torch.linspace(-1.5, 3.5, len(clean))), torch_generator(rng))


class FlowRecipe(Recipe):
    """A recipe that learns velocities and is validated on fixed samples.

    Args:
        change_floor: divides the loss of each sample by the mean squared change that is asked for, plus this floor, so
            that a hue counts as much as a move of the whole picture; None weighs all samples alike, as the paper does.
    """

    def __init__(self, change_floor: float | None) -> None:
        super().__init__()
        self.change_floor = None if change_floor is None else finite_number(change_floor, "change_floor", above=True)

    def losses(
        self, v: Tensor, batch: dict[str, Tensor], unchanged: Tensor, told: Tensor | None = None
    ) -> dict[str, Tensor]:
        """``loss`` of predicted velocities [B, T, C]; where it is divided by the change, ``flow_matching`` is not.

        Where bool [B] ``told`` is False, nothing was to be changed from the tokens ``unchanged`` [B, T, C]: such a
        sample counts as it is.
        """
        errors = (v - batch["velocity"]).pow(2)
        if self.change_floor is None:
            return {"loss": errors.mean()}
        clean = batch["noisy"] - batch["t"][:, None, None] * batch["velocity"]
        scale = (clean - unchanged).pow(2).mean((1, 2)) + self.change_floor
        scale = scale if told is None else torch.where(told, scale, 1.0)
        return {"loss": (errors.mean((1, 2)) / scale).mean(), "flow_matching": errors.mean()}

    def validation_samples(self) -> dict[str, dict[str, Tensor]]:
        """The held-out samples of each family, the same for every training; empty for a recipe without any."""
        return {}

    @cached_property
    def _fixed(self) -> dict[str, dict[str, Tensor]]:
        return self.validation_samples()

    @torch.no_grad()
    def validation(self) -> dict[str, float]:
        """Flow-matching losses by family."""
        losses = {name: self(batch) for name, batch in self._fixed.items()}
        return {name: float(loss.get("flow_matching", loss["loss"])) for name, loss in losses.items()}
