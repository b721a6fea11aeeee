"""Controls: each takes one part away and leaves the rest."""

from __future__ import annotations

import pytest
import torch
from tiny_models import pictures, tiny_editor

from lorweb_mini.analysis.evaluation import reconstruct
from lorweb_mini.analysis.methods import CONTROLS, best_single, controls_of, methods_of, shuffled, told_in_words
from lorweb_mini.analysis.space import coefficients_of
from lorweb_mini.core.editor import Editor
from lorweb_mini.core.layout import pack, unpack
from lorweb_mini.emoji.relations import Analogy, get_relation
from lorweb_mini.emoji.words import relation_vectors
from lorweb_mini.errors import InputError
from lorweb_mini.models.base import noise_for


def _items(relation: str, k: int, seed: int) -> list[Analogy]:
    four = [pictures(k, seed + i) for i in range(4)]
    return [Analogy(*(x[i] for x in four), relation, "test", (f"{i}", "", "", "")) for i in range(k)]


@pytest.fixture(scope="module")
def editor() -> Editor:
    return tiny_editor(n_loras=3)


@pytest.fixture(scope="module")
def items() -> list[Analogy]:
    return [*_items("one", 3, 0), *_items("two", 2, 100)]


def test_each_control_by_hand(editor: Editor, items: list[Analogy]) -> None:
    training, chosen_on = _items("one", 4, 200), {"one": _items("one", 2, 300)}
    methods = controls_of(editor, training, items, chosen_on, steps=1)
    assert tuple(methods) == CONTROLS
    b = torch.stack([x.b for x in items])
    layers = len(editor.basis.layers)
    with editor.basis.disabled():
        bare = editor.edit(items[0].a, items[0].a_prime, b, steps=1).pictures
    torch.testing.assert_close(methods["bare base"](items), bare, atol=1e-5, rtol=0)

    def each(coefficients: list[torch.Tensor]) -> torch.Tensor:
        results = [editor.generate(x.b, c, steps=1).pictures for x, c in zip(items, coefficients, strict=True)]
        return torch.cat(results)

    mean = torch.stack([editor.route(x.a, x.a_prime, x.b)[0] for x in training]).mean(0)
    torch.testing.assert_close(methods["mean mixture"](items), each([mean] * 5), atol=1e-4, rtol=0)
    torch.testing.assert_close(
        methods["uniform mixture"](items), each([torch.full((layers, 3), 1 / 3)] * 5), atol=1e-4, rtol=0
    )
    others = shuffled(items)
    swapped = [others[x.relation, x.keys] for x in items]
    assert all(x.relation != y.relation for x, y in zip(items, swapped, strict=True))
    coefficients = [editor.route(y.a, y.a_prime, x.b)[0] for x, y in zip(items, swapped, strict=True)]
    torch.testing.assert_close(methods["shuffled examples"](items), each(coefficients), atol=1e-4, rtol=0)
    assert not torch.allclose(methods["untrained router"](items), each([mean] * 5), atol=1e-3)


def test_the_best_lora_is_the_one_of_least_error(editor: Editor) -> None:
    known = {"one": _items("one", 3, 10), "two": _items("two", 2, 20)}
    expected, totals = {}, torch.zeros(3)
    for name, some in known.items():
        errors = torch.zeros(3)
        for n in range(3):
            alone = torch.zeros(len(editor.basis.layers), 3)
            alone[:, n] = 1
            for x in some:
                truth = reconstruct(editor.autoencoder, x.b_prime[None])
                errors[n] += (editor.generate(x.b, alone, steps=1).pictures - truth).square().sum()
        copying = sum(
            (reconstruct(editor.autoencoder, x.b[None]) - reconstruct(editor.autoencoder, x.b_prime[None]))
            .square()
            .sum()
            for x in some
        )
        expected[name] = int(errors.argmin())
        totals += errors / copying
    assert best_single(editor, known, steps=1) == {"": int(totals.argmin()), **expected}


def test_words_alone_and_beside_the_mixture(editor: Editor) -> None:
    """One Euler step from noise, z − v, with the instruction, by the bare transformer and by the mixed one."""
    items = _items("edit/grey", 2, 30)
    b = torch.stack([x.b for x in items])
    latents, noise = editor.autoencoder.to_latent(b), noise_for([0, 0], 16)
    words = relation_vectors([get_relation("edit/grey")] * 2)
    mixture = torch.cat([editor.route(x.a, x.a_prime, x.b) for x in items])

    def step(coefficients: torch.Tensor) -> torch.Tensor:
        with torch.no_grad(), editor.basis.mixed(coefficients):
            v = editor.base.velocity(noise, torch.ones(2), pack(latents), editor.layout.ids(), words)
        return editor.autoencoder.to_picture(unpack(noise - v))

    alone, both = (told_in_words(editor, 1, routed=routed)(items) for routed in (False, True))
    torch.testing.assert_close(alone, step(torch.zeros_like(mixture)), atol=1e-4, rtol=0)
    torch.testing.assert_close(both, step(mixture), atol=1e-4, rtol=0)
    assert not torch.allclose(alone, both, atol=1e-3)
    torch.testing.assert_close(methods_of(editor, steps=1)["oracle instruction"](items), alone)


def test_routing_of_items_and_refusals(editor: Editor, items: list[Analogy]) -> None:
    one = editor.route(items[1].a, items[1].a_prime, items[1].b)
    torch.testing.assert_close(coefficients_of(editor, items)[1:2], one, atol=1e-5, rtol=0)
    with pytest.raises(InputError, match="expected analogies of at least two relations, got \\['one'\\]"):
        shuffled(items[:3])
    with pytest.raises(InputError, match="expected analogies to choose the best LoRA on, got none"):
        best_single(editor, {})
    with pytest.raises(InputError, match="layout b"):
        controls_of(tiny_editor(layout="tokens"), items, items, {"one": items})
