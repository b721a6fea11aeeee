"""A mixture as a plain LoRA: a file that tools which never heard of bases and routers read.

One analogy's mixture sum_n c_n B_n A_n is a LoRA of rank N·r, exactly (:meth:`Basis.folded`); its best approximation
of a smaller rank comes from a singular value decomposition of the factors (:func:`~lorweb_mini.algebra.truncated`). Two
key formats are written:

* ``diffusers``: ``transformer.<module>.lora_A.weight`` [R, in] and ``lora_B.weight`` [out, R];
* ``single-file``: ``lora_unet_<block>.lora_down.weight``, ``.lora_up.weight``, ``.alpha``, the names of Flux's original
  single-file weights, as kohya's scripts write and ComfyUI reads them. There q, k and v (in the single blocks also the
  first MLP layer) are one Linear, so their LoRAs become one block-diagonal LoRA of three (four) times the rank.

diffusers' ``pipeline.load_lora_weights`` reads both.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..algebra import Layers
from ..errors import InputError

FORMATS = ("diffusers", "single-file")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# Name of a Linear (or of the Linears that are one there) in Flux's original single file, by its modules in diffusers.
_DOUBLE = {
    "img_mod_lin": ("norm1.linear",),
    "txt_mod_lin": ("norm1_context.linear",),
    "img_attn_qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "txt_attn_qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "img_attn_proj": ("attn.to_out.0",),
    "txt_attn_proj": ("attn.to_add_out",),
    "img_mlp_0": ("ff.net.0.proj",),
    "img_mlp_2": ("ff.net.2",),
    "txt_mlp_0": ("ff_context.net.0.proj",),
    "txt_mlp_2": ("ff_context.net.2",),
}
_SINGLE = {
    "modulation_lin": ("norm.linear",),
    "linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
    "linear2": ("proj_out",),
}
_KINDS = {"transformer_blocks": ("double_blocks", _DOUBLE), "single_transformer_blocks": ("single_blocks", _SINGLE)}
_MODULE = re.compile(r"(transformer_blocks|single_transformer_blocks)\.(\d+)\.(.+)")


def balanced(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """The same product B A with each direction's share of A and of B about equally long.

    A folded B is small, about c times a trained one, and half precision would lose its low bits. The factors moved
    between the two are powers of two, so nothing is rounded here.
    """
    ratio = high.norm(dim=0) / low.norm(dim=1)
    exponent = torch.where((ratio > 0) & ratio.isfinite(), ratio, 1.0).log2().div(2).round()
    return low * exponent.exp2()[:, None], high * (-exponent).exp2()


def single_file(layers: Layers) -> dict[str, Tensor]:
    """A LoRA's tensors under the keys of Flux's original single file; α is the rank, so its factor α / rank is 1.

    Raises:
        InputError: a layer that is in no block of Flux, or some but not all of the layers that are fused there.
    """
    groups: dict[str, dict[int, str]] = {}
    sizes: dict[str, int] = {}
    for name in layers:
        if (match := _MODULE.fullmatch(name)) is None:
            raise InputError(f"expected layers inside the blocks of a Flux transformer, got {name!r}")
        folder, names = _KINDS[match[1]]
        found = [(there, members) for there, members in names.items() if match[3] in members]
        if not found:
            raise InputError(f"expected layers of Flux's own blocks, got {name!r}")
        there, members = found[0]
        key = f"lora_unet_{folder}_{match[2]}_{there}"
        groups.setdefault(key, {})[members.index(match[3])] = name
        sizes[key] = len(members)
    state = {}
    for key, group in groups.items():
        if len(group) != sizes[key]:
            raise InputError(
                f"expected all {sizes[key]} layers that are one in {key}, got {', '.join(sorted(group.values()))}"
            )
        pairs = [layers[group[place]] for place in range(sizes[key])]
        down = torch.cat([low for low, _ in pairs])
        state[f"{key}.lora_down.weight"] = down
        state[f"{key}.lora_up.weight"] = torch.block_diag(*[high for _, high in pairs])
        state[f"{key}.alpha"] = torch.tensor(float(len(down)))
    return state


def write_plain_lora(
    path: str | Path,
    layers: Layers,
    key_format: str = "diffusers",
    dtype: torch.dtype = torch.float32,
    notes: Mapping[str, str] | None = None,
) -> Path:
    """Writes a LoRA (safetensors).

    Args:
        path: ends in ``.safetensors``; folders are made.
        layers: what :meth:`Basis.folded` or :func:`~lorweb_mini.algebra.truncated` gave.
        key_format: one of :data:`FORMATS`.
        dtype: one of the values of :data:`DTYPES`. Rounding moves ΔW by about 2⁻⁹ of its norm in bfloat16 and by 2⁻¹²
            in float16.
        notes: kept in the header of the file.

    Returns:
        the path.

    Raises:
        InputError: another ending, format or dtype, layers that the format cannot name, or values beyond the range of
            the dtype.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise InputError(f"expected a path that ends in .safetensors, got {path.name!r}")
    if key_format not in FORMATS:
        raise InputError(f"expected a key format out of {FORMATS}, got {key_format!r}")
    if dtype not in DTYPES.values():
        raise InputError(f"expected a dtype out of {', '.join(DTYPES)}, got {dtype}")
    ready = {}
    for name, pair in layers.items():
        low, high = balanced(*(x.float() for x in pair))
        ready[name] = (low.to(dtype).contiguous(), high.to(dtype).contiguous())
        if not all(bool(x.isfinite().all()) for x in ready[name]):
            raise InputError(f"expected values within the range of {dtype}, got larger ones in {name}")
    if key_format == "diffusers":
        state = {
            f"transformer.{name}.lora_{letter}.weight": tensor
            for name, pair in ready.items()
            for letter, tensor in zip("AB", pair, strict=True)
        }
    else:
        state = single_file(ready)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    save_file(state, part, metadata={"format": "pt", **(notes or {})})
    os.replace(part, path)
    return path
