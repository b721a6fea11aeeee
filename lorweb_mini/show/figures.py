"""Static figures. Every function returns a matplotlib ``Figure`` and shows nothing.

``python -m lorweb_mini.show.figures`` draws the README's picture again from the shipped weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, NullLocator
from PIL import Image
from torch import Tensor

from ..algebra import Map
from ..analysis.evaluation import MEASURES, Evaluation, methods_of
from ..emoji.relations import Analogy, analogies, as_batch, composition_parts
from ..errors import InputError
from ..images import to_pil
from ..training.loop import read_log
from .style import COLOURS, INK, LINE, MARKERS, PALE, STYLE, figure_of, save, styled

if TYPE_CHECKING:
    from ..training.live_training import Film

MEASURE_LABELS = dict(
    zip(
        MEASURES,
        (
            "normalised error (copying b = 1)",
            "normalised error against true pixels",
            "normalised error on the edited pixels",
            "error on the preserved pixels (grey levels of 255)",
            "relation retrieval (share right)",
        ),
        strict=True,
    )
)


# --- pictures -------------------------------------------------------------------------------------


def relation_label(name: str) -> str:
    """A relation's name for a reader: ``tone/yellow>dark`` becomes ``tone: yellow → dark``."""
    if name.startswith("compose/"):
        parts = [relation_label(part) for part in composition_parts(name)]
        return " + ".join([parts[0], *(part.removeprefix("edit: ") for part in parts[1:])])
    family, _, rest = name.partition("/")
    return f"{family}: {rest}".replace(">", " → ").replace("=", " ").replace("_", " ")


def _show(figure: Figure, picture: Tensor, box: tuple[float, float, float, float], frame: str | None) -> None:
    """One picture at a box (left, bottom, width, height, in inches), enlarged smoothly."""
    width, height = figure.get_size_inches()
    left, bottom, w, h = box
    axes = figure.add_axes((left / width, bottom / height, w / width, h / height))
    enlarged = to_pil(picture).resize((256, 256), Image.Resampling.LANCZOS)
    axes.imshow(np.asarray(enlarged), interpolation="antialiased", aspect="auto")
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set(visible=True, color=frame or LINE, linewidth=2.2 if frame else 0.7)


def triplets(
    items: Sequence[Analogy],
    results: Tensor | Mapping[str, Tensor],
    columns: int = 2,
    title: str = "",
    errors: Sequence[float] | None = None,
    labels: Sequence[str] | None = None,
    size: float = 0.72,
) -> Figure:
    """Analogies as a : a' :: b : result, with the true b' beside it.

    Args:
        items: k analogies, drawn row by row in so many ``columns``.
        results: pictures [k, 3, 64, 64], or several sets of them by method name.
        errors: normalised error of each (of the last method), written below its name.
        labels: what to write over each analogy; by default its relation.
        size: side of a picture, in inches.

    Raises:
        InputError: no analogies, or another number of results.
    """
    sets = {"result": results} if isinstance(results, Tensor) else dict(results)
    if not items or any(len(r) != len(items) for r in sets.values()):
        raise InputError(f"expected results for {len(items)} analogies, got {[len(r) for r in sets.values()]}")
    columns = min(columns, len(items))
    rows = -(-len(items) // columns)
    near, far, between = 0.07 * size, 0.34 * size, 0.9 * size
    offsets, x = [], 0.0
    for i in range(4 + len(sets)):
        offsets.append(x)
        # The colons of a : a' :: b : b' stand in the wider gaps.
        x += size + (far if i in (0, 1, 2) or i == 2 + len(sets) else near)
    block = offsets[-1] + size
    head = 0.5 if title else 0.0
    names = 0.3
    line = size + 0.42
    margin = 0.3
    width = 2 * margin + columns * block + (columns - 1) * between
    height = 2 * margin + head + names + rows * line - 0.12
    with matplotlib.rc_context(STYLE):
        figure = Figure((width, height), facecolor="white")
        FigureCanvasAgg(figure)

        def write(x: float, y: float, text: str, **style: Any) -> None:
            figure.text(x / width, y / height, text, **style)

        if title:
            write(margin, height - margin, title, size=12, weight="bold", va="top")
        headers = ["a", "a′", "b", *sets, "true b′"]
        for column in range(columns):
            left = margin + column * (block + between)
            for offset, header in zip(offsets, headers, strict=True):
                y = height - margin - head
                bold = header == list(sets)[-1]
                write(
                    left + offset + size / 2,
                    y,
                    header,
                    size=8.5,
                    ha="center",
                    va="top",
                    color=COLOURS[0] if bold else PALE,
                    weight="bold" if bold else "normal",
                )
        for i, item in enumerate(items):
            row, column = divmod(i, columns)
            left = margin + column * (block + between)
            bottom = height - margin - head - names - (row + 1) * line + 0.12
            label = labels[i] if labels is not None else relation_label(item.relation)
            write(left, bottom + size + 0.07, label, size=8, va="bottom")
            if errors is not None:
                write(
                    left + block,
                    bottom + size + 0.07,
                    f"error {errors[i]:.2f}",
                    size=7.5,
                    ha="right",
                    va="bottom",
                    color=PALE,
                )
            pictures = [item.a, item.a_prime, item.b, *(r[i] for r in sets.values()), item.b_prime]
            for j, (offset, picture) in enumerate(zip(offsets, pictures, strict=True)):
                last = j == len(pictures) - 2
                _show(figure, picture, (left + offset, bottom, size, size), COLOURS[0] if last else None)
            for j, sign in ((1, ":"), (2, "::"), (3, ":")):
                x = left + offsets[j] - far / 2
                write(x, bottom + size / 2, sign, size=11, ha="center", va="center", color=PALE)
    return figure


def readme_picture(items: Sequence[Analogy], results: Tensor, labels: Sequence[str] | None = None) -> Figure:
    """The picture at the top of the README: a, a', b, the edit and what the artist drew, in two columns."""
    return triplets(items, results, columns=2, labels=labels, size=0.86)


def picture_rows(
    rows: Mapping[str, Tensor],
    captions: Mapping[str, Sequence[str]] | None = None,
    columns: Sequence[str] = (),
    title: str = "",
    note: str = "",
    size: float = 0.8,
    label_width: float = 1.5,
) -> Figure:
    """Rows of pictures, each row with a label to its left and, where given, a caption below every picture.

    Args:
        rows: label to pictures [k, 3, 64, 64]; rows may differ in length.
        captions: label to k captions.
        columns: headings over the first pictures of every row.
        note: a sentence below everything.
        size, label_width: of a picture and of the column of labels, in inches.

    Raises:
        InputError: no rows, or another number of captions than pictures.
    """
    captions = captions or {}
    if not rows or any(len(text) != len(rows[label]) for label, text in captions.items()):
        raise InputError(f"expected a caption for each picture, got {[len(x) for x in captions.values()]}")
    gap, margin = 0.08 * size, 0.2
    heights = [size + (0.26 if label in captions else 0.1) for label in rows]
    longest = max(map(len, rows.values()))
    width = 2 * margin + label_width + longest * (size + gap) - gap
    head = margin + (0.4 if title else 0.0)
    top = head + (0.22 if columns else 0.0)
    height = top + sum(heights) + (0.28 if note else 0.0) + margin / 2
    with matplotlib.rc_context(STYLE):
        figure = Figure((width, height), facecolor="white")
        FigureCanvasAgg(figure)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, width), ylim=(height, 0))
        axes.axis("off")
        if title:
            axes.text(margin, margin, title, size=11, weight="bold", va="top")
        for i, heading in enumerate(columns):
            x = margin + label_width + i * (size + gap) + size / 2
            axes.text(x, head + 0.1, heading, size=8, ha="center", color=PALE)
        y = top
        for (label, pictures), line in zip(rows.items(), heights, strict=True):
            axes.text(margin, y + size / 2, label, size=8.5, va="center", linespacing=1.35)
            for i, picture in enumerate(pictures):
                x = margin + label_width + i * (size + gap)
                enlarged = np.asarray(to_pil(picture).resize((256, 256), Image.Resampling.LANCZOS))
                # The vertical axis points down, as pictures are read.
                axes.imshow(enlarged, extent=(x, x + size, y + size, y), interpolation="antialiased", aspect="auto")
                axes.add_patch(Rectangle((x, y), size, size, fill=False, ec=LINE, lw=0.7))
                if label in captions:
                    axes.text(x + size / 2, y + size + 0.14, captions[label][i], size=7, ha="center", color=PALE)
            y += line
        axes.set(xlim=(0, width), ylim=(height, 0))
        if note:
            axes.text(margin, height - margin, note, size=8, color=PALE, va="bottom")
    return figure


# --- points and curves ----------------------------------------------------------------------------


def appearance(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker for each different name, in order; no two share both up to 64 names."""
    found: dict[str, tuple[str, str]] = {}
    for name in names:
        if name not in found:
            i = len(found)
            shift = i // len(COLOURS)
            found[name] = (COLOURS[i % len(COLOURS)], MARKERS[(i + shift) % len(MARKERS)])
    return found


@styled
def pca_map(
    found: Map,
    labels: Sequence[str],
    hollow: Sequence[str] = (),
    title: str = "The LoRA space: each point is the routing of one analogy",
) -> Figure:
    """The first two components of routing vectors, one colour and marker a relation.

    Args:
        found: what :func:`~lorweb_mini.algebra.pca` returned, with at least two components.
        labels: relation of each point.
        hollow: relations that the basis never saw, drawn as outlines.
    """
    if found.points.shape[1] < 2 or len(labels) != len(found.points):
        raise InputError(
            f"expected two components and a label a point, got {list(found.points.shape)} and {len(labels)}"
        )
    looks, names = appearance(labels), np.asarray(labels)
    figure, axes = figure_of(9.2, max(5.2, 0.5 + 0.185 * len(looks)))
    handles = []
    for name, (colour, marker) in looks.items():
        chosen = found.points[names == name]
        outline = name in hollow
        style = {"facecolors": "none" if outline else colour, "edgecolors": colour}
        axes.scatter(
            chosen[:, 0], chosen[:, 1], s=22, marker=marker, alpha=0.8, linewidths=1.1 if outline else 0, **style
        )
        label = relation_label(name) + (" (unseen)" if outline else "")
        face = "none" if outline else colour
        handles.append(Line2D([], [], ls="", marker=marker, color=colour, markerfacecolor=face, ms=5.5, label=label))
    axes.set(
        xlabel=f"first component ({found.explained[0]:.0%} of the variance)",
        ylabel=f"second component ({found.explained[1]:.0%})",
    )
    axes.set_title(title, loc="left")
    figure.legend(handles=handles, loc="outside right upper", fontsize=7.5, labelspacing=0.55, handletextpad=0.3)
    return figure


def _curves(axes: Axes, log: Sequence[Mapping[str, float]], columns: Mapping[str, str]) -> None:
    minutes = [row["seconds"] / 60 for row in log]
    for (key, label), colour, dash in zip(columns.items(), COLOURS, ("-", "--", ":"), strict=False):
        axes.plot(minutes, [row[key] for row in log], color=colour, ls=dash, label=label)
    axes.set_xlabel("minutes of training")


@styled
def loss_curve(log: str | Path | Sequence[Mapping[str, float]], axes: Axes | None = None) -> Figure:
    """Loss over time from a ``log.csv`` (or its rows): the mean over the last hundred steps."""
    rows = _rows(log)
    if axes is None:
        _, axes = figure_of(5.2, 3.2)
    _curves(axes, rows, {"loss": "flow-matching loss"})
    axes.set_ylabel("flow-matching loss (mean of 100 steps)")
    axes.set_title(f"Training: {int(rows[-1]['step']):,} steps, {int(rows[-1]['samples']):,} samples", loc="left")
    return axes.figure  # type: ignore[return-value]


@styled
def routing_curves(log: str | Path | Sequence[Mapping[str, float]], n_loras: int, axes: Axes | None = None) -> Figure:
    """Health of the router over time: entropy of a routing, entropy of the mean routing, variation by input."""
    rows = _rows(log)
    if "entropy" not in rows[0]:
        raise InputError("expected the log of a routed basis, found no column entropy in it")
    if axes is None:
        _, axes = figure_of(5.2, 3.2)
    columns = {
        "usage": "usage: entropy of the mean (nats)",
        "entropy": "entropy of one routing (nats)",
        "variation": "variation with the input (L1)",
    }
    axes.axhline(np.log(n_loras), color=PALE, lw=0.9)
    axes.annotate(
        f"ln {n_loras}: uniform",
        (1, np.log(n_loras)),
        xycoords=("axes fraction", "data"),
        xytext=(0, 3),
        textcoords="offset points",
        ha="right",
        size=8,
        color=PALE,
    )
    _curves(axes, rows, columns)
    axes.set_ylim(0, 1.15 * np.log(n_loras))
    axes.set_ylabel("nats, or L1 distance")
    axes.legend(loc="best", fontsize=8)
    axes.set_title("The router must neither stay uniform nor collapse", loc="left")
    return axes.figure  # type: ignore[return-value]


@styled
def training_curves(log: str | Path | Sequence[Mapping[str, float]], n_loras: int) -> Figure:
    """Loss and routing side by side."""
    rows = _rows(log)
    figure, (left, right) = figure_of(10.4, 3.7, ncols=2)
    loss_curve(rows, left)
    return routing_curves(rows, n_loras, right) if "entropy" in rows[0] else figure


@styled
def loss_panels(logs: Mapping[str, str | Path | Sequence[Mapping[str, float]]], columns: int = 3) -> Figure:
    """Loss against samples of several trainings, a small panel each, both axes logarithmic.

    Args:
        logs: name of a part to its ``log.csv`` or the rows of it.

    Raises:
        InputError: no logs, or an empty one.
    """
    if not logs:
        raise InputError("expected the log of at least one training, got none")
    rows = -(-len(logs) // columns)
    figure, grid = figure_of(3.2 * columns, 2.45 * rows, nrows=rows, ncols=columns, squeeze=False)
    for axes, (name, log) in zip(grid.flat, logs.items(), strict=False):
        steps = _rows(log)
        axes.loglog([row["samples"] for row in steps], [row["loss"] for row in steps], color=COLOURS[0])
        length = f"{steps[-1]['samples']:,.0f} in {steps[-1]['seconds'] / 60:.0f} min"
        axes.set_title(name.replace("_", " "), loc="left")
        axes.set_title(length, loc="right", size=8, weight="normal")
        axes.set(xlabel="samples", ylabel="loss (mean of 100 steps)")
        # Less than a decade has hardly a power of ten to label: plain values in between, too.
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 4, 5, 6, 8), numticks=99))
        axes.yaxis.set_major_formatter("{x:g}")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_minor_locator(NullLocator())
    for axes in grid.flat[len(logs) :]:
        axes.set_axis_off()
    return figure


def _rows(log: str | Path | Sequence[Mapping[str, float]]) -> Sequence[Mapping[str, float]]:
    rows = read_log(log) if isinstance(log, str | Path) else log
    if not rows:
        raise InputError(f"expected a training log with at least one row, got none in {log}")
    return rows


@styled
def error_bars(evaluation: Evaluation, measure: str = "error") -> Figure:
    """One measure of every method, a panel a group of relations, with 95 % bootstrap intervals; dots are relations."""
    if measure not in MEASURES:
        raise InputError(f"expected a measure out of {MEASURES}, got {measure!r}")
    groups, methods = list(evaluation.groups), list(evaluation.seconds)
    figure, grid = figure_of(
        1.9 + 2.15 * len(groups), 1.15 + 0.34 * len(methods), ncols=len(groups), sharey=True, squeeze=False
    )
    looks = {m: COLOURS[0] if m == "LoRWeB" else PALE for m in methods}
    places = {m: len(methods) - 1 - i for i, m in enumerate(methods)}
    values = [getattr(s, measure) for g in groups for s in evaluation.groups[g].values()]
    highest = np.nanmax([v.high for v in values] + [1.0])
    for axes, group in zip(grid[0], groups, strict=True):
        for method in methods:
            estimate, y = getattr(evaluation.groups[group][method], measure), places[method]
            if np.isnan(estimate.value):
                axes.text(0, y, " missing", va="center", size=8, color=PALE)
                continue
            single = [evaluation.relations[r][method][measure] for r in evaluation.members[group]]
            axes.scatter(single, np.full(len(single), y), s=9, color=looks[method], alpha=0.25, linewidths=0)
            axes.plot([estimate.low, estimate.high], [y, y], color=looks[method], lw=2.4, solid_capstyle="round")
            axes.plot(estimate.value, y, "o", color=looks[method], ms=6.5, markeredgecolor="white", mew=1)
        if measure == "retrieval":
            axes.axvline(evaluation.chance[group], color=COLOURS[4], lw=1, ls="--", zorder=0)
        elif measure != "preserved_error":
            axes.axvline(1, color=COLOURS[4], lw=1, ls="--", zorder=0)
        axes.set_title(f"{group} ({len(evaluation.members[group])})", fontsize=8.5, loc="left")
        axes.set_xlim(0, 1.06 * min(highest, 2.5) if measure != "preserved_error" else None)
        axes.set_ylim(-0.6, len(methods) - 0.4)
        axes.grid(axis="y", visible=False)
    grid[0][0].set_yticks(list(places.values()), list(places))
    for label in grid[0][0].get_yticklabels():
        label.set(color=COLOURS[0] if label.get_text() == "LoRWeB" else INK)
    figure.supxlabel(f"{MEASURE_LABELS[measure]}; median and 95 % interval", size=9)
    return figure


@styled
def film_figure(film: Film, items: Sequence[Analogy], n_loras: int) -> Figure:
    """The state of a watched training: loss, perplexity of each layer, the analogies as they are drawn now.

    Args:
        items: the analogies that are watched; the first six are shown.
        n_loras: N, the largest perplexity there can be.

    Raises:
        InputError: a film without a look, or of another number of analogies.
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
    left.set(xlabel="step", ylabel="mean since the look before")
    left.set_title("Flow-matching loss", loc="left")
    if known.any():
        left.set_ylim(0, 1.1 * losses[known].max())
    # Looks are not equally far apart: each column reaches to the next look.
    edges = [*steps.tolist(), int(steps[-1]) + max(1, int(np.diff(steps).mean()) if len(steps) > 1 else 1)]
    layers = film.perplexity.shape[1]
    shown = middle.pcolormesh(edges, range(layers + 1), film.perplexity.T, cmap="cividis", vmin=1, vmax=n_loras)
    middle.invert_yaxis()
    middle.set(xlabel="step", ylabel="layer, first block on top")
    middle.set_title(f"LoRAs in one routing, of {n_loras}", loc="left")
    middle.grid(False)
    figure.colorbar(shown, ax=middle, label="perplexity of a routing", pad=0.02)
    _, _, b, b_prime = as_batch(list(items[:count]))
    rows = [torch.cat(list(pictures), 2) for pictures in (b, film.pictures[-1, :count], b_prime)]
    right.imshow(to_pil(torch.cat(rows, 1)), interpolation="antialiased")
    right.set(xticks=[], yticks=[32, 96, 160], yticklabels=["b", "now", "true b′"])
    right.set_title(f"Unseen emoji after {int(steps[-1]):,} steps", loc="left")
    right.grid(False)
    right.spines[:].set_visible(False)
    return figure


def main() -> None:
    """Draws ``figures/readme.png`` from the shipped starter basis on unseen emoji."""
    from ..analysis.evaluation import draw
    from ..core.editor import load
    from ..emoji.relations import splits

    editor = load("starter")
    # Of eight questions a relation the one whose edit shows most, since a black arrow has no hue to turn; no result is
    # looked at for the choice. The second hue is left out to make the rows even.
    names = [name for name in splits()["starter"]["seen"] if name != "edit/hue=240"]
    items = [
        max(analogies("test", name, seed=5), key=lambda x: float((x.b - x.b_prime).pow(2).sum())) for name in names
    ]
    results = draw(methods_of(editor)["LoRWeB"], items)
    print("wrote", save(readme_picture(items, results), Path("figures") / "readme.png"))


if __name__ == "__main__":
    main()
