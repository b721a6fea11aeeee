"""The LoRA space as a map: the plane of its first two principal components, and one picture edited from any place."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any, ClassVar

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from ..algebra import pca
from ..analysis.plane import decode, thin, view_of
from ..analysis.space import routing_vectors
from ..analysis.walking import render
from ..core.editor import Editor
from ..emoji.relations import Analogy, analogies, get_relation, relations
from ..errors import InputError, whole_number
from ..images import read_image, to_pil
from ..models.base import STEPS
from ..show.figures import appearance
from ..show.pictures import relation_label
from .atlas_html import atlas_figure, card_html, legend_html, number, plane_svg
from .base import Widget, button, figure_tag, picture_tag
from .rendering import Renderer

EACH = 12  # analogies of a family on a map that was given none
SIDE, RESULT = 38, 160  # sides of pictures on the page in CSS pixels: on the map, of b and result
COLUMNS = 9  # of the grid in the fallback figure
KINDS = {
    "truth": "each true b′",
    "edited": "each b, edited",
    "chosen": "the chosen b, edited",
    "points": "points alone",
}


def some_of_each_family(each: int = EACH) -> list[Analogy]:
    """Test analogies, at most so many of each family of relations, spread over its relations."""
    families: dict[str, list[str]] = {}
    for name, relation in relations().items():
        families.setdefault(relation.family, []).append(name)
    items: list[Analogy] = []
    for names in families.values():
        spread = names[:: -(-len(names) // each)]
        items += analogies("test", spread, n=-(-each // len(spread)))[:each]
    return items


class Atlas(Widget):
    """Analogies on the plane of their routing's first two components, and b edited from anywhere on it.

    Every action of the page has a method; it raises InputError for places, analogies, families that are not on the map.

    Attributes:
        map: the principal components; map.points[i] is the place of items[i].
        vectors: routing vectors of the items, [k, layers · N].
        place, coefficients, picture: where the crosshair is, the mixture [layers, N] there and what it renders.

    Args:
        editor: an editor with a router whose transformer sees b alone (layout b): elsewhere a mixture alone does not
            determine the picture.
        items: analogies; a few test analogies of each family when None.
        b: the picture to edit; that of the first analogy when None.
        vectors: routing vectors of the items where they are known already.
        steps: as in :meth:`Editor.generate`.

    Raises:
        InputError: such an editor, fewer than two items, other vectors than items, or a b that cannot be read.
    """

    title = "Map of the LoRA space"
    parts = ("kinds", "plane", "pictures", "legend", "result", "where", "card")
    asks: ClassVar = {
        "move": lambda self, place: self.move_to(*place),
        "home": lambda self, _: self.home(),
        "take": lambda self, index: self.take(index),
        "look": lambda self, index: self.look(index),
        "choose": lambda self, index: self.choose(self._item(int(index)).b),
        "show": lambda self, kind: self.show(kind),
        "highlight": lambda self, family: self.highlight("" if family == self.family else family),
    }

    def __init__(
        self,
        editor: Editor,
        items: Sequence[Analogy] | None = None,
        b: Any = None,
        vectors: np.ndarray | None = None,
        steps: int = STEPS,
    ) -> None:
        if editor.router is None or editor.layout.needs_context:
            got = f"layout {editor.config.layout!r}{' without a router' if editor.router is None else ''}"
            expected = "a router and the layout 'b', whose mixture alone determines the picture"
            raise InputError(f"expected an editor with {expected}; got {got}")
        super().__init__()
        self.editor, self.steps = editor, steps
        self.items = list(some_of_each_family() if items is None else items)
        self.vectors = routing_vectors(editor, self.items) if vectors is None else np.asarray(vectors)
        if len(self.vectors) != len(self.items):
            raise InputError(f"expected a routing vector for each of {len(self.items)} items, got {len(self.vectors)}")
        self.map = pca(self.vectors)
        self.families = [get_relation(item.relation).family for item in self.items]
        self.view = view_of(self.map.points)
        names = np.array([item.relation for item in self.items])
        self._middles = {name: self.map.points[names == name].mean(0) for name in dict.fromkeys(names.tolist())}
        self.kind, self.family, self._looked = "truth", "", -1
        self._read(self.items[0].b if b is None else b)
        self.write(
            kinds="<span>Show</span>" + "".join(button("show", kind, text) for kind, text in KINDS.items()),
            plane=plane_svg(self.view, self.map, self.families),
            legend=legend_html(self.families),
        )
        self.show(self.kind)
        self.home()

    def move_to(self, x: float, y: float) -> None:
        """Puts the crosshair on a place of the map and renders b with the mixture that the place decodes to."""
        decoded = decode(self.map, np.array([[x, y]]), self.editor.config.n_loras)
        text = "This place is decoded. "
        if rows := float(decoded.rows[0]):
            moved = f"{decoded.moved[0]:.3f} (the mean is {math.hypot(x, y):.3f} away)"
            text += f"To become a mixture it was moved by {moved}, in {rows:.0%} of the layers. "
            text += "The ring shows where it landed."
        else:
            text += "It is a mixture as it stands: nothing had to be moved onto the simplex."
        nearest = int(np.linalg.norm(self.map.points - (x, y), axis=1).argmin())
        self._put(np.array([x, y]), decoded.coefficients[0], decoded.landed[0], text, nearest)

    def home(self) -> None:
        """The crosshair to the middle of the cloud, whose mixture is the mean of all analogies' mixtures."""
        self.move_to(0.0, 0.0)

    def take(self, index: int) -> None:
        """Edits b with the mixture of one analogy as the router gave it, and puts the crosshair there."""
        self._item(index)
        place, total = self.map.points[index], float(((self.vectors[index].astype(float) - self.map.centre) ** 2).sum())
        kept = float((place**2).sum()) / total if total else 1.0
        text = "Rendered with this analogy's own mixture, not a decoded one. "
        text += f"The plane holds {kept:.0%} of what sets it apart from the mean (squared distance)."
        self._put(place, self._mixtures([index])[0], place, text, index)

    def look(self, index: int) -> None:
        """Shows the pictures and the relation of one analogy; renders nothing."""
        item = self._item(index)
        if index != self._looked:  # while the crosshair moves, mostly the same one is nearest
            self._looked = index
            self.write(card=card_html(item, index))

    def choose(self, b: Any) -> None:
        """Edits another picture from now on, here at once."""
        self._read(b)
        with self.hold_sync():
            self._draw()
            if self.kind == "chosen":
                self.show(self.kind)

    def show(self, kind: str) -> None:
        """What lies on the map: one of :data:`KINDS`, pictures chosen so that they do not overlap."""
        if kind not in KINDS:
            raise InputError(f"expected one of {', '.join(KINDS)}, got {kind!r}")
        self.kind = kind
        self.write(pictures=self._pictures())
        self.highlight(self.family)

    def highlight(self, family: str = "") -> None:
        """Dims all families but one; the empty name brings all back."""
        if family and family not in self.families:
            raise InputError(f"expected a family on the map, {', '.join(sorted(set(self.families)))}; got {family!r}")
        self.family = family
        self.tell(chosen={"show": self.kind, "highlight": family})

    def nearest_relations(self, count: int = 3) -> dict[str, float]:
        """Relations whose analogies' mean place is nearest to the crosshair, and how far it is on the map."""
        apart = {name: math.dist(self.place, middle) for name, middle in self._middles.items()}
        return dict(sorted(apart.items(), key=lambda pair: pair[1])[:count])

    def fallback(self, columns: int = COLUMNS) -> Figure:
        """The map, and b edited by a grid of places on it: so many in a row, and as many rows as its shape gives."""
        view = self.view
        cell = (view.x1 - view.x0) / columns
        rows = max(1, round((view.y1 - view.y0) / cell))
        bottom = (view.y0 + view.y1 - rows * cell) / 2
        grid = np.meshgrid(view.x0 + cell * (np.arange(columns) + 0.5), bottom + cell * (np.arange(rows) + 0.5))
        places = np.stack(grid, -1)
        mixtures = decode(self.map, places.reshape(-1, 2), self.editor.config.n_loras).coefficients
        (pictures,) = render(self.editor, self.b[None], mixtures[None], self.steps)
        return atlas_figure(self.map, self.families, view, places, pictures, self.b)

    def _item(self, index: int) -> Analogy:
        return self.items[whole_number(index, "an analogy", 0, len(self.items) - 1)]

    def _read(self, b: Any) -> None:
        b = read_image(b, "b")
        self._render = Renderer(self.editor, b, steps=self.steps)
        self.b = b

    def _mixtures(self, indices: Sequence[int]) -> Tensor:
        """The items' own mixtures, [k, layers, N]."""
        vectors = torch.from_numpy(self.vectors[list(indices)]).float()
        return vectors.unflatten(1, (-1, self.editor.config.n_loras))

    def _put(self, place: np.ndarray, coefficients: Tensor, landed: np.ndarray, text: str, nearest: int) -> None:
        self.place = (float(place[0]), float(place[1]))
        self.coefficients, self._landed, self._text = coefficients, landed, text
        with self.hold_sync():
            self._draw()
            self.look(nearest)

    def _draw(self) -> None:
        drawn = self._render(self.coefficients)
        self.picture = to_pil(drawn)
        near = "; ".join(f"{escape(relation_label(n))} ({d:.3f})" for n, d in self.nearest_relations().items())
        place = ", ".join(number(x, ".3f") for x in self.place)
        self.write(
            result=figure_tag(self.b, "b", RESULT) + figure_tag(drawn, "result", RESULT),
            where=f"<p><b>At ({place})</b>. Nearest relations, by the mean place of their analogies: {near}.</p>"
            f"<p>{self._text}</p>",
        )
        (x, y), (u, v) = self.view.to_page(np.array([self.place, self._landed])).round(1).tolist()
        self.tell(cross={"x": x, "y": y, "u": u, "v": v})

    def _pictures(self) -> str:
        """The pictures on the map as HTML, each at its place in a frame of its family's colour."""
        if self.kind == "points":
            return ""
        # One of each family first, so that a small family is not lost in a large one.
        rank = [self.families[:i].count(family) for i, family in enumerate(self.families)]
        page = self.view.to_page(self.map.points)
        kept = thin(page, SIDE + 6, sorted(range(len(rank)), key=rank.__getitem__))
        if self.kind == "truth":
            shown = torch.stack([self.items[i].b_prime for i in kept])
        else:
            b = torch.stack([self.b if self.kind == "chosen" else self.items[i].b for i in kept])
            shown = render(self.editor, b, self._mixtures(kept)[:, None], self.steps)[:, 0]
        looks = appearance(self.families)
        return "".join(
            f"<span data-family='{escape(self.families[i])}' style='left:{page[i, 0]:.1f}px; top:{page[i, 1]:.1f}px; "
            f"border-color:{looks[self.families[i]][0]}'>{picture_tag(picture, '', SIDE)}</span>"
            for i, picture in zip(kept, shown, strict=True)
        )
