"""How much memory and work a Flux pipeline will need, counted from its configuration before any weight is read.

The count of memory is this, component by component, every model built without storage on the ``meta`` device:

* weights: parameters × bytes. Quantised components hold their Linear weights in 4 or 8 bits, with one single-precision
  scale for 64 weights in 4 bits, and the rest as it was;
* the LoRAs N·r·(in + out) of every adapted Linear in the pipeline's dtype, the router and its encoder in single
  precision;
* activations: the widest moment of a transformer block holds about 20 vectors of the model's width for each token
  (hidden state, q, k, v, the MLP's hidden vector before and after its nonlinearity, their concatenation); text, drawn
  and condition tokens all count. The autoencoder's last stage holds about four pictures of its second channel count.
  The larger of the two counts, since they do not run at once;
* 1 GiB for the device's own libraries.

With offloading only the largest component is on the device at a time. It is an estimate: kernels and fragmentation
move it by some ten per cent.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from diffusers import AutoencoderKL, DiffusionPipeline, FluxTransformer2DModel
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from ..errors import InputError
from .checkpoint import KONTEXT, ReleasedConfig, modules_of

GIB = 2**30
LIBRARIES = 1.0
VECTORS = 20
CLIP_L_PARAMETERS = 304e6
# Bytes of one weight of a quantised Linear.
QUANTISED_BYTES = {"4bit": 0.5 + 4 / 64, "8bit": 1.0}
MODELS = ("transformer", "text_encoder", "text_encoder_2", "vae")


@dataclass(frozen=True)
class MemoryEstimate:
    """GiB of each part.

    Attributes:
        weights: by component.
        activations: by component, transformer and vae.
        offload: whether components take turns on the device.
    """

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
        lines = [f"{name:<16}{x:7.2f} GiB" for name, x in self.weights.items()]
        lines += [f"{name + ' at work':<16}{x:7.2f} GiB" for name, x in self.activations.items()]
        return "\n".join([*lines, f"{'on the device':<16}{self.device:7.2f} GiB (estimated)"])


def models_of(base: str | Path, token: str | None = None) -> dict[str, Any]:
    """A pipeline's models without weights, from the configuration files of a folder or of the hub.

    Raises:
        InputError: no Kontext pipeline, or a configuration file is missing.
    """
    try:
        return _models(base, token)
    except OSError as error:
        detail = " ".join(str(error).split())[:300]
        raise InputError(f"expected a FluxKontextPipeline in {base}, got an unreadable one: {detail}") from None


def _models(base: str | Path, token: str | None) -> dict[str, Any]:
    index = DiffusionPipeline.load_config(base, token=token)
    if (found := index.get("_class_name")) != "FluxKontextPipeline":
        raise InputError(f"expected a FluxKontextPipeline in {base}, got {found}")
    models = {}
    for part in MODELS:
        library, name = index.get(part) or (None, None)
        if library is None or name is None:
            continue
        # In model_index.json a library is a package, or the module that defines the class.
        kind = getattr(importlib.import_module(library), name)
        with torch.device("meta"):
            if library == "transformers":
                models[part] = kind(AutoConfig.from_pretrained(base, subfolder=part, token=token))
            else:
                models[part] = kind.from_config(kind.load_config(base, subfolder=part, token=token))
    return models


def kontext_models() -> dict[str, Any]:
    """FLUX.1-Kontext-dev's models without weights, from its sizes; before its licence is accepted, offline."""
    with torch.device("meta"):
        return {
            "transformer": FluxTransformer2DModel(**KONTEXT),
            "text_encoder": CLIPTextModel(
                CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
            ),
            "text_encoder_2": T5EncoderModel(
                T5Config(d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64, feed_forward_proj="gated-gelu")
            ),
            "vae": AutoencoderKL(
                block_out_channels=(128, 256, 512, 512),
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                latent_channels=16,
                layers_per_block=2,
                use_quant_conv=False,
                use_post_quant_conv=False,
            ),
        }


def forward_flops(transformer: FluxTransformer2DModel, side: int = 512, text_tokens: int = 512) -> int:
    """Floating-point operations of one forward pass for one analogy, counted by PyTorch; a step of drawing is one.

    The LoRAs are not in it: merged they cost nothing, mixed dynamically 2 N·r·(in + out) more for each token.

    Args:
        transformer: on the ``meta`` device.
        side: of one picture; the drawn and the condition grid have 2 × 2 of them each.
    """
    config, tokens = transformer.config, 2 * (2 * side // 16) ** 2
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        transformer(
            hidden_states=torch.empty(1, tokens, config["in_channels"]),
            encoder_hidden_states=torch.empty(1, text_tokens, config["joint_attention_dim"]),
            pooled_projections=torch.empty(1, config["pooled_projection_dim"]),
            timestep=torch.empty(1),
            guidance=torch.empty(1) if config["guidance_embeds"] else None,
            img_ids=torch.empty(tokens, 3),
            txt_ids=torch.empty(text_tokens, 3),
        )
    return counter.get_total_flops()


def estimate(
    models: Mapping[str, Any],
    config: ReleasedConfig,
    dtype: torch.dtype = torch.bfloat16,
    quantised: Mapping[str, str] | None = None,
    offload: bool = False,
    side: int = 512,
    batch: int = 1,
    text_tokens: int = 512,
) -> MemoryEstimate:
    """Memory of edits, counted as this module's docstring says.

    Args:
        models: what :func:`models_of` found.
        config: sizes of the basis.
        dtype: of the pipeline.
        quantised: component to ``"4bit"`` or ``"8bit"``.
        offload: components take turns.
        side: of one picture; the transformer draws a grid of 2 × 2 of them.
        batch: analogies in one forward pass.
        text_tokens: of a prompt.
    """
    width = torch.empty((), dtype=dtype).element_size()
    weights = {part: _bytes(model, width, (quantised or {}).get(part)) / GIB for part, model in models.items()}
    transformer = models["transformer"]
    adapted = modules_of(transformer)
    loras = config.n_loras * config.rank * sum(wide + high for wide, high in adapted.values())
    weights["transformer"] += loras * width / GIB
    router = len(adapted) * config.keys_dim * (config.n_loras + config.query_dim)
    weights["router and eye"] = 4 * (router + CLIP_L_PARAMETERS) / GIB
    inner = transformer.config["num_attention_heads"] * transformer.config["attention_head_dim"]
    tokens = text_tokens + 2 * (2 * side // 16) ** 2
    activations = {"transformer": batch * tokens * VECTORS * inner * width / GIB}
    if "vae" in models:
        channels = models["vae"].config["block_out_channels"][1]
        activations["vae"] = batch * 4 * channels * (2 * side) ** 2 * width / GIB
    return MemoryEstimate(weights, activations, offload)


def _bytes(model: nn.Module, width: int, quantised: str | None) -> float:
    everything = sum(p.numel() for p in model.parameters())
    if quantised is None:
        return everything * width
    linear = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear))
    return linear * QUANTISED_BYTES[quantised] + (everything - linear) * width


def available(device: torch.device) -> float:
    """GiB that are free: on a CUDA device its own, else of ordinary memory."""
    free: Any = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    return free / GIB


def require(need: MemoryEstimate, device: torch.device) -> None:
    """InputError, with the estimate and what would help, unless the memory is there."""
    device_free, host_free = available(device), psutil.virtual_memory().available / GIB
    if need.device > device_free:
        raise InputError(
            f"expected {need.device:.1f} GiB of free memory on {device}, found {device_free:.1f}. What would help: "
            f'offload=True (components take turns), quantize="8bit" or "4bit", a smaller side. '
            f"check_memory=False tries all the same.\n{need}"
        )
    if need.host > host_free:
        raise InputError(
            f"expected {need.host:.1f} GiB of ordinary memory for offloading, found {host_free:.1f}. "
            f"check_memory=False tries all the same.\n{need}"
        )
