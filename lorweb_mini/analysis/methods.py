"""The methods compared: LoRWeB, its baselines, a memoriser of the training distribution, and controls.

A control removes one part of a result and keeps the rest: the same frozen base, the same basis, as many steps.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.editor import Editor
from ..core.router import Router
from ..emoji.distributions import Chains, Distribution, Memoriser, held_out
from ..emoji.edits import chain_name
from ..emoji.relations import Analogy, as_batch, get_relation
from ..emoji.words import relation_vectors
from ..errors import InputError
from ..files import data_dir, read_json
from ..models.autoencoder import MiniAutoencoder
from ..models.base import STEPS
from .evaluation import Method, reconstruct
from .generalisation import judge
from .space import coefficients_of

MEMORISED = 10_000  # relations that the memoriser knows
CONTROLS = ("bare base", "mean mixture", "uniform mixture", "untrained router", "shuffled examples", "best single LoRA")


def methods_of(editor: Editor, one_lora: Editor | None = None, steps: int = STEPS, seed: int = 0) -> dict[str, Method]:
    """LoRWeB and its baselines, all drawing through the same autoencoder.

    ``one_lora`` has no router and sees a and a' as context. The oracle, the editor's frozen base, is told the relation
    in words and sees neither a nor a'.
    """
    autoencoder = editor.autoencoder

    def arithmetic(items: list[Analogy]) -> Tensor:
        a, a_prime, b = (autoencoder.to_latent(x) for x in as_batch(items)[:3])
        return autoencoder.to_picture(b + a_prime - a)

    def edit_with(one: Editor) -> Method:
        return lambda items: one.edit(*as_batch(items)[:3], steps=steps, seed=seed).pictures

    methods: dict[str, Method] = {
        "copy b": lambda items: reconstruct(autoencoder, as_batch(items)[2]),
        "copy a'": lambda items: reconstruct(autoencoder, as_batch(items)[1]),
        "latent arithmetic": arithmetic,
        "oracle instruction": told_in_words(editor, steps, seed),
    }
    if one_lora is not None:
        methods["one LoRA"] = edit_with(one_lora)
    methods["LoRWeB"] = edit_with(editor)
    return methods


def told_in_words(editor: Editor, steps: int = STEPS, seed: int = 0, routed: bool = False) -> Method:
    """The frozen base, told the relation in words; with ``routed`` the router's mixture is in it as well.

    ``routed`` needs the layout ``b``.
    """

    def method(items: list[Analogy]) -> Tensor:
        a, a_prime, b = as_batch(items)[:3]
        instructions = relation_vectors([get_relation(x.relation) for x in items])
        within = editor.basis.mixed(editor.route(a, a_prime, b)) if routed else editor.basis.disabled()
        latent = editor.autoencoder.to_latent(b)
        with within:
            drawn = editor.base.edit(latent, instructions, [seed] * len(items), steps)
        return editor.autoencoder.to_picture(drawn)

    return method


# --- the memoriser --------------------------------------------------------------------------------


def memoriser_method(
    autoencoder: MiniAutoencoder, kinds: Sequence[str] | None = None, size: int = MEMORISED, seed: int = 0
) -> Method:
    """The memoriser of the training distribution as a method; its answers pass through the autoencoder like all."""
    memoriser = Memoriser(Distribution(kinds, held_out()), size, seed)
    return lambda items: reconstruct(autoencoder, memoriser(*as_batch(items)[:3]))


def kinds_key(kinds: Sequence[str] | None) -> str:
    """What ``data/memoriser.json`` calls a memoriser with these kinds of edit; None is all of them."""
    return ",".join(kinds or ["all"])


def memoriser_answers(kinds: Sequence[str] | None = None) -> dict[str, Any]:
    """The memoriser's answers with these kinds of edit that ``data/memoriser.json`` keeps.

    Returns:
        ``size`` and ``seed`` of the memoriser, and ``chosen``: the relation that it takes for each analogy, as a list
        of (kind, strength), by ``key_of``. Without any answer where there is no such file, or none with these kinds.

    Raises:
        InputError: the file is damaged.
    """
    path, name = data_dir() / "memoriser.json", kinds_key(kinds)
    entry = read_json(path, []).get(name) if path.is_file() else None
    if entry is None:
        return {"size": MEMORISED, "seed": 0, "chosen": {}}
    try:
        chosen = {key: [(kind, _plain(x)) for kind, x in chain] for key, chain in entry["chosen"].items()}
        for chain in chosen.values():
            chain_name(chain)  # refuses what is no edit
        return {"size": int(entry["size"]), "seed": int(entry["seed"]), "chosen": chosen}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"expected a size, a seed and chosen edits for {name} in {path}, got {error}") from None


def _plain(strength: Any) -> Any:
    return tuple(strength) if isinstance(strength, list) else strength


def remembered(autoencoder: MiniAutoencoder, items: Sequence[Analogy], kinds: Sequence[str] | None) -> Method | None:
    """The memoriser with the answers that ``benchmarks.memoriser`` has written to ``data/memoriser.json``.

    Working them out takes minutes: 10,000 edits of every a. None where an analogy has no answer there.
    """
    chosen = memoriser_answers(kinds)["chosen"]
    if any(key_of(x) not in chosen for x in items):
        return None
    return lambda part: reconstruct(autoencoder, Chains.of([chosen[key_of(x)] for x in part]).apply(as_batch(part)[2]))


def key_of(item: Analogy) -> str:
    """What an analogy is called in ``data/memoriser.json``: its relation and the picture a."""
    return f"{item.relation} {item.keys[0]}"


# --- controls -------------------------------------------------------------------------------------


def controls_of(
    editor: Editor,
    training: Sequence[Analogy],
    items: Sequence[Analogy],
    chosen_on: Mapping[str, Sequence[Analogy]],
    steps: int = STEPS,
) -> dict[str, Method]:
    """The methods of :data:`CONTROLS`, in that order.

    Args:
        editor: a basis with a router and layout ``b``.
        training: analogies of the training split, whose mean coefficients are the mean mixture.
        items: the analogies that will be judged, of at least two relations; the shuffled examples come from these.
        chosen_on: relation to analogies of another split, on which its best single LoRA is chosen; a relation without
            any takes the LoRA that is best over all of them.
    """
    if editor.router is None or editor.layout.needs_context:
        raise InputError(f"expected an editor with a router and layout b, got layout {editor.layout.name!r}")
    mean = coefficients_of(editor, training).mean(0)
    untrained = untrained_router(editor.router)
    others = shuffled(items)
    best = best_single(editor, chosen_on, steps)

    def drawn(b: Tensor, coefficients: Tensor) -> Tensor:
        return editor.generate(b, coefficients, steps=steps).pictures

    def with_untrained(part: list[Analogy]) -> Tensor:
        latents = [editor.autoencoder.to_latent(x) for x in as_batch(part)[:3]]
        return drawn(as_batch(part)[2], untrained(*editor.embeddings(*latents)))

    def with_others(part: list[Analogy]) -> Tensor:
        a, a_prime = as_batch([others[x.relation, x.keys] for x in part])[:2]
        b = as_batch(part)[2]
        return drawn(b, editor.route(a, a_prime, b))

    def with_best(part: list[Analogy]) -> Tensor:
        rows = torch.tensor([best.get(x.relation, best[""]) for x in part])
        one = torch.nn.functional.one_hot(rows, mean.shape[-1]).float()
        return drawn(as_batch(part)[2], one[:, None].expand(-1, len(mean), -1))

    def constant(coefficients: Tensor) -> Method:
        return lambda part: drawn(as_batch(part)[2], coefficients)

    fixed = (torch.zeros_like(mean), mean, torch.full_like(mean, 1 / mean.shape[-1]))
    return dict(zip(CONTROLS, (*map(constant, fixed), with_untrained, with_others, with_best), strict=True))


def untrained_router(router: Router, seed: int = 0) -> Router:
    """A router of the same shape with fresh weights, standardised like the trained one."""
    fresh = copy.deepcopy(router)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        fresh.reset_parameters()
    return fresh.requires_grad_(False)


def shuffled(items: Sequence[Analogy], seed: int = 0) -> dict[tuple[str, tuple[str, ...]], Analogy]:
    """For each analogy, by relation and keys, one of another relation; InputError where all are of one relation."""
    relations = np.array([x.relation for x in items])
    if len(set(relations)) < 2:
        raise InputError(f"expected analogies of at least two relations, got {sorted(set(relations.tolist()))}")
    rng = np.random.default_rng(seed)
    return {(x.relation, x.keys): items[rng.choice(np.flatnonzero(relations != x.relation))] for x in items}


def best_single(editor: Editor, chosen_on: Mapping[str, Sequence[Analogy]], steps: int = STEPS) -> dict[str, int]:
    """For each relation the index n of the LoRA that draws its analogies best when it alone is used, c_n = 1.

    The name "" stands for all relations together, by the sum of their normalised errors.
    """
    items = [x for some in chosen_on.values() for x in some]
    if not items:
        raise InputError("expected analogies to choose the best LoRA on, got none")
    alone = torch.eye(editor.config.n_loras)[:, None].expand(-1, len(editor.basis.layers), -1)

    def with_one(coefficients: Tensor) -> Method:
        return lambda part: editor.generate(as_batch(part)[2], coefficients, steps=steps).pictures

    drawn = judge({str(n): with_one(c) for n, c in enumerate(alone)}, items, editor.autoencoder)
    errors, names = np.stack(list(drawn.errors.values())), drawn.relations
    relative = {x: errors[:, names == x].sum(1) / drawn.size[names == x].sum() for x in dict.fromkeys(names.tolist())}
    best = {name: int(value.argmin()) for name, value in relative.items()}
    return {"": int(np.sum(list(relative.values()), axis=0).argmin()), **best}
