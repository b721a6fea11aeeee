"""Analogies at every level of an ordered set of relations."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import torch

from ..emoji.edits import apply_edit, relation_name
from ..emoji.relations import SPLITS, Analogy, concept_sides, differ, get_relation
from ..emoji.sheets import STYLES, load_emoji
from ..errors import InputError

CANDIDATES = 60  # pairs of a relation that are set side by side


def crossed(relation: str, n: int, seed: int = 0, subgroup: str | None = None) -> list[Analogy]:
    """Up to n test analogies of a relation out of all ways to set two of its pairs side by side.

    ``analogies`` gives each pair once as (b, b'); a relation of few pairs, such as a step of the moon, has many more
    analogies. As there, the two pairs show different concepts, or different pictures where there is one concept only.

    Args:
        subgroup: Unicode subgroup that all four pictures must belong to, for example ``arrow``.

    Raises:
        InputError: unknown relation.
    """
    emojis, source = load_emoji().emojis, get_relation(relation)
    pairs = source.pairs("test")
    if subgroup is not None:
        pairs = pairs[[all(emojis[e].subgroup == subgroup for e in row[[0, 2]]) for row in pairs]]
    rng = np.random.default_rng([seed, zlib.crc32(relation.encode())])
    pairs = rng.permutation(pairs)[:CANDIDATES]
    if len(pairs) == 0 or n == 0:
        return []
    first, second = source.pictures(pairs)
    visible = differ(first, second).numpy()
    pairs, first, second = pairs[visible], first[visible], second[visible]
    concepts = np.array([[emojis[e].concept for e in row[[0, 2]]] for row in pairs]).reshape(-1, 2)
    apart = (concepts[:, None] != concepts).all(-1)
    if not apart.any():
        apart = (pairs[:, None, [0, 2]] != pairs[:, [0, 2]]).all(-1)
    items = []
    for i, j in rng.permutation(np.argwhere(apart))[:n]:
        keys = (_key(*pairs[i, :2]), _key(*pairs[i, 2:]), _key(*pairs[j, :2]), _key(*pairs[j, 2:]))
        items.append(Analogy(first[i], second[i], first[j], second[j], relation, "test", keys))
    return items


def dial(kind: str, strengths: Sequence[float], n: int, seed: int = 0) -> list[list[Analogy]]:
    """Analogies all along an edit's dial, also where no relation has a strength: n for each strength.

    The n pairs of drawings are the same at all strengths. Every drawing is of another test concept, so a split by b's
    concept is one by a's, too. Drawings that a strength leaves as they are (grey ones under another hue) are left out.

    Raises:
        InputError: unknown kind, a strength outside its range, or fewer than 2n concepts.
    """
    names = [relation_name(kind, strength) for strength in strengths]
    emoji = load_emoji()
    drawings = np.argwhere(emoji.present & (concept_sides() == SPLITS.index("test"))[:, None])
    chosen: dict[str, tuple[str, torch.Tensor, torch.Tensor]] = {}
    for row in np.random.default_rng([seed, zlib.crc32(kind.encode())]).permutation(drawings):
        concept = emoji.emojis[row[0]].concept
        if len(chosen) == 2 * n or concept in chosen:
            continue
        picture = emoji.tensor(*row)
        edited = torch.cat([apply_edit(picture, kind, strength) for strength in strengths])
        if bool(differ(picture.expand_as(edited), edited).all()):
            chosen[concept] = (_key(*row), picture[0], edited)
    if len(chosen) < 2 * n:
        raise InputError(f"expected {2 * n} test concepts that {kind} changes, found {len(chosen)}")
    sides = list(chosen.values())
    return [
        [
            Analogy(a, a_primes[i], b, b_primes[i], name, "test", (a_key, a_key, b_key, b_key))
            for (a_key, a, a_primes), (b_key, b, b_primes) in zip(sides[::2], sides[1::2], strict=True)
        ]
        for i, name in enumerate(names)
    ]


def _key(emoji: int, style: int) -> str:
    return f"{load_emoji().emojis[emoji].key}@{STYLES[style]}"
