"""The methods that are compared: LoRWeB, its baselines, and a memoriser of the training distribution."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from ..core.editor import Editor
from ..emoji.distributions import Distribution, Memoriser, held_out
from ..emoji.relations import Analogy, as_batch, get_relation
from ..emoji.words import relation_vectors
from ..files import data_dir, read_json
from ..models.autoencoder import MiniAutoencoder
from .evaluation import Method, reconstruct


def methods_of(editor: Editor, one_lora: Editor | None = None, steps: int = 8, seed: int = 0) -> dict[str, Method]:
    """LoRWeB and its baselines, all drawing through the same autoencoder.

    Args:
        editor: the basis under test; its frozen base is the oracle's.
        one_lora: one LoRA without router that sees a and a' as context; left out when None.

    The oracle is told the relation in words and sees neither a nor a': what the frozen base knows of the relation.
    """
    autoencoder = editor.autoencoder

    def arithmetic(items: list[Analogy]) -> Tensor:
        a, a_prime, b = (autoencoder.to_latent(x) for x in as_batch(items)[:3])
        return autoencoder.to_picture(b + a_prime - a)

    def oracle(items: list[Analogy]) -> Tensor:
        instructions = relation_vectors([get_relation(x.relation) for x in items])
        latent = autoencoder.to_latent(as_batch(items)[2])
        with editor.basis.disabled():
            drawn = editor.base.edit(latent, instructions, [seed] * len(items), steps)
        return autoencoder.to_picture(drawn)

    def edit_with(one: Editor) -> Method:
        return lambda items: one.edit(*as_batch(items)[:3], steps=steps, seed=seed).pictures

    methods: dict[str, Method] = {
        "copy b": lambda items: reconstruct(autoencoder, as_batch(items)[2]),
        "copy a'": lambda items: reconstruct(autoencoder, as_batch(items)[1]),
        "latent arithmetic": arithmetic,
        "oracle instruction": oracle,
    }
    if one_lora is not None:
        methods["one LoRA"] = edit_with(one_lora)
    methods["LoRWeB"] = edit_with(editor)
    return methods


def memoriser_method(
    autoencoder: MiniAutoencoder, kinds: Sequence[str] | None = None, size: int = 10_000, seed: int = 0
) -> Method:
    """The memoriser of the training distribution as a method; its answers pass through the autoencoder like all."""
    memoriser = Memoriser(Distribution(kinds, held_out()), size, seed)
    return lambda items: reconstruct(autoencoder, memoriser(*as_batch(items)[:3]))


def remembered(autoencoder: MiniAutoencoder, items: Sequence[Analogy], kinds: Sequence[str] | None) -> Method | None:
    """The memoriser with the answers that ``benchmarks.memoriser`` has written to ``data/memoriser.json``.

    Working them out takes minutes: 10,000 edits of every a. None where an analogy has no answer there.
    """
    path = data_dir() / "memoriser.json"
    stored = read_json(path).get(",".join(kinds or ["all"])) if path.is_file() else None
    if stored is None or any(key_of(x) not in stored["chosen"] for x in items):
        return None
    memoriser = Memoriser(Distribution(kinds, held_out()), stored["size"], stored["seed"])

    def method(part: list[Analogy]) -> Tensor:
        rows = np.array([stored["chosen"][key_of(x)] for x in part])
        return reconstruct(autoencoder, memoriser.chains[rows].apply(as_batch(part)[2]))

    return method


def key_of(item: Analogy) -> str:
    """What an analogy is called in ``data/memoriser.json``: its relation and the picture a."""
    return f"{item.relation} {item.keys[0]}"
