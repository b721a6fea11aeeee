"""What a training step costs: how near it comes to the machine's peak, where its time goes, and what would change it.

    .venv/bin/python -m benchmarks.training            # some minutes; --save writes results/training.md
    .venv/bin/python -m benchmarks.training --quick    # a few small steps: shows that it works

The first run fills the latent cache, as every first training does.
"""

from __future__ import annotations

import argparse
import copy
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from statistics import median
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils.flop_counter import FlopCounterMode

from lorweb_mini.commands.train import DEFAULTS, recipe_of
from lorweb_mini.training.config import TrainingConfig
from lorweb_mini.training.loop import Recipe

from .timing import conditions, interleaved, markdown, ratio, write

TOLERANCE = 1e-4  # relative, of losses and of gradients' norms
PEAK = 1024  # side of the square matrices whose product is the measure
DATA, FORWARD, BACKWARD, CLIP, OPTIMISER, EMA = "data", "forward", "backward", "gradient clipping", "optimiser", "EMA"
PHASES = (DATA, FORWARD, BACKWARD, CLIP, OPTIMISER, EMA)
MATMUL, ATTENTION, OTHER, BETWEEN = "matrix products", "attention", "norms, elementwise, copies", "between operations"
KINDS = (MATMUL, ATTENTION, OTHER, BETWEEN)
PRODUCTS = {f"aten::{name}" for name in ("mm", "addmm", "bmm", "baddbmm", "_addmm_activation", "mkldnn_linear")}
PLAIN, COMPILED, FOREACH = "as it is", "`torch.compile` of the transformer", "AdamW `foreach` in place of `fused`"
BACKENDS = {"attention: flash kernel": SDPBackend.FLASH_ATTENTION, "attention: written out": SDPBackend.MATH}
CHANNELS_LAST, CONTIGUOUS = "autoencoder as it is (channels last)", "autoencoder, contiguous"

Shape = tuple[int, int, int]


class Step:
    """One step of :func:`lorweb_mini.training.train`, with a name for each phase that a profile can find.

    Args:
        rate: learning rate; 0 leaves the weights as they are, so that all steps do the same work.
        optimiser: AdamW's options for how it is computed.
    """

    def __init__(self, recipe: Recipe, config: TrainingConfig, rate: float = 0.0, **optimiser: bool) -> None:
        self.recipe, self.config, self.count = recipe.train(), config, 0
        groups = [{"scale": 1.0, **g} for g in recipe.parameter_groups()]
        for group in groups:
            group["lr"] = rate * group["scale"]
        self.parameters = [p for g in groups for p in g["params"]]
        kind = optimiser or {"fused": True}
        self.optimizer = torch.optim.AdamW(groups, betas=config.betas, weight_decay=config.weight_decay, **kind)
        self.ema = EMAModel(self.parameters, decay=config.ema_decay, use_ema_warmup=True, power=2 / 3, foreach=True)

    def batch(self, size: int | None = None) -> dict[str, Tensor]:
        """The batch of the step that comes next."""
        rng = np.random.default_rng([self.config.seed, self.count])
        return self.recipe.batch(rng, size or self.config.batch_size)

    def __call__(self, size: int | None = None) -> None:
        with record_function(DATA):
            batch = self.batch(size)
        with record_function(FORWARD):
            loss = self.recipe(batch)["loss"]
        with record_function(BACKWARD):
            loss.backward()
        with record_function(CLIP):
            torch.nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm)
        with record_function(OPTIMISER):
            self.optimizer.step()
            self.optimizer.zero_grad()
        with record_function(EMA):
            self.ema.step(self.parameters)
        self.count += 1

    def gradient(self) -> tuple[float, float]:
        """Loss and norm of the gradient on the first batch; the weights stay as they are."""
        self.count = 0
        loss = self.recipe(self.batch())["loss"]
        loss.backward()
        norm = torch.linalg.vector_norm(torch.stack([p.grad.norm() for p in self.parameters if p.grad is not None]))
        self.optimizer.zero_grad()
        return loss.item(), norm.item()


def step_of(part: str, quick: bool) -> Step:
    """One part's step at its default batch size; 8 pictures in a quick run."""
    config = replace(DEFAULTS[part], batch_size=8) if quick else DEFAULTS[part]
    options = {"edited_pairs": 48} if quick and part == "encoder" else {}
    return Step(recipe_of(part, **options), config)


def flops(step: Step) -> int:
    """Floating-point operations of one forward and backward pass: matrix products, convolutions and attention."""
    batch = step.batch()
    # The counter knows no fused attention of a CPU; written out, it is matrix products.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        step.recipe(batch)["loss"].backward()
    step.optimizer.zero_grad()
    return counter.get_total_flops()


def linear_shapes(step: Step, module: nn.Module) -> Counter[Shape]:
    """How often one forward pass multiplies [rows, in] by [in, out], over the Linear layers of a module."""
    shapes: Counter[Shape] = Counter()

    def count(layer: nn.Module, inputs: tuple[Tensor], out: Tensor) -> None:
        shapes[out.numel() // out.shape[-1], inputs[0].shape[-1], out.shape[-1]] += 1

    handles = [m.register_forward_hook(count) for m in module.modules() if isinstance(m, nn.Linear)]
    with torch.no_grad():
        step.recipe(step.batch())
    for handle in handles:
        handle.remove()
    return shapes


def product(shape: Shape) -> Callable[[], Tensor]:
    """The forward pass of a Linear layer of this shape."""
    rows, channels, out = shape
    x, weight = torch.randn(rows, channels), torch.randn(out, channels)
    return lambda: F.linear(x, weight)


def peak_table(step: Step, rounds: int) -> str:
    """Speed of matrix products: square ones, then those of the base's transformer."""
    shapes = linear_shapes(step, step.recipe.get_submodule("base.transformer"))
    square = (PEAK, PEAK, PEAK)
    seconds = interleaved({shape: product(shape) for shape in [square, *shapes]}, rounds)
    whole = sum(count * np.prod(shape) for shape, count in shapes.items())
    rows = []
    for shape, times in seconds.items():
        work = 2 * float(np.prod(shape))
        share = work / 2 / PEAK**3 * ratio(seconds[square], times)
        count = shapes.get(shape, 0)
        rows.append(
            [
                f"{shape[0]}×{shape[1]} · {shape[1]}×{shape[2]}",
                str(count) if count else "–",
                f"{count * np.prod(shape) / whole:.0%}" if count else "–",
                f"{work / median(times) / 1e9:.3g}",
                f"{share:.0%}",
            ]
        )
    return markdown(["product", "in a forward pass", "of its work", "GFLOP/s", f"of {PEAK}³"], rows)


def step_row(part: str, step: Step, rounds: int) -> list[str]:
    """Speed of one part's step; the share of the peak is that of a product in the same round."""
    work = flops(step)
    seconds = interleaved({"step": step, "peak": product((PEAK, PEAK, PEAK))}, rounds)
    each, size = median(seconds["step"]), step.config.batch_size
    share = work / (2 * PEAK**3) * ratio(seconds["peak"], seconds["step"])
    speed = f"{work / each / 1e9:.3g}"
    return [part, str(size), f"{1e3 * each:.3g}", f"{size / each:.3g}", f"{work / 1e9:.3g}", speed, f"{share:.0%}"]


def profiled(step: Step, steps: int) -> dict[tuple[str, str], tuple[float, float]]:
    """Milliseconds and operations of a step, by phase and kind; phases other than the two passes have no kinds."""
    step()
    with profile(activities=[ProfilerActivity.CPU]) as trace:
        for _ in range(steps):
            step()
    sums_by_kind: dict[tuple[str, str], list[float]] = {}
    for event in trace.events():
        above: Any = event
        while above is not None and above.name not in PHASES:
            above = above.cpu_parent
        if above is None:  # the profiler's own
            continue
        kind = kind_of(event.name) if above.name in (FORWARD, BACKWARD) else ""
        sums = sums_by_kind.setdefault((above.name, kind), [0.0, 0])
        sums[0] += event.self_cpu_time_total / 1e3 / steps
        sums[1] += event.name.startswith("aten::") / steps
    return {key: (ms, calls) for key, (ms, calls) in sums_by_kind.items()}


def kind_of(name: str) -> str:
    """What a profiler's event is: Python and autograd have names without the prefix of PyTorch's operations."""
    if "scaled_dot_product" in name:
        return ATTENTION
    if name in PRODUCTS:
        return MATMUL
    return OTHER if name.startswith("aten::") else BETWEEN


def profile_table(step: Step, steps: int) -> str:
    """Where a step's time goes; the profiler's own cost is in it, most where operations are many and small."""
    times = profiled(step, steps)
    total = sum(ms for ms, _ in times.values())
    rows = []
    for phase in PHASES:
        for kind in KINDS if phase in (FORWARD, BACKWARD) else ("",):
            ms, calls = times.get((phase, kind), (0.0, 0.0))
            rows.append([f"{phase}: {kind}" if kind else phase, f"{ms:.3g}", f"{ms / total:.0%}", f"{calls:.0f}"])
    return markdown(["part of a base step", "ms", "share", "operations"], rows)


@contextmanager
def swapped(step: Step, transformer: nn.Module) -> Iterator[None]:
    """Within this context the base's transformer is another one with the same weights."""
    base: Any = step.recipe.get_submodule("base")
    before, base.transformer = base.transformer, transformer
    try:
        yield
    finally:
        base.transformer = before


def compiled(step: Step) -> nn.Module | str:
    """The base's transformer compiled, or why not."""
    module: Any = torch.compile(step.recipe.get_submodule("base.transformer"))
    try:
        with swapped(step, module):
            step.gradient()
    except Exception as error:  # a missing compiler or header shows in many ways
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
    return module


def agree(what: str, got: tuple[float, float], expected: tuple[float, float]) -> None:
    """RuntimeError where loss or gradient of a variant is not that of the plain step."""
    for one, other in zip(got, expected, strict=True):
        if not abs(one - other) <= TOLERANCE * abs(other):
            raise RuntimeError(f"{what}: expected loss and gradient norm {expected}, got {got}")


def base_variants(step: Step, sizes: tuple[int, ...], rounds: int, compiling: bool) -> tuple[str, str]:
    """Table of a base step done in other ways, and a note on what could not be."""
    module = compiled(step) if compiling else "left out in a quick run"
    contexts: dict[str, Callable[[], Any]] = {PLAIN: nullcontext}
    if isinstance(module, nn.Module):
        contexts[COMPILED] = lambda: swapped(step, module)
    contexts |= {name: lambda backend=backend: sdpa_kernel(backend) for name, backend in BACKENDS.items()}
    expected = step.gradient()
    runs: dict[str, Callable[[], None]] = {}
    for name, context in contexts.items():
        with context():
            agree(name, step.gradient(), expected)

        def run(context=context) -> None:
            with context():
                step()

        runs[name] = run
    runs[FOREACH] = Step(step.recipe, step.config, foreach=True)
    batches = {f"batch {size}": size for size in sizes}
    runs |= {name: lambda size=size: step(size) for name, size in batches.items()}
    seconds = interleaved(runs, rounds)
    rows = []
    for name in [PLAIN, COMPILED, *BACKENDS, FOREACH, *batches]:
        if name not in seconds:
            rows.append([name, "–", "–"])
            continue
        each = step.config.batch_size / batches.get(name, step.config.batch_size)
        times = each * ratio(seconds[name], seconds[PLAIN])
        rows.append([name, f"{1e3 * median(seconds[name]):.3g}", f"{times:.2f}"])
    note = "" if isinstance(module, nn.Module) else f"No {COMPILED}: {module}."
    return markdown([f"base step, batch {step.config.batch_size}", "ms a step", "× as it is, a sample"], rows), note


def autoencoder_variants(step: Step, rounds: int) -> str:
    """Table of an autoencoder's step in the two memory layouts."""
    other = Step(copy.deepcopy(step.recipe), step.config)
    module: Any = other.recipe.get_submodule("autoencoder").to(memory_format=torch.contiguous_format)
    # The recipe hands over pictures in channels-last order, and a convolution goes by either of its inputs.
    module.encoder.register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(),))
    agree(CONTIGUOUS, other.gradient(), step.gradient())
    seconds = interleaved({CHANNELS_LAST: step, CONTIGUOUS: other}, rounds)
    rows = [
        [name, f"{1e3 * median(times):.3g}", f"{ratio(times, seconds[CHANNELS_LAST]):.2f}"]
        for name, times in seconds.items()
    ]
    return markdown([f"step, batch {step.config.batch_size}", "ms a step", "× as it is"], rows)


def report(quick: bool) -> str:
    """Everything as Markdown."""
    rounds, profiled_steps, sizes = (2, 1, (2, 4)) if quick else (15, 10, (16, 32, 64, 128))
    base, autoencoder = step_of("base", quick), step_of("autoencoder", quick)
    kept = {"autoencoder": autoencoder, "base": base}
    rows = [step_row(part, kept.get(part) or step_of(part, quick), rounds) for part in DEFAULTS]
    variants, note = base_variants(base, sizes, rounds, compiling=not quick)
    head = ["one step", "batch", "ms", "samples/s", "GFLOP", "GFLOP/s", "of the peak"]
    return "\n\n".join(
        [
            "# Training",
            conditions(),
            "## The machine's peak\n\n" + peak_table(base, rounds),
            "Forward passes of Linear layers: square ones, then those of the base's transformer in one training step.",
            "## One step of each part\n\n" + markdown(head, rows),
            "Data, forward, backward, clipping, optimiser and moving average, as the training loop does them. The work "
            f"is that of the matrix products, convolutions and attention; the peak is a product of {PEAK}×{PEAK} "
            "matrices in the same round.",
            "## Where a step of the base goes\n\n" + profile_table(base, profiled_steps),
            "Under PyTorch's profiler, which slows many small operations more than a few large ones.",
            "## The same step in other ways\n\n" + variants,
            *([note] if note else []),
            autoencoder_variants(autoencoder, rounds),
            "Multiples of the plain step in the same round, median over rounds; losses and gradients of all ways were "
            f"equal to within {TOLERANCE:g} of themselves.",
        ]
    )


def main(arguments: list[str] | None = None) -> None:
    """Parses the command line and measures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small batches, few rounds; the numbers mean nothing")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/training.md")
    options = parser.parse_args(arguments)
    if options.quick and options.save:
        parser.error("a quick run's numbers mean nothing and are not saved")
    text = report(options.quick)
    print(text)
    if options.save:
        write("training", text)


if __name__ == "__main__":
    main()
