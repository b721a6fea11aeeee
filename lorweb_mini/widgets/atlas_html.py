"""The parts of the map's page as HTML, and its fallback figure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from html import escape

import numpy as np
from matplotlib.figure import Figure
from matplotlib.markers import MarkerStyle
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from PIL import Image
from torch import Tensor

from ..algebra import Map
from ..analysis.plane import View
from ..emoji.relations import Analogy
from ..emoji.sheets import load_emoji
from ..images import to_pil
from ..show.figures import appearance
from ..show.pictures import relation_label
from ..show.style import LINE, PALE, figure_of, styled
from .base import button, figure_tag

CARD = 72  # side of a picture in CSS pixels
RIGHT, BOTTOM = 8, 40  # room beside and below the plane, for ticks and labels


def axis_labels(explained: Sequence[float]) -> list[str]:
    """What the two axes are, from the components' shares of the variance."""
    return [f"first component ({explained[0]:.0%} of the variance)", f"second component ({explained[1]:.0%})"]


def family_label(family: str) -> str:
    """A family's name for a reader: ``edit/hue`` becomes ``edit: hue``."""
    return relation_label(family).removesuffix(": ")


def _marker(marker: str, colour: str, x: float, y: float, attributes: str = "", radius: float = 4.2) -> str:
    """A matplotlib marker around a pixel, as the path of an SVG, where y points down."""
    style = MarkerStyle(marker)
    outlines = [np.asarray(x) for x in style.get_path().transformed(style.get_transform()).to_polygons()]
    scale = radius / max(float(np.abs(outline).max()) for outline in outlines)
    corners = (" L".join(f"{x + u:.1f} {y - v:.1f}" for u, v in outline * scale) for outline in outlines)
    return f"<path d='{''.join(f'M{path}Z' for path in corners)}' fill='{colour}'{attributes}/>"


def number(x: float, form: str = "g") -> str:
    """A number with a true minus sign."""
    return format(x, form).replace("-", "−")


def plane_svg(view: View, places: Map, families: Sequence[str]) -> str:
    """Axes and points of the map as an SVG; each point names its family in ``data-family``."""
    below, right, pixels = view.top + view.height, view.left + view.width, view.to_page(places.points)
    shape = escape(json.dumps({"view": asdict(view), "points": pixels.round(1).tolist()}))
    parts = [f"<svg width='{right + RIGHT:.0f}' height='{below + BOTTOM:.0f}' data-shape='{shape}' aria-hidden='true'>"]
    for axis, count, low, high in ((0, 8, view.x0, view.x1), (1, 6, view.y0, view.y1)):
        for tick in (x for x in MaxNLocator(count).tick_values(low, high) if low <= x <= high):
            u, v = view.to_page(np.full((1, 2), tick))[0]
            line = f"M{u:.1f} {view.top:.1f}V{below:.1f}" if axis == 0 else f"M{view.left:.1f} {v:.1f}H{right:.1f}"
            x, y, anchor = (u, below + 14, "middle") if axis == 0 else (view.left - 6, v + 4, "end")
            parts.append(f"<path class='tick' d='{line}'/>")
            parts.append(f"<text x='{x:.1f}' y='{y:.1f}' text-anchor='{anchor}'>{number(tick)}</text>")
    first, second = axis_labels(places.explained.tolist())
    middle = view.left + view.width / 2, view.top + view.height / 2
    parts.append(f"<text x='{middle[0]:.1f}' y='{below + 32:.1f}' text-anchor='middle'>{first}</text>")
    turned = f"translate(12 {middle[1]:.1f}) rotate(-90)"
    parts.append(f"<text transform='{turned}' text-anchor='middle'>{second}</text>")
    looks = appearance(families)
    for family, (u, v) in zip(families, pixels, strict=True):
        colour, marker = looks[family]
        parts.append(_marker(marker, colour, u, v, f" data-family='{escape(family)}'"))
    return "".join([*parts, "</svg>"])


def legend_html(families: Sequence[str]) -> str:
    """The families as buttons with their marker; a pressed one stands out on the map."""
    buttons = ""
    for family, (colour, marker) in appearance(families).items():
        icon = f"<svg width='12' height='12' aria-hidden='true'>{_marker(marker, colour, 6, 6)}</svg>"
        count = f"<span class='pale'>({families.count(family)})</span>"
        buttons += button("highlight", family, f"{icon}{escape(family_label(family))} {count}")
    return buttons


def card_html(item: Analogy, index: int) -> str:
    """An analogy's relation and its four pictures, and a button that edits its b from now on."""
    emoji = load_emoji()
    names = [emoji.emojis[emoji.index[key.rsplit("@", 1)[0]]].name for key in item.keys]
    pictures = zip(("a", "a′", "b", "true b′"), (item.a, item.a_prime, item.b, item.b_prime), names, strict=True)
    figures = "".join(figure_tag(picture, f"{letter}: {name}", CARD, letter) for letter, picture, name in pictures)
    choose = button("choose", index, f"Edit this b ({escape(names[2])}) from now on")
    return f"<h4>{escape(relation_label(item.relation))}</h4><div class='pictures'>{figures}</div>{choose}"


@styled
def atlas_figure(
    plane: Map, families: Sequence[str], view: View, places: np.ndarray, pictures: Tensor, b: Tensor
) -> Figure:
    """The plane twice: the analogies as points, and a grid in which each cell is b edited by the cell's place.

    Args:
        families: one name for each of the points, for their colours.
        places: the cells' centres [rows, columns, 2]. Cells without an analogy in or next to them are pale.
        pictures: one for each of them, row by row.
    """
    rows, columns = places.shape[:2]
    cell = (view.x1 - view.x0) / columns
    looks = appearance(families)
    legend = 0.19 * -(-len(looks) // 6) + 0.3
    width, height = 10.9, 5.0 * rows / columns + 0.9 + legend
    figure, (left, right) = figure_of(width, height, ncols=2)
    for name, (colour, marker) in looks.items():
        x, y = plane.points[np.asarray(families) == name, :2].T
        left.scatter(x, y, s=13, marker=marker, color=colour, linewidths=0, alpha=0.8, label=family_label(name))
    right.grid(False)
    half = 0.48 * cell
    for (x, y), picture in zip(places.reshape(-1, 2), pictures, strict=True):
        alpha = 1.0 if np.abs(plane.points[:, :2] - (x, y)).max(1).min() <= cell else 0.3
        enlarged = to_pil(picture).resize((128, 128), Image.Resampling.LANCZOS)
        box = (x - half, x + half, y - half, y + half)
        right.imshow(enlarged, extent=box, interpolation="antialiased", alpha=alpha, zorder=2)
        right.add_patch(Rectangle((x - half, y - half), 2 * half, 2 * half, fill=False, ec=LINE, lw=0.5))
    first, second = axis_labels(plane.explained.tolist())
    bottom = places[0, 0, 1] - cell / 2
    for axes in (left, right):
        axes.set(xlim=(view.x0, view.x1), ylim=(bottom, bottom + rows * cell), aspect="equal", xlabel=first)
    left.set_ylabel(second)
    left.set_title(f"{len(families):,} analogies by family", loc="left")
    right.set_title("b, edited by the mixture of each place", loc="left")
    title = "An atlas of the LoRA space: one picture, edited by every place on the map"
    figure.suptitle(title, x=0.01, ha="left", size=12, weight="bold")
    figure.legend(loc="outside lower left", ncols=6, fontsize=7.5, handletextpad=0.2, markerscale=1.4)
    inset = min(0.8, legend) - 0.1
    corner = figure.add_axes((1 - (inset + 0.15) / width, 0.05 / height, inset / width, inset / height))
    corner.imshow(to_pil(b), interpolation="antialiased")
    corner.set(xticks=[], yticks=[])
    corner.set_ylabel("b", size=9, rotation=0, ha="right", va="center")
    corner.spines[:].set(visible=True, color=LINE)
    note = "Dragging over it needs a running kernel: run this cell."
    figure.text(1 - 0.12 / width, 1 - 0.1 / height, note, size=8.5, color=PALE, ha="right", va="top")
    return figure
