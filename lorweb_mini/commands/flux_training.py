"""``python -m lorweb_mini.flux precompute | train | estimate``: from a folder of picture pairs to a basis of one's own.

precompute  latents, router queries and prompt embeddings of a folder of picture pairs; needs no transformer
train       basis and router on such shards; several GPUs through ``accelerate launch``, see :func:`configuration`
estimate    memory and hours by GPU, from FLUX's configuration alone
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from ..errors import InputError
from ..flux.lora_file import DTYPES

CONFIGURATIONS = Path(__file__).resolve().parents[1] / "flux" / "accelerate"


def configuration(kind: str) -> Path:
    """The shipped file for ``accelerate launch --config_file``: ``ddp`` or ``fsdp``."""
    return CONFIGURATIONS / f"{kind}.yaml"


def precompute_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``precompute``."""
    from ..flux.editor import BASE
    from ..flux.picture_encoder import CLIP_L

    parser.add_argument("data", type=Path, help="folder of categories with control/, target/ and captions")
    parser.add_argument("--out", type=Path, required=True, help="folder of the shards; a killed run goes on there")
    parser.add_argument("--base", default=BASE)
    parser.add_argument("--encoder", default=CLIP_L, help="what the router looks through")
    parser.add_argument("--splits", type=Path, help="a published split file; default: one that follows from the names")
    parser.add_argument("--each", type=int, default=300, help="analogies of a category; 0 for all")
    parser.add_argument("--side", type=int, default=512, help="of one picture, in pixels")
    parser.add_argument("--text-tokens", type=int, default=512)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16")


def precompute(options: argparse.Namespace) -> None:
    """Writes the shards."""
    from diffusers import FluxKontextPipeline

    from ..flux import editor as flux
    from ..flux.picture_encoder import PictureEncoder
    from ..flux.shards import ShardSettings, write_shards

    device = flux._device(options.device)
    base = flux._readable(options.base, None)
    pipeline = FluxKontextPipeline.from_pretrained(base, transformer=None, dtype=DTYPES[options.dtype]).to(device)
    encoder = PictureEncoder.load(options.encoder).to(device)
    settings = ShardSettings(options.side, options.text_tokens, options.each or None, options.seed)
    names = {"base": str(options.base), "encoder": str(options.encoder)}
    shards = write_shards(pipeline, encoder, options.data, options.out, settings, options.splits, device, names)
    counts = ", ".join(f"{part} {shards.count(part):,}" for part in shards.categories)
    print(f"written: {options.out}, analogies: {counts}; prompts: {len(shards.captions):,}")


def train_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``train``."""
    from ..flux.editor import BASE
    from ..flux.train import TRAINING, FluxConfig

    sizes = FluxConfig()
    parser.add_argument("data", type=Path, help="folder of shards, see precompute")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run; a killed run goes on there")
    parser.add_argument("--base", default=BASE)
    parser.add_argument("--steps", type=int, default=TRAINING.steps)
    parser.add_argument("--batch-size", type=int, help=f"over all processes; default {TRAINING.batch_size}")
    parser.add_argument("--accumulate", type=int, default=1, help="forward passes that share a step, for less memory")
    parser.add_argument("--learning-rate", type=float, help=f"default {TRAINING.learning_rate}")
    parser.add_argument("--loras", type=int, default=sizes.n_loras, help="size N of the basis")
    parser.add_argument("--rank", type=int, default=sizes.rank, help="rank r of its LoRAs")
    parser.add_argument("--keys-dim", type=int, default=sizes.keys_dim)
    parser.add_argument("--sample-every", type=int, default=sizes.sample_every, help="steps between pictures; 0: none")
    parser.add_argument("--sampling-steps", type=int, default=sizes.sampling_steps)
    parser.add_argument("--checkpoint-minutes", type=float, help=f"default {TRAINING.checkpoint_minutes}")
    parser.add_argument("--no-checkpointing", action="store_true", help="faster, and far more memory")
    parser.add_argument("--quantize", choices=("4bit", "8bit"), help="of the frozen base; one GPU or DDP")
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16", help="of the frozen base")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fresh", action="store_true", help="throw away an unfinished run instead of resuming it")
    parser.add_argument("--from-weights", type=Path, help="start from a checkpoint in the released layout")


def train(options: argparse.Namespace) -> None:
    """Trains; the released layout is in the run's folder at the end."""
    from accelerate import PartialState
    from diffusers import FluxKontextPipeline, FluxTransformer2DModel

    from ..flux import editor as flux
    from ..flux.shards import LatentShards
    from ..flux.train import FluxConfig, FluxRecipe, training_config
    from ..training import loop as training
    from ..training import sharding

    shards, dtype = LatentShards(options.data), DTYPES[options.dtype]
    if options.quantize and sharding.asked():
        raise InputError("expected a base in floating point with FSDP, whose slices quantised weights do not take")
    base = flux._readable(options.base, None)
    quantization = flux._quantisation(options.quantize, dtype)[0]
    mapping = quantization._resolve_quant_config(module_name="transformer") if quantization else None
    transformer = FluxTransformer2DModel.from_pretrained(
        base, subfolder="transformer", torch_dtype=dtype, quantization_config=mapping
    )
    absent = dict.fromkeys(("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"))
    pipeline = FluxKontextPipeline.from_pretrained(base, transformer=transformer, dtype=dtype, **absent)
    torch.manual_seed(options.seed)  # every process starts from the same weights
    sizes = FluxConfig(
        options.loras,
        options.rank,
        options.keys_dim,
        sample_every=options.sample_every,
        sampling_steps=options.sampling_steps,
    )
    recipe = FluxRecipe(transformer, shards, sizes, pipeline, options.accumulate, not options.no_checkpointing)
    if options.from_weights is not None:
        recipe.start_from(options.from_weights)
    config = training_config(
        steps=options.steps,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        checkpoint_minutes=options.checkpoint_minutes,
        seed=options.seed,
    )
    summary = training.train(recipe, config, options.out, options.fresh)
    if PartialState().is_main_process:
        print({k: round(v, 4) for k, v in summary.items()})


def estimate_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``estimate``."""
    from ..flux.train import TRAINING, FluxConfig

    sizes = FluxConfig()
    parser.add_argument("--steps", type=int, default=TRAINING.steps)
    parser.add_argument("--batch-size", type=int, default=TRAINING.batch_size)
    parser.add_argument("--loras", type=int, default=sizes.n_loras, help="size N of the basis")
    parser.add_argument("--rank", type=int, default=sizes.rank, help="rank r of its LoRAs")


def estimate(options: argparse.Namespace) -> None:
    """Prints the table."""
    from dataclasses import replace

    from ..flux.checkpoint import PAPER
    from ..flux.estimate import table

    config = replace(PAPER, n_loras=options.loras, rank=options.rank)
    print(table(config=config, steps=options.steps, batch=options.batch_size))
