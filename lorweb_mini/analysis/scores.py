"""The results of an evaluation: scores by method and group of relations, as JSON and as a table."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import InputError
from .bootstrap import Estimate

MEASURES = ("error", "pixel_error", "edited_error", "preserved_error", "retrieval")


@dataclass(frozen=True)
class Score:
    """One method on one group of relations.

    Attributes:
        error: sum ‖result − b'‖² / sum ‖b − b'‖², b and b' as the autoencoder reconstructs them. Copying b scores 1.
        pixel_error: the same with the true pixels of b and b'.
        edited_error: as ``error``, over the edited pixels alone.
        preserved_error: root mean square error over the pixels that should stay, in grey levels of 255.
        retrieval: share of results that lie nearest to the right relation's answer; the mean over relations.
    """

    error: Estimate
    pixel_error: Estimate
    edited_error: Estimate
    preserved_error: Estimate
    retrieval: Estimate


@dataclass(frozen=True)
class Evaluation:
    """What :func:`evaluate` returns; ``as_json`` and ``from_json`` keep it in a file.

    Attributes:
        groups: group to method to :class:`Score`.
        relations: relation to method to measure to value; missing values are NaN.
        members: group to the names of its relations.
        analogies: how many analogies of each relation were judged.
        chance: for each group the mean of 1 / K, what retrieval scores by guessing.
        judge: for each group the feature distance (see :mod:`~lorweb_mini.models.encoders`) of every method, and of the
            ``true answer`` and ``shuffled answers``; empty without a judge.
        seconds: seconds a picture, for each method.
    """

    groups: dict[str, dict[str, Score]]
    relations: dict[str, dict[str, dict[str, float]]]
    members: dict[str, list[str]]
    analogies: dict[str, int]
    chance: dict[str, float]
    judge: dict[str, dict[str, Estimate]]
    seconds: dict[str, float]
    resamples: int
    seed: int

    def as_json(self) -> dict[str, Any]:
        """Plain dictionaries, lists and numbers; NaN becomes None."""
        return without_nan(asdict(self))

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Evaluation:
        """The inverse of :meth:`as_json`."""
        stored = _each_number(stored, lambda x: math.nan if x is None else x)
        groups = {
            group: {
                method: Score(**{measure: Estimate(**x) for measure, x in score.items()})
                for method, score in scores.items()
            }
            for group, scores in stored["groups"].items()
        }
        judge = {g: {method: Estimate(**x) for method, x in part.items()} for g, part in stored["judge"].items()}
        return cls(**{**stored, "groups": groups, "judge": judge})


def without_nan(x: Any) -> Any:
    """Dictionaries, lists and numbers with every NaN replaced by None, which JSON can hold."""
    return _each_number(x, lambda value: None if isinstance(value, float) and math.isnan(value) else value)


def _each_number(x: Any, function: Callable[[Any], Any]) -> Any:
    """Applies a function to all that dictionaries and lists hold in the end."""
    if isinstance(x, Mapping):
        return {k: _each_number(v, function) for k, v in x.items()}
    if isinstance(x, list | tuple):
        return [_each_number(v, function) for v in x]
    return function(x)


def table(evaluation: Evaluation, measure: str = "error") -> str:
    """One measure as a Markdown table: a method a row, a group of relations a column, 95 % intervals in brackets.

    Raises:
        InputError: a measure outside :data:`MEASURES`.
    """
    if measure not in MEASURES:
        raise InputError(f"expected a measure out of {MEASURES}, got {measure!r}")
    groups = list(evaluation.groups)
    rows = [["method", *(f"{g} ({len(evaluation.members[g])})" for g in groups)]]
    for method in evaluation.seconds:
        rows.append([method, *(str(getattr(evaluation.groups[g][method], measure)) for g in groups)])
    if measure == "retrieval":
        chances = [evaluation.chance[g] for g in groups]
        rows.append(["*chance*", *("–" if math.isnan(c) else f"{c:.2f}" for c in chances)])
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|---|" + "---|" * len(groups), *lines[1:]])
