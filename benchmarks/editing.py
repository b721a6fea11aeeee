"""What an edit with shipped weights costs: from a fresh process to the first picture, then per picture and per part.

    .venv/bin/python -m benchmarks.editing                    # a minute or two; --save writes results/editing.md
    .venv/bin/python -m benchmarks.editing --weights FOLDER   # a basis that training wrote
    .venv/bin/python -m benchmarks.editing --quick            # once each: shows that it works

Beside it stand what one has without a basis: the libraries alone, and an edit by the bare base.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import torch
from PIL import Image
from torch import Tensor

import lorweb_mini as lw
from lorweb_mini.core.editor import Editor, load_frozen
from lorweb_mini.images import read_images, read_triplet, to_pil
from lorweb_mini.models.base import noise_for

from .timing import conditions, interleaved, markdown, ratio, write

TOLERANCE = 1e-3  # of a picture in [-1, 1]; a grey level is 8e-3
EDIT = "`edit`"
GENERATE = "`generate`, coefficients known"
FROZEN = "`generate` in `freeze`"
BARE = "bare base"
FREEZE = "`freeze` and undoing, once a mixture"
METHODS = (BARE, EDIT, GENERATE, FROZEN, FREEZE)
STEPPED = {"bare base": BARE, "dynamic: the gate": GENERATE, "frozen: merged": FROZEN}
WHOLE = "`edit`, all in one"

Seconds = dict[tuple[str, int], list[float]]

# Stages of a fresh process: name to code. {weights} is filled in.
LIBRARIES = {
    "torch, diffusers, transformers, PEFT alone": "import torch, peft\n"
    "from diffusers import FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel\n"
    "from transformers import CLIPVisionModelWithProjection"
}
FIRST_EDIT = {
    "`import lorweb_mini`": "import lorweb_mini as lw",
    "`lw.load({weights})`": "editor = lw.load({weights})",
    "first edit, {steps} steps": "from PIL import Image\n"
    "editor.edit(*[Image.new('RGB', (64, 64), c) for c in ('red', 'blue', 'green')], steps={steps})",
}
EMOJI = {"`import lorweb_mini` in another": "import lorweb_mini as lw", "`load_emoji()`": "lw.load_emoji()"}

PROBE = """
import json, sys, time

def peak():
    try:  # of this program alone; getrusage may still know the process that started it
        lines = open("/proc/self/status").read().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        import resource
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)

last, stages = float(sys.argv[1]), []
for code in json.loads(sys.argv[2]):
    exec(code, globals())
    now = time.time()
    stages.append((now - last, peak()))
    last = now
print(json.dumps(stages))
"""


def fresh(stages: dict[str, str]) -> list[tuple[float, float]]:
    """Seconds and peak resident MiB of each stage, in a new process; Python's own start counts to the first."""
    command = [sys.executable, "-c", PROBE, str(time.time()), json.dumps(list(stages.values()))]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"expected a process that runs to its end, got:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def start(weights: str, steps: int, repeats: int) -> str:
    """Table of the fresh processes; files come from the disk cache from the second repeat on."""
    filled = {"weights": repr(weights), "steps": steps}
    chains = [
        {name.format(**filled): code.format(**filled) for name, code in stages.items()}
        for stages in (LIBRARIES, FIRST_EDIT, EMOJI)
    ]
    measured: list[list[list[tuple[float, float]]]] = [[] for _ in chains]
    for _ in range(repeats):
        for chain, results in zip(chains, measured, strict=True):
            results.append(fresh(chain))
    rows = []
    for chain, results in zip(chains, measured, strict=True):
        total = 0.0
        for i, name in enumerate(chain):
            seconds = median(result[i][0] for result in results)
            total += seconds
            peak = median(result[i][1] for result in results)
            rows.append([("then " if i else "") + name, f"{seconds:.2f}", f"{total:.2f}", f"{peak:.0f}"])
    return markdown(["fresh process", "seconds", "seconds since its start", "peak MiB"], rows)


def triplet(batch: int) -> list[list[Image.Image]]:
    """Plain pictures a, a' and b: what they show changes no time."""
    made = [Image.new("RGB", (64, 64), f"hsl({120 * i // batch}, 80%, 50%)") for i in range(3 * batch)]
    return [made[i::3] for i in range(3)]


def same(what: str, drawn: Tensor, expected: Tensor) -> float:
    """Largest difference of two batches of pictures; RuntimeError above ``TOLERANCE``."""
    difference = (drawn - expected).abs().max().item()
    if not difference <= TOLERANCE:
        raise RuntimeError(f"{what}: the pictures differ by {difference:.1e}")
    return difference


def edits(editor: Editor, frozen: Editor, batch: int, steps: tuple[int, ...], rounds: int) -> Seconds:
    """Seconds for a batch, by method and number of steps; frozen pictures are compared with dynamic ones first.

    ``frozen`` is a second copy of ``editor``, merged for as long as this takes, so that the methods can take turns.
    """
    autoencoder, _, base = load_frozen()
    a, a_prime, b = triplet(batch)
    context = (a[0], a_prime[0])
    c = editor.route(*context, b[0])  # merged weights hold one mixture, so all b get it

    @torch.no_grad()
    def bare(count: int) -> list[Image.Image]:
        latent = base.edit(autoencoder.to_latent(read_images(b)), None, [0] * batch, count)
        return [to_pil(x) for x in autoencoder.to_picture(latent)]

    def freeze() -> None:
        with editor.freeze(c):
            pass

    runs: dict[tuple[str, int], Callable[[], object]] = {(FREEZE, steps[-1]): freeze}
    with frozen.freeze(c):
        for count in steps:
            options: dict[str, Any] = {"coefficients": c, "context": context, "steps": count}
            same(FROZEN, frozen.generate(b, **options).pictures, editor.generate(b, **options).pictures)
            runs |= {
                (EDIT, count): partial(editor.edit, a, a_prime, b, steps=count),
                (GENERATE, count): partial(editor.generate, b, **options),
                (FROZEN, count): partial(frozen.generate, b, **options),
                (BARE, count): partial(bare, count),
            }
        return interleaved(runs, rounds)


def edit_table(seconds: dict[int, Seconds], steps: tuple[int, ...]) -> str:
    """Milliseconds a picture, by batch and steps, and, in brackets, the multiple of the bare base's."""

    def cell(method: str, batch: int, count: int) -> str:
        measured = seconds[batch].get((method, count))
        if measured is None:
            return "–"
        times = ratio(measured, seconds[batch][BARE, count])
        # A merge is done once, however many pictures follow.
        each = median(measured) / (1 if method == FREEZE else batch)
        return f"{1e3 * each:.3g} ({times:.2f}×)"

    columns = [(batch, count) for batch in seconds for count in steps]
    head = ["ms a picture", *[f"batch {batch}, {count} steps" for batch, count in columns]]
    return markdown(head, [[method, *[cell(method, *column) for column in columns]] for method in METHODS])


def step_table(seconds: Seconds, steps: tuple[int, ...]) -> str:
    """Milliseconds of an edit of one picture and of each further step, with multiples of the bare base's in brackets.

    The difference of the longest and the shortest edit holds steps alone: what an edit does once cancels.
    """
    first, last = steps[0], steps[-1]

    def cell(method: str, count: int) -> str:
        measured = seconds[method, count]
        return f"{1e3 * median(measured):.3g} ({ratio(measured, seconds[BARE, count]):.2f}×)"

    def further(method: str) -> float:
        # Of medians: within one round the difference is small against what the round may vary.
        return (median(seconds[method, last]) - median(seconds[method, first])) / (last - first)

    rows = [
        [
            name,
            *[cell(method, count) for count in steps],
            f"{1e3 * further(method):.3g} ({further(method) / further(BARE):.2f}×)",
        ]
        for name, method in STEPPED.items()
    ]
    return markdown(["ms, one picture", *[f"{count} steps" for count in steps], "each further step"], rows)


def parts(editor: Editor, batch: int, steps: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of each part of an edit of a batch; together they must draw what ``edit`` draws."""
    a, a_prime, b = triplet(batch)
    layout, autoencoder = editor.layout, editor.autoencoder

    def encode() -> list[Tensor]:
        return [autoencoder.to_latent(x) for x in read_triplet(a, a_prime, b)]

    def sample(latents: list[Tensor], c: Tensor) -> Tensor:
        height, width = latents[2].shape[2:]
        noise = noise_for([0] * batch, layout.drawn(height, width))
        with editor.basis.mixed(c):
            tokens = editor.base.sample(noise, layout.references(*latents), layout.ids(height, width), steps=steps)
        return layout.result(tokens, height, width)

    def decode(latent: Tensor) -> Tensor:
        pictures = autoencoder.to_picture(latent)
        for picture in pictures:
            to_pil(picture)
        return pictures

    with torch.no_grad():
        latents = encode()
        c = editor.coefficients(*latents)
        drawn = sample(latents, c)
        same("the parts of an edit", decode(drawn), editor.edit(a, a_prime, b, steps=steps).pictures)
        runs: dict[str, Callable[[], object]] = {
            "autoencoder: a, a', b to latents": encode,
            "encoder and router": lambda: editor.coefficients(*latents),
            f"sampling, {steps} steps": lambda: sample(latents, c),
            "autoencoder: latent to picture": lambda: decode(drawn),
            WHOLE: lambda: editor.edit(a, a_prime, b, steps=steps),
        }
        return interleaved(runs, rounds)


def part_table(editor: Editor, batches: tuple[int, ...], steps: int, rounds: int) -> str:
    """Milliseconds a picture and, in brackets, the share of the whole edit."""
    seconds = {batch: parts(editor, batch, steps, rounds) for batch in batches}
    rows = [
        [
            name,
            *[
                f"{1e3 * median(times[name]) / batch:.3g} ({ratio(times[name], times[WHOLE]):.0%})"
                for batch, times in seconds.items()
            ],
        ]
        for name in seconds[batches[0]]
    ]
    return markdown(["ms a picture", *[f"batch {batch}" for batch in batches]], rows)


def report(weights: str, quick: bool) -> str:
    """Everything as Markdown."""
    batches, steps = ((1, 2), (1, 2)) if quick else ((1, 16), (2, 4, 10))
    rounds, processes = (2, 1) if quick else (15, 5)
    editor, frozen = lw.load(weights), lw.load(weights)
    config = editor.config
    seconds = {batch: edits(editor, frozen, batch, steps, rounds) for batch in batches}
    return "\n\n".join(
        [
            "# Editing",
            f"`lw.load({weights!r})`: {config.n_loras} LoRAs of rank {config.rank}, layout {config.layout!r}; "
            + conditions(),
            "## From a fresh process\n\n" + start(weights, steps[-1], processes),
            "Medians; the files are in the disk cache.",
            "## One edit\n\n" + edit_table(seconds, steps),
            "From PIL pictures to PIL pictures. In brackets the multiple of the bare base's time in the same round, "
            "which redraws b without LoRAs or router. Frozen and dynamic pictures were equal to within "
            f"{TOLERANCE:g}.",
            "## Its steps\n\n" + step_table(seconds[batches[0]], steps),
            "With coefficients known. A further step is the difference of the longest and the shortest edit.",
            f"## Its parts, {steps[-1]} steps\n\n" + part_table(editor, batches, steps[-1], rounds),
        ]
    )


def main(arguments: list[str] | None = None) -> None:
    """Parses the command line and measures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.editing", description=__doc__)
    parser.add_argument("--weights", default="starter", help="'starter', 'full' or a folder with a trained basis")
    parser.add_argument("--quick", action="store_true", help="everything once; the numbers mean nothing")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/editing.md")
    options = parser.parse_args(arguments)
    if options.quick and options.save:
        parser.error("a quick run's numbers mean nothing and are not saved")
    text = report(options.weights, options.quick)
    print(text)
    if options.save:
        write("editing", text)


if __name__ == "__main__":
    main()
