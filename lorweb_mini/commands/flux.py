"""Command line of the real scale: ``python -m lorweb_mini.flux COMMAND``; ``COMMAND --help`` lists the options.

``inspect``, ``export`` and ``estimate`` need neither FLUX nor a GPU. Several GPUs train through ``accelerate launch``
with one of the files in ``flux/accelerate``.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
import tyro
from accelerate import PartialState
from diffusers import FluxKontextPipeline
from PIL import Image
from safetensors.torch import save_file

from ..algebra import fold
from ..errors import InputError, check_seed, check_steps
from ..files import tolerant_console
from ..flux import inspect as measures
from ..flux import load
from ..flux.checkpoint import PAPER, ReleasedFile, open_released
from ..flux.estimate import table
from ..flux.lora_file import DTYPES, write_plain_lora
from ..flux.picture_encoder import CLIP_L, PictureEncoder, read_triplets, scaled_grid
from ..flux.shards import LatentShards, ShardSettings, write_shards
from ..flux.train import TRAINING, FluxConfig, FluxRecipe
from ..images import to_pil
from ..training import loop, sharding
from ..training.config import TrainingConfig

Dtype = Literal["float32", "bfloat16", "float16"]
Quantize = Literal["4bit", "8bit"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses the command line and runs one command; bad input ends it with one line and status 2."""
    tolerant_console()
    commands = {x.__name__: x for x in (inspect, edit, export, precompute, train, estimate)}
    try:
        tyro.extras.subcommand_cli_from_dict(
            commands,
            prog="python -m lorweb_mini.flux",
            description="LoRWeB on FLUX.1-Kontext: visual analogies with a basis of LoRAs and a router.",
            args=arguments,
            config=(tyro.conf.OmitArgPrefixes,),
        )
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def inspect(
    checkpoint: str,
    /,
    *,
    out: Path = Path("inspection"),
    analogies: Path | None = None,
    encoder: str | None = None,
) -> None:
    """Measure a released checkpoint.

    Args:
        checkpoint: safetensors file, folder or hub name in the released layout.
        out: folder for the tables.
        analogies: folder of folders with pictures a, a_prime and b, to route.
        encoder: folder or hub name of CLIP; default: what the checkpoint names, or CLIP ViT-L/14.
    """
    file = _opened(checkpoint)
    measured = measures.inspect_released(file, progress=True)
    written = measured.save(out)
    print(measured)
    if analogies is not None:
        names, triplets = measures.read_analogies(analogies)
        coefficients = measures.route_pictures(file, _encoder(encoder, file), *triplets)
        rows = measures.routing_table(names, coefficients)
        measures.write_csv(out / "routing.csv", rows)
        save_file({"coefficients": coefficients.contiguous()}, out / "routing.safetensors")
        written += [out / "routing.csv", out / "routing.safetensors"]
        for row in rows:
            print(f"{row['analogy']:<32} effective LoRAs {row['effective']:5.1f}, most from {row['top']}")
    print("written:", ", ".join(map(str, written)))
    if peak := _peak_gib():
        print(f"peak memory of this process: {peak:.2f} GiB")


@dataclass(frozen=True)
class Analogy:
    """Three pictures and a basis.

    Attributes:
        a: a picture.
        a_prime: the same picture edited.
        b: the picture to edit in the same way.
        weights: folder, file or hub name of a basis in the released layout.
        encoder: folder or hub name of the router's CLIP; default: what the weights name.
        dtype: of the pipeline, or of the file that is written.
        side: of one square picture in pixels, half of the grid.
    """

    a: tyro.conf.Positional[Path]
    a_prime: tyro.conf.Positional[Path]
    b: tyro.conf.Positional[Path]
    weights: str = load.WEIGHTS
    encoder: str | None = None
    dtype: Dtype = "bfloat16"
    side: int = 512


def _check_picture(out: Path) -> None:
    """Before anything is drawn: whether a picture of this name can be written; its folder is made."""
    if Image.registered_extensions().get(out.suffix.lower()) not in Image.SAVE:
        raise InputError(f"expected a picture file to write, such as {out.stem}.png, got {out.name!r}")
    out.parent.mkdir(parents=True, exist_ok=True)


def edit(
    analogy: Analogy,
    *,
    out: Path = Path("b_prime.png"),
    prompt: str = "",
    steps: int = 28,
    guidance: float = 2.5,
    seed: int = 0,
    base: str = load.BASE,
    device: str = "cuda",
    quantize: Quantize | None = None,
    offload: bool = False,
) -> None:
    """Draw b' with a : a' :: b : b' by FLUX.1-Kontext; needs a GPU.

    Args:
        analogy: pictures and basis.
        out: the picture b' to write.
        prompt: the edit in words.
        steps: Euler steps.
        guidance: the guidance scale that the transformer is told.
        seed: of the noise.
        base: folder or hub name of FLUX.1-Kontext.
        device: cuda, or cpu (hours a picture).
        quantize: transformer and T5 in 4 or 8 bits (bitsandbytes).
        offload: components take turns on the device.
    """
    pictures = (analogy.a, analogy.a_prime, analogy.b)
    read_triplets(*pictures)  # all that can be wrong here is found before gigabytes are loaded
    check_steps(steps)
    check_seed(seed)
    _check_picture(out)
    if not prompt.strip():
        warnings.warn(
            "no --prompt: the released basis was trained with the instruction of the pair (a, a'), 5 % of the time "
            "without it, and its own inference requires one; without it the pictures alone say what to do",
            stacklevel=2,
        )
    editor = load.load_flux(
        base,
        analogy.weights,
        device=device,
        dtype=DTYPES[analogy.dtype],
        quantize=quantize,
        offload=offload,
        encoder=analogy.encoder,
        side=analogy.side,
    )
    result = editor.edit(*pictures, prompt=prompt, steps=steps, seed=seed, guidance=guidance)
    result.image.save(out)
    print("written:", out)


def export(
    analogy: Analogy,
    *,
    out: Path = Path("analogy.safetensors"),
    grid: Path | None = None,
    format: Literal["diffusers", "single-file"] = "diffusers",
    rank: int | None = None,
) -> None:
    """Write one analogy as a plain LoRA, and the grid that such a LoRA needs as its input picture.

    Args:
        analogy: pictures and basis.
        out: the LoRA file to write.
        grid: a picture file for the grid [[a, a'], [b, b]]; the bottom-right quarter of what is drawn from it is b'.
        format: names of the LoRA's keys; single-file is what ComfyUI reads.
        rank: cut to this rank; default: exact, N times r.
    """
    if grid is not None:
        _check_picture(grid)
    file = _opened(analogy.weights)
    ((a, a_prime, b),) = read_triplets(analogy.a, analogy.a_prime, analogy.b)
    mixture = measures.route_pictures(file, _encoder(analogy.encoder, file), (a, a_prime, b))[0]
    layers = {layer.name: fold(*layer.factors(), c) for layer, c in zip(file, mixture, strict=True)}
    path = write_plain_lora(out, layers, format, rank, DTYPES[analogy.dtype])
    print(f"written: {path}, {path.stat().st_size / 2**20:,.0f} MiB")
    if grid is not None:
        to_pil(scaled_grid(a, a_prime, b, b, analogy.side)[0]).save(grid)
        print(f"written: {grid}, the picture to edit with it; b' is the bottom-right quarter of the result")


def precompute(
    data: Path,
    /,
    *,
    out: Path,
    settings: ShardSettings = ShardSettings(),  # noqa: B008
    base: str = load.BASE,
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
    place = load.device_of(device)
    pipeline = FluxKontextPipeline.from_pretrained(load.readable(base), transformer=None, dtype=DTYPES[dtype]).to(place)
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
    base: str = load.BASE,
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
    quantization, _ = load.quantisation(quantize, kind)
    absent = dict.fromkeys(("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"))
    pipeline = FluxKontextPipeline.from_pretrained(
        load.readable(base), dtype=kind, quantization_config=quantization, **absent
    )
    torch.manual_seed(plan.seed)  # every process starts from the same weights
    recipe = FluxRecipe(pipeline.transformer, shards, sizes, pipeline, accumulate, checkpointing)
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


def _opened(checkpoint: str) -> ReleasedFile:
    return open_released(load.downloaded(checkpoint))


def _encoder(name: str | None, file: ReleasedFile) -> PictureEncoder:
    return PictureEncoder.load(name or file.config.encoder or CLIP_L)


def _peak_gib() -> float | None:
    """Largest resident memory of this process; None where the system does not say."""
    status = Path("/proc/self/status")
    if status.is_file():
        # Linux's getrusage keeps what the process that started this one held.
        return next(int(x.split()[1]) / 2**20 for x in status.read_text().splitlines() if x.startswith("VmHWM:"))
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)
