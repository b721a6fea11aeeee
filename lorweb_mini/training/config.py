"""How long, how fast and how precisely to train: settings, learning rate, optimisers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from ..errors import InputError, check_seed, finite_number, whole_number

CHECKS: dict[str, Callable[[Any, str], float]] = {
    **dict.fromkeys(("steps", "samples", "decay_samples", "batch_size", "log_every"), whole_number),
    "warmup_steps": partial(whole_number, least=0),
    "seed": lambda value, name: check_seed(value),
    **dict.fromkeys(("minutes", "learning_rate", "checkpoint_minutes"), partial(finite_number, above=True)),
    "max_grad_norm": partial(finite_number, above=True),
    "weight_decay": finite_number,
    **dict.fromkeys(("final_fraction", "ema_decay"), partial(finite_number, most=1)),
}


@dataclass(frozen=True)
class TrainingConfig:
    """How long and how fast to train.

    Give ``steps`` or ``samples`` for a run that repeats bit for bit, or ``minutes`` alone for one that fits a time
    budget: the learning rate then follows the clock, so two machines take different numbers of steps. ``minutes``
    beside ``samples`` is a cap: a run that reaches it stops with its state kept, and goes on when it is started again.

    Attributes:
        batch_size: samples a step, over all processes together.
        learning_rate: peak. After a linear warm-up over ``warmup_steps`` it follows half a cosine down to
            ``final_fraction`` of the peak; with ``decay_samples`` it stays at the peak and falls linearly over so many
            samples at the end. A plan of the latter kind may be prolonged while it runs.
        optimizer: ``adamw``, or ``muon`` for the matrices and AdamW for the rest.
        precision: ``bf16`` for the matrix products of forward and backward pass (weights stay fp32), ``fp32``, or
            ``auto`` for bf16 where the device multiplies it in hardware.
        ema_decay: ceiling of the moving average's decay (it warms up as 1 - (1 + s)^(-2/3)); None keeps no average.
        checkpoint_minutes: time between checkpoints; a kill loses at most this much.
    """

    steps: int | None = None
    minutes: float | None = None
    samples: int | None = None
    batch_size: int = 32
    learning_rate: float = 1e-3
    warmup_steps: int = 100
    decay_samples: int | None = None
    final_fraction: float = 0.02
    optimizer: str = "adamw"
    precision: str = "fp32"
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    ema_decay: float | None = 0.999
    seed: int = 0
    checkpoint_minutes: float = 3.0
    log_every: int = 20

    def __post_init__(self) -> None:
        if (self.steps is not None) + (self.samples is not None or self.minutes is not None) != 1:
            raise InputError(
                f"expected steps, samples or minutes, or samples with minutes as a cap, "
                f"got steps={self.steps}, samples={self.samples}, minutes={self.minutes}"
            )
        optional = ("steps", "samples", "decay_samples", "minutes", "ema_decay")
        for name, check in CHECKS.items():
            if (value := getattr(self, name)) is not None or name not in optional:
                object.__setattr__(self, name, check(value, name))  # Python's own numbers, which JSON can write
        if not isinstance(self.betas, (tuple, list)) or len(self.betas) != 2:
            raise InputError(f"expected betas as two numbers, got {self.betas!r}")
        object.__setattr__(self, "betas", tuple(finite_number(x, "each of betas", most=1) for x in self.betas))
        if self.decay_samples is not None and (self.samples is None or self.decay_samples > self.samples):
            raise InputError(f"expected decay_samples within samples, got {self.decay_samples} of {self.samples}")
        for name, options in (("optimizer", ("adamw", "muon")), ("precision", ("fp32", "bf16", "auto"))):
            if getattr(self, name) not in options:
                raise InputError(f"expected {name} out of {options}, got {getattr(self, name)!r}")

    @property
    def total_steps(self) -> int | None:
        """Number of steps, where it does not depend on the clock."""
        return self.steps if self.samples is None else math.ceil(self.samples / self.batch_size)


def learning_rate_factor(config: TrainingConfig, step: int, progress: float) -> float:
    """Share of the peak: a warm-up, then half a cosine, or a constant and a linear decay over the last samples."""
    warmup = min(1.0, (step + 1) / max(1, config.warmup_steps))
    if config.decay_samples is None or config.samples is None:
        share = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    else:
        share = min(1.0, (1 - min(1.0, progress)) * config.samples / config.decay_samples)
    return warmup * (config.final_fraction + (1 - config.final_fraction) * share)


def optimizers_of(config: TrainingConfig, groups: list[dict[str, Any]]) -> list[torch.optim.Optimizer]:
    """One optimiser for all parameters, or Muon for the matrices and AdamW for the rest; groups keep their scale."""
    options: dict[str, Any] = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
    adamw = {"betas": config.betas, "fused": True, **options}
    if config.optimizer == "adamw":
        return [torch.optim.AdamW(groups, **adamw)]
    matrices = [{**g, "params": [p for p in g["params"] if p.ndim == 2]} for g in groups]
    others = [{**g, "params": [p for p in g["params"] if p.ndim != 2]} for g in groups]
    return [
        torch.optim.AdamW([g for g in others if g["params"]], **adamw),
        torch.optim.Muon([g for g in matrices if g["params"]], adjust_lr_fn="match_rms_adamw", **options),
    ]


def autocasts(precision: str, device: torch.device) -> bool:
    """Whether matrix products are computed in bf16 on a device."""
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # Without either of the two a processor emulates bf16, at a fraction of the speed of fp32.
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))
