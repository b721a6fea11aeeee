"""Words for an edit of any strength: sentence vectors on a grid of strengths, interpolated between neighbours.

Training has a fresh strength for every sample and cannot embed a fresh sentence for each. So every kind has a grid of
sentences whose vectors are cached; a strength between two of them gets the vector between theirs, of the same norm, and
a chain of edits the normalised sum of its parts.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from ..errors import InputError
from ..models.base import TEXT_WIDTH
from ..models.text import cached_vectors, vectors_of
from .distributions import Chains
from .edits import EDITS
from .relations import Relation

HUES = ("red", "orange", "yellow", "lime", "green", "mint", "cyan", "sky blue", "blue", "violet", "magenta", "pink")
DIRECTIONS = (
    "to the right", "to the bottom right", "to the bottom", "to the bottom left",
    "to the left", "to the top left", "to the top", "to the top right",
)  # fmt: skip
DISTANCES = {5.0: "slightly", 10.0: "a little", 16.0: "clearly", 24.0: "very far", 32.0: "half out of sight"}
CHANNELS = ("red", "green", "blue")
NORM = math.sqrt(TEXT_WIDTH)


def _hue(degrees: float) -> str:
    return HUES[round(degrees / 30) % 12]


@dataclass(frozen=True)
class Axis:
    """One axis of a grid of strengths: its nodes in order, and their weights [B, nodes] for strengths [B, P]."""

    nodes: tuple[float, ...]
    weights: Callable[[Tensor], Tensor]


def _axis(nodes: Sequence[float], value: Callable[[Tensor], Tensor], period: float | None = None) -> Axis:
    """Linear interpolation of a value [B] between nodes; an axis without a period is constant beyond its ends."""

    def weights(strength: Tensor) -> Tensor:
        at = value(strength)
        places = at.new_tensor(nodes)
        if period is not None:
            places = torch.cat([places, places[:1] + period])
            at = (at - places[0]) % period + places[0]
        at = at.clamp(places[0].item(), places[-1].item())
        right = torch.searchsorted(places, at).clamp(1, len(places) - 1)
        share = (at - places[right - 1]) / (places[right] - places[right - 1])
        rows = torch.arange(len(at), device=at.device)
        weight = at.new_zeros(len(at), len(places))
        weight[rows, right - 1] = 1 - share
        weight[rows, right] = share
        if period is not None:
            weight[:, 0] += weight[:, -1]
            weight = weight[:, :-1]
        return weight

    return Axis(tuple(nodes), weights)


@dataclass(frozen=True)
class Grid:
    """Sentences at the nodes of a grid of strengths.

    Attributes:
        words: a node's strengths, one for each axis, to the words for {strength}; in a phrase without {strength} they
            follow a comma.
        axes: at least one.
    """

    words: Callable[..., str]
    axes: tuple[Axis, ...]

    def weights(self, strength: Tensor) -> Tensor:
        """Weight of every node, [B, nodes], for strengths [B, P]."""
        out = strength.new_ones(len(strength), 1)
        for axis in self.axes:
            out = (out[:, :, None] * axis.weights(strength)[:, None, :]).flatten(1)
        return out

    def sentences(self, phrase: str) -> list[str]:
        """The phrase at every node, in the order of :meth:`weights`."""
        words = [self.words(*node) for node in itertools.product(*(axis.nodes for axis in self.axes))]
        if "{strength}" in phrase:
            return [phrase.format(strength=text) for text in words]
        return [f"{phrase}, {text}" if text else phrase for text in words]


def _circle(words: Callable[..., str], step: int = 30, columns: int = 1) -> Grid:
    """Angles: each number of a strength is an axis that closes to a circle."""
    return Grid(words, tuple(_axis(range(0, 360, step), _number(i), 360) for i in range(columns)))


def _number(index: int) -> Callable[[Tensor], Tensor]:
    return lambda strength: strength[:, index]


def _direction(strength: Tensor) -> Tensor:
    return torch.rad2deg(torch.atan2(strength[:, 1], strength[:, 0])) % 360


def _row(index: int) -> Callable[[Tensor], Tensor]:
    """One row of a matrix of channels, scaled to sum to 1: a mean of the three that take one channel alone."""

    def weights(strength: Tensor) -> Tensor:
        row = strength.view(-1, 3, 3)[:, index]
        return row / row.sum(-1, keepdim=True).clamp_min(1e-6)

    return weights


# Kinds whose edits have words at every node of one axis.
WORDED = (
    "grey", "darken", "fade", "saturate", "contrast", "threshold", "blur", "pixelate", "thicken", "outline", "shrink",
    "zoom", "tile", "frame", "wave",
)  # fmt: skip
WHOLE = ("invert", "flip_horizontal", "flip_vertical", "transpose", "mirror_half", "sepia")
GRIDS: dict[str, Grid] = {
    "hue": _circle(lambda d: f"{d:g} degrees, so that red becomes {_hue(d)}"),
    "rotate": _circle(lambda d: f"{d:g} degrees, until the top points to {round(d / 30) or 12} o'clock"),
    **dict.fromkeys(("background", "tint", "screen"), _circle(_hue)),
    "duotone": _circle(lambda dark, pale: f"dark {_hue(dark)} and pale {_hue(pale)}", 60, 2),
    "move": Grid(
        lambda d, far: f"{DISTANCES[far]} {DIRECTIONS[round(d / 45)]}",
        (_axis(range(0, 360, 45), _direction, 360), _axis(tuple(DISTANCES), lambda s: s.norm(dim=1))),
    ),
    "mix": Grid(
        lambda r, g, b: f"red from {CHANNELS[r]}, green from {CHANNELS[g]}, blue from {CHANNELS[b]}",
        tuple(Axis((0, 1, 2), _row(i)) for i in range(3)),
    ),
    **{k: Grid(EDITS[k].words.__getitem__, (_axis(tuple(EDITS[k].words), _number(0)),)) for k in WORDED},
    **dict.fromkeys(WHOLE, Grid(lambda _: "", (Axis((1.0,), lambda s: s.new_ones(len(s), 1)),))),
}
KINDS = tuple(GRIDS)


def grid_of(kind: str) -> Grid:
    """The grid of a kind; kinds without a strength have one node. InputError for a kind that has no words."""
    if kind not in GRIDS:
        raise InputError(f"expected a kind with words for its strengths, one of {', '.join(KINDS)}; got {kind!r}")
    return GRIDS[kind]


def all_sentences() -> list[str]:
    """Every sentence of every grid."""
    return [text for kind, grid in GRIDS.items() for phrase in EDITS[kind].phrase for text in grid.sentences(phrase)]


@cache
def _vectors(kind: str) -> Tensor:
    """Vectors [phrases, nodes, 384] of one kind."""
    return torch.stack([vectors_of(grid_of(kind).sentences(phrase)) for phrase in EDITS[kind].phrase])


def edit_vectors(kind: str, strength: Tensor, phrasing: Tensor) -> Tensor:
    """Instruction vectors [B, 384] for strengths [B, P].

    Args:
        phrasing: weight of each of the kind's phrases [B, phrases], rows sum to 1.
    """
    return joined(torch.einsum("bp,bn,pnd->bd", phrasing, grid_of(kind).weights(strength), _vectors(kind)))


def chain_vectors(chains: Chains, generator: torch.Generator | None = None, held_out: bool = False) -> Tensor:
    """Instruction vectors [B, 384] of chains: the normalised sum over their edits.

    Args:
        generator: mixes two random phrasings of those that training may show; None takes the usual, first one.
        held_out: take the phrasing that no training shows instead.
    """
    out = torch.zeros(len(chains), TEXT_WIDTH, dtype=torch.float32, device="cpu")
    for kind, rows, strength in chains.groups():
        phrasing = out.new_zeros(len(rows), len(EDITS[kind].phrase))
        if held_out:
            phrasing[:, -1] = 1
        elif generator is None:
            phrasing[:, 0] = 1
        else:
            pair = torch.randint(phrasing.shape[1] - 1, (len(rows), 2), generator=generator, device="cpu")
            share = torch.rand(len(rows), generator=generator, dtype=torch.float32, device="cpu")
            phrasing.scatter_add_(1, pair, torch.stack([share, 1 - share], 1))
        out[rows] += edit_vectors(kind, strength, phrasing)
    return joined(out)


def joined(total: Tensor) -> Tensor:
    """Sums of instruction vectors [B, 384] back to the norm of one; zero stays zero."""
    return NORM * torch.nn.functional.normalize(total, dim=-1)


def relation_vectors(chosen: Sequence[Relation]) -> Tensor:
    """Instruction vectors [k, 384] of relations in their usual words; of chains of edits the sums."""
    sentences = cached_vectors()
    chains = {
        i: r.edits
        for i, r in enumerate(chosen)
        if r.edits and r.instructions[0] not in sentences and all(kind in KINDS for kind, _ in r.edits)
    }
    out = vectors_of(["" if i in chains else r.instructions[0] for i, r in enumerate(chosen)])
    if chains:
        out[list(chains)] = chain_vectors(Chains.of(list(chains.values())))
    return out
