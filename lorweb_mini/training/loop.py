"""One training loop for every part: accelerate for processes, EMA from diffusers, resume that loses nothing.

A *recipe* is a module that draws its own batches and computes its own loss. All randomness of step s comes from
``(seed, s)`` alone, never from a running generator, so a run that is killed and resumed draws exactly what an
uninterrupted run draws, and k processes together draw exactly the batch that one process would.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from diffusers.training_utils import EMAModel
from filelock import FileLock, Timeout
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from ..errors import InputError, whole_number
from ..files import as_path, writable_folder, write_atomically
from . import sharding
from .config import TrainingConfig, autocasts, learning_rate_factor, optimizers_of
from .log import LOG, VALIDATION, append_log, cut_log
from .state import TrainingState, has_state, remove_state

LOCK, LOGS = "training.lock", (LOG, VALIDATION)


class Recipe(nn.Module):
    """What the loop needs to know of a model in training.

    Attributes:
        accumulate: forward passes that share a step's batch equally, for less memory at once.
        began_with: fingerprint of the finished weights that the training started from; empty without any.
    """

    accumulate = 1
    began_with = ""

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Groups of trainable parameters; ``scale`` (default 1) multiplies the learning rate of a group."""
        return [{"params": [p for p in self.parameters() if p.requires_grad]}]

    def batch(self, rng: np.random.Generator, size: int) -> dict[str, Tensor]:
        """Draws ``size`` samples; every tensor has the sample on its first axis.

        Runs in a thread of its own while a step is computed, so it reads nothing that a step changes.
        """
        raise NotImplementedError

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Returns ``loss`` (a scalar) and any further scalars for the log."""
        raise NotImplementedError

    def configuration(self) -> dict[str, Any]:
        """What is trained, as JSON; a killed run resumes only where this is the same."""
        return {}

    def settings(self) -> dict[str, Any]:
        """The configuration, and which weights the training began with where it began with some."""
        return self.configuration() | ({"from_weights": self.began_with} if self.began_with else {})

    def shard_units(self) -> list[nn.Module]:
        """What FSDP gathers and lets go together: inner modules before those that hold them."""
        return [self]

    def place(self, device: torch.device) -> None:
        """Moves what draws batches and what stays frozen to the device of the training."""

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


def without_cudnn_attention(device: torch.device) -> None:
    """Leaves attention to torch's other kernels: cuDNN's failed in the backward pass of 33 tokens (2.11, H100)."""
    if device.type == "cuda":
        torch.backends.cuda.enable_cudnn_sdp(False)


def _batch_of(recipe: Recipe, config: TrainingConfig, step: int) -> dict[str, Tensor]:
    return recipe.batch(np.random.default_rng([config.seed, step]), config.batch_size)


def _batches(recipe: Recipe, config: TrainingConfig, step: int, device: torch.device) -> Iterator[dict[str, Tensor]]:
    """The batches from a step on, each drawn while the one before it is computed."""
    # On a GPU the thread has a stream of its own, so that it does not wait for the step.
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def draw(at: int) -> dict[str, Tensor]:
        with torch.cuda.stream(stream):
            batch = _batch_of(recipe, config, at)
        if stream is not None:
            stream.synchronize()
        return batch

    with ThreadPoolExecutor(1) as thread:
        upcoming = thread.submit(draw, step)
        while True:
            batch = upcoming.result()
            step += 1
            upcoming = thread.submit(draw, step)
            if stream is not None:
                for x in (x for x in batch.values() if x.is_cuda):
                    x.record_stream(torch.cuda.current_stream(device))
            yield batch


class _Batches(Dataset):
    """The batch of each step, for the processes of a DataLoader, which make a recipe each and keep the order."""

    def __init__(self, make: Callable[[], Recipe], config: TrainingConfig, device: torch.device) -> None:
        self.make, self.config, self.device = make, config, device

    @cached_property
    def recipe(self) -> Recipe:
        recipe = self.make()
        recipe.place(self.device)
        return recipe

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        return {k: v.cpu() for k, v in _batch_of(self.recipe, self.config, step).items()}


def train(
    recipe: Recipe,
    config: TrainingConfig,
    folder: str | Path,
    fresh: bool = False,
    num_workers: int = 0,
    make: Callable[[], Recipe] | None = None,
    replace: bool = True,
) -> dict[str, float]:
    """Trains a recipe, or goes on where a killed run of the same configuration stopped.

    Args:
        folder: receives ``log.csv``, ``training.json``, ``state.safetensors`` while running (with FSDP a folder
            ``state-<step>`` with every process's part), and the recipe's weights at the end.
        fresh: throw an unfinished run in this folder away instead of resuming it. What an earlier training left stays
            until the first checkpoint, so that a kill before it costs nothing.
        num_workers: processes that draw batches, the same up to rounding, where a GPU computes steps faster than one
            process draws them; 0 draws them in a thread.
        make: gives a recipe that draws the same batches in each of these processes; picklable.
        replace: finished weights in the folder may be trained over; False needs ``fresh`` for it.

    Returns:
        steps, samples, seconds and the mean loss over the last hundred steps.

    Raises:
        InputError: another training is at work in the folder, it holds an unfinished run of another configuration or
            finished weights that may not be replaced, its state file is damaged, or the plan is over before that of the
            unfinished run would be.
        FloatingPointError: the loss is NaN or infinite, or the weights at the end are.
    """
    if whole_number(num_workers, "num_workers", least=0) and make is None:
        raise InputError("expected what makes the recipe in each of the processes that draw batches, got none")
    with _alone_in(as_path(folder)):
        check_folder(folder, replace or fresh)
        run = _Run(recipe, config, Path(folder), fresh)
        drawn: Any
        if not num_workers or make is None:
            drawn = _batches(recipe, config, run.state.step, run.device)
            end = drawn.close
        else:
            processes: dict[str, Any] = {"num_workers": num_workers, "multiprocessing_context": "spawn"}
            steps: Any = itertools.count(run.state.step)
            drawn = iter(DataLoader(_Batches(make, config, run.device), batch_size=None, sampler=steps, **processes))
            end = drawn._shutdown_workers  # torch has no public name for it
        try:
            run.to_the_end(drawn)
        finally:
            end()  # else what draws would live as long as the traceback of an error
        return run.summary()


def check_folder(folder: str | Path, replace: bool = False) -> None:
    """InputError for a file, or, unless they may be replaced, finished weights: a typing slip would cost a training."""
    made = writable_folder(as_path(folder))
    if not replace and not has_state(made) and any(made.glob("*.safetensors")):
        raise InputError(f"expected a folder without finished weights, got {folder}: choose another, or train --fresh")


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """InputError where another training is at work in a folder: each would write over state and log of the other."""
    # The system lets go of it when its process ends, however it ends.
    lock = FileLock(writable_folder(folder) / LOCK, timeout=0)
    try:
        if os.environ.get("RANK", "0") == "0":  # the first of the processes of one training
            lock.acquire()
    except Timeout:
        raise InputError(f"expected a folder in which no other training is at work, got {folder}") from None
    try:
        yield
    finally:
        lock.release()


def write_configuration(folder: Path, config: TrainingConfig) -> None:
    """Writes ``training.json``; not before there is a state, or weights of an earlier training would pass for these."""
    write_atomically(folder / "training.json", json.dumps(asdict(config), indent=1).encode())


class _Run:
    """One call of :func:`train`."""

    def __init__(self, recipe: Recipe, config: TrainingConfig, folder: Path, fresh: bool) -> None:
        self.recipe, self.config, self.folder = recipe, config, folder
        self.accelerator = Accelerator(cpu=not torch.cuda.is_available())
        self.device, self.is_main = self.accelerator.device, self.accelerator.is_main_process
        self.world = self.accelerator.num_processes
        self.bf16 = autocasts(config.precision, self.device)
        share, remainder = divmod(config.batch_size, self.world)
        if remainder:
            raise InputError(f"expected a batch size divisible by the {self.world} processes, got {config.batch_size}")
        if share % recipe.accumulate:
            raise InputError(f"expected {recipe.accumulate} equal parts of the {share} samples a process, got others")
        recipe.place(self.device)
        first = self.accelerator.process_index * share
        self.mine, self.part = slice(first, first + share), share // recipe.accumulate
        if sharded := sharding.wanted():
            sharding.shard(recipe.shard_units(), self.device)
        groups = [{"scale": 1.0, **g, "params": list(g["params"])} for g in recipe.parameter_groups()]
        parameters = [p for g in groups for p in g["params"]]
        ema = None
        if config.ema_decay is not None:
            # torch's joint copy knows no sharded tensors.
            ema = EMAModel(parameters, decay=config.ema_decay, use_ema_warmup=True, power=2 / 3, foreach=not sharded)
        settings = json.loads(json.dumps({**asdict(config), **recipe.settings()}))
        self.state = TrainingState(parameters, optimizers_of(config, groups), ema, settings, sharded)
        self._start(fresh)
        self.model: nn.Module = recipe
        if not sharded:
            self.model, *self.state.optimizers = self.accelerator.prepare(recipe, *self.state.optimizers)
        if ema is not None:
            ema.to(self.device)
        self.rows: list[dict[str, float]] = []
        self.before = self.saved = self.state.elapsed
        self.started = 0.0

    def _start(self, fresh: bool) -> None:
        """Restores an unfinished run, or leaves the folder as it is until there is something to put in its place."""
        self.new = fresh or not has_state(self.folder)
        if not self.new:
            self._check_plan(self.state.load(self.folder))
            if self.is_main:
                for name in LOGS:
                    cut_log(self.folder / name, self.state.step)

    def _check_plan(self, found: dict[str, Any]) -> None:
        """InputError where another plan is over already: a typing slip would end a run before its rate has fallen."""
        plans = [{k: s.get(k) for k in ("steps", "samples", "minutes")} for s in (self.state.settings, found)]
        if self.progress >= 1 and plans[0] != plans[1]:
            done = f"{self.summary()['samples']:,} samples, {self.state.elapsed / 60:.1f} minutes"
            raise InputError(
                f"expected a plan beyond the {done} of the unfinished run in {self.folder}, got {plans[0]}"
            )

    def _write(self, save: Callable[[], None], kept: Path | None = None) -> None:
        """Saves state or weights, and appends the rows since the last checkpoint to the log.

        Of a run that goes on, first the rows: a resume cuts those beyond its state. Of a new one, first what is saved:
        where this fails, as on a full disk, what an earlier training left is still there; then all of it goes.
        """
        if not self.new and self.is_main:
            append_log(self.folder / LOG, self.rows)
        save()
        if self.new and self.is_main:
            for name in LOGS:
                (self.folder / name).unlink(missing_ok=True)
            remove_state(self.folder, kept)
            append_log(self.folder / LOG, self.rows)
        self.new, self.rows = False, []

    @property
    def progress(self) -> float:
        if (total := self.config.total_steps) is not None:
            return self.state.step / total
        return self.state.elapsed / (60 * (self.config.minutes or 1))

    @property
    def capped(self) -> bool:
        """The minutes beside samples are over."""
        cap = self.config.minutes if self.config.total_steps is not None else None
        return cap is not None and self.state.elapsed - self.before >= 60 * cap

    def to_the_end(self, drawn: Iterator[dict[str, Tensor]]) -> None:
        state, config = self.state, self.config
        bar = tqdm(
            total=100.0,
            initial=min(100.0, 100 * self.progress),
            disable=not self.is_main,
            bar_format="{l_bar}{bar}| {elapsed}<{remaining} {postfix}",
        )
        self.model.train()
        if self.progress < 1:
            drawn = itertools.chain([next(drawn)], drawn)
        self.started = time.monotonic()  # of a plan in minutes, none goes to what draws before it has begun
        while self.progress < 1 and not self.capped:
            rate = config.learning_rate * learning_rate_factor(config, state.step, self.progress)
            out = self._step(next(drawn), rate)
            self._advance(self.accelerator.gather(out["loss"]).mean().item())
            if state.step % config.log_every == 0 or self.progress >= 1:
                row = {**self._position(), "loss": self.summary()["loss"], "learning_rate": rate}
                self.rows.append({**row, **{k: float(v) for k, v in out.items() if k != "loss"}})
                bar.set_postfix_str(f"loss {row['loss']:.4f}, {row['samples'] / state.elapsed:.0f} samples/s")
            bar.update(min(100.0, 100 * self.progress) - bar.n)
            if state.elapsed - self.saved > 60 * config.checkpoint_minutes or (self.capped and self.progress < 1):
                self._checkpoint()
            self.recipe.observe(state.step, self.folder, self.is_main)
        bar.close()
        if self.progress >= 1:
            self._finish()

    def _step(self, whole: dict[str, Tensor], rate: float) -> dict[str, Tensor]:
        """One step of the optimisers; means of what the recipe's forward pass returned."""
        for group in (g for optimizer in self.state.optimizers for g in optimizer.param_groups):
            group["lr"] = rate * group["scale"]
        mine = {k: v[self.mine].to(self.device) for k, v in whole.items()}
        outs = []
        for i in range(self.recipe.accumulate):
            part = {k: v[i * self.part : (i + 1) * self.part] for k, v in mine.items()}
            last = i + 1 == self.recipe.accumulate
            wait = isinstance(self.model, DistributedDataParallel) and not last
            with self.model.no_sync() if wait else nullcontext():  # type: ignore[operator]
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                    out = self.model(part)
                self.accelerator.backward(out["loss"] / self.recipe.accumulate)
            outs.append({k: v.detach() for k, v in out.items()})
        self.accelerator.clip_grad_norm_(self.state.parameters, self.config.max_grad_norm)
        for optimizer in self.state.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        if self.state.ema is not None:
            self.state.ema.step(self.state.parameters)
        return {k: torch.stack([x[k] for x in outs]).mean(0) for k in outs[0]}

    def _advance(self, loss: float) -> None:
        state = self.state
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss} at step {state.step}: lower the learning rate")
        state.recent = [*state.recent[-99:], loss]
        state.step += 1
        state.elapsed = self.before + time.monotonic() - self.started
        if self.world > 1:  # one clock for all, or one process would leave the loop while another waits for it
            clock = torch.tensor(state.elapsed, dtype=torch.float64, device=self.device)
            state.elapsed = float(broadcast(clock))

    def summary(self) -> dict[str, float]:
        state = self.state
        mean = sum(state.recent) / max(1, len(state.recent))
        samples = state.step * self.config.batch_size
        return {"steps": state.step, "samples": samples, "seconds": state.elapsed, "loss": mean}

    def _position(self) -> dict[str, float]:
        """What a row of either log begins with."""
        summary = self.summary()
        return {"step": summary["steps"], "seconds": round(summary["seconds"], 2), "samples": summary["samples"]}

    def _checkpoint(self) -> None:
        self.saved = self.state.elapsed
        self._write(lambda: self.state.save(self.folder, self.is_main), self.state.path(self.folder))
        if self.is_main:
            write_configuration(self.folder, self.config)
        if self.is_main and not self.state.sharded:
            self._log_validation()

    def _log_validation(self) -> None:
        """Adds the losses on held-out samples, of the averaged weights, to ``validation.csv``."""
        ema, parameters = self.state.ema, self.state.parameters
        if ema is not None:
            ema.store(parameters)
            ema.copy_to(parameters)
        self.recipe.eval()
        with torch.no_grad():
            losses = self.recipe.validation()
        self.recipe.train()
        if ema is not None:
            ema.restore(parameters)
        if losses:
            append_log(self.folder / VALIDATION, [{**self._position(), **losses}])

    def _finish(self) -> None:
        if self.state.ema is not None:
            self.state.ema.copy_to(self.state.parameters)
        if self.state.sharded:
            sharding.gather(self.recipe)
        self.recipe.eval()
        self._write(self._save_weights)
        if self.is_main:
            write_configuration(self.folder, self.config)
            remove_state(self.folder)
        self.accelerator.wait_for_everyone()

    def _save_weights(self) -> None:
        if not self.is_main:
            return
        if not all(torch.isfinite(p).all() for p in self.recipe.parameters()):
            raise FloatingPointError(f"the weights are not finite at step {self.state.step}: lower the learning rate")
        self.recipe.save(self.folder)
