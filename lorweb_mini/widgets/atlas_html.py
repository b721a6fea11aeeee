"""The parts of the map's page as HTML."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from html import escape

import numpy as np
from matplotlib.markers import MarkerStyle
from matplotlib.ticker import MaxNLocator

from ..analysis.plane import View
from ..emoji.relations import Analogy
from ..emoji.sheets import load_emoji
from ..show.figures import appearance
from ..show.pictures import relation_label
from .atlas_figure import family_label
from .base import figure_tag

CARD = 72  # side of a picture in CSS pixels
RIGHT, BOTTOM = 8, 40  # room beside and below the plane, for ticks and labels


def _marker(marker: str, x: float, y: float, radius: float = 4.2) -> str:
    """The outline of a matplotlib marker around a pixel, as the path of an SVG, where y points down."""
    style = MarkerStyle(marker)
    outlines = [np.asarray(x) for x in style.get_path().transformed(style.get_transform()).to_polygons()]
    most = max(float(np.abs(outline).max()) for outline in outlines)
    corners = (" L".join(f"{x + u:.1f} {y - v:.1f}" for u, v in outline / most * radius) for outline in outlines)
    return "".join(f"M{path}Z" for path in corners)


def number(x: float, form: str = "g") -> str:
    """A number with a true minus sign."""
    return format(x, form).replace("-", "−")


def plane_svg(view: View, places: np.ndarray, families: Sequence[str], explained: Sequence[float]) -> str:
    """Axes and points of the map as an SVG; each point names its family in ``data-family``."""
    below, right, pixels = view.top + view.height, view.left + view.width, view.to_page(places)
    shape = escape(json.dumps({"view": asdict(view), "points": pixels.round(1).tolist()}))
    parts = [f"<svg width='{right + RIGHT:.0f}' height='{below + BOTTOM:.0f}' data-shape='{shape}' aria-hidden='true'>"]
    for axis, count, low, high in ((0, 8, view.x0, view.x1), (1, 6, view.y0, view.y1)):
        for tick in MaxNLocator(count).tick_values(low, high):
            if low <= tick <= high:
                u, v = view.to_page(np.full((1, 2), tick))[0]
                line = f"M{u:.1f} {view.top:.1f}V{below:.1f}" if axis == 0 else f"M{view.left:.1f} {v:.1f}H{right:.1f}"
                x, y = (u, below + 14) if axis == 0 else (view.left - 6, v + 4)
                anchor = "middle" if axis == 0 else "end"
                parts.append(f"<path class='tick' d='{line}'/>")
                parts.append(f"<text x='{x:.1f}' y='{y:.1f}' text-anchor='{anchor}'>{number(tick)}</text>")
    parts.append(
        f"<text x='{view.left + view.width / 2:.1f}' y='{below + 32:.1f}' text-anchor='middle'>"
        f"first component ({explained[0]:.0%} of the variance)</text>"
        f"<text transform='translate(12 {view.top + view.height / 2:.1f}) rotate(-90)' text-anchor='middle'>"
        f"second component ({explained[1]:.0%})</text>"
    )
    looks = appearance(families)
    for family, (u, v) in zip(families, pixels, strict=True):
        colour, marker = looks[family]
        parts.append(f"<path d='{_marker(marker, u, v)}' fill='{colour}' data-family='{escape(family)}'/>")
    return "".join([*parts, "</svg>"])


def legend_html(families: Sequence[str]) -> str:
    """The families as buttons with their marker; a pressed one stands out on the map."""
    buttons = []
    for family, (colour, marker) in appearance(families).items():
        icon = (
            f"<svg width='12' height='12' aria-hidden='true'><path d='{_marker(marker, 6, 6)}' fill='{colour}'/></svg>"
        )
        count = sum(other == family for other in families)
        buttons.append(
            f"<button data-ask='highlight' data-value='{escape(family)}'>{icon}{escape(family_label(family))} "
            f"<span class='pale'>{count}</span></button>"
        )
    return "".join(buttons)


def card_html(item: Analogy, index: int) -> str:
    """An analogy's relation and its four pictures, and a button that edits its b from now on."""
    emoji = load_emoji()
    names = [emoji.emojis[emoji.index[key.rsplit("@", 1)[0]]].name for key in item.keys]
    pictures = zip(("a", "a′", "b", "true b′"), (item.a, item.a_prime, item.b, item.b_prime), names, strict=True)
    figures = "".join(figure_tag(picture, f"{letter}: {name}", CARD, letter) for letter, picture, name in pictures)
    return (
        f"<h4>{escape(relation_label(item.relation))}</h4><div class='pictures'>{figures}</div>"
        f"<button data-ask='choose' data-value='{index}'>Edit this b ({escape(names[2])}) from now on</button>"
    )
