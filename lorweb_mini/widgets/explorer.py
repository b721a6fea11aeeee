"""Ask analogies of one's own: choose, upload or draw a, a' and b; see b', its mixture, and which relation it resembles.

What is asked and answered is plain functions (:func:`known_relations`, :func:`true_answers`, :func:`solve`,
:func:`relation_means`, :func:`nearest`), what is shown is HTML made from it, and :class:`Explorer` puts both on a page.
Every control of the page has a method, so everything that can go wrong can be tested without a browser.
"""

from __future__ import annotations

import asyncio
import base64
import functools
import io
import math
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import anywidget
import matplotlib
import numpy as np
import torch
import traitlets
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image, ImageDraw
from torch import Tensor

from ..analysis.evaluation import reconstruct, squared
from ..analysis.space import routing_vectors
from ..core.editor import Editor
from ..emoji.edits import Strength
from ..emoji.relations import SPLITS, STYLE_NAMES, Analogy, analogies, concept_sides, differ, get_relation, relations
from ..emoji.sheets import STYLES, load_emoji
from ..errors import InputError
from ..images import MAX_PIXELS, SIZE, read_image, to_pil
from ..show.figures import relation_label
from ..show.style import COLOURS, INK, LINE, PALE, STYLE
from .browser import PAGE, results_html, search, status_text
from .mixer import Latest, shares
from .rendering import in_turn
from .still import Bundle, with_still

NAMES = {"a": "a", "a_prime": "a′", "b": "b"}
FIRST = "tone/yellow>dark"  # what an explorer begins with
STEPS_MAX = 32
PEN_MAX, POINTS_MAX = 24.0, 10_000
FINER = 4  # a stroke is drawn this many times larger, then shrunk: smooth edges
UNDO = 100
MEAN_OF, NEIGHBOURS = 6, 6  # analogies behind a relation's mean; relations in the list
SLICE, PAUSE = 4, 0.05  # relations whose mean is taken at a time, and seconds in between for everything else
PENS = {
    "black": "#222222",
    "white, as a rubber": "#FFFFFF",
    "grey": "#8C8C8C",
    "blue": "#0072B2",
    "sky blue": "#56B4E9",
    "green": "#009E73",
    "yellow": "#F0E442",
    "orange": "#E69F00",
    "vermilion": "#D55E00",
    "pink": "#CC79A7",
}


# --- what is asked --------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Slot:
    """One of the three pictures that are asked about.

    Attributes:
        picture: [3, 64, 64] in [-1, 1].
        caption: what it is, for the reader, in one or two lines.
        drawing: emoji and style (their positions) if it is an artist's drawing, else None.
        edits: edits applied to that drawing, as in :attr:`~lorweb_mini.emoji.relations.Relation.edits`.
    """

    picture: Tensor
    caption: str
    drawing: tuple[int, int] | None = None
    edits: tuple[tuple[str, Strength], ...] = ()


def drawn(emoji: int, style: int, edits: tuple[tuple[str, Strength], ...] = (), picture: Tensor | None = None) -> Slot:
    """The slot of an artist's drawing, or of ``picture``, which shows that drawing after some edits."""
    data = load_emoji()
    if picture is None:
        picture = data.tensor(emoji, style)[0]
    name = f"{data.emojis[emoji].name}{', edited' if edits else ''}"
    return Slot(picture, f"{name}\n{STYLE_NAMES[STYLES[style]]}", (emoji, style), edits)


def slots_of(analogy: Analogy) -> dict[str, Slot]:
    """a, a' and b of an analogy from the data, with where they come from."""
    ends = []
    for key in analogy.keys[:3]:
        emoji, style = key.rsplit("@", 1)
        ends.append((load_emoji().index[emoji], STYLES.index(style)))
    return {
        "a": drawn(*ends[0], picture=analogy.a),
        "a_prime": drawn(*ends[1], get_relation(analogy.relation).edits, analogy.a_prime),
        "b": drawn(*ends[2], picture=analogy.b),
    }


def read_upload(content: bytes, name: str) -> Tensor:
    """The bytes of a picture file to [3, 64, 64], as :func:`~lorweb_mini.images.read_image` reads a file.

    Raises:
        InputError: bytes that are no picture, a damaged or too large one; the message begins with ``name``.
    """
    try:
        with warnings.catch_warnings():
            # Pillow's own limits on size come later or never; read_image has ours.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(content))
    except Image.DecompressionBombError as error:
        raise InputError(f"{name}: expected at most {MAX_PIXELS // 10**6} megapixels; got more") from error
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError(
            f"{name}: expected a picture file, such as PNG, JPEG or WebP; got {len(content):,} bytes that are none"
        ) from error
    return read_image(picture, name)


def paint(picture: Tensor, points: Sequence[Sequence[float]], colour: str, size: float) -> Tensor:
    """A picture [3, 64, 64] after one stroke of a round pen.

    Args:
        points: [x, y] of each point of the stroke, in pixels from the upper left corner.
        colour: ``#rrggbb``.
        size: diameter of the pen in pixels, above 0 and up to 24.

    Raises:
        InputError: no points, too many, one that is not a pair of finite numbers; another colour or size.
    """
    if not _is_number(size) or not 0 < size <= PEN_MAX:
        raise InputError(f"expected a pen of more than 0 and at most {PEN_MAX:g} pixels, got {size!r}")
    if not isinstance(colour, str) or not re.fullmatch("#[0-9a-fA-F]{6}", colour):
        raise InputError(f"expected a colour as #rrggbb, got {colour!r}")
    if not 1 <= len(points) <= POINTS_MAX:
        raise InputError(f"expected 1 to {POINTS_MAX:,} points, got {len(points)}")
    for point in points:
        if not isinstance(point, Sequence) or len(point) != 2 or not all(_is_number(x) for x in point):
            raise InputError(f"expected points [x, y] of finite numbers, got {point!r}")
    # Far outside nothing is seen, and Pillow's numbers are small.
    places = [tuple(FINER * min(max(float(x), -SIZE), 2 * SIZE) for x in point) for point in points]
    cover = Image.new("L", (FINER * SIZE, FINER * SIZE))
    pen = ImageDraw.Draw(cover)
    radius = FINER * size / 2
    pen.line(places, fill=255, width=max(1, round(2 * radius)))
    for x, y in places:
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    alpha = torch.from_numpy(np.array(cover.resize((SIZE, SIZE), Image.Resampling.BOX))).float() / 255
    ink = picture.new_tensor([int(colour[i : i + 2], 16) for i in (1, 3, 5)]).view(3, 1, 1) / 127.5 - 1
    return torch.lerp(picture, ink.expand_as(picture), alpha.expand_as(picture))


def _is_number(x: Any) -> bool:
    return isinstance(x, Real) and not isinstance(x, bool) and math.isfinite(x)


# --- what is answered -----------------------------------------------------------------------------


def known_relations(a: Slot, a_prime: Slot) -> list[str]:
    """Names of the relations that have (a, a') as one of their pairs; a drawing with an edit starts none."""
    if a.drawing is None or a_prime.drawing is None or a.edits:
        return []
    row = np.array([*a.drawing, *a_prime.drawing])
    return [
        name
        for name, relation in relations().items()
        if relation.edits == a_prime.edits and bool((relation.all_pairs == row).all(1).any())
    ]


def true_answers(names: Iterable[str], b: Slot) -> list[tuple[str, Tensor]]:
    """Where relations lead from b: name and true b' [3, 64, 64] of each pair that starts there.

    Answers that look like b, or like one before them, are left out.
    """
    if b.drawing is None or b.edits:
        return []
    found: list[tuple[str, Tensor]] = []
    for name in names:
        relation = get_relation(name)
        rows = relation.all_pairs[(relation.all_pairs[:, :2] == np.array(b.drawing)).all(1)]
        for picture in relation.pictures(rows)[1]:
            others = torch.stack([b.picture, *(shown for _, shown in found)])
            if bool(differ(picture.expand_as(others), others).all()):
                found.append((name, picture))
    return found


@dataclass(frozen=True, eq=False)
class Answer:
    """What the editor makes of three pictures.

    Attributes:
        picture: its b', [3, 64, 64].
        coefficients: the mixture that drew it, [layers, N].
        names: relations that have (a, a') as a pair.
        relation, truth: the relation that leads on from b and the true b', of several the nearest to ``picture``;
            None where there is none.
        truths: how many different true b' there are.
        error: normalised error against the truth (see :mod:`~lorweb_mini.analysis.evaluation`), NaN without one.
    """

    picture: Tensor
    coefficients: Tensor
    names: tuple[str, ...] = ()
    relation: str | None = None
    truth: Tensor | None = None
    truths: int = 0
    error: float = math.nan


def solve(editor: Editor, slots: Mapping[str, Slot], steps: int = 8, seed: int = 0) -> Answer:
    """Draws b' for the slots a, a_prime and b, and judges it where the truth is known."""
    a, a_prime, b = (slots[name].picture for name in NAMES)
    result = editor.edit(a, a_prime, b, steps=steps, seed=seed)
    names = tuple(known_relations(slots["a"], slots["a_prime"]))
    bare = Answer(result.pictures[0], result.coefficients[0], names)
    found = true_answers(names, slots["b"])
    if not found:
        return bare
    truths = torch.stack([picture for _, picture in found])
    seen = reconstruct(editor.autoencoder, torch.cat([b[None], truths]))
    errors = squared(result.pictures, seen[1:]) / squared(seen[:1], seen[1:])
    best = int(errors.argmin())
    return replace(bare, relation=found[best][0], truth=truths[best], truths=len(found), error=float(errors[best]))


def relation_means(editor: Editor, names: Iterable[str], n: int = MEAN_OF, seed: int = 0) -> dict[str, np.ndarray]:
    """Mean routing vector of each relation over up to n analogies of train concepts, [layers · N].

    A relation without two such pairs that look different is left out.

    Raises:
        InputError: an unknown relation.
    """
    items = {name: analogies("train", name, seed, n) for name in names}
    items = {name: own for name, own in items.items() if own}
    if not items:
        return {}
    vectors = routing_vectors(editor, [x for own in items.values() for x in own])
    ends = np.cumsum([len(own) for own in items.values()])[:-1]
    return {name: part.mean(0) for name, part in zip(items, np.split(vectors, ends), strict=True)}


def nearest(vector: np.ndarray, means: Mapping[str, np.ndarray], count: int = NEIGHBOURS) -> list[tuple[str, float]]:
    """The relations whose means point most nearly where a routing vector does: name and cosine, the nearest first."""
    if not means:
        return []
    matrix = np.stack(list(means.values()))
    cosine = matrix @ vector / (np.linalg.norm(matrix, axis=1) * np.linalg.norm(vector))
    names = list(means)
    return [(names[i], float(cosine[i])) for i in np.argsort(-cosine, kind="stable")[:count]]


# --- what is shown --------------------------------------------------------------------------------


@functools.lru_cache(maxsize=16)
def _results(found: tuple[int, ...], page: int, style: str) -> str:
    """As :func:`~lorweb_mini.widgets.browser.results_html`, whose pictures take long to pack."""
    return results_html(found, page, style)


def _source(image: Image.Image) -> str:
    """A picture as an address that needs no file."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def heat_map(coefficients: Tensor) -> Image.Image:
    """Coefficients [layers, N] as a picture, a pixel each, layers downwards; cividis from 0 to the largest."""
    values = coefficients.numpy() / max(float(coefficients.max()), 1e-12)
    colours = matplotlib.colormaps["cividis"](values)
    return Image.fromarray((colours[..., :3] * 255 + 0.5).astype(np.uint8), "RGB")


def mixture_html(coefficients: Tensor) -> str:
    """Coefficients [layers, N]: the share of each LoRA as bars, and below, column by column, every layer."""
    share, (layers, n) = shares(coefficients), coefficients.shape
    top, largest = float(share.max()), float(coefficients.max())
    order = share.argsort(descending=True, stable=True).tolist()[:3]
    strongest = ", ".join(f"LoRA {i} ({float(share[i]):.0%})" for i in order)
    bars = "".join(
        f"<i title='LoRA {i}: {float(x):.1%}' style='height:{float(x) / max(top, 1e-12):.1%}'></i>"
        for i, x in enumerate(share)
    )
    apart = max(1, n // 4)
    ticks = "".join(f"<span style='left:{(i + 0.5) / n:.2%}'>{i}</span>" for i in range(0, n, apart))
    layer, lora = divmod(int(coefficients.argmax()), n)
    text = f"coefficients of {n} LoRAs in {layers} layers; the largest {largest:.2f}, of LoRA {lora} in layer {layer}"
    return (
        f"<h3>Mixture</h3><p>Strongest: {strongest}.</p>"
        f"<div class='mixture'><span class='side'>share, up to {top:.0%}</span>"
        f"<div class='bars' role='img' aria-label='share of each LoRA; the strongest are {strongest}'>{bars}</div>"
        f"<span class='side'>layers 0 to {layers - 1}</span>"
        f"<img class='heat' alt='{text}' src='{_source(heat_map(coefficients))}'>"
        f"<span class='side'>LoRA</span><div class='ticks' aria-hidden='true'>{ticks}</div></div>"
        f"<p class='scale'>0 <span class='cividis' aria-hidden='true'></span> {largest:.2f}</p>"
    )


def neighbours_html(found: Sequence[tuple[str, float]], own: Sequence[str] = ()) -> str:
    """The nearest relations as bars from 0 to 1; those that (a, a') belongs to are marked."""
    rows = "".join(
        f"<tr{' class=own' if name in own else ''}><th scope='row'>{escape(relation_label(name))}"
        f"{' <b>✓ this pair’s own</b>' if name in own else ''}</th>"
        f"<td><i style='width:{max(cosine, 0):.1%}'></i></td><td>{cosine:.3f}</td></tr>"
        for name, cosine in found
    )
    return (
        f"<h3>Nearest known relations</h3><p>By the cosine of this routing to each relation’s mean routing.</p>"
        f"<table aria-label='nearest known relations and their cosine'>{rows}</table>"
    )


def title_text(slots: Mapping[str, Slot], names: Sequence[str], truths: int) -> str:
    """What is asked, in words: the relation of the pair, and whether b has a true answer."""
    if not names:
        return "A pair of your own: no known relation has it, so there is no true b′ to compare with."
    label, place = " = ".join(relation_label(name) for name in names), slots["b"].drawing
    if place is None or slots["b"].edits:
        return f"{label}. No artist drew this b, so there is no true b′ to compare with."
    if not truths:
        return f"{label}. It does not start at this b, so there is no true b′ to compare with."
    side = SPLITS[concept_sides()[place[0]]]
    return f"{label}. What b shows was {'part of the training' if side == 'train' else 'in no training'}."


# --- without a kernel -----------------------------------------------------------------------------


def static(slots: Mapping[str, Slot], found: Answer, neighbours: Sequence[tuple[str, float]] = ()) -> Figure:
    """What an :class:`Explorer` shows, as one picture: a : a' :: b : b', the mixture, the nearest relations if any."""
    size, apart, margin = 1.3, 0.34, 0.3
    pictures = [(NAMES[name], slot.picture, slot.caption) for name, slot in slots.items()]
    pictures.append(("b′", found.picture, "drawn by the editor"))
    if found.truth is not None:
        pictures.append(("true b′", found.truth, f"error of the editor {found.error:.2f}"))
    width, height = 2 * margin + 5 * size + 4 * apart, 5.75
    with matplotlib.rc_context(STYLE):
        figure = Figure((width, height), facecolor="white")
        FigureCanvasAgg(figure)
        page = figure.add_axes((0, 0, 1, 1))
        page.axis("off")
        title = title_text(slots, found.names, found.truths).partition(". ")[0]
        page.text(margin, 0.2, "An analogy and its answer", size=11, weight="bold", va="top")
        page.text(margin, 0.46, title, size=8.5, color=PALE, va="top")
        for i, (name, picture, caption) in enumerate(pictures):
            x, y, mine = margin + i * (size + apart), 0.98, i == 3
            shown = np.asarray(to_pil(picture).resize((256, 256), Image.Resampling.LANCZOS))
            page.imshow(shown, extent=(x, x + size, y + size, y), aspect="auto", interpolation="antialiased")
            edge, width_of_edge = (COLOURS[0], 2.2) if mine else (LINE, 0.7)
            page.add_patch(Rectangle((x, y), size, size, fill=False, ec=edge, lw=width_of_edge))
            page.text(
                x + size / 2,
                y - 0.07,
                name,
                ha="center",
                size=9.5,
                color=COLOURS[0] if mine else INK,
                weight="bold" if mine else "normal",
            )
            page.text(x + size / 2, y + size + 0.08, _short(caption), ha="center", va="top", size=7, color=PALE)
            if i < 3:
                page.text(
                    x + size + apart / 2, y + size / 2, "::" if i == 1 else ":", ha="center", va="center", size=12
                )
        page.set(xlim=(0, width), ylim=(height, 0))

        def axes(left: float, top: float, w: float, h: float) -> Any:
            return figure.add_axes((left / width, 1 - (top + h) / height, w / width, h / height))

        layers, n = found.coefficients.shape
        bars = axes(margin + 0.5, 3.1, 3.5, 0.75)
        bars.bar(np.arange(n), shares(found.coefficients), width=0.8, color=COLOURS[0])
        top = float(shares(found.coefficients).max())
        bars.set(xlim=(-0.5, n - 0.5), xticks=[], yticks=[top], yticklabels=[f"{top:.0%}"], ylabel="share")
        bars.set_title("Mixture", loc="left", size=9.5, pad=6)
        heat = axes(margin + 0.5, 3.93, 3.5, 1.1)
        heat.imshow(heat_map(found.coefficients), aspect="auto", interpolation="nearest")
        scale = f"LoRA (dark 0, light {float(found.coefficients.max()):.2f})"
        heat.set(xlabel=scale, ylabel="layer", xticks=range(0, n, max(1, n // 4)), yticks=[0, layers - 1])
        heat.grid(False)
        if neighbours:
            near = axes(margin + 6.0, 3.1, width - 2 * margin - 6.4, 1.93)
            names = [relation_label(name) for name, _ in neighbours]
            cosines = [cosine for _, cosine in neighbours]
            near.barh(range(len(names)), cosines, color=COLOURS[0], height=0.6)
            near.set(yticks=range(len(names)), xlim=(0, 1), xlabel="cosine of the routings")
            near.set_yticklabels([_short(name, 34) for name in names], size=7.5)
            near.invert_yaxis()
            near.grid(axis="y", visible=False)
            near.set_title("Nearest known relations", loc="left", size=9.5, pad=6)
            for i, cosine in enumerate(cosines):
                near.text(1.02, i, f"{cosine:.2f}", va="center", size=7.5, color=PALE)
        note = "Choosing, uploading and drawing need a running kernel: run this cell."
        page.text(margin, height - 0.12, note, size=8, color=PALE, va="bottom")
    return figure


def _short(caption: str, longest: int = 24) -> str:
    """A caption whose lines are no longer than that."""
    return "\n".join(line if len(line) <= longest else line[: longest - 1] + "…" for line in caption.split("\n"))


# --- on a page ------------------------------------------------------------------------------------


FRAME = """
<div class="bar">
  <label>Relation <select aria-label="relation of the random analogy">
    <option value="">any</option>{options}</select></label>
  <button data-ask="random" class="main">Random analogy</button>
  <span class="gap"></span>
  <button data-ask="swap">Swap a and a′</button>
  <button data-ask="use_result">Put b′ into b</button>
  <button data-ask="undo">Undo</button>
</div>
<p data-part="title" class="title"></p>
<div class="line">
  <div role="tablist" aria-label="picture to change" class="slots">{slots}</div>
  <span class="sign" aria-hidden="true">:</span>
  <figure data-shown="result" class="result"><b>b′</b><img alt=""><figcaption></figcaption></figure>
  <figure data-shown="truth" class="truth"><b>true b′</b><img alt=""><figcaption></figcaption></figure>
</div>
<p data-part="message" role="alert"></p>
<p class="unheard" role="status">No answer yet. The kernel is busy, or there is none: run this cell to start it.
  What you see is what was drawn last.</p>
<section role="tabpanel" class="controls">
  <div role="tablist" aria-label="where the picture comes from" class="ways">
    <button role="tab" data-way="emoji">Emoji</button>
    <button role="tab" data-way="upload">Upload</button>
    <button role="tab" data-way="draw">Draw</button>
  </div>
  <div data-panel="emoji">
    <label>Search <input type="search" placeholder="cat, rain, hand …" autocomplete="off" spellcheck="false"></label>
    <div role="toolbar" aria-label="style" class="chips">{styles}</div>
    <p data-part="status" role="status" class="pale"></p>
    <div data-part="results" class="results"></div>
  </div>
  <div data-panel="upload">
    <label class="drop"><span>Choose a picture file, or drop one here or on one of the three pictures.</span>
      <input type="file" accept="image/*" aria-label="picture file"></label>
    <p class="pale">PNG, JPEG, WebP and whatever else Pillow reads, of any size. It is padded to a square and shrunk to
      64 × 64 pixels. It goes to this notebook's kernel and nowhere else.</p>
  </div>
  <div data-panel="draw" class="draw">
    <canvas width="64" height="64" role="img" aria-label="canvas of 64 × 64 pixels"></canvas>
    <div>
      <div role="toolbar" aria-label="colour of the pen" class="chips pens">{pens}</div>
      <label>Other colour <input type="color" value="#222222"></label>
      <label>Size of the pen <input type="range" name="pen" min="1" max="{pen_max}" value="4"><output>4</output></label>
      <div class="chips"><button data-ask="clear">Clear</button><button data-ask="undo">Undo</button></div>
      <p class="pale">Draw on the picture as it is, or clear it first; the answer follows the pen. Drawing needs a
        mouse, a finger or a stylus. Without one, upload a picture: it does the same.</p>
    </div>
  </div>
</section>
<div class="bar">
  <label>Steps <input type="number" name="steps" min="1" max="{steps_max}"></label>
  <label>Seed of the noise <input type="number" name="seed" min="0"></label>
</div>
<div class="columns"><section data-part="mixture" aria-label="mixture"></section>
<section data-part="neighbours" aria-label="nearest known relations"></section></div>
<p class="pale">Tab moves from group to group, the arrow keys move within one, Enter chooses.
The explorer needs a running kernel.</p>
"""


@functools.lru_cache(maxsize=1)
def frame() -> str:
    """What of the page never changes."""
    groups: dict[str, list[str]] = {}
    for name in relations():
        option = f"<option value='{escape(name)}'>{escape(relation_label(name))}</option>"
        groups.setdefault(name.split("/")[0], []).append(option)
    options = "".join(f"<optgroup label='{escape(x)}'>{''.join(inside)}</optgroup>" for x, inside in groups.items())
    signs = dict(zip(NAMES, (":", "::", ""), strict=True))
    slots = "".join(
        f"<button role='tab' data-slot='{slot}' data-shown='{slot}'><b>{name}</b><img alt=''><small></small></button>"
        + (f"<span class='sign' aria-hidden='true'>{signs[slot]}</span>" if signs[slot] else "")
        for slot, name in NAMES.items()
    )
    styles = "".join(
        f"<button data-ask='style' data-value='{style}'>{escape(name)}</button>" for style, name in STYLE_NAMES.items()
    )
    pens = "".join(
        f"<button data-pen='{colour}' title='{name}' aria-label='{name}' style='background:{colour}'></button>"
        for name, colour in PENS.items()
    )
    return FRAME.format(
        options=options, slots=slots, styles=styles, pens=pens, pen_max=f"{PEN_MAX:g}", steps_max=STEPS_MAX
    )


class _Panel(anywidget.AnyWidget):
    """The page: pictures and HTML of each part, and what was asked for."""

    _esm, _css = Path(__file__).with_suffix(".js"), Path(__file__).with_suffix(".css")
    frame = traitlets.Unicode().tag(sync=True)
    selected = traitlets.Enum(tuple(NAMES), "b").tag(sync=True)  # the one thing that the page sets itself
    shown = traitlets.Dict().tag(sync=True)
    captions = traitlets.Dict().tag(sync=True)
    title = traitlets.Unicode().tag(sync=True)
    message = traitlets.Unicode().tag(sync=True)
    status = traitlets.Unicode().tag(sync=True)
    results = traitlets.Unicode().tag(sync=True)
    mixture = traitlets.Unicode().tag(sync=True)
    neighbours = traitlets.Unicode().tag(sync=True)
    chosen = traitlets.Dict().tag(sync=True)
    settings = traitlets.Dict().tag(sync=True)
    busy = traitlets.Bool(False).tag(sync=True)
    heard = traitlets.Unicode().tag(sync=True)


class Explorer:
    """Three pictures, what the editor answers, and why. Showing it in a notebook is naming it in a cell.

    Every control of the page has a method: :meth:`random`, :meth:`take`, :meth:`select`, :meth:`search`, :meth:`turn`,
    :meth:`choose`, :meth:`draw_as`, :meth:`upload`, :meth:`stroke`, :meth:`clear`, :meth:`swap`, :meth:`use_result`,
    :meth:`undo`, :meth:`set`. A method that raises leaves everything as it was; on the page its message is shown.
    Where no kernel runs, the notebook shows :func:`static` instead.

    Args:
        editor: any editor.
        a, a_prime, b: pictures, as for :meth:`Editor.edit`; those left out are an analogy's from the data.
        relations: which relations :meth:`nearest` knows; all of them when None.

    Attributes:
        slots: the three pictures, as :class:`Slot`.
        answer: what the editor made of them, an :class:`Answer`.

    Raises:
        InputError: a picture that cannot be read, an unknown relation.
    """

    def __init__(
        self,
        editor: Editor,
        a: Any = None,
        a_prime: Any = None,
        b: Any = None,
        relations: Iterable[str] | None = None,
    ) -> None:
        self.editor, self.steps, self.seed = editor, 8, 0
        given = {
            name: Slot(read_image(picture, name), "a picture of yours")
            for name, picture in zip(NAMES, (a, a_prime, b), strict=True)
            if picture is not None
        }
        default = slots_of(analogies("test", FIRST, n=1)[0]) if len(given) < len(NAMES) else {}
        self.slots: dict[str, Slot] = {**default, **given}
        self._missing = [get_relation(name).name for name in (_all_relations() if relations is None else relations)]
        self._all = len(self._missing)
        self._means: dict[str, np.ndarray] = {}
        self._slicing, self._turns = False, 0
        self._past: list[dict[str, Slot]] = []
        self._latest = Latest(self._draw)
        self.style, self.query, self.page = self._style_of("b") or STYLES[0], "", 0
        self.found = search(self.query)
        self.panel = _Panel(frame=frame())
        self.panel.observe(lambda _: self._show_chosen(), names="selected")
        self.panel.on_msg(lambda _, message, buffers: self._answer(message, buffers))
        self._show_results()
        self._show_slots()
        self._draw((self.slots, self.steps, self.seed))

    # --- what the page asks for

    @in_turn
    def _answer(self, message: Mapping[str, Any], buffers: Sequence[Any] = ()) -> None:
        """Does what a control asks for, ``{"ask": ..., "value": ..., "slot": ...}``; refusals become the message."""
        # At once, so that the page knows that somebody listens.
        self.panel.heard = str(message.get("id", ""))
        ask, value, slot = message.get("ask"), str(message.get("value", "")), str(message.get("slot", ""))
        actions = {
            "hello": self._prepare,
            "random": lambda: self.random(value or None),
            "swap": self.swap,
            "use_result": self.use_result,
            "undo": self.undo,
            "search": lambda: self.search(value),
            "page": lambda: self.turn(int(value)),
            "emoji": lambda: self.choose(slot, int(value), self.style),
            "style": lambda: self.draw_as(value, slot),
            "upload": lambda: self.upload(slot, b"".join(bytes(x) for x in buffers)),
            "stroke": lambda: self.stroke(
                slot, message["points"], message["colour"], message["size"], bool(message.get("continued"))
            ),
            "clear": lambda: self.clear(slot),
            "steps": lambda: self.set(steps=_whole(value)),
            "seed": lambda: self.set(seed=_whole(value)),
        }
        try:
            if ask not in actions:
                raise InputError(f"expected one of {', '.join(actions)} to be asked for, got {ask!r}")
            actions[ask]()
        except InputError as error:
            self.panel.message = f"The pictures stay as they are. {error}."
        else:
            self.panel.message = ""

    def random(self, relation: str | None = None) -> None:
        """Three pictures of a relation, or of any, anew at each call: of unseen concepts where the relation has some.

        Raises:
            InputError: an unknown relation, or one without two pairs that look different.
        """
        self._turns += 1
        if relation is None:
            names = list(_all_relations())
            relation = names[int(np.random.default_rng(self._turns).integers(len(names)))]
        for split in ("test", "val", "train"):
            if found := analogies(split, relation, self._turns, n=1):
                return self.take(found[0])
        raise InputError(f"expected a relation with two pairs that look different, got {relation!r}")

    def take(self, analogy: Analogy) -> None:
        """Shows a, a' and b of an analogy from the data, whose true b' is then known."""
        slots = slots_of(analogy)
        self._change(slots)
        self._follow("b")

    def select(self, slot: str) -> None:
        """Which of the three pictures the controls belong to: ``a``, ``a_prime`` or ``b``."""
        self.panel.selected = _name(slot)

    def search(self, query: str) -> None:
        """Shows the first page of the emojis that a query finds, see :func:`~lorweb_mini.widgets.browser.search`."""
        self.query, self.page, self.found = query, 0, search(query)
        self._show_results()

    def turn(self, page: int) -> None:
        """Shows another page of the results, counted from 0; InputError if there is none."""
        pages = -(-len(self.found) // PAGE)
        if not 0 <= page < pages:
            raise InputError(f"expected one of {pages} pages, counted from 0; got {page}")
        self.page = page
        self._show_results()

    def choose(self, slot: str, emoji: int | str, style: str | None = None) -> None:
        """Puts an emoji into a slot.

        Args:
            emoji: position, key, character or name.
            style: whose drawing; that of the results when None. An emoji that it lacks comes in the first style that
                has it.

        Raises:
            InputError: an unknown slot, emoji or style.
        """
        data = load_emoji()
        position = data.find(emoji) if isinstance(emoji, str) else emoji
        if not 0 <= position < len(data.emojis):
            raise InputError(f"expected an emoji in 0..{len(data.emojis) - 1}; got {position}")
        style, styles = _style(self.style if style is None else style), data.emojis[position].styles
        self._change({_name(slot): drawn(position, STYLES.index(style if style in styles else styles[0]))})

    def draw_as(self, style: str, slot: str) -> None:
        """Shows the results, and the slot's emoji if it has one, in another style.

        Raises:
            InputError: an unknown style, or one that lacks the slot's emoji, which then stays as it is.
        """
        shown = self.slots[_name(slot)].drawing
        self.style = _style(style)
        self._show_results()
        if shown is not None:
            entry = load_emoji().emojis[shown[0]]
            if style not in entry.styles:
                raise InputError(f"{entry.name} is not drawn by {STYLE_NAMES[style]}; other emojis come in this style")
            self._change({slot: drawn(shown[0], STYLES.index(style))})

    def upload(self, slot: str, content: bytes) -> None:
        """Puts the bytes of a picture file into a slot; InputError as :func:`read_upload`."""
        self._change({slot: Slot(read_upload(content, NAMES[_name(slot)]), "a picture of yours")})

    def stroke(
        self, slot: str, points: Sequence[Sequence[float]], colour: str, size: float, continued: bool = False
    ) -> None:
        """Draws one stroke on a slot's picture, see :func:`paint`; ``continued`` ones are undone with that before."""
        picture = paint(self.slots[_name(slot)].picture, points, colour, size)
        self._change({slot: Slot(picture, "drawn by hand")}, keep=not continued)

    def clear(self, slot: str) -> None:
        """Leaves a slot white."""
        self._change({_name(slot): Slot(torch.ones(3, SIZE, SIZE), "drawn by hand")})

    def swap(self, first: str = "a", second: str = "a_prime") -> None:
        """Exchanges the pictures of two slots."""
        self._change({_name(first): self.slots[_name(second)], second: self.slots[first]})

    def use_result(self) -> None:
        """Puts the editor's b' into b: the same edit once more, or another one on top of it."""
        self._change({"b": Slot(self.answer.picture.clamp(-1, 1), "drawn by the editor")})

    def undo(self) -> None:
        """Takes back the last change of the pictures; InputError if there is none."""
        if not self._past:
            raise InputError("expected a change of the pictures to take back, got none")
        self.slots = self._past.pop()
        self._show_slots()
        self._redraw()

    def set(self, steps: int | None = None, seed: int | None = None) -> None:
        """Euler steps, 1 to 32, and seed of the noise, in [0, 2^63); InputError for others."""
        steps, seed = self.steps if steps is None else steps, self.seed if seed is None else seed
        for name, value, low, high in (("steps", steps, 1, STEPS_MAX), ("a seed", seed, 0, 2**63 - 1)):
            if isinstance(value, bool) or not isinstance(value, Integral) or not low <= value <= high:
                raise InputError(f"expected {name} as a whole number from {low} to {high}, got {value!r}")
        self.steps, self.seed = int(steps), int(seed)
        self._show_chosen()
        self._redraw()

    def nearest(self, count: int = NEIGHBOURS) -> list[tuple[str, float]]:
        """The relations whose mean routing is nearest to this one: name and cosine; see :func:`nearest`.

        The means are taken once, at the first call or, little by little, while the page is shown. Without a router
        every mixture is the same, and the list is empty.
        """
        if self.editor.router is None:
            return []
        self._means |= relation_means(self.editor, self._missing)
        self._missing = []
        self._show_neighbours()
        return self._nearest(count)

    # --- what follows from it

    def _change(self, slots: Mapping[str, Slot], keep: bool = True) -> None:
        if keep:
            self._past = [*self._past, self.slots][-UNDO:]
        self.slots = {**self.slots, **slots}
        self._show_slots()
        self._redraw()

    def _redraw(self) -> None:
        self.panel.busy = True
        self._latest.ask((self.slots, self.steps, self.seed))

    def _draw(self, wish: tuple[dict[str, Slot], int, int]) -> None:
        slots, steps, seed = wish
        self.answer = solve(self.editor, slots, steps, seed)
        self._show_answer()
        self._show_neighbours()
        self.panel.busy = False

    def _nearest(self, count: int = NEIGHBOURS) -> list[tuple[str, float]]:
        return nearest(self.answer.coefficients.flatten().numpy(), self._means, count)

    def _prepare(self) -> None:
        """Takes the means little by little, so that the page answers meanwhile; nothing without an event loop."""
        if self._slicing or not self._missing or self.editor.router is None:
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        self._slicing = True

        def next_slice() -> None:
            part, self._missing = self._missing[:SLICE], self._missing[SLICE:]
            self._means |= relation_means(self.editor, part)
            self._slicing = bool(self._missing)
            if self._slicing:
                loop.call_later(PAUSE, next_slice)
            self._show_neighbours()

        loop.call_later(PAUSE, next_slice)

    def _style_of(self, slot: str) -> str | None:
        shown = self.slots[slot].drawing
        return None if shown is None else STYLES[shown[1]]

    def _follow(self, slot: str) -> None:
        """Turns the results to the style of a slot's drawing."""
        style = self._style_of(slot)
        if style not in (None, self.style):
            self.style = style
            self._show_results()

    def _show_results(self) -> None:
        with self.panel.hold_sync():
            self.panel.status = escape(status_text(self.query, self.found))
            self.panel.results = _results(tuple(self.found), self.page, self.style)
            self._show_chosen()

    def _show_chosen(self) -> None:
        shown = self.slots[self.panel.selected].drawing
        self.panel.chosen = {"emoji": "" if shown is None else str(shown[0]), "style": self.style}
        self.panel.settings = {"steps": self.steps, "seed": self.seed}

    def _show_slots(self) -> None:
        with self.panel.hold_sync():
            self.panel.shown = {**self.panel.shown, **{n: _source(to_pil(s.picture)) for n, s in self.slots.items()}}
            self.panel.captions = {**self.panel.captions, **{n: s.caption for n, s in self.slots.items()}}
            self._show_chosen()

    def _show_answer(self) -> None:
        found = self.answer
        picture, truth = _source(to_pil(found.picture)), "" if found.truth is None else _source(to_pil(found.truth))
        judged = f"error {found.error:.2f}\ncopying b: 1" if truth else "drawn by the editor"
        several = f"\nthe nearest of {found.truths}" if found.truths > 1 else ""
        label = "" if found.relation is None else f"{relation_label(found.relation)}{several}"
        with self.panel.hold_sync():
            self.panel.shown = {**self.panel.shown, "result": picture, "truth": truth}
            self.panel.captions = {**self.panel.captions, "result": judged, "truth": label}
            self.panel.title = title_text(self.slots, found.names, found.truths)
            self.panel.mixture = mixture_html(found.coefficients)

    def _show_neighbours(self) -> None:
        if self.editor.router is None:
            self.panel.neighbours = "<h3>Nearest known relations</h3><p>Without a router every mixture is the same.</p>"
        elif self._missing:
            done = self._all - len(self._missing)
            self.panel.neighbours = (
                "<h3>Nearest known relations</h3><p>Taking the mean routing of every relation: "
                f"{done} of {self._all} …</p><progress value='{done}' max='{self._all}'></progress>"
            )
        else:
            self.panel.neighbours = neighbours_html(self._nearest(), self.answer.names)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Bundle:
        """The live widget, and a still picture for whoever has no kernel; it has the nearest relations if known."""
        neighbours = [] if self._missing else self._nearest()
        return with_still(self.panel, static(self.slots, self.answer, neighbours), "Explorer of analogies")


def _all_relations() -> tuple[str, ...]:
    return tuple(relations())


def _name(slot: str) -> str:
    if slot not in NAMES:
        raise InputError(f"expected one of {', '.join(NAMES)}; got {slot!r}")
    return slot


def _style(style: str) -> str:
    if style not in STYLES:
        raise InputError(f"style: expected one of {', '.join(STYLES)}; got {style!r}")
    return style


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise InputError(f"expected a whole number, got {text!r}") from error
