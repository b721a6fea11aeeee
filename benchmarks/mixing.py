"""What a mixture of N LoRAs costs, beside what else one could pick.

    .venv/bin/python -m benchmarks.mixing            # minutes; --save writes results/mixing.md and the README's table
    .venv/bin/python -m benchmarks.mixing --quick    # seconds, toy sizes: shows that it works

Measured are one adapted Linear and one step of the course's small Flux transformer. Every method's output is checked
against the formula W x + sum_n c_n B_n A_n x, one sample and one LoRA at a time in double precision, before anything
is timed. Memory is what tensors hold at once beyond weights and input, counted operation by operation.
"""

from __future__ import annotations

import argparse
import copy
import warnings
import weakref
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import torch
from diffusers.loaders import PeftAdapterMixin
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.xlora.layer import XLoraLinearLayer
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lorweb_mini.adapter import adapted_linears
from lorweb_mini.core.basis import Basis
from lorweb_mini.core.layout import position_ids
from lorweb_mini.models.base import TOKEN_WIDTH, Base, transformer_of

from .timing import conditions, interleaved, markdown, ratio, write, write_readme

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
XLORA = "PEFT's X-LoRA layer"
WEIGHTED = "PEFT `add_weighted_adapter`"
WEIGH = "– its new adapter, once a mixture"
CHECKED = (BARE, PLAIN, GATE, MERGED, RELEASED, LOOP, XLORA, WEIGHTED)
ROWS = (BARE, PLAIN, GATE, MERGED, MERGE, RELEASED, LOOP, XLORA, WEIGHTED, WEIGH)
README = Path(__file__).parents[1] / "README.md"

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


def _trainable(module: nn.Module) -> list[Tensor]:
    return [p for p in module.parameters() if p.requires_grad]


def methods_of(
    subject: Subject, plain: nn.Module, loras: Loras, c: Tensor, stack: ExitStack
) -> tuple[dict[str, Method], dict[str, Callable[[], None]]]:
    """All methods under the mixture c [batch, layers, N], and what two of them do once for each new mixture.

    The mixture is the same in all samples and layers: PEFT's weighted adapter knows no other. ``stack`` keeps the
    merged weights merged.
    """
    shared = c[0].detach()

    def copied() -> tuple[nn.Module, Forward]:
        module = copy.deepcopy(plain)
        return module, subject.forward(module)

    module, forward = copied()
    bare = Method(forward, loras, torch.zeros_like(c), trained=[])

    module, forward = copied()
    first = {name: (low[:1], high[:1]) for name, (low, high) in loras.items()}
    with_adapters(module, first)
    plain_lora = Method(forward, first, torch.ones_like(c[..., :1]), trained=_trainable(module))

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

    released = _released(*copied(), loras, c)
    by_peft, weigh = _by_peft(subject, *copied(), loras, c)

    methods = dict(zip(CHECKED, (bare, plain_lora, gate, merged, released, *by_peft), strict=True))
    return methods, {MERGE: merge, WEIGH: weigh}


def _released(module: nn.Module, forward: Forward, loras: Loras, c: Tensor) -> Method:
    """The released code's formula: one einsum over N in every layer."""
    theirs, parameters = {"c": c}, []
    for layer, (name, pair) in enumerate(loras.items()):
        low, high = (nn.Parameter(t.clone()) for t in pair)
        parameters += [low, high]

        def add(module, inputs, out, layer=layer, low=low, high=high):
            return out + torch.einsum(EINSUM, inputs[0], low, theirs["c"][:, layer], high)

        module.get_submodule(name).register_forward_hook(add)
    return Method(forward, loras, c, lambda c: theirs.update(c=c), [*parameters, c])


def _by_peft(
    subject: Subject, module: nn.Module, forward: Forward, loras: Loras, c: Tensor
) -> tuple[tuple[Method, Method, Method], Callable[[], None]]:
    """PEFT's own: N adapters in a loop, X-LoRA's layer and a weighted adapter; and what makes the last."""
    n, many = _sizes(loras)[0], with_adapters(module, loras)
    again = copy.deepcopy(many)
    peft = copy.deepcopy(many)  # for the weighted adapter: making N adapters takes PEFT long
    adapted: list[Any] = [module.get_submodule(name) for name in loras]
    # Modulation sees one vector a sample where the other layers see tokens.
    shapes = [(-1, 1) if ".norm" in name else (-1, 1, 1) for name in loras]

    def scale(c: Tensor) -> None:
        for linear, shape, weights in zip(adapted, shapes, c.unbind(1), strict=True):
            linear.scaling.update({str(i): weights[:, i].view(shape) for i in range(n)})

    scale(c)
    loop = Method(forward, loras, c, scale, [*_trainable(module), c])

    module = again.base_model.model
    state = {"scalings": c[:, None]}  # X-LoRA's have tokens on their second axis
    for layer, name in enumerate(loras):
        _by_x_lora(module.get_submodule(name), layer, state)
    x_lora = Method(
        subject.forward(module), loras, c, lambda c: state.update(scalings=c[:, None]), [*_trainable(module), c]
    )

    def weigh() -> None:
        with warnings.catch_warnings():  # that the active adapter goes is meant
            warnings.simplefilter("ignore", UserWarning)
            if WEIGHTED in peft.peft_config:
                peft.delete_adapter(WEIGHTED)
        names = [str(i) for i in range(n)]
        peft.add_weighted_adapter(names, c[0, 0].tolist(), WEIGHTED, combination_type="cat")
        peft.set_adapter(WEIGHTED)

    weigh()
    weighted = Method(subject.forward(peft.base_model.model), loras, c)
    return (loop, x_lora, weighted), weigh


def _by_x_lora(adapted: Any, layer: int, state: dict[str, Tensor]) -> None:
    """Lets PEFT's own X-LoRA layer compute an adapted Linear, as its model does, with coefficients from ``state``."""
    whole: Any = SimpleNamespace(top_k_lora=None, enable_softmax_topk=False, global_scaling_weight=1.0)
    owner: Any = SimpleNamespace(disabled=False)
    mixture = XLoraLinearLayer(owner, adapted, adapted.forward, layer, whole)

    def forward(x: Tensor) -> Tensor:
        if x.ndim == 2:  # modulation, which has no tokens
            return mixture.forward(x[:, None], scalings=state["scalings"])[:, 0]
        return mixture.forward(x, scalings=state["scalings"])

    adapted.forward = forward


class PeakMemory(TorchDispatchMode):
    """Counts the bytes of all storages that operations make, and how many of them were alive at once at the most."""

    def __init__(self) -> None:
        super().__init__()
        self.alive = self.peak = 0
        self.made: set[int] = set()
        self.outside: dict[int, Any] = {}  # held, so that their ids stay theirs

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        for storage in self._storages((args, kwargs)):
            if id(storage) not in self.made:
                self.outside[id(storage)] = storage
        out = func(*args, **(kwargs or {}))
        for storage in self._storages(out):
            if id(storage) not in self.made and id(storage) not in self.outside:
                size = storage.nbytes()
                self.made.add(id(storage))
                self.alive += size
                weakref.finalize(storage, self._gone, id(storage), size)
        self.peak = max(self.peak, self.alive)
        return out

    def _gone(self, number: int, size: int) -> None:
        self.made.discard(number)
        self.alive -= size

    @staticmethod
    def _storages(tree: Any) -> list[Any]:
        return [x.untyped_storage() for x in tree_leaves(tree) if isinstance(x, Tensor)]


def peak_mib(run: Callable[[], object]) -> float:
    """MiB that a run holds at once at the most, beyond what was there before."""
    with PeakMemory() as memory:
        out = run()
    del out
    return memory.peak / 2**20


def check(subject: Subject, plain: nn.Module, methods: dict[str, Method], x: Tensor) -> dict[str, float]:
    """Largest difference of each method from the naive loop.

    The methods that can are checked a second time, with a mixture of its own for every sample and layer.

    Raises:
        RuntimeError: a difference above ``TOLERANCE``, or LoRAs that do too little for a difference to show.
    """
    gate = methods[GATE]
    generator = torch.Generator().manual_seed(2)
    own = torch.randn(gate.c.shape, generator=generator).mul(2).softmax(-1)
    own = own * (0.5 + torch.rand(*own.shape[:-1], 1, generator=generator))  # or with N = 1 all were the same
    apart = naive(subject, plain, x, gate.loras, own)
    together = naive(subject, plain, x, gate.loras, gate.c)
    differences = {}
    with torch.no_grad():
        bare = methods[BARE].run(x)
        if min((bare - apart).abs().max(), (apart - together).abs().max()) < 100 * TOLERANCE:
            raise RuntimeError(f"{subject.title}: expected LoRAs and mixtures that change the output")
        for name, method in methods.items():
            expected = together if method.c is gate.c else naive(subject, plain, x, method.loras, method.c)
            differences[name] = (method.run(x) - expected).abs().max().item()
            if method.mix:
                method.mix(own)
                differences[name] = max(differences[name], (method.run(x) - apart).abs().max().item())
                with torch.enable_grad():
                    method.mix(method.c)
            if not differences[name] <= TOLERANCE:
                raise RuntimeError(f"{subject.title}: {name} differs from the naive loop by {differences[name]:.1e}")
    return differences


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


@dataclass(frozen=True)
class Measured:
    """One subject at one batch size.

    Attributes:
        seconds: by N, then by method and pass, one value a round.
        differences: of each method from the naive loop.
        mib: by method and pass, at the largest N.
    """

    subject: Subject
    batch: int
    sizes: tuple[int, ...]
    rank: int
    seconds: dict[int, dict[tuple[str, str], list[float]]]
    differences: dict[str, float]
    mib: dict[tuple[str, str], float]

    def cell(self, name: str, what: str, n: int) -> str:
        """A method's time as a multiple of the bare base's."""
        measured = self.seconds[n].get((name, what))
        return f"{ratio(measured, self.seconds[n][BARE, what]):.2f}" if measured else "–"

    def memory(self, name: str, what: str) -> str:
        """A method's peak in MiB."""
        return f"{self.mib[name, what]:.3g}" if (name, what) in self.mib else "–"


def measure(subject: Subject, batch: int, sizes: tuple[int, ...], rank: int) -> Measured:
    """Checks and times all methods of one subject at one batch size."""
    torch.manual_seed(0)
    plain = subject.make().requires_grad_(False).eval()
    x = torch.randn(batch, TOKENS, subject.channels)
    seconds: dict[int, dict[tuple[str, str], list[float]]] = {}
    differences, mib = {name: 0.0 for name in CHECKED}, {}
    for n in sizes:
        loras = random_loras(plain, n, rank)
        mixture = torch.randn(n, generator=torch.Generator().manual_seed(3)).mul(2).softmax(-1)
        c = mixture.expand(batch, len(loras), n).clone().requires_grad_()
        with ExitStack() as stack:
            methods, merges = methods_of(subject, plain, loras, c, stack)
            for name, difference in check(subject, plain, methods, x).items():
                differences[name] = max(differences[name], difference)
            runs = passes(methods, x)
            if n == max(sizes):
                mib = {key: peak_mib(run) for key, run in runs.items()}
            seconds[n] = interleaved(runs | {(name, "forward"): run for name, run in merges.items()}, subject.rounds)
    return Measured(subject, batch, sizes, rank, seconds, differences, mib)


def section(measured: Measured) -> str:
    """The table of a measurement: rows are methods, columns are N."""
    sizes = measured.sizes
    shown = sizes[len(sizes) // 2]
    rows = [
        [
            name,
            *[measured.cell(name, what, n) for what in ("forward", "backward") for n in sizes],
            f"{1e3 * median(measured.seconds[shown][name, 'forward']):.3g}",
            *[measured.memory(name, what) for what in ("forward", "backward")],
            f"{measured.differences[name]:.0e}" if name in measured.differences else "–",
        ]
        for name in ROWS
    ]
    head = [
        f"r = {measured.rank}",
        *[f"forward, N = {n}" for n in sizes],
        *[f"forward + backward, N = {n}" for n in sizes],
        f"ms forward, N = {shown}",
        f"MiB forward, N = {max(sizes)}",
        f"MiB forward + backward, N = {max(sizes)}",
        "difference",
    ]
    return f"## {measured.subject.title}, batch {measured.batch} of {TOKENS} tokens\n\n{markdown(head, rows)}"


def summary(measured: Sequence[Measured]) -> str:
    """The README's table: the largest batch of each subject, forward / forward + backward, at the middle N."""
    most = {largest.subject.title: largest for largest in sorted(measured, key=lambda x: x.batch)}
    head, columns = ["multiples of the bare base"], []
    for title, largest in most.items():
        n = largest.sizes[len(largest.sizes) // 2]
        head.append(f"{title}, batch {largest.batch}, N = {n}")
        columns.append([f"{largest.cell(name, 'forward', n)} / {largest.cell(name, 'backward', n)}" for name in ROWS])
    rows = [[name, *cells] for name, cells in zip(ROWS, zip(*columns, strict=True), strict=True)]
    return (
        f"{markdown(head, rows)}\n\nForward / forward + backward, medians over rounds that time every method in turn; "
        f"{TOKENS} tokens a sample ({conditions()}). `.venv/bin/python -m benchmarks.mixing --save` measures it again."
    )


def plan(quick: bool) -> list[tuple[Subject, int, tuple[int, ...], int]]:
    """What is measured: subject, batch, all N, r."""
    if quick:
        return [(subject, 2, (2, 3), 2) for subject in (linear(64, 2), flux_step(64, 1, 1, 2))]
    batches = [(linear(256, 15), (1, 16)), (linear(1024, 9), (1, 16)), (linear(3072, 5), (1, 4))]
    wanted = [(subject, batch, (1, 4, 16, 64), 4) for subject, many in batches for batch in many]
    # A whole model takes PEFT long to fill with adapters.
    return [*wanted, *[(flux_step(256, 2, 4, 5), batch, (1, 16, 64), 4) for batch in (1, 16)]]


def report(measured: Sequence[Measured]) -> str:
    """Everything as Markdown."""
    return "\n\n".join(
        [
            "# Mixing N LoRAs of rank r",
            "Times are multiples of the bare base's in the same round (median over rounds), those of a merge multiples "
            "of one forward pass. Backward goes to the input, the LoRAs and the coefficients; – where nothing can be "
            "trained. *Difference* is the largest from a naive loop in double precision, over all N, with a mixture "
            "of its own for every sample and layer too where a method has them (ours dynamic, einsum, loop, X-LoRA). "
            "*MiB* is the most that tensors hold at once beyond weights and input.",
            conditions(),
            *[section(one) for one in measured],
        ]
    )


def main(arguments: list[str] | None = None) -> None:
    """Parses the command line and measures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mixing", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="toy sizes; the numbers mean nothing")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/mixing.md and the README's table")
    options = parser.parse_args(arguments)
    if options.quick and options.save:
        parser.error("a quick run's numbers mean nothing and are not saved")
    measured = [measure(*one) for one in plan(options.quick)]
    text = report(measured)
    print(text)
    if options.save:
        write("mixing", text)
        write_readme(README, "mixing", summary(measured))


if __name__ == "__main__":
    main()
