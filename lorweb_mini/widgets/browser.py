"""A widget to look through the data: search an emoji, see its drawings, its relations, and the pairs of one of them."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import ClassVar

import numpy as np
import torch
from matplotlib.figure import Figure

from ..emoji.relations import SPLITS, STYLE_NAMES, concept_sides, differ, get_relation
from ..emoji.sheets import STYLES, load_emoji
from ..errors import InputError
from ..show.pictures import picture_rows, relation_label
from .base import Widget, button, picture_tag, toolbar
from .search import column_of, pairs_of, position_of, relations_of, search

PAGE = 48  # emojis in the grid of results
FAMILIES = 4  # in the fallback figure
THUMBNAIL, DRAWING, ANSWER = 48, 64, 96  # sides in CSS pixels
SORTS = {"style": "Another artist's style", "edit": "Exact edits", "compose": "Two in turn"}
DRAWN = "Drawn by artists"


def results_html(positions: Sequence[int], page: int, style: str) -> str:
    """One page of search results as buttons; an emoji that ``style`` lacks appears in the first style that has it."""
    emoji = load_emoji()
    shown = np.asarray(positions[page * PAGE : (page + 1) * PAGE], dtype=int)
    if not len(shown):
        return ""
    present, column = emoji.present[shown], column_of(style)
    pictures = emoji.tensor(shown, np.where(present[:, column], column, present.argmax(1)))
    cells = []
    for i, picture in zip(shown.tolist(), pictures, strict=True):
        name = emoji.emojis[i].name
        cells.append(button("emoji", i, picture_tag(picture, name, THUMBNAIL), f" title='{escape(name)}'"))
    last = (len(positions) - 1) // PAGE
    if not last:
        return toolbar("results", "grid", cells)
    turn = button("page", page - 1, "← previous", "" if page else " disabled")
    turn += button("page", page + 1, "next →", "" if page < last else " disabled")
    pages = f"<nav aria-label='pages of results'>{turn} page {page + 1} of {last + 1}</nav>"
    return toolbar("results", "grid", cells) + pages


def emoji_html(position: int, style: str) -> str:
    """An emoji's six drawings as buttons that choose the style, and the relations that start at the chosen one."""
    emoji = load_emoji()
    entry, drawings = emoji.emojis[position], []
    for column, (name, label) in enumerate(STYLE_NAMES.items()):
        if emoji.present[position][column]:
            picture = picture_tag(emoji.tensor(position, column)[0], entry.name, DRAWING)
            drawings.append(button("style", name, f"{picture}<span>{label}</span>"))
        else:
            drawings.append(f"<div class='absent'><div>not drawn</div><span>{label}</span></div>")
    groups: dict[str, list[str]] = {title: [] for title in (DRAWN, *SORTS.values())}
    names = relations_of(position, style)
    for name in names:
        title, label = SORTS.get(name.split("/")[0], DRAWN), relation_label(name)
        # Without the word that the heading says already.
        text = label if title in (DRAWN, SORTS["compose"]) else label.partition(": ")[2]
        groups[title].append(button("relation", name, escape(text)))
    chips = "".join(f"<h4>{escape(x)}</h4>{toolbar(x, 'chips', inside)}" for x, inside in groups.items() if inside)
    return (
        f"<h3>{escape(entry.name)}</h3>"
        f"<p class='pale'>{escape(entry.key)} · its concept is on the {SPLITS[concept_sides()[position]]} side of the "
        f"split</p>{toolbar('drawings', 'drawings chips', drawings)}"
        f"<p>{len(names)} relations start at the drawing by {escape(STYLE_NAMES[style])}. Choose one:</p>"
        f"<div class='relations'>{chips}</div>"
    )


def _pairs(relation: str, rows: np.ndarray, side: int, caption: str = "") -> str:
    tags = []
    for row, first, second in zip(rows, *get_relation(relation).pictures(rows), strict=True):
        name = load_emoji().emojis[row[0]].name
        left, right = picture_tag(first, name, side), picture_tag(second, "what it becomes", side)
        text = f"<figcaption>{escape(name)}: {caption}</figcaption>" if caption else ""
        tags.append(f"<figure title='{escape(name)}'>{left}<b aria-hidden='true'>→</b>{right}{text}</figure>")
    return f"<div class='pairs'>{''.join(tags)}</div>"


def pairs_html(relation: str | None, emoji: int, style: str) -> str:
    """A relation's pairs: b and true b' for an emoji, then other things in the same style."""
    if relation is None:
        return "<p class='pale'>Choose a relation to see what it makes of this drawing.</p>"
    chosen = get_relation(relation)
    own, others = pairs_of(relation, emoji, style)
    known = "known to the frozen base" if chosen.known_to_base else "known to nobody"
    degree = "seen in training" if chosen.degree == "seen" else f"held out (unseen {chosen.degree}), {known}"
    instruction = escape(chosen.instructions[0])
    text = f"<h3>{escape(relation_label(relation))}</h3><p class='pale'>“{instruction}” · {degree}</p>"
    text += _pairs(relation, own, ANSWER, "b, and the true b′")
    if not bool(differ(*chosen.pictures(own)).any()):
        text += "<p>The two look the same in this style; no measure counts such a pair.</p>"
    if len(others):
        return text + "<h4>The same relation on other things</h4>" + _pairs(relation, others, DRAWING)
    return text + "<p class='pale'>No other drawing of this style has a pair of this relation that can be seen.</p>"


class Results(Widget):
    """A widget with a search box and pages of emojis drawn in a ``style``: its parts ``status`` and ``results``."""

    asks: ClassVar = {"search": lambda self, query: self.search(query), "page": lambda self, page: self.turn(int(page))}
    style: str

    def search(self, query: str) -> None:
        """Shows the first page of what a query finds."""
        self.query, self.number, self.positions = query, 0, search(query)
        self.show_results()

    def turn(self, page: int) -> None:
        """Shows another page of the results, counted from 0; InputError if there is none."""
        pages = -(-len(self.positions) // PAGE)
        if not 0 <= page < pages:
            raise InputError(f"expected one of {pages} pages, counted from 0; got {page}")
        self.number = page
        self.show_results()

    def show_results(self) -> None:
        """Writes the results as they stand."""
        count, query = len(self.positions), escape(self.query)
        if count:
            status = f"{count:,} emoji{'' if count == 1 else 's'}{f' for “{query}”' if query.strip() else ''}"
        else:
            status = (
                f"No emoji has these words in its name or keywords: “{query}”. Try a single word, such as cat or rain."
            )
        self.write(status=status, results=results_html(self.positions, self.number, self.style))


class Browser(Results):
    """All emojis, their drawings and their relations.

    Args:
        query: what is searched for at first.
        emoji: key, character or name of the emoji to begin with.
        style: whose drawings to show; an emoji that the style lacks is shown in the first one that has it.
        relation: the relation to begin with, or None.

    Raises:
        InputError: an unknown emoji, style or relation, or a relation that does not start at this drawing.
    """

    title = "Browser of emojis and their relations"
    parts = ("status", "results", "emoji", "pairs")
    asks: ClassVar = Results.asks | {
        "emoji": lambda self, position: self.choose(int(position)),
        "style": lambda self, style: self.draw_as(style),
        "relation": lambda self, relation: self.follow(relation),
    }

    def __init__(
        self, query: str = "woman", emoji: str = "woman", style: str = "noto", relation: str | None = "role/astronaut"
    ) -> None:
        super().__init__()
        self.style = STYLES[column_of(style)]
        self.relation: str | None = None
        self.tell(query=query)
        self.search(query)
        self.choose(emoji)
        if relation is not None:
            self.follow(relation)

    def choose(self, emoji: int | str) -> None:
        """Shows an emoji, by position, key, character or name; the relation stays if it starts there too."""
        self.emoji = position_of(emoji)
        styles = load_emoji().emojis[self.emoji].styles
        if self.style not in styles:
            self.style = styles[0]
        self._show_emoji()

    def draw_as(self, style: str) -> None:
        """Shows the same emoji, the results and the pairs in another style; InputError if it lacks the emoji."""
        column_of(style)
        entry = load_emoji().emojis[self.emoji]
        if style not in entry.styles:
            raise InputError(f"{entry.name}: expected one of {', '.join(entry.styles)}; got {style!r}, which lacks it")
        self.style = style
        self.show_results()
        self._show_emoji()

    def follow(self, relation: str) -> None:
        """Shows the pairs of a relation; InputError if it does not start at the drawing."""
        get_relation(relation)
        if relation not in relations_of(self.emoji, self.style):
            name = load_emoji().emojis[self.emoji].name
            raise InputError(f"expected a relation that starts at {name} in {self.style}; got {relation!r}")
        self.relation = relation
        self._show_pairs()

    def fallback(self) -> Figure:
        """The emoji's drawings, then one relation each of a few families."""
        data = load_emoji()
        names = relations_of(self.emoji, self.style)
        first = {name.split("/")[0]: name for name in (*reversed(names), *([self.relation] if self.relation else []))}
        columns, name = np.flatnonzero(data.present[self.emoji]), data.emojis[self.emoji].name
        rows, captions = {name: data.tensor(self.emoji, columns)}, {name: [STYLE_NAMES[STYLES[c]] for c in columns]}
        for one in sorted(first.values(), key=[self.relation, *names].index)[:FAMILIES]:
            own, others = pairs_of(one, self.emoji, self.style, others=2)
            label = relation_label(one).replace(": ", ":\n", 1)
            pairs = get_relation(one).pictures(np.concatenate([own[:1], others]))
            rows[label] = torch.stack(pairs, 1).flatten(0, 1)
            captions[label] = ["b", "true b′", *["a", "a′"] * len(others)]
        note = "Search and buttons need a running kernel: run this cell."
        return picture_rows(rows, captions, title="An emoji and its relations", note=note)

    def _show_emoji(self) -> None:
        if self.relation not in relations_of(self.emoji, self.style):
            self.relation = None
        self.write(emoji=emoji_html(self.emoji, self.style))
        self._show_pairs()

    def _show_pairs(self) -> None:
        self.write(pairs=pairs_html(self.relation, self.emoji, self.style))
        self.tell(chosen={"emoji": str(self.emoji), "style": self.style, "relation": self.relation or ""})
