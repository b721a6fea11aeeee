"""Relations, their splits, and the analogies a : a' :: b : b' that they give.

A relation is pairs of pictures, then edits of the second one. Semantic relations (``tone/yellow>dark``) pair two emojis
in one style, style relations (``style/noto>twemoji``) one emoji in two styles, edits (``edit/hue=120``) a picture with
its edited self, and a composition (``compose/first+second``) applies two of them in turn. Every b' is thus an artist's
drawing or an exact edit, never a model's guess.
"""

from __future__ import annotations

import difflib
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import permutations
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError, check_seed, whole_number
from ..files import data_dir, read_json
from .distributions import unseen
from .edits import EDITS, Strength, apply_edit, chain_name, instructions, parse_chain
from .sheets import STYLES, load_emoji

SPLITS = ("train", "val", "test")
DEGREES = ("seen", "strength", "composition", "family")
STYLE_NAMES = dict(
    zip(STYLES, ("Noto", "Twemoji", "OpenMoji", "black line art", "glossy Fluent 3D", "Fluent flat"), strict=True)
)
UNSEEN_DEGREES = ("strength", "composition", "inside", "between", "outside")
SAME = 2 / 255  # pictures whose mean difference in [-1, 1] is below this look the same
Chain = tuple[tuple[str, Strength], ...]  # kinds and strengths of edits that follow each other


@dataclass(frozen=True, eq=False)
class Relation:
    """One transformation and every true pair of pictures that shows it.

    Attributes:
        name: for example ``tone/yellow>dark``.
        degree: ``seen`` by the basis in training, or held out as ``strength``, ``composition`` or ``family``.
        known_to_base: whether the frozen base was trained on it (with the instructions).
        instructions: three or four phrasings: the first is the usual one, the last is held out of training.
        edits: (kind, strength) applied in turn to the second picture of a pair.
        all_pairs: int array [P, 4]: emoji and style of the first picture, emoji and style of the second.
    """

    name: str
    degree: str
    known_to_base: bool
    instructions: tuple[str, ...]
    edits: Chain = ()
    all_pairs: np.ndarray = field(repr=False, default_factory=lambda: np.zeros((0, 4), int))

    @property
    def family(self) -> str:
        """The part of the name before the first slash; an edit's kind and a composition are families of their own."""
        parts = self.name.split("=")[0].split("/")
        return "/".join(parts[:2]) if parts[0] == "edit" else parts[0]

    @property
    def training_instructions(self) -> tuple[str, ...]:
        """The phrasings that training may show: all but the last, which is held out."""
        return self.instructions[:-1]

    def pairs(self, split: str) -> np.ndarray:
        """Pairs of one split, [P, 4].

        train (val): both emojis belong to train (val) concepts. test: at least one belongs to a test concept and none
        to a val concept, so that ordered relations, whose neighbours fall on both sides, have test pairs; no picture of
        a test concept occurs in a train pair.
        """
        if split not in SPLITS:
            raise InputError(f"expected a split out of {SPLITS}, got {split!r}")
        sides = concept_sides()[self.all_pairs[:, [0, 2]]]
        if split == "test":
            return self.all_pairs[(sides == SPLITS.index("test")).any(1) & (sides != SPLITS.index("val")).all(1)]
        return self.all_pairs[(sides == SPLITS.index(split)).all(1)]

    def pictures(self, pairs: np.ndarray) -> tuple[Tensor, Tensor]:
        """First and second pictures of pairs [P, 4]: two tensors [P, 3, 64, 64] in [-1, 1]."""
        draw = load_emoji().tensor
        return draw(pairs[:, 0], pairs[:, 1]), self.apply_edits(draw(pairs[:, 2], pairs[:, 3]))

    def apply_edits(self, x: Tensor) -> Tensor:
        """The relation's edits in turn, on pictures [B, 3, 64, 64]; unchanged where it has none."""
        for kind, strength in self.edits:
            x = apply_edit(x, kind, strength)
        return x


@dataclass(frozen=True, eq=False)
class Analogy:
    """a : a' :: b : b', four pictures [3, 64, 64] in [-1, 1]; ``keys`` names them as ``code points@style``."""

    a: Tensor
    a_prime: Tensor
    b: Tensor
    b_prime: Tensor
    relation: str
    split: str
    keys: tuple[str, ...]


def differ(first: Tensor, second: Tensor) -> Tensor:
    """Which pictures of two batches [P, 3, 64, 64] differ visibly, bool [P]; OpenMoji black shows no skin tone."""
    return (first - second).abs().mean((1, 2, 3)) >= SAME


@lru_cache(maxsize=1)
def splits() -> dict:
    """The published split file, ``data/splits.json``."""
    return read_json(data_dir() / "splits.json", ("concepts", "relations"))


@lru_cache(maxsize=1)
def concept_sides() -> np.ndarray:
    """For each emoji the index in :data:`SPLITS` of its concept's side, int [n]."""
    side = {c: i for i, s in enumerate(SPLITS) for c in splits()["concepts"][s]}
    return np.array([side[e.concept] for e in load_emoji().emojis])


def training_pictures() -> np.ndarray:
    """Emoji and style of every drawing of a train concept, int [P, 2]."""
    return np.argwhere(load_emoji().present & (concept_sides() == SPLITS.index("train"))[:, None])


@lru_cache(maxsize=1)
def relations() -> dict[str, Relation]:
    """All relations by name, semantic, style, edit and composed."""
    present, table, path = load_emoji().present, splits()["relations"], data_dir() / "relations.json"
    out: dict[str, Relation] = {}

    def add(name: str, phrases: Iterable[str], pairs: np.ndarray, applied: Chain = ()) -> None:
        entry = table[name]
        out[name] = Relation(name, entry["degree"], entry["known_to_base"], tuple(phrases), applied, pairs)

    for name, entry in read_json(path, ()).items():
        try:
            add(name, entry["instructions"], _same_style(entry["pairs"]))
        except (KeyError, TypeError, ValueError, IndexError) as error:
            said = f"expected a relation {name!r} of known emojis in {path}, got another: {error!r}"
            raise InputError(said) from None
    for first, second in permutations(range(len(STYLES)), 2):
        both = np.flatnonzero(present[:, first] & present[:, second])
        pairs = np.stack([both, np.full_like(both, first), both, np.full_like(both, second)], 1)
        words = STYLE_NAMES[STYLES[second]]
        phrases = ("redraw it in the {} style", "make it look like {}", "use the {} version of this emoji")
        add(f"style/{STYLES[first]}>{STYLES[second]}", [phrase.format(words) for phrase in phrases], pairs)
    for edit in EDITS.values():
        for strength in edit.strengths:
            chain = ((edit.kind, float(strength)),)
            add(chain_name(chain), instructions(*chain[0]), _itself(), chain)
    for name in table:
        if name.startswith("compose/"):
            parts = composition_parts(name)
            if missing := [part for part in parts if part not in out]:
                raise InputError(f"expected the parts of {name} in {path}, got none of the name {missing[0]}")
            add(name, *_composed(*(out[part] for part in parts)))
    return out


def _same_style(keys: list[list[str]]) -> np.ndarray:
    """Key pairs to those same-style picture pairs [P, 4] that exist."""
    emoji = load_emoji()
    index = np.array([[emoji.index[a], emoji.index[b]] for a, b in keys])
    which, style = np.nonzero(emoji.present[index[:, 0]] & emoji.present[index[:, 1]])
    return np.stack([index[which, 0], style, index[which, 1], style], 1)


@lru_cache(maxsize=1)
def _itself() -> np.ndarray:
    """Every drawing with itself, [P, 4]."""
    present = np.argwhere(load_emoji().present)
    return np.concatenate([present, present], 1)


def _composed(first: Relation, second: Relation) -> tuple[list[str], np.ndarray, Chain]:
    """Phrases, pairs and edits of first, then second; the last phrase joins the held-out ones of the two.

    The pairs are those of the second that start where a pair of the first ends.
    """
    shared = zip(first.training_instructions, second.training_instructions, strict=False)
    phrases = [f"{x} and {y}" for x, y in (*shared, (first.instructions[-1], second.instructions[-1]))]
    if second.edits:
        return phrases, first.all_pairs, first.edits + second.edits
    if first.edits:
        raise InputError(f"expected an edit after a semantic or style relation, got {first.name}, then {second.name}")
    starts: dict[tuple[int, int], list[np.ndarray]] = {}
    for row in second.all_pairs:
        starts.setdefault((row[0], row[1]), []).append(row[2:])
    joined = [
        np.concatenate([row[:2], end])
        for row in first.all_pairs
        for end in starts.get((row[2], row[3]), [])
        if row[0] != end[0]
    ]
    return phrases, np.array(joined).reshape(-1, 4).astype(int), ()


def composition_parts(name: str) -> tuple[str, str]:
    """``compose/x+y`` to (x, y). Semantic names may hold a plus sign, so the split is where both halves are names."""
    whole = name.removeprefix("compose/")
    known = splits()["relations"]
    for i, letter in enumerate(whole):
        if letter == "+" and whole[:i] in known and whole[i + 1 :] in known:
            return whole[:i], whole[i + 1 :]
    if name.startswith("compose/edit/") and len(chain := parse_chain(name)) > 1:
        return chain_name(chain[:1]), chain_name(chain[1:])
    raise InputError(f"expected compose/FIRST+SECOND with two known relations, got {name!r}")


def relation_of_chain(chain: Chain, degree: str = "drawn", known_to_base: bool = True) -> Relation:
    """Edits one after the other as a relation of every drawing with itself."""
    phrasings = zip(*(instructions(kind, strength) for kind, strength in chain), strict=False)
    words = tuple(" and ".join(parts) for parts in phrasings)
    return Relation(chain_name(chain), degree, known_to_base, words, chain, _itself())


@lru_cache(maxsize=1)
def _unseen_relations() -> dict[str, tuple[str, Relation]]:
    """Name to (part, relation) of what ``data/unseen.json`` holds out of the distribution of edits."""
    return {
        e["name"]: (e["part"], relation_of_chain(parse_chain(e["name"]), e["degree"], e["known_to_base"]))
        for e in unseen()["relations"]
        if e["held_out"]
    }


def unseen_relations(part: str, degree: str | None = None) -> list[Relation]:
    """Edits that no basis of LoRAs is shown, and that a memoriser of the shown ones gets wrong.

    Args:
        part: ``val``, by which recipes are chosen, or ``test``.
        degree: one of :data:`UNSEEN_DEGREES`. Inside the span, a chain of shown edits that are never shown together
            does the same; outside, none comes near.
    """
    if part not in ("val", "test") or degree not in (None, *UNSEEN_DEGREES):
        raise InputError(f"expected val or test, and a degree out of {UNSEEN_DEGREES}, got {part!r} and {degree!r}")
    return [r for p, r in _unseen_relations().values() if p == part and degree in (None, r.degree)]


def get_relation(name: str) -> Relation:
    """One relation by name, or any edit or chain of edits: ``edit/hue=77``, ``compose/edit/grey+edit/blur=3``.

    InputError for a strength out of range, and with the nearest names for any other name.
    """
    if not isinstance(name, str):
        raise InputError(f"expected the name of a relation, got {name!r}")
    if name in relations():
        return relations()[name]
    if name in _unseen_relations():
        return _unseen_relations()[name][1]
    if name.startswith(("edit/", "compose/edit/")):
        kinds = [part.partition("=")[0] for part in name.removeprefix("compose/")[5:].split("+edit/")]
        # A strength out of range says so; a kind that does not exist gets the nearest names.
        if "=" in name or all(kind in EDITS for kind in kinds):
            return relation_of_chain(parse_chain(name))
    near = difflib.get_close_matches(name, [*relations(), *_unseen_relations()], 3, 0.3)
    raise InputError(f"expected the name of a relation, got {name!r}; the nearest are {near}")


def select(degree: str | None = None, known_to_base: bool | None = None, starter: bool = False) -> list[Relation]:
    """Relations by degree and by what the base knows; ``starter`` keeps to the starter set's list of that degree."""
    if degree not in (None, *DEGREES):
        raise InputError(f"expected a degree out of {DEGREES}, got {degree!r}")
    names: Iterable[str] = relations()
    if starter:
        names = [n for d in (DEGREES if degree is None else (degree,)) for n in splits()["starter"][d]]
    return [
        r
        for r in map(get_relation, names)
        if (starter or degree in (None, r.degree)) and known_to_base in (None, r.known_to_base)
    ]


def analogies(
    split: str = "test", relation: str | Iterable[str] | None = None, seed: int = 0, n: int | None = 8
) -> list[Analogy]:
    """Analogies with true b', the same ones for the same arguments.

    Args:
        split: ``train``, ``val`` or ``test`` (see :meth:`Relation.pairs`).
        relation: a name, several, or None for every relation that has at least two pairs in the split.
        n: how many of each relation at most; None for as many as the split has pairs.

    Within an analogy the two pairs show different concepts wherever the relation has more than one. Pairs whose two
    pictures look the same are left out.

    Raises:
        InputError: unknown split or relation, a seed or n that is no whole number of at least 0.
    """
    check_seed(seed)
    if n is not None:
        whole_number(n, "n", 0)
    one = isinstance(relation, str) or not isinstance(relation, Iterable)
    names: Iterable[Any] = relations() if relation is None else [relation] if one else relation
    return [analogy for name in names for analogy in _analogies_of(get_relation(name), split, seed, n)]


def _analogies_of(relation: Relation, split: str, seed: int, n: int | None) -> list[Analogy]:
    emoji = load_emoji()
    pairs = relation.pairs(split)
    if len(pairs) < 2 or n == 0:
        return []
    # crc32, not hash(): Python salts the latter anew in every process.
    rng = np.random.default_rng([seed, zlib.crc32(relation.name.encode()), SPLITS.index(split)])
    pairs = pairs[rng.permutation(len(pairs))]
    if n is not None:
        pairs = pairs[: 4 * n + 16]
    first, second = relation.pictures(pairs)
    visible = differ(first, second).numpy()
    pairs, first, second = pairs[visible], first[visible], second[visible]
    emojis = pairs[:, [0, 2]]
    concept = np.array([[emoji.emojis[i].concept for i in row] for row in emojis]).reshape(-1, 2)
    out: list[Analogy] = []
    for j in range(len(pairs)):
        if len(out) == n:
            break
        others = np.flatnonzero((concept != concept[j]).all(1))
        if not others.size:
            others = np.flatnonzero((emojis != emojis[j]).all(1))
        if others.size:
            i = int(rng.choice(others))
            keys = tuple(f"{emoji.emojis[e].key}@{STYLES[s]}" for e, s in pairs[[i, j]].reshape(4, 2))
            out.append(Analogy(first[i], second[i], first[j], second[j], relation.name, split, keys))
    return out


def as_batch(items: Sequence[Analogy]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The four pictures of k analogies as tensors [k, 3, 64, 64]: a, a', b, b'."""
    a, a_prime, b, b_prime = map(torch.stack, zip(*((x.a, x.a_prime, x.b, x.b_prime) for x in items), strict=True))
    return a, a_prime, b, b_prime
