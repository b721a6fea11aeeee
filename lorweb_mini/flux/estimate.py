"""Memory and hours of a training on FLUX.1-Kontext, from its configuration alone; no weight is read.

The real configuration with its basis is built on the ``meta`` device, one and two blocks deep, and runs forward and
backward there: every kernel is dispatched, none computes. From the differences come, per block and exactly,

* **operations**, as ``torch.utils.flop_counter`` counts matrix products (frozen weights have no gradient of their own;
  checkpointing computes each block's forward pass once more);
* **kept activations**, the bytes of every tensor that autograd saves for the backward pass, each storage once, without
  parameters, and without the attention matrix, which GPU kernels do not keep.

Memory is the base (quantised or not, as in :mod:`~lorweb_mini.flux.memory`), 16 bytes for each trained value (weight,
gradient and two moments in single precision), 2 for its copy in the base's precision, the autoencoder for sample
pictures, the activations, and 1 GiB for libraries. With checkpointing the activations are every block's input and one
block's own. With FSDP base and trained values are shared, but for one gathered block. Hours are operations by
published dense 16-bit peak times a stated utilisation. What is not in it: reading data, sample pictures, what
dequantising costs in time, fragmentation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ..core.basis import Basis
from .checkpoint import KONTEXT, ReleasedConfig, modules_of
from .memory import GIB, LIBRARIES, QUANTISED_BYTES, _bytes

PAPER = ReleasedConfig(n_loras=32, rank=4, keys_dim=128, query_dim=2304)
STEPS, BATCH = 10_000, 6
UTILISATION = 0.4
VAE_GIB = 0.2
TRAINED_BYTES, CAST_BYTES = 16, 2


@dataclass(frozen=True)
class Gpu:
    """A GPU type: usable GiB, and published dense 16-bit TFLOP/s with 32-bit sums."""

    name: str
    gib: float
    tflops: float


GPUS = (
    Gpu("A100 80 GB", 79, 312),
    Gpu("H100 SXM 80 GB", 79, 989),
    Gpu("L40S 48 GB", 44, 362),
    Gpu("RTX 4090 24 GB", 23.5, 165),
)


@dataclass(frozen=True)
class Cost:
    """Of one analogy, forward and backward.

    Attributes:
        flops: operations.
        kept: bytes of activations at the most.
    """

    flops: int
    kept: int


@dataclass(frozen=True)
class TrainingEstimate:
    """GiB by part on one GPU, and hours of the whole training if that GPU were alone.

    Attributes:
        parts: base, trained, activations, libraries and autoencoder.
        hours: on one GPU; k of them take a k-th, before communication.
    """

    gpu: Gpu
    parts: Mapping[str, float]
    hours: float

    @property
    def gib(self) -> float:
        """All of it."""
        return sum(self.parts.values())

    @property
    def fits(self) -> bool:
        """Whether the GPU has as much."""
        return self.gib <= self.gpu.gib


def saved_and_flops(
    transformer: FluxTransformer2DModel, config: ReleasedConfig, side: int, text_tokens: int
) -> tuple[int, int]:
    """Bytes that autograd keeps, and operations forward and backward, of one analogy.

    Args:
        transformer: on the ``meta`` device or a real one; a basis is added to it.
        config: sizes of the basis.
        side: of one picture in pixels.
        text_tokens: of a prompt.
    """
    device, dtype = transformer.device, transformer.dtype
    transformer.requires_grad_(False)
    basis = Basis(transformer, config.n_loras, config.rank)
    for parameter in basis.parameters():
        parameter.data = parameter.data.to(dtype)
        parameter.requires_grad_(True)
    rows, inputs = side // 8, transformer.config
    total = 2 * rows**2 + text_tokens
    basis.coefficients = torch.zeros(
        1, len(basis.layers), config.n_loras, dtype=dtype, device=device, requires_grad=True
    )
    own = {p.untyped_storage()._cdata for p in transformer.parameters()}
    kept: dict[int, int] = {}
    alive = []

    def pack(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage._cdata not in own and x.shape[-2:] != (total, total):
            kept[storage._cdata] = storage.nbytes()
            alive.append(x)  # or its storage's address could be another's
        return x

    zeros = {"device": device, "dtype": dtype}
    counter = FlopCounterMode(display=False)
    with counter:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            out = transformer(
                hidden_states=torch.zeros(1, 2 * rows**2, inputs["in_channels"], **zeros),
                encoder_hidden_states=torch.zeros(1, text_tokens, inputs["joint_attention_dim"], **zeros),
                pooled_projections=torch.zeros(1, inputs["pooled_projection_dim"], **zeros),
                timestep=torch.zeros(1, **zeros),
                guidance=torch.zeros(1, device=device) if inputs["guidance_embeds"] else None,
                img_ids=torch.zeros(2 * rows**2, 3, device=device),
                txt_ids=torch.zeros(text_tokens, 3, device=device),
                return_dict=False,
            )[0]
        out.sum().backward()
    return sum(kept.values()), counter.get_total_flops()


def cost(
    options: Mapping[str, Any] = KONTEXT,
    config: ReleasedConfig = PAPER,
    side: int = 512,
    text_tokens: int = 512,
    checkpointing: bool = True,
) -> Cost:
    """Operations and kept bytes of one analogy in bfloat16, from the configuration of a transformer alone."""

    def measured(doubles: int, singles: int) -> tuple[int, int]:
        sizes = {**options, "num_layers": doubles, "num_single_layers": singles}
        with torch.device("meta"):
            transformer = _half(FluxTransformer2DModel(**sizes))
            if checkpointing:
                transformer.enable_gradient_checkpointing()
            return saved_and_flops(transformer, config, side, text_tokens)

    small, double, single = measured(1, 1), measured(2, 1), measured(1, 2)
    counts = (options["num_layers"] - 1, options["num_single_layers"] - 1)
    kept, flops = (small[i] + counts[0] * (double[i] - small[i]) + counts[1] * (single[i] - small[i]) for i in range(2))
    if checkpointing:
        # Each block's input waits in the checkpoint itself; one block computes again and keeps what it keeps.
        with torch.device("meta"):
            width = FluxTransformer2DModel(**{**options, "num_layers": 1, "num_single_layers": 1}).inner_dim
        tokens = 2 * (side // 8) ** 2 + text_tokens
        kept += (options["num_layers"] + options["num_single_layers"]) * tokens * width * 2
        kept += max(_block_bytes(options, config, side, text_tokens))
    return Cost(flops, kept)


def _half(transformer: FluxTransformer2DModel) -> FluxTransformer2DModel:
    for parameter in transformer.parameters():
        parameter.data = parameter.data.bfloat16()
    return transformer


def _block_bytes(options: Mapping[str, Any], config: ReleasedConfig, side: int, text_tokens: int) -> tuple[int, int]:
    """What a double and a single block keep."""
    kept = []
    for depth in ((1, 1), (2, 1), (1, 2)):
        with torch.device("meta"):
            sizes = {**options, "num_layers": depth[0], "num_single_layers": depth[1]}
            transformer = _half(FluxTransformer2DModel(**sizes))
            kept.append(saved_and_flops(transformer, config, side, text_tokens)[0])
    return kept[1] - kept[0], kept[2] - kept[0]


def trained_values(transformer: FluxTransformer2DModel, config: ReleasedConfig) -> tuple[int, int]:
    """Number of values in the LoRAs of a basis on this bare transformer, and in its router."""
    adapted = modules_of(transformer)
    loras = config.n_loras * config.rank * sum(wide + high for wide, high in adapted.values())
    return loras, len(adapted) * config.keys_dim * (config.n_loras + config.query_dim)


def estimate_training(
    gpu: Gpu,
    one: Cost,
    options: Mapping[str, Any] = KONTEXT,
    config: ReleasedConfig = PAPER,
    quantised: str | None = None,
    shared_by: int = 1,
    at_once: int = 1,
    steps: int = STEPS,
    batch: int = BATCH,
    utilisation: float = UTILISATION,
) -> TrainingEstimate:
    """Memory on one GPU and hours on one.

    Args:
        one: of one analogy, see :func:`cost`.
        quantised: the frozen base in ``"4bit"`` or ``"8bit"``; None for bfloat16.
        shared_by: GPUs that FSDP spreads base and trained values over.
        at_once: analogies in one forward pass; the rest of the batch accumulates.
    """
    with torch.device("meta"):
        transformer = FluxTransformer2DModel(**options)
    loras, router = trained_values(transformer, config)
    base = _bytes(transformer, 2, quantised)
    block = 0.0
    if shared_by > 1:
        block = max(
            _bytes(b, 2, None) for b in (*transformer.transformer_blocks, *transformer.single_transformer_blocks)
        )
    parts = {
        "base": (base / shared_by + block) / GIB,
        "trained": (TRAINED_BYTES * (loras + router) / shared_by + CAST_BYTES * loras) / GIB,
        "activations": at_once * one.kept / GIB,
        "libraries and autoencoder": LIBRARIES + VAE_GIB,
    }
    hours = one.flops * batch * steps / (1e12 * gpu.tflops * utilisation) / 3600
    return TrainingEstimate(gpu, parts, hours)


def table(
    options: Mapping[str, Any] = KONTEXT, config: ReleasedConfig = PAPER, steps: int = STEPS, batch: int = BATCH
) -> str:
    """Everything as Markdown: GPU types by checkpointing, quantisation and FSDP over eight."""
    lines = [
        "| GPU | frozen base | checkpointing | GiB on the GPU | fits | hours on one |",
        "| --- | --- | --- | ---: | --- | ---: |",
    ]
    ways: list[tuple[str, str | None, int]] = [("bfloat16", None, 1), ("bfloat16, FSDP over 8", None, 8)]
    ways += [(kind, kind, 1) for kind in QUANTISED_BYTES]
    costs = {flag: cost(options, config, checkpointing=flag) for flag in (True, False)}
    for gpu in GPUS:
        for name, quantised, shared_by in ways:
            for flag, one in costs.items():
                found = estimate_training(gpu, one, options, config, quantised, shared_by, steps=steps, batch=batch)
                cells = [gpu.name, name, "yes" if flag else "no", f"{found.gib:.1f}", "yes" if found.fits else "no"]
                lines.append(f"| {' | '.join(cells)} | {found.hours:.0f} |")
    note = (
        f"{steps:,} steps of {batch} analogies, one at a time in memory; {UTILISATION:.0%} of the published dense "
        f"16-bit peak ({', '.join(f'{g.name} {g.tflops:g} TFLOP/s' for g in GPUS)}). "
        f"One analogy costs {costs[True].flops / 1e15:.2f} PFLOP with checkpointing, {costs[False].flops / 1e15:.2f} "
        f"without. Computed from the configuration, not measured on a GPU."
    )
    return "\n".join([*lines, "", note])


if __name__ == "__main__":
    print(table())
