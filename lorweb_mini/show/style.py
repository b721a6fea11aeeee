"""Colours, style and panels of all figures; :class:`Board` lays pictures out in inches; :func:`save` writes a PNG."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image
from torch import Tensor

from ..analysis.bootstrap import Estimate
from ..files import write_atomically
from ..images import to_pil

# After Okabe and Ito, without its green: no pair of these is confused by the colour-blind.
COLOURS = ("#0072B2", "#E69F00", "#56B4E9", "#CC79A7", "#D55E00", "#5B4B9A", "#8C8C8C", "#C9B400")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
INK, PALE, LINE = "#222222", "#767676", "#DDDDDD"
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.edgecolor": LINE,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlepad": 10,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#EFEFEF",
    "grid.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": PALE,
    "ytick.color": PALE,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "figure.dpi": 100,
    "savefig.dpi": 160,
}
# Much of a style is read when a title or a legend is made, not when it is drawn.
styled = matplotlib.rc_context(STYLE)
MAX_BYTES = 1_200_000


@styled
def figure_of(width: float, height: float, **grid: Any) -> tuple[Figure, Any]:
    """A figure of this size in inches with its axes, in the course's style, outside pyplot's global state."""
    figure = Figure((width, height), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(**grid)


def panels(
    count: int, columns: int, size: tuple[float, float], sharey: bool = True, spare: int = 0
) -> tuple[Figure, list[Axes]]:
    """A figure with rows of panels of a size in inches; at least so many ``spare`` ones after the last are blank."""
    rows = -(-(count + spare) // columns)
    grid = {"nrows": rows, "ncols": columns, "sharey": sharey, "squeeze": False}
    figure, axes = figure_of(size[0] * columns, size[1] * rows, **grid)
    for blank in axes.flat[count:]:
        blank.set_axis_off()
    return figure, list(axes.flat)


def titled(axes: Axes, title: str, **properties: Any) -> None:
    """Sets a title flush left, and properties of axes."""
    axes.set_title(title, loc="left")
    axes.set(**properties)


def bars_of(estimates: Iterable[Estimate]) -> tuple[list[float], np.ndarray]:
    """Values, and how far their intervals reach below and above them, [2, k]: what ``errorbar`` draws."""
    known = list(estimates)
    reach = [[e.value - e.low for e in known], [e.high - e.value for e in known]]
    return [e.value for e in known], np.abs(reach)


class Board:
    """A figure laid out in inches from its upper left corner, x to the right and y downwards; ``page`` covers it."""

    @styled
    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        self.figure = Figure((width, height), facecolor="white")
        FigureCanvasAgg(self.figure)
        self.page = self.figure.add_axes((0, 0, 1, 1))
        self.page.set(xlim=(0, width), ylim=(height, 0))
        self.page.axis("off")

    def picture(self, picture: Tensor, x: float, y: float, side: float, frame: str | None = None) -> None:
        """Puts a picture [3, 64, 64], enlarged smoothly, with its upper left corner at (x, y)."""
        enlarged = to_pil(picture).resize((256, 256), Image.Resampling.LANCZOS)
        self.page.imshow(enlarged, extent=(x, x + side, y + side, y), aspect="auto", interpolation="antialiased")
        width = 2.2 if frame else 0.7
        self.page.add_patch(Rectangle((x, y), side, side, fill=False, ec=frame or LINE, lw=width))

    @styled
    def text(self, x: float, y: float, text: str, **style: Any) -> None:
        """Writes at (x, y), by default to the right of it and vertically centred."""
        self.page.text(x, y, text, **({"va": "center"} | style))

    @styled
    def axes(self, x: float, y: float, width: float, height: float) -> Axes:
        """Axes for a plot whose upper left corner is (x, y)."""
        box = (x / self.width, 1 - (y + height) / self.height, width / self.width, height / self.height)
        return self.figure.add_axes(box)


@styled
def save(figure: Figure, path: str | Path, dpi: int = 160) -> Path:
    """Writes a PNG of at most 1.2 MB, with fewer pixels where it would be larger; whole or not at all."""
    path = Path(path)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    content = buffer.getvalue()
    picture = Image.open(io.BytesIO(content)).convert("RGB")
    while len(content) > MAX_BYTES:  # never fewer colours: on a page about colours every one of them counts
        picture = picture.resize((picture.width * 4 // 5, picture.height * 4 // 5), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        picture.save(buffer, format="png", optimize=True)
        content = buffer.getvalue()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content)
    return path
