"""The state of an unfinished training on disk: one file, or with FSDP a folder with every process's slices."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from diffusers.training_utils import EMAModel
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import InputError, one_line

STATE = "state.safetensors"
PART = STATE + ".part"
PROGRESS = "progress.json"
# Settings that an unfinished run may change.
PLAN = ("steps", "samples", "minutes", "decay_samples", "checkpoint_minutes", "log_every", "precision")
REMEDY = "finish it with the same settings, start with --fresh, or choose another folder"


@dataclass
class TrainingState:
    """All that a resume needs: weights, optimiser moments, moving average, step, time and the last losses.

    Attributes:
        settings: configuration of run and recipe, as JSON.
        sharded: the parameters are spread over processes by FSDP.
        elapsed: seconds of training so far.
        recent: losses of the last hundred steps.
    """

    parameters: list[Tensor]
    optimizers: list[torch.optim.Optimizer]
    ema: EMAModel | None
    settings: dict[str, Any]
    sharded: bool = False
    step: int = 0
    elapsed: float = 0.0
    recent: list[float] = field(default_factory=list)

    def tensors(self) -> dict[str, Tensor]:
        """Parameters, moving average and moments by name."""
        tensors: dict[str, Tensor] = {}
        for i, parameter in enumerate(self.parameters):
            tensors[f"parameter/{i}"] = parameter.detach().contiguous()
            if self.ema is not None:
                tensors[f"ema/{i}"] = self.ema.shadow_params[i].contiguous()
            for optimizer in self.optimizers:
                for key, value in optimizer.state.get(parameter, {}).items():
                    tensors[f"optimizer/{i}/{key}"] = value.contiguous()
        return tensors

    def path(self, folder: Path) -> Path:
        """Where :meth:`save` writes."""
        return folder / (f"state-{self.step:08d}" if self.sharded else STATE)

    def save(self, folder: Path, is_main: bool) -> None:
        """Replaces the folder's state whole or not at all; with FSDP all processes call it together."""
        progress = {"step": self.step, "elapsed": self.elapsed, "recent": self.recent, "config": self.settings}
        if self.sharded:
            self._save_sharded(folder, progress)
        elif is_main:
            # Not whole_file: after a kill its parts, each of another process, would add up.
            part = folder / PART
            try:
                save_file(self.tensors(), part, metadata={"progress": json.dumps(progress)})
                os.replace(part, self.path(folder))
            finally:
                part.unlink(missing_ok=True)  # on a full disk

    def _save_sharded(self, folder: Path, progress: dict[str, Any]) -> None:
        """The folder gets its name once it is whole, so that a kill leaves the old state or the new one."""
        target = self.path(folder)
        part = target.with_name(target.name + ".part")
        main = dist.get_rank() == 0
        if main:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            (part / PROGRESS).write_text(json.dumps(progress), encoding="utf-8")
        dist.barrier()
        dcp.save(self.tensors(), checkpoint_id=part)
        dist.barrier()
        if main:
            os.replace(part, target)
            remove_state(folder, kept=target)
        dist.barrier()

    def load(self, folder: Path) -> dict[str, Any]:
        """Restores what :meth:`save` wrote, with FSDP on any number of processes; the settings it was written with.

        InputError where the state is damaged, or of other settings, another model, or the other kind.
        """
        states = sharded_states(folder)
        if not (states if self.sharded else (folder / STATE).exists()):
            expected, got = ("with", "without") if self.sharded else ("without", "with")
            said = f"expected the state of a run {expected} FSDP in {folder}, got that of one {got} it: {REMEDY}"
            raise InputError(said)
        progress = read_progress(states[-1] / PROGRESS if self.sharded else folder / STATE)
        check_settings(self.settings, progress["config"], folder)
        if self.sharded:
            self._fill_sharded(states[-1])
        else:
            self._fill(folder)
        self.step, self.elapsed, self.recent = progress["step"], progress["elapsed"], progress["recent"]
        if self.ema is not None:
            self.ema.optimization_step = self.step
        return progress["config"]

    def _owner(self, parameter: Tensor) -> torch.optim.Optimizer:
        return next(o for o in self.optimizers for g in o.param_groups if any(p is parameter for p in g["params"]))

    def _fill(self, folder: Path) -> None:
        with safe_open(folder / STATE, "pt") as file:
            names = set(file.keys())
            found = {k: file.get_slice(k).get_shape() for k in names if k.startswith("parameter/")}
            expected = {f"parameter/{i}": list(p.shape) for i, p in enumerate(self.parameters)}
            if found != expected:
                raise InputError(
                    f"expected an unfinished run of {len(expected)} parameter tensors of this model's shapes "
                    f"in {folder}, got {len(found)} of others: {REMEDY}"
                )
            for i, parameter in enumerate(self.parameters):
                parameter.data.copy_(file.get_tensor(f"parameter/{i}"))
                if self.ema is not None:
                    self.ema.shadow_params[i].copy_(file.get_tensor(f"ema/{i}"))
                moments = [k for k in names if k.startswith(f"optimizer/{i}/")]
                self._owner(parameter).state[parameter] = {k.rsplit("/", 1)[1]: file.get_tensor(k) for k in moments}

    def _fill_sharded(self, state: Path) -> None:
        for parameter in self.parameters:  # torch loads into what is there
            moments = {k: torch.zeros_like(parameter) for k in ("exp_avg", "exp_avg_sq")}
            step = torch.zeros((), device=parameter.device)
            self._owner(parameter).state[parameter] = {"step": step, **moments}
        try:
            dcp.load(self.tensors(), checkpoint_id=state)
        except Exception as error:  # torch wraps whatever went wrong, in any process, in a kind of its own
            said = f"expected the state of an unfinished run of this model, got {state}: {one_line(error)}"
            raise InputError(said) from None


def check_settings(settings: Mapping[str, Any], found: Mapping[str, Any], folder: Path) -> None:
    """InputError where an unfinished run in a folder has other settings than these; the plan may be another."""
    keys = sorted((settings.keys() | found.keys()) - set(PLAN))
    ours, theirs = ({k: s.get(k) for k in keys} for s in (json.loads(json.dumps(settings)), found))  # as they are kept
    if changed := [k for k in keys if ours[k] != theirs[k]]:
        raise InputError(
            f"expected an unfinished run with { ({k: ours[k] for k in changed}) } in {folder}, "
            f"got one with { ({k: theirs[k] for k in changed}) }: {REMEDY}"
        )


def sharded_states(folder: Path, name: str = r"state-\d{8,}") -> list[Path]:
    """Whole states with FSDP in a folder, the newest last: names that the trainer writes, and no other."""
    return sorted(x for x in folder.glob("state-*") if re.fullmatch(name, x.name) and x.is_dir())


def has_state(folder: Path) -> bool:
    """Whether a run in this folder was not finished."""
    return (folder / STATE).exists() or bool(sharded_states(folder))


def remove_state(folder: Path, kept: Path | None = None) -> None:
    """Removes the states of unfinished runs, of either kind, and what a killed write left behind, but for one."""
    for path in (folder / STATE, folder / PART):
        if path != kept:
            path.unlink(missing_ok=True)
    for path in sharded_states(folder, r"state-\d{8,}(\.part)?"):
        if path != kept:
            shutil.rmtree(path)


def read_progress(path: Path) -> dict[str, Any]:
    """Step, seconds, last losses and settings of an unfinished run, from its state file or, with FSDP, its JSON file.

    InputError for a damaged file.
    """
    try:
        if path.suffix == ".json":
            text = path.read_text(encoding="utf-8")
        else:
            with safe_open(path, "pt") as file:
                text = file.metadata()["progress"]
        progress = json.loads(text)
        # Each is looked at, so that none is missing.
        return {name: progress[name] for name in ("step", "elapsed", "recent", "config")}
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"expected the state of an unfinished run, got a damaged file: {path} ({error})") from None
