"""Plots of trainings, routings and measures. Every function returns a matplotlib ``Figure`` and shows nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..algebra import Map
from ..analysis.scores import MEASURES, Evaluation
from ..emoji.relations import Analogy, as_batch
from ..errors import InputError
from ..images import to_pil
from ..training.log import read_log
from .style import COLOURS, INK, MARKERS, PALE, figure_of, styled, titled

if TYPE_CHECKING:
    from ..training.live_training import Film

MEASURE_LABELS = {
    "error": "normalised error (copying b = 1)",
    "pixel_error": "normalised error against true pixels",
    "edited_error": "normalised error on the edited pixels",
    "preserved_error": "error on the preserved pixels (grey levels of 255)",
    "retrieval": "relation retrieval (share right)",
}
METHOD_LOOKS = {
    "LoRWeB": (COLOURS[0], "o"),
    "memoriser": (COLOURS[5], "P"),
    "oracle instruction": (COLOURS[3], "D"),
    "one LoRA": (COLOURS[1], "s"),
    "copy b": (COLOURS[6], "X"),
}
COMPOSED = "compose"  # the family of compositions
Log = str | Path | Sequence[Mapping[str, float]]
"""A ``log.csv``, or its rows."""


def appearance(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker for each different name, in order; no two share both up to 64 names.

    Methods that several figures compare have the same look in all of them.
    """
    count = len(COLOURS)
    every = [(COLOURS[i % count], MARKERS[(i + i // count) % len(MARKERS)]) for i in range(count * len(MARKERS))]
    looks = {name: METHOD_LOOKS[name] for name in names if name in METHOD_LOOKS}
    taken = {colour for colour, _ in looks.values()}
    free = cycle(sorted((look for look in every if look not in looks.values()), key=lambda look: look[0] in taken))
    return {name: looks.get(name) or next(free) for name in dict.fromkeys(names)}


@styled
def pca_map(
    plane: Map,
    families: Sequence[str],
    unseen: Sequence[bool] | None = None,
    title: str = "The LoRA space: each point is the routing of one analogy",
) -> Figure:
    """At least two components of routing vectors: a colour and marker for each family, outlines for unseen relations.

    Compositions, the family ``compose``, are small grey points in the background.
    """
    unseen = [False] * len(families) if unseen is None else unseen
    if plane.points.shape[1] < 2 or not len(families) == len(unseen) == len(plane.points):
        raise InputError(
            "expected two components and a family and a flag for each point, "
            f"got {list(plane.points.shape)}, {len(families)} and {len(unseen)}"
        )
    names, outlined = np.asarray(families), np.asarray(unseen, bool)
    single = sorted({name for name in families if name != COMPOSED})
    looks = {COMPOSED: (PALE, "."), **appearance(single)}
    figure, axes = figure_of(9.2, 5.6)
    for name, (colour, marker) in looks.items():
        for outline in (False, True):
            points = plane.points[(names == name) & (outlined == outline), :2]
            label = "two edits" if name == COMPOSED else name.removeprefix("edit/").replace("_", " ")
            style = {"facecolors": "none" if outline else colour, "edgecolors": colour, "linewidths": 1.1 * outline}
            if len(points):
                label += " (unseen)" * outline
                axes.scatter(*points.T, s=22, marker=marker, alpha=0.8, label=label, **style)
    first, second = (f"{share:.0%}" for share in plane.explained[:2])
    titled(axes, title, xlabel=f"first component ({first} of the variance)", ylabel=f"second component ({second})")
    figure.legend(loc="outside right upper", fontsize=8, labelspacing=0.4, handletextpad=0.3)
    return figure


@styled
def training_curves(log: Log, n_loras: int) -> Figure:
    """Loss over time, and for a routed basis the health of its router beside it."""
    rows = _rows(log)
    figure, (left, right) = figure_of(10.4, 3.7, ncols=2)
    _curves(left, rows, {"loss": "flow-matching loss"})
    title = f"Training: {int(rows[-1]['step']):,} steps, {int(rows[-1]['samples']):,} samples"
    titled(left, title, ylabel="flow-matching loss (mean of 100 steps)")
    return routing_curves(rows, n_loras, right) if "entropy" in rows[0] else figure


@styled
def routing_curves(log: Log, n_loras: int, axes: Axes | None = None) -> Figure:
    """Health of the router over time: entropy of a routing, entropy of the mean routing, variation by input."""
    rows = _rows(log)
    if "entropy" not in rows[0]:
        raise InputError("expected the log of a routed basis, got one without the column entropy")
    if axes is None:
        _, axes = figure_of(5.2, 3.2)
    uniform = np.log(n_loras)
    axes.axhline(uniform, color=PALE, lw=0.9)
    axes.annotate(f"ln {n_loras}: uniform", (1, uniform), (0, 3), xycoords=("axes fraction", "data"),
                  textcoords="offset points", ha="right", size=8, color=PALE)  # fmt: skip
    columns = {
        "usage": "usage: entropy of the mean (nats)",
        "entropy": "entropy of one routing (nats)",
        "variation": "variation with the input (L1)",
    }
    _curves(axes, rows, columns)
    title = "The router must neither stay uniform nor collapse"
    titled(axes, title, ylim=(0, 1.15 * uniform), ylabel="nats, or L1 distance")
    axes.legend(loc="best", fontsize=8)
    return axes.figure  # type: ignore[return-value]


def _curves(axes: Axes, rows: Sequence[Mapping[str, float]], columns: Mapping[str, str]) -> None:
    minutes = [row["seconds"] / 60 for row in rows]
    for (key, label), colour, dash in zip(columns.items(), COLOURS, ("-", "--", ":"), strict=False):
        axes.plot(minutes, [row[key] for row in rows], color=colour, ls=dash, label=label)
    axes.set_xlabel("minutes of training")


def _rows(log: Log) -> Sequence[Mapping[str, float]]:
    rows = read_log(log) if isinstance(log, str | Path) else log
    if not rows:
        raise InputError(f"expected a training log with at least one row, got none in {log}")
    return rows


@styled
def error_bars(evaluation: Evaluation, measure: str = "error") -> Figure:
    """One measure of every method, a panel a group of relations, with 95 % bootstrap intervals; dots are relations."""
    if measure not in MEASURES:
        raise InputError(f"expected a measure out of {MEASURES}, got {measure!r}")
    groups, methods = list(evaluation.groups), list(evaluation.seconds)[::-1]
    width, height = 1.9 + 2.15 * len(groups), 1.15 + 0.34 * len(methods)
    figure, (row,) = figure_of(width, height, ncols=len(groups), sharey=True, squeeze=False)
    highest = np.nanmax([getattr(s, measure).high for g in groups for s in evaluation.groups[g].values()] + [1.0])
    for axes, group in zip(row, groups, strict=True):
        for y, method in enumerate(methods):
            estimate, colour = getattr(evaluation.groups[group][method], measure), _method_colour(method, PALE)
            if np.isnan(estimate.value):
                axes.text(0, y, " missing", va="center", size=8, color=PALE)
                continue
            single = [evaluation.relations[r][method][measure] for r in evaluation.members[group]]
            axes.scatter(single, np.full(len(single), y), s=9, color=colour, alpha=0.25, linewidths=0)
            axes.plot([estimate.low, estimate.high], [y, y], color=colour, lw=2.4, solid_capstyle="round")
            axes.plot(estimate.value, y, "o", color=colour, ms=6.5, markeredgecolor="white", mew=1)
        if measure != "preserved_error":
            reference = evaluation.chance[group] if measure == "retrieval" else 1
            axes.axvline(reference, color=COLOURS[4], lw=1, ls="--", zorder=0)
            axes.set_xlim(right=1.06 * min(highest, 2.5))
        axes.set_xlim(left=0)
        axes.set_title(f"{group} ({len(evaluation.members[group])})", fontsize=8.5, loc="left")
        axes.set_ylim(-0.6, len(methods) - 0.4)
        axes.grid(axis="y", visible=False)
    row[0].set_yticks(range(len(methods)), methods)
    for label in row[0].get_yticklabels():
        label.set(color=_method_colour(label.get_text(), INK))
    figure.supxlabel(f"{MEASURE_LABELS[measure]}; median and 95 % interval", size=9)
    return figure


def _method_colour(method: str, other: str) -> str:
    return METHOD_LOOKS["LoRWeB"][0] if method == "LoRWeB" else other


@styled
def film_figure(film: Film, items: Sequence[Analogy], n_loras: int) -> Figure:
    """The state of a watched training: loss, perplexity of each layer (N at most), the analogies as drawn now.

    Of the analogies that are watched the first six are shown.
    """
    if len(film.steps) == 0 or film.frames.shape[1] != len(items):
        raise InputError(
            f"expected a film of {len(items)} analogies with at least one look, "
            f"got {len(film.steps)} looks at {film.frames.shape[1]}"
        )
    count = min(6, len(items))
    figure, (left, middle, right) = figure_of(11, 3.2, ncols=3, width_ratios=(1, 1.25, 0.52 * count))
    steps, losses = film.steps.numpy(), film.losses.numpy()
    known = ~np.isnan(losses)
    left.plot(steps[known], losses[known], marker="o", ms=3, color=COLOURS[0])
    titled(left, "Flow-matching loss", xlabel="step", ylabel="mean since the look before")
    if known.any():
        left.set_ylim(0, 1.1 * losses[known].max())
    # Looks are not equally far apart: each column reaches to the next look.
    edges = [*steps.tolist(), int(steps[-1]) + max(1, int(np.diff(steps).mean()) if len(steps) > 1 else 1)]
    layers = film.perplexity.shape[1]
    shown = middle.pcolormesh(edges, range(layers + 1), film.perplexity.T, cmap="cividis", vmin=1, vmax=n_loras)
    middle.invert_yaxis()
    titled(middle, f"LoRAs in one routing, of {n_loras}", xlabel="step", ylabel="layer, first block on top")
    middle.grid(False)
    figure.colorbar(shown, ax=middle, label="perplexity of a routing", pad=0.02)
    _, _, b, b_prime = as_batch(list(items[:count]))
    rows = [torch.cat(list(pictures), 2) for pictures in (b, film.pictures[-1, :count], b_prime)]
    right.imshow(to_pil(torch.cat(rows, 1)), interpolation="antialiased")
    title = f"Unseen emoji after {int(steps[-1]):,} steps"
    titled(right, title, xticks=[], yticks=[32, 96, 160], yticklabels=["b", "now", "true b′"])
    right.grid(False)
    right.spines[:].set_visible(False)
    return figure
