"""Relations as distributions: a fresh edit, or a chain of up to three edits, for every training sample.

A fixed list of relations teaches a router their names. Here a relation is a random *chain* of edits, each with a random
strength from the range of its kind, so hardly any chain occurs twice. What is held out are regions of this
distribution (``data/unseen.json``): intervals of strength, pairs of kinds, and kinds as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..files import data_dir, read_json
from .edits import EDITS, Strength

LONGEST = 3
WIDTH = max(edit.parameters for edit in EDITS.values())
LENGTHS = (0.55, 0.3, 0.15)  # probability of a chain of 1, 2 and 3 edits
CIRCULAR = ("hue", "rotate", "background", "tint", "screen", "duotone", "stencil")  # 0 and 360 degrees are the same

Sampler = Callable[[np.random.Generator, int], np.ndarray]


def _uniform(*ranges: tuple[float, float]) -> Sampler:
    """One of the ranges, each as likely as the others, then uniform in it: [n, 1]."""

    def sample(rng: np.random.Generator, n: int) -> np.ndarray:
        low, high = np.array(ranges)[rng.integers(len(ranges), size=n)].T
        return (low + (high - low) * rng.random(n))[:, None]

    return sample


def _one_of(*values: float) -> Sampler:
    return lambda rng, n: rng.choice(values, (n, 1))


def _mostly(share: float, first: Sampler, second: Sampler) -> Sampler:
    return lambda rng, n: np.where(rng.random((n, 1)) < share, first(rng, n), second(rng, n))


def _shift(rng: np.random.Generator, n: int) -> np.ndarray:
    """Pixels right and down, [n, 2]: any direction, a distance of 5 to 26 pixels."""
    angle, distance = 2 * np.pi * rng.random(n), 5 + 21 * rng.random(n)
    return np.stack([distance * np.cos(angle), distance * np.sin(angle)], 1)


# Kind to (weight, sampler of strengths). What is learnt slowly comes more often.
TRAINED: dict[str, tuple[float, Sampler]] = {
    "hue": (2.0, _uniform((25, 335))),
    # Three rows that sum to 1, most with one large entry.
    "mix": (2.0, lambda rng, n: rng.dirichlet([0.35] * 3, (n, 3)).reshape(n, 9)),
    "grey": (1.0, _mostly(0.6, _one_of(1.0), _uniform((0.5, 1)))),
    "invert": (1.0, _one_of(1.0)),
    "tint": (1.5, _uniform((0, 360))),
    "screen": (1.5, _uniform((0, 360))),
    "background": (1.5, _uniform((0, 360))),
    "darken": (1.0, _uniform((0.15, 0.8))),
    "fade": (1.0, _uniform((0.25, 0.85))),
    "saturate": (1.0, _uniform((0, 0.5), (1.8, 4))),
    "contrast": (1.0, _uniform((0.25, 0.6), (1.6, 3))),
    "threshold": (1.0, _uniform((0.5, 0.85))),
    "blur": (1.0, _uniform((0.8, 5))),
    "pixelate": (1.0, lambda rng, n: 64 / rng.integers(4, 21, (n, 1))),
    "thicken": (1.0, _uniform((0.5, 2.5))),
    "outline": (1.0, _uniform((1, 3))),
    "flip_horizontal": (1.5, _one_of(1.0)),
    "flip_vertical": (1.5, _one_of(1.0)),
    "rotate": (2.5, _mostly(0.5, _one_of(90, 180, 270), _uniform((15, 345)))),
    "shrink": (1.5, _uniform((0.3, 0.85))),
    "zoom": (1.5, _uniform((1.2, 2.4))),
    "move": (1.5, _shift),
    "tile": (1.0, _one_of(2, 3, 4)),
    "frame": (0.5, _uniform((2, 8))),
    "wave": (1.0, _uniform((2, 8))),
}


@dataclass(frozen=True)
class Chains:
    """B chains of at most :data:`LONGEST` edits.

    Attributes:
        kinds: names, an object array [B, LONGEST]; "" where a chain is shorter.
        strengths: float32 [B, LONGEST, WIDTH], padded with zeros.
    """

    kinds: np.ndarray
    strengths: Tensor

    def __len__(self) -> int:
        return len(self.kinds)

    def __getitem__(self, rows: np.ndarray | slice) -> Chains:
        return Chains(self.kinds[rows], self.strengths[rows])

    def __setitem__(self, rows: np.ndarray, others: Chains) -> None:
        self.kinds[rows], self.strengths[rows] = others.kinds, others.strengths

    @classmethod
    def of(cls, chains: Sequence[Sequence[tuple[str, Strength]]]) -> Chains:
        """From lists of (kind, strength)."""
        kinds = np.full((len(chains), LONGEST), "", dtype=object)
        strengths = torch.zeros(len(chains), LONGEST, WIDTH, dtype=torch.float32, device="cpu")
        for row, chain in enumerate(chains):
            if not 1 <= len(chain) <= LONGEST:
                raise InputError(f"expected chains of 1 to {LONGEST} edits, got one of {len(chain)}")
            for place, (kind, strength) in enumerate(chain):
                kinds[row, place] = kind
                value = torch.atleast_1d(torch.as_tensor(strength, dtype=torch.float32, device="cpu"))
                strengths[row, place, : len(value)] = value
        return cls(kinds, strengths)

    def as_lists(self) -> list[list[tuple[str, float | tuple[float, ...]]]]:
        """Inverse of :meth:`of`."""
        out: list[list[tuple[str, float | tuple[float, ...]]]] = [[] for _ in self.kinds]
        for kind, rows, strengths in self.groups():
            for row, numbers in zip(rows.tolist(), strengths.tolist(), strict=True):
                out[row].append((kind, numbers[0] if len(numbers) == 1 else tuple(numbers)))
        return out

    def groups(self) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Edits of one kind at one place of their chains: kind, rows int [k], strengths [k, P]; place after place."""
        for place in range(LONGEST):
            for kind in sorted(set(self.kinds[:, place]) - {""}):
                rows = torch.from_numpy(np.flatnonzero(self.kinds[:, place] == kind))
                yield kind, rows, self.strengths[rows, place, : EDITS[kind].parameters]

    def apply(self, x: Tensor) -> Tensor:
        """Every chain on its own picture, [B, 3, n, n] in [-1, 1], or its own k pictures, [B, k, 3, n, n]."""
        out = x.clone()
        for kind, rows, strengths in self.groups():
            pictures = out[rows]
            value = strengths.to(x).repeat_interleave(x.shape[1] if x.ndim == 5 else 1, 0)
            out[rows] = EDITS[kind].apply(pictures.reshape(-1, *x.shape[-3:]), value).view_as(pictures)
        return out


@dataclass(frozen=True)
class HeldOut:
    """Regions of the distribution that a training leaves out.

    Attributes:
        intervals: kind to regions of strength: ``{"low", "high"}`` for one number (of directions in degrees, for
            ``move``), ``{"centre", "radius"}`` for a ball in the strength's own space.
        pairs: kinds that no chain has together, in whatever order.
    """

    intervals: dict[str, list[dict[str, Any]]]
    pairs: frozenset[frozenset[str]]

    def strengths(self, kind: str, strength: np.ndarray) -> np.ndarray:
        """Which of n strengths [n, P] of a kind are held out, bool [n]."""
        held = np.zeros(len(strength), bool)
        for region in self.intervals.get(kind, []):
            if "centre" in region:
                held |= np.linalg.norm(strength - np.array(region["centre"]), axis=1) < region["radius"]
                continue
            value, low, high = strength[:, 0], region["low"], region["high"]
            if kind == "move":
                value = np.degrees(np.arctan2(strength[:, 1], strength[:, 0]))
            if kind in CIRCULAR or kind == "move":
                value, low, high = (value % 360 - low) % 360, 0, (high - low) % 360
            held |= (value > low) & (value < high)
        return held

    def chains(self, chains: Chains) -> np.ndarray:
        """Which chains have a held-out pair of kinds, or an edit of a held-out strength, bool [B]."""
        held = np.array([self.has_pair(kinds) for kinds in chains.kinds], bool)
        for kind, rows, strengths in chains.groups():
            held[rows.numpy()] |= self.strengths(kind, strengths.numpy())
        return held

    def has_pair(self, kinds: Sequence[str]) -> bool:
        """Whether the kinds of one chain, "" at places without an edit, have a held-out pair among them."""
        return any(frozenset(pair) in self.pairs for pair in combinations(filter(None, kinds), 2))


NOTHING = HeldOut({}, frozenset())


@lru_cache(maxsize=1)
def unseen() -> dict[str, Any]:
    """What is held out, as published in ``data/unseen.json``."""
    return read_json(data_dir() / "unseen.json", ("intervals", "pairs", "relations"))


def held_out(known_to_base: bool = False) -> HeldOut:
    """What the bases of LoRAs are never shown; with ``known_to_base`` what the frozen base is never shown either."""
    intervals, pairs = (
        [entry for entry in unseen()[name] if not (known_to_base and entry["known_to_base"])]
        for name in ("intervals", "pairs")
    )
    regions: dict[str, list[dict[str, Any]]] = {}
    for region in intervals:
        regions.setdefault(region["kind"], []).append(region)
    return HeldOut(regions, frozenset(frozenset(pair["kinds"]) for pair in pairs))


class Distribution:
    """Random chains of edits.

    Args:
        kinds: out of :data:`TRAINED` and ``extra``; all of them by default.
        held_out: what never occurs.
        lengths: probability of a chain of one, two and three edits.
        extra: kinds that are not trained, with weights and samplers of their own.

    Raises:
        InputError: an unknown kind, or fewer kinds than the longest chain needs.
    """

    def __init__(
        self,
        kinds: Sequence[str] | None = None,
        held_out: HeldOut = NOTHING,
        lengths: Sequence[float] = LENGTHS,
        extra: dict[str, tuple[float, Sampler]] | None = None,
    ) -> None:
        table = {**TRAINED, **(extra or {})}
        self.kinds = list(table if kinds is None else kinds)
        if unknown := [k for k in self.kinds if k not in table]:
            raise InputError(f"expected kinds out of {', '.join(table)}; got {', '.join(unknown)}")
        self.lengths = np.array(lengths) / np.sum(lengths)
        if len(self.kinds) < max(i + 1 for i, p in enumerate(self.lengths) if p):
            raise InputError(f"expected as many kinds as the longest chain has edits, got {self.kinds}")
        self.held_out = held_out
        weights, self.samplers = zip(*(table[k] for k in self.kinds), strict=True)
        self.weights = np.array(weights) / np.sum(weights)
        self.names = np.array([*self.kinds, ""], dtype=object)
        # Kinds that no chain has together: a kind and itself, and the held-out pairs.
        self.apart = np.array([[i == j or held_out.has_pair((i, j)) for j in self.kinds] for i in self.kinds])

    def draw(self, rng: np.random.Generator, size: int) -> Chains:
        """``size`` fresh chains; the same for the same state of ``rng``."""
        chosen = self._kinds(rng, size)
        strengths = np.zeros((size, LONGEST, WIDTH), np.float32)
        for index, kind in enumerate(self.kinds):
            row, place = np.nonzero(chosen == index)
            if len(row):
                strengths[row, place, : EDITS[kind].parameters] = self._strengths(rng, index, len(row))
        return Chains(self.names[chosen], torch.from_numpy(strengths))

    def _kinds(self, rng: np.random.Generator, size: int) -> np.ndarray:
        """Indices of kinds [size, LONGEST], -1 behind the end; different kinds, no held-out pair."""
        length = 1 + rng.choice(LONGEST, size, p=self.lengths)
        out = np.full((size, LONGEST), -1)
        rejected = np.arange(size)
        for _ in range(1000):
            if not len(rejected):
                return out
            sampled = rng.choice(len(self.kinds), (len(rejected), LONGEST), p=self.weights)
            sampled[np.arange(LONGEST) >= length[rejected, None]] = -1
            out[rejected] = sampled
            rejected = rejected[self._excluded(sampled)]
        raise InputError(f"expected chains that are not held out, found none of {self.kinds}")

    def _excluded(self, chosen: np.ndarray) -> np.ndarray:
        """Which indices of kinds [n, LONGEST] have a kind twice or a held-out pair, bool [n]."""
        pairs = [chosen[:, pair] for pair in combinations(range(LONGEST), 2)]
        return np.any([(p >= 0).all(1) & self.apart[p[:, 0], p[:, 1]] for p in pairs], 0)

    def _strengths(self, rng: np.random.Generator, index: int, n: int) -> np.ndarray:
        kind, sampler = self.kinds[index], self.samplers[index]
        low, high = EDITS[kind].range
        value = sampler(rng, n)
        for _ in range(1000):
            held = np.flatnonzero(self.held_out.strengths(kind, value))
            if not len(held):
                return value.clip(low, high)
            value[held] = sampler(rng, len(held))
        raise InputError(f"expected strengths of {kind!r} that are not held out, found none")


class Memoriser:
    """The null model of generalisation: it applies the trained relation that fits (a, a') best, exactly, to b.

    It remembers ``size`` relations of the distribution that a training samples from.
    """

    CHUNK = 1000

    def __init__(self, distribution: Distribution, size: int = 10_000, seed: int = 0) -> None:
        self.chains = distribution.draw(np.random.default_rng(seed), size)

    def fit(self, a: Tensor, a_prime: Tensor) -> int:
        """Index of the chain whose result on a [3, n, n] is nearest to a' [3, n, n], by squared error."""
        parts = [self.chains[i : i + self.CHUNK] for i in range(0, len(self.chains), self.CHUNK)]
        errors = [(x.apply(a.expand(len(x), *a.shape)) - a_prime).pow(2).sum((1, 2, 3)) for x in parts]
        return int(torch.cat(errors).argmin())

    def __call__(self, a: Tensor, a_prime: Tensor, b: Tensor) -> Tensor:
        """Its answers for k analogies, pictures [k, 3, n, n] each, to [k, 3, n, n]."""
        rows = np.array([self.fit(*pair) for pair in zip(a, a_prime, strict=True)])
        return self.chains[rows].apply(b)
