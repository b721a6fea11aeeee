"""Can a failure be foreseen? Numbers that are known before the answer is drawn, and how well they rank the failures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.neighbors import NearestNeighbors

from ..emoji.distributions import Distribution, held_out
from ..emoji.relations import Analogy, analogies, chain_name, relations
from ..errors import InputError, whole_number
from .bootstrap import ENOUGH, Estimate, Statistic, interval

NEIGHBOURS = 5


def seen_analogies(kinds: Sequence[str] | None, count: int, seed: int = 0) -> list[Analogy]:
    """One analogy on training concepts of each of up to ``count`` relations that a training could have drawn.

    Args:
        kinds: of the edits; all by default.
    """
    chains = Distribution(kinds, held_out()).draw(np.random.default_rng([seed, 5]), whole_number(count, "count"))
    names = dict.fromkeys(chain_name(chain) for chain in chains.as_lists())
    # Two edits without a strength in a row, such as two flips, are found by name only where they are listed.
    found = [name for name in names if "=" in name or name in relations()]
    return [x for name in found for x in analogies("train", name, seed, 1)]


def distance_to_seen(vectors: np.ndarray, seen: np.ndarray, neighbours: int = NEIGHBOURS) -> np.ndarray:
    """Mean Euclidean distance of each of k vectors [k, d] to its nearest ones among seen vectors [m, d], [k].

    Raises:
        InputError: fewer seen vectors than neighbours, or vectors of another width.
    """
    if vectors.ndim != 2 or seen.ndim != 2 or vectors.shape[1] != seen.shape[1]:
        raise InputError(f"expected vectors of one width, got {list(vectors.shape)} and {list(seen.shape)}")
    if len(seen) < whole_number(neighbours, "neighbours"):
        raise InputError(f"expected at least {neighbours} seen vectors, got {len(seen)}")
    return NearestNeighbors(n_neighbors=neighbours).fit(seen).kneighbors(vectors)[0].mean(1)


def ranking(score: np.ndarray, failed: np.ndarray, units: np.ndarray) -> Estimate:
    """AUC: the chance that a failure has a larger score than a success, ties counted half, with its interval.

    Args:
        score: [k], larger where a failure is expected.
        failed: bool [k].
        units: what the interval resamples, [k] or [k, m]: relation and concept of each analogy, for example. The
            analogies of a relation mostly fail or succeed together, so that they are no independent samples.

    Returns:
        0.5 is chance; NaN where all failed or none did.

    Raises:
        InputError: lengths that differ.
    """
    failed = np.asarray(failed, bool)
    if not len(score) == len(failed) == len(units):
        raise InputError(f"expected a score and a unit of each outcome, got {len(score)}, {len(units)}, {len(failed)}")
    if failed.all() or not failed.any():
        return Estimate(np.nan, np.nan, np.nan)
    return interval(_auc(np.asarray(score, float), failed), units)


def foreseen(auc: Estimate, failed: np.ndarray, relations: np.ndarray) -> int:
    """1 where failures have larger scores beyond doubt, -1 where they have smaller ones, 0 where it is undecided.

    Never where failures or successes come from fewer than :data:`~lorweb_mini.analysis.bootstrap.ENOUGH` relations,
    however narrow the interval: a resample of one success knows nothing of other ones.
    """
    if min(len(set(relations[failed])), len(set(relations[~failed]))) < ENOUGH:
        return 0
    return int(auc.low > 0.5) - int(auc.high < 0.5)


def _auc(score: np.ndarray, failed: np.ndarray) -> Statistic:
    # The AUC as a mean over pairs needs no sorting, so that all resamples are two products of matrices.
    gaps = score[failed][:, None] - score[~failed]
    won = (gaps > 0) + 0.5 * (gaps == 0)

    def statistic(weights: np.ndarray) -> np.ndarray:
        failures, successes = weights[:, failed], weights[:, ~failed]
        with np.errstate(invalid="ignore"):  # a resample may hold no failure, or nothing else
            return ((failures @ won) * successes).sum(1) / (failures.sum(1) * successes.sum(1))

    return statistic
