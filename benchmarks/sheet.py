"""Forty questions, the answers of two sets of weights side by side, failures included.

    LORWEB_DATA=OLD_DATA python -m benchmarks.sheet answer old.safetensors     # by other weights, in a copy of data/
    python -m benchmarks.sheet answer new.safetensors                          # by the shipped ones
    python -m benchmarks.sheet compare old.safetensors new.safetensors         # figures/sheet.png

The questions are fixed: the first analogy of each of forty relations on test concepts. No answer is looked at for the
choice. Both sets of weights draw through the autoencoder of their own data folder.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from lorweb_mini.analysis.evaluation import squared
from lorweb_mini.core.editor import load
from lorweb_mini.emoji.distributions import unseen
from lorweb_mini.emoji.relations import Analogy, analogies, as_batch
from lorweb_mini.show.pictures import relation_label, triplets
from lorweb_mini.show.style import save

QUESTIONS = (
    # the artists' relations
    "tone/yellow>dark", "tone/dark>light", "gender/man>woman", "gender/person>man", "style/noto>twemoji",
    "style/fluent_3d>fluent_flat", "style/twemoji>openmoji_black", "moon/+2", "size/large>small", "clock/+1h",
    "mirror/person", "digit/+1",
    # edits that trainings draw, at strengths that they hardly drew
    "edit/hue=77", "edit/grey", "edit/invert", "edit/background=300", "edit/darken=0.4", "edit/flip_horizontal",
    "edit/rotate=90", "edit/shrink=0.7", "edit/pixelate=16", "edit/outline=2", "edit/tile=2", "edit/move=18,-6",
    "compose/edit/hue=90+edit/flip_vertical", "compose/edit/invert+edit/background=240",
    # never drawn: strengths, pairs, kinds inside the span, between, outside
    "edit/background=110", "edit/tint=66", "edit/screen=310", "edit/rotate=135", "edit/move=-12,12",
    "compose/edit/tint=210+edit/flip_horizontal", "compose/edit/zoom=1.4+edit/background=250",
    "compose/edit/invert+edit/move=18,-4", "compose/edit/shrink=0.78+edit/outline=3",
    "edit/transpose", "edit/stencil=130", "edit/duotone=280,80", "edit/mirror_half", "edit/ripple=5",
)  # fmt: skip


def questions() -> list[Analogy]:
    """The forty, each the first analogy of its relation."""
    return [analogies("test", name, seed=0, n=1)[0] for name in QUESTIONS]


def main(arguments: list[str] | None = None) -> None:
    """Answers, or compares answers."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sheet", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    answer = commands.add_parser("answer")
    answer.add_argument("file", type=Path)
    answer.add_argument("--weights", default="full", help="full, starter or a folder")
    answer.add_argument("--steps", type=int, default=1)
    compare = commands.add_parser("compare")
    compare.add_argument("before", type=Path)
    compare.add_argument("after", type=Path)
    compare.add_argument("--out", type=Path, default=Path("figures") / "sheet.png")
    options = parser.parse_args(arguments)
    items = questions()
    if options.command == "answer":
        editor = load(options.weights)
        pictures = editor.edit(*as_batch(items)[:3], steps=options.steps).pictures
        save_file({"pictures": pictures.contiguous()}, options.file)
        return
    b, b_prime = as_batch(items)[2:]
    sets = {name: load_file(getattr(options, name))["pictures"] for name in ("before", "after")}
    errors = {name: squared(pictures, b_prime) / squared(b, b_prime) for name, pictures in sets.items()}
    for i, item in enumerate(items):
        print(f"{item.relation:50} before {errors['before'][i]:.2f}  after {errors['after'][i]:.2f}")
    print("median", {name: round(float(torch.tensor(e).median()), 3) for name, e in errors.items()})
    held_out = {entry["name"] for entry in unseen()["relations"] if entry["held_out"]}
    title = "Forty questions on unseen emoji: the previous full basis and this one (*: unseen, a memoriser fails)"
    labels = [f"{relation_label(x.relation)}{' *' * (x.relation in held_out)}" for x in items]
    figure = triplets(items, sets, columns=4, labels=labels, title=title, size=0.5)
    print("wrote", save(figure, options.out))


if __name__ == "__main__":
    main()
