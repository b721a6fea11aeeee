"""The instructed base as a teacher: the target and its gradient, recomputed by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import tiny_editor

from lorweb_mini.emoji import latents as bank
from lorweb_mini.emoji.relations import get_relation
from lorweb_mini.errors import InputError
from lorweb_mini.models.text import vectors_of
from lorweb_mini.training.basis import BasisRecipe

NAMES = ("edit/invert", "edit/grey")


@pytest.fixture(autouse=True)
def random_latents(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of every picture's latent, so that nothing is encoded."""

    def latents(_: Any, name: str, shown: np.ndarray, __: Any) -> torch.Tensor:
        return torch.randn(len(shown), 16, 8, 8, generator=torch.Generator().manual_seed(len(name)))

    monkeypatch.setattr(bank, "encoded", latents)


def _recipe(teacher: float, layout: str = "b") -> BasisRecipe:
    editor = tiny_editor(layout)
    chosen = [get_relation(name) for name in NAMES]
    return BasisRecipe(editor.config, chosen, edited_pairs=8, editor=editor, teacher=teacher)


def test_target_and_gradient_by_hand() -> None:
    share = 0.25
    recipe = _recipe(share)
    editor, parameters = recipe.editor, recipe.parameter_groups()[0]["params"]
    parameters = list(parameters)
    batch = recipe.batch(np.random.default_rng(0), 6)
    out = recipe(batch)
    gradient = torch.autograd.grad(out["loss"], parameters)

    coefficients = editor.coefficients(batch["a"], batch["a_prime"], batch["b"])
    losses, plain = [], []
    for i in range(6):
        one = {k: x[i : i + 1] for k, x in batch.items()}
        references = editor.layout.references(one["a"], one["a_prime"], one["b"])
        with torch.no_grad(), editor.basis.disabled():
            taught = editor.base.velocity(one["noisy"], one["t"], references, recipe.ids, one["instruction"])
        with editor.basis.mixed(coefficients[i : i + 1]):
            v = editor.base.velocity(one["noisy"], one["t"], references, recipe.ids)
        losses.append((v - ((1 - share) * one["velocity"] + share * taught)).square().mean())
        plain.append((v - one["velocity"]).square().mean())
    loss = torch.stack(losses).mean()
    torch.testing.assert_close(out["loss"], loss)
    torch.testing.assert_close(out["flow_matching"], torch.stack(plain).mean())
    expected = torch.autograd.grad(loss, parameters)
    assert max(float(g.abs().max()) for g in expected) > 0
    torch.testing.assert_close(gradient, expected)


def test_teacher_is_told_the_relation_that_was_drawn() -> None:
    recipe = _recipe(1.0)
    latents, said = recipe.bank.latents, vectors_of([get_relation(name).instructions[0] for name in NAMES])
    batch = recipe.batch(np.random.default_rng(1), 20)
    seen = set()
    for a_prime, instruction in zip(batch["a_prime"], batch["instruction"], strict=True):
        row = int((latents == a_prime).all((1, 2, 3)).nonzero()[0, 0])
        relation = int(recipe.bank.edited_by[row])
        assert torch.equal(instruction, said[relation])
        seen.add(relation)
    assert seen == {0, 1}


def test_without_teacher_nothing_is_told() -> None:
    recipe = _recipe(0.0)
    batch = recipe.batch(np.random.default_rng(0), 2)
    assert "instruction" not in batch
    assert "flow_matching" not in recipe(batch)


@pytest.mark.parametrize(("teacher", "layout"), [(1.5, "b"), (-0.1, "b"), (0.5, "tokens")])
def test_bad_teacher(teacher: float, layout: str) -> None:
    with pytest.raises(InputError, match="teacher's share"):
        _recipe(teacher, layout)
