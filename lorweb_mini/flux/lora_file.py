"""A mixture as a plain LoRA file that other tools read.

One analogy's mixture sum_n c_n B_n A_n is a LoRA of rank N·r, exactly (:meth:`Basis.folded`). Two key formats are
written:

* ``diffusers``: ``transformer.<module>.lora_A.weight`` [R, in] and ``lora_B.weight`` [out, R];
* ``single-file``: ``lora_unet_<block>.lora_down.weight``, ``.lora_up.weight``, ``.alpha``, the names of Flux's original
  single-file weights, as kohya's scripts write and ComfyUI reads them. There q, k and v (in the single blocks also the
  first MLP layer) are one Linear, so their LoRAs become one block-diagonal LoRA of three (four) times the rank.

diffusers' ``pipeline.load_lora_weights`` reads both.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..algebra import Layers, truncated
from ..errors import InputError
from ..files import safetensors_path, whole_file

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

    InputError for a layer that is in no block of Flux, and for some but not all of those that are one there.
    """
    fused: dict[str, list[str]] = {}  # key to its layers in order
    for name in layers:
        kind, _, place = name.partition(".")
        block, _, inside = place.partition(".")
        folder, names = _KINDS.get(kind, ("", {}))
        there = [there for there, members in names.items() if inside in members]
        if not there:
            raise InputError(f"expected layers inside the blocks of a Flux transformer, got {name!r}")
        fused[f"lora_unet_{folder}_{block}_{there[0]}"] = [f"{kind}.{block}.{member}" for member in names[there[0]]]
    state = {}
    for key, members in fused.items():
        if absent := set(members) - layers.keys():
            present = ", ".join(sorted(set(members) - absent))
            raise InputError(f"expected all {len(members)} layers that are one in {key}, got {present}")
        down = torch.cat([layers[member][0] for member in members])
        state[f"{key}.lora_down.weight"] = down
        state[f"{key}.lora_up.weight"] = torch.block_diag(*[layers[member][1] for member in members])
        state[f"{key}.alpha"] = down.new_tensor(float(len(down)), dtype=torch.float32)
    return state


def write_plain_lora(
    path: str | Path,
    layers: Layers,
    key_format: str = "diffusers",
    rank: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Writes a LoRA (safetensors), from what :meth:`Basis.folded` gave; folders are made.

    Args:
        key_format: one of :data:`FORMATS`.
        rank: cuts it by :func:`~lorweb_mini.algebra.truncated`; the file's header then holds ``svd_relative_error``,
            the least possible error of all layers together. None: exact.
        dtype: one of the values of :data:`DTYPES`. Rounding moves ΔW by about 2⁻⁹ of its norm in bfloat16 and by 2⁻¹²
            in float16.

    Raises:
        InputError: another ending, format, rank or dtype, layers that the format cannot name, or values beyond the
            range of the dtype.
    """
    path = safetensors_path(path)
    if key_format not in FORMATS:
        raise InputError(f"expected a key format out of {FORMATS}, got {key_format!r}")
    if dtype not in DTYPES.values():
        raise InputError(f"expected a dtype out of {', '.join(DTYPES)}, got {dtype}")
    notes = {"format": "pt"}
    if rank is not None:
        cut = truncated(layers, rank)
        layers, notes = cut.layers, {**notes, "svd_rank": str(rank), "svd_relative_error": f"{cut.error:.6g}"}
    ready = {}
    for name, pair in layers.items():
        low, high = (x.to(dtype).contiguous() for x in balanced(*(x.float() for x in pair)))
        if not bool(low.isfinite().all() and high.isfinite().all()):
            raise InputError(f"expected values within the range of {dtype}, got larger ones in {name}")
        ready[name] = (low, high)
    if key_format == "diffusers":
        state = {f"transformer.{name}.lora_{x}.weight": ready[name][i] for name in ready for i, x in enumerate("AB")}
    else:
        state = single_file(ready)
    with whole_file(path) as part:
        save_file(state, part, metadata=notes)
    return path
