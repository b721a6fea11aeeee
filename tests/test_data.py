"""The shipped data keep their promises: true pairs, clean splits, four degrees, texts, and a build that repeats itself.

What belongs together is worked out here from code points and from the files themselves.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import tiny_base

from lorweb_mini.emoji import latents as bank_module
from lorweb_mini.emoji.distributions import TRAINED
from lorweb_mini.emoji.edits import EDITS, apply_edit, parse_relation
from lorweb_mini.emoji.relations import (
    DEGREES,
    SPLITS,
    Relation,
    analogies,
    composition_parts,
    differ,
    relations,
    select,
    training_pictures,
    unseen_relations,
)
from lorweb_mini.emoji.sheets import STYLES, EmojiSet, load_emoji
from lorweb_mini.emoji.words import all_sentences
from lorweb_mini.files import data_dir
from lorweb_mini.images import SIZE
from lorweb_mini.models.autoencoder import MiniAutoencoder
from lorweb_mini.models.text import cached_vectors
from lorweb_mini.training import analogies as training_analogies
from lorweb_mini.training.analogies import LatentBank, known_relations
from lorweb_mini.training.autoencoder import AutoencoderRecipe
from lorweb_mini.training.base import BaseRecipe

TONES = {"light": "1f3fb", "medium-light": "1f3fc", "medium": "1f3fd", "medium-dark": "1f3fe", "dark": "1f3ff"}
FILES = ("relations.json", "splits.json", "emoji/emoji.json")
COLOURED = [style for style in STYLES if style != "openmoji_black"]
# Families that nobody may be taught, neither the base nor a basis.
KNOWN_TO_NOBODY = re.compile(r"hair/|shape/|edit/posterize|edit/swirl")


def _no_twice(members: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in members]
    assert len(set(names)) == len(names), "a name stands twice in one object"
    return dict(members)


def _read(name: str) -> Any:
    return json.loads((data_dir() / name).read_text(encoding="utf-8"), object_pairs_hook=_no_twice)


@pytest.fixture(scope="module")
def emojis() -> EmojiSet:
    return load_emoji()


@pytest.fixture(scope="module")
def splits() -> dict[str, Any]:
    return _read("splits.json")


@pytest.fixture(scope="module")
def semantic() -> dict[str, dict[str, Any]]:
    return _read("relations.json")


@pytest.fixture(scope="module")
def table() -> list[dict[str, Any]]:
    return _read("emoji/emoji.json")["emojis"]


@pytest.fixture(scope="module")
def side(splits: dict[str, Any], table: list[dict[str, Any]]) -> dict[str, str]:
    """Key of an emoji to the part that its concept is in."""
    part = {concept: name for name, concepts in splits["concepts"].items() for concept in concepts}
    return {entry["key"]: part[entry["concept"]] for entry in table}


@pytest.fixture(scope="module")
def sides(emojis: EmojiSet, side: dict[str, str]) -> np.ndarray:
    """The same by position: name of the part, [n]."""
    return np.array([side[emoji.key] for emoji in emojis.emojis])


def _tones(key: str) -> list[str]:
    return [part for part in key.split("-") if part in TONES.values()]


def _without_tone(key: str) -> str:
    return "-".join(part for part in key.split("-") if part not in TONES.values())


def _words(text: str) -> set[str]:
    return set(re.findall(r"[\w.'-]+", text.lower()))


def _thing(key: str) -> str:
    """Code points without tone, gender sign and the arrow to the right."""
    return re.sub(r"-200d-(2640|2642|27a1)(?![0-9a-f])", "", _without_tone(key))


# --- Splits ---------------------------------------------------------------------------------------


def test_every_concept_is_on_one_side(splits: dict[str, Any], table: list[dict[str, Any]]) -> None:
    listed = Counter(concept for concepts in splits["concepts"].values() for concept in concepts)
    assert set(splits["concepts"]) == set(SPLITS)
    assert max(listed.values()) == 1
    assert set(listed) == {entry["concept"] for entry in table}
    keys = {entry["key"] for entry in table}
    assert set(listed) <= keys, "a concept is named by one of its emojis"
    share = {name: len(concepts) / len(listed) for name, concepts in splits["concepts"].items()}
    assert 0.75 < share["train"] < 0.85 and 0.12 < share["test"] < 0.2 and share["val"] > 0.03, share


def test_tones_genders_and_directions_stay_together(side: dict[str, str]) -> None:
    variants: dict[str, set[str]] = {}
    for key, part in side.items():
        variants.setdefault(_thing(key), set()).add(part)
    assert len(variants) < len(side) / 2, "few emojis have variants, so this test would show nothing"
    assert not {thing: parts for thing, parts in variants.items() if len(parts) > 1}


def test_man_woman_and_person_stay_together(semantic: dict[str, dict], side: dict[str, str]) -> None:
    checked = 0
    for name, entry in semantic.items():
        if entry["family"] in ("gender", "mirror", "tone"):
            torn = [pair for pair in entry["pairs"] if side[pair[0]] != side[pair[1]]]
            assert not torn, (name, torn[:3])
            checked += len(entry["pairs"])
    assert checked > 5000


def test_no_test_picture_has_a_twin_in_training(emojis: EmojiSet, sides: np.ndarray) -> None:
    # Black line art draws many flags and hearts alike, which its colourless style cannot help.
    for style in COLOURED:
        column = STYLES.index(style)
        seen: dict[str, set[bytes]] = {name: set() for name in SPLITS}
        for row in np.flatnonzero(emojis.present[:, column]):
            seen[sides[row]].add(hashlib.blake2b(emojis.rgba[row, column].tobytes()).digest())
        assert len(seen["train"]) > 1000
        assert not seen["train"] & (seen["test"] | seen["val"]), style


def test_relations_have_one_degree_each(splits: dict[str, Any]) -> None:
    entries = splits["relations"]
    assert set(entries) == set(relations())
    for name, entry in entries.items():
        assert entry["degree"] in DEGREES and isinstance(entry["known_to_base"], bool)
        assert relations()[name].degree == entry["degree"]
        assert relations()[name].known_to_base is entry["known_to_base"]
    by_degree = {degree: {relation.name for relation in select(degree)} for degree in DEGREES}
    assert all(by_degree.values())
    assert sum(map(len, by_degree.values())) == len(set().union(*by_degree.values())) == len(entries)
    assert all(entry["known_to_base"] for entry in entries.values() if entry["degree"] in ("seen", "strength"))


def test_every_degree_has_pairs_to_be_tested_on() -> None:
    # A role that is seen shows one concept, which is then in train; the age relations start from the plain people.
    least = {"seen": 0.7, "strength": 1.0, "composition": 1.0, "family": 0.9}
    for degree in DEGREES:
        tested = [relation for relation in select(degree) if len(relation.pairs("test")) >= 2]
        assert len(tested) >= least[degree] * len(select(degree)), degree


def test_starter_lists_are_parts_of_the_degrees(splits: dict[str, Any]) -> None:
    assert set(splits["starter"]) == set(DEGREES)
    for degree, names in splits["starter"].items():
        assert names and len(set(names)) == len(names)
        assert {splits["relations"][name]["degree"] for name in names} == {degree}
        assert [relation.name for relation in select(degree, starter=True)] == names
    seen = set(splits["starter"]["seen"])
    for name in splits["starter"]["composition"]:
        assert set(composition_parts(name)) <= seen, name
    kinds = {name.split("=")[0] for name in seen}
    assert {name.split("=")[0] for name in splits["starter"]["strength"]} <= kinds
    assert not {name.split("=")[0] for name in splits["starter"]["family"]} & kinds


def test_unseen_compositions_have_seen_parts(splits: dict[str, Any]) -> None:
    composed = [name for name, entry in splits["relations"].items() if entry["degree"] == "composition"]
    assert composed and all(name.startswith("compose/") for name in composed)
    for name in composed:
        first, second = composition_parts(name)
        assert name == f"compose/{first}+{second}"
        assert {splits["relations"][part]["degree"] for part in (first, second)} == {"seen"}, name
        assert not splits["relations"][name]["known_to_base"]


def test_unseen_strengths_are_of_seen_kinds(splits: dict[str, Any]) -> None:
    names = {degree: [n for n, e in splits["relations"].items() if e["degree"] == degree] for degree in DEGREES}
    seen_kinds = {name.split("=")[0] if "=" in name else name.split("/")[0] for name in names["seen"]}
    for name in names["strength"]:
        kind = name.split("=")[0] if "=" in name else name.split("/")[0]
        assert kind in seen_kinds, name
        if "=" in name:  # between two seen strengths of the same dial
            value = parse_relation(name)[1]
            others = [parse_relation(n)[1] for n in names["seen"] if n.startswith(kind + "=")]
            assert min(others) < value < max(others), name


def test_unseen_families_are_unseen(splits: dict[str, Any], semantic: dict[str, dict]) -> None:
    entries = splits["relations"]

    def family(name: str) -> str:
        return name.split("=")[0] if name.startswith("edit/") else name.split("/")[0]

    unseen = {family(name) for name, entry in entries.items() if entry["degree"] == "family"}
    seen = {family(name) for name, entry in entries.items() if entry["degree"] != "family"}
    # Roles are held out one by one: nothing is alike in two of them but the plain person they start from.
    assert unseen & seen == {"role"}
    held = [name for name in entries if name.startswith("role/") and entries[name]["degree"] == "family"]
    kept = [name for name in entries if name.startswith("role/") and entries[name]["degree"] == "seen"]
    assert held and kept
    targets = {name: {_thing(pair[1]) for pair in semantic[name]["pairs"]} for name in held + kept}
    assert not set().union(*(targets[n] for n in held)) & set().union(*(targets[n] for n in kept))


def test_what_is_known_to_nobody(splits: dict[str, Any]) -> None:
    held = {name for name in splits["relations"] if KNOWN_TO_NOBODY.match(name)}
    assert {name.split("=")[0].split("/")[0] for name in held} == {"hair", "shape", "edit"}
    for name in held:
        assert splits["relations"][name] == {"degree": "family", "known_to_base": False}, name
    taught = known_relations()
    assert len(taught) > 250
    for relation in taught:
        assert splits["relations"][relation.name]["known_to_base"], relation.name
        assert relation.name not in held and not relation.name.startswith("compose/")
        assert not any(kind in ("posterize", "swirl") for kind, _ in relation.edits)
    # Every relation that a basis learns is known to the base too, and can be learnt.
    assert {relation.name for relation in select("seen")} <= {relation.name for relation in taught}


def test_train_pairs_show_train_concepts_only(sides: np.ndarray) -> None:
    for relation in relations().values():
        one, other = (sides[relation.all_pairs[:, column]] for column in (0, 2))
        for name in ("train", "val"):
            expected = relation.all_pairs[(one == name) & (other == name)]
            assert np.array_equal(relation.pairs(name), expected), (relation.name, name)
        held = ((one == "test") | (other == "test")) & (one != "val") & (other != "val")
        assert np.array_equal(relation.pairs("test"), relation.all_pairs[held]), relation.name


def test_training_pictures_are_those_of_train_concepts(emojis: EmojiSet, sides: np.ndarray) -> None:
    expected = [
        (row, STYLES.index(style))
        for row, emoji in enumerate(emojis.emojis)
        if sides[row] == "train"
        for style in STYLES
        if style in emoji.styles
    ]
    assert [tuple(cell) for cell in training_pictures().tolist()] == expected


def test_no_training_can_draw_a_test_concept(sides: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    def mark(_: Any, name: str, shown: np.ndarray, __: Any) -> torch.Tensor:
        """Instead of a latent: which emoji, which style, edited or not."""
        edited = np.full(len(shown), name != "drawings")
        return torch.from_numpy(np.column_stack([shown, edited])).float()[:, :, None, None]

    monkeypatch.setattr(training_analogies, "encoded", mark)
    taught = known_relations()
    bank = LatentBank(MiniAutoencoder(), taught, edited_pairs=40)
    assert (sides[bank.latents[:, 0, 0, 0].long().numpy()] == "train").all()
    weights = bank.weights(least=2)
    chosen = np.random.default_rng(0).choice(len(weights), 3000, p=weights)
    drawn = torch.stack(bank.draw(np.random.default_rng(0), 3000)[:4], 1)[..., 0, 0].long().numpy()
    assert len(np.unique(chosen)) > 0.9 * np.count_nonzero(weights)
    assert (sides[drawn[:, :, 0]] == "train").all()
    assert (drawn[:, [0, 2], 2] == 0).all(), "a and b are drawings as they are"
    for r, analogy in zip(chosen[:500], drawn, strict=False):
        for first, second in ((0, 1), (2, 3)):
            pair = np.concatenate([analogy[first, :2], analogy[second, :2]])
            assert (taught[r].all_pairs == pair).all(1).any(), taught[r].name
        assert analogy[1, 2] == analogy[3, 2] == bool(taught[r].edits)
        assert not np.array_equal(analogy[0], analogy[2]) or not np.array_equal(analogy[1], analogy[3])


def test_autoencoder_trains_on_what_the_base_may_know(sides: np.ndarray, splits: dict[str, Any]) -> None:
    recipe = AutoencoderRecipe()
    assert (sides[recipe.pictures[:, 0]] == "train").all()
    seen = {n for n, e in splits["relations"].items() if n.startswith("edit/") and e["degree"] == "seen"}
    assert {(kind, strength) for kind, strength in recipe.edits} == {parse_relation(name) for name in seen}
    assert not {kind for kind, _ in recipe.edits} & {"posterize", "swirl"}


# --- Pairs ----------------------------------------------------------------------------------------


def test_how_many() -> None:
    assert len(relations()) >= 200
    assert len({relation.edits[0][0] for relation in relations().values() if relation.name.startswith("edit/")}) >= 16
    assert len([name for name in relations() if name.startswith("style/")]) == 30
    for relation in relations().values():
        assert len(relation.all_pairs) >= 2, relation.name
        if relation.degree == "seen":
            assert len(relation.pairs("train")) >= 1, relation.name


def test_both_pictures_of_every_pair_exist(emojis: EmojiSet) -> None:
    for relation in relations().values():
        pairs = relation.all_pairs
        assert pairs.shape == (len(pairs), 4)
        assert emojis.present[pairs[:, 0], pairs[:, 1]].all(), relation.name
        assert emojis.present[pairs[:, 2], pairs[:, 3]].all(), relation.name
        assert len(np.unique(pairs, axis=0)) == len(pairs), f"{relation.name} names a pair twice"


def test_semantic_pairs_are_those_of_the_file(semantic: dict[str, dict], table: list[dict[str, Any]]) -> None:
    styles = {entry["key"]: set(entry["styles"]) for entry in table}
    keys = [entry["key"] for entry in table]
    for name, entry in semantic.items():
        assert entry["family"] == name.split("/")[0]
        expected = {(a, b, style) for a, b in entry["pairs"] for style in styles[a] & styles[b]}
        pairs = relations()[name].all_pairs
        assert (pairs[:, 1] == pairs[:, 3]).all(), "one style on both sides"
        assert {(keys[a], keys[b], STYLES[style]) for a, style, b, _ in pairs} == expected, name
        assert all(a != b for a, b in entry["pairs"])


def test_tone_pairs_change_the_tone_and_nothing_else(semantic: dict[str, dict]) -> None:
    names = ("yellow", *TONES)
    asked = {f"tone/{one}>{other}" for one in names for other in names[1:] if one != other}
    assert {name for name in semantic if name.startswith("tone/")} == asked
    for name in asked:
        source, target = name.removeprefix("tone/").split(">")
        for a, b in semantic[name]["pairs"]:
            assert _tones(b) == [TONES[target]] and _without_tone(a) == _without_tone(b), (name, a, b)
            assert _tones(a) == ([] if source == "yellow" else [TONES[source]]), (name, a, b)


@pytest.mark.parametrize("style", COLOURED)
def test_tones_fall_from_light_to_dark(style: str, emojis: EmojiSet) -> None:
    column = STYLES.index(style)
    weight = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    names = list(TONES)
    for lighter, darker in [*itertools.pairwise(names), ("light", "dark")]:
        relation = relations()[f"tone/{lighter}>{darker}"]
        hands = [
            row
            for row in relation.all_pairs
            # Hands and ears: people also change their hair, which need not get darker.
            if row[1] == column and emojis.emojis[row[0]].subgroup.startswith(("hand", "body"))
        ]
        sample = np.array(hands)[:: max(1, len(hands) // 12)]
        first, second = relation.pictures(sample)
        assert len(sample) >= 8
        for one, other in zip(first, second, strict=True):
            changed = (one - other).abs().amax(0) > 0.1
            assert changed.sum() > 40, relation.name
            assert (((other - one) * weight).sum(0)[changed]).mean() < -0.03, (relation.name, style)


def test_black_line_art_shows_no_tone() -> None:
    column = STYLES.index("openmoji_black")
    relation = relations()["tone/light>dark"]
    pairs = relation.all_pairs[relation.all_pairs[:, 1] == column][::20]
    assert len(pairs) > 10 and not differ(*relation.pictures(pairs)).any()
    assert not [item for item in analogies("train", relation.name, n=40) if "@openmoji_black" in "".join(item.keys)]


def test_style_pairs_show_one_emoji_in_two_styles(table: list[dict[str, Any]]) -> None:
    for one in STYLES:
        for other in STYLES:
            if one == other:
                continue
            pairs = relations()[f"style/{one}>{other}"].all_pairs
            both = [row for row, entry in enumerate(table) if {one, other} <= set(entry["styles"])]
            assert pairs[:, 0].tolist() == pairs[:, 2].tolist() == both
            assert set(pairs[:, 1]) == {STYLES.index(one)} and set(pairs[:, 3]) == {STYLES.index(other)}


def test_edit_pairs_edit_the_picture_itself(emojis: EmojiSet) -> None:
    cells = np.argwhere(emojis.present)
    for relation in relations().values():
        if not relation.name.startswith("edit/"):
            continue
        assert np.array_equal(relation.all_pairs, np.concatenate([cells, cells], 1))
        # A coloured drawing that fills its cell: every edit must show on it.
        noto = (cells[:, 0] == emojis.find("1f525")) & (cells[:, 1] == STYLES.index("noto"))
        first, second = relation.pictures(relation.all_pairs[noto])
        assert len(first) == 1 and torch.equal(first, emojis.tensor(emojis.find("1f525"), STYLES.index("noto")))
        assert torch.equal(second, apply_edit(first, *parse_relation(relation.name)))
        assert differ(first, second).all(), relation.name
    pairs = relations()["edit/invert"].all_pairs[::3000]
    for name, expected in (
        ("edit/invert", lambda x: -x),
        ("edit/flip_horizontal", lambda x: x.flip(3)),
        ("edit/rotate=90", lambda x: x.transpose(2, 3).flip(3)),
        ("edit/fade=0.8", lambda x: 0.2 * x + 0.8),
    ):
        first, second = relations()[name].pictures(pairs)
        assert torch.allclose(second, expected(first), atol=1e-5), name


def test_compositions_do_the_first_then_the_second(emojis: EmojiSet, semantic: dict[str, dict]) -> None:
    keys = [emoji.key for emoji in emojis.emojis]
    tried: Counter[str] = Counter()
    for name in (name for name in relations() if name.startswith("compose/")):
        first, second = (relations()[part] for part in composition_parts(name))
        pairs = relations()[name].all_pairs
        if first.family == "gender":
            ends: dict[str, list[str]] = {}
            for a, b in semantic[second.name]["pairs"]:
                ends.setdefault(a, []).append(b)
            expected = set()
            for a, middle in semantic[first.name]["pairs"]:
                for b in ends.get(middle, []):
                    for style in STYLES:
                        if all(style in emojis.emojis[emojis.index[key]].styles for key in (a, middle, b)):
                            expected.add((a, b, style))
            assert {(keys[a], keys[b], STYLES[s]) for a, s, b, _ in pairs} == expected
            target = TONES[name.split(">")[-1]]
            assert all(_tones(a) == [] and _tones(b) == [target] for a, b, _ in expected)
            tried["tone and gender"] += 1
        else:
            assert np.array_equal(pairs, first.all_pairs)
            sample = pairs[:: len(pairs) // 2]
            before, after = relations()[name].pictures(sample)
            assert torch.equal(before, emojis.tensor(sample[:, 0], sample[:, 1]))
            middle = emojis.tensor(sample[:, 2], sample[:, 3])
            for kind, strength in (parse_relation(p.name) for p in (first, second) if p.family.startswith("edit/")):
                middle = apply_edit(middle, kind, strength)
            assert torch.equal(after, middle)
            tried["style and edit" if first.family == "style" else "two edits"] += 1
    assert set(tried) == {"tone and gender", "style and edit", "two edits"}


# --- Texts ----------------------------------------------------------------------------------------


def test_every_text_has_its_vector(table: list[dict[str, Any]]) -> None:
    listed = _read("text.json")
    wanted = {text for relation in relations().values() for text in relation.instructions}
    # Beside them the grids of words, and the held-out edits that no base is told of.
    unknown = [r for part in ("val", "test") for r in unseen_relations(part) if not r.known_to_base]
    wanted |= set(all_sentences()) | {text for relation in unknown for text in relation.instructions}
    assert set(listed) == wanted | {entry["name"] for entry in table}
    assert len(set(listed)) == len(listed) and listed == sorted(listed)
    vectors = cached_vectors()
    assert set(vectors) == set(listed)
    stacked = torch.stack([vectors[text] for text in listed])
    assert stacked.shape == (len(listed), 384) and stacked.isfinite().all()
    assert torch.allclose(stacked.norm(dim=1), torch.full((len(listed),), 384**0.5), rtol=1e-2)
    # Another text, another vector: nothing was shifted or repeated when the cache was written.
    assert len(torch.unique(stacked, dim=0)) > 0.99 * len(listed)


def test_instructions_tell_relations_apart(semantic: dict[str, dict]) -> None:
    for name, entry in semantic.items():
        assert relations()[name].instructions == tuple(entry["instructions"])
    users: dict[str, set[str]] = {}
    for relation in relations().values():
        phrases = relation.instructions
        assert phrases and len(set(phrases)) == len(phrases)
        for text in phrases:
            assert text == text.strip() and "{" not in text and len(text) > 5, text
            users.setdefault(text, set()).add(relation.name)
    shared = {text: names for text, names in users.items() if len(names) > 1}
    for text, names in shared.items():
        # "make the skin tone dark" and "redraw it in the Noto style" say where to, not where from: right for every
        # source, and no relation of another target may say the same.
        assert len({re.sub(r"(tone|style)/[^>]*>", r"\1/>", name) for name in names}) == 1, (text, names)
    assert len(shared) == len(TONES) + 3 * len(STYLES)


def test_held_out_phrasings_are_new_words() -> None:
    assert len(relations()) == 383
    assert Counter(len(relation.instructions) for relation in relations().values()) == {3: 294, 4: 89}
    taught = {text.lower() for relation in relations().values() for text in relation.instructions[:-1]}
    for relation in relations().values():
        training, held_out = relation.training_instructions, relation.instructions[-1]
        assert (*training, held_out) == relation.instructions and len(training) >= 2, relation.name
        assert held_out.lower() not in taught, f"{held_out!r} is shown in training"
        for text in training:
            assert _words(text) != _words(held_out), (relation.name, text)
        assert _words(held_out) - set().union(*map(_words, training)), f"{held_out!r} has no word of its own"


def test_held_out_phrasings_tell_relations_apart() -> None:
    users: dict[str, set[str]] = {}
    for relation in relations().values():
        users.setdefault(relation.instructions[-1].lower(), set()).add(relation.name)
    shared = [names for names in users.values() if len(names) > 1]
    # Only a style says where to and not where from, whatever it starts from.
    assert sorted(map(len, shared)) == [len(STYLES) - 1] * len(STYLES)
    for names in shared:
        assert len({re.sub(r"style/[^>]*>", "style/>", name) for name in names}) == 1, names


def test_compositions_are_phrased_as_their_parts() -> None:
    composed = select("composition")
    for relation in composed:
        first, second = (relations()[part].instructions for part in composition_parts(relation.name))
        assert len(relation.instructions) == min(len(first), len(second))
        for text, one, other in zip(relation.instructions[:-1], first, second, strict=False):
            assert text == f"{one} and {other}"
        assert relation.instructions[-1] == f"{first[-1]} and {second[-1]}"
    lengths = {tuple(len(relations()[part].instructions) for part in composition_parts(r.name)) for r in composed}
    assert {(3, 3), (3, 4), (4, 3), (4, 4)} <= lengths


def test_the_base_is_never_taught_a_held_out_phrasing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bank_module, "encoded", lambda _, name, shown, edit: torch.zeros(len(shown), 16, 8, 8).half())
    recipe = BaseRecipe(tiny_base())
    known, vectors = known_relations(), cached_vectors()
    assert len(recipe.instructions) == len(known)
    for relation in known:
        shown = recipe.instructions[relation.name]
        assert torch.equal(shown, torch.stack([vectors[text] for text in relation.instructions[:-1]])), relation.name
        assert not (shown == vectors[relation.instructions[-1]]).all(1).any(), relation.name

    def share(relation: Relation, vector: torch.Tensor) -> float:
        """How much of a vector lies outside of what the training phrasings span."""
        basis = torch.linalg.qr(torch.stack([vectors[text] for text in relation.instructions[:-1]]).T).Q
        return float((vector - basis @ (basis.T @ vector)).norm() / vector.norm().clamp(min=1))

    rng = np.random.default_rng(0)
    for relation in known:
        (given,) = recipe._mixtures(rng, [relation])
        assert share(relation, given) < 1e-3
        assert share(relation, vectors[relation.instructions[-1]]) > 0.1


# --- Analogies ------------------------------------------------------------------------------------


ASKED = (
    "tone/yellow>dark",
    "gender/man>woman",
    "clock/+3h",
    "style/noto>twemoji",
    "edit/hue=120",
    "compose/gender/man>woman+tone/yellow>dark",
    "compose/edit/grey+edit/shrink=0.35",
)


def test_analogies_are_true_and_show_two_concepts(emojis: EmojiSet, side: dict[str, str]) -> None:
    concept = {emoji.key: emoji.concept for emoji in emojis.emojis}
    for split in ("train", "test"):
        items = analogies(split, ASKED, seed=3, n=2)
        assert {item.relation for item in items} == set(ASKED)
        for item in items:
            relation: Relation = relations()[item.relation]
            places = [(emojis.index[key], STYLES.index(style)) for key, style in (k.split("@") for k in item.keys)]
            a, a_prime, b, b_prime = (emojis.tensor(*place)[0] for place in places)
            assert torch.equal(item.a, a) and torch.equal(item.b, b)
            for shown, plain in ((item.a_prime, a_prime), (item.b_prime, b_prime)):
                for kind, strength in relation.edits:
                    plain = apply_edit(plain[None], kind, strength)[0]
                assert torch.allclose(shown, plain, atol=1e-6)
            true = {tuple(pair) for pair in relation.all_pairs.tolist()}
            assert (*places[0], *places[1]) in true and (*places[2], *places[3]) in true
            assert not torch.equal(item.a, item.b)
            if item.relation != "clock/+3h":  # a clock's two ends are two concepts, so pairs may share one
                assert concept[item.keys[0].split("@")[0]] != concept[item.keys[2].split("@")[0]]
            for first, second in ((item.a, item.a_prime), (item.b, item.b_prime)):
                assert (first - second).abs().mean() >= 2 / 255, "a pair that shows nothing"
            parts = {side[key.split("@")[0]] for key in item.keys}
            assert parts == {"train"} if split == "train" else parts <= {"train", "test"} and "test" in parts


def test_analogies_are_the_same_for_the_same_seed() -> None:
    one, again, other = (analogies("test", ASKED, seed=seed, n=2) for seed in (0, 0, 1))
    assert [item.keys for item in one] == [item.keys for item in again] != [item.keys for item in other]
    for first, second in zip(one, again, strict=True):
        for name in ("a", "a_prime", "b", "b_prime"):
            assert torch.equal(getattr(first, name), getattr(second, name))
    # Each relation draws for itself: alone or among others, it gives the same analogies.
    alone = analogies("test", ASKED[2], seed=0, n=2)
    assert [item.keys for item in alone] == [item.keys for item in one if item.relation == ASKED[2]]


# --- Build ----------------------------------------------------------------------------------------


def test_edit_kinds_are_all_used() -> None:
    used = {kind for relation in relations().values() for kind, _ in relation.edits}
    used |= {kind for part in ("val", "test") for relation in unseen_relations(part) for kind, _ in relation.edits}
    # What the memoriser gets right is not unseen: inverting lightness was left out for that.
    assert used | set(TRAINED) | {"invert_lightness"} == set(EDITS)


@pytest.mark.parametrize("name", FILES)
def test_build_writes_the_same_tables_again(name: str, tmp_path: Path) -> None:
    pytest.importorskip("resvg_py", reason="only rebuilding the data needs it")
    from data.build.build import dump

    content = _read(name)
    if "styles" in content:
        content["styles"] = tuple(content["styles"])  # the build has a tuple, which stays on one line
    dump(tmp_path / "again.json", content)
    assert (tmp_path / "again.json").read_bytes() == (data_dir() / name).read_bytes()


def test_build_writes_the_same_sheet_again(emojis: EmojiSet, tmp_path: Path) -> None:
    pytest.importorskip("resvg_py", reason="only rebuilding the data needs it")
    from data.build.render import write_sheet

    cells = emojis.rgba[:64, STYLES.index("openmoji_black")]
    for name in ("one.webp", "two.webp"):
        write_sheet(tmp_path / name, cells)
    assert (tmp_path / "one.webp").read_bytes() == (tmp_path / "two.webp").read_bytes()
    with Image.open(tmp_path / "one.webp") as opened:
        sheet = np.asarray(opened.convert("RGBA"))
    assert sheet.shape == (SIZE, 64 * SIZE, 4)
    for i in range(64):
        assert np.array_equal(sheet[:, i * SIZE : (i + 1) * SIZE], cells[i])
