"""Concepts: the classes that must not be torn apart by a split.

All tones, genders and mirrored versions of one thing are one concept, and so are code points that a style
draws alike: otherwise a held-out picture would have a twin in training.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np
from scipy.spatial.distance import cdist

from .sources import STYLES, TONES

PERSON = {"1f468": "1f9d1", "1f469": "1f9d1"}
SAME = {
    **PERSON,
    **dict.fromkeys(("1f466", "1f467"), "1f9d2"),
    **dict.fromkeys(("1f474", "1f475"), "1f9d3"),
    **dict.fromkeys(("1f934", "1f478"), "1fac5"),
}
# Spelled in one code point, or as a sequence of two people.
ALIASES = {
    "1f385": "1f9d1-200d-1f384",
    "1f936": "1f9d1-200d-1f384",
    "1f46b": "1f46b",
    "1f46c": "1f46b",
    "1f46d": "1f46b",
    "1f9d1-200d-1f91d-200d-1f9d1": "1f46b",
    "1f9d1-200d-2764-200d-1f48b-200d-1f9d1": "1f48f",
    "1f9d1-200d-2764-200d-1f9d1": "1f491",
    "1f9d1-200d-1f430-200d-1f9d1": "1f46f",
    "1f9d1-200d-1faef-200d-1f9d1": "1f93c",
    "1faf1-200d-1faf2": "1f91d",
}
FAMILY = re.compile(r"1f9d1(-200d-1f9d[12])+")

NEAR = 1 / 255
MIN_INK = 0.02


def canonical(key: str) -> str:
    """A key without tones, gender signs and the arrow that turns it right, with people as neutral adults."""
    bare = "-".join(part for part in key.split("-") if part not in TONES)
    bare = re.sub(r"-200d-(2640|2642|27a1)(?=-|$)", "", bare)
    bare = "-".join(SAME.get(part, part) for part in bare.split("-"))
    return "1f46a" if FAMILY.fullmatch(bare) else ALIASES.get(bare, bare)


def concepts_of(
    keys: list[str], related: Iterable[tuple[str, str]], alike: Iterable[tuple[str, str]]
) -> dict[str, str]:
    """Concept of every key by union-find over equal canonical forms, related and alike pairs.

    A concept is named by its first key in the order of `keys` that has neither tone nor gender.
    """
    parent = {key: key for key in keys}
    rank = {key: (canonical(key) != key, position) for position, key in enumerate(keys)}

    def root(key: str) -> str:
        while parent[key] != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    def union(one: str, other: str) -> None:
        low, high = sorted((root(one), root(other)), key=rank.__getitem__)
        parent[high] = low

    first: dict[str, str] = {}
    for key in keys:
        union(first.setdefault(canonical(key), key), key)
    for one, other in (*related, *alike):
        union(one, other)
    return {key: root(key) for key in keys}


def lookalikes(keys: list[str], pictures: np.ndarray, present: np.ndarray) -> list[tuple[str, str, int]]:
    """Pairs of keys that a style draws (nearly) alike, with the style's position.

    Alike: mean absolute difference on white below 1/255 of the range, both with over 2 % of their pixels not
    white. `pictures` is uint8 [n, 6, 64, 64, 3] on white. OpenMoji black is left out: without colour all hearts
    and most flags are alike, and nothing would be left to split.
    """
    alike = []
    for style in range(pictures.shape[1]):
        if STYLES[style] == "openmoji_black":
            continue
        rows = np.flatnonzero(present[:, style])
        drawn = pictures[rows, style]
        ink = (drawn.min(-1) < 250).mean((1, 2))
        rows, drawn = rows[ink > MIN_INK], drawn[ink > MIN_INK]
        # The difference of block means never exceeds the mean difference, so it rules nearly all pairs out.
        blocks = drawn.reshape(len(rows), 8, 8, 8, 8, 3).mean((2, 4), dtype=np.float32).reshape(len(rows), -1)
        close = np.argwhere(np.triu(cdist(blocks, blocks, "cityblock") / blocks.shape[1] < 255 * NEAR, 1))
        for i, j in close:
            if np.abs(drawn[i].astype(np.int16) - drawn[j]).mean() < 255 * NEAR:
                alike.append((keys[rows[i]], keys[rows[j]], style))
    return alike
