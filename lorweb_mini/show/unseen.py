"""Figures of what happens outside the training: questions, groups of relations, foresight, fitting, the dial.

They raise :class:`InputError` where there is nothing to draw, and for names or numbers that do not fit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from sklearn.metrics import roc_curve
from torch import Tensor

from ..analysis.bootstrap import Estimate
from ..analysis.fitting import Curves
from ..analysis.generalisation import WORKS
from ..emoji.relations import Analogy
from ..errors import InputError
from .figures import appearance
from .style import COLOURS, INK, LINE, MARKERS, PALE, Board, bars_of, figure_of, panels, styled, titled

Values = Mapping[str, Mapping[str, Estimate]]
"""Group to method to a value with its interval."""
DEGREE_LOOKS = {
    "strength": (COLOURS[0], "o"),
    "composition": (COLOURS[1], "s"),
    "inside": (COLOURS[2], "^"),
    "between": (COLOURS[3], "D"),
    "outside": (COLOURS[4], "X"),
}


@styled
def span_map(entries: Sequence[Mapping[str, Any]], least: float, inside: float, outside: float) -> Figure:
    """Candidates for unseen relations: the memoriser's error against that of the best chain of trained edits.

    Args:
        entries: with ``degree``, ``memoriser``, ``nearest_chain`` and ``held_out``, as in ``data/unseen.json``.
        least: from which error of the memoriser on a relation counts as unseen.
        inside, outside: up to which error of the best chain a new kind lies inside the span, from which outside.
    """
    figure, axes = figure_of(7.6, 4)
    for degree, (colour, marker) in DEGREE_LOOKS.items():
        for held in (True, False):
            own = [e for e in entries if e["degree"] == degree and e["held_out"] == held]
            if own:
                x, y = np.array([[max(e["nearest_chain"], 1e-3), max(e["memoriser"], 1e-2)] for e in own]).T
                style = {"facecolors": colour if held else "none", "edgecolors": colour, "marker": marker, "s": 30}
                axes.scatter(x, y, label=f"{degree} ({len(own)})" if held else None, **style)
    axes.axhline(least, color=INK, lw=1, ls="--", label=f"memoriser errs by {least:g}")
    for place, text in ((inside, "inside"), (outside, "outside")):
        axes.axvline(place, color=PALE, lw=1, ls=":")
        side = {"ha": "right"} if text == "inside" else {"ha": "left"}
        axes.annotate(f" {text} ", (place, 0.02), xycoords=("data", "axes fraction"), size=8, color=PALE, **side)
    titled(axes, "What was considered (outlines) and what was held out (filled)", xscale="log", yscale="log")
    axes.set_xticks((1e-3, 1e-2, 1e-1, 1), ("≤ 0.001", "0.01", "0.1", "1"))
    axes.set_yticks((1e-2, 1e-1, 1), ("0.01", "0.1", "1"))
    axes.set(xlabel="error of the best chain of trained edits", ylabel="error of the memoriser")
    figure.legend(loc="outside right upper", title="group", fontsize=8)
    return figure


@styled
def questions(items: Sequence[Analogy], labels: Sequence[str], columns: int = 3, size: float = 0.72) -> Figure:
    """Analogies as a : a' :: b : ?, numbered from 1, without an answer; ``size`` of a picture in inches."""
    if not items or len(labels) != len(items):
        raise InputError(f"expected labels for {len(items)} analogies, got {len(labels)}")
    columns, far, margin = min(columns, len(items)), 0.24, 0.2
    block, line = 4 * size + 3 * far, size + 0.42
    height = 2 * margin + -(-len(items) // columns) * line - 0.1
    board = Board(2 * margin + columns * block + (columns - 1) * 3 * far, height)
    for i, (item, label) in enumerate(zip(items, labels, strict=True)):
        row, column = divmod(i, columns)
        left, top = margin + column * (block + 3 * far), margin + row * line + 0.26
        board.text(left, top - 0.07, f"{i + 1}  {label}", size=8, va="bottom")
        for j, picture in enumerate((item.a, item.a_prime, item.b)):
            board.picture(picture, left + j * (size + far), top, size)
        for j, sign in enumerate((":", "::", ":"), 1):
            board.text(left + j * (size + far) - far / 2, top + size / 2, sign, ha="center", color=PALE)
        board.text(left + 3 * (size + far) + size / 2, top + size / 2, "?", size=20, ha="center", color=COLOURS[0])
    return board.figure


def same_names(values: Values, what: str) -> list[str]:
    """The names that all groups have, in the same order; InputError where they differ."""
    names = list(next(iter(values.values()), {}))
    if not names or any(list(own) != names for own in values.values()):
        raise InputError(f"expected groups with the same {what}, got {[list(own) for own in values.values()]}")
    return names


@styled
def by_group(values: Values, label: str, reference: float | None = 1.0, top: float | None = None) -> Figure:
    """Methods side by side in every group of relations, with their intervals.

    Args:
        reference: a dashed line, by default what copying b scores.
        top: end of the axis; what lies above it is written at its edge.
    """
    methods = same_names(values, "methods")
    figure, axes = figure_of(max(7.0, 1.75 * len(values) + 2), 3.1)
    if reference is not None:
        axes.axhline(reference, color=PALE, lw=1, ls="--", zorder=0)
    width, beyond = 0.8 / len(methods), [0] * len(values)
    for i, (method, (colour, marker)) in enumerate(appearance(methods).items()):
        column = [own[method] for own in values.values()]
        offset = width * (i - (len(methods) - 1) / 2)
        known = [(g, e) for g, e in enumerate(column) if not np.isnan(e.value) and (top is None or e.value <= top)]
        style = {"color": colour, "marker": marker, "ms": 5, "elinewidth": 1.2, "ls": "", "label": method}
        axes.errorbar(np.array([g for g, _ in known]) + offset, *bars_of(e for _, e in known), **style)
        for g, e in enumerate(column):
            if top is not None and e.value > top:
                line = top * (1 - 0.08 * beyond[g])  # under each other: they are wider than a method's place
                axes.text(g + offset, line, f"{e.value:.1f} ↑", ha="center", va="top", size=8.5, color=colour)
                beyond[g] += 1
    axes.set_xticks(range(len(values)), [fill(group, 13) for group in values])
    # A marker at the very end of the axis would be cut in half.
    axes.set(ylim=(0 if top is None else -0.03 * top, None if top is None else 1.03 * top), ylabel=label)
    axes.grid(axis="x", visible=False)
    for edge in np.arange(len(values) - 1) + 0.5:
        axes.axvline(edge, color=LINE, lw=0.8, zorder=0)
    figure.legend(loc="outside right upper", fontsize=8)
    return figure


@styled
def shares(values: Mapping[str, Mapping[str, float]], title: str) -> Figure:
    """Shares that sum to 1 as one bar a row: row to part to share; rows have the same parts in the same order."""
    figure, axes = figure_of(8.4, 1.1 + 0.34 * len(values))
    left, parts = np.zeros(len(values)), list(next(iter(values.values())))
    for part, colour in zip(parts, (PALE, COLOURS[2], COLOURS[1], COLOURS[0]), strict=False):
        widths = np.array([own[part] for own in values.values()])
        axes.barh(range(len(values)), widths, left=left, color=colour, label=part, height=0.7)
        for y, (start, width) in enumerate(zip(left, widths, strict=True)):
            if width > 0.06:
                axes.text(start + width / 2, y, f"{width:.0%}", ha="center", va="center", size=8, color="white")
        left += widths
    axes.set_yticks(range(len(values)), list(values))
    axes.invert_yaxis()
    axes.set_xticks((0, 0.5, 1), ("0", "50 %", "100 %"))
    titled(axes, title, xlim=(0, 1), xlabel="share of the results")
    axes.grid(False)
    figure.legend(loc="outside right center", title="nearest to", fontsize=8)
    return figure


@styled
def foresight(
    scores: Mapping[str, np.ndarray], errors: np.ndarray, groups: Sequence[str], aucs: Mapping[str, Estimate]
) -> Figure:
    """The first score against the error, a point an analogy, and how well every score ranks the failures.

    Args:
        scores, aucs: name to values [k] that are known before anything is drawn, and to their AUC.
        errors: normalised errors [k]; above ``WORKS`` counts as a failure.
        groups: of the k analogies, for their colours.
    """
    (name, first), failed = next(iter(scores.items())), errors > WORKS
    figure, (left, right) = figure_of(10.4, 3.6, ncols=2, width_ratios=(1.5, 1))
    for group, (colour, marker) in appearance(groups).items():
        own = np.asarray(groups) == group
        left.scatter(first[own], errors[own].clip(1e-3), s=14, color=colour, marker=marker, alpha=0.7, label=group)
    left.axhline(WORKS, color=INK, lw=1, ls="--")
    works = f"{failed.sum()} of {len(errors)} analogies fail"
    titled(left, works, xlabel=name, ylabel="error (copying b = 1)", yscale="log")
    left.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    left.yaxis.set_major_formatter("{x:g}")
    left.yaxis.set_minor_locator(NullLocator())
    right.plot([0, 1], [0, 1], color=PALE, ls=":", label="chance")
    for (score, values), colour, dash in zip(scores.items(), COLOURS, ("-", "--", "-.", ":"), strict=False):
        if 0 < failed.sum() < len(failed):
            right.plot(*roc_curve(failed, values)[:2], color=colour, ls=dash, label=f"{score}: AUC {aucs[score]}")
    titled(right, "Foreseen", xlabel="share of the successes called failures", ylabel="share of the failures found")
    for axes, ncols in ((left, 3), (right, 1)):
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=ncols, fontsize=8)
    return figure


@styled
def fit_curves(curves: Curves, groups: Mapping[str, Sequence[str]]) -> Figure:
    """Median error of each group on b (lines) and on a (dashed) against the seconds of fitting an example."""
    items = next(iter(curves.on_b.values()))[0].items
    rows_of = {g: [i for i, x in enumerate(items) if x.relation in names] for g, names in groups.items()}
    present = {g: rows for g, rows in rows_of.items() if rows}
    if not present:
        raise InputError(f"expected groups with relations that were fitted, got {list(groups)}")
    figure, (row,) = figure_of(2.5 * len(present) + 1.8, 2.9, ncols=len(present), sharey=True, squeeze=False)
    for axes, (group, rows) in zip(row, present.items(), strict=True):
        for (way, seconds), colour, marker in zip(curves.seconds.items(), COLOURS, MARKERS, strict=False):
            for place, judged, dash in (("b", curves.on_b[way], "-"), ("a itself", curves.on_a[way], "--")):
                y = [float(np.median(x.relative(way)[rows])) for x in judged]
                axes.plot(seconds, y, color=colour, marker=marker, ms=4, ls=dash, label=f"{way}, on {place}")
        axes.axhline(1, color=PALE, lw=0.9, ls=":")
        axes.set(ylim=(0, 1.6))
        axes.xaxis.set_major_locator(MaxNLocator(3))
        axes.set_title(f"{group} ({len(rows)})", loc="left", size=9)
    row[0].set_ylabel("median error")
    figure.supxlabel("seconds of fitting an example (at 0: routed, and the bare base)", size=9)
    figure.legend(*row[0].get_legend_handles_labels(), loc="outside right upper", fontsize=8, handlelength=3.5)
    return figure


@styled
def fit_frame(item: Analogy, drawn: Sequence[Tensor], steps: Sequence[int], errors: Sequence[float]) -> Figure:
    """One moment of a fit: a, a' and b, the last of the answers drawn so far, the true b', and all errors so far."""
    size, gap = 1.05, 0.18
    board = Board(5 * size + 4 * gap + 4.6, size + 0.75)
    names = ("a", "a′", "b", f"after {steps[-1]} steps", "true b′")
    for i, picture in enumerate((item.a, item.a_prime, item.b, drawn[-1], item.b_prime)):
        x = 0.2 + i * (size + gap)
        board.text(x + size / 2, 0.2, names[i], size=9, ha="center", color=COLOURS[0] if i == 3 else PALE)
        board.picture(picture, x, 0.36, size, COLOURS[0] if i == 3 else None)
    axes = board.axes(5 * (size + gap) + 0.75, 0.36, 3.2, size - 0.05)
    axes.plot(steps, errors, color=COLOURS[0], marker="o", ms=3)
    axes.axhline(1, color=PALE, lw=0.9, ls=":")
    axes.set(ylim=(0, max(1.1, 1.1 * max(errors))), xlim=(0, max(1, *steps)), xlabel="steps", ylabel="error on b")
    return board.figure


@styled
def lines(values: Values, xlabel: str, ylabel: str = "error (copying b = 1)", axes: Axes | None = None) -> Figure:
    """A line with intervals for each name: name to a place on the axis to its value."""
    if axes is None:
        _, axes = figure_of(6.2, 3)
    places = list(dict.fromkeys(place for own in values.values() for place in own))
    for i, ((name, own), colour, marker) in enumerate(zip(values.items(), COLOURS, MARKERS, strict=False)):
        x = np.array([places.index(place) for place in own]) + 0.06 * (i - (len(values) - 1) / 2)
        axes.errorbar(x, *bars_of(own.values()), color=colour, marker=marker, ms=5, elinewidth=1, label=name)
    axes.set_xticks(range(len(places)), places)
    axes.set(xlabel=xlabel, ylabel=ylabel, ylim=(0, None))
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), fontsize=8)
    return axes.figure  # type: ignore[return-value]


@styled
def dial(rows: Sequence[Mapping[str, str]], columns: int = 4) -> Figure:
    """Error against the number M of distinct trained relations, a panel a group, a dot a training.

    Lines are medians over seeds. In rows of ``data/results/dial.csv`` the ``cell`` is M or ``fresh``.
    """
    if not rows:
        raise InputError("expected rows of the study of the dial, got none")
    sizes = sorted({row["cell"] for row in rows}, key=lambda m: (m == "fresh", 0 if m == "fresh" else int(m)))
    groups, methods = (list(dict.fromkeys(row[key] for row in rows)) for key in ("group", "method"))
    top = max(1.6, 1.05 * max(float(row["error"]) for row in rows))
    figure, grid = panels(len(groups), columns, (2.7, 2.6))
    for axes, group in zip(grid, groups, strict=False):
        for method, (colour, marker) in appearance(methods).items():
            own = [r for r in rows if (r["group"], r["method"]) == (group, method)]
            if not own:
                continue
            x, y = np.array([[sizes.index(r["cell"]), float(r["error"])] for r in own]).T
            axes.scatter(x, y, s=12, color=colour, marker=marker, alpha=0.5, linewidths=0)
            places = np.unique(x)
            axes.plot(places, [np.median(y[x == place]) for place in places], color=colour, label=method)
        axes.axhline(1, color=PALE, lw=0.9, ls=":")
        axes.set_xticks(range(len(sizes)), ["∞" if m == "fresh" else m for m in sizes])
        axes.set_title(group.replace("drawn", "sampled"), loc="left", size=9)
    grid[0].set(ylabel="error (copying b = 1)", ylim=(0, min(top, 2)))
    figure.supxlabel("distinct relations in training, M (∞: a fresh one for every sample)", size=9)
    handles = {label: line for axes in grid for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside right upper", fontsize=8)
    return figure
