"""Controls for every claim about a basis: how much of a result is due to router, mixture and LoRAs.

Each control removes one part and keeps the rest: the same frozen base, the same basis, the same number of steps.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ..core.editor import Editor
from ..core.router import Router
from ..emoji.relations import Analogy, as_batch
from ..errors import InputError
from .evaluation import Method, by_relation, draw, reconstruct, squared

CONTROLS = (
    "bare base",
    "mean mixture",
    "uniform mixture",
    "untrained router",
    "shuffled examples",
    "best single LoRA",
)


def routed(editor: Editor, items: Sequence[Analogy]) -> Tensor:
    """The router's coefficients of analogies, [k, layers, N]."""
    return editor.route(*as_batch(list(items))[:3])


def controls_of(
    editor: Editor,
    training: Sequence[Analogy],
    items: Sequence[Analogy],
    chosen_on: Mapping[str, Sequence[Analogy]],
    steps: int = 8,
    seed: int = 0,
) -> dict[str, Method]:
    """The methods of :data:`CONTROLS`, in that order.

    Args:
        editor: a basis with a router and layout ``b``.
        training: analogies of the training split, whose mean coefficients are the mean mixture.
        items: the analogies that will be judged: the pairs (a, a') of the shuffled examples come from these, each from
            an analogy of another relation.
        chosen_on: relation to analogies of another split, on which its best single LoRA is chosen; a relation without
            any takes the LoRA that is best over all of them.

    Raises:
        InputError: an editor without router, or items of fewer than two relations.
    """
    if editor.router is None or editor.layout.needs_context:
        raise InputError(f"expected an editor with a router and layout b, got layout {editor.layout.name!r}")
    mean = routed(editor, training).mean(0)
    uniform = torch.full_like(mean, 1 / mean.shape[-1])
    untrained = untrained_router(editor.router, seed)
    others = shuffled(items, seed)
    best = best_single(editor, chosen_on, steps)

    def drawn(b: Tensor, coefficients: Tensor) -> Tensor:
        return editor.generate(b, coefficients, steps=steps).pictures

    def with_untrained(part: list[Analogy]) -> Tensor:
        latents = [editor.autoencoder.to_latent(x) for x in as_batch(part)[:3]]
        return drawn(as_batch(part)[2], untrained(*editor.embeddings(*latents)))

    def with_others(part: list[Analogy]) -> Tensor:
        examples = as_batch([others[x.relation, x.keys] for x in part])
        b = as_batch(part)[2]
        return drawn(b, editor.route(examples[0], examples[1], b))

    def with_best(part: list[Analogy]) -> Tensor:
        rows = torch.tensor([best.get(x.relation, best[""]) for x in part])
        one = torch.nn.functional.one_hot(rows, mean.shape[-1]).float()
        return drawn(as_batch(part)[2], one[:, None].expand(-1, len(mean), -1))

    def constant(coefficients: Tensor) -> Method:
        return lambda part: drawn(as_batch(part)[2], coefficients)

    methods = (
        constant(torch.zeros_like(mean)),
        constant(mean),
        constant(uniform),
        with_untrained,
        with_others,
        with_best,
    )
    return dict(zip(CONTROLS, methods, strict=True))


def untrained_router(router: Router, seed: int = 0) -> Router:
    """A router of the same shape with fresh weights, standardised like the trained one."""
    fresh = copy.deepcopy(router)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        fresh.reset_parameters()
    return fresh.requires_grad_(False)


def shuffled(items: Sequence[Analogy], seed: int = 0) -> dict[tuple[str, tuple[str, ...]], Analogy]:
    """For each analogy, by relation and keys, one of another relation.

    Raises:
        InputError: analogies of fewer than two relations.
    """
    relations = np.array([x.relation for x in items])
    if len(set(relations)) < 2:
        raise InputError(f"expected analogies of at least two relations, got {sorted(set(relations.tolist()))}")
    rng = np.random.default_rng(seed)
    return {(x.relation, x.keys): items[rng.choice(np.flatnonzero(relations != x.relation))] for x in items}


def best_single(editor: Editor, chosen_on: Mapping[str, Sequence[Analogy]], steps: int = 8) -> dict[str, int]:
    """For each relation the index n of the LoRA that draws its analogies best when it alone is used, c_n = 1.

    The name "" stands for all relations together, by the sum of their normalised errors.
    """
    items = [x for some in chosen_on.values() for x in some]
    if not items:
        raise InputError("expected analogies to choose the best LoRA on, got none")
    layers, n_loras = len(editor.basis.layers), editor.config.n_loras
    truth, b = (reconstruct(editor.autoencoder, as_batch(items)[i]) for i in (3, 2))
    copying = squared(b, truth)
    errors = np.empty((n_loras, len(items)))
    for n in range(n_loras):
        alone = torch.zeros(layers, n_loras)
        alone[:, n] = 1
        pictures = draw(lambda part, c=alone: editor.generate(as_batch(part)[2], c, steps=steps).pictures, items)  # type: ignore[misc]
        errors[n] = squared(pictures, truth)
    names = [x.relation for x in items]
    relative = {}
    for name in by_relation(items):
        mine = np.array([x == name for x in names])
        relative[name] = errors[:, mine].sum(1) / copying[mine].sum()
    best = {name: int(value.argmin()) for name, value in relative.items()}
    return {"": int(np.sum(list(relative.values()), axis=0).argmin()), **best}
