"""One training loop for every part: accelerate for processes, EMA from diffusers, resume that loses nothing.

A *recipe* is a module that draws its own batches and computes its own loss. All randomness of step s comes from
``(seed, s)`` alone, never from a running generator, so a run that is killed and resumed draws exactly what an
uninterrupted run draws, and k processes together draw exactly the batch that one process would.
"""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from diffusers.training_utils import EMAModel
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm.auto import tqdm

from ..errors import InputError, check_seed, whole_number
from ..files import read_text, write_atomically
from . import sharding

STATE = "state.safetensors"
LOG = "log.csv"
VALIDATION = "validation.csv"


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
        precision: ``fp32``, or ``bf16`` for the matrix products of forward and backward pass; weights stay fp32.
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
        for name, least in (("steps", 1), ("samples", 1), ("batch_size", 1), ("warmup_steps", 0), ("log_every", 1)):
            if (value := getattr(self, name)) is not None:
                whole_number(value, name, least)
        check_seed(self.seed)
        for name in ("minutes", "learning_rate", "checkpoint_minutes", "max_grad_norm"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, Real) and 0 < float(value) < math.inf):
                raise InputError(f"expected {name} as a number above 0, got {value!r}")
        if self.decay_samples is not None and (self.samples is None or not 0 < self.decay_samples <= self.samples):
            raise InputError(f"expected decay_samples within samples, got {self.decay_samples} of {self.samples}")
        for name, options in (("optimizer", ("adamw", "muon")), ("precision", ("fp32", "bf16"))):
            if getattr(self, name) not in options:
                raise InputError(f"expected {name} out of {options}, got {getattr(self, name)!r}")

    @property
    def total_steps(self) -> int | None:
        """Number of steps, where it does not depend on the clock."""
        return self.steps if self.samples is None else math.ceil(self.samples / self.batch_size)


PLAN = ("steps", "samples", "minutes", "decay_samples", "checkpoint_minutes", "log_every", "precision")
"""Settings that an unfinished run may change."""


class Recipe(nn.Module):
    """What the loop needs to know of a model in training.

    Attributes:
        accumulate: forward passes that share a step's batch equally, for less memory at once.
    """

    accumulate = 1

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Groups of trainable parameters; ``scale`` (default 1) multiplies the learning rate of a group."""
        return [{"params": [p for p in self.parameters() if p.requires_grad]}]

    def batch(self, rng: np.random.Generator, size: int) -> dict[str, Tensor]:
        """Draws ``size`` samples; every tensor has the sample on its first axis."""
        raise NotImplementedError

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Returns ``loss`` (a scalar) and any further scalars for the log."""
        raise NotImplementedError

    def configuration(self) -> dict[str, Any]:
        """What is trained, as JSON; a killed run resumes only where this is the same."""
        return {}

    def shard_units(self) -> list[nn.Module]:
        """What FSDP gathers and lets go together: inner modules before those that hold them."""
        return [self]

    def observe(self, step: int, folder: Path, is_main: bool) -> None:
        """Called in every process after each step, for pictures along the way; only the main one writes."""

    def validation(self) -> dict[str, float]:
        """Losses on fixed held-out samples, one a family; empty for a recipe without any. Called at each checkpoint."""
        return {}

    def save(self, folder: Path) -> None:
        """Writes the finished weights with their configuration."""
        raise NotImplementedError

    def start_from(self, folder: Path) -> None:
        """Takes the weights of a finished run as the starting point, in place of random ones."""
        raise NotImplementedError


def torch_generator(rng: np.random.Generator) -> torch.Generator:
    """A torch generator seeded from a numpy one."""
    return torch.Generator().manual_seed(int(rng.integers(2**62)))


def learning_rate_factor(config: TrainingConfig, step: int, progress: float) -> float:
    """Share of the peak: a warm-up, then half a cosine, or a constant and a linear decay over the last samples."""
    warmup = min(1.0, (step + 1) / max(1, config.warmup_steps))
    if config.decay_samples is None or config.samples is None:
        share = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    else:
        share = min(1.0, (1 - min(1.0, progress)) * config.samples / config.decay_samples)
    return warmup * (config.final_fraction + (1 - config.final_fraction) * share)


def optimizers_of(
    config: TrainingConfig, groups: list[dict[str, Any]], fused: bool = True
) -> list[torch.optim.Optimizer]:
    """One optimiser for all parameters, or Muon for the matrices and AdamW for the rest; groups keep their scale."""
    options: dict[str, Any] = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
    if config.optimizer == "adamw":
        return [torch.optim.AdamW(groups, betas=config.betas, fused=fused, **options)]
    matrices = [{**g, "params": [p for p in g["params"] if p.ndim == 2]} for g in groups]
    others = [{**g, "params": [p for p in g["params"] if p.ndim != 2]} for g in groups]
    return [
        torch.optim.AdamW([g for g in others if g["params"]], betas=config.betas, fused=fused, **options),
        torch.optim.Muon([g for g in matrices if g["params"]], adjust_lr_fn="match_rms_adamw", **options),
    ]


def train(recipe: Recipe, config: TrainingConfig, folder: str | Path, fresh: bool = False) -> dict[str, float]:
    """Trains a recipe, or goes on where a killed run of the same configuration stopped.

    Args:
        folder: receives ``log.csv``, ``training.json``, ``state.safetensors`` while running (with FSDP a folder
            ``state-<step>`` with every process's part), and the recipe's weights at the end.
        fresh: throw an unfinished run in this folder away instead of resuming it.

    Returns:
        steps, samples, seconds and the mean loss over the last hundred steps.

    Raises:
        InputError: the folder holds an unfinished run of another configuration, or its state file is damaged.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    sharded = sharding.wanted()
    if sharded:
        sharding.shard(recipe.shard_units(), accelerator.device)
    groups = [{"scale": 1.0, **g, "params": list(g["params"])} for g in recipe.parameter_groups()]
    parameters = [p for g in groups for p in g["params"]]
    optimizers = optimizers_of(config, groups)
    ema = None
    if config.ema_decay is not None:
        # torch's joint copy knows no sharded tensors.
        ema = EMAModel(parameters, decay=config.ema_decay, use_ema_warmup=True, power=2 / 3, foreach=not sharded)
    settings = json.loads(json.dumps({**asdict(config), **recipe.configuration()}))
    step, elapsed = 0, 0.0
    recent: list[float] = []
    if has_state(folder) and not fresh:
        load = load_sharded_state if sharded else load_state
        step, elapsed, recent = load(folder, settings, parameters, optimizers, ema)
        if accelerator.is_main_process:
            cut_log(folder / LOG, step)
            cut_log(folder / VALIDATION, step)
    elif accelerator.is_main_process:
        (folder / LOG).unlink(missing_ok=True)
        (folder / VALIDATION).unlink(missing_ok=True)
        remove_state(folder)
    if accelerator.is_main_process:
        write_atomically(folder / "training.json", json.dumps(asdict(config), indent=1).encode())
    model: nn.Module = recipe
    if not sharded:
        model, *optimizers = accelerator.prepare(recipe, *optimizers)
    if ema is not None:
        ema.to(accelerator.device)
    rank, world = accelerator.process_index, accelerator.num_processes
    share = config.batch_size // world
    if share * world != config.batch_size:
        raise InputError(f"expected a batch size divisible by the {world} processes, got {config.batch_size}")
    if share % recipe.accumulate:
        raise InputError(f"expected {recipe.accumulate} equal parts of the {share} samples a process, got a remainder")
    once = share // recipe.accumulate

    total = config.total_steps

    def progress() -> float:
        return step / total if total is not None else elapsed / (60 * (config.minutes or 1))

    def capped() -> bool:
        return total is not None and config.minutes is not None and elapsed - before >= 60 * config.minutes

    bar = tqdm(
        total=100.0,
        initial=min(100.0, 100 * progress()),
        disable=not accelerator.is_main_process,
        bar_format="{l_bar}{bar}| {elapsed}<{remaining} {postfix}",
    )
    rows: list[dict[str, float]] = []
    started = time.monotonic()
    before = saved = elapsed
    model.train()
    while progress() < 1 and not capped():
        factor = learning_rate_factor(config, step, progress())
        for group in (g for optimizer in optimizers for g in optimizer.param_groups):
            group["lr"] = config.learning_rate * factor * group["scale"]
        rng = np.random.default_rng([config.seed, step])
        whole = recipe.batch(rng, config.batch_size)
        mine = {k: v[rank * share : (rank + 1) * share].to(accelerator.device) for k, v in whole.items()}
        outs = []
        for first in range(0, share, once):
            last = first + once == share
            with model.no_sync() if isinstance(model, DistributedDataParallel) and not last else nullcontext():
                with torch.autocast(accelerator.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
                    out = model({k: v[first : first + once] for k, v in mine.items()})
                accelerator.backward(out["loss"] / recipe.accumulate)
            outs.append({k: v.detach() for k, v in out.items()})
        out = {k: torch.stack([x[k] for x in outs]).mean(0) for k in outs[0]}
        accelerator.clip_grad_norm_(parameters, config.max_grad_norm)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        if ema is not None:
            ema.step(parameters)
        loss = accelerator.gather(out["loss"]).mean().item()
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss} at step {step}: lower the learning rate")
        recent = [*recent[-99:], loss]
        step += 1
        elapsed = before + time.monotonic() - started
        if world > 1:  # one clock for all, or one process would leave the loop while another waits for it
            clock = torch.tensor(elapsed, dtype=torch.float64, device=accelerator.device)
            elapsed = float(broadcast(clock))
        if accelerator.is_main_process:
            if step % config.log_every == 0 or progress() >= 1:
                extras = {k: float(v) for k, v in out.items() if k != "loss"}
                rows.append(
                    {
                        "step": step,
                        "seconds": round(elapsed, 2),
                        "samples": step * config.batch_size,
                        "loss": sum(recent) / len(recent),
                        "learning_rate": config.learning_rate * factor,
                        **extras,
                    }
                )
                rate = config.batch_size * step / elapsed
                bar.set_postfix_str(f"loss {rows[-1]['loss']:.4f}, {rate:.0f} samples/s")
            bar.update(min(100.0, 100 * progress()) - bar.n)
        if elapsed - saved > 60 * config.checkpoint_minutes or (capped() and progress() < 1):
            saved = elapsed
            if accelerator.is_main_process:
                append_log(folder / LOG, rows)
                rows = []
            if sharded:
                tensors = state_tensors(parameters, optimizers, ema)
                sharding.save_sharded(folder, tensors, progress_of(settings, step, elapsed, recent))
            elif accelerator.is_main_process:
                save_state(folder, settings, parameters, optimizers, ema, step, elapsed, recent)
                log_validation(recipe, parameters, ema, folder, step, elapsed, config.batch_size)
        recipe.observe(step, folder, accelerator.is_main_process)
    bar.close()
    mean = sum(recent) / max(1, len(recent))
    summary = {"steps": step, "samples": step * config.batch_size, "seconds": elapsed, "loss": mean}
    if progress() < 1:
        return summary
    if ema is not None:
        ema.copy_to(parameters)
    if sharded:
        sharding.gather(recipe)
    if accelerator.is_main_process:
        append_log(folder / LOG, rows)
        recipe.eval()
        recipe.save(folder)
        remove_state(folder)
    accelerator.wait_for_everyone()
    return summary


def log_validation(recipe, parameters, ema, folder: Path, step: int, elapsed: float, batch_size: int) -> None:
    """Adds the losses on held-out samples, of the averaged weights, to ``validation.csv``."""
    if ema is not None:
        ema.store(parameters)
        ema.copy_to(parameters)
    recipe.eval()
    with torch.no_grad():
        losses = recipe.validation()
    recipe.train()
    if ema is not None:
        ema.restore(parameters)
    if losses:
        row = {"step": step, "seconds": round(elapsed, 2), "samples": step * batch_size, **losses}
        append_log(folder / VALIDATION, [row])


def has_state(folder: Path) -> bool:
    """Whether a run in this folder was not finished."""
    return (folder / STATE).exists() or bool(sharding.sharded_states(folder))


def remove_state(folder: Path) -> None:
    """Removes the state of an unfinished run, of either kind."""
    (folder / STATE).unlink(missing_ok=True)
    for path in [*sharding.sharded_states(folder), *sharding.half_written(folder)]:
        shutil.rmtree(path)


def progress_of(settings, step, elapsed, recent) -> dict[str, Any]:
    """What a resume needs beside the tensors."""
    return {"step": step, "elapsed": elapsed, "recent": recent, "config": settings}


def state_tensors(parameters, optimizers, ema) -> dict[str, Tensor]:
    """What a resume needs: parameters, moving average if there is one, optimiser moments."""
    tensors: dict[str, Tensor] = {}
    for i, parameter in enumerate(parameters):
        tensors[f"parameter/{i}"] = parameter.detach().contiguous()
        if ema is not None:
            tensors[f"ema/{i}"] = ema.shadow_params[i].contiguous()
        for optimizer in optimizers:
            for key, value in optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer/{i}/{key}"] = value.contiguous()
    return tensors


def save_state(folder, settings, parameters, optimizers, ema, step, elapsed, recent) -> None:
    """One file with everything a resume needs: parameters, optimiser moments, moving average, step and time."""
    progress = progress_of(settings, step, elapsed, recent)
    part = folder / (STATE + ".part")
    save_file(state_tensors(parameters, optimizers, ema), part, metadata={"progress": json.dumps(progress)})
    os.replace(part, folder / STATE)


REMEDY = "finish it with the same settings, start with --fresh, or choose another folder"


def check_settings(folder: Path, found: dict[str, Any], settings: dict[str, Any]) -> None:
    """InputError, with what differs, where an unfinished run is of other settings; its plan may have changed."""
    keys = sorted((settings.keys() | found.keys()) - set(PLAN))
    ours, theirs = ({k: s.get(k) for k in keys} for s in (settings, found))
    if changed := [k for k in keys if ours[k] != theirs[k]]:
        raise InputError(
            f"expected an unfinished run with { ({k: ours[k] for k in changed}) } in {folder}, "
            f"got one with { ({k: theirs[k] for k in changed}) }: {REMEDY}"
        )


def owner_of(parameter: Tensor, optimizers) -> torch.optim.Optimizer:
    """The optimiser that a parameter belongs to."""
    return next(o for o in optimizers for g in o.param_groups if any(p is parameter for p in g["params"]))


def load_sharded_state(folder, settings, parameters, optimizers, ema) -> tuple[int, float, list[float]]:
    """Restores what :func:`~lorweb_mini.training.sharding.save_sharded` wrote, on any number of processes."""
    if not (states := sharding.sharded_states(folder)):
        raise InputError(f"expected the state of a run with FSDP in {folder}, got that of one without: {REMEDY}")
    progress = sharding.read_progress(states[-1])
    check_settings(folder, progress["config"], settings)
    for parameter in parameters:  # torch loads into what is there
        moments = {k: torch.zeros_like(parameter) for k in ("exp_avg", "exp_avg_sq")}
        owner_of(parameter, optimizers).state[parameter] = {"step": torch.zeros((), device=parameter.device), **moments}
    sharding.load_sharded(states[-1], state_tensors(parameters, optimizers, ema))
    if ema is not None:
        ema.optimization_step = progress["step"]
    return progress["step"], progress["elapsed"], progress["recent"]


def read_progress(folder: Path) -> dict[str, Any]:
    """Step, seconds, last losses and settings of an unfinished run; InputError for a damaged state file."""
    try:
        with safe_open(folder / STATE, "pt") as file:
            return json.loads(file.metadata()["progress"])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"expected the state of an unfinished run, got a damaged file: {folder / STATE} ({error})"
        ) from None


def load_state(folder, settings, parameters, optimizers, ema) -> tuple[int, float, list[float]]:
    """Restores what :func:`save_state` wrote."""
    if not (folder / STATE).exists():
        raise InputError(f"expected the state of a run without FSDP in {folder}, got that of one with: {REMEDY}")
    progress = read_progress(folder)
    with safe_open(folder / STATE, "pt") as file:
        check_settings(folder, progress["config"], settings)
        stored = [k for k in file.keys() if k.startswith("parameter/")]
        found = [file.get_slice(f"parameter/{i}").get_shape() for i in range(len(stored))]
        expected = [list(p.shape) for p in parameters]
        if found != expected:
            raise InputError(
                f"expected an unfinished run of {len(expected)} parameter tensors of this model's shapes "
                f"in {folder}, got {len(found)} of others: {REMEDY}"
            )
        for i, parameter in enumerate(parameters):
            parameter.data.copy_(file.get_tensor(f"parameter/{i}"))
            if ema is not None:
                ema.shadow_params[i].copy_(file.get_tensor(f"ema/{i}"))
            moments = [k for k in file.keys() if k.startswith(f"optimizer/{i}/")]
            owner_of(parameter, optimizers).state[parameter] = {
                k.rsplit("/", 1)[1]: file.get_tensor(k) for k in moments
            }
    if ema is not None:
        ema.optimization_step = progress["step"]
    return progress["step"], progress["elapsed"], progress["recent"]


def append_log(path: Path, rows: list[dict[str, float]]) -> None:
    """Appends rows to the CSV log, with a heading when the file is new."""
    if not rows:
        return
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        if new:
            writer.writeheader()
        writer.writerows(rows)


def cut_log(path: Path, step: int) -> None:
    """Drops the rows after a step, which a resumed run writes again, and a last row that a kill cut short."""
    if not path.exists():
        return
    whole = [row for row in path.read_bytes().splitlines(keepends=True) if row.endswith(b"\n")]
    kept = whole[:1] + [row for row in whole[1:] if int(row.split(b",")[0]) <= step]
    if kept:
        write_atomically(path, b"".join(kept))
    else:
        path.unlink()


def read_log(path: str | Path) -> list[dict[str, float]]:
    """Reads a training log: one dictionary a logged step, all values numbers. Blank lines are skipped.

    Raises:
        InputError: no such file, or one that a spreadsheet has saved in its own way.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"expected the log of a training, found none at {path}")
    rows = csv.DictReader(read_text(path).splitlines())
    try:
        return [{k: float(v) for k, v in row.items()} for row in rows if any(row.values())]
    except (TypeError, ValueError) as error:
        raise InputError(f"expected a log of comma-separated numbers in {path}, got another file: {error}") from None
