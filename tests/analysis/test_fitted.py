"""Fitting against routing: curves, diagnoses, several examples."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_models import pictures, tiny_editor

from lorweb_mini.analysis.combining import few_shot
from lorweb_mini.analysis.fitting import diagnosis, fit_coefficients, fit_curves, fit_loras, on_itself, render
from lorweb_mini.core.editor import Editor
from lorweb_mini.emoji.relations import Analogy
from lorweb_mini.emoji.sheets import load_emoji
from lorweb_mini.errors import InputError


@pytest.fixture(scope="module")
def editor() -> Editor:
    return tiny_editor()


@pytest.fixture(scope="module")
def items() -> list[Analogy]:
    """Four analogies of each of two relations, each b of another concept."""
    keys = list({entry.concept: entry.key for entry in load_emoji().emojis}.values())[:8]
    made = []
    for i, key in enumerate(keys):
        made.append(Analogy(*pictures(4, i), "one" if i < 4 else "two", "test", ("?", "?", f"{key}@noto", "?")))
    return made


def test_curves_begin_with_the_router_and_end_with_the_fit(editor: Editor, items: list[Analogy]) -> None:
    few = items[:2]
    a, a_prime, b = (torch.stack([getattr(x, name) for x in few]) for name in ("a", "a_prime", "b"))
    curves = fit_curves(editor, few, (1, 3), steps=1)
    assert curves.marks == (0, 1, 3)
    mixture = [x.pictures["mixture"] for x in curves.on_b["mixture"]]
    torch.testing.assert_close(mixture[0], editor.edit(a, a_prime, b, steps=1).pictures, atol=1e-5, rtol=0)
    fit = fit_coefficients(editor, a, a_prime, steps=3)
    torch.testing.assert_close(mixture[2], render(editor, fit, b, steps=1), atol=1e-5, rtol=0)
    on_a = curves.on_a["mixture"][2]
    torch.testing.assert_close(on_a.pictures["mixture"], render(editor, fit, a, steps=1), atol=1e-5, rtol=0)
    lora = curves.on_b["LoRA"]
    bare = editor.generate(b, torch.zeros(len(editor.basis.layers), 3), steps=1).pictures
    torch.testing.assert_close(lora[0].pictures["LoRA"], bare, atol=1e-5, rtol=0)
    own = render(editor, fit_loras(editor, a, a_prime, steps=1), b, steps=1)
    torch.testing.assert_close(lora[1].pictures["LoRA"], own, atol=1e-5, rtol=0)
    for way in ("mixture", "LoRA"):
        assert curves.seconds[way].shape == (3,) and curves.seconds[way][0] == 0
        assert (np.diff(curves.seconds[way][:2]) > 0).all()
    with pytest.raises(InputError, match="at least one analogy"):
        fit_curves(editor, [])


def test_the_analogy_on_itself(items: list[Analogy]) -> None:
    same = on_itself(items[0])
    assert torch.equal(same.b, items[0].a) and torch.equal(same.b_prime, items[0].a_prime)
    assert same.relation == items[0].relation


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ((0.1, 0.9, 0.9), "found by the router"),
        ((0.8, 0.2, 0.1), "not spanned"),
        ((0.8, 0.1, 0.12), "spanned, not found"),
        ((0.8, 0.1, 0.2), "fitted on a, does not carry over"),
    ],
)
def test_why_an_edit_fails(errors: tuple[float, float, float], expected: str) -> None:
    assert diagnosis(*errors) == expected


def test_several_examples_by_hand(editor: Editor, items: list[Analogy]) -> None:
    by_relation = {"one": items[:4], "two": items[4:6]}
    shots = few_shot(editor, by_relation, (1, 3), questions=2, fit_steps=2, steps=1)
    assert [id(x) for x in shots.judged.items] == [id(x) for x in items[:2]], "two pairs are too few for K = 3"
    assert list(shots.judged.errors) == ["routed, 1", "fitted, 1", "routed, 3", "fitted, 3"]
    # The second question: its examples are the first, third and fourth analogy.
    pairs = [items[i] for i in (0, 2, 3)]
    routed = torch.cat([editor.route(x.b, x.b_prime, items[1].b) for x in pairs])
    expected = editor.generate(items[1].b, routed.mean(0), steps=1).pictures[0]
    torch.testing.assert_close(shots.judged.pictures["routed, 3"][1], expected, atol=1e-5, rtol=0)
    expected = editor.generate(items[1].b, routed[0], steps=1).pictures[0]
    torch.testing.assert_close(shots.judged.pictures["routed, 1"][1], expected, atol=1e-5, rtol=0)
    assert shots.seconds[3] > 0


def test_examples_never_show_the_concept_of_the_question(editor: Editor, items: list[Analogy]) -> None:
    alike = [replace(x, keys=items[0].keys) for x in items[:3]]
    with pytest.raises(InputError, match="expected a relation with 1 pairs on other concepts"):
        few_shot(editor, {"one": alike}, (1,))
