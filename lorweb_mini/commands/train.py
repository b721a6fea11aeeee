"""Command line of training: ``python -m lorweb_mini.train PART`` with one of the parts in :data:`DEFAULTS`."""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from ..emoji.distributions import Distribution, held_out
from ..emoji.relations import Relation, get_relation
from ..errors import InputError, whole_number
from ..files import made_folder, read_json, tolerant_console, write_atomically
from ..models.miniature import QUERIES, BasisConfig
from ..models.weights import fingerprint, weights_dir
from ..training.analogies import Listed, artists_relations
from ..training.autoencoder import AutoencoderRecipe
from ..training.base import BaseRecipe
from ..training.basis import BasisRecipe
from ..training.config import TrainingConfig
from ..training.encoder import EncoderRecipe
from ..training.loop import LOGS, Recipe, check_folder, train, write_configuration
from ..training.pair_encoder import PairRecipe
from ..training.state import PART, STATE, check_settings, has_state, read_progress

DEFAULTS = {
    "autoencoder": TrainingConfig(minutes=25, batch_size=32, learning_rate=2e-3, weight_decay=1e-3, ema_decay=0.998),
    "decoder": TrainingConfig(minutes=60, batch_size=32, learning_rate=1e-3, warmup_steps=200, weight_decay=1e-3),
    "encoder": TrainingConfig(minutes=10, batch_size=512, learning_rate=2e-3, weight_decay=0.05, ema_decay=0.998),
    "pair_encoder": TrainingConfig(
        samples=1_500_000, decay_samples=400_000, batch_size=192, learning_rate=1e-3, warmup_steps=300, precision="auto"
    ),
    "base": TrainingConfig(
        samples=2_500_000,
        decay_samples=500_000,
        batch_size=64,
        learning_rate=8e-4,
        warmup_steps=300,
        betas=(0.9, 0.95),
        precision="auto",
    ),
    "starter": TrainingConfig(
        minutes=10, batch_size=32, learning_rate=1e-2, warmup_steps=50, ema_decay=0.995, precision="auto"
    ),
    "full": TrainingConfig(
        samples=2_000_000, decay_samples=400_000, batch_size=48, learning_rate=6e-3, precision="auto"
    ),
}
FOLDERS = {"decoder": "autoencoder"}
BASES = {
    "starter": BasisConfig(n_loras=16, rank=4, layout="b", query="cat+pair"),
    "full": BasisConfig(n_loras=32, rank=4, layout="b", query="cat+pair"),
}
OTHERS: dict[str, Callable[..., Recipe]] = {
    "autoencoder": AutoencoderRecipe,
    "decoder": partial(AutoencoderRecipe, decoder_only=True),
    "encoder": EncoderRecipe,
    "pair_encoder": PairRecipe,
    "base": BaseRecipe,
}
OPTIONS = {
    "encoder": ("edited_pairs",),
    "base": ("change_floor",),
    **dict.fromkeys(BASES, ("pair_rate", "balance", "exact_shift", "change_floor", "artists_share")),
}
SHAPE = ("layout", "n_loras", "rank", "encoder", "query", "no_router")  # options of a basis alone
LENGTHS = ("steps", "budget", "samples", "decay_samples", "minutes", "branch_from")
# Of the distribution of edits the starter learns colours and places.
STARTER_KINDS = (
    "hue", "mix", "grey", "invert", "tint", "screen", "background", "darken", "fade", "saturate", "contrast",
    "flip_horizontal", "shrink", "move",
)  # fmt: skip
STARTER_TONES = ("tone/yellow>dark", "tone/dark>light")
CHANGE_FLOOR = 0.2  # of the loss by change, see BasisRecipe
# The artists' relations that are learnt slowly are drawn more often.
EMPHASIS = {"gender": 3.0, "style": 2.0, "tone": 1.0, "moon": 2.0, "colour": 0.5}


def relations_of(part: str) -> list[Relation]:
    """The artists' relations of a basis: two tones for the starter, all that it may be shown for full."""
    return [get_relation(name) for name in STARTER_TONES] if part == "starter" else artists_relations()


def recipe_of(part: str, basis: BasisConfig | None = None, seed: int = 0, **options: Any) -> Recipe:
    """The recipe of one part, freshly initialised from ``seed``.

    ``options`` are those of the part's own recipe, and for a basis ``kinds`` of the distribution of edits and
    ``relations``, how many fixed ones are drawn of it; None draws a fresh one for every sample.
    """
    torch.manual_seed(seed)
    if part not in BASES:
        return OTHERS[part](**options)
    usual = {"artists_share": 0.12} if part == "starter" else {"artists_share": 0.4, "change_floor": CHANGE_FLOOR}
    options = {**usual, "emphasis": EMPHASIS, **options}
    every = Distribution(options.pop("kinds", STARTER_KINDS if part == "starter" else None), held_out())
    relations = options.pop("relations", None)
    fresh = every if relations is None else Listed(every, relations)
    return BasisRecipe(basis or BASES[part], relations_of(part), seed=seed, fresh=fresh, **options)


def branch(
    source: Path, folder: Path, config: TrainingConfig, samples: int, settings: Mapping[str, Any]
) -> TrainingConfig:
    """Starts the decay of an unfinished run in a folder of its own: its state, and a plan that ends ``samples`` later.

    A branch that was started goes on by its own plan, whatever has become of the source.

    Args:
        settings: those of the recipe; the source's have to be the same.

    Raises:
        InputError: the source has no unfinished run, or one of other settings, or the folder has one already of another
            length. The folder is left as it was.
    """
    if has_state(folder):
        plan = read_json(folder / "training.json", ["samples", "decay_samples"])
        if (found := plan["decay_samples"]) != samples:
            raise InputError(f"expected a decay over {samples} samples in {folder}, got one over {found}")
        return replace(config, samples=plan["samples"], decay_samples=samples)
    if not (source / STATE).is_file():
        raise InputError(f"expected an unfinished run in {source}, found none")
    progress = read_progress(source / STATE)
    check_settings({**asdict(config), **settings}, progress["config"], source)
    # Copied first and named last: the logs may go on beyond it, where a resumed run cuts them, and a kill before it has
    # its name leaves nothing that looks like a branch.
    part = made_folder(folder) / PART
    shutil.copyfile(source / STATE, part)
    for name in LOGS:
        if (source / name).is_file():
            write_atomically(folder / name, (source / name).read_bytes())
    done = progress["step"] * config.batch_size
    config = replace(config, samples=done + samples, decay_samples=samples)
    write_configuration(folder, config)
    os.replace(part, folder / STATE)
    return config


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m lorweb_mini.train", description=__doc__)
    made.add_argument("part", choices=list(DEFAULTS))
    made.add_argument("--folder", type=Path, help="where to write; default: the shipped weights' own folder")
    made.add_argument("--samples", type=int, help="length of the training, repeatable bit for bit")
    made.add_argument("--decay-samples", type=int, help="samples at the end over which the learning rate falls")
    made.add_argument("--minutes", type=float, help="time budget; beside --samples a cap, after which the state stays")
    made.add_argument("--budget", type=float, help="minutes instead of --samples: the learning rate follows the clock")
    made.add_argument("--steps", type=int, help="exact number of steps instead")
    made.add_argument("--branch-from", type=Path, help="decay an unfinished run of this folder over --samples")
    made.add_argument("--batch-size", type=int)
    made.add_argument("--learning-rate", type=float)
    made.add_argument("--warmup-steps", type=int)
    made.add_argument("--optimizer", choices=("adamw", "muon"))
    precisions = ("fp32", "bf16", "auto")
    made.add_argument("--precision", choices=precisions, help="auto: bf16 where the processor has it, else fp32")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--threads", type=int, default=os.cpu_count())
    made.add_argument("--checkpoint-minutes", type=float)
    made.add_argument("--edited-pairs", type=int, help="encoder: pictures drawn for each procedural edit")
    made.add_argument("--layout", help="what the transformer of a basis sees: b, tokens or grid")
    made.add_argument("--loras", type=int, dest="n_loras", help="size N of the basis")
    made.add_argument("--rank", type=int, help="rank r of its LoRAs")
    made.add_argument("--encoder", help="image encoder of its router: tiny-clip, latents, pixels or efficientnet-lite0")
    made.add_argument("--query", choices=QUERIES, help="of its router: with or without the encoder of the pair")
    made.add_argument("--no-router", action="store_true", default=None, help="ablation: all coefficients are 1")
    made.add_argument("--pair-rate", type=float, help="learning rate of the encoder of the pair, as a share")
    made.add_argument("--balance", type=float, help="weight of the balance term")
    made.add_argument("--exact-shift", type=float, help="mean of logit(t) for exact edits")
    made.add_argument("--change-floor", type=float, help="divide each sample's loss by its change plus this; 0: do not")
    made.add_argument("--artists-share", type=float, help="share of artists' pairs beside the fresh edits")
    made.add_argument("--num-workers", type=int, default=0, help="processes that draw batches; pays beside a GPU")
    made.add_argument("--fresh", action="store_true", help="train anew whatever the folder holds, finished or not")
    made.add_argument("--from-weights", type=Path, help="start from finished weights instead of from nothing")
    return made


def planned(options: argparse.Namespace) -> TrainingConfig:
    """The part's usual settings with what the command line changes of them."""
    config = DEFAULTS[options.part]
    if options.steps is not None:
        config = replace(config, steps=options.steps, minutes=None, samples=None, decay_samples=None)
    elif options.budget is not None:
        config = replace(config, minutes=options.budget, samples=None, decay_samples=None)
    elif options.samples is not None:
        config = replace(config, samples=options.samples, minutes=options.minutes, decay_samples=options.decay_samples)
    elif options.minutes is not None:
        config = replace(config, minutes=options.minutes)
    settings = ("batch_size", "learning_rate", "warmup_steps", "optimizer", "precision", "checkpoint_minutes")
    return replace(config, seed=options.seed, **given(options, *settings))


def given(options: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Those of some options that are set."""
    return {k: getattr(options, k) for k in names if getattr(options, k) is not None}


def check_together(options: argparse.Namespace) -> None:
    """Ends with a message where an option would be left out of account, beside others or for this part."""
    part, lengths = options.part, given(options, *LENGTHS)
    for alone in ("budget", "steps"):
        if alone in lengths and len(lengths) > 1:
            parser().error(f"--{alone} is the length of a training, and takes no other beside it")
    if "branch_from" in lengths and ("samples" not in lengths or "decay_samples" in lengths or options.fresh):
        parser().error(
            "--branch-from needs --samples, the length of the decay, and neither --decay-samples nor --fresh"
        )
    if "decay_samples" in lengths and "samples" not in lengths:
        parser().error("--decay-samples needs --samples, of which they are the last")
    taken = {*OPTIONS.get(part, ()), *(SHAPE if part in BASES else ())}
    if others := given(options, *({*SHAPE, *chain(*OPTIONS.values())} - taken)):
        names = ", ".join(sorted(f"--{name.removeprefix('n_').replace('_', '-')}" for name in others))
        parser().error(f"{names}: not for {part}")


def main(arguments: list[str] | None = None) -> None:
    """Parses the command line and trains."""
    tolerant_console()
    options = parser().parse_args(arguments)
    check_together(options)
    part = options.part
    torch.set_num_threads(whole_number(options.threads, "threads"))
    config, folder = planned(options), weights_dir() / FOLDERS.get(part, part)
    target = options.folder or folder
    # The new decoder takes the place of the one it starts from.
    over = options.from_weights is not None or (part == "decoder" and target.resolve() == folder.resolve())
    check_folder(target, over or options.fresh)
    whole_number(options.num_workers, "num_workers", least=0)
    if options.from_weights is not None and not any(options.from_weights.glob("*.safetensors")):
        raise InputError(f"expected a folder with finished weights, got {options.from_weights}")
    basis, more = None, given(options, *OPTIONS.get(part, ()))
    only_drawn: dict[str, Any] = {}
    if part in BASES:
        changed = given(options, "layout", "n_loras", "rank", "encoder", "query")
        basis = replace(BASES[part], **changed, routed=not options.no_router)
        only_drawn = {"standardise": False}
    if more.get("change_floor") == 0:
        more["change_floor"] = None
    recipe = recipe_of(part, basis, options.seed, **more)
    if (start := options.from_weights or (folder if part == "decoder" else None)) is not None:
        recipe.start_from(start)
        recipe.began_with = fingerprint(start, without=(STATE,))
    if options.branch_from is not None:
        config = branch(options.branch_from, target, config, options.samples, recipe.settings())
    make = partial(recipe_of, part, basis, options.seed, **more, **only_drawn)
    summary = train(recipe, config, target, options.fresh, options.num_workers, make, over)
    print({k: round(v, 4) for k, v in summary.items()})
