"""A pad between three analogies (a triangle) or four (a square): every point of it is a mixture of theirs."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from numbers import Real
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from ..core.editor import Editor
from ..emoji.relations import Analogy
from ..errors import InputError
from ..images import read_image
from ..models.base import STEPS
from ..show.pictures import relation_label
from ..show.style import PALE, Board
from .base import bar_html, picture_tag
from .mixer import MixturePanel

Point = tuple[float, float]
TRIANGLE: tuple[Point, ...] = ((0.5, 0.0), (0.0, 1.0), (1.0, 1.0))
SQUARE: tuple[Point, ...] = ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0))
CLOCKWISE = {3: [TRIANGLE[k] for k in (0, 2, 1)], 4: [SQUARE[k] for k in (0, 1, 3, 2)]}
HEIGHT = {3: math.sqrt(3) / 2, 4: 1.0}  # of a pad, its width being 1
# With the medians of the triangle, the midlines of the square.
OUTLINE = {
    3: "<polygon points='.5,0 1,.866 0,.866'/><path d='M.5 0V.866M1 .866L.25 .433M0 .866L.75 .433'/>",
    4: "<polygon points='0,0 1,0 1,1 0,1'/><path d='M.5 0V1M0 .5H1'/>",
}
STATIC = 5  # pictures along a side of the fallback figure


def weights_at(x: float, y: float, corners: int) -> Tensor:
    """Weights of the analogies at the corners at one point of a pad: [corners], none negative, their sum 1.

    The pad lies in the unit square, x to the right and y downwards. With three corners (top, bottom left, bottom right)
    the weights are barycentric, with four (top left, top right, bottom left, bottom right) bilinear.

    Raises:
        InputError: another number of corners, or a point outside the pad.
    """
    if corners not in (3, 4):
        raise InputError(f"expected 3 or 4 corners, got {corners}")
    if not all(isinstance(z, Real) and math.isfinite(z) for z in (x, y)):
        raise InputError(f"expected two finite numbers, got {x!r} and {y!r}")
    if corners == 3:
        right = x - (1 - y) / 2
        inside = corner = [1 - y, y - right, right]
    else:
        corner = [(1 - x) * (1 - y), x * (1 - y), (1 - x) * y, x * y]
        inside = [x, y, 1 - x, 1 - y]
    if min(inside) < -1e-6:
        raise InputError(f"expected a point inside the {'triangle' if corners == 3 else 'square'}, got ({x:g}, {y:g})")
    weights = torch.tensor(corner, dtype=torch.float32, device="cpu").clamp(min=0)
    return weights / weights.sum()


def places(corners: int, side: int) -> list[Point]:
    """Points that lie evenly on a pad, row by row, ``side`` of them along each of its sides."""
    last = side - 1
    if corners == 4:
        return [(j / last, i / last) for i in range(side) for j in range(side)]
    return [(0.5 + (j - i / 2) / last, i / last) for i in range(side) for j in range(i + 1)]


@dataclass(frozen=True)
class Corner:
    """A pair at a corner of a pad, [3, 64, 64] each; ``label`` is its relation or its number."""

    a: Tensor
    a_prime: Tensor
    label: str


class Pads(MixturePanel):
    """A pad between three analogies (a triangle) or four (a square), and the result beside b.

    The router gives each pair (a_k, a'_k) its coefficients c_k for the same b, and a point of the pad mixes them,
    c = sum_k w_k c_k (:func:`weights_at`).

    Args:
        editor: one whose transformer sees b alone (layout b): where it sees a and a' too, there is no half-way pair.
        analogies: three or four; their own b are not used. Pairs (a, a_prime) of pictures do as well.
        steps: as in :meth:`Editor.generate`.

    Attributes:
        coefficients: the mixtures at the corners, [corners, layers, N]. point: where the pad stands, (x, y).

    Raises:
        InputError: another number of analogies, a picture that cannot be read, an editor of another layout, or what
            :class:`~lorweb_mini.widgets.rendering.Renderer` refuses.
    """

    title = "Pad between analogies"
    back = "Back to the middle"

    def __init__(
        self, editor: Editor, analogies: Sequence[Analogy | tuple[Any, Any]], b: Any, steps: int = STEPS
    ) -> None:
        if editor.layout.needs_context:
            raise InputError(f"expected an editor with the layout 'b', got {editor.config.layout!r}")
        if len(analogies) not in (3, 4):
            raise InputError(f"expected 3 or 4 analogies, got {len(analogies)}")
        super().__init__(editor, b, None, steps)
        self.corners = [_corner(analogy, k) for k, analogy in enumerate(analogies, 1)]
        self._shape = TRIANGLE if len(analogies) == 3 else SQUARE
        self.coefficients = editor.route([c.a for c in self.corners], [c.a_prime for c in self.corners], self.b)
        self.point = self._middle
        labels = [f"{k} · {escape(corner.label)}" for k, corner in enumerate(self.corners, 1)]
        rows = (f"<div class='row'><span>{x}</span>{bar_html(str(k))}</div>" for k, x in enumerate(labels, 1))
        hint = "Drag the point, or use the arrow keys, with Shift by smaller steps;"
        self.begin(
            self._pad(labels), f"{hint} 1 to {len(self.corners)} go to a corner, 0 to the middle.", "".join(rows)
        )

    @property
    def weights(self) -> Tensor:
        """Of the corners, where the pad stands: [corners]."""
        return weights_at(*self.point, len(self.corners))

    @property
    def mixture(self) -> Tensor:
        return torch.einsum("k,kln->ln", self.weights, self.coefficients)

    def stand(self, mixture: Tensor) -> dict[str, Any]:
        bars = {str(k): round(weight, 4) for k, weight in enumerate(self.weights.tolist(), 1)}
        return {"values": {"point": list(self.point)}, "bars": bars}

    def move(self, x: float, y: float) -> None:
        """Moves the point and renders; InputError outside the pad."""
        weights_at(x, y, len(self.corners))
        self.point = float(x), float(y)
        self.refresh()

    def reset(self) -> None:
        self.move(*self._middle)

    def change(self, key: str, value: Any) -> None:
        if key != "point" or not isinstance(value, (list, tuple)) or len(value) != 2:
            raise InputError(f"expected a point (x, y), got {key}: {value!r}")
        self.move(*value)

    def fallback(self) -> Figure:
        """b and the analogies to the left, and to the right the results all over the pad."""
        points = places(len(self.corners), STATIC)
        weights = torch.stack([weights_at(*point, len(self.corners)) for point in points])
        mixtures = torch.einsum("pk,kln->pln", weights, self.coefficients)
        pictures = self.editor.generate(self.b, mixtures, steps=self.steps).pictures
        size, apart, left, top = 0.72, 0.77, 3.1, 0.34
        across = (STATIC - 1) * apart
        board = Board(left + across + apart + 0.1, top + across + apart + 0.32)
        for (x, y), picture in zip(points, pictures, strict=True):
            board.picture(picture, left + x * across, top + y * across, size)
        bold: dict[str, Any] = {"size": 9, "weight": "bold", "ha": "center"}
        for k, (x, y) in enumerate(self._shape, 1):
            board.text(left + x * across + size / 2, top - 0.12 if y == 0 else board.height - 0.17, f"{k}", **bold)
        each = (board.height - 0.3) / (len(self.corners) + 1)
        edge = min(0.5, each - 0.14)
        board.text(0.2, 0.15 + edge / 2, "b", **bold)
        board.picture(self.b, 0.4, 0.15, edge)
        for k, corner in enumerate(self.corners, 1):
            y = 0.15 + k * each
            board.text(0.2, y + edge / 2, f"{k}", **bold)
            board.picture(corner.a, 0.4, y, edge)
            board.text(0.51 + edge, y + edge / 2, "→", size=9, ha="center")
            board.picture(corner.a_prime, 0.62 + edge, y, edge)
            board.text(0.72 + 2 * edge, y + edge / 2, corner.label.replace(": ", ":\n", 1), size=7.5)
        board.text(0.12, board.height - 0.06, "The pad needs a running kernel.", size=7.5, color=PALE, va="bottom")
        return board.figure

    @property
    def _middle(self) -> Point:
        x, y = (sum(z) / len(self._shape) for z in zip(*self._shape, strict=True))
        return x, y

    def _pad(self, labels: Sequence[str]) -> str:
        """The pad with its analogies at the corners, as HTML."""
        count = len(self.corners)
        height, upper = HEIGHT[count], count - 2
        keys = {str(k): place for k, place in enumerate((self._middle, *self._shape))}
        names = [corner.label for corner in self.corners]
        shape = escape(json.dumps({"corners": CLOCKWISE[count], "ratio": height, "places": keys, "labels": names}))
        blocks = [
            f"<div class='corner'><div>{picture_tag(corner.a, 'a', 40)}<span aria-hidden='true'>→</span>"
            f"{picture_tag(corner.a_prime, 'a′', 40)}</div>{label}</div>"
            for corner, label in zip(self.corners, labels, strict=True)
        ]
        return (
            f"<div class='field'><div class='corners{' single' if upper == 1 else ''}'>{''.join(blocks[:upper])}</div>"
            f"<div class='pad' data-shape='{shape}'>"
            f"<svg viewBox='0 0 1 {height:.4f}' aria-hidden='true'>{OUTLINE[count]}</svg>"
            "<div role='slider' tabindex='0' aria-roledescription='pad' aria-valuemin='0' aria-valuemax='100' "
            "aria-label='mixture of the analogies; arrow keys move it'></div></div>"
            f"<div class='corners'>{''.join(blocks[upper:])}</div></div>"
        )


def _corner(analogy: Analogy | tuple[Any, Any], number: int) -> Corner:
    if isinstance(analogy, Analogy):
        return Corner(analogy.a, analogy.a_prime, relation_label(analogy.relation))
    if not isinstance(analogy, (tuple, list)) or len(analogy) != 2:
        raise InputError(f"expected an Analogy or a pair (a, a_prime), got {type(analogy).__name__}")
    return Corner(read_image(analogy[0], "a"), read_image(analogy[1], "a_prime"), f"pair {number}")
