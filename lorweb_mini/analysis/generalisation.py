"""Methods drawn once on the same analogies, so that any two of them can be compared analogy by analogy."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch import Tensor

from ..emoji.relations import UNSEEN_DEGREES, Analogy, as_batch
from ..errors import InputError, whole_number
from ..models.autoencoder import MiniAutoencoder
from .bootstrap import Estimate, Statistic, beyond_doubt, interval, median_ratio
from .evaluation import Method, draw, reconstruct, squared
from .space import concepts_of, spread_out
from .unseen import Panel

WORKS = 0.15  # a normalised error above which hardly any answer looks right, chosen by eye on validation pictures
LEAST_GAP = 0.01  # a smaller difference of two errors is no verdict, however certain it is


@dataclass(frozen=True, eq=False)
class Judged:
    """The pictures of some methods on k analogies and their distances to the truth.

    Attributes:
        items: the analogies.
        pictures: method to its results, [k, 3, 64, 64].
        errors: method to ‖result − b'‖², float64 [k], b' as the autoencoder reconstructs it.
        size: ‖b − b'‖², both reconstructed, float64 [k].
    """

    items: list[Analogy]
    pictures: dict[str, Tensor]
    errors: dict[str, np.ndarray]
    size: np.ndarray

    @cached_property
    def relations(self) -> np.ndarray:
        """Relation of each analogy, [k]."""
        return np.array([x.relation for x in self.items])

    @cached_property
    def concepts(self) -> np.ndarray:
        """Concept that b shows, [k]: what intervals resample."""
        return np.array(concepts_of(self.items))

    def relative(self, method: str) -> np.ndarray:
        """Normalised error of each analogy, [k]: 0 is the true answer, 1 what copying b scores."""
        return self.errors[method] / self.size

    def methods(self) -> dict[str, Method]:
        """The methods again, without drawing: they look up the pictures of the analogies that were judged."""
        rows = {id(x): row for row, x in enumerate(self.items)}

        def looked_up(pictures: Tensor) -> Method:
            return lambda part: pictures[[rows[id(x)] for x in part]]

        return {name: looked_up(pictures) for name, pictures in self.pictures.items()}

    def error(self, method: str, relations: Collection[str] | None = None) -> Estimate:
        """Normalised error, the median over relations (all by default), with its interval over concepts.

        Raises:
            InputError: no analogy of these relations, or analogies of a single concept.
        """
        kept = self._kept(relations)
        return interval(self._median(method, kept), self.concepts[kept])

    def gap(self, method: str, other: str, relations: Collection[str] | None = None) -> Estimate:
        """The error of one method minus that of another on the same analogies, resampled together."""
        kept = self._kept(relations)
        mine, theirs = self._median(method, kept), self._median(other, kept)
        return interval(lambda weights: mine(weights) - theirs(weights), self.concepts[kept])

    def better(self, method: str, other: str, relations: Collection[str] | None = None) -> int:
        """1 where a method's error is smaller than another's beyond doubt, -1 where it is larger, 0 if undecided."""
        kept = self._kept(relations)
        return -beyond_doubt(self.gap(method, other, relations), self.concepts[kept].tolist(), LEAST_GAP)

    def _kept(self, relations: Collection[str] | None) -> np.ndarray:
        kept = np.ones(len(self.items), bool) if relations is None else np.isin(self.relations, list(relations))
        if not kept.any():
            raise InputError(f"expected relations that were judged, got {relations}")
        return kept

    def _median(self, method: str, kept: np.ndarray) -> Statistic:
        if method not in self.errors:
            raise InputError(f"expected a method out of {list(self.errors)}, got {method!r}")
        return median_ratio(self.errors[method][kept], self.size[kept], self.relations[kept].tolist())


def judged(pictures: Mapping[str, Tensor], items: Sequence[Analogy], autoencoder: MiniAutoencoder) -> Judged:
    """Compares pictures [k, 3, 64, 64] of each method with the truth of k analogies.

    Raises:
        InputError: another number of pictures than analogies, or none.
    """
    if not items or any(len(x) != len(items) for x in pictures.values()):
        raise InputError(f"expected {len(items)} pictures of each method, got {[len(x) for x in pictures.values()]}")
    b, b_prime = (reconstruct(autoencoder, x) for x in as_batch(items)[2:])
    errors = {name: squared(x, b_prime) for name, x in pictures.items()}
    return Judged(list(items), dict(pictures), errors, squared(b, b_prime))


def judge(methods: Mapping[str, Method], items: Sequence[Analogy], autoencoder: MiniAutoencoder) -> Judged:
    """Draws every method's answers to k analogies, once, and compares them with the truth."""
    return judged({name: draw(method, items) for name, method in methods.items()}, items, autoencoder)


def together(first: Judged, second: Judged) -> Judged:
    """The methods of two on the same analogies in one; InputError if the analogies differ."""
    if list(map(id, first.items)) != list(map(id, second.items)):
        raise InputError(f"expected the same analogies, got {len(first.items)} and {len(second.items)} others")
    both = {**first.pictures, **second.pictures}
    return Judged(first.items, both, {**first.errors, **second.errors}, first.size)


def one_of_each(panel: Panel, count: int = 12) -> list[Analogy]:
    """The first analogy of ``count`` unseen relations, as many of each degree as there are, in a fixed order.

    Which relations these are depends on their names alone: of each degree they are evenly spaced in the alphabet. No
    answer is looked at.

    Raises:
        InputError: a count below 1, or a panel without unseen relations.
    """
    left = {degree: list(panel.groups[degree]) for degree in UNSEEN_DEGREES if degree in panel.groups}
    if not left:
        raise InputError(f"expected a panel with unseen relations, got the groups {list(panel.groups)}")
    shares = dict.fromkeys(left, 0)
    for _ in range(min(whole_number(count, "count"), sum(map(len, left.values())))):
        # One after the other to the degree that has fewest so far, of those with relations to spare.
        shares[min((d for d in left if shares[d] < len(left[d])), key=lambda d: shares[d])] += 1
    chosen = [name for degree, share in shares.items() for name in spread_out(left[degree], share)]
    return [panel.analogies[name][0] for name in chosen]


def failures(judged: Judged, method: str, above: float = WORKS) -> np.ndarray:
    """Which analogies a method gets wrong: with a normalised error beyond the limit, bool [k]."""
    return judged.relative(method) > above


def shares_right(bets: Sequence[bool | None], works: Sequence[bool]) -> tuple[int, int]:
    """How many bets were right, and how many were placed; None is no bet.

    Raises:
        InputError: another number of bets than of outcomes.
    """
    if len(bets) != len(works):
        raise InputError(f"expected {len(works)} bets, got {len(bets)}")
    placed = [(bet, bool(outcome)) for bet, outcome in zip(bets, works, strict=True) if bet is not None]
    return sum(bet == outcome for bet, outcome in placed), len(placed)


def cut(panel: Panel, count: int) -> Panel:
    """The first ``count`` analogies of each relation of a panel."""
    few = {name: items[: whole_number(count, "count")] for name, items in panel.analogies.items()}
    return Panel(few, panel.groups)


def merged_groups(panel: Panel, names: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Groups of relations under new names, each the union of some of a panel's; those without relations left out."""
    found = {name: [x for part in parts for x in panel.groups.get(part, [])] for name, parts in names.items()}
    return {name: members for name, members in found.items() if members}
