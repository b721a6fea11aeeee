"""Ladders against the data."""

from __future__ import annotations

import pytest
import torch

from lorweb_mini.analysis.ladders import FROM_NOTHING, SCALES, Scale, ladders
from lorweb_mini.emoji.edits import apply_edit
from lorweb_mini.emoji.relations import SPLITS, concept_sides, get_relation
from lorweb_mini.emoji.sheets import STYLES, load_emoji
from lorweb_mini.errors import InputError


@pytest.mark.parametrize("name", ["tone: light → dark", "moon: + 2 → + 4 phases"])
def test_rungs_are_the_answers_of_their_relations(name: str) -> None:
    scale, emoji = SCALES[name], load_emoji()
    found = ladders(scale, 6)
    for item in found:
        key, style = item.key.split("@")
        start = (emoji.index[key], STYLES.index(style))
        for relation, rung in zip(scale.relations, item.rungs, strict=True):
            rows = [row for row in get_relation(relation).all_pairs if tuple(row[:2]) == start]
            torch.testing.assert_close(rung, emoji.tensor(rows[0][2], rows[0][3])[0])
    assert [x.key for x in ladders(scale, 6)] == [x.key for x in found] != [x.key for x in ladders(scale, 6, seed=1)]


@pytest.mark.parametrize("name", SCALES)
def test_test_ladders_show_test_concepts_and_none_of_val(name: str) -> None:
    emoji, scale = load_emoji(), SCALES[name]
    side = {e.concept: s for e, s in zip(emoji.emojis, concept_sides(), strict=True)}
    for item in ladders(scale, 8):
        row = [emoji.index[item.key.split("@")[0]]]
        for relation in scale.relations:
            row += [x[2] for x in get_relation(relation).all_pairs if tuple(x[:2]) == (row[0], 0)][:1]
        sides = {int(side[emoji.emojis[i].concept]) for i in row}
        assert SPLITS.index("val") not in sides
        if scale.dial is not None:
            assert sides == {SPLITS.index("test")}
        assert not torch.equal(item.a, item.b)
        assert len(item.rungs) == len(item.examples) == len(scale.positions) and len(item.rungs) % 2 == 1


def test_ladders_spread_over_concepts() -> None:
    found = ladders(SCALES["tone: light → dark"], 12)
    assert len({x.concept for x in found}) == len(found) == 12


def test_a_dial_is_exact_everywhere_in_its_range() -> None:
    (item,) = ladders(SCALES["blur: 1 → 4 pixels"], 1)
    pair = item.at(0.3)
    assert pair is not None
    torch.testing.assert_close(pair[1], apply_edit(item.b[None], "blur", 1.9)[0])
    torch.testing.assert_close(pair[0], apply_edit(item.a[None], "blur", 1.9)[0])
    assert item.at(1.5) is not None and item.at(-0.5) is None
    (drawn,) = ladders(SCALES["arrow: 90° → 180°"], 1)
    assert drawn.at(0.3) is None
    middle = drawn.at(0.5)
    assert middle is not None and torch.equal(middle[1], drawn.rungs[1])


@pytest.mark.parametrize("name", FROM_NOTHING)
def test_scales_from_nothing_start_at_b(name: str) -> None:
    for item in ladders(FROM_NOTHING[name], 2):
        torch.testing.assert_close(item.rungs[0], item.b, atol=1e-6, rtol=0)
        torch.testing.assert_close(item.examples[0], item.a, atol=1e-6, rtol=0)


def test_ladders_refuse() -> None:
    with pytest.raises(InputError, match="either relations or a dial"):
        Scale()
    with pytest.raises(InputError, match="the name of a relation"):
        ladders(Scale(("tone/blue>red", "tone/red>blue")))
    with pytest.raises(InputError, match="range of blur"):
        ladders(Scale(dial=("blur", 1, 40)))
