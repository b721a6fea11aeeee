"""The basis: N LoRAs of rank r in every adapted layer, held as one PEFT adapter with a gate in its middle.

    sum_n c_n B_n A_n x  =  B · ( repeat(c, r) ∘ (A x) ),   A = [A_1; …; A_N],  B = [B_1 … B_N]

so the basis *is* a plain PEFT LoRA of rank N·r plus a forward hook that scales the output of A. Everything that PEFT
and diffusers do with a LoRA works on it, and one analogy's mixture folds into a plain LoRA by scaling B's columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from diffusers import FluxTransformer2DModel
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from ..errors import InputError

ADAPTER = "basis"


def adapted_linears(transformer: nn.Module) -> list[str]:
    """Names of every Linear inside the double and single blocks, modulation included: the paper's choice."""
    return [
        name
        for name, module in transformer.named_modules()
        if isinstance(module, nn.Linear) and name.startswith(("transformer_blocks.", "single_transformer_blocks."))
    ]


class Basis:
    """N gated LoRAs of rank r on a transformer, added in place.

    Attributes:
        layers: names of the adapted Linear modules; index l of coefficients [batch, layers, N] is layers[l].
        coefficients: what the gate applies now, [batch, layers, N]; None applies nothing, as if every c_n were 1.
    """

    def __init__(self, transformer: FluxTransformer2DModel, n_loras: int, rank: int) -> None:
        self.transformer, self.n_loras, self.rank = transformer, n_loras, rank
        self.layers = adapted_linears(transformer)
        width = n_loras * rank
        # alpha = r makes PEFT's own factor alpha / r equal to 1. B starts at zero, so the basis starts as the base.
        config = LoraConfig(r=width, lora_alpha=width, target_modules=self.layers)
        transformer.add_adapter(config, adapter_name=ADAPTER)
        self.coefficients: Tensor | None = None
        modules = dict(transformer.named_modules())
        self.modules: list[LoraLayer] = [modules[name] for name in self.layers]
        for index, layer in enumerate(self.modules):
            layer.lora_A[ADAPTER].register_forward_hook(self._gate(index))

    def _gate(self, index: int):
        def hook(module: nn.Module, inputs: tuple[Tensor], low_rank: Tensor) -> Tensor:
            if self.coefficients is None:
                return low_rank
            gate = self.coefficients[:, index].repeat_interleave(self.rank, dim=-1)
            return low_rank * gate.view(len(gate), *[1] * (low_rank.ndim - 2), -1)

        return hook

    def check(self, coefficients: Tensor) -> Tensor:
        """Coefficients as [batch, layers, N]; a single analogy may come as [layers, N]. InputError for other shapes."""
        expected = (len(self.layers), self.n_loras)
        if not isinstance(coefficients, Tensor):
            raise InputError(
                f"expected coefficients as a tensor [batch, {expected[0]}, {expected[1]}], "
                f"got {type(coefficients).__name__}"
            )
        if coefficients.ndim == 2:
            coefficients = coefficients[None]
        if coefficients.ndim != 3 or tuple(coefficients.shape[1:]) != expected or len(coefficients) == 0:
            raise InputError(
                f"expected coefficients of shape [batch, {expected[0]} layers, {expected[1]} LoRAs], "
                f"got {list(coefficients.shape)}"
            )
        if not torch.isfinite(coefficients).all():
            raise InputError("expected finite coefficients, got NaN or infinity among them")
        return coefficients.float()

    @contextmanager
    def mixed(self, coefficients: Tensor | None) -> Iterator[None]:
        """Within this context sample i of a batch uses its own mixture coefficients[i] (dynamic, differentiable)."""
        before = self.coefficients
        self.coefficients = coefficients
        try:
            yield
        finally:
            self.coefficients = before

    def factors(self, layer: int) -> tuple[Tensor, Tensor]:
        """A [N, r, in] and B [N, out, r] of one layer, as views: ``A[n]`` and ``B[n]`` are the n-th LoRA."""
        module = self.modules[layer]
        low, high = module.lora_A[ADAPTER].weight, module.lora_B[ADAPTER].weight
        return (
            low.view(self.n_loras, self.rank, -1),
            high.view(high.shape[0], self.n_loras, self.rank).permute(1, 0, 2),
        )

    def folded(self, coefficients: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """One analogy's mixture [layers, N] as a plain LoRA: layer name to (A [N·r, in], B·diag(c) [out, N·r])."""
        coefficients = self.check(coefficients)
        if len(coefficients) != 1:
            raise InputError(f"expected the coefficients of one analogy, got a batch of {len(coefficients)}")
        gates = coefficients[0].repeat_interleave(self.rank, dim=-1)
        return {
            name: (module.lora_A[ADAPTER].weight.detach(), module.lora_B[ADAPTER].weight.detach() * gate)
            for name, module, gate in zip(self.layers, self.modules, gates, strict=True)
        }

    @contextmanager
    def frozen(self, coefficients: Tensor) -> Iterator[None]:
        """Within this context the mixture is merged into the base, whose forward pass then costs what it always does.

        W + sum_n c_n B_n A_n is exact, since c depends on neither token nor time step. The original weights come back
        bit for bit.
        """
        merged = self.folded(coefficients)
        originals = []
        for module, (low, high) in zip(self.modules, merged.values(), strict=True):
            linear = module.get_base_layer()
            originals.append(linear.weight.data)
            linear.weight.data = linear.weight.data + high @ low
        try:
            with self.disabled():
                yield
        finally:
            for module, weight in zip(self.modules, originals, strict=True):
                module.get_base_layer().weight.data = weight

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Within this context the transformer is the bare base."""
        off = [module.disable_adapters for module in self.modules]
        trainable = [parameter.requires_grad for parameter in self.parameters()]
        for module in self.modules:
            module.enable_adapters(False)
        try:
            yield
        finally:
            for module, was_off in zip(self.modules, off, strict=True):
                module.enable_adapters(not was_off)
            # PEFT makes an adapter trainable when it enables it; a loaded basis must stay as it was.
            for parameter, flag in zip(self.parameters(), trainable, strict=True):
                parameter.requires_grad_(flag)

    def parameters(self) -> list[nn.Parameter]:
        """The trainable A and B of all layers."""
        return [m[ADAPTER].weight for layer in self.modules for m in (layer.lora_A, layer.lora_B)]

    def state_dict(self) -> dict[str, Tensor]:
        """``<module>.lora_A.weight`` [N·r, in] and ``<module>.lora_B.weight`` [out, N·r] for every layer."""
        state = {}
        for name, module in zip(self.layers, self.modules, strict=True):
            state[f"{name}.lora_A.weight"] = module.lora_A[ADAPTER].weight.detach()
            state[f"{name}.lora_B.weight"] = module.lora_B[ADAPTER].weight.detach()
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restores :meth:`state_dict`; InputError names the first tensor that is missing or of another shape."""
        for name, ours in self.state_dict().items():
            if name not in state:
                raise InputError(f"expected a tensor {name!r} of shape {list(ours.shape)} in the basis, found none")
            if state[name].shape != ours.shape:
                raise InputError(f"expected {name!r} of shape {list(ours.shape)}, got {list(state[name].shape)}")
            ours.copy_(state[name])
