"""Training on several processes with torch's FSDP2: sharding, and gathering whole tensors.

Every sharded parameter is a DTensor: each process holds a slice of it, and a block's parameters are whole only while
the block computes. A recipe names its units (blocks, then what holds them); accelerate's configuration says whether
they are sharded (``accelerate launch --config_file`` with :file:`fsdp.yaml`). ``Accelerator.prepare`` is not used for
it: it needs a GPU, and makes the optimiser first.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor


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


def gather(module: nn.Module) -> None:
    """Makes every trainable parameter whole again in each process; the module computes no more after it.

    All processes must call it together.
    """
    for inner in module.modules():
        for name, parameter in list(inner._parameters.items()):
            if isinstance(parameter, DTensor) and parameter.requires_grad:
                inner._parameters[name] = nn.Parameter(parameter.full_tensor())
