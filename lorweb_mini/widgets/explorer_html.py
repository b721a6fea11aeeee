"""The parts of the explorer's page as HTML, and the same as a figure."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from html import escape

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from ..analysis.mixtures import shares
from ..emoji.relations import SPLITS, STYLE_NAMES, concept_sides, relations
from ..show.pictures import relation_label
from ..show.style import COLOURS, INK, PALE, Board, styled
from .base import picture_tag, png_url
from .questions import NAMES, Answer, Slot

SIDE = 128  # of a picture in CSS pixels


@functools.lru_cache(maxsize=1)
def constant_parts() -> dict[str, str]:
    """The parts of the page that never change: relations and styles."""
    groups: dict[str, str] = {}
    for name in relations():
        option = f"<option value='{escape(name)}'>{escape(relation_label(name))}</option>"
        groups[name.split("/")[0]] = groups.get(name.split("/")[0], "") + option
    options = "".join(f"<optgroup label='{escape(x)}'>{inside}</optgroup>" for x, inside in groups.items())
    return {
        "relations": f"<option value=''>any</option>{options}",
        "styles": "".join(
            f"<button data-ask='style' data-value='{style}'>{escape(name)}</button>"
            for style, name in STYLE_NAMES.items()
        ),
    }


def slots_html(slots: Mapping[str, Slot], selected: str) -> str:
    """The three pictures of the question as tabs."""
    signs = dict(zip(NAMES, (":", "::", ""), strict=True))
    return "".join(
        f"<button role='tab' data-slot='{name}' data-shown='{name}' aria-selected='{str(name == selected).lower()}'>"
        f"<b>{NAMES[name]}</b>{picture_tag(slot.picture, _alt(NAMES[name], slot.caption), SIDE)}"
        f"<small>{escape(slot.caption)}</small></button>"
        + (f"<span class='sign' aria-hidden='true'>{signs[name]}</span>" if signs[name] else "")
        for name, slot in slots.items()
    )


def answer_html(answer: Answer) -> str:
    """The editor's b' and, where it is known, the true one."""
    if answer.truth is None or answer.relation is None:
        return _shown("result", "b′", answer.picture, "drawn by the editor")
    several = f"\nthe nearest of {answer.truths}" if answer.truths > 1 else ""
    return _shown("result", "b′", answer.picture, f"error {answer.error:.2f}\ncopying b: 1") + _shown(
        "truth", "true b′", answer.truth, f"{relation_label(answer.relation)}{several}"
    )


def _shown(name: str, title: str, picture: Tensor, caption: str) -> str:
    image = picture_tag(picture, _alt(title, caption), SIDE)
    text = f"<figcaption>{escape(caption)}</figcaption>"
    return f"<figure data-shown='{name}' class='{name}'><b>{title}</b>{image}{text}</figure>"


def _alt(name: str, caption: str) -> str:
    return f"{name}: {caption}".replace("\n", ", ")


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
        f"<img class='heat' alt='{text}' src='{png_url(heat_map(coefficients))}'>"
        f"<span class='side'>LoRA</span><div class='ticks' aria-hidden='true'>{ticks}</div></div>"
        f"<p class='scale'>0 <span class='cividis' aria-hidden='true'></span> {largest:.2f}</p>"
    )


def neighbours_html(nearest: Sequence[tuple[str, float]], own: Sequence[str] = ()) -> str:
    """The nearest relations as bars from 0 to 1; those that (a, a') belongs to are marked."""
    rows = "".join(
        f"<tr{' class=own' if name in own else ''}><th scope='row'>{escape(relation_label(name))}"
        f"{' <b>✓ this pair’s own</b>' if name in own else ''}</th>"
        f"<td><i style='width:{max(cosine, 0):.1%}'></i></td><td>{cosine:.3f}</td></tr>"
        for name, cosine in nearest
    )
    return (
        f"<h3>Nearest known relations</h3><p>By the cosine of this routing to each relation’s mean routing.</p>"
        f"<table aria-label='nearest known relations and their cosine'>{rows}</table>"
    )


def title_text(slots: Mapping[str, Slot], names: Sequence[str], truths: int) -> str:
    """The question in words: the relation of the pair, and whether b has a true answer."""
    if not names:
        return "A pair of your own: no known relation has it, so there is no true b′ to compare with."
    label, place = " = ".join(relation_label(name) for name in names), slots["b"].drawing
    if place is None or slots["b"].edits:
        return f"{label}. No artist drew this b, so there is no true b′ to compare with."
    if not truths:
        return f"{label}. It does not start at this b, so there is no true b′ to compare with."
    side = SPLITS[concept_sides()[place[0]]]
    return f"{label}. What b shows was {'part of the training' if side == 'train' else 'in no training'}."


def static(slots: Mapping[str, Slot], answer: Answer, neighbours: Sequence[tuple[str, float]] = ()) -> Figure:
    """The page as one picture: a : a' :: b : b', the mixture, the nearest relations if any."""
    size, apart, margin = 1.3, 0.34, 0.3
    pictures = [(NAMES[name], slot.picture, slot.caption) for name, slot in slots.items()]
    pictures.append(("b′", answer.picture, "drawn by the editor"))
    if answer.truth is not None:
        pictures.append(("true b′", answer.truth, f"error of the editor {answer.error:.2f}"))
    board = Board(2 * margin + 5 * size + 4 * apart, 5.75)
    board.text(margin, 0.2, "An analogy and its answer", size=11, weight="bold", va="top")
    question = title_text(slots, answer.names, answer.truths).partition(". ")[0]
    board.text(margin, 0.46, question, size=8.5, color=PALE, va="top")
    for i, (name, picture, caption) in enumerate(pictures):
        x, y, result = margin + i * (size + apart), 0.98, i == 3
        board.picture(picture, x, y, size, COLOURS[0] if result else None)
        look = {"color": COLOURS[0], "weight": "bold"} if result else {"color": INK}
        board.text(x + size / 2, y - 0.07, name, ha="center", va="baseline", size=9.5, **look)
        board.text(x + size / 2, y + size + 0.08, _short(caption), ha="center", va="top", size=7, color=PALE)
        if i < 3:
            board.text(x + size + apart / 2, y + size / 2, "::" if i == 1 else ":", ha="center", size=12)
    _plots(board, answer.coefficients, neighbours, margin)
    note = "Choosing, uploading and drawing need a running kernel: run this cell."
    board.text(margin, board.height - 0.12, note, size=8, color=PALE, va="bottom")
    return board.figure


@styled
def _plots(board: Board, coefficients: Tensor, neighbours: Sequence[tuple[str, float]], margin: float) -> None:
    """The mixture as bars and as a heat map, and the nearest relations."""
    layers, n = coefficients.shape
    share = shares(coefficients)
    top = float(share.max())
    bars = board.axes(margin + 0.5, 3.1, 3.5, 0.75)
    bars.bar(np.arange(n), share, width=0.8, color=COLOURS[0])
    bars.set(xlim=(-0.5, n - 0.5), xticks=[], yticks=[top], yticklabels=[f"{top:.0%}"], ylabel="share")
    bars.set_title("Mixture", loc="left", size=9.5, pad=6)
    heat = board.axes(margin + 0.5, 3.93, 3.5, 1.1)
    heat.imshow(heat_map(coefficients), aspect="auto", interpolation="nearest")
    scale = f"LoRA (dark 0, light {float(coefficients.max()):.2f})"
    heat.set(xlabel=scale, ylabel="layer", xticks=range(0, n, max(1, n // 4)), yticks=[0, layers - 1])
    heat.grid(False)
    if not neighbours:
        return
    near = board.axes(margin + 6.0, 3.1, board.width - 2 * margin - 6.4, 1.93)
    names, cosines = [relation_label(name) for name, _ in neighbours], [cosine for _, cosine in neighbours]
    near.barh(range(len(names)), cosines, color=COLOURS[0], height=0.6)
    near.set(yticks=range(len(names)), xlim=(0, 1), xlabel="cosine of the routings")
    near.set_yticklabels([_short(name, 34) for name in names], size=7.5)
    near.invert_yaxis()
    near.grid(axis="y", visible=False)
    near.set_title("Nearest known relations", loc="left", size=9.5, pad=6)
    for i, cosine in enumerate(cosines):
        near.text(1.02, i, f"{cosine:.2f}", va="center", size=7.5, color=PALE)


def _short(caption: str, longest: int = 24) -> str:
    """A caption whose lines are no longer than that."""
    return "\n".join(line if len(line) <= longest else line[: longest - 1] + "…" for line in caption.split("\n"))
