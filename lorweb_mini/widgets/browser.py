"""Look the data over: search an emoji, see its drawings and the relations that start at it, follow one to its pairs.

What is found is plain functions of the data (:func:`search`, :func:`relations_of`, :func:`pairs_of`), what is shown is
HTML made from it with the pictures inside, and :class:`Browser` puts both on a page. The page's own script only says
which button was pressed, so everything that can go wrong can be tested without a browser.
"""

from __future__ import annotations

import base64
import functools
import io
import re
import unicodedata
import zlib
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import anywidget
import numpy as np
import torch
import traitlets
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from ..emoji.relations import SPLITS, STYLE_NAMES, concept_sides, differ, get_relation, relations
from ..emoji.sheets import STYLES, load_emoji
from ..errors import InputError
from ..images import to_pil
from ..show.figures import picture_rows, relation_label
from .rendering import in_turn
from .still import NO_ANSWER, Bundle, with_still

PAGE = 48  # emojis in the grid of results
THUMBNAIL, DRAWING, ANSWER = 48, 64, 96  # sides in CSS pixels
OTHERS = 8  # further pairs of a relation
CANDIDATES = 6  # times as many are looked at, since some look the same
SORTS = {"style": "Another artist's style", "edit": "Exact edits", "compose": "Two in turn"}
DRAWN = "Drawn by artists"
NOWHERE = 4  # rank of a word that an emoji lacks


# --- what is found --------------------------------------------------------------------------------


def _words(text: str) -> list[str]:
    """Words in lower case without accents."""
    plain = unicodedata.normalize("NFKD", text).casefold()
    return re.findall(r"\w+", "".join(c for c in plain if not unicodedata.combining(c)))


@functools.lru_cache(maxsize=1)
def _vocabulary() -> list[tuple[list[str], list[str]]]:
    """Words of the name and of the keywords of each emoji."""
    return [(_words(x.name), _words(" ".join(x.keywords))) for x in load_emoji().emojis]


def search(query: str) -> list[int]:
    """Positions of the emojis that a query finds, the best first; all of them for an empty query.

    An emoji is found if every word of the query begins a word of its name or of its keywords. Whole words of the name
    come first, then beginnings in the name, then keywords; among equals the order of Unicode. A character or a key
    (``1f525``) finds its emoji.

    Raises:
        InputError: not a string.
    """
    if not isinstance(query, str):
        raise InputError(f"expected words to search for, got {type(query).__name__}")
    wanted = _words(query)
    if not wanted and not query.strip():
        return list(range(len(load_emoji().emojis)))
    try:
        exact = [load_emoji().find(query)]
    except InputError:
        exact = []
    if not wanted:
        return exact
    ranks: dict[int, int] = {}
    for position, (name, keywords) in enumerate(_vocabulary()):
        rank = max(_rank(word, name, keywords) for word in wanted)
        if rank < NOWHERE:
            ranks[position] = rank
    found = sorted(ranks, key=lambda position: (ranks[position], position))
    return exact + [position for position in found if position not in exact]


def _rank(word: str, name: Sequence[str], keywords: Sequence[str]) -> int:
    """How well a word fits: 0 a word of the name, 1 begins one, 2 a keyword, 3 begins one, :data:`NOWHERE`."""
    for rank, words in ((0, name), (2, keywords)):
        if word in words:
            return rank
        if any(other.startswith(word) for other in words):
            return rank + 1
    return NOWHERE


def _column(style: str) -> int:
    if style not in STYLES:
        raise InputError(f"style: expected one of {', '.join(STYLES)}; got {style!r}")
    return STYLES.index(style)


def _starting_at(rows: np.ndarray, emoji: int, style: str) -> np.ndarray:
    return rows[(rows[:, 0] == emoji) & (rows[:, 1] == _column(style))]


def relations_of(emoji: int, style: str) -> list[str]:
    """Names of the relations that apply to a drawing, those with a pair that starts at it, in the order of the data.

    Args:
        emoji: its position.
        style: one of :data:`~lorweb_mini.emoji.sheets.STYLES`; a style that lacks the emoji gives an empty list.
    """
    return [name for name, relation in relations().items() if len(_starting_at(relation.all_pairs, emoji, style))]


def pairs_of(relation: str, emoji: int, style: str, others: int = OTHERS) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of a relation that start at a drawing, and some that start at other drawings in the same style.

    Returns:
        Rows [P, 4] and [Q, 4] as in :attr:`Relation.all_pairs`, Q at most ``others``: concepts not shown yet come
        first, and only pairs whose two pictures differ visibly. The same call gives the same rows.

    Raises:
        InputError: an unknown relation or style.
    """
    found = get_relation(relation)
    rows = found.all_pairs
    own = _starting_at(rows, emoji, style)
    concept = [x.concept for x in load_emoji().emojis]
    rest = rows[(rows[:, 1] == _column(style)) & (rows[:, 0] != emoji)]
    rest = rest[np.random.default_rng(zlib.crc32(relation.encode())).permutation(len(rest))]
    shown = {concept[emoji], *(concept[i] for i in own[:, 2])}
    fresh: list[int] = []
    stale: list[int] = []
    for i, row in enumerate(rest):
        ends = {concept[row[0]], concept[row[2]]}
        (stale if ends & shown else fresh).append(i)
        shown |= ends
    chosen = rest[(fresh + stale)[: CANDIDATES * others]]
    if len(chosen):
        chosen = chosen[differ(*found.pictures(chosen)).numpy()]
    return own, chosen[:others]


# --- what is shown --------------------------------------------------------------------------------


def picture_tag(picture: Tensor, alt: str, side: int) -> str:
    """A picture [3, 64, 64] as an ``img`` that needs no file, ``side`` CSS pixels wide and stored no larger."""
    image = to_pil(picture)
    if side < image.width:
        image = image.resize((side, side), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    source = base64.b64encode(file.getvalue()).decode()
    return f"<img alt='{escape(alt)}' width='{side}' height='{side}' src='data:image/png;base64,{source}'>"


def results_html(found: Sequence[int], page: int, style: str) -> str:
    """One page of search results as buttons; an emoji that ``style`` lacks appears in the first style that has it."""
    emoji = load_emoji()
    shown = np.asarray(found[page * PAGE : (page + 1) * PAGE], dtype=int)
    present = emoji.present[shown]
    columns = np.where(present[:, _column(style)], _column(style), present.argmax(1)) if len(shown) else shown
    cells = [
        f"<button data-ask='emoji' data-value='{i}' title='{escape(emoji.emojis[i].name)}'>"
        f"{picture_tag(picture, emoji.emojis[i].name, THUMBNAIL)}</button>"
        for i, picture in zip(shown.tolist(), emoji.tensor(shown, columns), strict=True)
    ]
    last = max(0, (len(found) - 1) // PAGE)
    turn = "".join(
        f"<button data-ask='page' data-value='{target}'{'' if 0 <= target <= last else ' disabled'}>{text}</button>"
        for target, text in ((page - 1, "← previous"), (page + 1, "next →"))
    )
    grid = f"<div role='toolbar' aria-label='results' class='grid'>{''.join(cells)}</div>" if cells else ""
    return grid + (f"<nav aria-label='pages of results'>{turn} page {page + 1} of {last + 1}</nav>" if last else "")


def status_text(query: str, found: Sequence[int]) -> str:
    """How many emojis a query found, or what to try if none."""
    if not found:
        return f"No emoji has these words in its name or keywords: “{query}”. Try a single word, such as cat or rain."
    return f"{len(found):,} emoji{'' if len(found) == 1 else 's'}{f' for “{query}”' if query.strip() else ''}"


def emoji_html(position: int, style: str) -> str:
    """An emoji's six drawings as buttons that choose the style, and the relations that start at the chosen one."""
    emoji = load_emoji()
    entry, present = emoji.emojis[position], emoji.present[position]
    drawings = []
    for column, name in enumerate(STYLES):
        if present[column]:
            picture = picture_tag(emoji.tensor(position, column)[0], entry.name, DRAWING)
            drawings.append(
                f"<button data-ask='style' data-value='{name}'>{picture}<span>{STYLE_NAMES[name]}</span></button>"
            )
        else:
            drawings.append(f"<div class='absent'><div>not drawn</div><span>{STYLE_NAMES[name]}</span></div>")
    groups: dict[str, list[str]] = {}
    for name in relations_of(position, style):
        groups.setdefault(SORTS.get(name.split("/")[0], DRAWN), []).append(name)
    chips = "".join(
        f"<h4>{escape(title)}</h4><div role='toolbar' aria-label='{escape(title)}' class='chips'>"
        + "".join(
            f"<button data-ask='relation' data-value='{escape(name)}'>{escape(_chip(name, title))}</button>"
            for name in groups[title]
        )
        + "</div>"
        for title in (DRAWN, *SORTS.values())
        if title in groups
    )
    side = SPLITS[concept_sides()[position]]
    count = sum(map(len, groups.values()))
    return (
        f"<h3>{escape(entry.name)}</h3>"
        f"<p class='pale'>{escape(entry.key)} · its concept is on the {side} side of the split</p>"
        f"<div role='toolbar' aria-label='drawings' class='drawings'>{''.join(drawings)}</div>"
        f"<p>{count} relations start at the drawing by {escape(STYLE_NAMES[style])}. Choose one:</p>"
        f"<div class='relations'>{chips}</div>"
    )


def _chip(name: str, title: str) -> str:
    """A relation's label without the word that its group's heading says already."""
    label = relation_label(name)
    return label if title in (DRAWN, SORTS["compose"]) else label.partition(": ")[2]


def pairs_html(relation: str | None, emoji: int, style: str) -> str:
    """A relation's pairs: b and true b' for an emoji, then other things in the same style."""
    if relation is None:
        return "<p class='pale'>Choose a relation to see what it makes of this drawing.</p>"
    found = get_relation(relation)
    own, others = pairs_of(relation, emoji, style)
    if not len(own):
        return f"<p>{escape(relation_label(relation))} does not start at this drawing.</p>"
    names = [x.name for x in load_emoji().emojis]

    def figures(rows: np.ndarray, side: int, caption: bool) -> str:
        tags = []
        for row, first, second in zip(rows, *found.pictures(rows), strict=True):
            left, right = picture_tag(first, names[row[0]], side), picture_tag(second, "what it becomes", side)
            text = f"<figcaption>{escape(names[row[0]])}: b, and the true b′</figcaption>" if caption else ""
            tags.append(
                f"<figure title='{escape(names[row[0]])}'>{left}<b aria-hidden='true'>→</b>{right}{text}</figure>"
            )
        return f"<div class='pairs'>{''.join(tags)}</div>"

    known = "known to the frozen base" if found.known_to_base else "known to nobody"
    degree = "seen in training" if found.degree == "seen" else f"held out (unseen {found.degree}), {known}"
    text = (
        f"<h3>{escape(relation_label(relation))}</h3><p class='pale'>“{escape(found.instructions[0])}” · {degree}</p>"
    )
    text += figures(own, ANSWER, True)
    if not bool(differ(*found.pictures(own)).any()):
        text += "<p>The two look the same in this style; no measure counts such a pair.</p>"
    if len(others):
        return text + "<h4>The same relation on other things</h4>" + figures(others, DRAWING, False)
    return text + "<p class='pale'>No other drawing of this style has a pair of this relation that can be seen.</p>"


# --- without a kernel -----------------------------------------------------------------------------


def static(emoji: int, style: str, relation: str | None, families: int = 4) -> Figure:
    """What a :class:`Browser` shows, as one picture: an emoji's drawings, then one relation each of a few families."""
    data = load_emoji()
    names = [name for name in (relation, *relations_of(emoji, style)) if name is not None]
    first = {name.split("/")[0]: name for name in reversed(names)}
    chosen = sorted(first.values(), key=names.index)[:families]
    columns = np.flatnonzero(data.present[emoji])
    name = data.emojis[emoji].name
    rows = {name: data.tensor(emoji, columns)}
    captions = {name: [STYLE_NAMES[STYLES[c]] for c in columns]}
    for one in chosen:
        own, others = pairs_of(one, emoji, style, others=2)
        pairs = np.concatenate([own[:1], others])
        label = relation_label(one).replace(": ", ":\n", 1)
        rows[label] = torch.stack(get_relation(one).pictures(pairs), 1).flatten(0, 1)
        captions[label] = ["b", "true b′", *["a", "a′"] * len(others)]
    note = "Search and buttons need a running kernel: run this cell."
    return picture_rows(rows, captions, title="An emoji and its relations", note=note)


# --- on a page ------------------------------------------------------------------------------------

FRAME = f"""
<label>Search by name or keyword
  <input type="search" placeholder="cat, rain, hand …" autocomplete="off" spellcheck="false"></label>
<p data-part="status" role="status"></p>
<div data-part="results"></div>
<div class="columns"><section data-part="emoji" aria-label="emoji"></section>
<section data-part="pairs" aria-label="pairs of the relation" aria-live="polite"></section></div>
<p class="pale">Tab moves from group to group, the arrow keys move within one, Enter chooses.
The browser needs a running kernel.</p>
<p class="warning" role="alert" hidden>{NO_ANSWER}</p>
"""


class _Panel(anywidget.AnyWidget):
    """The page: HTML of each part, which buttons are pressed, and how many messages of the page were answered."""

    _esm, _css = Path(__file__).with_suffix(".js"), Path(__file__).with_suffix(".css")
    frame = traitlets.Unicode(FRAME).tag(sync=True)
    query = traitlets.Unicode().tag(sync=True)
    status = traitlets.Unicode().tag(sync=True)
    results = traitlets.Unicode().tag(sync=True)
    emoji = traitlets.Unicode().tag(sync=True)
    pairs = traitlets.Unicode().tag(sync=True)
    chosen = traitlets.Dict().tag(sync=True)
    heard = traitlets.Int().tag(sync=True)


class Browser:
    """All emojis, their drawings and their relations. Showing it in a notebook is naming it in a cell.

    Every button has a method: :meth:`search`, :meth:`turn`, :meth:`choose`, :meth:`draw_as`, :meth:`follow`. Where no
    kernel runs, the notebook shows :func:`static` instead.

    Args:
        query: what the search box holds at first.
        emoji: key, character or name of the emoji to begin with.
        style: whose drawings to show; an emoji that the style lacks is shown in the first one that has it.
        relation: the relation to begin with, or None.

    Raises:
        InputError: an unknown emoji, style or relation, or a relation that does not start at this drawing.
    """

    def __init__(
        self,
        query: str = "woman",
        emoji: str = "woman",
        style: str = "noto",
        relation: str | None = "role/astronaut",
    ) -> None:
        self.query, self.page, self.found = query, 0, search(query)
        self.style = STYLES[_column(style)]
        self.emoji = load_emoji().find(emoji)
        self.relation: str | None = None
        self.panel = _Panel(query=query)
        self._show_results()
        self.choose(self.emoji)
        if relation is not None:
            self.follow(relation)
        self.panel.on_msg(lambda _, message, __: self._answer(message))

    @in_turn
    def _answer(self, message: Mapping[str, Any]) -> None:
        """Does what a button of the page asks for, ``{"ask": ..., "value": ...}``; the value is text."""
        try:
            self._obey(message)
        finally:
            self.panel.heard += 1

    def _obey(self, message: Mapping[str, Any]) -> None:
        ask, value = message.get("ask"), str(message.get("value", ""))
        if ask == "search":
            self.search(value)
        elif ask == "page":
            self.turn(int(value))
        elif ask == "emoji":
            self.choose(int(value))
        elif ask == "style":
            self.draw_as(value)
        elif ask == "relation":
            self.follow(value)
        else:
            raise InputError(f"expected search, page, emoji, style or relation to be asked for, got {ask!r}")

    def search(self, query: str) -> None:
        """Shows the first page of what a query finds."""
        self.query, self.page, self.found = query, 0, search(query)
        self._show_results()

    def turn(self, page: int) -> None:
        """Shows another page of the results, counted from 0; InputError if there is none."""
        pages = -(-len(self.found) // PAGE)
        if not 0 <= page < pages:
            raise InputError(f"expected one of {pages} pages, counted from 0; got {page}")
        self.page = page
        self._show_results()

    def choose(self, emoji: int | str) -> None:
        """Shows an emoji, by position, key, character or name; the relation stays if it starts there too."""
        data = load_emoji()
        position = data.find(emoji) if isinstance(emoji, str) else emoji
        if not 0 <= position < len(data.emojis):
            raise InputError(f"expected an emoji in 0..{len(data.emojis) - 1}; got {position}")
        self.emoji = position
        if self.style not in data.emojis[position].styles:
            self.style = data.emojis[position].styles[0]
        self._show_emoji()

    def draw_as(self, style: str) -> None:
        """Shows the same emoji, the results and the pairs in another style; InputError if it lacks the emoji."""
        _column(style)
        entry = load_emoji().emojis[self.emoji]
        if style not in entry.styles:
            raise InputError(f"{entry.name}: expected one of {', '.join(entry.styles)}; got {style!r}, which lacks it")
        self.style = style
        with self.panel.hold_sync():
            self._show_results()
            self._show_emoji()

    def follow(self, relation: str) -> None:
        """Shows the pairs of a relation; InputError if it does not start at the drawing."""
        get_relation(relation)
        if relation not in relations_of(self.emoji, self.style):
            name = load_emoji().emojis[self.emoji].name
            raise InputError(f"expected a relation that starts at {name} in {self.style}; got {relation!r}")
        self.relation = relation
        self._show_pairs()

    def _show_results(self) -> None:
        with self.panel.hold_sync():
            self.panel.status = escape(status_text(self.query, self.found))
            self.panel.results = results_html(self.found, self.page, self.style)

    def _show_emoji(self) -> None:
        if self.relation not in relations_of(self.emoji, self.style):
            self.relation = None
        with self.panel.hold_sync():
            self.panel.emoji = emoji_html(self.emoji, self.style)
            self._show_pairs()

    def _show_pairs(self) -> None:
        with self.panel.hold_sync():
            self.panel.pairs = pairs_html(self.relation, self.emoji, self.style)
            self.panel.chosen = {"emoji": str(self.emoji), "style": self.style, "relation": self.relation or ""}

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Bundle:
        """The live widget, and a still picture for whoever has no kernel."""
        still = static(self.emoji, self.style, self.relation)
        return with_still(self.panel, still, "Browser of emojis and their relations")
