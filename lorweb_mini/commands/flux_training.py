"""``python -m lorweb_mini.flux precompute | train | estimate``: from a folder of picture pairs to a basis of one's own.

precompute  latents, router queries and prompt embeddings of a folder of picture pairs; needs no transformer
train       basis and router on such shards; several GPUs through ``accelerate launch``, see :func:`configuration`
estimate    memory and hours by GPU, from FLUX's configuration alone

Options are the fields of :class:`ShardSettings`, :class:`FluxConfig` and :class:`TrainingConfig`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from accelerate import PartialState
from diffusers import FluxKontextPipeline, FluxTransformer2DModel

from ..errors import InputError
from ..flux import editor as flux
from ..flux.checkpoint import PAPER
from ..flux.estimate import table
from ..flux.lora_file import DTYPES
from ..flux.picture_encoder import CLIP_L, PictureEncoder
from ..flux.shards import LatentShards, ShardSettings, write_shards
from ..flux.train import TRAINING, FluxConfig, FluxRecipe
from ..training import loop, sharding
from ..training.loop import TrainingConfig

Dtype = Literal["float32", "bfloat16", "float16"]
Quantize = Literal["4bit", "8bit"]
CONFIGURATIONS = Path(__file__).resolve().parents[1] / "flux" / "accelerate"


def configuration(kind: str) -> Path:
    """The shipped file for ``accelerate launch --config_file``: ``ddp`` or ``fsdp``."""
    return CONFIGURATIONS / f"{kind}.yaml"


def precompute(
    data: Path,
    /,
    *,
    out: Path,
    settings: ShardSettings = ShardSettings(),  # noqa: B008
    base: str = flux.BASE,
    encoder: str = CLIP_L,
    splits: Path | None = None,
    device: str = "cuda",
    dtype: Dtype = "bfloat16",
) -> None:
    """Compute latents, router queries and prompt embeddings to train on.

    Args:
        data: folder of categories with control/, target/ and captions.
        out: folder of the shards; a killed run goes on there.
        settings: what is computed.
        base: folder or hub name of FLUX.1-Kontext.
        encoder: folder or hub name of the router's CLIP or SigLIP.
        splits: a published split file; default: one that follows from the names.
        device: where to compute.
        dtype: of latents and prompts.
    """
    place = flux._device(device)
    name = flux._readable(base, None)
    pipeline = FluxKontextPipeline.from_pretrained(name, transformer=None, dtype=DTYPES[dtype]).to(place)
    tower = PictureEncoder.load(encoder).to(place)
    shards = write_shards(pipeline, tower, data, out, settings, splits, place, {"base": base, "encoder": encoder})
    counts = ", ".join(f"{part} {shards.count(part):,}" for part in shards.categories)
    print(f"written: {out}, analogies: {counts}; prompts: {len(shards.captions):,}")


def train(
    data: Path,
    /,
    *,
    out: Path,
    sizes: FluxConfig = FluxConfig(),  # noqa: B008
    plan: TrainingConfig = TRAINING,
    base: str = flux.BASE,
    accumulate: int = 1,
    checkpointing: bool = True,
    quantize: Quantize | None = None,
    dtype: Dtype = "bfloat16",
    fresh: bool = False,
    from_weights: Path | None = None,
) -> None:
    """Train a basis and its router; the released layout is in the run's folder at the end.

    Args:
        data: folder of shards, see precompute.
        out: folder of the run; a killed run goes on there.
        sizes: what is trained.
        plan: how long and how fast; the batch is that of all processes together.
        base: folder or hub name of FLUX.1-Kontext.
        accumulate: forward passes that share a step, for less memory.
        checkpointing: compute activations again in the backward pass: slower, and far less memory.
        quantize: the frozen base in 4 or 8 bits; one GPU or DDP.
        dtype: of the frozen base.
        fresh: throw away an unfinished run instead of resuming it.
        from_weights: start from a checkpoint in the released layout.
    """
    shards, kind = LatentShards(data), DTYPES[dtype]
    if quantize and sharding.asked():
        raise InputError("expected a base in floating point with FSDP, whose slices quantised weights do not take")
    name = flux._readable(base, None)
    quantization = flux._quantisation(quantize, kind)[0]
    mapping = quantization._resolve_quant_config(module_name="transformer") if quantization else None
    transformer = FluxTransformer2DModel.from_pretrained(
        name, subfolder="transformer", torch_dtype=kind, quantization_config=mapping
    )
    absent = dict.fromkeys(("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"))
    pipeline = FluxKontextPipeline.from_pretrained(name, transformer=transformer, dtype=kind, **absent)
    torch.manual_seed(plan.seed)  # every process starts from the same weights
    recipe = FluxRecipe(transformer, shards, sizes, pipeline, accumulate, checkpointing)
    if from_weights is not None:
        recipe.start_from(from_weights)
    summary = loop.train(recipe, plan, out, fresh)
    if PartialState().is_main_process:
        print({k: round(v, 4) for k, v in summary.items()})


def estimate(
    *,
    steps: int = TRAINING.steps or 0,
    batch_size: int = TRAINING.batch_size,
    n_loras: int = PAPER.n_loras,
    rank: int = PAPER.rank,
    side: int = ShardSettings.side,
) -> None:
    """Print memory and hours of a training, by GPU.

    Args:
        steps: of the training.
        batch_size: analogies a step.
        n_loras: size N of the basis.
        rank: rank r of its LoRAs.
        side: of one square picture in pixels.
    """
    print(table(replace(PAPER, n_loras=n_loras, rank=rank), steps, batch_size, side))
