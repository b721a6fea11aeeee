"""The studies' results in ``data/results``: what a change does, judged over seeds.

A row of these files is one training, judged on one group of relations: columns ``cell`` (what was changed), ``seed``,
``group``, ``method``, ``error`` with its interval over analogies, ``retrieval``. That interval says how exactly this
one training was measured; whether *another* training would come out the same, only several seeds can say.
"""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from scipy import stats

from ..errors import InputError
from ..files import data_dir, read_text
from .bootstrap import Estimate
from .generalisation import LEAST_GAP

STUDIES = ("dial", "headline", "ablations", "controls", "foreign")
NEEDED = ("cell", "seed", "group", "method", "error")
NUMBERS = ("error", "error_low", "error_high", "retrieval", "both")  # each may be missing: empty, or NaN
Row = Mapping[str, str]


def rows_of(study: str) -> list[Row]:
    """The rows of a study's file in ``LORWEB_RESULTS`` or ``data/results``, none where there is no file yet.

    Raises:
        InputError: an unknown study, or what :func:`read_rows` refuses.
    """
    if study not in STUDIES:
        raise InputError(f"expected a study out of {STUDIES}, got {study!r}")
    return read_rows(Path(os.environ.get("LORWEB_RESULTS") or data_dir() / "results") / f"{study}.csv")


def read_rows(path: Path) -> list[Row]:
    """The rows of one such file, none where there is no file yet.

    Raises:
        InputError: no text, a column that is needed is missing, or a row that is cut short, has no numbers where there
            should be some, or repeats another: a file that an editor, a merge or a full disk has damaged.
    """
    if not path.is_file():
        return []
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""))
    if not set(NEEDED) <= set(heads := reader.fieldnames or NEEDED):
        raise InputError(f"expected the columns {sorted(NEEDED)} in {path}, got {sorted(heads)}")
    rows: list[Row] = []
    known = set()
    for row in reader:
        key = tuple(row.get(name) for name in ("cell", "seed", "group", "method", "weights"))
        if None in row or None in row.values() or not _has_numbers(row) or key in known:
            raise InputError(
                f"expected whole rows with numbers, each once, in {path}, got another: line {reader.line_num}"
            )
        known.add(key)
        rows.append(row)
    return rows


def _has_numbers(row: Row) -> bool:
    try:
        return int(row["seed"]) >= 0 and not any(math.isinf(float(row[k])) for k in NUMBERS if row.get(k))
    except ValueError:
        return False


def command(study: str) -> str:
    """The command that trains what is missing of a study and writes its file."""
    return f".venv/bin/python -m benchmarks.{'' if study == 'foreign' else 'studies '}{study}"


def by_seed(
    rows: Sequence[Row], cell: str, group: str, method: str = "LoRWeB", measure: str = "error"
) -> dict[int, float]:
    """Seed to the value of a measure; rows without it are left out."""
    named = (cell, group, method)
    found = (r for r in rows if (r["cell"], r["group"], r["method"]) == named and r.get(measure))
    values = {int(r["seed"]): float(r[measure]) for r in found}
    return {seed: value for seed, value in values.items() if not math.isnan(value)}


def over_seeds(values: Sequence[float] | np.ndarray) -> Estimate:
    """Mean of trainings from k seeds with its 95 % t interval; the bounds are NaN where k = 1, all where k = 0."""
    return _t_interval(np.asarray(values, float), 0)


def next_training(values: Sequence[float] | np.ndarray) -> Estimate:
    """Mean of k trainings, and the interval into which one more of another seed falls in 95 of 100 cases.

    It is wider than the interval of the mean by the spread of a single training, :math:`t s \\sqrt{1 + 1/k}`.
    """
    return _t_interval(np.asarray(values, float), 1)


def _t_interval(values: np.ndarray, more: int) -> Estimate:
    """Of the mean, or with ``more`` = 1 of one more value."""
    k = len(values)
    if k < 2:
        return Estimate(float(values.mean()) if k else math.nan, math.nan, math.nan)
    mean, half = values.mean(), stats.t.ppf(0.975, k - 1) * values.std(ddof=1) * math.sqrt(more + 1 / k)
    return Estimate(float(mean), float(mean - half), float(mean + half))


@dataclass(frozen=True)
class Effect:
    """What one change does to the error: its own value minus that of the reference, for each seed that has both."""

    cell: str
    gaps: dict[int, float]  # seed to difference; below 0 the change is an improvement

    @cached_property
    def estimate(self) -> Estimate:
        """The mean difference, with its interval over seeds."""
        return over_seeds(list(self.gaps.values()))

    @property
    def sign(self) -> int:
        """1 where the change helps, -1 where it hurts; 0 where the seeds leave it open, as one does, or below 0.01."""
        gap = self.estimate
        if math.isnan(gap.low) or abs(gap.value) < LEAST_GAP:
            return 0
        return int(gap.high < 0) - int(gap.low > 0)


def effects(
    rows: Sequence[Row],
    group: str,
    reference: str,
    measure: str = "error",
    references: Mapping[str, str] | None = None,
) -> dict[str, Effect]:
    """Every cell that shares a seed with its reference, in the order of the file.

    Args:
        references: cells that differ from another cell in one part and from ``reference`` in several: cell to that
            other cell, which its effect is then named after.
    """
    found = {}
    for cell in dict.fromkeys(r["cell"] for r in rows):
        base = (references or {}).get(cell, reference)
        without, own = (by_seed(rows, x, group, measure=measure) for x in (base, cell))
        gaps = {seed: own[seed] - without[seed] for seed in sorted(own.keys() & without.keys())}
        if cell != base and gaps:
            found[cell] = Effect(cell if base == reference else f"{cell} (minus {base})", gaps)
    return found


def tempting(found: Mapping[str, Effect]) -> tuple[Effect, int] | None:
    """The effect and the seed that contradict the other seeds most: opposite signs, the smaller side largest.

    Whoever had trained this one seed would have concluded the opposite of what each of the others says. None where
    there are no three seeds or where no seed contradicts all others.
    """
    best, most = None, 0.0
    for effect in found.values():
        for seed, gap in effect.gaps.items():
            others = [x for s, x in effect.gaps.items() if s != seed]
            if len(others) < 2 or any(gap * x >= 0 for x in others):
                continue
            if (size := min(abs(gap), abs(float(np.mean(others))))) > most:
                best, most = (effect, seed), size
    return best
