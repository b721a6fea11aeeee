"""Verdicts on the paper's claims, from the result files: a number with its interval, and what it says of a claim."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lorweb_mini.analysis.bootstrap import Estimate
from lorweb_mini.analysis.results import Effect, effects, rows_of
from lorweb_mini.files import read_json
from lorweb_mini.show.ablations import told

from .cells import BOTH, BOTH_PAPER, CONTEXT_TOTAL, FRESH, PAIR_ADAPTER, STARTER

ROOT = Path(__file__).resolve().parents[1]
HOLDS, FAILS, OPEN, MISSING, CANNOT = (
    "holds here",
    "does not hold here",
    "undecided here",
    "not measured yet",
    "cannot be tested here",
)
TRIVIAL = ("copy b", "copy a'", "latent arithmetic", "memoriser")
MEASURED = {
    "preserved_error": "error where nothing should change, in grey levels",
    "retrieval": "right relation nearest",
}
TOLD = {
    CONTEXT_TOTAL: "one LoRA",
    STARTER: "the basis",
    BOTH: "the basis that sees *a*, *a′*",
    BOTH_PAPER: "the basis that sees *a*, *a′*, with the paper's query",
    "query cat": "the basis with the paper's query",
    "query difference": "the basis with a difference as its query",
    PAIR_ADAPTER: "the pair-conditioned adapter",
}
Verdict = tuple[str, str]
"""The number with its interval, and one of the five verdicts."""


def report() -> dict[str, Any]:
    """The report of the published run of ``make run``.

    Raises:
        InputError: no such file, or half of one.
    """
    return read_json(ROOT / "figures" / "run" / "report.json", ("evaluation", "counterfactuals"))


def scored(group: str, method: str, measure: str = "error") -> Estimate:
    """A method's score on a group of the README's table; NaN where the report lacks it."""
    stored = report()["evaluation"]["groups"].get(group, {}).get(method, {}).get(measure)
    if stored is None:
        return Estimate(math.nan, math.nan, math.nan)
    return Estimate(*(math.nan if stored[k] is None else stored[k] for k in ("value", "low", "high")))


def apart(ours: Estimate, theirs: Estimate, larger: bool = False) -> str:
    """HOLDS where our interval lies on the better side of theirs, FAILS on the other side, OPEN where they overlap."""
    better, worse = ours.high < theirs.low, ours.low > theirs.high
    better, worse = (worse, better) if larger else (better, worse)
    return HOLDS if better else FAILS if worse else OPEN


def against_trivial(group: str) -> Verdict:
    """The starter against the nearest of copying, arithmetic and, where the report has it, the memoriser."""
    ours, rivals = scored(group, "LoRWeB"), {name: scored(group, name) for name in TRIVIAL}
    rivals = {name: rival for name, rival in rivals.items() if not math.isnan(rival.value)}
    if math.isnan(ours.value) or not rivals:
        return "–", MISSING
    best = min(rivals, key=lambda name: rivals[name].value)
    return f"error {told(ours)}, {best} {told(rivals[best])}", apart(ours, rivals[best])


def against_one(group: str, measure: str, larger: bool = False) -> Verdict:
    """The starter against one LoRA that sees a and a'."""
    ours, theirs = scored(group, "LoRWeB", measure), scored(group, "one LoRA", measure)
    if math.isnan(ours.value) or math.isnan(theirs.value):
        return "–", MISSING
    return f"{MEASURED[measure]} {told(ours)}, one LoRA {told(theirs)}", apart(ours, theirs, larger)


def from_effect(effect: Effect | None, sign: int, what: str) -> Verdict:
    """An effect over seeds; the claim holds where its sign is ``sign``, 1 for a change that helps.

    The difference is written the way round in which a negative one speaks for the claim.
    """
    if effect is None:
        return "–", MISSING
    count = "" if len(effect.gaps) == 1 else f", {len(effect.gaps)} seeds"
    verdict = {0: OPEN, sign: HOLDS}.get(effect.sign, FAILS)
    gap = effect.estimate
    return f"{what} {told(gap if sign > 0 else Estimate(-gap.value, -gap.high, -gap.low))}{count}", verdict


def change(
    cell: str, sign: int, group: str = "unseen", reference: str = STARTER, study: str = "ablations"
) -> Callable[[], Verdict]:
    """A claim about the trainings of a study: ``cell`` minus ``reference``."""
    first, second = (TOLD.get(name, f"*{name}*") for name in (cell, reference)[::sign])
    what = f"error of {first} minus {second}"
    return lambda: from_effect(effects(rows_of(study), group, reference).get(cell), sign, what)


def on_equal_terms(
    basis: str, group: str = "unseen", rival: str = CONTEXT_TOTAL, sign: int = -1
) -> Callable[[], Verdict]:
    """A claim about a basis against one LoRA on equal terms, or another rival of that study."""
    return change(rival, sign, group, basis, "headline")


def dialled(fixed: int, group: str = "unseen") -> Verdict:
    """Fresh relations against so many fixed ones."""
    found = effects(rows_of("dial"), group, str(fixed)).get(FRESH)
    return from_effect(found, 1, f"error with fresh relations minus with {fixed}")


def controlled(control: str, group: str = "drawn") -> Verdict:
    """The shipped starter against one of its controls."""
    found = {
        r["method"]: Estimate(*(float(r[k]) for k in ("error", "error_low", "error_high")))
        for r in rows_of("controls")
        if r["group"] == group and all(r.get(k) for k in ("error", "error_low", "error_high"))
    }
    if not {"LoRWeB", control} <= found.keys():
        return "–", MISSING
    return f"error {told(found['LoRWeB'])}, {control} {told(found[control])}", apart(found["LoRWeB"], found[control])


def swapped() -> Verdict:
    """Another pair of the same relation against a pair of another relation."""
    if (measured := report()["counterfactuals"]) is None:
        return "–", MISSING
    same, other = (Estimate(**measured[k]) for k in ("same", "other"))
    number = f"another pair of the relation moves the result by {told(same)}, one of another relation by {told(other)}"
    return number, apart(same, other)


def untestable() -> Verdict:
    """For claims about what is not in this repository."""
    return "–", CANNOT
