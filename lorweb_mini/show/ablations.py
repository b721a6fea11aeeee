"""Ablations as a figure, and questions that answer back on a page without a kernel."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
from matplotlib.figure import Figure

from ..analysis.bootstrap import Estimate
from ..analysis.results import Effect
from ..errors import InputError
from .style import COLOURS, INK, PALE, figure_of, styled, titled

VERDICTS = {1: "better", -1: "worse", 0: "undecided"}
VERDICT_LOOKS = {1: (COLOURS[0], "v"), -1: (COLOURS[4], "^"), 0: (PALE, "o")}
BOX = "border:1px solid #ddd;border-left:4px solid #0072B2;padding:.4em .9em;max-width:46em"


def told(value: Estimate, digits: int = 2) -> str:
    """A value with its interval in words; without one where only one training has it."""
    if math.isnan(value.value):
        return "no training yet"
    number, low, high = (f"{x:z.{digits}f}" for x in (value.value, value.low, value.high))
    return f"{number} (one seed)" if math.isnan(value.low) else f"{number} ({low} to {high})"


@styled
def forest(found: Mapping[str, Effect], title: str) -> Figure:
    """Each of at least one change as a row: a dot a seed, the mean, and the interval over seeds; the best on top."""
    if not found:
        raise InputError("expected effects of at least one change, got none")
    ordered = sorted(found.values(), key=lambda x: x.estimate.value)
    # Intervals over two or three seeds can be far wider than any effect.
    gaps = np.concatenate([list(x.gaps.values()) for x in ordered] + [[0.0]])
    pad = 0.35 * max(float(np.ptp(gaps)), 0.02)
    xlim = (gaps.min() - pad, gaps.max() + pad)
    figure, axes = figure_of(8.6, max(1.7, 0.9 + 0.2 * len(ordered)))
    axes.axvline(0, color=INK, lw=0.9)
    for y, effect in enumerate(ordered):
        colour, marker = VERDICT_LOOKS[effect.sign]
        gap = effect.estimate
        if not math.isnan(gap.low):
            axes.plot(np.clip([gap.low, gap.high], *xlim), [y, y], color=colour, lw=1.6)
            for end, side in ((gap.low, "<"), (gap.high, ">")):
                if not xlim[0] <= end <= xlim[1]:  # an arrow head: the interval goes on
                    axes.plot(np.clip(end, *xlim), y, side, color=colour, ms=6, clip_on=False)
        axes.scatter([gap.value], [y], s=34, color=colour, marker=marker, zorder=3)
        axes.scatter(list(effect.gaps.values()), [y] * len(effect.gaps), s=9, color=INK, linewidths=0, zorder=4)
    axes.set_yticks(range(len(ordered)), [x.cell for x in ordered])
    titled(axes, title, xlim=xlim, xlabel="error minus the starter's: left is better")
    axes.set_ylim(len(ordered) - 0.3, -0.7)
    axes.grid(axis="y", visible=False)
    for sign, (colour, marker) in VERDICT_LOOKS.items():
        axes.scatter([], [], color=colour, marker=marker, label=VERDICTS[sign])
    axes.scatter([], [], s=9, color=INK, label="a seed")
    figure.legend(loc="outside right upper", title="over the seeds", fontsize=8)
    return figure


def prediction(question: str, answers: Sequence[tuple[str, bool | None, str]]) -> str:
    """A question with answers to choose from, as HTML: a click on one opens what the numbers say of it.

    It needs no kernel and no script, so that it works on a page that was made without the reader. Each of at least two
    answers comes with whether it is right, None where that is undecided, and what is said of it.
    """
    if len(answers) < 2:
        raise InputError(f"expected at least two answers to choose from, got {len(answers)}")
    words = {True: "✓ Yes.", False: "✗ No.", None: "Undecided."}
    rows = "".join(
        f"<details><summary>{escape(answer)}</summary><p>{words[right]} {escape(said)}</p></details>"
        for answer, right, said in answers
    )
    return f"<div style='{BOX}'><b>Predict, then click on your answer.</b> {escape(question)}{rows}</div>"
