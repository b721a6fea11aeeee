"""Analogies at every level of an ordered set, against the data."""

from __future__ import annotations

import pytest
import torch

from lorweb_mini.analysis.ladders import crossed, dial
from lorweb_mini.analysis.space import concepts_of
from lorweb_mini.emoji.edits import apply_edit
from lorweb_mini.emoji.relations import SPLITS, concept_sides
from lorweb_mini.emoji.sheets import STYLES, load_emoji
from lorweb_mini.errors import InputError


def test_a_dial_shows_the_same_pairs_at_every_strength() -> None:
    strengths = (0.5, 3.3, 6)
    found = dial("blur", strengths, 3)
    assert [{x.relation for x in items} for items in found] == [{"edit/blur=0.5"}, {"edit/blur=3.3"}, {"edit/blur=6"}]
    for strength, items in zip(strengths, found, strict=True):
        assert len(items) == 3
        for item, first in zip(items, found[0], strict=True):
            assert torch.equal(item.a, first.a) and torch.equal(item.b, first.b)
            torch.testing.assert_close(item.a_prime, apply_edit(item.a[None], "blur", strength)[0])
            torch.testing.assert_close(item.b_prime, apply_edit(item.b[None], "blur", strength)[0])
    shown = [key.split("@")[0] for item in found[0] for key in (item.keys[0], item.keys[2])]
    assert len(set(shown)) == 6 and len(set(concepts_of(found[0]))) == 3
    with pytest.raises(InputError, match="expected 4000 test concepts"):
        dial("blur", (1,), 2000)


def test_crossed_pairs_are_true_unseen_and_of_different_concepts() -> None:
    data, side = load_emoji(), concept_sides()
    for name, subgroup in (("moon/+3", None), ("rotate/90deg", "arrow")):
        items = crossed(name, 20, subgroup=subgroup)
        assert len(items) == 20 and len({x.keys for x in items}) == 20
        for item in items:
            shown = [data.index[key.split("@")[0]] for key in item.keys]
            assert any(side[e] == SPLITS.index("test") for e in shown[2:])
            assert data.emojis[shown[0]].concept != data.emojis[shown[2]].concept
            if subgroup:
                assert {data.emojis[e].subgroup for e in shown} == {subgroup}
            style = STYLES.index(item.keys[3].split("@")[1])
            assert torch.equal(item.b_prime, data.tensor(shown[3], style)[0])
    assert crossed("moon/+3", 0) == []
