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

    The normalised error is sum ‖result − b'‖² / sum ‖b − b'‖²; copying b scores 1.
    """

    error: Estimate  # normalised, b and b' as the autoencoder reconstructs them
    pixel_error: Estimate  # the same with the true pixels of b and b'
    edited_error: Estimate  # as error, over the edited pixels alone
    preserved_error: Estimate  # root mean square over the pixels that should stay, in grey levels of 255
    retrieval: Estimate  # share of results that lie nearest to the right relation's answer; the mean over relations


@dataclass(frozen=True)
class Evaluation:
    """What :func:`~lorweb_mini.analysis.evaluation.evaluate` returns; ``as_json`` and ``from_json`` keep it in a file.

    ``judge`` has the feature distance (see :mod:`~lorweb_mini.models.encoders`) of every method, and of the
    ``true answer`` and ``shuffled answers``; it is empty without a judge.
    """

    groups: dict[str, dict[str, Score]]  # group to method to score
    relations: dict[str, dict[str, dict[str, float]]]  # relation to method to measure to value, NaN where missing
    members: dict[str, list[str]]  # group to the names of its relations
    analogies: dict[str, int]  # how many of each relation were judged
    chance: dict[str, float]  # for each group the mean of 1 / K, what retrieval scores by guessing
    judge: dict[str, dict[str, Estimate]]
    seconds: dict[str, float]  # a picture, for each method
    resamples: int
    seed: int

    def as_json(self) -> dict[str, Any]:
        """Plain dictionaries, lists and numbers; NaN becomes None."""
        return without_nan(asdict(self))

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Evaluation:
        """The inverse of :meth:`as_json`."""
        stored = _each_number(stored, lambda x: math.nan if x is None else x)

        def estimates(values: Mapping[str, Any]) -> dict[str, Estimate]:
            return {name: Estimate(**x) for name, x in values.items()}

        groups = {g: {m: Score(**estimates(x)) for m, x in methods.items()} for g, methods in stored["groups"].items()}
        judge = {group: estimates(values) for group, values in stored["judge"].items()}
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
    """One of :data:`MEASURES` as a Markdown table: a method a row, a group a column, 95 % intervals in brackets."""
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
