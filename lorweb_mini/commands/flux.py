"""Command line of the real scale: ``python -m lorweb_mini.flux COMMAND``; ``COMMAND --help`` lists the options.

``inspect``, ``export`` and ``estimate`` need neither FLUX nor a GPU. Several GPUs train through ``accelerate launch``
with one of the files in ``flux/accelerate``. A command is a dataclass: tyro makes options of its fields, and help of
the comments beside them.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from accelerate import PartialState
from diffusers import FluxKontextPipeline
from PIL import Image
from safetensors.torch import save_file

from ..algebra import fold
from ..errors import InputError, check_seed, check_steps, finite_number, whole_number
from ..files import safetensors_path, tolerant_console, writable_folder
from ..flux import inspect as measures
from ..flux import load
from ..flux.checkpoint import PAPER, ReleasedFile, open_released
from ..flux.estimate import models_of, table
from ..flux.lora_file import DTYPES, write_plain_lora
from ..flux.picture_encoder import CLIP_L, PictureEncoder, check_side, read_triplets, scaled_grid
from ..flux.shards import LatentShards, ShardSettings, read_set, write_shards
from ..flux.train import TRAINING, FluxConfig, FluxRecipe, start_of
from ..images import to_pil
from ..models.weights import fingerprint
from ..training import loop, sharding
from ..training.config import TrainingConfig

Dtype = Literal["float32", "bfloat16", "float16"]
Quantize = Literal["4bit", "8bit"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses the command line and runs one command; bad input ends it with one line and status 2."""
    tolerant_console()
    try:
        command: Any = tyro.extras.subcommand_cli_from_dict(
            {x.__name__.lower(): x for x in (Inspect, Edit, Export, Precompute, Train, Estimate)},
            prog="python -m lorweb_mini.flux",
            description="LoRWeB on FLUX.1-Kontext: visual analogies with a basis of LoRAs and a router.",
            args=arguments,
            config=(tyro.conf.OmitArgPrefixes,),
        )
        command.run()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


@dataclass(frozen=True)
class Inspect:
    """Measure a released checkpoint."""

    checkpoint: tyro.conf.Positional[str]  # safetensors file, folder or hub name in the released layout
    out: Path = Path("inspection")  # folder for the tables
    analogies: Path | None = None  # folder of folders with pictures a, a_prime and b, to route
    encoder: str | None = None  # folder or hub name of CLIP; default: what the checkpoint names, or CLIP ViT-L/14

    def run(self) -> None:
        if self.encoder is not None and self.analogies is None:
            raise InputError("expected --analogies beside --encoder, which is for them alone, got none")
        writable_folder(self.out)
        names, triplets = measures.read_analogies(self.analogies) if self.analogies is not None else ([], [])
        file = open_released(load.downloaded(self.checkpoint))
        # Before the measuring, which takes minutes, so that a wrong encoder is found first.
        coefficients = measures.route_pictures(file, _encoder(self.encoder, file), *triplets) if triplets else None
        measured = measures.inspect_released(file, progress=True)
        written = measured.save(self.out)
        print(measured)
        if coefficients is not None:
            rows = measures.routing_table(names, coefficients)
            written += [self.out / "routing.csv", self.out / "routing.safetensors"]
            measures.write_csv(written[-2], rows)
            save_file({"coefficients": coefficients.contiguous()}, written[-1])
            for row in rows:
                print(f"{row['analogy']:<32} effective LoRAs {row['effective']:5.1f}, most from {row['top']}")
        print("written:", ", ".join(map(str, written)))
        if peak := _peak_gib():
            print(f"peak memory of this process: {peak:.2f} GiB")


@dataclass(frozen=True)
class Analogy:
    """Three pictures and a basis."""

    a: tyro.conf.Positional[Path]  # a picture
    a_prime: tyro.conf.Positional[Path]  # the same picture edited
    b: tyro.conf.Positional[Path]  # the picture to edit in the same way
    weights: str = load.WEIGHTS  # folder, file or hub name of a basis in the released layout
    encoder: str | None = None  # folder or hub name of the router's CLIP; default: what the weights name
    dtype: Dtype = "bfloat16"  # of the pipeline, or of the file that is written
    side: int = 512  # of one square picture in pixels, half of the grid


@dataclass(frozen=True)
class Edit(Analogy):
    """Draw b' with a : a' :: b : b' by FLUX.1-Kontext; needs a GPU."""

    out: Path = Path("b_prime.png")  # the picture b' to write
    prompt: str = ""  # the edit in words
    steps: int = 28  # Euler steps
    guidance: float = 2.5  # the guidance scale that the transformer is told
    seed: int = 0  # of the noise
    base: str = load.BASE  # folder or hub name of FLUX.1-Kontext
    device: str = "cuda"  # cuda, or cpu (hours a picture)
    quantize: Quantize | None = None  # transformer and T5 in 4 or 8 bits (bitsandbytes)
    offload: bool = False  # components take turns on the device

    def run(self) -> None:
        pictures = (self.a, self.a_prime, self.b)
        read_triplets(*pictures)  # all that can be wrong here is found before gigabytes are loaded
        check_steps(self.steps)
        check_seed(self.seed)
        check_side(self.side)
        finite_number(self.guidance, "guidance")
        _check_picture(self.out)
        if not self.prompt.strip():
            warnings.warn(
                "no --prompt: the released basis was trained with the instruction of the pair (a, a'), 5 % of the time "
                "without it, and its own inference requires one; without it the pictures alone say what to do",
                stacklevel=2,
            )
        editor = load.load_flux(
            self.base,
            self.weights,
            device=self.device,
            dtype=DTYPES[self.dtype],
            quantize=self.quantize,
            offload=self.offload,
            encoder=self.encoder,
            side=self.side,
        )
        result = editor.edit(*pictures, prompt=self.prompt, steps=self.steps, seed=self.seed, guidance=self.guidance)
        result.image.save(self.out)
        print("written:", self.out)


@dataclass(frozen=True)
class Export(Analogy):
    """Write one analogy as a plain LoRA, and the grid that such a LoRA needs as its input picture."""

    out: Path = Path("analogy.safetensors")  # the LoRA file to write
    # a picture file for the grid [[a, a'], [b, b]]; the bottom-right quarter of what is drawn from it is b'
    grid: Path | None = None
    # names of the LoRA's keys; single-file is what ComfyUI reads
    format: Literal["diffusers", "single-file"] = "diffusers"
    rank: int | None = None  # cut to this rank; default: exact, N times r

    def run(self) -> None:
        check_side(self.side)
        _check_file(safetensors_path(self.out))
        if self.rank is not None:
            whole_number(self.rank, "a rank")
        if self.grid is not None:
            _check_picture(self.grid)
        ((a, a_prime, b),) = read_triplets(self.a, self.a_prime, self.b)
        file = open_released(load.downloaded(self.weights))
        mixture = measures.route_pictures(file, _encoder(self.encoder, file), (a, a_prime, b))[0]
        layers = {layer.name: fold(*layer.factors(), c) for layer, c in zip(file, mixture, strict=True)}
        path = write_plain_lora(self.out, layers, self.format, self.rank, DTYPES[self.dtype])
        print(f"written: {path}, {path.stat().st_size / 2**20:,.0f} MiB")
        if self.grid is not None:
            to_pil(scaled_grid(a, a_prime, b, b, self.side)[0]).save(self.grid)
            print(f"written: {self.grid}, the picture to edit with it; b' is the bottom-right quarter of the result")


@dataclass(frozen=True)
class Precompute:
    """Compute latents, router queries and prompt embeddings to train on."""

    data: tyro.conf.Positional[Path]  # folder of categories with control/, target/ and captions
    out: Path  # folder of the shards; a killed run goes on there
    settings: ShardSettings = field(default_factory=ShardSettings)
    base: str = load.BASE  # folder or hub name of FLUX.1-Kontext
    encoder: str = CLIP_L  # folder or hub name of the router's CLIP or SigLIP
    splits: Path | None = None  # a published split file; default: one that follows from the names
    device: str = "cuda"  # where to compute
    dtype: Dtype = "bfloat16"  # of latents and prompts

    def run(self) -> None:
        device, base = load.device_of(self.device), load.readable(self.base)
        writable_folder(self.out)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # write_shards reads it again, and warns of what it skips
            read_set(self.data, self.splits)
        models_of(base, ("text_encoder", "text_encoder_2", "vae"))
        encoder, names = PictureEncoder.load(self.encoder).to(device), {"base": self.base, "encoder": self.encoder}
        pipeline = FluxKontextPipeline.from_pretrained(base, transformer=None, dtype=DTYPES[self.dtype]).to(device)
        shards = write_shards(pipeline, encoder, self.data, self.out, self.settings, self.splits, device, names)
        counts = ", ".join(f"{part} {shards.count(part):,}" for part in shards.categories)
        print(f"written: {self.out}, analogies: {counts}; prompts: {len(shards.captions):,}")


@dataclass(frozen=True)
class Train:
    """Train a basis and its router; the released layout is in the run's folder at the end."""

    data: tyro.conf.Positional[Path]  # folder of shards, see precompute
    out: Path  # folder of the run; a killed run goes on there
    sizes: FluxConfig = field(default_factory=FluxConfig)
    plan: TrainingConfig = TRAINING
    base: str = load.BASE  # folder or hub name of FLUX.1-Kontext
    accumulate: int = 1  # forward passes that share a step, for less memory
    checkpointing: bool = True  # compute activations again in the backward pass: slower, and far less memory
    quantize: Quantize | None = None  # the frozen base in 4 or 8 bits; one GPU or DDP
    dtype: Dtype = "bfloat16"  # of the frozen base
    fresh: bool = False  # train anew whatever the folder holds, finished or not
    from_weights: Path | None = None  # start from a checkpoint in the released layout

    def run(self) -> None:
        over = self.from_weights is not None
        loop.check_folder(self.out, over or self.fresh)
        if self.plan.batch_size % whole_number(self.accumulate, "accumulate"):
            size = self.plan.batch_size
            raise InputError(f"expected a batch size divisible by accumulate, got {size} and {self.accumulate}")
        shards, dtype = LatentShards(self.data), DTYPES[self.dtype]
        if self.quantize and sharding.asked():
            raise InputError("expected a base in floating point with FSDP, whose slices quantised weights do not take")
        quantization, _ = load.quantisation(self.quantize, dtype)
        base = load.readable(self.base)
        transformer = models_of(base, ("transformer", "vae"))["transformer"]
        start = start_of(self.from_weights, self.sizes, shards, transformer) if self.from_weights is not None else None
        absent = dict.fromkeys(("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"))
        pipeline = FluxKontextPipeline.from_pretrained(base, dtype=dtype, quantization_config=quantization, **absent)
        torch.manual_seed(self.plan.seed)  # every process starts from the same weights
        recipe = FluxRecipe(pipeline, shards, self.sizes, self.accumulate, self.checkpointing)
        if start is not None:
            recipe.start_from(start.path)
            recipe.began_with = fingerprint(start.path)
        summary = loop.train(recipe, self.plan, self.out, self.fresh, replace=over)
        if PartialState().is_main_process:
            print({k: round(v, 4) for k, v in summary.items()})


@dataclass(frozen=True)
class Estimate:
    """Print memory and hours of a training, by GPU."""

    steps: int = TRAINING.steps or 0  # of the training
    batch_size: int = TRAINING.batch_size  # analogies a step
    n_loras: int = PAPER.n_loras  # size N of the basis
    rank: int = PAPER.rank  # rank r of its LoRAs
    side: int = ShardSettings.side  # of one square picture in pixels

    def run(self) -> None:
        for name, value in asdict(self).items():
            check_side(value, 8192) if name == "side" else whole_number(value, name)
        config = replace(PAPER, n_loras=self.n_loras, rank=self.rank)
        print(table(config, self.steps, self.batch_size, self.side))


def _encoder(name: str | None, file: ReleasedFile) -> PictureEncoder:
    return PictureEncoder.load(name or file.config.encoder or CLIP_L)


def _check_picture(out: Path) -> None:
    """Before anything is drawn: whether an RGB picture of this name can be written; its folder is made."""
    try:  # a format may be registered and yet take no RGB picture, or need another program
        Image.new("RGB", (1, 1)).save(BytesIO(), Image.registered_extensions()[out.suffix.lower()])
    except Exception:  # Pillow's writers raise many kinds
        raise InputError(f"expected a picture file to write, such as {out.stem}.png, got {out.name!r}") from None
    _check_file(out)


def _check_file(out: Path) -> None:
    """InputError where a file cannot be written; its folder is made."""
    writable_folder(out.parent)
    if out.is_dir() or (out.exists() and not os.access(out, os.W_OK)):
        raise InputError(f"expected a file to write, got {out}, {'a folder' if out.is_dir() else 'which is read-only'}")


def _peak_gib() -> float | None:
    """Largest resident memory of this process; None where the system does not say."""
    status = Path("/proc/self/status")
    if status.is_file():
        # Linux's getrusage keeps what the process that started this one held.
        return next(int(x.split()[1]) / 2**20 for x in status.read_text().splitlines() if x.startswith("VmHWM:"))
    if sys.platform != "darwin":
        return None
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**30
