"""Command line of training: ``python -m lorweb_mini.train autoencoder|decoder|encoder|base|starter|full``."""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path

import torch

from ..core.editor import BasisConfig
from ..emoji.relations import select
from ..models.weights import weights_dir
from ..training.loop import Recipe, TrainingConfig, train

DEFAULTS = {
    "autoencoder": TrainingConfig(minutes=25, batch_size=32, learning_rate=2e-3, weight_decay=1e-3, ema_decay=0.998),
    "decoder": TrainingConfig(
        minutes=60, batch_size=32, learning_rate=1e-3, warmup_steps=200, weight_decay=1e-3, ema_decay=0.999
    ),
    "encoder": TrainingConfig(minutes=10, batch_size=512, learning_rate=2e-3, weight_decay=0.05, ema_decay=0.998),
    "base": TrainingConfig(minutes=105, batch_size=64, learning_rate=1e-3, warmup_steps=200, betas=(0.9, 0.95)),
    "starter": TrainingConfig(minutes=10, batch_size=32, learning_rate=1e-2, warmup_steps=50, ema_decay=0.995),
    "full": TrainingConfig(minutes=20, batch_size=48, learning_rate=1e-2, warmup_steps=50, ema_decay=0.998),
}
FOLDERS = {"decoder": "autoencoder"}
BASES = {
    "starter": BasisConfig(n_loras=16, rank=4, layout="b"),
    "full": BasisConfig(n_loras=32, rank=4, layout="b"),
}


def relations_of(part: str):
    """The relations a basis is trained on: the starter set's seen ones, or all seen ones with two train pairs."""
    if part == "starter":
        return select("seen", starter=True)
    return [r for r in select("seen", known_to_base=True) if len(r.pairs("train")) >= 2]


def recipe_of(
    part: str, basis: BasisConfig | None = None, edited_pairs: int = 1200, seed: int = 0, teacher: float = 0.0
) -> Recipe:
    """The recipe of one part, freshly initialised from ``seed``."""
    from ..training import recipes

    torch.manual_seed(seed)
    if part == "autoencoder":
        return recipes.AutoencoderRecipe()
    if part == "decoder":
        return recipes.AutoencoderRecipe(decoder_only=True)
    if part == "encoder":
        return recipes.EncoderRecipe(edited_pairs)
    if part == "base":
        return recipes.BaseRecipe(edited_pairs=edited_pairs)
    return recipes.BasisRecipe(basis or BASES[part], relations_of(part), edited_pairs, seed, teacher=teacher)


def main(arguments: list[str] | None = None) -> None:
    """Parses the command line and trains."""
    parser = argparse.ArgumentParser(prog="python -m lorweb_mini.train", description=__doc__)
    parser.add_argument("part", choices=list(DEFAULTS))
    parser.add_argument("--folder", type=Path, help="where to write; default: the shipped weights' own folder")
    parser.add_argument("--minutes", type=float, help="time budget; the learning rate follows the clock")
    parser.add_argument("--steps", type=int, help="exact number of steps instead, repeatable bit for bit")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--checkpoint-minutes", type=float)
    parser.add_argument("--edited-pairs", type=int, default=1200, help="pictures drawn for each procedural edit")
    parser.add_argument("--layout", help="what the transformer of a basis sees: b, tokens or grid")
    parser.add_argument("--loras", type=int, help="size N of the basis")
    parser.add_argument("--rank", type=int, help="rank r of its LoRAs")
    parser.add_argument("--encoder", help="eye of its router: tiny-clip, latents, pixels or efficientnet-lite0")
    parser.add_argument("--no-router", action="store_true", help="ablation: all coefficients are 1")
    parser.add_argument("--teacher", type=float, default=0.0, help="share of the instructed base in a basis's target")
    parser.add_argument("--fresh", action="store_true", help="throw away an unfinished run instead of resuming it")
    parser.add_argument("--from-weights", type=Path, help="start from finished weights instead of from nothing")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    config = DEFAULTS[options.part]
    if options.steps is not None:
        config = replace(config, steps=options.steps, minutes=None)
    elif options.minutes is not None:
        config = replace(config, minutes=options.minutes)
    given = {
        k: getattr(options, k)
        for k in ("batch_size", "learning_rate", "checkpoint_minutes")
        if getattr(options, k) is not None
    }
    config = replace(config, seed=options.seed, **given)
    basis = None
    if options.part in BASES:
        basis = BASES[options.part]
        changed = {
            "layout": options.layout,
            "n_loras": options.loras,
            "rank": options.rank,
            "encoder": options.encoder,
        }
        basis = replace(basis, **{k: v for k, v in changed.items() if v is not None}, routed=not options.no_router)
    recipe = recipe_of(options.part, basis, options.edited_pairs, options.seed, options.teacher)
    folder = weights_dir() / FOLDERS.get(options.part, options.part)
    if options.from_weights is not None:
        recipe.start_from(options.from_weights)
    elif options.part == "decoder":
        recipe.start_from(folder)
    summary = train(recipe, config, options.folder or folder, options.fresh)
    print({k: round(v, 4) for k, v in summary.items()})
