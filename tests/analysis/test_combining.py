"""Analogies added, subtracted and averaged, against the same done one by one."""

from __future__ import annotations

import pytest
import torch
from tiny_models import tiny_editor

from lorweb_mini.analysis import combining
from lorweb_mini.analysis.space import concepts_of
from lorweb_mini.core.editor import Editor
from lorweb_mini.emoji.relations import Analogy, analogies, composition_parts, get_relation, splits
from lorweb_mini.errors import InputError


@pytest.fixture(scope="module")
def editor() -> Editor:
    return tiny_editor()


@pytest.fixture(scope="module")
def items() -> list[Analogy]:
    return analogies("test", splits()["starter"]["composition"][:2], seed=7, n=1)


@pytest.fixture(scope="module")
def centre(editor: Editor) -> torch.Tensor:
    return torch.full((len(editor.basis.layers), editor.basis.n_loras), 1 / editor.basis.n_loras)


def test_examples_show_other_concepts() -> None:
    relation = "edit/invert"
    pool = analogies("test", relation, seed=8, n=combining.POOL)
    concept = concepts_of(pool)[0]
    pairs = combining.example_pairs(relation, concept, 3, 0)
    assert pairs is not None and len(pairs) == 3
    for b, b_prime in pairs:
        (found,) = [i for i, x in enumerate(pool) if torch.equal(x.b, b) and torch.equal(x.b_prime, b_prime)]
        assert concepts_of(pool)[found] != concept
    assert combining.example_pairs(relation, concept, 1000, 0) is None


def test_parts_come_with_a_pair_each(items: list[Analogy]) -> None:
    pictures = combining.pairs_of_parts(items)
    for i, item in enumerate(items):
        for k, part in enumerate(composition_parts(item.relation)):
            (pair,) = combining.example_pairs(part, concepts_of(items)[i], 1, i) or []
            assert torch.equal(pictures[2 * k][i], pair[0]) and torch.equal(pictures[2 * k + 1][i], pair[1])
    with pytest.raises(InputError):
        combining.pairs_of_parts(analogies("test", "edit/invert", n=1))


def test_adding_against_one_analogy_at_a_time(editor: Editor, items: list[Analogy], centre: torch.Tensor) -> None:
    found = combining.added(editor, items, centre, steps=1)
    assert list(found.errors) == [*combining.RECIPES, combining.COMPOSED, combining.IN_TURN]
    first, first_prime, second, second_prime = (x[1] for x in combining.pairs_of_parts(items))
    b = items[1].b
    one, two = editor.route(first, first_prime, b), editor.route(second, second_prime, b)
    still = editor.route(items[1].a, items[1].a, b)
    expected = {
        "first alone": one,
        "second alone": two,
        "mean": one / 2 + two / 2,
        "sum": two + one,
        "sum − uniform": one + two - 1 / 3,
        "sum − centre": one + two - centre,
        "sum − nothing": one + two - still,
        "product": one * two / (one * two).sum(-1, keepdim=True),
        combining.COMPOSED: editor.route(items[1].a, items[1].a_prime, b),
    }
    drawn = {name: editor.generate(b, c, steps=1).pictures[0] for name, c in expected.items()}
    half = drawn["first alone"]
    turn = editor.route(second, second_prime, half)
    drawn[combining.IN_TURN] = editor.generate(half, turn, steps=1).pictures[0]
    for name, picture in drawn.items():
        torch.testing.assert_close(found.pictures[name][1], picture, atol=1e-4, rtol=0)


def test_subtracting_is_judged_by_the_first_edit(editor: Editor, items: list[Analogy], centre: torch.Tensor) -> None:
    found = combining.subtracted(editor, items, centre, steps=1)
    part = composition_parts(items[0].relation)[0]
    assert torch.equal(found.items[0].b_prime, get_relation(part).apply_edits(items[0].b[None])[0])
    assert found.items[0].relation == items[0].relation
    _, _, second, second_prime = (x[0] for x in combining.pairs_of_parts(items))
    item = items[0]
    left = editor.route(item.a, item.a_prime, item.b) - editor.route(second, second_prime, item.b)
    for name, mixture in (
        ("c₁₂ − c₂", left),
        ("c₁₂ − c₂ + centre", left + centre),
        ("c₁₂ − c₂ + uniform", left + 1 / 3),
    ):
        picture = editor.generate(item.b, mixture, steps=1).pictures[0]
        torch.testing.assert_close(found.pictures[name][0], picture, atol=1e-4, rtol=0)


def test_averages_in_three_places(editor: Editor) -> None:
    found = combining.averaged(editor, ["edit/invert"], 2, (1, 2), steps=1)
    ways = ("space", "embedding", "pictures")
    assert set(found.errors) == {f"{way}, {k}" for way in ways for k in (1, 2)}
    item = found.items[1]
    pairs = combining.example_pairs("edit/invert", concepts_of([item])[0], 2, 1) or []
    routed = [editor.route(*pair, item.b) for pair in pairs]
    product = (routed[0] * routed[1]).sqrt()
    expected = {
        "space": editor.generate(item.b, (routed[0] + routed[1]) / 2, steps=1).pictures[0],
        "embedding": editor.generate(item.b, product / product.sum(-1, keepdim=True), steps=1).pictures[0],
        "pictures": sum(editor.generate(item.b, c, steps=1).pictures[0] for c in routed) / 2,
    }
    for way, picture in expected.items():
        torch.testing.assert_close(found.pictures[f"{way}, 2"][1], picture, atol=1e-4, rtol=0)
        assert torch.equal(found.pictures[f"{way}, 1"], found.pictures["space, 1"])
    with pytest.raises(InputError, match="ascending counts from 1"):
        combining.averaged(editor, ["edit/invert"], 2, (2, 4))
    with pytest.raises(InputError, match="a relation with 1000 pairs"):
        combining.averaged(editor, ["edit/invert"], 2, (1, 1000))
