"""Several analogies in one answer: their mixtures added, subtracted or averaged.

The example pairs of a relation are the pairs (b, b') of its test analogies, on other concepts than the b that is asked.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..core.editor import Editor
from ..emoji.relations import Analogy, analogies, as_batch, composition_parts, get_relation
from ..errors import InputError
from .generalisation import Judged, judged
from .space import concepts_of
from .walking import LEAST_COEFFICIENT, render

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


def example_pairs(relation: str, concept: str, k: int, seed: int) -> list[tuple[Tensor, Tensor]] | None:
    """k pairs of a relation, [3, 64, 64] each, that show other concepts than this one; None if there are fewer."""
    others = [item for item, other in _pool(relation) if other != concept]
    order = np.random.default_rng(seed).permutation(len(others))[:k]
    return [(others[i].b, others[i].b_prime) for i in order] if len(others) >= k else None


def pairs_of_parts(items: Sequence[Analogy]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A pair of each of the two parts of k compositions: a, a' of the first, a, a' of the second, [k, 3, 64, 64] each.

    Raises:
        InputError: a relation that is no composition, or a part without a pair on another concept.
    """
    found: tuple[list[Tensor], ...] = ([], [], [], [])
    for i, (item, concept) in enumerate(zip(items, concepts_of(items), strict=True)):
        for place, part in enumerate(composition_parts(item.relation)):
            pairs = example_pairs(part, concept, 1, i)
            if pairs is None:
                raise InputError(f"expected a pair of {part} on another concept than {concept}, got none")
            for end, picture in enumerate(pairs[0]):
                found[2 * place + end].append(picture)
    a, a_prime, other, other_prime = map(torch.stack, found)
    return a, a_prime, other, other_prime


def added(editor: Editor, items: Sequence[Analogy], centre: Tensor, steps: int = 4) -> Judged:
    """Compositions answered from one pair of each part, by every recipe and by two ways without adding.

    Args:
        items: k analogies whose relations are compositions.
        centre: the mean mixture of many analogies, [layers, N].

    Returns:
        The methods of :data:`RECIPES`; ``one after the other``, which draws the first part and routes the second on the
        result; ``composed pair``, which is shown a pair of the composition itself.

    Raises:
        InputError: what :func:`pairs_of_parts` refuses.
    """
    first, first_prime, second, second_prime = pairs_of_parts(items)
    a, a_prime, b, _ = as_batch(items)
    one, two = editor.route(first, first_prime, b), editor.route(second, second_prime, b)
    still = editor.route(a, a, b)
    mixed = {name: recipe(one, two, centre, still) for name, recipe in RECIPES.items()}
    mixed[COMPOSED] = editor.route(a, a_prime, b)
    drawn = {name: render(editor, b, c[:, None], steps)[:, 0] for name, c in mixed.items()}
    halfway = drawn["first alone"]
    drawn[IN_TURN] = render(editor, halfway, editor.route(second, second_prime, halfway)[:, None], steps)[:, 0]
    return judged(drawn, items, editor.autoencoder)


def subtracted(editor: Editor, items: Sequence[Analogy], centre: Tensor, steps: int = 4) -> Judged:
    """What is left of k compositions of edits when the second part is subtracted, against the first edit alone.

    Args:
        centre: the mean mixture of many analogies, [layers, N].

    Returns:
        The composed pair with nothing subtracted, three subtractions, whose names begin with ``c₁₂``, and the pair of
        the first part. The truth b' of its analogies is b with the first edit.

    Raises:
        InputError: what :func:`pairs_of_parts` refuses.
    """
    first, first_prime, second, second_prime = pairs_of_parts(items)
    a, a_prime, b, _ = as_batch(items)
    whole, one, two = (editor.route(*x, b) for x in ((a, a_prime), (first, first_prime), (second, second_prime)))
    mixed = {
        NOTHING_SUBTRACTED: whole,
        "c₁₂ − c₂": whole - two,
        "c₁₂ − c₂ + uniform": whole - two + 1 / whole.shape[-1],
        "c₁₂ − c₂ + centre": whole - two + centre,
        FIRST_ASKED: one,
    }
    drawn = {name: render(editor, b, c[:, None], steps)[:, 0] for name, c in mixed.items()}
    left = [get_relation(composition_parts(x.relation)[0]).apply_edits(x.b[None])[0] for x in items]
    return judged(drawn, [replace(x, b_prime=y) for x, y in zip(items, left, strict=True)], editor.autoencoder)


def averaged(editor: Editor, relations: Sequence[str], n: int, counts: Sequence[int], steps: int = 4) -> Judged:
    """Analogies answered from the first 1, …, K of their example pairs, averaged in three places.

    Args:
        relations: the first n test analogies of each are asked; but those with too few pairs on other concepts.
        counts: the numbers of pairs, ascending, the first of them 1.

    Returns:
        The methods ``WAY, K``: ``space`` is the mean of the mixtures, ``embedding`` their geometric mean, ``pictures``
        the mean of what is drawn with each.

    Raises:
        InputError: other counts, or no analogy left.
    """
    if list(counts) != sorted(set(counts)) or counts[0] != 1:
        raise InputError(f"expected ascending counts from 1 on, got {list(counts)}")
    most = counts[-1]
    asked = [
        (item, pairs)
        for name in relations
        for i, (item, concept) in enumerate(_pool(name)[:n])
        if (pairs := example_pairs(name, concept, most, i)) is not None
    ]
    if not asked:
        raise InputError(f"expected a relation with {most} pairs on other concepts than the question's, got none")
    items = [item for item, _ in asked]
    b = as_batch(items)[2]
    shown = [torch.stack([torch.stack([pair[end] for pair in pairs]) for _, pairs in asked]) for end in (0, 1)]
    repeated = b.repeat_interleave(most, 0)
    a, a_prime = (x.flatten(0, 1) for x in shown)
    routed = editor.route(a, a_prime, repeated).unflatten(0, (len(items), most))
    each = render(editor, b, routed, steps)
    drawn = {f"{way}, 1": each[:, 0] for way in ("space", "embedding", "pictures")}
    for k in counts[1:]:
        means = torch.stack([routed[:, :k].mean(1), _log(routed[:, :k]).mean(1).softmax(-1)], 1)
        drawn[f"space, {k}"], drawn[f"embedding, {k}"] = render(editor, b, means, steps).unbind(1)
        drawn[f"pictures, {k}"] = each[:, :k].mean(1)
    return judged(drawn, items, editor.autoencoder)
