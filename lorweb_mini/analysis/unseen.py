"""Panels of analogies on edits that no training sampled, and compositions judged by their parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..emoji.distributions import Distribution, held_out, unseen
from ..emoji.edits import EDITS, apply_edit
from ..emoji.relations import UNSEEN_DEGREES, Analogy, Relation, analogies, chain_name, relations, unseen_relations
from ..errors import InputError, whole_number
from ..models.autoencoder import MiniAutoencoder
from .evaluation import Method, draw, nearest, reconstruct
from .space import spread_out

DRAWN = {1: "drawn edit", 2: "drawn pair", 3: "drawn triple"}
PARTS = ("b", "first edit alone", "second edit alone", "both")


@dataclass(frozen=True)
class Panel:
    """Analogies on concepts of one split, by relation; relations by :data:`DRAWN` and :data:`UNSEEN_DEGREES`."""

    analogies: dict[str, list[Analogy]]
    groups: dict[str, list[str]]

    @property
    def items(self) -> list[Analogy]:
        """All analogies in a row."""
        return [x for items in self.analogies.values() for x in items]


def panel(part: str = "val", n: int = 8, drawn: int = 16, kinds: Sequence[str] | None = None, seed: int = 0) -> Panel:
    """The analogies by which a recipe is chosen (``val``) or a result is reported (``test``).

    Args:
        n: analogies of each relation.
        drawn: relations of each length that the training distribution could have drawn.
        kinds: keeps to edits of these kinds, for a basis that was shown no others. A relation inside the span stays
            where the chain that reproduces it is of these kinds, one outside always.
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
            reproduced = degree == "inside" and nearest_kinds[relation.name] <= allowed
            if own <= allowed or reproduced or degree == "outside":
                names.setdefault(degree, []).append(relation.name)
    items = {name: analogies(part, name, seed, n) for members in names.values() for name in members}
    items = {name: some for name, some in items.items() if len(some) > 1}
    groups = {group: [name for name in members if name in items] for group, members in names.items()}
    return Panel(items, {group: members for group, members in groups.items() if members})


def seen_analogies(kinds: Sequence[str] | None, count: int, seed: int = 0) -> list[Analogy]:
    """One analogy on training concepts of each of up to ``count`` relations that a training could have drawn.

    ``kinds`` of edits are as in :func:`panel`.
    """
    chains = Distribution(kinds, held_out()).draw(np.random.default_rng([seed, 5]), whole_number(count, "count"))
    names = dict.fromkeys(chain_name(chain) for chain in chains.as_lists())
    # Two edits without a strength in a row, such as two flips, are found by name only where they are listed.
    found = [name for name in names if "=" in name or name in relations()]
    return [x for name in found for x in analogies("train", name, seed, 1)]


def one_of_each(panel: Panel, count: int = 12) -> list[Analogy]:
    """The first analogy of ``count`` unseen relations, as many of each degree as there are, in a fixed order.

    Which relations these are depends on their names alone: of each degree they are evenly spaced in the alphabet. No
    answer is looked at. InputError for a panel without unseen relations.
    """
    left = {degree: panel.groups[degree] for degree in UNSEEN_DEGREES if degree in panel.groups}
    if not left:
        raise InputError(f"expected a panel with unseen relations, got the groups {list(panel.groups)}")
    shares = dict.fromkeys(left, 0)
    for _ in range(min(whole_number(count, "count"), sum(map(len, left.values())))):
        # One after the other to the degree that has fewest so far, of those with relations to spare.
        shares[min((d for d in left if shares[d] < len(left[d])), key=lambda d: shares[d])] += 1
    chosen = [name for degree, share in shares.items() for name in spread_out(left[degree], share)]
    return [panel.analogies[name][0] for name in chosen]


def cut(panel: Panel, count: int) -> Panel:
    """The first ``count`` analogies of each relation of a panel."""
    return Panel({name: items[:count] for name, items in panel.analogies.items()}, panel.groups)


def merged_groups(panel: Panel, names: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Groups of relations under new names, each the union of some of a panel's; those without relations left out."""
    found = {name: [x for part in parts for x in panel.groups.get(part, [])] for name, parts in names.items()}
    return {name: members for name, members in found.items() if members}


def part_shares(
    method: Method,
    items_by_relation: dict[str, list[Analogy]],
    relations: Sequence[Relation],
    autoencoder: MiniAutoencoder,
) -> dict[str, float]:
    """For compositions of two edits: the share of results nearest to each of :data:`PARTS`, over all analogies.

    A median error hides what is missing: a picture that is dark already changes little when it is turned as well.
    """
    count = dict.fromkeys(PARTS, 0)
    for relation in relations:
        items = items_by_relation[relation.name]
        for item, result in zip(items, draw(method, items), strict=True):
            first, second = (apply_edit(item.b[None], *edit)[0] for edit in relation.edits)
            candidates = reconstruct(autoencoder, torch.stack([item.b, first, second, item.b_prime]))
            count[PARTS[nearest(result, candidates)]] += 1
    total = max(1, sum(count.values()))
    return {part: k / total for part, k in count.items()}
