"""Searching the data: emojis by words, the relations that start at one, and a relation's pairs."""

from __future__ import annotations

import functools
import re
import unicodedata
import zlib
from collections.abc import Sequence

import numpy as np

from ..emoji.relations import differ, get_relation, relations
from ..emoji.sheets import STYLES, load_emoji
from ..errors import InputError, whole_number

OTHERS = 8  # further pairs of a relation
CANDIDATES = 6  # times as many are looked at, since some look the same
NOWHERE = 4  # rank of a word that an emoji lacks


def _words(text: str) -> list[str]:
    """Words in lower case without accents."""
    plain = unicodedata.normalize("NFKD", text).casefold()
    return re.findall(r"\w+", "".join(c for c in plain if not unicodedata.combining(c)))


@functools.lru_cache(maxsize=1)
def _vocabulary() -> list[tuple[list[str], list[str]]]:
    """Words of the name and of the keywords of each emoji."""
    return [(_words(x.name), _words(" ".join(x.keywords))) for x in load_emoji().emojis]


def search(query: str) -> list[int]:
    """Positions of the emojis that a query finds, the best first; all for an empty query; InputError for no string.

    An emoji is found if every word of the query begins a word of its name or of its keywords. Whole words of the name
    come first, then beginnings in the name, then keywords; among equals the order of Unicode. A character or a key
    (``1f525``) finds its emoji.
    """
    if not isinstance(query, str):
        raise InputError(f"expected words to search for, got {type(query).__name__}")
    if not query.strip():
        return list(range(len(load_emoji().emojis)))
    try:
        exact = [load_emoji().find(query)]
    except InputError:
        exact = []
    words = _words(query)
    ranks = [max((_rank(word, *entry) for word in words), default=NOWHERE) for entry in _vocabulary()]
    ranked = sorted((rank, position) for position, rank in enumerate(ranks) if rank < NOWHERE)
    return exact + [position for _, position in ranked if position not in exact]


def _rank(word: str, name: Sequence[str], keywords: Sequence[str]) -> int:
    """0 for a word of the name, 1 where it begins one, 2 for a keyword, 3 where it begins one, :data:`NOWHERE`."""
    for rank, words in ((0, name), (2, keywords)):
        if word in words:
            return rank
        if any(other.startswith(word) for other in words):
            return rank + 1
    return NOWHERE


def column_of(style: str) -> int:
    """Position of a style in the data; InputError if there is none of this name."""
    if style not in STYLES:
        raise InputError(f"style: expected one of {', '.join(STYLES)}; got {style!r}")
    return STYLES.index(style)


def position_of(emoji: int | str) -> int:
    """Position of an emoji given by position, key, character or name; InputError if there is none."""
    data = load_emoji()
    if isinstance(emoji, str):
        return data.find(emoji)
    return whole_number(emoji, "an emoji", 0, len(data.emojis) - 1)


def relations_of(emoji: int, style: str) -> list[str]:
    """Names of the relations with a pair that starts at a drawing, in the order of the data.

    ``emoji`` is a position, ``style`` one of :data:`~lorweb_mini.emoji.sheets.STYLES`; one that lacks it has none.
    """
    start = (emoji, column_of(style))
    return [name for name, relation in relations().items() if (relation.all_pairs[:, :2] == start).all(1).any()]


def pairs_of(relation: str, emoji: int, style: str, others: int = OTHERS) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of a relation that start at a drawing, and some that start at other drawings in the same style.

    Rows [P, 4] and [Q, 4] as in :attr:`Relation.all_pairs`, Q at most ``others``: concepts not shown yet come first,
    and only pairs whose two pictures differ visibly. The same call gives the same rows; InputError for an unknown
    relation or style.
    """
    chosen = get_relation(relation)
    rows = chosen.all_pairs[chosen.all_pairs[:, 1] == column_of(style)]
    own, rest = rows[rows[:, 0] == emoji], rows[rows[:, 0] != emoji]
    rest = rest[np.random.default_rng(zlib.crc32(relation.encode())).permutation(len(rest))]
    concept = [x.concept for x in load_emoji().emojis]
    shown = {concept[emoji], *(concept[i] for i in own[:, 2])}
    repeats = []
    for row in rest:
        ends = {concept[row[0]], concept[row[2]]}
        repeats.append(bool(ends & shown))
        shown |= ends
    rest = rest[np.argsort(repeats, kind="stable")[: CANDIDATES * others]]
    if len(rest):
        rest = rest[differ(*chosen.pictures(rest)).numpy()]
    return own, rest[:others]
