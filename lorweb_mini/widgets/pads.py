"""Walk between analogies with one finger, and what every instrument that mixes has in common.

:class:`Instrument` is a page with controls, a :class:`~lorweb_mini.widgets.rendering.Renderer` behind it, and the rule
that late frames are dropped. :class:`Pads` is the one with a triangle or a square between three or four analogies;
:class:`~lorweb_mini.widgets.mixer.Mixer`, with its sliders, is the other. Whatever decides which mixture is drawn is
Python and needs no browser; the page's script reports which control was changed.
"""

from __future__ import annotations

import base64
import io
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from numbers import Real
from pathlib import Path
from typing import Any

import anywidget
import matplotlib
import torch
import traitlets
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from ..core.editor import Editor
from ..emoji.relations import Analogy
from ..errors import InputError
from ..images import read_image, to_pil
from ..show.figures import relation_label
from ..show.style import LINE, PALE, STYLE, figure_of
from .rendering import Latest, Renderer, in_turn
from .still import NO_ANSWER, Bundle, with_still

Point = tuple[float, float]
ZOOM = 3  # of the pictures beside the controls
TRIANGLE: tuple[Point, ...] = ((0.5, 0.0), (0.0, 1.0), (1.0, 1.0))
SQUARE: tuple[Point, ...] = ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0))
CLOCKWISE = {3: [TRIANGLE[k] for k in (0, 2, 1)], 4: [SQUARE[k] for k in (0, 1, 3, 2)]}
HEIGHT = {3: math.sqrt(3) / 2, 4: 1.0}  # of a pad, its width being 1
STATIC = 5  # pictures along a side of the static pad


# --- a page with controls and a picture -----------------------------------------------------------


def source_of(picture: Image.Image) -> str:
    """A picture as the address of an <img>, with the file inside."""
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=1)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def picture_html(picture: Image.Image, caption: str, zoom: int = 4) -> str:
    """A picture with its caption, enlarged without blur, as HTML that needs no file."""
    width, height = picture.width * zoom, picture.height * zoom
    return (
        "<figure style='margin:0 12px 0 0; text-align:center; line-height:1.6'>"
        f"<img alt='{escape(caption)}' width='{width}' height='{height}' style='border-radius:8px; max-width:none' "
        f"src='{source_of(picture.resize((width, height), Image.Resampling.NEAREST))}'>"
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def bar_html(key: str, name: str) -> str:
    """A share as a bar with its percentage; the page fills it in from ``bars[key]``."""
    return f"<span class='bar' data-bar='{escape(key)}' data-name='{escape(name)}'><i></i><b></b></span>"


class Panel(anywidget.AnyWidget):
    """The page of an instrument.

    Attributes:
        frame: its HTML. Elements with ``data-key`` are controls, those with ``data-bar`` show a share.
        picture: address of the result. values: control to where it stands. bars: share by name.
        drawn: how many frames were drawn; its change tells the page that the rest has changed.
    """

    _esm, _css = Path(__file__).with_suffix(".js"), Path(__file__).with_suffix(".css")
    frame = traitlets.Unicode().tag(sync=True)
    picture = traitlets.Unicode().tag(sync=True)
    values = traitlets.Dict().tag(sync=True)
    bars = traitlets.Dict().tag(sync=True)
    drawn = traitlets.Int().tag(sync=True)


class Instrument(ABC):
    """Controls beside b and the result. Showing it in a notebook is naming it in a cell.

    Attributes:
        picture: the result, a PIL picture.
        panel: the page. The page has at most one message under way, and :class:`Latest` drops what comes too late
            nevertheless (the same instrument may be shown twice).
    """

    picture: Image.Image

    def __init__(
        self, editor: Editor, b: Any, context: tuple[Any, Any] | None = None, steps: int = 2, seed: int = 0
    ) -> None:
        self.editor, self.b, self.context, self.steps, self.seed = editor, read_image(b, "b"), context, steps, seed
        self.renderer = Renderer(editor, self.b, context, steps, seed)

    def _open(self, controls: str, hint: str, below: str = "") -> None:
        """Builds the page, with HTML beside the pictures and below them, and draws the first picture."""
        blank = Image.new("RGB", (64, 64), "white")
        pictures = picture_html(to_pil(self.b), "b", ZOOM) + picture_html(blank, "result", ZOOM)
        self.panel = Panel(
            frame=f"<div class='columns'><div><div class='pictures'>{pictures}</div>{below}</div>{controls}</div>"
            f"<p class='pale'>{hint}</p><p role='alert' hidden>{NO_ANSWER}</p>"
        )
        self._latest = Latest(self._draw, wait=0)
        self.panel.on_msg(lambda _, message, __: self._answer(message))
        self._draw(self.mixture)

    @property
    @abstractmethod
    def mixture(self) -> Tensor:
        """Coefficients as the controls stand, [layers, N]."""

    @property
    @abstractmethod
    def values(self) -> dict[str, Any]:
        """Where each control of the page stands."""

    @abstractmethod
    def bars(self, mixture: Tensor) -> dict[str, float]:
        """The shares that the page shows, by name."""

    @abstractmethod
    def _change(self, key: str, value: Any) -> None:
        """Moves a control, without drawing."""

    @abstractmethod
    def static(self) -> Figure:
        """What a reader without a kernel sees."""

    @in_turn
    def _answer(self, message: Mapping[str, Any]) -> None:
        """Does what the page asks for: ``{"changes": [[control, value], ...]}``."""
        for key, value in message["changes"]:
            self._change(key, value)
        self._latest.ask(self.mixture)

    def _draw(self, mixture: Tensor) -> None:
        self.picture = to_pil(self.renderer(mixture))
        with self.panel.hold_sync():
            self.panel.picture = source_of(self.picture)
            self.panel.values, self.panel.bars = self.values, self.bars(mixture)
            self.panel.drawn += 1

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Bundle:
        """The live page, and a still picture for whoever has no kernel."""
        return with_still(self.panel, self.static(), f"{type(self).__name__} of LoRAs")


# --- between three or four analogies --------------------------------------------------------------


def weights_at(x: float, y: float, corners: int) -> Tensor:
    """Weights of the analogies at the corners at one point of a pad.

    The pad lies in the unit square, x to the right and y downwards. With three corners (top, bottom left, bottom right)
    the weights are barycentric, with four (top left, top right, bottom left, bottom right) bilinear.

    Returns:
        [corners], none negative, their sum 1.

    Raises:
        InputError: another number of corners, or a point outside the pad.
    """
    if corners not in (3, 4):
        raise InputError(f"expected 3 or 4 corners, got {corners}")
    if not all(isinstance(z, Real) and math.isfinite(z) for z in (x, y)):
        raise InputError(f"expected two finite numbers, got {x!r} and {y!r}")
    if corners == 3:
        right = x - (1 - y) / 2
        weights = torch.tensor([1 - y, y - right, right])
    else:
        weights = torch.tensor([(1 - x) * (1 - y), x * (1 - y), (1 - x) * y, x * y])
        if not -1e-6 <= x <= 1 + 1e-6 or not -1e-6 <= y <= 1 + 1e-6:
            raise InputError(f"expected a point in the unit square, got ({x:g}, {y:g})")
    if weights.min() < -1e-6:
        raise InputError(f"expected a point inside the triangle, got ({x:g}, {y:g})")
    weights = weights.clamp(min=0)
    return weights / weights.sum()


def places(corners: int, side: int) -> list[Point]:
    """Points that lie evenly on a pad, row by row, ``side`` of them along each of its sides."""
    last = side - 1
    if corners == 4:
        return [(j / last, i / last) for i in range(side) for j in range(side)]
    return [(0.5 + (j - i / 2) / last, i / last) for i in range(side) for j in range(i + 1)]


@dataclass(frozen=True)
class Corner:
    """An analogy at a corner of a pad: what its pair shows, and the mixture that the router gives it for b.

    Attributes:
        a, a_prime: [3, 64, 64].
        label: the relation's name, or the number of the pair.
    """

    a: Tensor
    a_prime: Tensor
    label: str


class Pads(Instrument):
    """A pad between three analogies (a triangle) or four (a square), the result beside b.

    The router gives each pair (a_k, a'_k) its coefficients c_k for the same b, and a point of the pad mixes them,
    c = sum_k w_k c_k (:func:`weights_at`). Arrow keys move the point, with Shift by smaller steps; the keys 1 to 4 take
    it to a corner and 0 to the middle. Where no kernel runs, the notebook shows :func:`static`.

    Args:
        editor: one whose transformer sees b alone (layout b): where it sees a and a' too, there is no half-way pair.
        analogies: three or four; their own b are not used. Pairs (a, a_prime) of pictures do as well.
        b: one picture.
        steps, seed: as in :meth:`Editor.generate`.

    Attributes:
        corners: what lies at the corners. coefficients: their mixtures, [corners, layers, N].
        point: where the pad stands, (x, y).

    Raises:
        InputError: another number of analogies, a picture that cannot be read, an editor of another layout, or what
            :class:`~lorweb_mini.widgets.rendering.Renderer` refuses.
    """

    def __init__(
        self,
        editor: Editor,
        analogies: Sequence[Analogy | tuple[Any, Any]],
        b: Any,
        steps: int = 2,
        seed: int = 0,
    ) -> None:
        if editor.layout.needs_context:
            raise InputError(f"expected an editor with the layout 'b', got {editor.config.layout!r}")
        if len(analogies) not in (3, 4):
            raise InputError(f"expected 3 or 4 analogies, got {len(analogies)}")
        super().__init__(editor, b, None, steps, seed)
        self.corners = [_corner(analogy, k) for k, analogy in enumerate(analogies, 1)]
        pairs = [c.a for c in self.corners], [c.a_prime for c in self.corners]
        self.coefficients = editor.route(*pairs, self.b)
        self._shape = TRIANGLE if len(self.corners) == 3 else SQUARE
        self.point = self._middle
        hint = (
            "Drag the point, or use the arrow keys, with Shift by smaller steps; 1 to "
            f"{len(self.corners)} go to a corner, 0 to the middle. The pad needs a running kernel."
        )
        rows = "".join(
            f"<div class='row'><span>{k} · {escape(corner.label)}</span>{bar_html(str(k), corner.label)}</div>"
            for k, corner in enumerate(self.corners, 1)
        )
        self._open(self._controls(), hint, f"<div class='weights'>{rows}</div>")

    @property
    def weights(self) -> Tensor:
        """Of the corners, where the pad stands: [corners]."""
        return weights_at(*self.point, len(self.corners))

    @property
    def mixture(self) -> Tensor:
        """Coefficients as the pad stands, [layers, N]."""
        return torch.einsum("k,kln->ln", self.weights, self.coefficients)

    @property
    def values(self) -> dict[str, Any]:
        """The point, as the page knows it."""
        return {"point": list(self.point)}

    def bars(self, mixture: Tensor) -> dict[str, float]:
        """Weights of the corners, counted from 1."""
        return {str(k): round(weight, 4) for k, weight in enumerate(self.weights.tolist(), 1)}

    def move(self, x: float, y: float) -> None:
        """Moves the point and draws; InputError outside the pad."""
        self._change("point", (x, y))
        self._draw(self.mixture)

    def static(self) -> Figure:
        """Pictures all over the pad, its analogies beside it."""
        return static(self.editor, self.corners, self.coefficients, self.b, self.steps, self.seed)

    @property
    def _middle(self) -> Point:
        x, y = (sum(z) / len(self._shape) for z in zip(*self._shape, strict=True))
        return x, y

    def _change(self, key: str, value: Any) -> None:
        if key != "point" or not isinstance(value, (list, tuple)) or len(value) != 2:
            raise InputError(f"expected a point (x, y), got {key}: {value!r}")
        x, y = value
        weights_at(x, y, len(self.corners))
        self.point = float(x), float(y)

    def _controls(self) -> str:
        count, height, around = len(self.corners), HEIGHT[len(self.corners)], CLOCKWISE[len(self.corners)]
        outline = " ".join(f"{x},{y * height:.4f}" for x, y in around)
        ends = [(around[i], around[(i + 1) % count]) for i in range(count)]
        middles = [((p[0] + q[0]) / 2, (p[1] + q[1]) / 2) for p, q in ends]
        # Medians of the triangle, from a corner to the middle of the side across; midlines of the square.
        lines = [(around[i], middles[(i + 1) % 3]) for i in range(3)] if count == 3 else [middles[::2], middles[1::2]]
        drawn = "".join(
            f"<line x1='{p[0]:.4f}' y1='{p[1] * height:.4f}' x2='{q[0]:.4f}' y2='{q[1] * height:.4f}'/>"
            for p, q in lines
        )
        keys = {str(k): place for k, place in enumerate(self._shape, 1)} | {"0": self._middle}
        pad = (
            f"<div class='pad' data-corners='{json.dumps(around)}' data-ratio='{height:.6f}' "
            f"data-places='{json.dumps(keys)}'>"
            f"<svg viewBox='0 0 1 {height:.4f}' aria-hidden='true'><polygon points='{outline}'/>{drawn}</svg>"
            "<div role='slider' tabindex='0' aria-roledescription='pad' aria-valuemin='0' aria-valuemax='100' "
            "aria-label='mixture of the analogies; arrow keys move it'></div></div>"
        )
        blocks = [_corner_html(corner, k) for k, corner in enumerate(self.corners, 1)]
        upper = 1 if count == 3 else 2
        return (
            f"<div class='field'><div class='corners{' single' if upper == 1 else ''}'>{''.join(blocks[:upper])}</div>"
            f"{pad}<div class='corners'>{''.join(blocks[upper:])}</div></div>"
        )


def _corner(analogy: Analogy | tuple[Any, Any], number: int) -> Corner:
    if isinstance(analogy, Analogy):
        return Corner(analogy.a, analogy.a_prime, relation_label(analogy.relation))
    if not isinstance(analogy, (tuple, list)) or len(analogy) != 2:
        raise InputError(f"expected an Analogy or a pair (a, a_prime), got {type(analogy).__name__}")
    a, a_prime = (read_image(x, name) for x, name in zip(analogy, ("a", "a_prime"), strict=True))
    return Corner(a, a_prime, f"pair {number}")


def _corner_html(corner: Corner, number: int) -> str:
    pictures = [
        f"<img alt='{name}' src='{source_of(to_pil(x))}'>" for name, x in (("a", corner.a), ("a′", corner.a_prime))
    ]
    return (
        f"<div class='corner'><div>{pictures[0]}<span aria-hidden='true'>→</span>{pictures[1]}</div>"
        f"{number} · {escape(corner.label)}</div>"
    )


def static(
    editor: Editor,
    corners: Sequence[Corner],
    coefficients: Tensor,
    b: Any,
    steps: int = 2,
    seed: int = 0,
    side: int = STATIC,
) -> Figure:
    """A pad as a field of pictures: b and the analogies to the left, the results where the pad would draw them.

    Args:
        corners: three or four. coefficients: their mixtures, [corners, layers, N].
        side: pictures along each side of the pad.
    """
    points = places(len(corners), side)
    weights = torch.stack([weights_at(*point, len(corners)) for point in points])
    mixtures = torch.einsum("pk,kln->pln", weights, coefficients)
    pictures = editor.generate(b, mixtures, steps=steps, seed=seed).images
    size, gap, left, top = 0.72, 0.05, 3.1, 0.34
    width, height = left + side * (size + gap) + 0.1, top + side * (size + gap) + 0.32
    with matplotlib.rc_context(STYLE):
        figure, axes = figure_of(width, height)
        figure.set_layout_engine("none")
        axes.set_position((0, 0, 1, 1))
        axes.axis("off")

        def show(picture: Image.Image, x: float, y: float, edge: float) -> None:
            axes.imshow(picture.resize((256, 256)), extent=(x, x + edge, y + edge, y), aspect="auto")
            axes.plot([x, x + edge, x + edge, x, x], [y, y, y + edge, y + edge, y], color=LINE, lw=0.7)

        for (x, y), picture in zip(points, pictures, strict=True):
            show(picture, left + x * (side - 1) * (size + gap), top + y * (side - 1) * (size + gap), size)
        for k, (x, y) in enumerate(TRIANGLE if len(corners) == 3 else SQUARE, 1):
            across = left + x * (side - 1) * (size + gap) + size / 2
            axes.text(
                across, top - 0.12 if y == 0 else height - 0.17, f"{k}", size=9, weight="bold", ha="center", va="center"
            )
        lines = [("b", [b], ""), *((f"{k}", [c.a, c.a_prime], c.label) for k, c in enumerate(corners, 1))]
        each = (height - 0.3) / len(lines)
        edge = min(0.5, each - 0.14)
        for row, (name, shown, label) in enumerate(lines):
            y = 0.15 + row * each
            axes.text(0.2, y + edge / 2, name, size=9, weight="bold", ha="center", va="center")
            for i, picture in enumerate(shown):
                show(to_pil(read_image(picture, "b")), 0.4 + i * (edge + 0.22), y, edge)
            if label:
                axes.text(0.4 + edge + 0.11, y + edge / 2, "→", size=9, ha="center", va="center")
                axes.text(0.5 + 2 * edge + 0.22, y + edge / 2, label.replace(": ", ":\n", 1), size=7.5, va="center")
        axes.text(0.12, height - 0.06, "The pad needs a running kernel.", size=7.5, color=PALE, va="bottom")
        axes.set(xlim=(0, width), ylim=(height, 0))
    return figure
