"""Figures of the learned space: maps of routings, tables of LoRAs and layers, angles and ranks of updates, order.

*Looks* give each label its colour and marker. Maps that can be turned and hovered over are figures of plotly.js, which
JupyterLab draws where plotly is installed; each has a static figure for other pages. All functions raise
:class:`InputError` for labels without a look, and for numbers of values, rows, columns or labels that do not fit.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ..algebra import Map, pca
from ..analysis.order import CIRCLE, Order
from ..errors import InputError
from ..images import to_pil
from .style import COLOURS, INK, PALE, figure_of, panels, styled, titled

Looks = Mapping[str, tuple[str, str]]
"""Label to colour and marker."""
Colourings = Mapping[str, tuple[np.ndarray, Looks]]
"""Name of a colouring to the labels [k] and their looks."""
SYMBOLS = {"o": "circle", "s": "square", "^": "triangle-up", "D": "diamond", "v": "triangle-down", "P": "cross",
           "X": "x", "*": "star", ".": "circle"}  # fmt: skip
GRID = 9, 13  # columns and rows of pictures on a map
BELOW = {"loc": "outside lower center", "ncols": 9, "fontsize": 8}


def table(heads: Sequence[str], rows: Sequence[Sequence[Any]], left: int = 1) -> str:
    """A Markdown table; the first ``left`` columns are flush left, the others flush right."""
    if any(len(row) != len(heads) for row in rows):
        raise InputError(f"expected rows of {len(heads)} cells, got {sorted({len(row) for row in rows})}")
    ruler = "".join(":--|" if i < left else "--:|" for i in range(len(heads)))
    lines = [f"| {' | '.join(map(str, row))} |" for row in (heads, *rows)]
    return "\n".join([lines[0], f"|{ruler}", *lines[1:]])


# --- maps -----------------------------------------------------------------------------------------


def in_layers(labels: np.ndarray, looks: Looks) -> list[tuple[str, str, str]]:
    """The labels that occur, with colour and marker; those of most points first, so that few lie on top of many."""
    if missing := set(np.unique(labels)) - set(looks):
        raise InputError(f"expected a colour and a marker for every label, got none for {sorted(map(str, missing))}")
    present = [label for label in looks if (labels == label).any()]
    return [(label, *looks[label]) for label in sorted(present, key=lambda label: -(labels == label).sum())]


def _scatter(axes: Axes, points: np.ndarray, labels: np.ndarray, looks: Looks, size: float = 11, **style: Any) -> None:
    if len(points) != len(labels):
        raise InputError(f"expected a label for each of {len(points)} points, got {len(labels)}")
    for label, colour, marker in in_layers(labels, looks):
        look: dict[str, Any] = {"s": size, "color": colour, "marker": marker, "linewidths": 0, "label": label, **style}
        axes.scatter(*points[labels == label].T, **look)


@styled
def picture_map(plane: Map, labels: np.ndarray, looks: Looks, picture: Callable[[int], Tensor]) -> Figure:
    """The first two components of k points with labels [k], in colours, and beside it a picture at each place.

    ``picture`` gives the picture [3, height, width] of the point of a number; it is called for one point of each place.
    """
    figure, (left, right) = figure_of(12, 5.2, ncols=2, sharex=True, sharey=True)
    points = plane.points[:, :2]
    _scatter(left, points, labels, looks, alpha=0.75)
    low, high = np.quantile(points, [0.002, 0.998], axis=0)
    cell = (high - low) / GRID
    for corner in np.array(np.meshgrid(*map(np.arange, GRID))).reshape(2, -1).T * cell + low:
        away = np.abs((points - corner) / cell - 0.5).max(1)
        if away.min() < 0.5:
            near, far = corner + 0.04 * cell, corner + 0.96 * cell
            extent = (near[0], far[0], near[1], far[1])
            right.imshow(to_pil(picture(int(away.argmin()))), extent=extent, aspect="auto")
    titles = (f"{len(points):,} analogies, coloured by what is done", "a and a′ of one analogy at each place")
    for axes, title in zip((left, right), titles, strict=True):
        titled(axes, title, xlabel=f"first component ({plane.explained[0]:.0%} of the variance)")
        axes.set(xlim=(low[0] - cell[0], high[0] + cell[0]), ylim=(low[1] - cell[1], high[1] + cell[1]))
    left.set(ylabel=f"second component ({plane.explained[1]:.0%})")
    right.grid(False)
    figure.legend(*left.get_legend_handles_labels(), **BELOW, markerscale=1.6)
    return figure


@styled
def scree(variances: np.ndarray, chance: np.ndarray, shown: int = 80) -> Figure:
    """Variances of at least 3 components, largest first, and their sums.

    Args:
        variances: of all components, [components].
        chance: those of a cloud without any structure, the columns dealt out anew.
        shown: how many components the axes hold.
    """
    if len(variances) < 3:
        raise InputError(f"expected at least three components, got {len(variances)}")
    kept = np.cumsum(variances) / variances.sum()
    figure, (left, right) = figure_of(10.5, 3.2, ncols=2)
    for values, style in ((variances, {"color": COLOURS[0], "label": "the cloud"}),
                          (chance, {"color": PALE, "ls": "--", "label": "columns dealt out anew"})):  # fmt: skip
        left.semilogy(range(1, len(values[:shown]) + 1), values[:shown], **style)
    titled(left, "Scree", xlabel="component", ylabel="variance")
    left.legend()
    right.plot(range(1, len(kept[:shown]) + 1), kept[:shown], color=COLOURS[0])
    for count in (2, 3):
        right.plot(count, kept[count - 1], "o", color=COLOURS[4])
        text = f"{count} components: {kept[count - 1]:.0%}"
        right.annotate(text, (count, kept[count - 1]), (9, 16 * count - 44), textcoords="offset points", size=9)
    said = "What so many components hold together"
    titled(right, said, xlabel="components", ylabel="share of the variance", ylim=(0, 1))
    return figure


@styled
def colouring_maps(points: np.ndarray, colourings: Colourings) -> Figure:
    """The same points [k, ≥ 2], once for each colouring."""
    figure, row = figure_of(12.5, 4.3, ncols=len(colourings), sharey=True, squeeze=False)
    below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.12), "ncols": 3, "handletextpad": 0.1}
    for axes, (name, (labels, looks)) in zip(row[0], colourings.items(), strict=True):
        _scatter(axes, points[:, :2], labels, looks, 7, alpha=0.75)
        titled(axes, name, xlabel="first component", xticks=[], yticks=[])
        axes.legend(**below, fontsize=8, markerscale=2)
    row[0, 0].set_ylabel("second component")
    return figure


@styled
def turned_maps(points: np.ndarray, labels: np.ndarray, looks: Looks, turns: Sequence[int] = (-70, -25, 20)) -> Figure:
    """Points [k, ≥ 3] in space, turned about the third component by several angles, in degrees."""
    figure, row = figure_of(12.5, 4.2, ncols=len(turns), subplot_kw={"projection": "3d"}, squeeze=False)
    for axes, turn in zip(row[0], turns, strict=True):
        _scatter(axes, points[:, :3], labels, looks, 4)
        axes.view_init(22, turn)
        titled(axes, f"turned to {turn}°", xticks=[], yticks=[], zticks=[])
        for name, label in zip("xyz", ("first", "second", "third"), strict=True):
            getattr(axes, f"set_{name}label")(label, labelpad=-12)
    figure.legend(*row[0, 0].get_legend_handles_labels(), **BELOW, markerscale=3)
    return figure


@styled
def component_maps(clouds: Mapping[str, np.ndarray], labels: np.ndarray, looks: Looks) -> Figure:
    """The first two principal components of several clouds [k, dimensions] of the same k labels, a panel a title."""
    figure, row = figure_of(5.4 * len(clouds) + 1.6, 4.2, ncols=len(clouds), squeeze=False)
    for axes, (title, vectors) in zip(row[0], clouds.items(), strict=True):
        found = pca(vectors)
        _scatter(axes, found.points, labels, looks, alpha=0.75)
        first, second = (f"{share:.0%}" for share in found.explained)
        titled(axes, title, xlabel=f"first component ({first})", ylabel=f"second ({second})")
    figure.legend(*row[0, 0].get_legend_handles_labels(), loc="outside right upper", fontsize=8, markerscale=1.6)
    return figure


def live_map(points: np.ndarray, colourings: Colourings, texts: np.ndarray) -> dict[str, Any]:
    """Points [k, ≥ 2] as a figure of plotly.js, with a list of colourings; hovering over a point shows its text [k]."""
    traces, owner = list[dict[str, Any]](), list[str]()
    for name, (labels, looks) in colourings.items():
        for trace in _traces("scatter", points[:, :2], labels, looks, texts):
            trace["marker"] |= {"symbol": SYMBOLS[looks[trace["name"]][1]], "size": 6, "opacity": 0.8}
            traces.append(trace | {"visible": name == next(iter(colourings))})
            owner.append(name)
    buttons = [
        {"label": name, "method": "restyle", "args": [{"visible": [other == name for other in owner]}]}
        for name in colourings
    ]
    menu = {"buttons": buttons, "x": 0, "y": 1.12, "xanchor": "left", "yanchor": "middle"}
    layout = {"width": 880, "height": 560, "updatemenus": [menu], "margin": {"t": 60, "r": 20}}
    for axis, title in (("xaxis", "first component"), ("yaxis", "second component")):
        layout[axis] = {"title": {"text": title}, "zeroline": False}
    return {"data": traces, "layout": layout}


def live_space(points: np.ndarray, labels: np.ndarray, looks: Looks, texts: np.ndarray) -> dict[str, Any]:
    """Points [k, ≥ 3] in space as a figure of plotly.js; hovering over a point shows its text [k]."""
    axes = zip("xyz", ("first", "second", "third"), strict=True)
    layout = {
        "width": 880,
        "height": 600,
        "scene": {f"{axis}axis": {"title": {"text": title}} for axis, title in axes},
        "margin": {"t": 40, "b": 10, "l": 10, "r": 20},  # the toolbar lies on top of the figure
        "legend": {"itemsizing": "constant"},
    }
    return {"data": _traces("scatter3d", points[:, :3], labels, looks, texts), "layout": layout}


def _traces(kind: str, points: np.ndarray, labels: np.ndarray, looks: Looks, texts: np.ndarray) -> list[dict[str, Any]]:
    traces = []
    for label, colour, _ in in_layers(labels, looks):
        mine = labels == label
        look = {"type": kind, "mode": "markers", "name": label, "marker": {"color": colour, "size": 3}}
        places = {axis: column.round(3).tolist() for axis, column in zip("xyz", points[mine].T, strict=False)}
        traces.append({**look, **places, "text": texts[mine].tolist(), "hovertemplate": "%{text}<extra></extra>"})
    return traces


@styled
def live_or_still(live: Mapping[str, Any], still: Figure) -> dict[str, Any]:
    """A figure of plotly.js for Jupyter's ``display(..., raw=True)``; a page without its script shows the other."""
    file = io.BytesIO()
    still.savefig(file, format="png", dpi=80)
    picture = base64.b64encode(file.getvalue()).decode()
    return {"application/vnd.plotly.v1+json": dict(live), "image/png": picture, "text/plain": "a figure"}


# --- LoRAs and layers -----------------------------------------------------------------------------


@styled
def layer_tables(values: Mapping[str, np.ndarray], places: Sequence[tuple[str, str]], label: str) -> Figure:
    """Values of the layers as tables of kinds and blocks, a table a title; white where a block has no such layer.

    Args:
        values: title to a number for each layer, [layers].
        places: block and kind of each layer; those of the text stand below the others.
    """
    if any(len(x) != len(places) for x in values.values()):
        raise InputError(f"expected values of {len(places)} layers, got {[len(x) for x in values.values()]}")
    blocks = list(dict.fromkeys(block for block, _ in places))
    kinds = sorted(dict.fromkeys(kind for _, kind in places), key=lambda kind: kind.endswith("text"))
    figure, row = figure_of(11, 4.9, ncols=len(values), sharey=True, squeeze=False)
    highest = max(x.max() for x in values.values())
    for axes, (title, own) in zip(row[0], values.items(), strict=True):
        cells = np.full((len(kinds), len(blocks)), np.nan)
        for (block, kind), value in zip(places, own, strict=True):
            cells[kinds.index(kind), blocks.index(block)] = value
        shown = _cells(axes, cells, cmap="cividis", vmin=0, vmax=highest, aspect="auto")
        titled(axes, title, xticks=range(len(blocks)), yticks=range(len(kinds)), yticklabels=kinds)
        axes.set_xticklabels(blocks, rotation=45, ha="right")
    figure.colorbar(shown, ax=row[0], label=label, pad=0.01)
    return figure


def _cells(axes: Axes, values: Any, **style: Any) -> Any:
    """A table of numbers as colours; by default around 0, as far as the largest is from it."""
    far = float(abs(values).max()) if "cmap" not in style else 0
    axes.grid(False)
    return axes.imshow(values, **({"cmap": "PuOr_r", "vmin": -far, "vmax": far} | style))


@styled
def lora_table(
    values: np.ndarray, rows: Sequence[str], order: np.ndarray, title: str, label: str, dots: np.ndarray | None = None
) -> Figure:
    """A number for each of m rows and N LoRAs, as colours; around 0 on both sides where one of them is negative.

    Args:
        values: [m, N], by the numbers of the LoRAs.
        rows: what stands before each row.
        order: the LoRAs from left to right, [N].
        dots: which cells have a dot, bool [m, N].
    """
    if values.shape != (len(rows), len(order)):
        raise InputError(f"expected values [{len(rows)}, {len(order)}], got {list(values.shape)}")
    figure, axes = figure_of(11, max(2.2, 1.25 + 0.25 * len(rows)))
    far = float(np.quantile(np.abs(values), 0.995))
    scale = {"vmin": -far, "vmax": far} if values.min() < 0 else {"cmap": "cividis", "vmin": 0, "vmax": None}
    shown = _cells(axes, values[:, order], aspect="auto", **scale)
    if dots is not None:
        y, x = np.nonzero(dots[:, order])
        axes.scatter(x, y, s=5, color=INK, linewidths=0)
    titled(axes, title, xlabel="LoRA, the most used first")
    axes.set_xticks(range(len(order)), order, fontsize=8)
    axes.set_yticks(range(len(rows)), rows, fontsize=8)
    figure.colorbar(shown, label=label, pad=0.01)
    return figure


@styled
def cosine_tables(tables: Mapping[str, Tensor]) -> Figure:
    """Cosines [N, N] of N LoRAs, a table a title, in the same colours and without the diagonal."""
    figure, row = figure_of(3 * len(tables), 3.1, ncols=len(tables), sharey=True, squeeze=False)
    bare = {title: x - torch.eye(len(x), dtype=x.dtype) for title, x in tables.items()}
    far = max(float(x.abs().max()) for x in bare.values())
    for axes, (title, values) in zip(row[0], bare.items(), strict=True):
        shown = _cells(axes, values, vmin=-far, vmax=far)
        axes.set(xlabel="LoRA", title=title)
    row[0, 0].set_ylabel("LoRA")
    figure.colorbar(shown, ax=row[0], label="cosine (diagonal left out)", pad=0.01)
    return figure


@styled
def update_angles(cosines: Tensor, by_luck: float, together: np.ndarray, layer: int, place: str) -> Figure:
    """Cosines between N updates: their mean over layers, all of them, and in one layer against being used together.

    Args:
        cosines: [layers, N, N].
        by_luck: standard deviation of the cosines of random matrices.
        together: correlations of two coefficients in ``layer``, [N (N − 1) / 2], by rows of the upper triangle.
        place: name of that layer.
    """
    pairs = cosines[:, *np.triu_indices(cosines.shape[-1], 1)].numpy()
    if together.shape != pairs.shape[1:]:
        raise InputError(f"expected correlations of {pairs.shape[1]} pairs, got {list(together.shape)}")
    figure, (left, middle, right) = figure_of(12, 3.2, ncols=3)
    shown = _cells(left, cosines.mean(0) - torch.eye(cosines.shape[-1]))
    left.set(xlabel="LoRA", ylabel="LoRA", title="mean over layers")
    figure.colorbar(shown, ax=left, pad=0.02)
    middle.hist(pairs.ravel(), 60, color=COLOURS[0])
    middle.axvspan(-2 * by_luck, 2 * by_luck, color=COLOURS[1], alpha=0.35, label="random matrices, ±2 deviations")
    middle.set(xlabel="cosine of two updates", ylabel="pairs in all layers", yticks=[])
    middle.legend(fontsize=8)
    right.scatter(together, pairs[layer], s=7, color=COLOURS[0], linewidths=0, alpha=0.6)
    titled(right, place, xlabel="correlation of two coefficients", ylabel="cosine of the two updates")
    return figure


@styled
def ranks(
    spectra: Mapping[str, Tensor], effective: Mapping[str, np.ndarray], layers: Sequence[int], rank: int, place: str
) -> Figure:
    """Singular values in one layer, and the effective rank in every layer, for several sorts of mixtures.

    Args:
        spectra: name to singular values, the largest first, [values]; drawn as shares of the largest.
        effective: the same names to effective ranks, [layers].
        layers: their numbers.
        rank: r of a single LoRA, drawn as a line.
        place: name of the layer of the spectra.
    """
    if list(spectra) != list(effective) or any(len(x) != len(layers) for x in effective.values()):
        raise InputError(f"expected ranks of {list(spectra)} in {len(layers)} layers, got those of {list(effective)}")
    figure, (left, right) = figure_of(11, 3.4, ncols=2, width_ratios=(1, 1.5))
    for (name, values), colour in zip(spectra.items(), (COLOURS[1], COLOURS[0], *COLOURS[6:]), strict=False):
        left.semilogy(range(1, len(values) + 1), (values / values[0]).clamp_min(1e-5), color=colour, label=name)
        right.plot(layers, effective[name], color=colour, marker="o", ms=3.5, label=name)
    titled(left, f"Spectrum in {place}", xlabel="singular value", ylabel="size (the largest = 1)", ylim=(2e-3, 1.3))
    titled(right, "Effective rank in every layer", xlabel="layer", ylabel="effective rank", ylim=(0, None))
    right.axhline(rank, color=PALE, lw=0.9)
    right.annotate(f"r = {rank}", (0, rank), (0, 3), textcoords="offset points", size=8, color=PALE)
    left.legend(fontsize=8, loc="upper right")
    return figure


# --- order ----------------------------------------------------------------------------------------


@styled
def order_maps(
    sets: Mapping[str, tuple[np.ndarray, np.ndarray, Mapping[str, float]]],
    tests: Mapping[str, Sequence[Order]],
    columns: int = 4,
) -> Figure:
    """Ordered sets of levels, each in the plane of its own centres, joined in their true order.

    Args:
        sets: name to vectors [k, dimensions], their levels [k], and the position of each level: any number on a line,
            a share of a turn on a circle.
        tests: name to what was tested: a line, a circle or both. Where a circle is among them, colours are a cycle.
    """
    if not sets or any(not tests.get(name) for name in sets):
        raise InputError(f"expected tests of each set of levels, got {list(sets)} and those of {list(tests)}")
    figure, grid = panels(len(sets), columns, (3, 3), sharey=False)
    figure.set_layout_engine("constrained", h_pad=0.14)
    for axes, (name, (vectors, labels, positions)) in zip(grid, sets.items(), strict=False):
        best = max(tests[name], key=lambda x: x.held_out.value + x.mantel.value)
        _order_map(axes, vectors, labels, positions, any(x.shape == CIRCLE for x in tests[name]))
        axes.set_title(name, loc="left", fontsize=9)
        said = f"held out {best.held_out.value:.2f}, Mantel {best.mantel.value:.2f}"
        axes.set_xlabel(f"{best.shape}: {said}", fontsize=8)
    return figure


def _order_map(axes: Axes, vectors: np.ndarray, labels: np.ndarray, positions: Mapping[str, float], ring: bool) -> None:
    levels = [level for level in positions if (labels == level).any()]
    plane = pca(np.stack([vectors[labels == level].mean(0) for level in levels]))
    at = np.array([positions[level] for level in levels])
    scaled = at if ring else (at - at.min()) / np.ptp(at)
    colours = matplotlib.colormaps["twilight" if ring else "cividis"](scaled)
    for level, colour in zip(levels, colours, strict=True):
        x, y = plane.place(vectors[labels == level]).T
        axes.scatter(x, y, s=5, color=colour, alpha=0.35, linewidths=0)
    if len(set(at)) == len(at):  # no line where several levels share a position
        line = np.concatenate([plane.points, plane.points[:1]]) if ring else plane.points
        axes.plot(line[:, 0], line[:, 1], color=INK, lw=0.9)
    axes.scatter(plane.points[:, 0], plane.points[:, 1], s=42, color=colours, edgecolors=INK, linewidths=0.7, zorder=3)
    axes.set(xticks=[], yticks=[])
