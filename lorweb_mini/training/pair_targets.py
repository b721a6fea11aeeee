"""What the encoder of the pair is taught of a chain of edits: which kinds it has, in which order, how strong."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..emoji.distributions import CIRCULAR, LONGEST, Chains
from ..emoji.edits import EDITS


def strength_places(kinds: tuple[str, ...]) -> dict[str, slice]:
    """Where each kind's numbers stand in a vector of all strengths; an angle takes two, its cosine and sine."""
    found, start = {}, 0
    for kind in kinds:
        if EDITS[kind].range == (1, 1):
            continue
        count = EDITS[kind].parameters * (2 if kind in CIRCULAR else 1)
        found[kind] = slice(start, start + count)
        start += count
    return found


def strength_count(kinds: tuple[str, ...]) -> int:
    """How many numbers all strengths take together."""
    return max(place.stop for place in strength_places(kinds).values())


def scaled_strength(kind: str, strength: Tensor) -> Tensor:
    """Strengths [B, P] as numbers of size about 1: angles as cosine and sine, others from -1 to 1 over the range."""
    if kind in CIRCULAR:
        angle = torch.deg2rad(strength)
        return torch.stack([angle.cos(), angle.sin()], -1).flatten(1)
    low, high = EDITS[kind].range
    return 2 * (strength - low) / (high - low) - 1


def pair_targets(kinds: tuple[str, ...], chains: Chains) -> dict[str, Tensor]:
    """What a chain teaches: ``present`` [B, K] 0 or 1, ``order`` [B, K] its place or -1, ``strength`` and its mask."""
    size, places = len(chains), strength_places(kinds)
    present = torch.zeros(size, len(kinds))
    order = torch.full((size, len(kinds)), -1)
    strength = torch.zeros(size, strength_count(kinds))
    mask = torch.zeros_like(strength)
    for place in range(LONGEST):
        for index, kind in enumerate(kinds):
            rows = torch.from_numpy(np.flatnonzero(chains.kinds[:, place] == kind))
            if not len(rows):
                continue
            present[rows, index] = 1
            order[rows, index] = place
            if kind in places:
                where = places[kind]
                strength[rows, where] = scaled_strength(kind, chains.strengths[rows, place, : EDITS[kind].parameters])
                mask[rows, where] = 1
    return {"present": present, "order": order, "strength": strength, "mask": mask}
