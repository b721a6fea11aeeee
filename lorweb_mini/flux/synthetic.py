"""A checkpoint in the released layout with random values, of any size, written without ever being held in memory.

The released file cannot be part of this repository; everything that reads it reads this one, too.
"""

from __future__ import annotations

import json
import struct
from math import prod
from pathlib import Path

import torch

from .checkpoint import KEYS, PAPER, Modules, ReleasedConfig, ReleasedFile, kontext_modules, released_shapes

SCALE = 0.02
POOL = 1 << 22  # more than the largest tensor of FLUX has


def write_random(
    path: str | Path, config: ReleasedConfig = PAPER, modules: Modules | None = None, seed: int = 0
) -> ReleasedFile:
    """Writes and opens a checkpoint of random half-precision values.

    A tensor is a stretch of one pool of four million normal numbers of deviation 0.02, from a random place on; keys are
    a stretch of another of deviation 1. The adapted Linears are FLUX.1-Kontext's own by default.
    """
    path, modules = Path(path), kontext_modules() if modules is None else modules
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(POOL, generator=generator)
    small, large = ((scale * normal).half().numpy().tobytes() for scale in (SCALE, 1.0))
    header, end = {}, 0
    for name, shape in (shapes := released_shapes(config, modules)).items():
        start, end = end, end + 2 * prod(shape)
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        # safetensors: the length of the header, the header, then the bytes of one tensor after the other.
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in shapes.items():
            pool = large if name.endswith(f".{KEYS}") else small
            left, place = 2 * prod(shape), 2 * int(torch.randint(POOL, (), generator=generator))
            while left:
                left -= file.write(pool[place : place + left])
                place = 0
    return ReleasedFile(path, config, modules)
