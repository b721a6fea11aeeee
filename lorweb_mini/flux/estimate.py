"""Memory and work of FLUX.1-Kontext with a basis, from configurations alone: models on the ``meta`` device.

*Editing* (:func:`estimate`). Weights are parameters × bytes; quantised Linears hold 4 or 8 bits a weight, in 4 bits
with one single-precision scale for 64. The router and its encoder are in single precision. At its peak a
transformer block holds about 20 vectors of the model's width for each token, the autoencoder's last stage about four
pictures of its second channel count; the larger counts.

*Training* (:func:`cost`, :func:`training_memory`). Operations and the bytes that autograd saves are counted, without
parameters and without the attention matrix, which GPU kernels do not keep. A trained value takes 16 bytes (weight,
gradient and two moments) and 2 for a LoRA's copy in half precision. With FSDP base and trained values are shared, but
for one gathered block. Hours are operations by the published peak times :data:`UTILISATION`.

Kernels and fragmentation move these numbers by some ten per cent; 1 GiB is added for the device's own libraries.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import torch
from diffusers import AutoencoderKL, DiffusionPipeline, FluxTransformer2DModel
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, CLIPTextConfig, CLIPTextModel, PreTrainedModel, T5Config, T5EncoderModel

from ..core.basis import Basis
from ..errors import InputError
from .checkpoint import KONTEXT, PAPER, ReleasedConfig, modules_of

GIB = 2**30
LIBRARIES, VAE_GIB, VECTORS, CLIP_L_PARAMETERS = 1.0, 0.2, 20, 304e6
QUANTISED_BYTES = {"4bit": 0.5 + 4 / 64, "8bit": 1.0}  # of one weight of a quantised Linear
TRAINED_BYTES, CAST_BYTES, UTILISATION = 16, 2, 0.4
MODELS: dict[str, Any] = {
    "transformer": FluxTransformer2DModel,
    "text_encoder": CLIPTextModel,
    "text_encoder_2": T5EncoderModel,
    "vae": AutoencoderKL,
}


@dataclass(frozen=True)
class MemoryEstimate:
    """GiB of weights by component, of activations by component, and whether components take turns on the device."""

    weights: Mapping[str, float]
    activations: Mapping[str, float]
    offload: bool = False

    @property
    def device(self) -> float:
        """GiB on the device at the worst moment."""
        if self.offload:
            return LIBRARIES + max(x + self.activations.get(name, 0.0) for name, x in self.weights.items())
        return LIBRARIES + sum(self.weights.values()) + max(self.activations.values())

    @property
    def host(self) -> float:
        """GiB of ordinary memory: with offloading all weights wait there."""
        return sum(self.weights.values()) if self.offload else 0.0

    def __str__(self) -> str:
        rows = {**self.weights, **{f"{name} at work": x for name, x in self.activations.items()}}
        return "\n".join(f"{name:<18}{x:7.2f} GiB" for name, x in {**rows, "on the device": self.device}.items())


def models_of(base: str | Path, parts: Iterable[str] = tuple(MODELS)) -> dict[str, Any]:
    """A pipeline's models without weights, from the configuration files of a folder or of the hub.

    ``parts`` are those that are needed, by default all. InputError for another pipeline than Kontext's, or one that
    lacks a configuration file.
    """
    try:
        if (kind := DiffusionPipeline.load_config(base).get("_class_name")) != "FluxKontextPipeline":
            raise InputError(f"expected a FluxKontextPipeline in {base}, got {kind}")
        with torch.device("meta"):
            return {
                part: model(AutoConfig.from_pretrained(base, subfolder=part))
                if issubclass(model := MODELS[part], PreTrainedModel)
                else model.from_config(model.load_config(base, subfolder=part))
                for part in parts
            }
    except OSError as error:
        detail = " ".join(str(error).split())[:300]
        raise InputError(f"expected a FluxKontextPipeline in {base}, got an unreadable one: {detail}") from None


def kontext_models() -> dict[str, Any]:
    """FLUX.1-Kontext-dev's models without weights, from its sizes; before its licence is accepted, offline."""
    clip = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    t5 = {"d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64}
    vae = {"block_out_channels": (128, 256, 512, 512), "latent_channels": 16, "layers_per_block": 2}
    vae |= {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    with torch.device("meta"):
        return {
            "transformer": FluxTransformer2DModel(**KONTEXT),
            "text_encoder": CLIPTextModel(CLIPTextConfig(**clip)),
            "text_encoder_2": T5EncoderModel(T5Config(**t5, feed_forward_proj="gated-gelu")),
            "vae": AutoencoderKL(**vae, use_quant_conv=False, use_post_quant_conv=False),
        }


def forward_flops(transformer: FluxTransformer2DModel, side: int = 512, text_tokens: int = 512) -> int:
    """Floating-point operations of one forward pass for one analogy, which is one sampling step, counted by PyTorch.

    The LoRAs are not in it: merged they cost nothing, mixed dynamically 2 N·r·(in + out) more for each token. ``side``
    is that of one picture in pixels; the drawn and the condition grid have 2 × 2 of them each.
    """
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        transformer(**_inputs(transformer, side, text_tokens))
    return counter.get_total_flops()


def estimate(
    models: Mapping[str, Any],
    config: ReleasedConfig,
    dtype: torch.dtype = torch.bfloat16,
    quantised: Mapping[str, str] | None = None,
    offload: bool = False,
    side: int = 512,
    batch: int = 1,
) -> MemoryEstimate:
    """Memory of edits, ``batch`` analogies at once, from :func:`models_of` or :func:`kontext_models`.

    ``quantised`` maps components to ``"4bit"`` or ``"8bit"``; with ``offload`` components take turns on the device;
    ``side`` is that of one picture in pixels.
    """
    width, transformer = dtype.itemsize, models["transformer"]
    weights = {part: _bytes(model, width, (quantised or {}).get(part)) / GIB for part, model in models.items()}
    loras, router = trained_values(transformer, config)
    weights["transformer"] += loras * width / GIB
    weights["router and encoder"] = 4 * (router + CLIP_L_PARAMETERS) / GIB
    vectors = batch * VECTORS * (_tokens(side) + 512)  # diffusers' prompts have 512 tokens
    pictures = batch * 4 * models["vae"].config["block_out_channels"][1] * (2 * side) ** 2
    activations = {"transformer": vectors * transformer.inner_dim * width / GIB, "vae": pictures * width / GIB}
    return MemoryEstimate(weights, activations, offload)


def available(device: torch.device) -> float:
    """GiB that are free: on a CUDA device its own, else of ordinary memory."""
    free: Any = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    return free / GIB


def require(need: MemoryEstimate, device: torch.device) -> None:
    """InputError, with the estimate and what would help, unless the memory is there."""
    for kind, wanted, free in (
        (f"free memory on {device}", need.device, available(device)),
        ("ordinary memory for offloading", need.host, psutil.virtual_memory().available / GIB),
    ):
        if wanted > free:
            raise InputError(
                f"expected {wanted:.1f} GiB of {kind}, found {free:.1f}. What would help: offload=True (components "
                f'take turns), quantize="8bit" or "4bit", a smaller side. check_memory=False tries anyway.\n{need}'
            )


def trained_values(transformer: FluxTransformer2DModel, config: ReleasedConfig) -> tuple[int, int]:
    """Number of values in the LoRAs of a basis on this bare transformer, and in its router."""
    adapted = modules_of(transformer)
    loras = config.n_loras * config.rank * sum(wide + high for wide, high in adapted.values())
    return loras, len(adapted) * config.keys_dim * (config.n_loras + config.query_dim)


def _tokens(side: int) -> int:
    """Image tokens of one analogy: the drawn and the condition grid, 2 × 2 pictures each, 16 pixels a token."""
    return 2 * (2 * side // 16) ** 2


def _bytes(model: nn.Module, width: int, quantised: str | None = None) -> float:
    everything = sum(p.numel() for p in model.parameters())
    linear = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear)) if quantised else 0
    return linear * QUANTISED_BYTES.get(quantised or "", 0.0) + (everything - linear) * width


def _inputs(transformer: FluxTransformer2DModel, side: int, text_tokens: int) -> dict[str, Any]:
    """Zeros of the right shapes for one analogy."""
    config, tokens = transformer.config, _tokens(side)
    zeros = partial(torch.zeros, device=transformer.device)
    return {
        "hidden_states": zeros(1, tokens, config["in_channels"], dtype=transformer.dtype),
        "encoder_hidden_states": zeros(1, text_tokens, config["joint_attention_dim"], dtype=transformer.dtype),
        "pooled_projections": zeros(1, config["pooled_projection_dim"], dtype=transformer.dtype),
        "timestep": zeros(1, dtype=transformer.dtype),
        "guidance": zeros(1) if config["guidance_embeds"] else None,
        "img_ids": zeros(tokens, 3),
        "txt_ids": zeros(text_tokens, 3),
        "return_dict": False,
    }


class Gpu(NamedTuple):
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


class Cost(NamedTuple):
    """Of one analogy, forward and backward: operations, and bytes of activations at the most."""

    flops: int
    kept: int


def counted(transformer: FluxTransformer2DModel, config: ReleasedConfig, side: int, text_tokens: int) -> Cost:
    """Operations of one analogy and bytes that autograd keeps, counted on a transformer, which gets a basis."""
    transformer.requires_grad_(False)
    basis = Basis(transformer, config.n_loras, config.rank)
    for parameter in basis.parameters():
        parameter.data = parameter.data.to(transformer.dtype)
        parameter.requires_grad_(True)
    coefficients = torch.zeros(1, len(basis.layers), config.n_loras, dtype=transformer.dtype, device=transformer.device)
    basis.coefficients = coefficients.requires_grad_()
    total = _tokens(side) + text_tokens
    own = {p.untyped_storage()._cdata for p in transformer.parameters()}
    kept: dict[int, int] = {}
    alive = []

    def pack(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage._cdata not in own and x.shape[-2:] != (total, total):
            kept[storage._cdata] = storage.nbytes()
            alive.append(x)  # or its storage's address could be another's
        return x

    with FlopCounterMode(display=False) as counter:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            out = transformer(**_inputs(transformer, side, text_tokens))[0]
        out.sum().backward()
    return Cost(counter.get_total_flops(), sum(kept.values()))


def cost(
    options: Mapping[str, Any] = KONTEXT,
    config: ReleasedConfig = PAPER,
    side: int = 512,
    text_tokens: int = 512,
    checkpointing: bool = True,
) -> Cost:
    """Operations and kept bytes of one analogy in bfloat16, from the configuration of a transformer alone.

    They are linear in the numbers of blocks, so transformers of one and two blocks of each kind tell them exactly.
    """

    with torch.device("meta"):
        whole = FluxTransformer2DModel(**options)
    depths = np.array([len(whole.transformer_blocks), len(whole.single_transformer_blocks)])

    def measured(checkpointed: bool) -> tuple[np.ndarray, np.ndarray]:
        """Operations and bytes with one block of each kind, and what one more of either kind adds."""
        found = []
        for double, single in ((1, 1), (2, 1), (1, 2)):
            with torch.device("meta"):
                model = FluxTransformer2DModel(**{**options, "num_layers": double, "num_single_layers": single})
                if checkpointed:
                    model.enable_gradient_checkpointing()
                found.append(counted(model.bfloat16(), config, side, text_tokens))
        first, *more = np.array(found, dtype=object)
        return first, np.stack(more) - first

    first, more = measured(checkpointing)
    flops, kept = first + (depths - 1) @ more
    if checkpointing:
        # Each block's input waits in the checkpoint itself; one block computes again and keeps what it keeps.
        inputs = int(depths.sum()) * (_tokens(side) + text_tokens) * whole.inner_dim * 2
        kept += inputs + max(measured(False)[1][:, 1])
    return Cost(int(flops), int(kept))


def training_memory(
    one: Cost, config: ReleasedConfig = PAPER, quantised: str | None = None, shared_by: int = 1
) -> dict[str, float]:
    """GiB by part on one GPU, one analogy at a time, which costs ``one``; the rest of the batch accumulates.

    The frozen base is in bfloat16, or ``quantised`` to ``"4bit"`` or ``"8bit"``; FSDP shares over ``shared_by`` GPUs.
    """
    with torch.device("meta"):
        transformer = FluxTransformer2DModel(**KONTEXT)
    loras, router = trained_values(transformer, config)
    blocks = (*transformer.transformer_blocks, *transformer.single_transformer_blocks)
    gathered = max(_bytes(block, 2) for block in blocks) if shared_by > 1 else 0.0
    return {
        "base": (_bytes(transformer, 2, quantised) / shared_by + gathered) / GIB,
        "trained": (TRAINED_BYTES * (loras + router) / shared_by + CAST_BYTES * loras) / GIB,
        "activations": one.kept / GIB,
        "libraries and autoencoder": LIBRARIES + VAE_GIB,
    }


def training_hours(gpu: Gpu, one: Cost, samples: int) -> float:
    """Hours on one GPU; k of them take a k-th, before communication."""
    return one.flops * samples / (1e12 * gpu.tflops * UTILISATION) / 3600


def table(config: ReleasedConfig, steps: int, batch: int, side: int) -> str:
    """Every GPU type by checkpointing, quantisation and FSDP over eight, as a Markdown table."""
    lines = [
        "| GPU | frozen base | checkpointing | GiB on the GPU | fits | hours on one |",
        "| --- | --- | --- | ---: | --- | ---: |",
    ]
    ways = {"bfloat16": (None, 1), "bfloat16, FSDP over 8": (None, 8), "4bit": ("4bit", 1), "8bit": ("8bit", 1)}
    costs = {flag: cost(config=config, side=side, checkpointing=flag == "yes") for flag in ("yes", "no")}
    for gpu, (name, way), (flag, one) in product(GPUS, ways.items(), costs.items()):
        gib, hours = sum(training_memory(one, config, *way).values()), training_hours(gpu, one, steps * batch)
        fits = "yes" if gib <= gpu.gib else "no"
        lines.append(f"| {gpu.name} | {name} | {flag} | {gib:.1f} | {fits} | {hours:.0f} |")
    note = (
        f"{steps:,} steps of {batch} analogies of {side}-pixel pictures, one at a time in memory; {UTILISATION:.0%} of "
        f"the published dense 16-bit peak ({', '.join(f'{g.name} {g.tflops:g} TFLOP/s' for g in GPUS)}). One analogy "
        f"costs {costs['yes'].flops / 1e15:.2f} PFLOP with checkpointing, {costs['no'].flops / 1e15:.2f} without. "
        f"Computed from the configuration, not measured on a GPU."
    )
    return "\n".join([*lines, "", note])
