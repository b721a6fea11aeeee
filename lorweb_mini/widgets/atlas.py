"""The LoRA space as a map: the plane of its first two principal components, to look at and to walk on.

What needs no browser is plain functions: :func:`onto_simplex` and :func:`decode` lead from a place on the map back to
coefficients, :func:`thin` chooses the pictures that fit beside each other, :func:`atlas_figure` draws the whole plane
as a grid of edits. :class:`Atlas` puts them on a page; the page's own script only says where the pointer is and which
button was pressed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any

import anywidget
import numpy as np
import torch
import traitlets
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.markers import MarkerStyle
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from PIL import Image
from torch import Tensor

from ..algebra import Map, pca
from ..analysis.space import routing_vectors
from ..core.editor import Editor
from ..emoji.relations import Analogy, analogies, get_relation, relations
from ..emoji.sheets import load_emoji
from ..errors import InputError
from ..images import read_image, to_pil
from ..show.figures import appearance, relation_label
from ..show.style import LINE, PALE, figure_of, styled
from .browser import picture_tag
from .rendering import Latest, Renderer, in_turn
from .still import NO_ANSWER, Bundle, with_still

CHUNK = 64
EACH = 12  # analogies of a family on a map that was given none
SIDE, RESULT, CARD = 38, 160, 72  # sides of pictures on the page in CSS pixels: on the map, of b and result, of a card
WIDTH, LOW, HIGH = 470, 360, 520  # the plane on the page: its width, and what its height may be
LEFT, TOP, RIGHT, BOTTOM = 48, 8, 8, 40  # room around it for ticks and labels
MOVED = 1e-5  # a row of coefficients that moved by less did not leave the simplex: routing is in single precision
KINDS = {
    "truth": "each true b′",
    "edited": "each b, edited",
    "chosen": "the chosen b, edited",
    "points": "points alone",
}

Render = Callable[[Tensor], Tensor]
"""A mixture [layers, N] to the edited picture [3, 64, 64]."""


# --- the plane ------------------------------------------------------------------------------------


def onto_simplex(x: Tensor) -> Tensor:
    """The nearest points with coordinates of at least 0 that sum to 1, for the last dimension of x [..., N].

        argmin_c ‖c − x‖²  =  max(x − θ, 0),        θ such that the coordinates sum to 1

    θ is found among N candidates after sorting (Held, Wolfe and Crowder 1974; Duchi et al. 2008).

    Raises:
        InputError: no last dimension, an empty one, or values that are not finite.
    """
    if x.ndim == 0 or x.shape[-1] == 0 or not torch.isfinite(x).all():
        raise InputError(f"expected finite numbers [..., N] with N at least 1, got shape {list(x.shape)}")
    falling = x.double().sort(dim=-1, descending=True).values
    excess = falling.cumsum(-1) - 1
    rank = torch.arange(1, x.shape[-1] + 1)
    # The first always stays; rounding says otherwise for numbers of 1e16.
    kept = (falling * rank > excess).sum(-1, keepdim=True).clamp_min(1)
    return (x.double() - excess.gather(-1, kept - 1) / kept).clamp_min(0).to(x.dtype)


@dataclass(frozen=True)
class Decoded:
    """Places on a map as mixtures.

    Attributes:
        coefficients: [m, layers, N], rows on the simplex.
        landed: where these mixtures lie on the map, [m, 2]: the places themselves where nothing had to be moved.
        moved: Euclidean distance of the coefficients to what inverse PCA gave, [m].
        rows: share of layers whose row inverse PCA had put outside the simplex, [m].
    """

    coefficients: Tensor
    landed: np.ndarray
    moved: np.ndarray
    rows: np.ndarray


def decode(found: Map, places: np.ndarray, n_loras: int) -> Decoded:
    """Places [m, 2] on the first two components of a map of routing vectors, back to coefficients.

    Inverse PCA gives ``place @ axes + centre``, whose rows of N sum to 1, since those of all analogies do; but they
    may be negative. So each layer's row is projected onto the simplex.

    Raises:
        InputError: places that are not finite or not [m, 2], a map of one component, or one of other vectors.
    """
    places = np.asarray(places, dtype=np.float64)
    if places.ndim != 2 or places.shape[1] != 2 or not np.isfinite(places).all():
        raise InputError(f"expected finite places [m, 2] on the map, got {places.tolist()!r:.80}")
    if len(found.axes) < 2 or len(found.centre) % n_loras:
        raise InputError(
            f"expected a map with two components of vectors of layers · {n_loras} coefficients, "
            f"got axes of shape {list(found.axes.shape)}"
        )
    raw = torch.from_numpy(places @ found.axes[:2] + found.centre).unflatten(1, (-1, n_loras))
    coefficients = onto_simplex(raw)
    apart = (coefficients - raw).norm(dim=-1)
    landed = found.place(coefficients.flatten(1).numpy())[:, :2]
    return Decoded(coefficients.float(), landed, apart.norm(dim=-1).numpy(), (apart > MOVED).double().mean(-1).numpy())


def thin(places: np.ndarray, side: float, order: Sequence[int] | None = None) -> list[int]:
    """Which of k squares of this side, centred at places [k, 2], to keep so that none overlap: indices, in ``order``.

    Greedy: a square is kept if it overlaps none that was kept before, so no other could be added.
    """
    kept: list[int] = []
    for i in range(len(places)) if order is None else order:
        if not kept or bool((np.abs(places[kept] - places[i]).max(1) >= side).all()):
            kept.append(int(i))
    return kept


@dataclass(frozen=True)
class View:
    """The part of the plane that is shown, both axes to the same scale, and its size on the page in pixels."""

    x0: float
    x1: float
    y0: float
    y1: float
    width: float
    height: float
    left: float = LEFT
    top: float = TOP

    def to_page(self, places: np.ndarray) -> np.ndarray:
        """Places [m, 2] on the map to pixels from the upper left corner."""
        scale = self.width / (self.x1 - self.x0)
        return np.stack([self.left + (places[:, 0] - self.x0) * scale, self.top + (self.y1 - places[:, 1]) * scale], 1)


def view_of(points: np.ndarray) -> View:
    """A view with a margin around points [k, 2], of a fixed width as high as it needs to be, within limits."""
    low, high = points.min(0), points.max(0)
    middle = (low + high) / 2
    # A twelfth on each side; never empty, even for points that all coincide.
    width, height = np.maximum((high - low) * 7 / 6, 1e-6)
    tall = min(max(WIDTH * height / width, LOW), HIGH)
    scale = min(WIDTH / width, tall / height)
    half = np.array([WIDTH, tall]) / scale / 2
    (x0, y0), (x1, y1) = (middle - half).tolist(), (middle + half).tolist()
    return View(x0, x1, y0, y1, WIDTH, tall)


def some_of_each_family(each: int = EACH, seed: int = 0) -> list[Analogy]:
    """Test analogies, at most so many of each family of relations, spread over its relations."""
    families: dict[str, list[str]] = {}
    for name, relation in relations().items():
        families.setdefault(relation.family, []).append(name)
    found: list[Analogy] = []
    for names in families.values():
        spread = names[:: -(-len(names) // each)]
        found += analogies("test", spread, seed, -(-each // len(spread)))[:each]
    return found


def draw_all(editor: Editor, b: Tensor, coefficients: Tensor, steps: int, seed: int) -> Tensor:
    """Pictures [m, 3, 64, 64] of m mixtures [m, layers, N], of one b [3, 64, 64] or of one each [m, 3, 64, 64]."""
    many = b.expand(len(coefficients), *b.shape[-3:])
    parts = zip(many.split(CHUNK), coefficients.split(CHUNK), strict=True)
    return torch.cat([editor.generate(x, c, steps=steps, seed=seed).pictures for x, c in parts])


# --- without a kernel -----------------------------------------------------------------------------


@styled
def atlas_figure(
    editor: Editor,
    found: Map,
    families: Sequence[str],
    b: Any,
    columns: int = 11,
    steps: int = 4,
    seed: int = 0,
    title: str = "An atlas of the LoRA space: one picture, edited by every place on the map",
    note: str = "",
) -> Figure:
    """The plane twice: the analogies as points, and a grid in which each cell is b edited by the cell's place.

    Every cell's centre is decoded to coefficients (:func:`decode`) and drawn. Cells without an analogy in or next to
    them are pale.

    Args:
        found: map of routing vectors [k, layers · N], at least two components.
        families: one name for each of the k points, for their colours.
        b: the picture that is edited.
        columns: cells in a row; the number of rows follows from the shape of the plane.
        note: a few words above everything.

    Raises:
        InputError: as :func:`decode`; another number of families than points; a basis that :class:`Atlas` refuses.
    """
    picture = read_image(b, "b")
    _check(editor)
    if len(families) != len(found.points):
        raise InputError(f"expected a family for each of {len(found.points)} points, got {len(families)}")
    points, view = found.points[:, :2], view_of(found.points[:, :2])
    cell = (view.x1 - view.x0) / columns
    rows = max(1, round((view.y1 - view.y0) / cell))
    bottom = (view.y0 + view.y1 - rows * cell) / 2
    x, y = np.meshgrid(view.x0 + cell * (np.arange(columns) + 0.5), bottom + cell * (np.arange(rows) + 0.5))
    places = np.stack([x.ravel(), y.ravel()], 1)
    drawn = draw_all(editor, picture, decode(found, places, editor.config.n_loras).coefficients, steps, seed)
    near = np.abs(places[:, None] - points[None]).max(2).min(1) <= cell

    side = 5.0
    looks, names = appearance(families), np.asarray(families)
    legend = 0.19 * -(-len(looks) // 6) + 0.3
    width, height = 2 * side + 0.9, side * rows / columns + 0.9 + legend
    figure, (left, right) = figure_of(width, height, ncols=2)
    for name, (colour, marker) in looks.items():
        left.scatter(*points[names == name].T, s=13, marker=marker, color=colour, linewidths=0, alpha=0.8)
    for axes in (left, right):
        axes.set(xlim=(view.x0, view.x1), ylim=(bottom, bottom + rows * cell), aspect="equal")
        axes.set_xlabel(f"first component ({found.explained[0]:.0%} of the variance)")
    left.set_ylabel(f"second component ({found.explained[1]:.0%})")
    left.set_title(f"{len(points):,} analogies by family", loc="left")
    right.set_title("b, edited by the mixture of each place", loc="left")
    right.grid(False)
    gap = 0.02 * cell
    for (u, v), result, close in zip(places, drawn, near, strict=True):
        box = (u - cell / 2 + gap, u + cell / 2 - gap, v - cell / 2 + gap, v + cell / 2 - gap)
        enlarged = np.asarray(to_pil(result).resize((128, 128), Image.Resampling.LANCZOS))
        right.imshow(enlarged, extent=box, interpolation="antialiased", alpha=1.0 if close else 0.3, zorder=2)
        right.add_patch(Rectangle((box[0], box[2]), cell - 2 * gap, cell - 2 * gap, fill=False, ec=LINE, lw=0.5))
    right.set(xlim=(view.x0, view.x1), ylim=(bottom, bottom + rows * cell))
    figure.suptitle(title, x=0.01, ha="left", size=12, weight="bold")
    handles = [
        Line2D([], [], ls="", marker=marker, color=colour, markeredgewidth=0, ms=5, label=family_label(name))
        for name, (colour, marker) in looks.items()
    ]
    figure.legend(handles=handles, loc="outside lower left", ncols=6, fontsize=7.5, handletextpad=0.2)
    inset = min(0.8, legend) - 0.1
    corner = figure.add_axes((1 - (inset + 0.15) / width, 0.05 / height, inset / width, inset / height))
    corner.imshow(to_pil(picture), interpolation="antialiased")
    corner.set(xticks=[], yticks=[])
    corner.set_ylabel("b", size=9, rotation=0, ha="right", va="center")
    corner.spines[:].set(visible=True, color=LINE)
    figure.text(1 - 0.12 / width, 1 - 0.1 / height, note, size=8.5, color=PALE, ha="right", va="top")
    return figure


# --- what is shown --------------------------------------------------------------------------------


def family_label(family: str) -> str:
    """A family's name for a reader: ``edit/hue`` becomes ``edit: hue``."""
    return relation_label(family).removesuffix(": ")


def _marker(marker: str, x: float, y: float, radius: float = 4.2) -> str:
    """The outline of a matplotlib marker around a pixel, as the path of an SVG; it points the other way down there."""
    style = MarkerStyle(marker)
    outlines = [np.asarray(x) for x in style.get_path().transformed(style.get_transform()).to_polygons()]
    most = max(float(np.abs(outline).max()) for outline in outlines)
    corners = (" L".join(f"{x + u:.1f} {y - v:.1f}" for u, v in outline / most * radius) for outline in outlines)
    return "".join(f"M{path}Z" for path in corners)


def _number(x: float, form: str = "g") -> str:
    return format(x, form).replace("-", "−")


def plane_svg(view: View, places: np.ndarray, families: Sequence[str], explained: Sequence[float]) -> str:
    """Axes and points of the map as an SVG; each point names its family in ``data-family``."""
    width, height = view.left + view.width + RIGHT, view.top + view.height + BOTTOM
    below, right = view.top + view.height, view.left + view.width
    parts = [f"<svg width='{width:.0f}' height='{height:.0f}' aria-hidden='true'>"]
    for x in MaxNLocator(8).tick_values(view.x0, view.x1):
        if view.x0 <= x <= view.x1:
            u = view.to_page(np.array([[x, 0.0]]))[0, 0]
            parts.append(f"<path class='grid' d='M{u:.1f} {view.top:.1f}V{below:.1f}'/>")
            parts.append(f"<text x='{u:.1f}' y='{below + 14:.1f}' text-anchor='middle'>{_number(x)}</text>")
    for y in MaxNLocator(6).tick_values(view.y0, view.y1):
        if view.y0 <= y <= view.y1:
            v = view.to_page(np.array([[0.0, y]]))[0, 1]
            parts.append(f"<path class='grid' d='M{view.left:.1f} {v:.1f}H{right:.1f}'/>")
            parts.append(f"<text x='{view.left - 6:.1f}' y='{v + 4:.1f}' text-anchor='end'>{_number(y)}</text>")
    parts.append(
        f"<text x='{view.left + view.width / 2:.1f}' y='{below + 32:.1f}' text-anchor='middle'>"
        f"first component ({explained[0]:.0%} of the variance)</text>"
        f"<text transform='translate(12 {view.top + view.height / 2:.1f}) rotate(-90)' text-anchor='middle'>"
        f"second component ({explained[1]:.0%})</text>"
    )
    looks = appearance(families)
    for family, (u, v) in zip(families, view.to_page(places), strict=True):
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
    figures = "".join(
        f"<figure>{picture_tag(picture, f'{letter}: {name}', CARD)}<figcaption>{letter}</figcaption></figure>"
        for letter, picture, name in pictures
    )
    return (
        f"<h4>{escape(relation_label(item.relation))}</h4>"
        f"<div class='pictures'>{figures}</div>"
        f"<button data-ask='choose' data-value='{index}'>Edit this b ({escape(names[2])}) from now on</button>"
    )


# --- on a page ------------------------------------------------------------------------------------

FRAME = (
    f"<p class='warning' role='alert' hidden>{NO_ANSWER}</p>"
    "<div class='columns'><section aria-label='map of the LoRA space'>"
    "<div role='toolbar' aria-label='what the map shows' class='kinds'><span>Show</span>"
    + "".join(f"<button data-ask='show' data-value='{kind}'>{text}</button>" for kind, text in KINDS.items())
    + "</div>"
    "<div class='plane' tabindex='0' role='application' aria-roledescription='map' aria-label='Crosshair on the map: "
    "arrow keys move it, with Shift by smaller steps; Enter takes the nearest analogy, Home goes to the mean mixture'>"
    "<div data-part='plane'></div><div data-part='pictures' aria-hidden='true'></div>"
    "<svg class='marks' aria-hidden='true'><path class='way'/><circle class='landed' r='6'/><path class='halo'/>"
    "<path class='cross'/></svg></div>"
    "<p class='pale'>Drag, or arrow keys (with Shift smaller steps): the place under the crosshair is decoded and "
    "drawn. Hover: look at an analogy. Click a point, or Enter: edit with its own mixture. Home: the mean mixture. "
    "All this needs a running kernel.</p>"
    "</section><section aria-label='what is drawn'><div data-part='result' class='pictures'></div>"
    "<div data-part='where' role='status'></div><div data-part='card' aria-live='polite'></div></section></div>"
    "<div role='toolbar' aria-label='families' data-part='legend' class='legend'></div>"
)


class _Panel(anywidget.AnyWidget):
    """The page: HTML of each part, where the crosshair is, and which buttons are pressed."""

    _esm, _css = Path(__file__).with_suffix(".js"), Path(__file__).with_suffix(".css")
    frame = traitlets.Unicode(FRAME).tag(sync=True)
    plane = traitlets.Unicode().tag(sync=True)
    pictures = traitlets.Unicode().tag(sync=True)
    legend = traitlets.Unicode().tag(sync=True)
    result = traitlets.Unicode().tag(sync=True)
    where = traitlets.Unicode().tag(sync=True)
    card = traitlets.Unicode().tag(sync=True)
    view = traitlets.Dict().tag(sync=True)
    points: traitlets.List = traitlets.List().tag(sync=True)  # in pixels
    cross = traitlets.Dict().tag(sync=True)  # in pixels: x, y, and where its mixture landed
    chosen = traitlets.Dict().tag(sync=True)


class Atlas:
    """Analogies on the plane of their routing's first two components, and b edited from anywhere on it.

    Every action of the page has a method: :meth:`move_to`, :meth:`home`, :meth:`take`, :meth:`look`, :meth:`choose`,
    :meth:`show`, :meth:`highlight`. Frames that come too late are dropped. Where no kernel runs, the notebook shows
    :func:`atlas_figure` instead.

    Attributes:
        found: the map; points[i] is the place of items[i].
        vectors: routing vectors of the items, [k, layers · N].
        place, coefficients, picture: where the crosshair is, the mixture [layers, N] there and what it draws.

    Args:
        editor: an editor with a router whose transformer sees b alone (layout b): elsewhere a mixture alone does not
            say what to draw.
        items: analogies; a few test analogies of each family when None.
        b: the picture to edit; that of the first analogy when None.
        vectors: routing vectors of the items where they are known already.
        steps, seed: as in :meth:`Editor.generate`.
        renderer: from b to what draws it while the hand moves; a :class:`Renderer` when None.

    Raises:
        InputError: such an editor, fewer than two items, other vectors than items, or a b that cannot be read.
    """

    def __init__(
        self,
        editor: Editor,
        items: Sequence[Analogy] | None = None,
        b: Any = None,
        vectors: np.ndarray | None = None,
        steps: int = 4,
        seed: int = 0,
        renderer: Callable[[Tensor], Render] | None = None,
    ) -> None:
        _check(editor)
        self.editor, self.steps, self.seed = editor, steps, seed
        self.items = list(some_of_each_family() if items is None else items)
        self.vectors = routing_vectors(editor, self.items) if vectors is None else np.asarray(vectors)
        if len(self.vectors) != len(self.items):
            raise InputError(f"expected a routing vector for each of {len(self.items)} items, got {len(self.vectors)}")
        self.found = pca(self.vectors)
        self.families = [get_relation(item.relation).family for item in self.items]
        self.b = read_image(self.items[0].b if b is None else b, "b")
        self._renderer = renderer or (lambda b: Renderer(editor, b, steps=steps, seed=seed))
        self._render = self._renderer(self.b)
        self.view = view_of(self.found.points)
        names = np.array([item.relation for item in self.items])
        self._middles = {name: self.found.points[names == name].mean(0) for name in dict.fromkeys(names.tolist())}
        self._latest = Latest(self._follow, wait=0)
        self.kind, self.family, self._looked = "truth", "", -1
        explained = self.found.explained.tolist()
        self.panel = _Panel(
            view=asdict(self.view),
            points=self.view.to_page(self.found.points).round(1).tolist(),
            plane=plane_svg(self.view, self.found.points, self.families, explained),
            legend=legend_html(self.families),
        )
        self.show(self.kind)
        self.home()
        self.panel.on_msg(lambda _, message, __: self._answer(message))

    @in_turn
    def _answer(self, message: Mapping[str, Any]) -> None:
        """Does what the page asks for, ``{"ask": ..., "value": ...}``, and says so, or the page would warn."""
        ask, value = message.get("ask"), message.get("value")
        if ask == "move" and isinstance(value, list) and len(value) == 2:
            self._latest.ask((float(value[0]), float(value[1])))
            return
        if ask in ("take", "look", "choose"):
            index = int(str(value))
            if ask == "choose":
                self.choose(self._item(index).b)
            else:
                (self.take if ask == "take" else self.look)(index)
        elif ask == "show":
            self.show(str(value))
        elif ask == "highlight":
            self.highlight("" if value == self.family else str(value))
        elif ask == "home":
            self.home()
        elif ask != "alive":
            raise InputError(f"expected something that the page can ask for, got {ask!r} with {value!r}")
        self.panel.send({"answered": ask})

    def _follow(self, place: tuple[float, float]) -> None:
        self.move_to(*place)
        self.panel.send({"answered": "move"})

    def move_to(self, x: float, y: float) -> Decoded:
        """Puts the crosshair on a place of the map and draws b with the mixture that the place decodes to."""
        decoded = decode(self.found, np.array([[x, y]]), self.editor.config.n_loras)
        self.place = (float(x), float(y))
        nearest = int(np.linalg.norm(self.found.points - self.place, axis=1).argmin())
        moved, rows, away = float(decoded.moved[0]), float(decoded.rows[0]), math.hypot(*self.place)
        if rows:
            text = (
                f"To become a mixture it was moved by {moved:.3f} (the mean is {away:.3f} away), in "
                f"{rows:.0%} of the layers. The ring shows where it landed."
            )
        else:
            text = "It is a mixture as it stands: nothing had to be moved onto the simplex."
        with self.panel.hold_sync():
            self._draw(decoded.coefficients[0], decoded.landed[0], f"This place is decoded. {text}")
            self.look(nearest)
        return decoded

    def home(self) -> Decoded:
        """The crosshair to the middle of the cloud, whose mixture is the mean of all analogies' mixtures."""
        return self.move_to(0.0, 0.0)

    def take(self, index: int) -> None:
        """Edits b with the mixture of one analogy as the router gave it, and puts the crosshair there."""
        self._item(index)
        vector = self.vectors[index].astype(np.float64)
        self.place = (float(self.found.points[index, 0]), float(self.found.points[index, 1]))
        total = float(((vector - self.found.centre) ** 2).sum())
        kept = float((self.found.points[index] ** 2).sum()) / total if total else 1.0
        text = (
            f"Drawn with this analogy's own mixture, not a decoded one. The plane holds {kept:.0%} of what sets "
            "it apart from the mean (squared distance)."
        )
        mixture = torch.from_numpy(vector).float().unflatten(0, (-1, self.editor.config.n_loras))
        with self.panel.hold_sync():
            self._draw(mixture, self.found.points[index], text)
            self.look(index)

    def look(self, index: int) -> None:
        """Shows the pictures and the relation of one analogy; draws nothing."""
        item = self._item(index)
        if index != self._looked:  # while the hand moves, mostly the same one is nearest
            self._looked = index
            self.panel.card = card_html(item, index)

    def choose(self, b: Any) -> None:
        """Edits another picture from now on, here at once."""
        self.b = read_image(b, "b")
        self._render = self._renderer(self.b)
        with self.panel.hold_sync():
            self._draw(self.coefficients, self._landed, self._text)
            if self.kind == "chosen":
                self.show(self.kind)

    def show(self, kind: str) -> None:
        """What lies on the map: one of :data:`KINDS`, pictures chosen so that they do not overlap."""
        if kind not in KINDS:
            raise InputError(f"expected one of {', '.join(KINDS)}, got {kind!r}")
        self.kind = kind
        with self.panel.hold_sync():
            self.panel.pictures = self._pictures()
            self.panel.chosen = {"show": self.kind, "highlight": self.family}

    def highlight(self, family: str = "") -> None:
        """Dims all families but one; the empty name brings all back. InputError for one that is not on the map."""
        if family and family not in self.families:
            raise InputError(f"expected a family on the map, {', '.join(sorted(set(self.families)))}; got {family!r}")
        self.family = family
        self.panel.chosen = {"show": self.kind, "highlight": family}

    def nearest_relations(self, count: int = 3) -> dict[str, float]:
        """Relations whose analogies' mean place is nearest to the crosshair, and how far it is on the map."""
        apart = {name: math.dist(self.place, middle) for name, middle in self._middles.items()}
        return {name: apart[name] for name in sorted(apart, key=lambda name: apart[name])[:count]}

    def _item(self, index: int) -> Analogy:
        if not 0 <= index < len(self.items):
            raise InputError(f"expected an analogy from 0 to {len(self.items) - 1}, got {index}")
        return self.items[index]

    def _draw(self, coefficients: Tensor, landed: np.ndarray, text: str) -> None:
        self.coefficients, self._landed, self._text = coefficients, landed, text
        drawn = self._render(coefficients)
        self.picture = to_pil(drawn)
        figures = (("b", self.b), ("result", drawn))
        self.panel.result = "".join(
            f"<figure>{picture_tag(x, name, RESULT)}<figcaption>{name}</figcaption></figure>" for name, x in figures
        )
        near = "; ".join(f"{escape(relation_label(n))} ({d:.3f})" for n, d in self.nearest_relations().items())
        place = ", ".join(_number(x, ".3f") for x in self.place)
        self.panel.where = (
            f"<p><b>At ({place})</b>. Nearest relations, by the mean place of their analogies: {near}.</p><p>{text}</p>"
        )
        (x, y), (u, v) = self.view.to_page(np.array([self.place, landed])).round(1).tolist()
        self.panel.cross = {"x": x, "y": y, "u": u, "v": v}

    def _pictures(self) -> str:
        """The pictures on the map as HTML, each at its place in a frame of its family's colour."""
        if self.kind == "points":
            return ""
        # One of each family first, so that a small family is not lost in a large one.
        rank = [self.families[:i].count(family) for i, family in enumerate(self.families)]
        page = self.view.to_page(self.found.points)
        kept = thin(page, SIDE + 6, sorted(range(len(rank)), key=rank.__getitem__))
        if self.kind == "truth":
            shown = torch.stack([self.items[i].b_prime for i in kept])
        else:
            own = torch.stack([self.items[i].b for i in kept])
            mixtures = torch.from_numpy(self.vectors[kept]).float().unflatten(1, (-1, self.editor.config.n_loras))
            b = own if self.kind == "edited" else self.b
            shown = draw_all(self.editor, b, mixtures, self.steps, self.seed)
        looks = appearance(self.families)
        return "".join(
            f"<span data-family='{escape(self.families[i])}' style='left:{page[i, 0]:.1f}px; top:{page[i, 1]:.1f}px; "
            f"border-color:{looks[self.families[i]][0]}'>{picture_tag(picture, '', SIDE)}</span>"
            for i, picture in zip(kept, shown, strict=True)
        )

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Bundle:
        """The live widget, and the atlas as a still picture for whoever has no kernel."""
        note = "Dragging over it needs a running kernel: run this cell."
        still = atlas_figure(self.editor, self.found, self.families, self.b, 9, self.steps, self.seed, note=note)
        return with_still(self.panel, still, "Map of the LoRA space")


def _check(editor: Editor) -> None:
    if editor.router is None or editor.layout.needs_context:
        raise InputError(
            "expected an editor with a router and the layout 'b', whose mixture alone says what to draw; "
            f"got layout {editor.config.layout!r}{'' if editor.router is not None else ' without a router'}"
        )
