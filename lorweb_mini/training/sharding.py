"""Training on several processes with torch's FSDP2: sharding, checkpoints, and gathering whole tensors.

Every sharded parameter is a DTensor: each process holds a slice of it, and a block's parameters are whole only while
the block computes. A recipe names its units (blocks, then what holds them); accelerate's configuration says whether
they are sharded (``accelerate launch --config_file`` with :file:`fsdp.yaml`). ``Accelerator.prepare`` is not used for
it: it needs a GPU, and makes the optimiser first.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from ..errors import InputError

PROGRESS = "progress.json"


def asked() -> bool:
    """Whether accelerate's launcher asks for FSDP."""
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def wanted() -> bool:
    """Whether it asks and the processes have met, as they have once there is an ``Accelerator``."""
    return asked() and dist.is_initialized()


def shard(units: Iterable[nn.Module], device: torch.device) -> None:
    """Spreads the parameters of each module, inner ones before those that hold them, over all processes in place."""
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for unit in units:
        fully_shard(unit, mesh=mesh)


def is_sharded(parameters: Iterable[Tensor]) -> bool:
    """Whether any of them is spread over processes."""
    return any(isinstance(p, DTensor) for p in parameters)


def gather(module: nn.Module) -> None:
    """Makes every trainable parameter whole again in each process; the module computes no more after it.

    All processes must call it together.
    """
    for inner in module.modules():
        for name, parameter in list(inner._parameters.items()):
            if isinstance(parameter, DTensor) and parameter.requires_grad:
                inner._parameters[name] = nn.Parameter(parameter.full_tensor())


def save_sharded(folder: Path, tensors: dict[str, Tensor], progress: dict[str, Any]) -> None:
    """Writes ``state-<step>/``, each process its own slices, and then removes older ones; all must call it together.

    The folder gets its name once it is whole, so that a kill leaves the old state or the new one.
    """
    target = folder / f"state-{progress['step']:08d}"
    part = target.with_name(target.name + ".part")
    main = dist.get_rank() == 0
    if main:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        (part / PROGRESS).write_text(json.dumps(progress), encoding="utf-8")
    dist.barrier()
    dcp.save(tensors, checkpoint_id=part)
    dist.barrier()
    if main:
        os.replace(part, target)
        for old in sharded_states(folder)[:-1]:
            shutil.rmtree(old)
    dist.barrier()


def sharded_states(folder: Path) -> list[Path]:
    """Whole states in a folder, the newest last: names that :func:`save_sharded` writes, and no other."""
    return sorted(x for x in folder.glob("state-*") if re.fullmatch(r"state-\d{8,}", x.name) and x.is_dir())


def half_written(folder: Path) -> list[Path]:
    """Folders that a killed :func:`save_sharded` left behind."""
    return [x for x in folder.glob("state-*.part") if re.fullmatch(r"state-\d{8,}\.part", x.name) and x.is_dir()]


def read_progress(state: Path) -> dict[str, Any]:
    """What :func:`save_sharded` was given beside the tensors; InputError where it is damaged."""
    try:
        progress: dict[str, Any] = json.loads((state / PROGRESS).read_text(encoding="utf-8"))
        return progress
    except (OSError, ValueError) as error:
        raise InputError(f"expected the state of an unfinished run, got a damaged one: {state} ({error})") from None


def load_sharded(state: Path, tensors: dict[str, Tensor]) -> None:
    """Fills tensors in place; they may be sharded over another number of processes than those that wrote them."""
    try:
        dcp.load(tensors, checkpoint_id=state)
    except Exception as error:  # torch wraps whatever went wrong, in any process, in a kind of its own
        detail = " ".join(str(error).split())[:300]
        raise InputError(f"expected the state of an unfinished run of this model, got {state}: {detail}") from None
