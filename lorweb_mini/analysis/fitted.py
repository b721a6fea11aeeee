"""What fitting gains over routing, and what it costs: mixing logits or a LoRA fitted to examples, judged on b and on a.

The error on a, the picture that was fitted, says whether an edit can be expressed at all; the error on b says whether
it carries over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..core.editor import Editor
from ..emoji.relations import Analogy, as_batch
from ..errors import InputError, whole_number
from .fitting import Fit, fit_coefficients, fit_loras, render
from .generalisation import WORKS, Judged, judged
from .space import concepts_of

WAYS = ("mixture", "LoRA")


@dataclass(frozen=True, eq=False)
class Curves:
    """The errors of two ways of fitting, for more and more steps.

    Attributes:
        marks: numbers of steps, M of them, the first is 0: for the mixture what the router says, for the LoRA nothing.
        seconds: way to the time of fitting G examples together, divided by G, [M].
        on_b: way to M comparisons of the answers with b'. on_a: the same with a in place of b.
    """

    marks: tuple[int, ...]
    seconds: dict[str, np.ndarray]
    on_b: dict[str, list[Judged]]
    on_a: dict[str, list[Judged]]


def on_itself(item: Analogy) -> Analogy:
    """The analogy a : a' :: a : a'."""
    return replace(item, b=item.a, b_prime=item.a_prime, keys=(*item.keys[:2], *item.keys[:2]))


def fit_curves(
    editor: Editor, items: Sequence[Analogy], marks: Sequence[int] = (10, 30, 60), steps: int = 8, seed: int = 0
) -> Curves:
    """Fits mixing logits and LoRAs to the pairs (a, a') of G analogies, anew for each number of steps.

    Args:
        marks: numbers of Adam steps. Each fit begins from nothing, so that no drawing is part of its time.
        steps: Euler steps of a drawing.

    Raises:
        InputError: no analogies, or what :func:`~lorweb_mini.analysis.fitting.fit_coefficients` refuses.
    """
    if not items:
        raise InputError("expected at least one analogy, got none")
    a, a_prime, b, _ = as_batch(items)
    selves = [on_itself(x) for x in items]
    # The router is asked about the picture that is edited: of a itself it may say something else than of b.
    routed = [editor.generate(x, editor.route(a, a_prime, x), steps=steps).pictures for x in (b, a)]
    nothing = torch.zeros(len(editor.basis.layers), editor.config.n_loras)
    bare = [editor.generate(x, nothing, steps=steps).pictures for x in (b, a)]
    drawn: dict[str, list[list[Tensor]]] = {"mixture": [routed], "LoRA": [bare]}
    seconds: dict[str, list[float]] = {way: [0.0] for way in WAYS}
    for mark in marks:
        fits: dict[str, Fit] = {
            "mixture": fit_coefficients(editor, a, a_prime, steps=mark, seed=seed),
            "LoRA": fit_loras(editor, a, a_prime, steps=mark, seed=seed),
        }
        for way, fit in fits.items():
            seconds[way].append(float(fit.seconds[-1]) / len(items))
            drawn[way].append([render(editor, fit, x, steps=steps) for x in (b, a)])

    def compared(place: int, asked: Sequence[Analogy]) -> dict[str, list[Judged]]:
        return {
            way: [judged({way: x[place]}, asked, editor.autoencoder) for x in several] for way, several in drawn.items()
        }

    return Curves((0, *marks), {k: np.array(v) for k, v in seconds.items()}, compared(0, items), compared(1, selves))


def diagnosis(routed_b: float, fitted_a: float, fitted_b: float) -> str:
    """Why an edit works or not, from normalised errors: of the router on b, of the fitted mixture on a and on b."""
    if routed_b < WORKS:
        return "found by the router"
    if fitted_a >= WORKS:
        return "not spanned"
    return "spanned, not found" if fitted_b < WORKS else "fitted on a, does not carry over"


@dataclass(frozen=True, eq=False)
class Shots:
    """Answers after K example pairs of a relation.

    Attributes:
        counts: the numbers K.
        judged: methods ``routed, K`` (the mean of the coefficients of K pairs) and ``fitted, K`` (one mixture fitted to
            all of them).
        seconds: number K to the time of fitting, for each question.
    """

    counts: tuple[int, ...]
    judged: Judged
    seconds: dict[int, float]


def few_shot(
    editor: Editor,
    analogies_by_relation: Mapping[str, Sequence[Analogy]],
    counts: Sequence[int] = (1, 2, 4),
    questions: int = 2,
    fit_steps: int = 30,
    steps: int = 8,
    seed: int = 0,
) -> Shots:
    """Shows K pairs of a relation before asking about one more b.

    The example pairs of a question are the pairs (b, b') of other analogies of its relation, on other concepts.

    Args:
        questions: analogies of each relation that are asked; those with too few pairs on other concepts are left out.

    Raises:
        InputError: no question is left.
    """
    most = max(whole_number(k, "a number of pairs") for k in counts)
    asked: list[Analogy] = []
    pairs: list[list[Analogy]] = []
    for items in analogies_by_relation.values():
        concepts = concepts_of(items)
        for i in range(min(questions, len(items))):
            others = [x for x, concept in zip(items, concepts, strict=True) if concept != concepts[i]]
            if len(others) >= most:
                asked.append(items[i])
                pairs.append(others[:most])
    if not asked:
        raise InputError(f"expected a relation with {most} pairs on other concepts than the question's, got none")
    b = as_batch(asked)[2]
    shown = [torch.stack([torch.stack([getattr(x, end) for x in some]) for some in pairs]) for end in ("b", "b_prime")]
    repeated = b.repeat_interleave(most, 0)
    routed = editor.route(shown[0].flatten(0, 1), shown[1].flatten(0, 1), repeated).unflatten(0, (len(b), most))
    pictures, seconds = {}, {}
    for k in counts:
        pictures[f"routed, {k}"] = editor.generate(b, routed[:, :k].mean(1), steps=steps).pictures
        fit = fit_coefficients(editor, shown[0][:, :k], shown[1][:, :k], steps=fit_steps, seed=seed)
        pictures[f"fitted, {k}"] = render(editor, fit, b, steps=steps)
        seconds[k] = float(fit.seconds[-1]) / len(b)
    return Shots(tuple(counts), judged(pictures, asked, editor.autoencoder), seconds)
