"""The LoRA space: routing vectors of analogies, use of the LoRAs, and inner products of their updates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from .. import algebra
from ..core.basis import Basis
from ..core.editor import Editor
from ..emoji.relations import Analogy, as_batch, get_relation
from ..emoji.sheets import load_emoji
from ..errors import InputError, whole_number
from ..training.log import routing_statistics

CHUNK = 256


def coefficients_of(editor: Editor, items: Sequence[Analogy]) -> Tensor:
    """Mixing coefficients of k analogies, [k, layers, N]."""
    if not items:
        raise InputError("expected at least one analogy, got none")
    return torch.cat([editor.route(*as_batch(part)[:3]) for part in _parts(items)])


def _parts(items: Sequence[Analogy]) -> list[Sequence[Analogy]]:
    return [items[i : i + CHUNK] for i in range(0, len(items), CHUNK)]


def routing_vectors(editor: Editor, items: Sequence[Analogy]) -> np.ndarray:
    """Routing vectors of k analogies: all layers' coefficients in a row, float32 [k, layers · N]."""
    return coefficients_of(editor, items).flatten(1).numpy()


def concepts_of(items: Sequence[Analogy]) -> list[str]:
    """The base concept that b shows, for each analogy: the unit by which data are split."""
    return [_concept(x.keys[2]) for x in items]


def spread_out(names: Sequence[str], count: int) -> list[str]:
    """At most ``count`` names, evenly spaced in alphabetical order: the same ones each time."""
    places = np.linspace(0, len(names) - 1, min(count, len(names))).round().astype(int)
    return [sorted(names)[i] for i in places]


def _concept(key: str) -> str:
    emoji = load_emoji()
    return emoji.emojis[emoji.index[key.rsplit("@", 1)[0]]].concept


@dataclass(frozen=True, eq=False)
class Cloud:
    """Routing of k analogies, without their pictures, which would need a gigabyte for every few thousand.

    The router's input is the standardised embeddings of a, a' and b, then that of the pair if it is used
    (:meth:`~lorweb_mini.core.router.Standardised.query`).
    """

    coefficients: Tensor  # [k, layers, N]
    queries: Tensor  # the router's input, [k, Q]
    relations: np.ndarray  # k names
    keys: tuple[tuple[str, ...], ...]  # the four pictures of each

    def __len__(self) -> int:
        return len(self.keys)

    @cached_property
    def vectors(self) -> np.ndarray:
        """Routing vectors, float32 [k, layers · N]."""
        return self.coefficients.flatten(1).numpy()

    @cached_property
    def families(self) -> np.ndarray:
        """Family of each relation (:class:`~lorweb_mini.emoji.relations.Relation`)."""
        names, index = np.unique(self.relations, return_inverse=True)
        return np.array([get_relation(name).family for name in names])[index]

    @cached_property
    def styles(self) -> np.ndarray:
        """Whose drawing b is."""
        return np.array([key[2].rsplit("@", 1)[1] for key in self.keys])

    @cached_property
    def concepts(self) -> np.ndarray:
        """Base concept of b."""
        return self.shown[:, 2]

    @cached_property
    def shown(self) -> np.ndarray:
        """Base concepts of a, a' and b, the pictures that the router reads, [k, 3]."""
        return np.array([[_concept(key) for key in keys[:3]] for keys in self.keys])


@torch.no_grad()
def cloud_of(editor: Editor, batches: Iterable[Sequence[Analogy]]) -> Cloud:
    """Routes lists of analogies by a router, and keeps no pictures: a generator is taken one list at a time."""
    if editor.router is None:
        raise InputError("expected an editor with a router, got one without")
    coefficients, queries, names, keys = [], [], [], []
    for items in batches:
        for part in _parts(items):
            latents = editor.autoencoder.to_latent(torch.cat(as_batch(part)[:3]))
            query = editor.router.query(*editor.embeddings(*latents.chunk(3)))
            queries.append(query)
            coefficients.append(editor.router.mix(editor.router.logits(query)))
            names += [x.relation for x in part]
            keys += [x.keys for x in part]
    if not keys:
        raise InputError("expected at least one analogy, got none")
    return Cloud(torch.cat(coefficients), torch.cat(queries), np.array(names), tuple(keys))


@dataclass(frozen=True)
class Usage:
    """How a set of analogies uses the basis, also by :func:`~lorweb_mini.training.log.routing_statistics`."""

    mean: np.ndarray  # coefficients, [layers, N]
    effective: np.ndarray  # exp(entropy of the mean), the number of LoRAs in use, 1 to N, [layers]
    entropy: float
    usage: float
    variation: float


def basis_usage(coefficients: Tensor) -> Usage:
    """Usage of the basis from coefficients [k, layers, N] whose rows sum to 1."""
    mean = coefficients.mean(0)
    return Usage(mean.numpy(), torch.special.entr(mean).sum(-1).exp().numpy(), **routing_statistics(coefficients))


def update_gram(basis: Basis, layer: int) -> Tensor:
    """Inner products ⟨ΔW_m, ΔW_n⟩ of one layer's updates, float64 [N, N], see :func:`~lorweb_mini.algebra.gram`."""
    return algebra.gram(*_factors(basis, layer))


def update_spectrum(basis: Basis, layer: int, mixture: Tensor, chance: torch.Generator | None = None) -> Tensor:
    """Singular values of one layer's mixed update ΔW = sum_n c_n B_n A_n, largest first, float64 [min(N·r, in, out)].

    ``chance`` puts random LoRAs in place of the basis' own: normal entries, and of every A_n and B_n the same norm.
    """
    low, high = _factors(basis, layer)
    if mixture.shape != (basis.n_loras,):
        raise InputError(f"expected coefficients [{basis.n_loras}] of one layer, got {list(mixture.shape)}")
    if chance is not None:
        low, high = (_random_like(x, chance) for x in (low, high))
    low, high = algebra.fold(low, high, mixture)
    return algebra.svd_of_product(high, low)[1]


def _random_like(factors: Tensor, generator: torch.Generator) -> Tensor:
    """Normal numbers [N, ...] with the norm of each of N matrices."""
    drawn = torch.randn(factors.shape, generator=generator, dtype=factors.dtype)
    return drawn * factors.norm(dim=(1, 2), keepdim=True) / drawn.norm(dim=(1, 2), keepdim=True)


def _factors(basis: Basis, layer: int) -> tuple[Tensor, Tensor]:
    low, high = basis.factors(whole_number(layer, "a layer", 0, len(basis.layers) - 1))
    return low.detach().double(), high.detach().double()
