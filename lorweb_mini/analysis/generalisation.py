"""Methods drawn once on the same analogies and compared analogy by analogy; whether a failure can be foreseen."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from ..emoji.relations import Analogy, as_batch
from ..errors import InputError
from ..models.autoencoder import MiniAutoencoder
from .bootstrap import ENOUGH, MISSING, Estimate, Statistic, beyond_doubt, interval, median_ratio
from .evaluation import Method, draw, reconstruct, squared
from .space import concepts_of

WORKS = 0.15  # a normalised error above which hardly any answer looks right, chosen by eye on validation pictures
LEAST_GAP = 0.01  # a smaller difference of two errors is no verdict, however certain it is
NEIGHBOURS = 5


@dataclass(frozen=True, eq=False)
class Judged:
    """The pictures of some methods on k analogies and their distances to the truth."""

    items: list[Analogy]
    pictures: dict[str, Tensor]  # method to its results, [k, 3, 64, 64]
    errors: dict[str, np.ndarray]  # method to ‖result − b'‖², float64 [k], b' as the autoencoder reconstructs it
    size: np.ndarray  # ‖b − b'‖², both reconstructed, float64 [k]

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
        """Normalised error, the median over relations (all by default), with its interval over concepts."""
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
    """Compares pictures [k, 3, 64, 64] of each method with the truth of k ≥ 1 analogies; InputError for other sizes."""
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
    return Judged(first.items, first.pictures | second.pictures, first.errors | second.errors, first.size)


def failures(judged: Judged, method: str) -> np.ndarray:
    """Which analogies a method gets wrong: with a normalised error above :data:`WORKS`, bool [k]."""
    return judged.relative(method) > WORKS


def shares_right(bets: Sequence[bool | None], works: Sequence[bool]) -> tuple[int, int]:
    """How many bets on as many outcomes were right, and how many were placed; None is no bet."""
    if len(bets) != len(works):
        raise InputError(f"expected {len(works)} bets, got {len(bets)}")
    placed = [(bet, bool(outcome)) for bet, outcome in zip(bets, works, strict=True) if bet is not None]
    return sum(bet == outcome for bet, outcome in placed), len(placed)


# --- numbers that are known before the answer is drawn --------------------------------------------


def distance_to_seen(vectors: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Mean Euclidean distance of each of k vectors [k, d] to its :data:`NEIGHBOURS` nearest of m [m, d], [k]."""
    if vectors.ndim != 2 or seen.ndim != 2 or vectors.shape[1] != seen.shape[1]:
        raise InputError(f"expected vectors of one width, got {list(vectors.shape)} and {list(seen.shape)}")
    if len(seen) < NEIGHBOURS:
        raise InputError(f"expected at least {NEIGHBOURS} seen vectors, got {len(seen)}")
    return NearestNeighbors(n_neighbors=NEIGHBOURS).fit(seen).kneighbors(vectors)[0].mean(1)


def ranking(score: np.ndarray, failed: np.ndarray, units: np.ndarray, other: np.ndarray | None = None) -> Estimate:
    """AUC: the chance that a failure has a larger score [k] than a success, ties counted half, with its interval.

    0.5 is chance; NaN where all failed or none did. The interval resamples units, [k] or [k, m]: relation and concept
    of each analogy, for example, since those of a relation mostly fail or succeed together. With another score [k] it
    is the AUC of the first minus that of the other, resampled together.
    """
    failed = np.asarray(failed, bool)
    if not len(score) == len(failed) == len(units):
        raise InputError(f"expected a score and a unit of each outcome, got {len(score)}, {len(units)}, {len(failed)}")
    if failed.all() or not failed.any():
        return MISSING
    mine = _auc(np.asarray(score, float), failed)
    if other is None:
        return interval(mine, units)
    theirs = _auc(np.asarray(other, float), failed)
    return interval(lambda weights: mine(weights) - theirs(weights), units)


def foreseen(auc: Estimate, failed: np.ndarray, relations: np.ndarray, chance: float = 0.5) -> int:
    """1 where failures have larger scores beyond doubt, -1 where they have smaller ones, 0 where it is undecided.

    For a difference of two AUCs ``chance`` is 0. Never where failures or successes come from fewer than
    :data:`~lorweb_mini.analysis.bootstrap.ENOUGH` relations, however narrow the interval: a resample of one success
    knows nothing of other ones.
    """
    if min(len(set(relations[failed])), len(set(relations[~failed]))) < ENOUGH:
        return 0
    return int(auc.low > chance) - int(auc.high < chance)


def _auc(score: np.ndarray, failed: np.ndarray) -> Statistic:
    # The AUC as a mean over pairs needs no sorting, so that all resamples are two products of matrices.
    gaps = score[failed][:, None] - score[~failed]
    won = (gaps > 0) + 0.5 * (gaps == 0)

    def statistic(weights: np.ndarray) -> np.ndarray:
        failures, successes = weights[:, failed], weights[:, ~failed]
        with np.errstate(invalid="ignore"):  # a resample may hold no failure, or nothing else
            return ((failures @ won) * successes).sum(1) / (failures.sum(1) * successes.sum(1))

    return statistic
