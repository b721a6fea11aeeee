"""Figures and tables of walks through the LoRA space, and of analogies added or averaged.

They raise :class:`InputError` where there is nothing to draw, and for unknown paths or different names.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ..analysis.bootstrap import Estimate, beyond_doubt
from ..analysis.generalisation import LEAST_GAP
from ..analysis.walking import PATHS, Trace
from ..errors import InputError
from .space import table as markdown_table
from .style import COLOURS, MARKERS, PALE, bars_of, figure_of, panels, styled
from .unseen import Values, lines, same_names

Traces = Mapping[str, Trace]
"""Path to what its walks did."""
REFERENCES = {"nearer true end": ":", "blend of true ends": "-."}
LOOKS = {path: (COLOURS[i], MARKERS[i], "-") for i, path in enumerate(PATHS[:-1])}
LOOKS |= {"asked": (COLOURS[5], "P", "--"), **{name: (PALE, "", dash) for name, dash in REFERENCES.items()}}


@styled
def error_panels(measured: Mapping[str, Traces], columns: int = 4, top: float = 1.6) -> Figure:
    """Normalised error against t with 95 % intervals, a panel a ladder; ladders that go beyond ``top`` are marked.

    ``measured`` is ladder to path to trace, with the same paths of :data:`LOOKS` for all ladders.
    """
    _check(measured)
    figure, grid = panels(len(measured), columns, (2.8, 2.3), spare=1)
    for axes, (name, traces) in zip(grid, measured.items(), strict=False):
        highest = 0.0
        for i, (path, trace) in enumerate(traces.items()):
            colour, marker, dash = LOOKS[path]
            kept = [(t, e) for t, e in zip(trace.ts, trace.errors(), strict=True) if not np.isnan(e.value)]
            at, (values, reach) = np.array([t for t, _ in kept]), bars_of(e for _, e in kept)
            highest = max(highest, *values)
            if path in REFERENCES:
                axes.plot(at, values, color=colour, ls=dash, lw=1.1, label=path, zorder=1)
                continue
            style: dict[str, Any] = {
                "color": colour,
                "ls": dash,
                "marker": marker,
                "ms": 3.4,
                "lw": 1.1,
                "elinewidth": 0.6,
            }
            axes.errorbar(at + 0.022 * (i - 2.5), values, reach, label=path, **style)
        axes.axvspan(0, 1, color="#F6F6F6", zorder=0)
        axes.set_title(name + (" (↑ cut off)" if highest > top else ""), size=8.5)
        axes.set(ylim=(0, top), xticks=[0, 0.5, 1])
    grid[len(measured)].legend(*grid[0].get_legend_handles_labels(), loc="center", fontsize=8)
    figure.supylabel("error (length of the walk = 1)", size=9)
    figure.supxlabel("t; grey: between the two analogies", size=9)
    return figure


@styled
def reached_panels(measured: Mapping[str, Traces], paths: Sequence[str]) -> Figure:
    """Mean place of the nearest rung against t in [0, 1], a panel a ladder; the truth is the diagonal."""
    _check(measured)
    figure, (row,) = figure_of(12.5, 2.7, ncols=len(measured), sharey=True, squeeze=False)
    for axes, (name, traces) in zip(row, measured.items(), strict=True):
        for path in paths:
            inside = [i for i, t in enumerate(traces[path].ts) if 0 <= t <= 1]
            colour, marker, dash = LOOKS[path]
            ts, reached = [traces[path].ts[i] for i in inside], traces[path].reached()[inside]
            axes.plot(ts, reached, color=colour, marker=marker, ms=4, ls=dash, label=path)
        axes.plot([0, 1], [0, 1], color=PALE, lw=0.9, ls=":", label="the truth")
        axes.set_title(name, size=9)
        axes.set(xticks=[0, 0.5, 1], ylim=(-0.05, 1.05))
    row[0].set_ylabel("mean place of the nearest rung")
    figure.supxlabel("t: how much of the LoRA", size=9)
    figure.legend(*row[0].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    return figure


def _check(measured: Mapping[str, Traces]) -> None:
    unknown = {path for traces in measured.values() for path in traces} - set(LOOKS)
    if not measured or unknown:
        raise InputError(f"expected ladders with paths out of {list(LOOKS)}, got {sorted(unknown) or 'no ladders'}")


@styled
def recipe_intervals(values: Values, pale: Collection[str] = (), contrast: Collection[str] = ()) -> Figure:
    """Error of each way to combine analogies as a dot with its interval, a panel a group; copying b is dashed.

    Args:
        values: group to way to error; the same ways in every group.
        pale, contrast: ways drawn in grey, and in the second colour.
    """
    ways = same_names(values, "ways")
    figure, (row,) = figure_of(11.5, 3.7, ncols=len(values), sharey=True, squeeze=False)
    for axes, (group, own) in zip(row, values.items(), strict=True):
        axes.axvline(1, color=COLOURS[4], lw=1, ls="--")
        for y, (name, value) in enumerate(reversed(list(own.items()))):
            colour = PALE if name in pale else COLOURS[1] if name in contrast else COLOURS[0]
            axes.plot([value.low, value.high], [y, y], color=colour, lw=2.4, solid_capstyle="round")
            axes.plot(value.value, y, "o", color=colour, ms=6, markeredgecolor="white")
        axes.set_title(group, size=9)
        axes.set(xlim=(0, 2.2))
        axes.grid(axis="y", visible=False)
    row[0].set_yticks(range(len(ways)), ways[::-1])
    label = "normalised error (copying b = 1, dashed); median over relations, 95 % interval over concepts"
    figure.supxlabel(label, size=9)
    return figure


@styled
def example_panels(groups: Mapping[str, Values]) -> Figure:
    """Error against the number of examples, a panel a group: title to way to number of examples to error."""
    if not groups:
        raise InputError("expected at least one panel, got none")
    figure, (row,) = figure_of(11.5, 2.9, ncols=len(groups), squeeze=False)
    for axes, (title, values) in zip(row, groups.items(), strict=True):
        lines(values, "examples k", "", axes)
        axes.get_legend().remove()
        axes.set_title(title, size=9)
    row[0].set_ylabel("normalised error")
    legend = row[0].get_legend_handles_labels()
    figure.legend(*legend, loc="outside right upper", title="average in", fontsize=8)
    return figure


def walk_table(measured: Mapping[str, Traces], sharpness: Mapping[str, Mapping[str, float]], path: str) -> str:
    """The measures of one path as a Markdown table, a line a ladder, with its sharpness at t = 1/2."""
    rows = []
    for name, traces in measured.items():
        x = traces[path]
        at_half, count = x.errors()[x.ts.index(0.5)], f"{len(x.concepts)} ({len(set(x.concepts))})"
        cells = [x.right_ends(), x.order(), x.monotone(), f"{x.chance:.2f}", x.midpoint(), f"{1 / x.rungs:.2f}"]
        rows.append([name, count, *cells, at_half, f"{sharpness[name][path]:.2f}"])
    head = ["ladder", "walks (concepts)", "right ends", "order", "monotone", "chance", "midpoint", "chance"]
    return markdown_table([*head, "error at ½", "sharpness at ½"], rows)


def marked(gap: Estimate, concepts: Sequence[str]) -> str:
    """A difference of errors after ▼ (smaller) or ▲ (larger) where that is beyond doubt, by 0.01 at least."""
    return f"{('', '▲', '▼')[beyond_doubt(gap, concepts, LEAST_GAP)]} {gap}".strip()
