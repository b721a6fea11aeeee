"""Which concepts and which relations are seen in training, and which are kept for testing.

A train pair has both ends in train concepts. A test pair has both ends in train or test concepts and at least
one of them in test.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from typing import Any

from lorweb_mini.emoji.edits import EDITS, relation_name

from .relations import COLOURS, COMPASS, DIGITS, HAIR, HOURS, Pairs
from .sources import STYLES

SEED = "lorweb-mini"
# One block of a stratum in twenty: 16 train, 3 test, 1 val, spread so that small strata get their share.
PATTERN = (
    ("train",) * 3
    + ("test",)
    + ("train",) * 5
    + ("test",)
    + ("train",) * 3
    + ("val",)
    + ("train",) * 3
    + ("test",)
    + ("train",) * 2
)

FAMILY_KNOWN = {"age", "mirror"}
FAMILY_UNKNOWN = {"hair", "shape"}
EDIT_KNOWN = {"swap_channels", "sepia"}
EDIT_UNKNOWN = {"posterize", "swirl"}
MIDDLE_STEPS = {"clock/+2h", "clock/+5.5h", "clock/+8h", "clock/+10.5h", "moon/+3", "rotate/135deg"}

# About a fifth of every ordered set, spread evenly; 6:00 and 12:30 look alike in Twemoji and stay in train.
TEST_HOURS = (2, 7, 13, 17, 20)
TEST_CHARACTERS = "🌗↙🔽💚🤎🟡🔵🟧🟪"
TEST_DIGITS = (3, 7)


def split_concepts(emojis: list[dict[str, Any]], pairs: Pairs) -> dict[str, list[str]]:
    """Concepts of each part: 80 % train, 5 % val, 15 % test, drawn by hash within strata, then mended.

    Strata are having tones, group and subgroup. Mended: the plain people (the source of every role) are in
    train, ordered sets have a fifth in test, the unseen family of hair is wholly in test, and every relation
    that anybody is to learn has at least two train pairs (one, if it has three pairs or fewer).
    """
    concept = {entry["key"]: entry["concept"] for entry in emojis}
    forced = _forced(emojis, concept)
    part: dict[str, str] = dict(forced)
    for members in _strata(emojis):
        free = [name for name in members if name not in forced]
        part.update(zip(free, itertools.cycle(PATTERN), strict=False))
    # A role has one concept: in val, nobody would ever meet the relation.
    for relation in pairs:
        if relation.startswith("role/"):
            part.update({name: "train" for name in _ends(pairs[relation], concept) if part[name] == "val"})
    for relation, members in sorted(pairs.items()):
        if relation.split("/")[0] not in FAMILY_UNKNOWN | {"role"}:
            _ensure_train_pairs(members, concept, part)
    for _, members in sorted(pairs.items()):
        # Rather in test than in val where a relation would else have nothing to be tested on.
        if not any(pair_part(pair, concept, part) == "test" for pair in members):
            part.update({name: "test" for name in _ends(members, concept) if part[name] == "val"})
    order = list(dict.fromkeys(concept.values()))
    return {name: [item for item in order if part[item] == name] for name in ("train", "val", "test")}


def _forced(emojis: list[dict[str, Any]], concept: dict[str, str]) -> dict[str, str]:
    by_character = {entry["char"].replace("\ufe0f", ""): entry["concept"] for entry in emojis}
    shapes = [thing for row in COLOURS.values() for thing in row[:3]]
    ordered = [*HOURS, *COMPASS, *"🌑🌒🌓🌔🌕", *"🔼🔽◀⏫⏬⏪", *shapes]
    forced = {by_character[character]: "train" for character in ordered}
    forced |= {concept[digit]: "train" for digit in DIGITS}
    test = [by_character[character] for character in (*TEST_CHARACTERS, *(HOURS[i] for i in TEST_HOURS))]
    test += [concept[DIGITS[digit]] for digit in TEST_DIGITS]
    test += [concept[f"1f9d1-200d-{component}"] for component in HAIR.values()]
    test += [concept[key] for key in ("1f9d4", "1f9ce")]  # beard; kneeling, which also faces right
    forced |= dict.fromkeys(test, "test")
    forced |= {concept[key]: "train" for key in ("1f9d1", "1f9d2", "1f9d3")}
    return forced


def _strata(emojis: list[dict[str, Any]]) -> list[list[str]]:
    """Concepts by (has tones, group), within it by subgroup, within that in the order of a seeded hash."""
    toned = {entry["concept"] for entry in emojis if entry["tone"]}
    first = {entry["concept"]: entry for entry in reversed(emojis)}
    strata: dict[tuple[bool, str], list[tuple[str, str, str]]] = {}
    for name, entry in first.items():
        draw = hashlib.sha256(f"{SEED}:{name}".encode()).hexdigest()
        strata.setdefault((name in toned, entry["group"]), []).append((entry["subgroup"], draw, name))
    return [[name for _, _, name in sorted(strata[key])] for key in sorted(strata)]


def _ends(members: list[tuple[str, str]], concept: dict[str, str]) -> set[str]:
    return {concept[key] for pair in members for key in pair}


def _ensure_train_pairs(members: list[tuple[str, str]], concept: dict[str, str], part: dict[str, str]) -> None:
    wanted = 2 if len(members) > 3 else 1
    missing = [{concept[key] for key in pair if part[concept[key]] != "train"} for pair in members]
    have = sum(not held for held in missing)
    # Cheapest first: pairs that free the fewest concepts.
    for held in sorted((held for held in missing if held), key=lambda held: (len(held), sorted(held))):
        if have >= wanted:
            return
        part.update(dict.fromkeys(held, "train"))
        have = sum(all(part[concept[key]] == "train" for key in pair) for pair in members)


def pair_part(pair: tuple[str, str], concept: dict[str, str], part: dict[str, str]) -> str | None:
    """ "train", "test" or None (an end in val) for a pair of keys."""
    parts = {part[concept[key]] for key in pair}
    if "val" in parts:
        return None
    return "test" if "test" in parts else "train"


def split_relations(emojis: list[dict[str, Any]], pairs: Pairs, concepts: dict[str, list[str]]) -> dict[str, Any]:
    """Degree and known_to_base of every semantic, style, edit and composed relation."""
    concept = {entry["key"]: entry["concept"] for entry in emojis}
    part = {name: side for side, names in concepts.items() for name in names}
    degrees: dict[str, tuple[str, bool]] = {}
    for relation, members in pairs.items():
        family, detail = relation.split("/")
        counts = Counter(pair_part(pair, concept, part) for pair in members)
        if family in FAMILY_UNKNOWN:
            degrees[relation] = ("family", False)
        elif family in FAMILY_KNOWN:
            degrees[relation] = ("family", True)
        elif not counts["train"]:
            # A role whose only concept fell to test: an unseen relation, although other roles are seen.
            degrees[relation] = ("family", False)
        elif relation in MIDDLE_STEPS or (family == "tone" and "medium" in detail.split(">")):
            degrees[relation] = ("strength", True)
        else:
            degrees[relation] = ("seen", True)
    for one, other in itertools.permutations(STYLES, 2):
        degrees[f"style/{one}>{other}"] = ("seen", True)
    for kind, edit in EDITS.items():
        for strength in edit.strengths:
            if kind in EDIT_UNKNOWN | EDIT_KNOWN:
                degree = ("family", kind in EDIT_KNOWN)
            elif len(edit.strengths) >= 3 and strength == edit.strengths[len(edit.strengths) // 2]:
                degree = ("strength", True)
            else:
                degree = ("seen", True)
            degrees[relation_name(kind, strength)] = degree
    for one, other in compositions():
        for relation in (one, other):
            if degrees[relation][0] != "seen":
                raise ValueError(f"compositions need seen relations; {relation} is {degrees[relation][0]}")
        degrees[f"compose/{one}+{other}"] = ("composition", False)
    return {name: {"degree": degree, "known_to_base": known} for name, (degree, known) in degrees.items()}


def strongest(kind: str) -> str:
    return relation_name(kind, EDITS[kind].strengths[-1])


def compositions() -> list[tuple[str, str]]:
    """Pairs of relations to be applied one after the other."""
    genders = ("gender/man>woman", "gender/person>man", "gender/person>woman")
    pairs = [(gender, f"tone/yellow>{tone}") for gender in genders for tone in ("light", "medium-dark", "dark")]
    pairs += [
        ("style/noto>twemoji", "edit/hue=120"),
        ("style/twemoji>openmoji", "edit/grey"),
        ("style/fluent_3d>noto", "edit/invert"),
        ("style/noto>openmoji_black", "edit/invert"),
        ("style/fluent_flat>fluent_3d", strongest("tint")),
        ("style/openmoji>fluent_flat", strongest("darken")),
    ]
    pairs += [
        ("edit/flip_horizontal", "edit/hue=120"),
        ("edit/invert", strongest("blur")),
        ("edit/grey", strongest("shrink")),
        ("edit/flip_horizontal", strongest("darken")),
        ("edit/hue=240", strongest("background")),
        (strongest("pixelate"), "edit/invert"),
        ("edit/rotate=90", "edit/grey"),
        (strongest("tint"), "edit/rotate=270"),
        ("edit/flip_vertical", strongest("fade")),
        (strongest("shift"), "edit/hue=60"),
    ]
    return pairs


def starter(relations: dict[str, Any]) -> dict[str, list[str]]:
    """The dozen plainly different relations of the live run, and what they are tested on."""
    kinds = ("darken", "blur", "pixelate", "shrink")
    seen = ["edit/hue=120", "edit/hue=240", "edit/grey", "edit/invert", *map(strongest, kinds), "edit/flip_horizontal"]
    seen += [strongest("background"), "edit/threshold", "tone/yellow>dark", "tone/dark>light"]
    middles = [relation_name(kind, EDITS[kind].strengths[len(EDITS[kind].strengths) // 2]) for kind in ("hue", *kinds)]
    composed = [f"compose/{one}+{other}" for one, other in compositions() if one in seen and other in seen]
    family = [name for name in relations if name.split("=")[0].removeprefix("edit/") in EDIT_KNOWN | EDIT_UNKNOWN]
    chosen = {"seen": seen, "strength": middles, "composition": composed, "family": family}
    for degree, names in chosen.items():
        wrong = [name for name in names if relations.get(name, {}).get("degree") != degree]
        if wrong:
            raise ValueError(f"starter: expected relations of degree {degree}; got {wrong}")
    return chosen
