"""The basis: N LoRAs of rank r in every adapted layer, held as one PEFT adapter with a gate in its middle.

    sum_n c_n B_n A_n x  =  B · ( repeat(c, r) ∘ (A x) ),   A = [A_1; …; A_N],  B = [B_1 … B_N]

so the basis *is* a plain PEFT LoRA of rank N·r plus a forward hook that scales the output of A. Everything that PEFT
and diffusers do with a LoRA works on it, and one analogy's mixture folds into a plain LoRA by scaling B's columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor, nn

from ..adapter import Adapter, adapted_linears
from ..algebra import fold
from ..errors import InputError
from ..images import is_plain, kind_of

ADAPTER = "basis"
# By id of a basis: the coefficients of Basis.mixed, each thread's and each asynchronous task's own.
_MIXED: ContextVar[dict[int, Tensor | None] | None] = ContextVar("mixed", default=None)


class Basis(Adapter):
    """N gated LoRAs of rank r on a transformer, added in place. Without coefficients the transformer is the bare base.

    ``adapted`` is one of :data:`~lorweb_mini.adapter.LAYERS`; the paper adapts all.

    Attributes:
        layers: names of the adapted Linear modules; index l of coefficients [batch, layers, N] is layers[l].
        merged: the mixture [layers, N] that :meth:`frozen` has merged into the base, else None.
    """

    def __init__(self, transformer: FluxTransformer2DModel, n_loras: int, rank: int, adapted: str = "all") -> None:
        # B starts at zero, so the basis starts as the base.
        super().__init__(transformer, ADAPTER, adapted_linears(transformer, adapted), n_loras * rank)
        self.n_loras, self.rank = n_loras, rank
        self._everywhere: Tensor | None = None
        for index, layer in enumerate(self.modules):
            # No closure, so that a copied or unpickled transformer has gates of its own.
            layer.lora_A[ADAPTER].register_forward_hook(partial(self._gate, index))

    def _gate(self, index: int, module: nn.Module, inputs: tuple[Tensor], low_rank: Tensor) -> Tensor:
        if (coefficients := self.coefficients) is None:
            return torch.zeros_like(low_rank)
        gate = coefficients[:, index].repeat_interleave(self.rank, dim=-1)
        return low_rank * gate.view(len(gate), *[1] * (low_rank.ndim - 2), -1)

    @property
    def coefficients(self) -> Tensor | None:
        """What the gate applies now, [batch, layers, N]; None is nothing, the bare base, bit for bit.

        Inside :meth:`mixed` its coefficients, which no other thread sees. Set outside of it they hold in all threads,
        also in those in which autograd computes checkpointed blocks once more.
        """
        return (_MIXED.get() or {}).get(id(self), self._everywhere)

    @coefficients.setter
    def coefficients(self, value: Tensor | None) -> None:
        if id(self) in (mine := _MIXED.get() or {}):
            mine[id(self)] = value
        else:
            self._everywhere = value

    @contextmanager
    def mixed(self, coefficients: Tensor | None) -> Iterator[None]:
        """Within this context sample i of a batch uses its own mixture coefficients[i] (dynamic, differentiable)."""
        token = _MIXED.set({**(_MIXED.get() or {}), id(self): coefficients})
        try:
            yield
        finally:
            _MIXED.reset(token)

    def check(self, coefficients: Tensor) -> Tensor:
        """Coefficients as [batch, layers, N]; a single analogy may come as [layers, N]. InputError for other shapes."""
        shape = f"[batch, {len(self.layers)} layers, {self.n_loras} LoRAs]"
        if not isinstance(coefficients, Tensor):
            raise InputError(f"expected coefficients as a tensor {shape}, got {type(coefficients).__name__}")
        if not is_plain(coefficients) or coefficients.is_complex():
            raise InputError(f"expected coefficients as a dense real tensor {shape}, got {kind_of(coefficients)}")
        given = coefficients[None] if coefficients.ndim == 2 else coefficients
        if given.ndim != 3 or given.shape[1:] != (len(self.layers), self.n_loras) or len(given) == 0:
            raise InputError(f"expected coefficients of shape {shape}, got {list(coefficients.shape)}")
        given = given.float()  # in which a large double is infinite
        if not torch.isfinite(given).all():
            raise InputError("expected finite coefficients, got NaN or infinity among them")
        return given

    def factors(self, layer: int) -> tuple[Tensor, Tensor]:
        """A [N, r, in] and B [N, out, r] of one layer, as views: ``A[n]`` and ``B[n]`` are the n-th LoRA."""
        module = self.modules[layer]
        low, high = module.lora_A[ADAPTER].weight, module.lora_B[ADAPTER].weight
        size = self.n_loras, self.rank
        return low.view(*size, -1), high.view(-1, *size).transpose(0, 1)

    def folds(self, coefficients: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """One analogy's mixture [layers, N] as a plain LoRA: A [N·r, in] and B·diag(c) [out, N·r], layer by layer."""
        (mixture,) = self._one(coefficients)
        return (fold(*self.factors(index), row) for index, row in enumerate(mixture))

    def folded(self, coefficients: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """What :meth:`folds` gives by layer name, in ordinary memory; InputError as in :meth:`frozen`."""
        pairs = self.folds(coefficients)
        return {name: (low.cpu(), high.cpu()) for name, (low, high) in zip(self.layers, pairs, strict=True)}

    def frozen(self, coefficients: Tensor, value: Any = None) -> AbstractContextManager[Any]:
        """Within this context one analogy's mixture is merged into the base, at the cost of the bare base.

        W + sum_n c_n B_n A_n is exact, since c depends on neither token nor time step; in half precision the sum is
        rounded once more than in the dynamic form. ``value`` is what ``with ... as`` gives.

        Raises:
            InputError: coefficients as in :meth:`check`, or of several analogies; another merged mixture, as the
                context is entered.
        """
        return self.merging(self.folds(coefficients), self._one(coefficients)[0], value)

    def _one(self, coefficients: Tensor) -> Tensor:
        if len(checked := self.check(coefficients)) != 1:
            raise InputError(f"expected the coefficients of one analogy, got a batch of {len(checked)}")
        return checked

    def parameters(self) -> list[nn.Parameter]:
        """The trainable A and B of all layers."""
        return [m[ADAPTER].weight for layer in self.modules for m in (layer.lora_A, layer.lora_B)]

    def state_dict(self) -> dict[str, Tensor]:
        """``<module>.lora_A.weight`` [N·r, in] and ``<module>.lora_B.weight`` [out, N·r] for every layer."""
        names = [f"{layer}.{factor}.weight" for layer in self.layers for factor in ("lora_A", "lora_B")]
        return {name: weight.detach() for name, weight in zip(names, self.parameters(), strict=True)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restores :meth:`state_dict`; InputError names a tensor that is missing, unknown or of another shape."""
        own = self.state_dict()
        if unknown := sorted(state.keys() - own.keys()):
            raise InputError(f"expected tensors of the basis alone, got {unknown[0]!r}, too")
        for name, ours in own.items():
            if name not in state:
                raise InputError(f"expected a tensor {name!r} of shape {list(ours.shape)} in the basis, found none")
            if state[name].shape != ours.shape:
                raise InputError(f"expected {name!r} of shape {list(ours.shape)}, got {list(state[name].shape)}")
            ours.copy_(state[name])

    def __getstate__(self) -> dict[str, Any]:
        everywhere = None if self._everywhere is None else self._everywhere.detach()
        return super().__getstate__() | {"_everywhere": everywhere}
