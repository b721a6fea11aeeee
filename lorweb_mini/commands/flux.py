"""Command line of the real scale: ``python -m lorweb_mini.flux COMMAND``; ``COMMAND --help`` lists the options.

inspect   measures a released checkpoint, and routes one's own picture pairs; needs neither FLUX nor a GPU
edit      draws b' with FLUX.1-Kontext; needs a GPU
export    writes the LoRA of one analogy, for any tool that reads Flux LoRAs; needs neither FLUX nor a GPU

precompute, train and estimate: see :mod:`~lorweb_mini.commands.flux_training`
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro
from safetensors.torch import save_file

from ..algebra import fold
from ..core.layout import grid as grid_of
from ..errors import InputError
from ..files import tolerant_console
from ..flux import editor as flux
from ..flux import inspect as measures
from ..flux.checkpoint import ReleasedFile, open_released
from ..flux.dataset import grid_size, resized
from ..flux.lora_file import DTYPES
from ..flux.picture_encoder import CLIP_L, PictureEncoder, read_triplets
from ..images import to_pil
from .flux_training import Dtype, Quantize, estimate, precompute, train

NO_PROMPT = (
    "no --prompt: the released basis was trained with the instruction of the pair (a, a'), 5 % of the time without it, "
    "and its own inference requires one; without it the pictures alone say what to do"
)


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
    weights: str = flux.WEIGHTS
    encoder: str | None = None
    dtype: Dtype = "bfloat16"
    side: int = 512


def edit(
    analogy: Analogy,
    *,
    out: Path = Path("b_prime.png"),
    prompt: str = "",
    steps: int = 28,
    guidance: float = 2.5,
    seed: int = 0,
    base: str = flux.BASE,
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
    if not prompt.strip():
        warnings.warn(NO_PROMPT, stacklevel=2)
    options: dict[str, Any] = {
        "quantize": quantize,
        "offload": offload,
        "encoder": analogy.encoder,
        "side": analogy.side,
    }
    editor = flux.load_flux(base=base, weights=analogy.weights, device=device, dtype=DTYPES[analogy.dtype], **options)
    result = editor.edit(
        analogy.a, analogy.a_prime, analogy.b, prompt=prompt, steps=steps, seed=seed, guidance=guidance
    )
    out.parent.mkdir(parents=True, exist_ok=True)
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
    file = _opened(analogy.weights)
    ((a, a_prime, b),) = read_triplets(analogy.a, analogy.a_prime, analogy.b)
    mixture = measures.route_pictures(file, _encoder(analogy.encoder, file), (a, a_prime, b))[0]
    layers = {layer.name: fold(*layer.factors(), c) for layer, c in zip(file, mixture, strict=True)}
    path = flux.export(layers, out, format, rank, DTYPES[analogy.dtype])
    print(f"written: {path}, {path.stat().st_size / 2**20:,.0f} MiB")
    if grid is not None:
        grid.parent.mkdir(parents=True, exist_ok=True)
        picture = resized(grid_of(a, a_prime, b, b), grid_size(a.shape[-1], a.shape[-2], analogy.side))
        to_pil(picture[0]).save(grid)
        print(f"written: {grid}, the picture to edit with it; b' is the bottom-right quarter of the result")


def _opened(checkpoint: str) -> ReleasedFile:
    return open_released(flux.downloaded(checkpoint, None))


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
