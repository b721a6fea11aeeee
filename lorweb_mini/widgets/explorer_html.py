"""The parts of the explorer's page as HTML, and the same as a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from ..analysis.mixtures import shares, strongest
from ..emoji.relations import SPLITS, concept_sides
from ..show.pictures import relation_label
from ..show.style import COLOURS, PALE, Board, styled
from .base import coloured, picture_tag, png_url
from .questions import NAMES, Answer, Slot

SIDE = 128  # of a picture in CSS pixels
NEAREST = "Nearest known relations"


def _picture(title: str, picture: Tensor, caption: str) -> str:
    alt = f"{title}: {caption}".replace("\n", ", ")
    return f"<b>{title}</b>{picture_tag(picture, alt, SIDE)}"


def slots_html(slots: Mapping[str, Slot], selected: str) -> str:
    """The three pictures of the question as tabs."""
    html = ""
    for name, sign in zip(NAMES, (":", "::", ""), strict=True):
        slot = slots[name]
        html += (
            f"<button role='tab' data-slot='{name}' data-shown='{name}' aria-selected='{str(name == selected).lower()}'"
            f">{_picture(NAMES[name], slot.picture, slot.caption)}<small>{escape(slot.caption)}</small></button>"
        )
        if sign:
            html += f"<span class='sign' aria-hidden='true'>{sign}</span>"
    return html


def answer_html(answer: Answer) -> str:
    """The editor's b' and, where it is known, the true one."""
    shown = [("result", "b′", answer.picture, "drawn by the editor")]
    if answer.truth is not None and answer.relation is not None:
        several = f"\nthe nearest of {answer.truths}" if answer.truths > 1 else ""
        shown = [("result", "b′", answer.picture, f"error {answer.error:.2f}\ncopying b: 1")]
        shown.append(("truth", "true b′", answer.truth, f"{relation_label(answer.relation)}{several}"))
    return "".join(
        f"<figure data-shown='{name}' class='{name}'>{_picture(title, picture, caption)}"
        f"<figcaption>{escape(caption)}</figcaption></figure>"
        for name, title, picture, caption in shown
    )


def heat_map(coefficients: Tensor) -> Image.Image:
    """Coefficients [layers, N] as a picture, a pixel each, layers downwards; cividis from 0 to the largest."""
    return coloured(coefficients.numpy() / max(float(coefficients.max()), 1e-12), "cividis")


def mixture_html(coefficients: Tensor) -> str:
    """Coefficients [layers, N]: the share of each LoRA as bars, and below, column by column, every layer."""
    share, (layers, n) = shares(coefficients), coefficients.shape
    top, largest = float(share.max()), float(coefficients.max())
    leading = ", ".join(f"LoRA {i} ({float(share[i]):.0%})" for i in strongest(coefficients, 3))
    bars = "".join(
        f"<i title='LoRA {i}: {x:.1%}' style='height:{x / max(top, 1e-12):.1%}'></i>"
        for i, x in enumerate(share.tolist())
    )
    ticks = "".join(f"<span style='left:{(i + 0.5) / n:.2%}'>{i}</span>" for i in range(0, n, max(1, n // 4)))
    layer, lora = divmod(int(coefficients.argmax()), n)
    text = f"coefficients of {n} LoRAs in {layers} layers; the largest {largest:.2f}, of LoRA {lora} in layer {layer}"
    return (
        f"<h3>Mixture</h3><p>Strongest: {leading}.</p>"
        f"<div class='mixture'><span class='side'>share, up to {top:.0%}</span>"
        f"<div class='bars' role='img' aria-label='share of each LoRA; the strongest are {leading}'>{bars}</div>"
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
        "<p>By the cosine of this routing to each relation’s mean routing.</p>"
        f"<table aria-label='nearest known relations and their cosine'>{rows}</table>"
    )


def title_text(slots: Mapping[str, Slot], answer: Answer) -> str:
    """The question in words: the relation of the pair, and whether b has a true answer."""
    if not answer.names:
        return "A pair of your own: no known relation has it, so there is no true b′ to compare with."
    label, drawing = " = ".join(relation_label(name) for name in answer.names), slots["b"].drawing
    if drawing is None or slots["b"].edits:
        return f"{label}. No artist drew this b, so there is no true b′ to compare with."
    if not answer.truths:
        return f"{label}. It does not start at this b, so there is no true b′ to compare with."
    side = SPLITS[concept_sides()[drawing[0]]]
    return f"{label}. What b shows was {'part of the training' if side == 'train' else 'in no training'}."


@styled
def static(slots: Mapping[str, Slot], answer: Answer, neighbours: Sequence[tuple[str, float]] = ()) -> Figure:
    """The page as one picture: a : a' :: b : b', the mixture, the nearest relations if any."""
    size, apart, margin = 1.3, 0.34, 0.3
    pictures = [(NAMES[name], slot.picture, slot.caption) for name, slot in slots.items()]
    pictures.append(("b′", answer.picture, "drawn by the editor"))
    if answer.truth is not None:
        pictures.append(("true b′", answer.truth, f"error of the editor {answer.error:.2f}"))
    board = Board(2 * margin + 5 * size + 4 * apart, 5.75)
    board.text(margin, 0.2, "An analogy and its answer", size=11, weight="bold", va="top")
    board.text(margin, 0.46, title_text(slots, answer).partition(". ")[0], size=8.5, color=PALE, va="top")
    for i, (name, picture, caption) in enumerate(pictures):
        x, y, colour = margin + i * (size + apart), 0.98, COLOURS[0] if i == 3 else None
        board.picture(picture, x, y, size, colour)
        style = {"color": colour, "weight": "bold"} if colour else {}
        board.text(x + size / 2, y - 0.07, name, ha="center", va="baseline", size=9.5, **style)
        board.text(x + size / 2, y + size + 0.08, _short(caption), ha="center", va="top", size=7, color=PALE)
        if i < 3:
            board.text(x + size + apart / 2, y + size / 2, "::" if i == 1 else ":", ha="center", size=12)
    note = "Choosing, uploading and drawing need a running kernel: run this cell."
    board.text(margin, board.height - 0.12, note, size=8, color=PALE, va="bottom")

    share, (layers, n) = shares(answer.coefficients), answer.coefficients.shape
    bars, heat = (board.axes(margin + 0.5, *place) for place in ((3.1, 3.5, 0.75), (3.93, 3.5, 1.1)))
    bars.bar(np.arange(n), share, width=0.8, color=COLOURS[0])
    top = float(share.max())
    bars.set(xlim=(-0.5, n - 0.5), xticks=[], yticks=[top], yticklabels=[f"{top:.0%}"], ylabel="share")
    bars.set_title("Mixture", loc="left", size=9.5, pad=6)
    heat.imshow(heat_map(answer.coefficients), aspect="auto", interpolation="nearest")
    scale = f"LoRA (dark 0, light {float(answer.coefficients.max()):.2f})"
    heat.set(xlabel=scale, ylabel="layer", xticks=range(0, n, max(1, n // 4)), yticks=[0, layers - 1])
    heat.grid(False)
    if neighbours:
        _bars(board, neighbours, margin + 6.0, board.width - 2 * margin - 6.4)
    return board.figure


def _bars(board: Board, neighbours: Sequence[tuple[str, float]], left: float, width: float) -> None:
    axes, (names, cosines) = board.axes(left, 3.1, width, 1.93), zip(*neighbours, strict=True)
    axes.barh(range(len(names)), cosines, color=COLOURS[0], height=0.6)
    axes.set(yticks=range(len(names)), xlim=(0, 1), xlabel="cosine of the routings")
    axes.set_yticklabels([_short(relation_label(name), 34) for name in names], size=7.5)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set_title(NEAREST, loc="left", size=9.5, pad=6)
    for i, cosine in enumerate(cosines):
        axes.text(1.02, i, f"{cosine:.2f}", va="center", size=7.5, color=PALE)


def _short(caption: str, longest: int = 24) -> str:
    """A caption whose lines are no longer than that."""
    return "\n".join(line if len(line) <= longest else line[: longest - 1] + "…" for line in caption.split("\n"))
