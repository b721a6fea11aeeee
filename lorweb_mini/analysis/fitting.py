"""Fitting an edit to one example: the mixing logits of a trained basis alone, or a LoRA of one's own.

The router maps (a, a', b) to coefficients in one pass. Where its answer is poor, fitting tells the two reasons apart:
if coefficients fitted to (a, a') carry the edit over to b, the basis spans it and the router does not find it; if they
fail already on a, the basis does not span it. Fitting is also a remedy, at the cost of some seconds an example.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core.basis import Basis
from ..core.editor import Editor
from ..core.layout import pack
from ..errors import InputError, whole_number
from ..models.base import noise_for
from ..training.flow import EXACT_SHIFT, flow_sample, random_times


@dataclass(frozen=True)
class Fit:
    """Coefficients fitted to G examples.

    Attributes:
        coefficients: [G, layers, N].
        losses: mean flow-matching loss of each step, [steps].
        seconds: time from the start to the end of each step, [steps].
        basis: what the coefficients mix.
    """

    coefficients: Tensor
    losses: Tensor
    seconds: Tensor
    basis: Basis


def fit_coefficients(
    editor: Editor,
    a: Any,
    a_prime: Any,
    start: Tensor | None = None,
    *,
    steps: int = 60,
    learning_rate: float = 0.3,
    pull: float = 1e-3,
    seed: int = 0,
    show: Callable[[int, Tensor], None] | None = None,
) -> Fit:
    """Fits the mixing logits (layers × N numbers) to each example (a, a'); basis and base stay as they are.

    Args:
        a, a_prime: pictures, one pair an example; tensors [G, K, 3, 64, 64] are K pairs that share their coefficients.
        start: coefficients [G, layers, N] to start from; by default what the router says of (a, a', a).
        learning_rate: of Adam.
        pull: weight of the squared distance of the logits to where they started.
        show: called with the number of steps taken and the coefficients, before the first step and after each.

    Raises:
        InputError: an editor whose transformer sees a and a' itself or that has no router, pictures that cannot be
            read, groups of different sizes, or coefficients of another shape.
    """
    if editor.router is None or editor.layout.needs_context:
        raise InputError(f"expected an editor with a router and layout b, got layout {editor.layout.name!r}")
    clean, shown, groups = _examples(editor, a, a_prime)
    if start is None:
        with torch.no_grad():
            start = editor.coefficients(clean, shown, clean).unflatten(0, (groups, -1)).mean(1)
    start = editor.basis.check(start)
    if len(start) != groups:
        raise InputError(f"expected coefficients of {groups} examples to start from, got {len(start)}")
    origin = start.clamp_min(1e-6).log()
    logits = origin.clone().requires_grad_(True)

    def penalty() -> Tensor:
        return pull * (logits - origin).pow(2).mean()

    def coefficients() -> Tensor:
        return logits.softmax(-1)

    optimizer = torch.optim.Adam([logits], lr=learning_rate)
    return _fitted(editor, editor.basis, clean, shown, coefficients, optimizer, steps, seed, penalty, show)


def fit_loras(
    editor: Editor,
    a: Any,
    a_prime: Any,
    *,
    rank: int = 4,
    steps: int = 60,
    learning_rate: float = 1e-2,
    seed: int = 0,
    show: Callable[[int, Tensor], None] | None = None,
) -> Fit:
    """Fits one LoRA of a given rank from nothing to each example, on a copy of the bare base.

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
        basis = Basis(base.transformer, groups, whole_number(rank, "rank"))
    for parameter in basis.parameters():
        parameter.requires_grad_(True)
    own = torch.eye(groups)[:, None].expand(-1, len(basis.layers), -1)
    optimizer = torch.optim.Adam(basis.parameters(), lr=learning_rate)
    return _fitted(editor, basis, clean, shown, lambda: own, optimizer, steps, seed, lambda: 0.0, show)


def render(editor: Editor, fit: Fit, b: Tensor, coefficients: Tensor | None = None, steps: int = 8) -> Tensor:
    """Draws pictures b [G, 3, 64, 64], each under the coefficients of its example (by default the last), to pictures.

    Unlike :meth:`~lorweb_mini.core.editor.Editor.generate` it draws with the basis that was fitted.
    """
    latent = editor.autoencoder.to_latent(b)
    mixture = fit.coefficients if coefficients is None else coefficients
    layout, size = editor.layout, (latent.shape[2], latent.shape[3])
    base = editor.base if fit.basis is editor.basis else type(editor.base)(fit.basis.transformer)
    with torch.no_grad(), fit.basis.mixed(mixture):
        noise = noise_for([0] * len(latent), layout.drawn(*size))
        tokens = base.sample(noise, layout.references(None, None, latent), layout.ids(*size), steps=steps)
    return editor.autoencoder.to_picture(layout.result(tokens, *size))


def _examples(editor: Editor, a: Any, a_prime: Any) -> tuple[Tensor, Tensor, int]:
    """Latents of a and a', [G·K, 16, 8, 8] each, and G."""
    pictures = []
    for name, x in (("a", a), ("a_prime", a_prime)):
        pairs = x.shape[1] if isinstance(x, Tensor) and x.ndim == 5 else 1
        flat = x.flatten(0, 1) if isinstance(x, Tensor) and x.ndim == 5 else x
        pictures.append((editor.backend.read(flat, name), pairs))
    (first, pairs), (second, others) = pictures
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
    show: Callable[[int, Tensor], None] | None,
) -> Fit:
    """Minimises the flow-matching loss of a' given a."""
    layout, size = editor.layout, (a.shape[2], a.shape[3])
    target, references = pack(a_prime), layout.references(None, None, a)
    base = editor.base if basis is editor.basis else type(editor.base)(basis.transformer)
    pairs = len(a) // len(coefficients())
    generator = torch.Generator().manual_seed(seed)
    losses, seconds = [], []
    started = time.perf_counter()
    for step in range(whole_number(steps, "steps")):
        if show is not None and step == 0:
            show(0, coefficients().detach())
        drawn = flow_sample(target, random_times(len(a), generator, EXACT_SHIFT), generator)
        with torch.enable_grad(), basis.mixed(coefficients().repeat_interleave(pairs, 0)):
            v = base.velocity(drawn["noisy"], drawn["t"], references, layout.ids(*size))
            loss = (v - drawn["velocity"]).pow(2).mean()
            optimizer.zero_grad()
            (loss + penalty()).backward()
        optimizer.step()
        losses.append(loss.item())
        seconds.append(time.perf_counter() - started)
        if show is not None:
            show(step + 1, coefficients().detach())
    return Fit(coefficients().detach(), torch.tensor(losses), torch.tensor(seconds), basis)
