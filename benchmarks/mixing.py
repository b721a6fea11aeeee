"""What a mixture of N LoRAs costs, beside what else one could pick.

    .venv/bin/python -m benchmarks.mixing            # minutes; --save writes benchmarks/results/mixing.md
    .venv/bin/python -m benchmarks.mixing --quick    # seconds, toy sizes: shows that it works

Measured are one adapted Linear and one step of the course's small Flux transformer. Every method's output is checked
against the formula W x + sum_n c_n B_n A_n x, one sample and one LoRA at a time in double precision, before anything
is timed.
"""

from __future__ import annotations

import argparse
import copy
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from diffusers.loaders import PeftAdapterMixin
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn

from lorweb_mini.base import TOKEN_WIDTH, Base, position_ids, transformer_of
from lorweb_mini.basis import Basis, adapted_linears

from .timing import conditions, interleaved, markdown, ratio, write

TOLERANCE = 1e-4
EINSUM = "b...i,nir,bn,nro->b...o"  # x A_n B_n c_n summed over n; tokens in the dots, which modulation lacks
SIDE = 4  # a picture is 4×4 tokens
TOKENS = 2 * SIDE * SIDE  # the picture being drawn, and b

BARE = "bare base"
PLAIN = "plain LoRA of rank r"
GATE = "ours, dynamic (`Basis.mixed`)"
MERGED = "ours, frozen (`Basis.frozen`)"
MERGE = "– its merge and undoing, once a mixture"
RELEASED = "einsum formula of the released code"
LOOP = "loop over N PEFT adapters"
WEIGHTED = "PEFT `add_weighted_adapter`"
WEIGH = "– its new adapter, once a mixture"
CHECKED = (BARE, PLAIN, GATE, MERGED, RELEASED, LOOP, WEIGHTED)
ROWS = (BARE, PLAIN, GATE, MERGED, MERGE, RELEASED, LOOP, WEIGHTED, WEIGH)

Loras = dict[str, tuple[Tensor, Tensor]]  # layer name to A [N, in, r] and B [N, r, out]
Forward = Callable[[Tensor], Tensor]


class OneLinear(nn.Module, PeftAdapterMixin):
    """A single Linear, under a name that a basis adapts."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.transformer_blocks = nn.ModuleList([nn.Linear(width, width)])


@dataclass(frozen=True)
class Subject:
    """What is adapted and timed.

    Attributes:
        make: the bare module, a new one at each call.
        forward: the forward pass of such a module, from input [batch, tokens, channels] to output.
        channels: width of the input.
        rounds: how often everything is timed.
    """

    title: str
    make: Callable[[], nn.Module]
    forward: Callable[[nn.Module], Forward]
    channels: int
    rounds: int


def linear(width: int, rounds: int) -> Subject:
    """The Linear alone."""

    def forward(module: nn.Module) -> Forward:
        return lambda x: module.get_submodule("transformer_blocks.0")(x)

    return Subject(f"One Linear, {width} → {width}", lambda: OneLinear(width), forward, width, rounds)


def flux_step(width: int, double_blocks: int, single_blocks: int, rounds: int) -> Subject:
    """One prediction of the velocity, with b as the reference picture."""
    ids = torch.cat([position_ids(SIDE, SIDE, k) for k in range(2)])

    def forward(transformer: nn.Module) -> Forward:
        base = Base(transformer)

        def velocity(x: Tensor) -> Tensor:
            noisy, reference = x.chunk(2, dim=1)
            return base.velocity(noisy, torch.linspace(0.1, 0.9, len(x)).to(x), reference, ids)

        return velocity

    return Subject(
        f"One step of the Flux transformer, {width} wide, {double_blocks} + {single_blocks} blocks",
        lambda: transformer_of(width, double_blocks, single_blocks),
        forward,
        TOKEN_WIDTH,
        rounds,
    )


@dataclass
class Method:
    """One way to compute the mixture.

    Attributes:
        run: input to output.
        loras, c: what its output must be: LoRAs and coefficients [batch, layers, N].
        mix: sets other coefficients; None where a batch has one mixture.
        trained: what a training differentiates; None for a way that serves inference alone.
    """

    run: Forward
    loras: Loras
    c: Tensor
    mix: Callable[[Tensor], None] | None = None
    trained: list[Tensor] | None = None


def random_loras(plain: nn.Module, n: int, rank: int) -> Loras:
    """As if trained: the mixture moves the output about as much as it weighs."""
    modules, generator = dict(plain.named_modules()), torch.Generator().manual_seed(1)
    return {
        name: (
            torch.randn(n, modules[name].in_features, rank, generator=generator) * modules[name].in_features ** -0.5,
            torch.randn(n, rank, modules[name].out_features, generator=generator) * 0.1,
        )
        for name in adapted_linears(plain)
    }


def _sizes(loras: Loras) -> tuple[int, int]:
    """N and r."""
    low, _ = next(iter(loras.values()))
    return low.shape[0], low.shape[2]


def naive(subject: Subject, plain: nn.Module, x: Tensor, loras: Loras, c: Tensor) -> Tensor:
    """The formula word for word, in double precision."""
    reference = copy.deepcopy(plain).double()
    for layer, (name, (low, high)) in enumerate(loras.items()):

        def add(module, inputs, out, layer=layer, low=low, high=high):
            out = out.clone()
            for n, (A, B) in enumerate(zip(low.double(), high.double(), strict=True)):
                for sample, x in enumerate(inputs[0]):
                    out[sample] += c[sample, layer, n].double() * (x @ A @ B)
            return out

        reference.get_submodule(name).register_forward_hook(add)
    with torch.no_grad():
        return subject.forward(reference)(x.double())


def with_adapters(module: nn.Module, loras: Loras) -> PeftModel:
    """N LoRAs as PEFT holds them, adapters "0" to "N−1", all active; the module is changed in place."""
    n, rank = _sizes(loras)
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=list(loras))
    model = get_peft_model(module, config, adapter_name="0")
    for i in range(1, n):
        model.add_adapter(str(i), config)
    for layer, (low, high) in loras.items():
        adapted: Any = module.get_submodule(layer)
        for i in range(n):
            adapted.lora_A[str(i)].weight.data.copy_(low[i].T)
            adapted.lora_B[str(i)].weight.data.copy_(high[i].T)
    model.base_model.set_adapter([str(i) for i in range(n)])
    return model


def with_basis(module: nn.Module, loras: Loras) -> Basis:
    """N LoRAs as our basis holds them; the module is changed in place."""
    basis = Basis(module, *_sizes(loras))
    state = {}
    for name, (low, high) in loras.items():
        state[f"{name}.lora_A.weight"] = low.transpose(1, 2).flatten(0, 1)
        state[f"{name}.lora_B.weight"] = high.flatten(0, 1).T
    basis.load_state_dict(state)
    return basis


def methods_of(
    subject: Subject, plain: nn.Module, loras: Loras, c: Tensor, stack: ExitStack
) -> tuple[dict[str, Method], dict[str, Callable[[], None]]]:
    """All methods under the mixture c [batch, layers, N], and what two of them do once for each new mixture.

    The mixture is the same in all samples and layers: PEFT's weighted adapter knows no other. ``stack`` keeps the
    merged weights merged.
    """
    shared, (n, _) = c[0].detach(), _sizes(loras)

    def copied() -> tuple[nn.Module, Forward]:
        module = copy.deepcopy(plain)
        return module, subject.forward(module)

    def trainable(module: nn.Module) -> list[Tensor]:
        return [p for p in module.parameters() if p.requires_grad]

    module, forward = copied()
    bare = Method(forward, loras, torch.zeros_like(c), trained=[])

    module, forward = copied()
    first = {name: (low[:1], high[:1]) for name, (low, high) in loras.items()}
    with_adapters(module, first)
    plain_lora = Method(forward, first, torch.ones_like(c[..., :1]), trained=trainable(module))

    module, ungated = copied()
    basis, ours = with_basis(module, loras), {"c": c}

    def dynamic(x: Tensor) -> Tensor:
        with basis.mixed(ours["c"]):
            return ungated(x)

    def merge() -> None:
        with basis.frozen(shared):
            pass

    gate = Method(dynamic, loras, c, lambda c: ours.update(c=c), [*basis.parameters(), c])

    module, forward = copied()
    stack.enter_context(with_basis(module, loras).frozen(shared))
    merged = Method(forward, loras, c)

    module, forward = copied()
    theirs, parameters = {"c": c}, []
    for layer, (name, pair) in enumerate(loras.items()):
        low, high = (nn.Parameter(t.clone()) for t in pair)
        parameters += [low, high]

        def add(module, inputs, out, layer=layer, low=low, high=high):
            return out + torch.einsum(EINSUM, inputs[0], low, theirs["c"][:, layer], high)

        module.get_submodule(name).register_forward_hook(add)
    released = Method(forward, loras, c, lambda c: theirs.update(c=c), [*parameters, c])

    module, forward = copied()
    many = with_adapters(module, loras)
    peft = copy.deepcopy(many)  # for the weighted adapter: making N adapters takes PEFT long
    adapted: list[Any] = [module.get_submodule(name) for name in loras]
    # Modulation sees one vector a sample where the other layers see tokens.
    shapes = [(-1, 1) if ".norm" in name else (-1, 1, 1) for name in loras]

    def scale(c: Tensor) -> None:
        for linear, shape, weights in zip(adapted, shapes, c.unbind(1), strict=True):
            linear.scaling.update({str(i): weights[:, i].view(shape) for i in range(n)})

    scale(c)
    loop = Method(forward, loras, c, scale, [*trainable(module), c])

    def weigh() -> None:
        with warnings.catch_warnings():  # that the active adapter goes is meant
            warnings.simplefilter("ignore", UserWarning)
            if WEIGHTED in peft.peft_config:
                peft.delete_adapter(WEIGHTED)
        names = [str(i) for i in range(n)]
        peft.add_weighted_adapter(names, shared[0].tolist(), WEIGHTED, combination_type="cat")
        peft.set_adapter(WEIGHTED)

    weigh()
    weighted = Method(subject.forward(peft.base_model.model), loras, c)

    methods = dict(zip(CHECKED, (bare, plain_lora, gate, merged, released, loop, weighted), strict=True))
    return methods, {MERGE: merge, WEIGH: weigh}


def check(subject: Subject, plain: nn.Module, methods: dict[str, Method], x: Tensor) -> dict[str, float]:
    """Largest difference of each method from the naive loop.

    The methods that can are checked a second time, with a mixture of its own for every sample and layer.

    Raises:
        RuntimeError: a difference above ``TOLERANCE``, or LoRAs that do too little for a difference to show.
    """
    gate = methods[GATE]
    own = torch.randn(gate.c.shape, generator=torch.Generator().manual_seed(2)).mul(2).softmax(-1)
    apart = naive(subject, plain, x, gate.loras, own)
    together = naive(subject, plain, x, gate.loras, gate.c)
    found = {}
    with torch.no_grad():
        bare = methods[BARE].run(x)
        if min((bare - apart).abs().max(), (apart - together).abs().max()) < 100 * TOLERANCE:
            raise RuntimeError(f"{subject.title}: expected LoRAs and mixtures that change the output")
        for name, method in methods.items():
            expected = together if method.c is gate.c else naive(subject, plain, x, method.loras, method.c)
            found[name] = (method.run(x) - expected).abs().max().item()
            if method.mix:
                method.mix(own)
                found[name] = max(found[name], (method.run(x) - apart).abs().max().item())
                with torch.enable_grad():
                    method.mix(method.c)
            if not found[name] <= TOLERANCE:
                raise RuntimeError(f"{subject.title}: {name} differs from the naive loop by {found[name]:.1e}")
    return found


def passes(methods: dict[str, Method], x: Tensor) -> dict[tuple[str, str], Callable[[], object]]:
    """Forward of every method, and forward with backward of those that can be trained.

    The backward pass reaches the input too, as it must in a layer of a deeper model; for the bare base that is all.
    """
    leaf = x.clone().requires_grad_()
    runs: dict[tuple[str, str], Callable[[], object]] = {}
    for name, method in methods.items():

        def forward(method=method) -> Tensor:
            with torch.no_grad():
                return method.run(x)

        runs[name, "forward"] = forward
        if method.trained is not None:
            cotangent = torch.ones_like(forward())

            def backward(method=method, cotangent=cotangent):
                return torch.autograd.grad(method.run(leaf), [leaf, *method.trained], cotangent)

            runs[name, "backward"] = backward
    return runs


def section(subject: Subject, batch: int, sizes: tuple[int, ...], rank: int) -> str:
    """The table of one subject at one batch size: rows are methods, columns are N."""
    torch.manual_seed(0)
    plain = subject.make().requires_grad_(False).eval()
    x = torch.randn(batch, TOKENS, subject.channels)
    seconds, differences = {}, {name: 0.0 for name in CHECKED}
    for n in sizes:
        loras = random_loras(plain, n, rank)
        mixture = torch.randn(n, generator=torch.Generator().manual_seed(3)).mul(2).softmax(-1)
        c = mixture.expand(batch, len(loras), n).clone().requires_grad_()
        with ExitStack() as stack:
            methods, merges = methods_of(subject, plain, loras, c, stack)
            for name, difference in check(subject, plain, methods, x).items():
                differences[name] = max(differences[name], difference)
            runs = passes(methods, x) | {(name, "forward"): run for name, run in merges.items()}
            seconds[n] = interleaved(runs, subject.rounds)

    def cell(name: str, what: str, n: int) -> str:
        measured = seconds[n].get((name, what))
        return f"{ratio(measured, seconds[n][BARE, what]):.2f}" if measured else "–"

    shown = sizes[len(sizes) // 2]
    rows = [
        [
            name,
            *[cell(name, what, n) for what in ("forward", "backward") for n in sizes],
            f"{1e3 * median(seconds[shown][name, 'forward']):.3g}",
            f"{differences[name]:.0e}" if name in differences else "–",
        ]
        for name in ROWS
    ]
    head = [
        f"r = {rank}",
        *[f"forward, N = {n}" for n in sizes],
        *[f"forward + backward, N = {n}" for n in sizes],
        f"ms forward, N = {shown}",
        "difference",
    ]
    return f"## {subject.title}, batch {batch} of {TOKENS} tokens\n\n{markdown(head, rows)}"


def report(quick: bool) -> str:
    """Everything as Markdown."""
    batches: tuple[int, ...]
    sizes: tuple[int, ...]
    if quick:
        subjects, batches, sizes, rank = [linear(64, 2), flux_step(64, 1, 1, 2)], (2,), (2, 3), 2
    else:
        subjects = [linear(256, 15), linear(1024, 15), flux_step(256, 2, 4, 7)]
        batches, sizes, rank = (1, 16), (4, 16, 64), 4
    return "\n\n".join(
        [
            "# Mixing N LoRAs of rank r",
            "Times are multiples of the bare base's in the same round (median over rounds), those of a merge multiples "
            "of one forward pass. Backward goes to the input, the LoRAs and the coefficients; – where nothing can be "
            "trained. *Difference* is the largest from a naive loop in double precision, over all N, with a mixture "
            "of its own for every sample and layer too where a method has them (ours dynamic, einsum, loop).",
            conditions(),
            *[section(subject, batch, sizes, rank) for subject in subjects for batch in batches],
        ]
    )


def main(arguments: list[str] | None = None) -> None:
    """Parses the command line and measures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mixing", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="toy sizes; the numbers mean nothing")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/mixing.md")
    options = parser.parse_args(arguments)
    if options.quick and options.save:
        parser.error("a quick run's numbers mean nothing and are not saved")
    text = report(options.quick)
    print(text)
    if options.save:
        write("mixing", text)


if __name__ == "__main__":
    main()
