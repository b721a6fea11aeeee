"""The map of the LoRA space as a figure: its points, and one picture edited by a grid of places."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from PIL import Image
from torch import Tensor

from ..algebra import Map
from ..analysis.plane import decode, view_of
from ..core.editor import Editor
from ..errors import InputError
from ..images import read_image, to_pil
from ..show.figures import appearance
from ..show.pictures import relation_label
from ..show.style import LINE, PALE, figure_of, styled

CHUNK = 64
TITLE = "An atlas of the LoRA space: one picture, edited by every place on the map"


def check_editor(editor: Editor) -> None:
    """InputError for an editor whose mixture alone does not determine the picture, or one without a router."""
    if editor.router is None or editor.layout.needs_context:
        raise InputError(
            "expected an editor with a router and the layout 'b', whose mixture alone determines the picture; "
            f"got layout {editor.config.layout!r}{'' if editor.router is not None else ' without a router'}"
        )


def family_label(family: str) -> str:
    """A family's name for a reader: ``edit/hue`` becomes ``edit: hue``."""
    return relation_label(family).removesuffix(": ")


def draw_all(editor: Editor, b: Tensor, coefficients: Tensor, steps: int, seed: int) -> Tensor:
    """Pictures [m, 3, 64, 64] of m mixtures [m, layers, N], of one b [3, 64, 64] or of one each [m, 3, 64, 64]."""
    many = b.expand(len(coefficients), *b.shape[-3:])
    parts = zip(many.split(CHUNK), coefficients.split(CHUNK), strict=True)
    return torch.cat([editor.generate(x, c, steps=steps, seed=seed).pictures for x, c in parts])


@styled
def atlas_figure(
    editor: Editor,
    plane: Map,
    families: Sequence[str],
    b: Any,
    columns: int = 11,
    steps: int = 4,
    seed: int = 0,
    note: str = "",
) -> Figure:
    """The plane twice: the analogies as points, and a grid in which each cell is b edited by the cell's place.

    Every cell's centre is decoded to coefficients (:func:`~lorweb_mini.analysis.plane.decode`) and rendered. Cells
    without an analogy in or next to them are pale.

    Args:
        plane: map of routing vectors [k, layers · N], at least two components.
        families: one name for each of the k points, for their colours.
        b: the picture that is edited.
        columns: cells in a row; the shape of the plane gives the rows.
        note: a few words above everything.

    Raises:
        InputError: as :func:`decode`; another number of families than points; an editor that ``Atlas`` refuses.
    """
    picture = read_image(b, "b")
    check_editor(editor)
    if len(families) != len(plane.points):
        raise InputError(f"expected a family for each of {len(plane.points)} points, got {len(families)}")
    points, view = plane.points[:, :2], view_of(plane.points[:, :2])
    cell = (view.x1 - view.x0) / columns
    rows = max(1, round((view.y1 - view.y0) / cell))
    bottom = (view.y0 + view.y1 - rows * cell) / 2
    x, y = np.meshgrid(view.x0 + cell * (np.arange(columns) + 0.5), bottom + cell * (np.arange(rows) + 0.5))
    places = np.stack([x.ravel(), y.ravel()], 1)
    drawn = draw_all(editor, picture, decode(plane, places, editor.config.n_loras).coefficients, steps, seed)

    looks = appearance(families)
    legend = 0.19 * -(-len(looks) // 6) + 0.3
    width, height = 10.9, 5.0 * rows / columns + 0.9 + legend
    figure, (left, right) = figure_of(width, height, ncols=2)
    _points(left, points, families)
    _cells(right, places, drawn, points, cell)
    for axes in (left, right):
        axes.set(xlim=(view.x0, view.x1), ylim=(bottom, bottom + rows * cell), aspect="equal")
        axes.set_xlabel(f"first component ({plane.explained[0]:.0%} of the variance)")
    left.set_ylabel(f"second component ({plane.explained[1]:.0%})")
    left.set_title(f"{len(points):,} analogies by family", loc="left")
    right.set_title("b, edited by the mixture of each place", loc="left")
    figure.suptitle(TITLE, x=0.01, ha="left", size=12, weight="bold")
    handles = [
        Line2D([], [], ls="", marker=marker, color=colour, markeredgewidth=0, ms=5, label=family_label(name))
        for name, (colour, marker) in looks.items()
    ]
    figure.legend(handles=handles, loc="outside lower left", ncols=6, fontsize=7.5, handletextpad=0.2)
    inset = min(0.8, legend) - 0.1
    corner = figure.add_axes((1 - (inset + 0.15) / width, 0.05 / height, inset / width, inset / height))
    _label_b(corner, picture)
    figure.text(1 - 0.12 / width, 1 - 0.1 / height, note, size=8.5, color=PALE, ha="right", va="top")
    return figure


def _points(axes: Axes, points: np.ndarray, families: Sequence[str]) -> None:
    names = np.asarray(families)
    for name, (colour, marker) in appearance(families).items():
        x, y = points[names == name].T
        axes.scatter(x, y, s=13, marker=marker, color=colour, linewidths=0, alpha=0.8)


def _label_b(axes: Axes, picture: Tensor) -> None:
    """The picture that is edited, in the corner."""
    axes.imshow(to_pil(picture), interpolation="antialiased")
    axes.set(xticks=[], yticks=[])
    axes.set_ylabel("b", size=9, rotation=0, ha="right", va="center")
    axes.spines[:].set(visible=True, color=LINE)


def _cells(axes: Axes, places: np.ndarray, pictures: Tensor, points: np.ndarray, cell: float) -> None:
    """The grid of pictures; pale where no point lies in the cell or in one beside it."""
    near = np.abs(places[:, None] - points[None]).max(2).min(1) <= cell
    half, side = 0.48 * cell, 0.96 * cell
    axes.grid(False)
    for (u, v), picture, close in zip(places, pictures, near, strict=True):
        box = (u - half, u + half, v - half, v + half)
        enlarged = np.asarray(to_pil(picture).resize((128, 128), Image.Resampling.LANCZOS))
        axes.imshow(enlarged, extent=box, interpolation="antialiased", alpha=1.0 if close else 0.3, zorder=2)
        axes.add_patch(Rectangle((box[0], box[2]), side, side, fill=False, ec=LINE, lw=0.5))
