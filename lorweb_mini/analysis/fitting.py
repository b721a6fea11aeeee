"""Fitting an edit to one example: the mixing logits of a trained basis alone, or a LoRA of one's own.

The router maps (a, a', b) to coefficients in one pass. Where its answer is poor, fitting tells the two reasons apart:
if coefficients fitted to (a, a') carry the edit over to b, the basis spans it and the router does not find it; if they
fail already on a, the basis does not span it. Fitting is also a remedy, at the cost of some seconds an example.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.basis import Basis
from ..core.editor import Editor
from ..core.layout import pack
from ..emoji.relations import Analogy, as_batch
from ..errors import InputError, whole_number
from ..models.base import STEPS, Base, noise_for
from ..training.flow import EXACT_SHIFT, flow_sample, random_times
from .generalisation import WORKS, Judged, judged

RANK = 4  # of a LoRA of one's own
PULL = 1e-3  # weight of the squared distance of the logits to where they started
Show = Callable[[int, Tensor], None]
"""Called with the number of steps taken and the coefficients, before the first step and after each."""


@dataclass(frozen=True)
class Fit:
    """Coefficients fitted to G examples."""

    coefficients: Tensor  # [G, layers, N]
    losses: Tensor  # mean flow-matching loss of each step, [steps]
    seconds: Tensor  # from the start to the end of each step, [steps]
    basis: Basis  # what the coefficients mix


def fit_coefficients(
    editor: Editor, a: Any, a_prime: Any, *, steps: int = 60, seed: int = 0, show: Show | None = None
) -> Fit:
    """Fits the mixing logits (layers × N numbers) to each example (a, a'); basis and base stay as they are.

    It starts at what the router says of (a, a', a). The pictures are one pair an example; tensors [G, K, 3, 64, 64] are
    K pairs that share their coefficients.
    """
    if editor.router is None or editor.layout.needs_context:
        raise InputError(f"expected an editor with a router and layout b, got layout {editor.layout.name!r}")
    clean, shown, groups = _examples(editor, a, a_prime)
    with torch.no_grad():
        start = editor.coefficients(clean, shown, clean).unflatten(0, (groups, -1)).mean(1)
    origin = editor.basis.check(start).clamp_min(1e-6).log()
    logits = origin.clone().requires_grad_(True)

    def penalty() -> Tensor:
        return PULL * (logits - origin).pow(2).mean()

    optimizer = torch.optim.Adam([logits], lr=0.3)
    return _fitted(
        editor, editor.basis, clean, shown, lambda: logits.softmax(-1), optimizer, steps, seed, penalty, show
    )


def fit_loras(editor: Editor, a: Any, a_prime: Any, *, steps: int = 60, seed: int = 0) -> Fit:
    """Fits one LoRA of rank 4 from nothing to each example, on a copy of the bare base.

    The G LoRAs are a basis of size G, in which each example uses its own: all are fitted at once. What is fitted for
    each analogy anew, as PairEdit does, is what a basis with a router saves. Arguments as :func:`fit_coefficients`.
    """
    if editor.layout.needs_context:
        raise InputError(f"expected an editor of layout b, got {editor.layout.name!r}")
    clean, shown, groups = _examples(editor, a, a_prime)
    base = copy.deepcopy(editor.base)
    base.transformer.unload_lora()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        basis = Basis(base.transformer, groups, RANK)
    for parameter in basis.parameters():
        parameter.requires_grad_(True)
    own = torch.eye(groups)[:, None].expand(-1, len(basis.layers), -1)
    optimizer = torch.optim.Adam(basis.parameters(), lr=1e-2)
    return _fitted(editor, basis, clean, shown, lambda: own, optimizer, steps, seed, lambda: 0.0)


def render(editor: Editor, fit: Fit, b: Tensor, steps: int = STEPS) -> Tensor:
    """Draws pictures b [G, 3, 64, 64], each under the coefficients of its example, to pictures.

    Unlike :meth:`~lorweb_mini.core.editor.Editor.generate` it draws with the basis that was fitted.
    """
    latent = editor.autoencoder.to_latent(b)
    layout, size = editor.layout, (latent.shape[2], latent.shape[3])
    with torch.no_grad(), fit.basis.mixed(fit.coefficients):
        noise = noise_for([0] * len(latent), layout.drawn(*size))
        references = layout.references(None, None, latent)
        tokens = _base(editor, fit.basis).sample(noise, references, layout.ids(*size), steps=steps)
    return editor.autoencoder.to_picture(layout.result(tokens, *size))


def _base(editor: Editor, basis: Basis) -> Base:
    return editor.base if basis is editor.basis else type(editor.base)(basis.transformer)


def _examples(editor: Editor, a: Any, a_prime: Any) -> tuple[Tensor, Tensor, int]:
    """Latents of a and a', [G·K, 16, 8, 8] each, and G."""
    grouped = [isinstance(x, Tensor) and x.ndim == 5 for x in (a, a_prime)]
    pairs, others = (x.shape[1] if many else 1 for x, many in zip((a, a_prime), grouped, strict=True))
    first, second = (
        editor.backend.read(x.flatten(0, 1) if many else x, name)
        for x, many, name in zip((a, a_prime), grouped, ("a", "a_prime"), strict=True)
    )
    if len(first) != len(second) or pairs != others:
        raise InputError(f"expected as many pictures a as a', got {len(first)} and {len(second)}")
    with torch.no_grad():
        return editor.backend.encode(first), editor.backend.encode(second), len(first) // pairs


def _fitted(
    editor: Editor,
    basis: Basis,
    a: Tensor,
    a_prime: Tensor,
    coefficients: Callable[[], Tensor],
    optimizer: torch.optim.Optimizer,
    steps: int,
    seed: int,
    penalty: Callable[[], Tensor | float],
    show: Show | None = None,
) -> Fit:
    """Minimises the flow-matching loss of a' given a."""
    layout, size = editor.layout, (a.shape[2], a.shape[3])
    target, references, base = pack(a_prime), layout.references(None, None, a), _base(editor, basis)
    pairs = len(a) // len(coefficients())
    generator = torch.Generator().manual_seed(seed)
    show = show or (lambda step, mixture: None)
    losses, seconds = [], []
    steps, started = whole_number(steps, "steps"), time.perf_counter()
    show(0, coefficients().detach())
    for step in range(steps):
        drawn = flow_sample(target, random_times(len(a), generator, EXACT_SHIFT), generator)
        with torch.enable_grad(), basis.mixed(coefficients().repeat_interleave(pairs, 0)):
            v = base.velocity(drawn["noisy"], drawn["t"], references, layout.ids(*size))
            loss = (v - drawn["velocity"]).pow(2).mean()
            optimizer.zero_grad()
            (loss + penalty()).backward()
        optimizer.step()
        losses.append(loss.item())
        seconds.append(time.perf_counter() - started)
        show(step + 1, coefficients().detach())
    return Fit(coefficients().detach(), torch.tensor(losses), torch.tensor(seconds), basis)


@dataclass(frozen=True, eq=False)
class Curves:
    """The errors of two ways of fitting, ``mixture`` and ``LoRA``, for more and more steps.

    The error on a, the picture that was fitted, says whether an edit can be expressed at all; the error on b says
    whether it carries over.
    """

    marks: tuple[int, ...]  # M numbers of steps; at the first, 0, the mixture is routed and the LoRA nothing
    seconds: dict[str, np.ndarray]  # way to the time of fitting G examples together, divided by G, [M]
    on_b: dict[str, list[Judged]]  # way to M comparisons of the answers with b'
    on_a: dict[str, list[Judged]]  # the same with a in place of b


def on_itself(item: Analogy) -> Analogy:
    """The analogy a : a' :: a : a'."""
    return replace(item, b=item.a, b_prime=item.a_prime, keys=(*item.keys[:2], *item.keys[:2]))


def fit_curves(
    editor: Editor, items: Sequence[Analogy], marks: Sequence[int] = (10, 30, 60), steps: int = STEPS
) -> Curves:
    """Fits mixing logits and LoRAs to the pairs (a, a') of G ≥ 1 analogies, anew for each number of Adam steps."""
    if not items:
        raise InputError("expected at least one analogy, got none")
    a, a_prime, b, _ = as_batch(items)
    nothing = torch.zeros(len(editor.basis.layers), editor.config.n_loras)
    # The router is asked about the picture that is edited: of a itself it may say something else than of b.
    drawn: dict[str, list[list[Tensor]]] = {
        "mixture": [[editor.generate(x, editor.route(a, a_prime, x), steps=steps).pictures for x in (b, a)]],
        "LoRA": [[editor.generate(x, nothing, steps=steps).pictures for x in (b, a)]],
    }
    seconds = {way: [0.0] for way in drawn}
    for mark in marks:
        for way, fitted in (("mixture", fit_coefficients), ("LoRA", fit_loras)):
            fit = fitted(editor, a, a_prime, steps=mark)
            seconds[way].append(float(fit.seconds[-1]) / len(items))
            drawn[way].append([render(editor, fit, x, steps=steps) for x in (b, a)])

    def compared(place: int, asked: Sequence[Analogy]) -> dict[str, list[Judged]]:
        return {
            way: [judged({way: x[place]}, asked, editor.autoencoder) for x in several] for way, several in drawn.items()
        }

    on_b, on_a = compared(0, items), compared(1, [on_itself(x) for x in items])
    return Curves((0, *marks), {way: np.array(x) for way, x in seconds.items()}, on_b, on_a)


def diagnosis(routed_b: float, fitted_a: float, fitted_b: float) -> str:
    """Why an edit works or not, from normalised errors: of the router on b, of the fitted mixture on a and on b."""
    if routed_b < WORKS:
        return "found by the router"
    if fitted_a >= WORKS:
        return "not spanned"
    return "spanned, not found" if fitted_b < WORKS else "fitted on a, does not carry over"
