"""Methods judged on the same analogies: errors by hand, gaps of pairs, the choice of questions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from known_analogies import Lossless, random_analogy

from lorweb_mini.analysis.bootstrap import ENOUGH
from lorweb_mini.analysis.generalisation import (
    Judged,
    failures,
    judge,
    judged,
    shares_right,
    together,
)
from lorweb_mini.analysis.unseen import Panel, cut, merged_groups, one_of_each
from lorweb_mini.emoji.relations import Analogy, as_batch
from lorweb_mini.emoji.sheets import load_emoji
from lorweb_mini.errors import InputError


@pytest.fixture(scope="module")
def items() -> list[Analogy]:
    """Two relations with four and eight analogies, each b of another concept."""
    first_of = {entry.concept: entry.key for entry in load_emoji().emojis}
    keys = list(first_of.values())[:12]
    made = [random_analogy("one" if i < 4 else "two", i) for i in range(12)]
    return [replace(x, keys=("?", "?", f"{key}@noto", "?")) for x, key in zip(made, keys, strict=True)]


@pytest.fixture(scope="module")
def results(items: list[Analogy]) -> Judged:
    b, b_prime = as_batch(items)[2:]
    methods = {"copy": lambda part: as_batch(part)[2], "half": lambda part: (as_batch(part)[2] + as_batch(part)[3]) / 2}
    found = judge(methods, items, Lossless())
    assert torch.equal(found.pictures["copy"], b) and torch.allclose(found.pictures["half"], (b + b_prime) / 2)
    return found


def test_errors_by_hand(items: list[Analogy], results: Judged) -> None:
    for i, x in enumerate(items):
        assert results.size[i] == pytest.approx(float((x.b - x.b_prime).double().square().sum()))
    assert results.relative("copy") == pytest.approx(np.ones(12))
    assert results.relative("half") == pytest.approx(np.full(12, 0.25))
    assert results.error("copy").value == pytest.approx(1)
    right = judged({"right": as_batch(items)[3]}, items, Lossless())
    assert failures(results, "half").all() and not failures(right, "right").any()


def test_median_over_relations_and_the_gap_of_a_pair(items: list[Analogy]) -> None:
    b, b_prime = as_batch(items)[2:]
    wrong = b_prime + 0.5 * (b - b_prime)
    wrong[:4] = b[:4]  # relation one: 1, relation two: 0.25
    found = judged({"copy": b, "mixed": wrong, "right": b_prime}, items, Lossless())
    assert found.error("mixed").value == pytest.approx((1 + 0.25) / 2)
    assert found.error("mixed", ["two"]).value == pytest.approx(0.25)
    gap = found.gap("mixed", "copy", ["two"])
    assert gap.value == pytest.approx(-0.75) and gap.low == pytest.approx(-0.75) and gap.high == pytest.approx(-0.75)
    assert found.better("mixed", "copy", ["two"]) == 1 and found.better("copy", "mixed", ["two"]) == -1
    assert len(set(found.concepts[:4])) < ENOUGH
    assert found.better("right", "copy", ["one"]) == 0, "four concepts decide nothing"


def test_pictures_are_looked_up_and_not_drawn(items: list[Analogy], results: Judged) -> None:
    again = results.methods()["half"]
    part = [items[7], items[2]]
    assert torch.equal(again(part), results.pictures["half"][[7, 2]])
    other = judged({"right": as_batch(items)[3]}, items, Lossless())
    both = together(results, other)
    assert list(both.errors) == ["copy", "half", "right"] and both.error("right").value == 0


def test_questions_are_chosen_by_name(items: list[Analogy]) -> None:
    groups = {"drawn edit": ["d"], "strength": list("stuvw"), "inside": ["i"], "outside": list("opq")}
    analogies = {name: [replace(x, relation=name) for x in items[:2]] for names in groups.values() for name in names}
    panel = Panel(analogies, groups)
    assert [x.relation for x in one_of_each(panel, 6)] == ["s", "u", "w", "i", "o", "q"]
    assert [x.relation for x in one_of_each(panel, 2)] == ["s", "i"]
    assert len(one_of_each(panel, 99)) == 9
    assert one_of_each(panel, 1)[0] is analogies["s"][0]
    small = cut(panel, 1)
    assert small.groups == groups and {len(some) for some in small.analogies.values()} == {1}
    assert merged_groups(panel, {"new": ("inside", "between"), "none": ("between",)}) == {"new": ["i"]}


def test_bets_are_counted() -> None:
    assert shares_right([True, None, False, True], [True, True, False, False]) == (2, 3)
    assert shares_right([None], [True]) == (0, 0)
    with pytest.raises(InputError, match="expected 2 bets, got 1"):
        shares_right([True], [True, False])


def test_refusals(items: list[Analogy], results: Judged) -> None:
    with pytest.raises(InputError, match="expected 12 pictures of each method, got \\[3\\]"):
        judged({"few": torch.zeros(3, 3, 64, 64)}, items, Lossless())
    with pytest.raises(InputError, match="expected a method out of"):
        results.error("none")
    with pytest.raises(InputError, match="expected relations that were judged"):
        results.error("copy", ["three"])
    with pytest.raises(InputError, match="expected the same analogies"):
        together(results, judged({"x": as_batch(items[:3])[2]}, items[:3], Lossless()))
    with pytest.raises(InputError, match="expected a panel with unseen relations"):
        one_of_each(Panel({}, {"drawn edit": []}))
