"""Words for an edit of any strength: sentence vectors on a grid of strengths, interpolated between neighbours.

Training draws a fresh strength for every sample and cannot embed a fresh sentence for each. So every kind has a grid of
sentences whose vectors are cached; a strength between two of them gets the vector between theirs, of the same norm, and
a chain of edits the normalised sum of its parts. No sentence model is needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from ..errors import InputError
from ..models.base import TEXT_WIDTH
from ..models.text import cached_vectors, vectors_of
from .distributions import LONGEST, Chains
from .edits import EDITS
from .relations import Relation

HUES = ("red", "orange", "yellow", "lime", "green", "mint", "cyan", "sky blue", "blue", "violet", "magenta", "pink")
DIRECTIONS = (
    "to the right",
    "to the bottom right",
    "to the bottom",
    "to the bottom left",
    "to the left",
    "to the top left",
    "to the top",
    "to the top right",
)
DISTANCES = {5.0: "slightly", 10.0: "a little", 16.0: "clearly", 24.0: "very far", 32.0: "half out of sight"}
CHANNELS = ("red", "green", "blue")
NORM = math.sqrt(TEXT_WIDTH)


def _hue(degrees: float) -> str:
    return HUES[round(degrees / 30) % 12]


@dataclass(frozen=True)
class Grid:
    """Sentences at the nodes of a grid of strengths.

    Attributes:
        nodes: for each axis the strengths of its nodes, in order.
        words: a node's strengths, one for each axis, to the words for {strength}; in a phrase without {strength} they
            follow a comma.
        period: where an axis closes to a circle; None where it does not.
        coordinates: strengths [B, P] to places on the axes [B, axes]; by default they are the same.
    """

    nodes: tuple[tuple[float, ...], ...]
    words: Callable[..., str]
    period: tuple[float | None, ...] = (None,)
    coordinates: Callable[[Tensor], Tensor] | None = None

    def weights(self, strength: Tensor) -> Tensor:
        """Weight of every node, [B, nodes], for strengths [B, P]; at most two of an axis are above 0."""
        places = strength if self.coordinates is None else self.coordinates(strength)
        out = places.new_ones(len(places), 1)
        for axis, (nodes, period) in enumerate(zip(self.nodes, self.period, strict=True)):
            weight = _between(torch.tensor(nodes), places[:, axis], period)
            out = (out[:, :, None] * weight[:, None, :]).flatten(1)
        return out

    def sentences(self, phrase: str) -> list[str]:
        """The phrase at every node, in the order of :meth:`weights`."""
        found: list[tuple[float, ...]] = [()]
        for nodes in self.nodes:
            found = [(*first, node) for first in found for node in nodes]
        return [_sentence(phrase, self.words(*node)) for node in found]


def _between(nodes: Tensor, value: Tensor, period: float | None) -> Tensor:
    """Linear interpolation weights [B, nodes] of values [B]; constant beyond the ends of an axis that is no circle."""
    if len(nodes) == 1:
        return value.new_ones(len(value), 1)
    if period is not None:
        nodes = torch.cat([nodes, nodes[:1] + period])
        value = (value - nodes[0]) % period + nodes[0]
    value = value.clamp(nodes[0].item(), nodes[-1].item())
    right = torch.searchsorted(nodes, value).clamp(1, len(nodes) - 1)
    share = (value - nodes[right - 1]) / (nodes[right] - nodes[right - 1])
    rows = torch.arange(len(value))
    weight = torch.zeros(len(value), len(nodes))
    weight[rows, right - 1] = 1 - share
    weight[rows, right] = share
    if period is not None:
        weight[:, 0] += weight[:, -1]
        weight = weight[:, :-1]
    return weight


def _sentence(phrase: str, words: str) -> str:
    if "{strength}" in phrase:
        return phrase.format(strength=words)
    return f"{phrase}, {words}" if words else phrase


def _steps(**words: float) -> Grid:
    """A grid of one axis from words to strengths; underscores in words are blanks."""
    said = {value: name.replace("_", " ") for name, value in words.items()}
    return Grid((tuple(sorted(said)),), lambda node: said[node])


def _circle(words: Callable[[float], str]) -> Grid:
    return Grid((tuple(range(0, 360, 30)),), words, (360,))


def _polar(strength: Tensor) -> Tensor:
    angle = torch.rad2deg(torch.atan2(strength[:, 1], strength[:, 0])) % 360
    return torch.stack([angle, strength.norm(dim=1)], 1)


def _mix_weights(strength: Tensor) -> Tensor:
    """Weights [B, 27]: a matrix whose rows sum to 1 is a mean of the 27 that take every channel from one channel."""
    rows = strength.view(-1, 3, 3)
    rows = rows / rows.sum(-1, keepdim=True).clamp_min(1e-6)
    return torch.einsum("bi,bj,bk->bijk", *rows.unbind(1)).flatten(1)


class _MixGrid(Grid):
    def weights(self, strength: Tensor) -> Tensor:
        return _mix_weights(strength)


GRIDS: dict[str, Grid] = {
    "hue": _circle(lambda d: f"{d:g} degrees, so that red becomes {_hue(d)}"),
    "rotate": _circle(lambda d: f"{d:g} degrees, until the top points to {round(d / 30) or 12} o'clock"),
    "grey": Grid(
        ((0.25, 0.5, 0.75, 1.0),),
        lambda a: {0.25: "a quarter of the way", 0.5: "half of the way", 0.75: "almost wholly", 1.0: ""}[a],
    ),
    "background": _circle(_hue),
    "tint": _circle(_hue),
    "screen": _circle(_hue),
    "darken": _steps(almost_to_black=0.05, very_much=0.25, clearly=0.45, a_little=0.65, barely=0.85),
    "fade": _steps(barely=0.2, a_little=0.4, clearly=0.6, very_much=0.8, almost_wholly=0.95),
    "saturate": _steps(colourless=0.0, dull=0.3, slightly_dull=0.6, slightly_vivid=1.6, vivid=3.0, garish=4.0),
    "contrast": _steps(almost_no=0.2, weaker=0.4, slightly_weaker=0.7, slightly_stronger=1.5, stronger=2, extreme=3),
    "threshold": _steps(
        only_what_is_very_dark_stays_black=0.5, dark_parts_become_black=0.6, half_of_it_becomes_black=0.7,
        most_of_it_becomes_black=0.8, almost_everything_becomes_black=0.9,
    ),
    "blur": _steps(barely=0.5, slightly=1.0, clearly=2.0, strongly=4.0, extremely=6.0),
    "pixelate": _steps(tiny=2.0, small=4.0, medium=8.0, large=16.0, huge=24.0),
    "thicken": _steps(a_little=0.5, clearly=1.0, very_much=2.0, enormously=3.0),
    "outline": _steps(with_faint_lines=0.5, with_thin_lines=1.0, with_clear_lines=2.0, with_heavy_lines=4.0),
    "shrink": _steps(to_a_dot=0.15, very_much=0.35, clearly=0.55, a_little=0.75, barely=0.9),
    "zoom": Grid(((1.1, 1.3, 1.6, 2.2, 3.0),), lambda z: f"{z:g} times"),
    "move": Grid(
        (tuple(range(0, 360, 45)), tuple(DISTANCES)),
        lambda d, far: f"{DISTANCES[far]} {DIRECTIONS[round(d / 45)]}",
        (360, None),
        _polar,
    ),
    "tile": _steps(two_by_two=2.0, three_by_three=3.0, four_by_four=4.0),
    "frame": _steps(very_thin=1.0, thin=2.0, of_medium_width=4.0, wide=8.0),
    "wave": _steps(barely=1.5, slightly=3.0, clearly=5.0, strongly=8.0),
    "duotone": Grid(
        (tuple(range(0, 360, 60)), tuple(range(0, 360, 60))),
        lambda dark, pale: f"dark {_hue(dark)} and pale {_hue(pale)}",
        (360, 360),
    ),
    "mix": _MixGrid(
        ((0, 1, 2),) * 3,
        lambda r, g, b: f"red from {CHANNELS[int(r)]}, green from {CHANNELS[int(g)]}, blue from {CHANNELS[int(b)]}",
        (None,) * 3,
    ),
}  # fmt: skip
WHOLE = ("invert", "flip_horizontal", "flip_vertical", "transpose", "mirror_half", "sepia")
KINDS = (*GRIDS, *WHOLE)


def grid_of(kind: str) -> Grid:
    """The grid of a kind; kinds without a strength have one node. InputError for a kind that has no words."""
    if kind in WHOLE:
        return Grid(((1.0,),), lambda _: "")
    if kind not in GRIDS:
        raise InputError(f"expected a kind with words for its strengths, one of {', '.join(KINDS)}; got {kind!r}")
    return GRIDS[kind]


def all_sentences() -> list[str]:
    """Every sentence of every grid."""
    return [text for kind in KINDS for phrase in EDITS[kind].phrase for text in grid_of(kind).sentences(phrase)]


@cache
def _vectors(kind: str) -> Tensor:
    """Vectors [phrases, nodes, 384] of one kind."""
    return torch.stack([vectors_of(grid_of(kind).sentences(phrase)) for phrase in EDITS[kind].phrase])


def edit_vectors(kind: str, strength: Tensor, phrasing: Tensor) -> Tensor:
    """Instruction vectors [B, 384] for strengths [B, P].

    Args:
        phrasing: weight of each of the kind's phrases [B, phrases], rows sum to 1.
    """
    mixed = torch.einsum("bp,bn,pnd->bd", phrasing, grid_of(kind).weights(strength), _vectors(kind))
    return NORM * torch.nn.functional.normalize(mixed, dim=-1)


def chain_vectors(chains: Chains, generator: torch.Generator | None = None, held_out: bool = False) -> Tensor:
    """Instruction vectors [B, 384] of chains: the normalised sum over their edits.

    Args:
        generator: mixes two random phrasings of those that training may show; None takes the usual, first one.
        held_out: take the phrasing that no training shows instead.
    """
    out = torch.zeros(len(chains), TEXT_WIDTH)
    for place in range(LONGEST):
        for kind in sorted(set(chains.kinds[:, place]) - {""}):
            rows = torch.from_numpy((chains.kinds[:, place] == kind).nonzero()[0])
            edit = EDITS[kind]
            phrasing = torch.zeros(len(rows), len(edit.phrase))
            if held_out:
                phrasing[:, -1] = 1
            elif generator is None:
                phrasing[:, 0] = 1
            else:
                shown = len(edit.phrase) - 1
                pair = torch.randint(shown, (len(rows), 2), generator=generator)
                share = torch.rand(len(rows), generator=generator)
                phrasing.scatter_add_(1, pair, torch.stack([share, 1 - share], 1))
            out[rows] += edit_vectors(kind, chains.strengths[rows, place, : edit.parameters], phrasing)
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
    out = torch.zeros(len(chosen), TEXT_WIDTH)
    if chains:
        out[list(chains)] = chain_vectors(Chains.of(list(chains.values())))
    if others := [i for i in range(len(chosen)) if i not in chains]:
        out[others] = vectors_of([chosen[i].instructions[0] for i in others])
    return out
