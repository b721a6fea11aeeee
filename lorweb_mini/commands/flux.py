"""Command line of the real scale: ``python -m lorweb_mini.flux COMMAND``.

inspect   measures a released checkpoint, and routes one's own picture pairs; needs neither FLUX nor a GPU
edit      draws b' with FLUX.1-Kontext; needs a GPU
export    writes the LoRA of one analogy, for any tool that reads Flux LoRAs; needs neither FLUX nor a GPU

precompute, train and estimate: see :mod:`~lorweb_mini.commands.flux_training`
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import save_file

from ..algebra import fold
from ..errors import InputError
from ..flux.checkpoint import ReleasedFile, open_released
from ..flux.lora_file import DTYPES, FORMATS
from ..flux.picture_encoder import CLIP_L, PictureEncoder, read_triplet
from . import flux_training as training


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses the command line and runs one command; bad input ends it with one line and status 2."""
    parser = argparse.ArgumentParser(
        prog="python -m lorweb_mini.flux", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    _inspect_arguments(commands.add_parser("inspect", help="look into a released checkpoint"))
    _edit_arguments(commands.add_parser("edit", help="draw b' with FLUX.1-Kontext"))
    _export_arguments(commands.add_parser("export", help="write one analogy as a plain LoRA"))
    training.precompute_arguments(commands.add_parser("precompute", help="latents and embeddings to train on"))
    training.train_arguments(commands.add_parser("train", help="train a basis and its router"))
    training.estimate_arguments(commands.add_parser("estimate", help="memory and hours of a training, by GPU"))
    options = parser.parse_args(arguments)
    steps = {"precompute": training.precompute, "train": training.train, "estimate": training.estimate}
    try:
        ({"inspect": _inspect, "edit": _edit, "export": _export} | steps)[options.command](options)
    except InputError as error:
        parser.exit(2, f"error: {error}\n")


def _inspect_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", help="safetensors file, folder or hub name in the released layout")
    parser.add_argument("--out", type=Path, default=Path("inspection"), help="folder for the tables")
    parser.add_argument("--analogies", type=Path, help="folder of folders with pictures a, a_prime and b, to route")
    parser.add_argument(
        "--encoder", help=f"folder or hub name of CLIP; default: what the checkpoint names, or {CLIP_L}"
    )


def _inspect(options: argparse.Namespace) -> None:
    from ..flux.inspect import inspect_released, read_analogies, route_pictures, routing_table, write_csv

    file = _opened(options.checkpoint)
    found = inspect_released(file, progress=True)
    print(found)
    written = found.save(options.out)
    if options.analogies:
        names, triplet = read_analogies(options.analogies)
        coefficients = route_pictures(file, _encoder(options.encoder, file), triplet)
        rows = routing_table(names, coefficients)
        write_csv(options.out / "routing.csv", rows)
        save_file({"coefficients": coefficients.contiguous()}, options.out / "routing.safetensors")
        written += [options.out / "routing.csv", options.out / "routing.safetensors"]
        for row in rows:
            print(f"{row['analogy']:<32} effective LoRAs {row['effective']:5.1f}, most from {row['top']}")
    print("written:", ", ".join(map(str, written)))
    if peak := _peak_gib():
        print(f"peak memory of this process: {peak:.2f} GiB")


def _edit_arguments(parser: argparse.ArgumentParser) -> None:
    from ..flux import editor as flux

    for name in ("a", "a_prime", "b"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--out", type=Path, default=Path("b_prime.png"))
    parser.add_argument("--prompt", default="")
    parser.add_argument("--steps", type=int, default=28)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--base", default=flux.BASE)
    parser.add_argument("--weights", default=flux.WEIGHTS)
    parser.add_argument("--encoder")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    parser.add_argument("--quantize", choices=("4bit", "8bit"))
    parser.add_argument("--offload", action="store_true", help="components take turns on the device")
    parser.add_argument("--side", type=int, default=512, help="of one picture, in pixels")


def _edit(options: argparse.Namespace) -> None:
    from ..flux import editor as flux

    editor = flux.load_flux(
        options.base,
        options.weights,
        device=options.device,
        dtype=DTYPES[options.dtype],
        quantize=options.quantize,
        offload=options.offload,
        encoder=options.encoder,
        side=options.side,
    )
    triplet = (options.a, options.a_prime, options.b)
    result = editor.edit(*triplet, prompt=options.prompt, steps=options.steps, seed=options.seed)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    result.image.save(options.out)
    print("written:", options.out)


def _export_arguments(parser: argparse.ArgumentParser) -> None:
    from ..flux import editor as flux

    for name in ("a", "a_prime", "b"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--out", type=Path, default=Path("analogy.safetensors"))
    parser.add_argument("--weights", default=flux.WEIGHTS)
    parser.add_argument("--encoder")
    parser.add_argument("--format", choices=FORMATS, default="diffusers", help="single-file: what ComfyUI reads")
    parser.add_argument("--rank", type=int, help="cut to this rank; default: exact, N times r")
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16")


def _export(options: argparse.Namespace) -> None:
    from ..flux import editor as flux
    from ..flux.inspect import route_pictures

    file = _opened(options.weights)
    triplet = read_triplet(options.a, options.a_prime, options.b, side=512)
    mixture = route_pictures(file, _encoder(options.encoder, file), triplet)[0]
    layers = {layer.name: fold(*layer.factors(), c) for layer, c in zip(file, mixture, strict=True)}
    path = flux.export(layers, options.out, options.format, options.rank, DTYPES[options.dtype])
    print(f"written: {path}, {path.stat().st_size / 2**20:,.0f} MiB")


def _opened(checkpoint: str) -> ReleasedFile:
    from ..flux import editor as flux

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
