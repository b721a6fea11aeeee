"""Generalisation: analogies on edits that no training drew, and the null model that they are held against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..emoji.distributions import Distribution, Memoriser, held_out, unseen
from ..emoji.edits import EDITS, apply_edit
from ..emoji.relations import UNSEEN_DEGREES, Analogy, Relation, analogies, as_batch, chain_name, unseen_relations
from ..files import data_dir, read_json
from ..models.autoencoder import MiniAutoencoder
from .evaluation import Method, draw, nearest, reconstruct

DRAWN = {1: "drawn edit", 2: "drawn pair", 3: "drawn triple"}
PARTS = ("b", "first edit alone", "second edit alone", "both")


@dataclass(frozen=True)
class Panel:
    """Analogies to be asked, on concepts of one split.

    Attributes:
        analogies: relation to its analogies.
        groups: ``drawn edit``, ``drawn pair``, ``drawn triple`` and the degrees of :data:`UNSEEN_DEGREES` to relations.
    """

    analogies: dict[str, list[Analogy]]
    groups: dict[str, list[str]]

    @property
    def items(self) -> list[Analogy]:
        """All analogies in a row."""
        return [x for found in self.analogies.values() for x in found]


def panel(part: str = "val", n: int = 8, drawn: int = 16, kinds: Sequence[str] | None = None, seed: int = 0) -> Panel:
    """The analogies by which a recipe is chosen (``val``) or a result is reported (``test``).

    Args:
        n: analogies of each relation.
        drawn: relations of each length that the training distribution could have drawn.
        kinds: keeps to edits of these kinds, for a basis that was shown no others; a relation inside the span stays
            where the chain that reproduces it is of these kinds.
    """
    allowed = set(EDITS) if kinds is None else set(kinds)
    nearest_kinds = {e["name"]: {kind for kind, _ in e["nearest"]} for e in unseen()["relations"]}
    names: dict[str, list[str]] = {}
    for length, group in DRAWN.items():
        distribution = Distribution(kinds, held_out(), [float(length == k) for k in DRAWN])
        # The seed is not the training's, so that hardly a strength is the same.
        chains = distribution.draw(np.random.default_rng([seed, length, part == "test", 77]), drawn)
        names[group] = [chain_name(chain) for chain in chains.as_lists()]
    for degree in UNSEEN_DEGREES:
        for relation in unseen_relations(part, degree):
            own = {kind for kind, _ in relation.edits}
            reached = own <= allowed or (degree == "inside" and nearest_kinds[relation.name] <= allowed)
            if kinds is None or reached:
                names.setdefault(degree, []).append(relation.name)
    found = {name: analogies(part, name, seed, n) for members in names.values() for name in members}
    found = {name: items for name, items in found.items() if len(items) > 1}
    groups = {group: [name for name in members if name in found] for group, members in names.items()}
    return Panel(found, {group: members for group, members in groups.items() if members})


def memoriser_method(
    autoencoder: MiniAutoencoder, kinds: Sequence[str] | None = None, size: int = 10_000, seed: int = 0
) -> Method:
    """The memoriser of the training distribution as a method; its answers pass through the autoencoder like all."""
    memoriser = Memoriser(Distribution(kinds, held_out()), size, seed)

    def method(items: list[Analogy]) -> Tensor:
        return reconstruct(autoencoder, memoriser(*as_batch(items)[:3]))

    return method


def remembered(autoencoder: MiniAutoencoder, items: Sequence[Analogy], kinds: Sequence[str] | None) -> Method | None:
    """The memoriser's answers where they have been worked out before, since 10,000 edits of every a take their time.

    ``benchmarks.memoriser`` writes them to ``data/memoriser.json``; None where an analogy has no answer there.
    """
    path = data_dir() / "memoriser.json"
    if not path.is_file():
        return None
    stored = read_json(path).get(",".join(kinds or ["all"]))
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


def part_shares(
    method: Method, items_by_relation: dict[str, list[Analogy]], relations: Sequence[Relation], autoencoder
) -> dict[str, float]:
    """For compositions of two edits: the share of results nearest to each of :data:`PARTS`, over all analogies.

    A median error hides what is missing: a picture that is dark already changes little when it is turned as well.
    """
    count = dict.fromkeys(PARTS, 0)
    for relation in relations:
        items = items_by_relation[relation.name]
        results = draw(method, items)
        for item, result in zip(items, results, strict=True):
            first, second = (edited(item.b, [edit]) for edit in relation.edits)
            candidates = reconstruct(autoencoder, torch.stack([item.b, first, second, item.b_prime]))
            count[PARTS[nearest(result, candidates)]] += 1
    total = max(1, sum(count.values()))
    return {part: k / total for part, k in count.items()}


def edited(picture: Tensor, edits: Sequence[tuple]) -> Tensor:
    """One picture [3, n, n] after edits."""
    x = picture[None]
    for kind, strength in edits:
        x = apply_edit(x, kind, strength)
    return x[0]
