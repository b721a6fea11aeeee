"""Ablations as a figure, and questions that answer back on a page without a kernel."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ..analysis.bootstrap import Estimate
from ..analysis.results import Effect
from ..errors import InputError
from .space import SYMBOLS
from .style import COLOURS, INK, PALE, bars_of, figure_of, styled, titled

VERDICTS = {1: "better", -1: "worse", 0: "undecided"}
VERDICT_LOOKS = {1: (COLOURS[0], "v"), -1: (COLOURS[4], "^"), 0: (PALE, "o")}
DIFFERENCE = "error with the change minus error without it: left is better"
BOX = "border:1px solid #ddd;border-left:4px solid #0072B2;padding:.4em .9em;max-width:46em"


def told(value: Estimate, digits: int = 2) -> str:
    """A value with its interval in words; without one where only one training has it."""
    if math.isnan(value.value):
        return "no training yet"
    number, low, high = (f"{x:z.{digits}f}" for x in (value.value, value.low, value.high))
    return f"{number} (one seed)" if math.isnan(value.low) else f"{number} ({low} to {high})"


def labels_of(ordered: Sequence[Effect]) -> list[str]:
    """The changes' names; with the number of seeds where there are only one or two, and another change has more."""
    most = max(len(x.gaps) for x in ordered)
    seeds = [len(x.gaps) for x in ordered]
    return [
        x.cell if k == most or k > 2 else f"{x.cell} ({k} seed{'s'[: k > 1]})"
        for x, k in zip(ordered, seeds, strict=True)
    ]


@styled
def forest(found: Mapping[str, Effect], title: str, limit: float | None = None) -> Figure:
    """Each of at least one change as a row: a dot a seed, the mean, and the interval over seeds; the best on top.

    Args:
        limit: size of the largest difference that fits on the axis; an arrow with its number stands for a larger one.
    """
    if not found:
        raise InputError("expected effects of at least one change, got none")
    ordered = sorted(found.values(), key=lambda x: x.estimate.value)
    # Intervals over two or three seeds can be far wider than any effect.
    gaps = np.concatenate([list(x.gaps.values()) for x in ordered] + [[0.0]])
    if limit is not None:
        gaps = gaps[np.abs(gaps) <= limit]
    if len(ordered) == 1:  # there its interval is what is looked at
        gaps = np.append(gaps, [x for x in (ordered[0].estimate.low, ordered[0].estimate.high) if not math.isnan(x)])
    pad = 0.35 * max(float(np.ptp(gaps)), 0.02)
    xlim = (gaps.min() - pad, gaps.max() + pad)
    figure, axes = figure_of(8.6, max(1.7, 0.9 + 0.2 * len(ordered)))
    axes.axvline(0, color=INK, lw=0.9)
    for y, effect in enumerate(ordered):
        colour, marker = VERDICT_LOOKS[effect.sign]
        gap = effect.estimate
        if not xlim[0] <= gap.value <= xlim[1]:
            beyond = int(gap.value > 0)
            text = (f"← {gap.value:+.2f}", f"{gap.value:+.2f} →")[beyond]
            axes.text(xlim[beyond], y, text, ha=("left", "right")[beyond], va="center", size=8, color=colour)
            continue
        if not math.isnan(gap.low):
            axes.plot(np.clip([gap.low, gap.high], *xlim), [y, y], color=colour, lw=1.6)
            for end, side in ((gap.low, "<"), (gap.high, ">")):
                if not xlim[0] <= end <= xlim[1]:  # an arrow head: the interval goes on
                    axes.plot(np.clip(end, *xlim), y, side, color=colour, ms=6, clip_on=False)
        axes.scatter([gap.value], [y], s=34, color=colour, marker=marker, zorder=3)
        axes.scatter(list(effect.gaps.values()), [y] * len(effect.gaps), s=9, color=INK, linewidths=0, zorder=4)
    axes.set_yticks(range(len(ordered)), labels_of(ordered))
    axes.tick_params(axis="y", pad=8)  # room for the arrow heads
    titled(axes, title, xlim=xlim, xlabel=DIFFERENCE)
    axes.set_ylim(len(ordered) - 0.3, -0.7)
    axes.grid(axis="y", visible=False)
    for sign, (colour, marker) in VERDICT_LOOKS.items():
        axes.scatter([], [], color=colour, marker=marker, label=VERDICTS[sign])
    axes.scatter([], [], s=9, color=INK, label="a seed")
    figure.legend(loc="outside right upper", title="over the seeds", fontsize=8)
    return figure


def live_forest(
    groups: Mapping[str, Mapping[str, Effect]], chosen: str, limit: float, names: Mapping[str, str]
) -> dict[str, Any]:
    """The rows of :func:`forest` as a figure of plotly.js, with a list of groups; hovering over a dot shows its seed.

    Args:
        groups: group to its effects. names: group to what the list calls it.
        chosen: the group that is shown at first.
        limit: half the length of the axis; longer in a group where more than a tenth of the rows lie beyond. An arrow
            stands for a mean that lies beyond.
    """
    traces, buttons, owner = list[dict[str, Any]](), list[dict[str, Any]](), list[str]()
    for group, found in groups.items():
        ordered = sorted(found.values(), key=lambda x: -x.estimate.value)
        rows = dict(zip([x.cell for x in ordered], labels_of(ordered), strict=True))
        sizes = sorted(abs(x.estimate.value) for x in found.values())
        half = max(limit, 1.1 * sizes[int(0.9 * (len(sizes) - 1))])
        for sign, look in VERDICT_LOOKS.items():
            traces.append(_means([x for x in ordered if x.sign == sign], rows, VERDICTS[sign], look, half))
        dots = [(gap, rows[x.cell], f"{x.cell}<br>seed {s}: {gap:+.3f}") for x in ordered for s, gap in x.gaps.items()]
        places = {key: [dot[i] for dot in dots] for i, key in enumerate(("x", "y", "text"))}
        traces.append({**places, "name": "a seed", "marker": {"color": INK, "size": 5}})
        owner += [group] * (len(traces) - len(owner))
        order = {"yaxis.categoryarray": list(rows.values()), "xaxis.range": [-half, half]}
        buttons.append({"label": names.get(group, group), "method": "update", "args": [group, order]})
    for button in buttons:
        button["args"][0] = {"visible": [group == button["args"][0] for group in owner]}
    shared = {"type": "scatter", "mode": "markers", "hovertemplate": "%{text}<extra></extra>"}
    active = list(groups).index(chosen)
    menu = {"buttons": buttons, "active": active, "x": 0, "y": 1, "xanchor": "left", "yanchor": "bottom"}
    first = buttons[active]["args"][1]
    layout = {
        "width": 880,
        "height": 150 + 19 * max(len(found) for found in groups.values()),
        "margin": {"l": 250, "t": 60, "r": 20},
        "legend": {"x": 1, "y": 1, "xanchor": "right", "yanchor": "bottom", "orientation": "h"},
        "updatemenus": [menu | {"pad": {"b": 12}}],
        "xaxis": {"title": {"text": DIFFERENCE}, "zeroline": True, "range": first["xaxis.range"]},
        "yaxis": {"categoryorder": "array", "categoryarray": first["yaxis.categoryarray"], "tickfont": {"size": 11}},
    }
    visible = [{"visible": group == chosen} for group in owner]
    return {"data": [a | shared | b for a, b in zip(traces, visible, strict=True)], "layout": layout}


def _means(
    own: Sequence[Effect], rows: Mapping[str, str], name: str, look: tuple[str, str], half: float
) -> dict[str, Any]:
    """Means with their intervals as a trace of plotly.js; an arrow at the end of the axis for those beyond."""
    own = sorted(own, key=lambda x: abs(x.estimate.value) > half)  # the legend shows the first one's symbol
    values = np.array([x.estimate.value for x in own])
    beyond = np.abs(values) > half
    reach = [
        0 if out or math.isnan(x.estimate.low) else x.estimate.high - x.estimate.value
        for x, out in zip(own, beyond, strict=True)
    ]
    arrows = np.where(values > 0, "triangle-right", "triangle-left")
    return {
        "x": np.where(beyond, 0.98 * half * np.sign(values), values).tolist(),
        "y": [rows[x.cell] for x in own],
        "text": [f"{x.cell}<br>{told(x.estimate, 3)}<br>{name}" for x in own],
        "name": name,
        "marker": {"color": look[0], "size": 10, "symbol": np.where(beyond, arrows, SYMBOLS[look[1]]).tolist()},
        "error_x": {"array": reach, "thickness": 1.6, "width": 0, "color": look[0]},
    }


@styled
def along(panels: Mapping[str, Mapping[str, Mapping[str, Effect | None]]], xlabel: str = "") -> Figure:
    """Effects side by side along one quantity, a panel a title: dots of seeds, means, intervals over seeds.

    Args:
        panels: title to group of relations to place on the axis to the effect there, None for the reference itself.
    """
    figure, (row,) = figure_of(3.3 * len(panels) + 0.6, 2.9, ncols=len(panels), sharey=True, squeeze=False)
    for axes, (title, groups) in zip(row, panels.items(), strict=True):
        axes.axhline(0, color=INK, lw=0.9)
        places = list(dict.fromkeys(place for own in groups.values() for place in own))
        for i, ((group, own), colour) in enumerate(zip(groups.items(), (COLOURS[0], COLOURS[4]), strict=False)):
            shift, known = 0.16 * (i - (len(groups) - 1) / 2), [(p, e) for p, e in own.items() if e is not None]
            x = np.array([places.index(place) for place, _ in known]) + shift
            values, reach = bars_of(effect.estimate for _, effect in known)
            style = {"color": colour, "marker": "os"[i % 2], "ms": 6, "elinewidth": 1.4, "ls": "", "label": group}
            axes.errorbar(x, values, reach, **style)
            for place, (_, effect) in zip(x, known, strict=True):
                axes.scatter([place] * len(effect.gaps), list(effect.gaps.values()), s=8, color=INK, zorder=4)
        reference = [places.index(place) for own in groups.values() for place, effect in own.items() if effect is None]
        axes.scatter(reference, [0] * len(reference), s=36, color="white", edgecolors=INK, zorder=4)
        axes.set_xticks(range(len(places)), places)
        axes.set_xlim(-0.6, len(places) - 0.4)
        titled(axes, title, xlabel=xlabel)
        axes.grid(axis="x", visible=False)
    row[0].set_ylabel("error minus the starter's")
    handles, labels = row[0].get_legend_handles_labels()
    handles += [row[0].scatter([], [], s=8, color=INK), row[0].scatter([], [], s=36, color="white", edgecolors=INK)]
    figure.legend(handles, [*labels, "a seed", "the starter"], loc="outside right upper", fontsize=8)
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
