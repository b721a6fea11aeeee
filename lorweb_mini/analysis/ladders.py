"""Ordered edits: ladders, which are one b with its true answers along a scale, and analogies at each of many levels."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..emoji.edits import EDITS, apply_edit, relation_name
from ..emoji.relations import SPLITS, Analogy, concept_sides, differ, get_relation
from ..emoji.sheets import STYLES, load_emoji
from ..errors import InputError

SAME_PLACE = 1e-6  # fractions closer than this are one
CANDIDATES = 60  # pairs of a relation that are set side by side


@dataclass(frozen=True)
class Scale:
    """Evenly spaced true answers to one b: either relations from b to each rung, or a dial, which makes five rungs.

    Where the first rung is b itself, ``relations`` starts with the second, and a dial's first strength changes nothing.
    """

    relations: tuple[str, ...] = ()  # as artists drew them
    dial: tuple[str, float, float] | None = None  # kind of an edit and its strengths at the first and at the last rung
    nothing: bool = False  # the first rung is b itself

    def __post_init__(self) -> None:
        if bool(self.relations) == (self.dial is not None):
            raise InputError("expected either relations or a dial, got both or none of them")

    @property
    def positions(self) -> tuple[float, ...]:
        """Fractions of the rungs, from 0 to 1."""
        count = len(self.relations) + self.nothing if self.relations else 5
        return tuple(i / (count - 1) for i in range(count))

    def strength(self, t: float) -> float | None:
        """The dial at fraction t; None beyond the range of its edit, and for relations."""
        if self.dial is None:
            return None
        kind, first, last = self.dial
        value = round(first + t * (last - first), 9)
        low, high = EDITS[kind].range
        return value if low <= value <= high else None


# In all of them the middle is a relation, or a strength, that the full basis was never trained on.
TONES = ("light", "medium-light", "medium", "medium-dark", "dark")
SCALES = {
    "tone: light → dark": Scale(tuple(f"tone/yellow>{tone}" for tone in TONES)),
    "clock: + 1 h → + 3 h": Scale(tuple(f"clock/+{hours}h" for hours in (1, 2, 3))),
    "moon: + 2 → + 4 phases": Scale(tuple(f"moon/+{phases}" for phases in (2, 3, 4))),
    "arrow: 90° → 180°": Scale(tuple(f"rotate/{degrees}deg" for degrees in (90, 135, 180))),
    "hue: 120° → 240°": Scale(dial=("hue", 120, 240)),
    "darken: 0.65 → 0.25": Scale(dial=("darken", 0.65, 0.25)),
    "blur: 1 → 4 pixels": Scale(dial=("blur", 1, 4)),
    "shrink: 0.75 → 0.35": Scale(dial=("shrink", 0.75, 0.35)),
    "shift: 8 → 24 pixels": Scale(dial=("shift", 8, 24)),
}
# From b itself to an answer that the starter was trained on: one analogy, turned up.
FROM_NOTHING = {
    "tone: dark → light": Scale(tuple(f"tone/dark>{tone}" for tone in TONES[3::-1]), nothing=True),
    "grey": Scale(dial=("grey", 0, 1), nothing=True),
    "darken: to 0.25": Scale(dial=("darken", 1, 0.25), nothing=True),
    "blur: to 4 pixels": Scale(dial=("blur", 0, 4), nothing=True),
    "shrink: to 0.35": Scale(dial=("shrink", 1, 0.35), nothing=True),
}


@dataclass(frozen=True, eq=False)
class Ladder:
    """One b with its rungs, and another picture a with the same rungs as example. All pictures in [-1, 1]."""

    scale: Scale
    concept: str  # that b shows
    key: str  # ``code points@style`` of b
    a: Tensor  # [3, 64, 64]
    b: Tensor
    examples: Tensor  # a'(t) at the scale's positions, [T, 3, 64, 64]
    rungs: Tensor  # b'(t)

    def at(self, t: float) -> tuple[Tensor, Tensor] | None:
        """True a'(t) and b'(t): a rung's pictures, for a dial those of any strength in range; None where unknown."""
        for i, position in enumerate(self.scale.positions):
            if abs(position - t) < SAME_PLACE:
                return self.examples[i], self.rungs[i]
        strength = self.scale.strength(t)
        if self.scale.dial is None or strength is None:
            return None
        edited = apply_edit(torch.stack([self.a, self.b]), self.scale.dial[0], strength)
        return edited[0], edited[1]


def ladders(scale: Scale, n: int = 32, seed: int = 0) -> list[Ladder]:
    """At most n test ladders, of as many concepts as possible; the same ones for the same arguments.

    Among b and its rungs at least one belongs to a test concept and none to a val concept, as for
    :meth:`~lorweb_mini.emoji.relations.Relation.pairs`. a shows other concepts than b wherever the scale has more than
    a few, another emoji in any case. Ladders with two rungs that look the same are left out.
    """
    emojis, rng = load_emoji().emojis, np.random.default_rng(seed)
    chains = rng.permutation(_chains(scale))
    met: Counter[str] = Counter()
    turn = []
    for i in chains[:, 0, 0]:
        turn.append(met[emojis[i].concept])
        met[emojis[i].concept] += 1
    chains = chains[np.argsort(turn, kind="stable")][: 3 * n + 16]
    pictures = _pictures(scale, chains)
    neighbours = zip(pictures[:, 1:-1].unbind(1), pictures[:, 2:].unbind(1), strict=True)
    visible = np.flatnonzero(torch.stack([differ(x, y) for x, y in neighbours], 1).all(1).numpy())
    shown = [{emojis[i].concept for i in chain} for chain in chains[..., 0]]
    made: list[Ladder] = []
    for j in visible:
        others = [i for i in visible if not shown[i] & shown[j]]
        others = others or [i for i in visible if chains[i, 0, 0] != chains[j, 0, 0]]
        if not others:
            continue
        a, b, concept = pictures[rng.choice(others)], pictures[j], emojis[chains[j, 0, 0]].concept
        made.append(Ladder(scale, concept, _key(*chains[j, 0]), a[0], b[0], a[1:], b[1:]))
        if len(made) == n:
            break
    if not made:
        raise InputError(f"expected pictures that the scale applies to, got none for {scale}")
    return made


def _chains(scale: Scale) -> np.ndarray:
    """Emoji and style of b, and of the rungs where they are drawn: int [k, 1 or 1 + T, 2]."""
    if scale.dial is not None:
        chains = np.argwhere(load_emoji().present)[:, None]
    else:
        steps = [{tuple(row[:2]): row[2:] for row in get_relation(name).all_pairs} for name in scale.relations]
        starts = sorted(set.intersection(*map(set, steps)))
        drawn = [np.array([step[start] for start in starts]) for step in steps]
        chains = np.stack([*[np.array(starts)] * (1 + scale.nothing), *drawn], 1)
    side = concept_sides()[chains[..., 0]]
    return chains[(side == SPLITS.index("test")).any(1) & (side != SPLITS.index("val")).all(1)]


def _pictures(scale: Scale, chains: np.ndarray) -> Tensor:
    """b and its rungs, [k, 1 + T, 3, 64, 64]."""
    pictures = load_emoji().tensor(chains[..., 0].ravel(), chains[..., 1].ravel()).unflatten(0, chains.shape[:2])
    if scale.dial is None:
        return pictures
    strengths = [scale.strength(t) for t in scale.positions]
    if None in strengths:
        raise InputError(f"expected strengths in the range of {scale.dial[0]}, got {scale.dial[1:]}")
    rungs = [apply_edit(pictures[:, 0], scale.dial[0], strength) for strength in strengths if strength is not None]
    return torch.stack([pictures[:, 0], *rungs], 1)


# --- analogies at every level ---------------------------------------------------------------------


def crossed(relation: str, n: int, seed: int = 0, subgroup: str | None = None) -> list[Analogy]:
    """Up to n test analogies of a relation out of all ways to set two of its pairs side by side.

    ``analogies`` gives each pair once as (b, b'); a relation of few pairs, such as a step of the moon, has many more
    analogies. As there, the two pairs show different concepts, or different pictures where there is one concept only.
    ``subgroup`` is a Unicode subgroup that all four pictures must belong to, for example ``arrow``.
    """
    emojis, source = load_emoji().emojis, get_relation(relation)
    pairs = source.pairs("test")
    if subgroup is not None:
        pairs = pairs[[all(emojis[e].subgroup == subgroup for e in row[[0, 2]]) for row in pairs]]
    rng = np.random.default_rng([seed, zlib.crc32(relation.encode())])
    pairs = rng.permutation(pairs)[:CANDIDATES]
    if len(pairs) == 0:
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
        keys = tuple(_key(*drawing) for drawing in pairs[[i, j]].reshape(4, 2))
        items.append(Analogy(first[i], second[i], first[j], second[j], relation, "test", keys))
    return items


def dial(kind: str, strengths: Sequence[float], n: int, seed: int = 0) -> list[list[Analogy]]:
    """Analogies all along an edit's dial, also where no relation has a strength: n for each strength.

    The n pairs of drawings are the same at all strengths. Every drawing is of another test concept, so a split by b's
    concept is one by a's, too. Drawings that a strength leaves as they are (grey ones under another hue) are left out.
    """
    names = [relation_name(kind, strength) for strength in strengths]
    emoji = load_emoji()
    drawings = np.argwhere(emoji.present & (concept_sides() == SPLITS.index("test"))[:, None])
    chosen: dict[str, tuple[str, Tensor, Tensor]] = {}
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
