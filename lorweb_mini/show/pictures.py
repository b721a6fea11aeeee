"""Figures of pictures: analogies as rows of a : a' :: b : b', and rows of pictures with labels and captions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from torch import Tensor

from ..emoji.relations import Analogy, composition_parts
from ..errors import InputError
from .style import COLOURS, PALE, Board


def relation_label(name: str) -> str:
    """A relation's name for a reader: ``tone/yellow>dark`` becomes ``tone: yellow → dark``, 27.7556 becomes 27.8."""
    if name.startswith("compose/"):
        parts = [relation_label(part) for part in composition_parts(name)]
        return " + ".join([parts[0], *(part.removeprefix("edit: ") for part in parts[1:])])
    family, _, rest = name.partition("/")
    rest = re.sub(r"\d+\.\d{3,}", lambda number: f"{float(number[0]):.3g}", rest)
    rest = re.sub(r"((?:[^,]+,){3}).+,.+", r"\1…", rest)  # the nine numbers of a channel mix
    return f"{family}: {rest}".replace(">", " → ").replace("=", " ").replace("_", " ")


def triplets(
    items: Sequence[Analogy],
    results: Tensor | Mapping[str, Tensor],
    columns: int = 2,
    title: str = "",
    errors: Sequence[float] | None = None,
    labels: Sequence[str] | None = None,
    size: float = 0.72,
) -> Figure:
    """Analogies as a : a' :: b : result, with the true b' beside it, row by row in so many ``columns``.

    Args:
        results: pictures [k, 3, 64, 64], or several sets of them by method name.
        errors: normalised error of each (of the last method), written above it.
        labels: what to write over each analogy; by default its relation.
        size: side of a picture, in inches.
    """
    sets = {"result": results} if isinstance(results, Tensor) else dict(results)
    if not items or any(len(r) != len(items) for r in sets.values()):
        raise InputError(f"expected results for {len(items)} analogies, got {[len(r) for r in sets.values()]}")
    columns = min(columns, len(items))
    headers = ["a", "a′", "b", *sets, "true b′"]
    near, far, between, margin = 0.07 * size, 0.34 * size, 0.9 * size, 0.3
    # The colons of a : a' :: b : b' stand in the wider gaps.
    wide = (0, 1, 2, 2 + len(sets))
    offsets = [i * (size + near) + sum(k < i for k in wide) * (far - near) for i in range(len(headers))]
    block, line, head = offsets[-1] + size, size + 0.42, 0.5 if title else 0.0
    height = 2 * margin + head + 0.3 + -(-len(items) // columns) * line - 0.12
    board = Board(2 * margin + columns * block + (columns - 1) * between, height)
    board.text(margin, margin, title, size=12, weight="bold", va="top")
    for column in range(columns):
        for offset, header in zip(offsets, headers, strict=True):
            last = header == headers[-2]
            style = {"color": COLOURS[0], "weight": "bold"} if last else {"color": PALE}
            x = margin + column * (block + between) + offset + size / 2
            board.text(x, margin + head, header, size=8.5, ha="center", va="top", **style)
    for i, item in enumerate(items):
        row, column = divmod(i, columns)
        left, top = margin + column * (block + between), margin + head + 0.3 + row * line + 0.3
        label = relation_label(item.relation) if labels is None else labels[i]
        board.text(left, top - 0.07, label, size=8, va="bottom")
        if errors is not None:
            error = f"error {errors[i]:.2f}"
            board.text(left + block, top - 0.07, error, size=7.5, ha="right", va="bottom", color=PALE)
        pictures = [item.a, item.a_prime, item.b, *(r[i] for r in sets.values()), item.b_prime]
        for j, (offset, picture) in enumerate(zip(offsets, pictures, strict=True)):
            board.picture(picture, left + offset, top, size, COLOURS[0] if j == len(pictures) - 2 else None)
        for j, sign in ((1, ":"), (2, "::"), (3, ":")):
            board.text(left + offsets[j] - far / 2, top + size / 2, sign, size=11, ha="center", color=PALE)
    return board.figure


def picture_rows(
    rows: Mapping[str, Tensor | Sequence[Tensor | None]],
    captions: Mapping[str, Sequence[str]] | None = None,
    columns: Sequence[str] = (),
    title: str = "",
    note: str = "",
    size: float = 0.8,
    label_width: float = 1.5,
) -> Figure:
    """Rows of pictures, each row with a label to its left and, where given, a caption below every picture.

    Args:
        rows: label to k pictures [3, 64, 64]; rows may differ in length, and None leaves a place empty.
        captions: label to k captions.
        columns: headings over the first pictures of every row.
        note: a sentence below everything.
        size, label_width: of a picture and of the column of labels, in inches.
    """
    captions = captions or {}
    if not rows or any(len(text) != len(rows[label]) for label, text in captions.items()):
        raise InputError(f"expected a caption for each picture, got {[len(x) for x in captions.values()]}")
    step, margin = 1.08 * size, 0.2
    left = margin + label_width
    heights = [size + (0.26 if label in captions else 0.1) for label in rows]
    head = margin + (0.4 if title else 0.0)
    top = head + (0.22 if columns else 0.0)
    height = top + sum(heights) + (0.28 if note else 0.0) + margin / 2
    board = Board(left + max(map(len, rows.values())) * step - 0.08 * size + margin, height)
    board.text(margin, margin, title, size=11, weight="bold", va="top")
    for i, heading in enumerate(columns):
        board.text(left + i * step + size / 2, head + 0.1, heading, size=8, ha="center", va="baseline", color=PALE)
    y = top
    for (label, pictures), line in zip(rows.items(), heights, strict=True):
        board.text(margin, y + size / 2, label, size=8.5, linespacing=1.35)
        for i, picture in enumerate(pictures):
            if picture is not None:
                board.picture(picture, left + i * step, y, size)
        for i, caption in enumerate(captions.get(label, ())):
            x = left + i * step + size / 2
            board.text(x, y + size + 0.14, caption, size=7, ha="center", va="baseline", color=PALE)
        y += line
    board.text(margin, height - margin, note, size=8, color=PALE, va="bottom")
    return board.figure
