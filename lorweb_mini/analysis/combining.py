"""Several analogies in one answer: their mixtures added, subtracted or averaged, or one mixture fitted to all.

Example pairs of a relation are pairs (b, b') of its test analogies, on other concepts than the b that is asked.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..core.editor import Editor
from ..emoji.relations import Analogy, analogies, as_batch, composition_parts, get_relation
from ..errors import InputError, whole_number
from ..models.base import STEPS
from . import fitting
from .generalisation import Judged, judged
from .space import concepts_of
from .walking import LEAST_COEFFICIENT, render

Pair = tuple[Tensor, Tensor]
POOL = 24  # analogies of a relation from which example pairs are drawn
RECIPES: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "first alone": lambda one, two, centre, still: one,
    "second alone": lambda one, two, centre, still: two,
    "mean": lambda one, two, centre, still: (one + two) / 2,
    "sum": lambda one, two, centre, still: one + two,
    "sum − uniform": lambda one, two, centre, still: one + two - 1 / one.shape[-1],
    "sum − centre": lambda one, two, centre, still: one + two - centre,
    "sum − nothing": lambda one, two, centre, still: one + two - still,
    "product": lambda one, two, centre, still: (_log(one) + _log(two)).softmax(-1),
}
"""Ways to add two mixtures [k, layers, N], given the mean mixture [layers, N] and those of pairs without an edit."""
IN_TURN, COMPOSED = "one after the other", "composed pair"
NOTHING_SUBTRACTED, FIRST_ASKED = "the composed pair, nothing subtracted", "the first pair alone, asked"


def _log(c: Tensor) -> Tensor:
    return c.clamp_min(LEAST_COEFFICIENT).log()


@functools.cache
def _pool(relation: str) -> tuple[tuple[Analogy, str], ...]:
    items = analogies("test", relation, seed=8, n=POOL)
    return tuple(zip(items, concepts_of(items), strict=True))


def example_pairs(relation: str, concept: str, k: int, seed: int) -> list[Pair] | None:
    """k pairs of a relation, [3, 64, 64] each, that show other concepts than this one; None if there are fewer."""
    others = [item for item, other in _pool(relation) if other != concept]
    order = np.random.default_rng(seed).permutation(len(others))[:k]
    return [(others[i].b, others[i].b_prime) for i in order] if len(others) >= k else None


def pairs_of_parts(items: Sequence[Analogy]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A pair of each of the two parts of k compositions: a, a' of the first, a, a' of the second, [k, 3, 64, 64] each.

    Raises:
        InputError: a relation that is no composition, or a part without a pair on another concept.
    """
    rows = []
    for i, (item, concept) in enumerate(zip(items, concepts_of(items), strict=True)):
        row: list[Tensor] = []
        for part in composition_parts(item.relation):
            pairs = example_pairs(part, concept, 1, i)
            if pairs is None:
                raise InputError(f"expected a pair of {part} on another concept than {concept}, got none")
            row += pairs[0]
        rows.append(row)
    a, a_prime, other, other_prime = map(torch.stack, zip(*rows, strict=True))
    return a, a_prime, other, other_prime


def _drawn(editor: Editor, b: Tensor, mixtures: Mapping[str, Tensor], steps: int) -> dict[str, Tensor]:
    return {name: render(editor, b, c[:, None], steps)[:, 0] for name, c in mixtures.items()}


def added(editor: Editor, items: Sequence[Analogy], centre: Tensor, steps: int = STEPS) -> Judged:
    """Compositions answered from one pair of each part (:func:`pairs_of_parts`), by :data:`RECIPES` and without adding.

    ``one after the other`` draws the first part and routes the second on the result; ``composed pair`` is shown a pair
    of the composition itself. ``centre`` is the mean mixture of many analogies, [layers, N].
    """
    first, first_prime, second, second_prime = pairs_of_parts(items)
    a, a_prime, b, _ = as_batch(items)
    one, two = editor.route(first, first_prime, b), editor.route(second, second_prime, b)
    still = editor.route(a, a, b)
    mixtures = {name: recipe(one, two, centre, still) for name, recipe in RECIPES.items()}
    drawn = _drawn(editor, b, mixtures | {COMPOSED: editor.route(a, a_prime, b)}, steps)
    halfway = drawn["first alone"]
    drawn |= _drawn(editor, halfway, {IN_TURN: editor.route(second, second_prime, halfway)}, steps)
    return judged(drawn, items, editor.autoencoder)


def subtracted(editor: Editor, items: Sequence[Analogy], centre: Tensor, steps: int = STEPS) -> Judged:
    """What is left of k compositions of edits when the second part is subtracted, against the first edit alone.

    Returns:
        The composed pair with nothing subtracted, three subtractions, whose names begin with ``c₁₂``, and the pair of
        the first part. The truth b' of its analogies is b with the first edit.
    """
    first, first_prime, second, second_prime = pairs_of_parts(items)
    a, a_prime, b, _ = as_batch(items)
    whole, one, two = (editor.route(*x, b) for x in ((a, a_prime), (first, first_prime), (second, second_prime)))
    mixtures = {
        NOTHING_SUBTRACTED: whole,
        "c₁₂ − c₂": whole - two,
        "c₁₂ − c₂ + uniform": whole - two + 1 / whole.shape[-1],
        "c₁₂ − c₂ + centre": whole - two + centre,
        FIRST_ASKED: one,
    }
    left = [get_relation(composition_parts(x.relation)[0]).apply_edits(x.b[None])[0] for x in items]
    truths = [replace(x, b_prime=y) for x, y in zip(items, left, strict=True)]
    return judged(_drawn(editor, b, mixtures, steps), truths, editor.autoencoder)


def _shown(pairs: Sequence[Sequence[Pair]], most: int) -> tuple[Tensor, Tensor]:
    """Pictures a and a' of the K pairs of each of k questions, [k, K, 3, 64, 64] each."""
    if not pairs:
        raise InputError(f"expected a relation with {most} pairs on other concepts than the question's, got none")
    a, a_prime = (torch.stack([torch.stack([pair[end] for pair in row]) for row in pairs]) for end in (0, 1))
    return a, a_prime


def _routed(editor: Editor, a: Tensor, a_prime: Tensor, b: Tensor) -> Tensor:
    """Mixtures of b [k, 3, 64, 64] with each of its K pairs, [k, K, layers, N]."""
    flat = editor.route(a.flatten(0, 1), a_prime.flatten(0, 1), b.repeat_interleave(a.shape[1], 0))
    return flat.unflatten(0, a.shape[:2])


def averaged(editor: Editor, relations: Sequence[str], n: int, counts: Sequence[int], steps: int = STEPS) -> Judged:
    """The first n test analogies of each relation, answered from several numbers K of example pairs, from 1 on.

    Those with too few pairs on other concepts are left out; InputError where none remains.

    Returns:
        The methods ``WAY, K``: ``space`` is the mean of the mixtures, ``embedding`` their geometric mean, ``pictures``
        the mean of what is drawn with each.
    """
    if list(counts) != sorted(set(counts)) or counts[0] != 1:
        raise InputError(f"expected ascending counts from 1 on, got {list(counts)}")
    asked = [
        (item, pairs)
        for name in relations
        for i, (item, concept) in enumerate(_pool(name)[:n])
        if (pairs := example_pairs(name, concept, counts[-1], i)) is not None
    ]
    a, a_prime = _shown([pairs for _, pairs in asked], counts[-1])
    items = [item for item, _ in asked]
    b = as_batch(items)[2]
    routed = _routed(editor, a, a_prime, b)
    each = render(editor, b, routed, steps)
    drawn = {f"{way}, 1": each[:, 0] for way in ("space", "embedding", "pictures")}
    for k in counts[1:]:
        means = torch.stack([routed[:, :k].mean(1), _log(routed[:, :k]).mean(1).softmax(-1)], 1)
        drawn[f"space, {k}"], drawn[f"embedding, {k}"] = render(editor, b, means, steps).unbind(1)
        drawn[f"pictures, {k}"] = each[:, :k].mean(1)
    return judged(drawn, items, editor.autoencoder)


@dataclass(frozen=True, eq=False)
class Shots:
    """Answers after K example pairs: ``routed, K`` by the mean of their mixtures, ``fitted, K`` by a common fit."""

    judged: Judged
    seconds: dict[int, float]  # number K to the time of fitting, for each question


def few_shot(
    editor: Editor,
    analogies_by_relation: Mapping[str, Sequence[Analogy]],
    counts: Sequence[int] = (1, 2, 4),
    questions: int = 2,
    fit_steps: int = 30,
    steps: int = STEPS,
) -> Shots:
    """Shows K pairs of a relation before asking about one more b; the pairs come from other analogies of the relation.

    Of each relation so many ``questions`` are asked; those with too few pairs on other concepts are left out.
    """
    most = max(whole_number(k, "a number of pairs") for k in counts)
    asked: list[Analogy] = []
    pairs: list[list[Pair]] = []
    for items in analogies_by_relation.values():
        concepts = concepts_of(items)
        for item, own in list(zip(items, concepts, strict=True))[:questions]:
            others = [(x.b, x.b_prime) for x, concept in zip(items, concepts, strict=True) if concept != own]
            if len(others) >= most:
                asked.append(item)
                pairs.append(others[:most])
    a, a_prime = _shown(pairs, most)
    b = as_batch(asked)[2]
    routed = _routed(editor, a, a_prime, b)
    pictures, seconds = {}, {}
    for k in counts:
        pictures[f"routed, {k}"] = editor.generate(b, routed[:, :k].mean(1), steps=steps).pictures
        fit = fitting.fit_coefficients(editor, a[:, :k], a_prime[:, :k], steps=fit_steps)
        pictures[f"fitted, {k}"] = fitting.render(editor, fit, b, steps=steps)
        seconds[k] = float(fit.seconds[-1]) / len(b)
    return Shots(judged(pictures, asked, editor.autoencoder), seconds)
