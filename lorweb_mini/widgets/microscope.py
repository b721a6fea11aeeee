"""One analogy under the microscope: what each layer mixes, what it is for, and that the time step has no say in it.

What needs no browser is plain functions: :func:`record_gates` measures on the activations which gate every sampling
step applied, :func:`variants` and :func:`layer_changes` replace one layer's mixture and draw again,
:func:`update_norms` weighs the mixtures, :func:`microscope_figure` shows it all without a kernel. :class:`Microscope`
puts them on a page.
"""

from __future__ import annotations

import base64
import functools
import io
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import anywidget
import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
import traitlets
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image
from torch import Tensor, nn

from ..analysis.space import update_gram
from ..core.basis import ADAPTER, Basis
from ..core.editor import Editor
from ..errors import InputError
from ..images import read_image, to_pil
from ..show.style import COLOURS, INK, LINE, PALE, figure_of, styled
from .browser import picture_tag
from .rendering import Latest, in_turn
from .still import NO_ANSWER, Bundle, with_still

CHUNK = 64
SIDE, CELL = 112, 6  # CSS pixels: of a picture, of a coefficient in the heat map
COLOUR_MAP = "viridis"
SAME = 1e-5  # gates are measured as quotients of sums in single precision
CHANGES = {"uniform": "all LoRAs alike", "other": "the other analogy's", "off": "switched off"}
KINDS = {
    "norm1.linear": "modulation, picture",
    "norm1_context.linear": "modulation, text",
    "attn.to_q": "query, picture",
    "attn.to_k": "key, picture",
    "attn.to_v": "value, picture",
    "attn.add_q_proj": "query, text",
    "attn.add_k_proj": "key, text",
    "attn.add_v_proj": "value, text",
    "attn.to_out.0": "attention out, picture",
    "attn.to_add_out": "attention out, text",
    "ff.net.0.proj": "MLP in, picture",
    "ff.net.2": "MLP out, picture",
    "ff_context.net.0.proj": "MLP in, text",
    "ff_context.net.2": "MLP out, text",
}
KINDS_SINGLE = {
    "norm.linear": "modulation",
    "attn.to_q": "query",
    "attn.to_k": "key",
    "attn.to_v": "value",
    "proj_mlp": "MLP in",
    "proj_out": "attention and MLP out",
}


# --- what is measured -----------------------------------------------------------------------------


def layer_label(name: str) -> tuple[str, str]:
    """Block and kind of an adapted Linear, for a reader: ``transformer_blocks.0.attn.to_q`` is ("double block 1",
    "query, picture"). Double blocks have weights of their own for picture and text tokens, single blocks share them.
    """
    first, number, rest = name.split(".", 2)
    single = first.startswith("single")
    return f"{'single' if single else 'double'} block {int(number) + 1}", (KINDS_SINGLE if single else KINDS)[rest]


def perplexity(coefficients: Tensor) -> Tensor:
    """exp(entropy) of mixtures [..., N], not negative: how many LoRAs share the work, 1 to N; [...]."""
    share = coefficients / coefficients.sum(-1, keepdim=True)
    return torch.special.entr(share).sum(-1).exp()


def update_norms(basis: Basis, coefficients: Tensor) -> Tensor:
    """‖ΔW‖ / ‖W‖ of a mixture [layers, N] in every layer: [layers], with ‖ΔW‖² = cᵀ G c (:func:`update_gram`)."""
    (checked,) = basis.check(coefficients).double()
    weights = [module.get_base_layer().weight.detach().double().norm() for module in basis.modules]
    squares = [c @ update_gram(basis, layer) @ c for layer, c in enumerate(checked)]
    return torch.stack(squares).clamp_min(0).sqrt() / torch.stack(weights)


@dataclass(frozen=True)
class GateRecord:
    """What hooks counted and measured during one edit.

    Attributes:
        router_calls: how often the router was asked.
        times: time t of each run of the transformer, [steps].
        routed: what the router answered, [layers, N].
        gates: the gate that each run applied, measured as ⟨A_n x, gated A_n x⟩ / ⟨A_n x, A_n x⟩ over the first
            sample's tokens, [steps, layers, N].
        inputs: root mean square of A_n x, what the gate had to weigh, [steps, layers, N].
        picture: the result [3, 64, 64].
    """

    router_calls: int
    times: list[float]
    routed: Tensor
    gates: Tensor
    inputs: Tensor
    picture: Tensor

    @property
    def spread(self) -> Tensor:
        """Largest difference of any layer's any gate to that of the first step, for each step: [steps]."""
        return (self.gates - self.gates[0]).abs().amax((1, 2))

    @property
    def input_spread(self) -> Tensor:
        """Median over layers and LoRAs of the relative difference of an input to that of the first step: [steps]."""
        return ((self.inputs - self.inputs[0]).abs() / self.inputs[0].clamp_min(1e-12)).flatten(1).quantile(0.5, 1)


def record_gates(editor: Editor, a: Any, a_prime: Any, b: Any, steps: int = 8, seed: int = 0) -> GateRecord:
    """Edits b as :meth:`Editor.edit` does, with a hook on the router and on every layer's A.

    The gate is read off the activations, before and after it, not from where it is stored.

    Raises:
        InputError: an editor without a router, or what :meth:`Editor.edit` refuses.
    """
    if editor.router is None:
        raise InputError("expected an editor with a router, got one without")
    basis = editor.basis
    answers: list[Tensor] = []
    times: list[float] = []
    gates: list[Tensor] = []
    inputs: list[Tensor] = []

    def begin(module: nn.Module, arguments: tuple, named: dict[str, Any]) -> None:
        times.append(float(named["timestep"][0]))
        for seen in (gates, inputs):
            seen.append(torch.zeros(len(basis.layers), basis.n_loras, dtype=torch.float64))

    def measure(layer: int, module: nn.Linear, arguments: tuple[Tensor], gated: Tensor) -> None:
        # This hook comes after the basis's own, so what it is given is gated.
        plain, after = (
            x[0].double().reshape(-1, basis.n_loras, basis.rank) for x in (F.linear(arguments[0], module.weight), gated)
        )
        square = plain.pow(2).sum((0, 2))
        gates[-1][layer] = (plain * after).sum((0, 2)) / square.clamp_min(1e-30)
        inputs[-1][layer] = (square / (len(plain) * basis.rank)).sqrt()

    with ExitStack() as hooks:
        hooks.callback(editor.router.register_forward_hook(lambda m, i, o: answers.append(o.detach())).remove)
        hooks.callback(basis.transformer.register_forward_pre_hook(begin, with_kwargs=True).remove)
        for layer, module in enumerate(basis.modules):
            hook = functools.partial(measure, layer)
            hooks.callback(module.lora_A[ADAPTER].register_forward_hook(hook).remove)
        result = editor.edit(a, a_prime, b, steps=steps, seed=seed)
    return GateRecord(len(answers), times, answers[0][0], torch.stack(gates), torch.stack(inputs), result.pictures[0])


def variants(coefficients: Tensor, other: Tensor, layer: int | None) -> dict[str, Tensor]:
    """A mixture [layers, N] with one layer's row replaced in each way of :data:`CHANGES`; with every row for None.

    Args:
        other: another analogy's mixture, [layers, N].
    """
    rows = slice(None) if layer is None else slice(layer, layer + 1)
    replacements = {
        "uniform": torch.full_like(coefficients, 1 / coefficients.shape[-1]),
        "other": other,
        "off": torch.zeros_like(coefficients),
    }
    found = {}
    for kind, replacement in replacements.items():
        found[kind] = coefficients.clone()
        found[kind][rows] = replacement[rows]
    return found


def difference(x: Tensor, y: Tensor) -> Tensor:
    """Root mean square difference of pictures [..., 3, H, W] in [-1, 1], in grey levels of 255: [...]."""
    return (x - y).pow(2).mean((-3, -2, -1)).sqrt() * 127.5


def layer_changes(
    editor: Editor,
    b: Any,
    coefficients: Tensor,
    other: Tensor,
    kind: str,
    context: tuple[Any, Any] | None = None,
    steps: int = 4,
    seed: int = 0,
) -> np.ndarray:
    """How much the picture changes (:func:`difference`) when one layer's mixture is replaced, for each layer: [layers].

    Raises:
        InputError: a kind outside :data:`CHANGES`, or what :meth:`Editor.generate` refuses.
    """
    if kind not in CHANGES:
        raise InputError(f"expected one of {', '.join(CHANGES)}, got {kind!r}")
    many = [variants(coefficients, other, layer)[kind] for layer in range(len(editor.basis.layers))]
    mixtures = torch.stack([coefficients, *many])
    drawn = torch.cat([editor.generate(b, x, context, steps=steps, seed=seed).pictures for x in mixtures.split(CHUNK)])
    return difference(drawn[1:], drawn[0]).numpy()


# --- what is drawn --------------------------------------------------------------------------------


def _norm(coefficients: Any) -> PowerNorm:
    """Colours by the square root: a few coefficients near 1 must not hide what the others do."""
    return PowerNorm(0.5, vmin=0, vmax=float(coefficients.max()))


def _bars(axes: Axes, row: Tensor, other: Tensor) -> None:
    """One layer's coefficients [N] as bars, the other analogy's as dots, and the level of all alike."""
    axes.bar(range(len(row)), row, color=COLOURS[0], label="this analogy")
    axes.plot(other, ls="", marker="D", ms=4, color=COLOURS[1], mec="white", mew=0.5, label="the other analogy")
    axes.axhline(1 / len(row), color=PALE, lw=1, ls="--", label="all alike")
    axes.set(xlabel="LoRA", ylabel="coefficient", xlim=(-0.7, len(row) - 0.3))
    axes.set_ylim(0, 1.3 * max(float(row.max()), float(other.max())))
    axes.grid(axis="x", visible=False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(fontsize=7.5, ncols=3, loc="upper left", borderaxespad=0.2, columnspacing=1.2, handletextpad=0.4)


@styled
def bars_figure(row: Tensor, other: Tensor) -> Figure:
    """One layer's coefficients [N], beside another analogy's [N]."""
    figure, axes = figure_of(4.3, 2.1)
    _bars(axes, row, other)
    return figure


def _strip(axes: Sequence[Sequence[Axes]], record: GateRecord) -> None:
    """A column a step: above the measured gate, below the size of what it weighs; each with a verdict from numbers."""
    gates, weighed = record.gates.numpy(), np.log10(record.inputs.clamp_min(1e-6).numpy())
    low, high = np.quantile(weighed, (0.01, 0.99))
    for step, (upper, lower) in enumerate(zip(*axes, strict=True)):
        upper.imshow(gates[step], norm=_norm(gates), cmap=COLOUR_MAP, aspect="auto", interpolation="nearest")
        lower.imshow(weighed[step], cmap="cividis", vmin=low, vmax=high, aspect="auto", interpolation="nearest")
        upper.set_title(f"step {step + 1}\nt = {record.times[step]:.3g}", loc="center", size=8)
        upper.set_xlabel(_verdict(record, step), size=8)
        lower.set_xlabel(f"{float(record.input_spread[step]):.0%} off" if step else "the first", size=8)
        for axis in (upper, lower):
            axis.set(xticks=[], yticks=[])
            axis.grid(False)
    axes[0][0].set_ylabel("gate: layers ↓,\nLoRAs →", size=8)
    axes[1][0].set_ylabel("‖A x‖, what\nit weighs", size=8)


def _verdict(record: GateRecord, step: int) -> str:
    apart = float(record.spread[step])
    return "the first" if not step else "same" if apart < SAME else f"{apart:.2g} off"


@styled
def gate_strip(record: GateRecord) -> Figure:
    """The gate of every sampling step, measured, above the size of the activations that it weighs."""
    count = len(record.times)
    figure, axes = figure_of(0.7 + 0.85 * count, 2.7, nrows=2, ncols=count, squeeze=False)
    _strip(axes, record)
    return figure


def _sentence(record: GateRecord) -> str:
    """What the hooks counted and measured, in words chosen by the numbers."""
    apart, answer = float(record.spread.max()), float((record.gates[0] - record.routed).abs().max())
    same = "the gate was the same at every one of them" if apart < SAME else "the gate was NOT the same at all of them"
    times = "once" if record.router_calls == 1 else f"{record.router_calls} times"
    return (
        f"The router was asked {times}, the transformer ran {len(record.times)} times, and {same}: read off the "
        f"activations, no gate differs by more than {apart:.0e} between steps, nor by more than {answer:.0e} from what "
        f"the router said. What the gate weighs is not the same: at the last step, half of the sizes ‖A x‖ differ from "
        f"those of the first by {float(record.input_spread[-1]):.0%} or more."
    )


@styled
def microscope_figure(microscope: Microscope, note: str = "") -> Figure:
    """The page of a :class:`Microscope` as one picture: heat map, the chosen layer, its replacements, the gates."""
    scope, layer = microscope, microscope.layer
    record, labels = scope.record, [layer_label(name) for name in scope.editor.basis.layers]
    blocks = [block for block, _ in labels]
    figure, empty = figure_of(11, 8.4)
    empty.remove()
    left, right = np.asarray(figure.subfigures(1, 2, width_ratios=(1, 1.5), wspace=0.02))

    heat, bars = left.subplots(1, 2, width_ratios=(4, 1), sharey=True)
    norm = _norm(scope.coefficients)
    image = heat.imshow(scope.coefficients, norm=norm, cmap=COLOUR_MAP, aspect="auto", interpolation="nearest")
    heat.set_yticks(range(len(labels)), [kind for _, kind in labels], size=6.5)
    heat.set(xlabel="LoRA")
    heat.set_title("Coefficients by layer", loc="left")
    bars.barh(range(len(labels)), scope.profile, color=COLOURS[1], height=0.8)
    bars.set_xlabel(f"grey levels,\n{CHANGES[scope.kind]}", size=7.5)
    for axes in (heat, bars):
        axes.grid(False)
        axes.axhspan(layer - 0.5, layer + 0.5, fill=False, ec=COLOURS[4], lw=2, zorder=3)
        for first in [i for i, block in enumerate(blocks) if i and block != blocks[i - 1]]:
            axes.axhline(first - 0.5, color="white" if axes is heat else LINE, lw=1.8)
    for block in dict.fromkeys(blocks):
        rows = [i for i, other in enumerate(blocks) if other == block]
        bars.text(1.04, 1 - (np.mean(rows) + 0.5) / len(blocks), block, transform=bars.transAxes, rotation=-90,
                  size=7.5, color=PALE, ha="left", va="center")  # fmt: skip
    heat.get_yticklabels()[layer].set(color=COLOURS[4], weight="bold")
    left.colorbar(image, ax=[heat, bars], location="bottom", fraction=0.025, pad=0.01, label="coefficient c")

    upper, middle, lower = right.subfigures(3, 1, height_ratios=(1.1, 0.95, 1.15))
    axes = upper.subplots()
    _bars(axes, scope.coefficients[layer], scope.other[layer])
    axes.set_title(", ".join(labels[layer]), loc="left", color=COLOURS[4])
    axes.set_title(scope.measures(layer), loc="right", size=8, weight="normal")
    shown = [("b", to_pil(scope.b), ""), ("as routed", to_pil(scope.drawn["routed"]), "")]
    for kind, text in CHANGES.items():
        change = f"changes by {scope.changes[kind]:.1f}\n(all layers: {scope.whole[kind]:.1f})"
        shown.append((text, to_pil(scope.drawn[kind]), change))
    for axis, (title, picture, text) in zip(middle.subplots(1, len(shown)), shown, strict=True):
        axis.imshow(picture.resize((256, 256), Image.Resampling.LANCZOS))
        axis.set(xticks=[], yticks=[])
        axis.grid(False)
        axis.set_title(title, loc="center", size=8)
        axis.set_xlabel(text, size=7.5)
        for spine in axis.spines.values():
            spine.set(visible=True, color=LINE)
    middle.suptitle("This layer's mixture replaced (change in grey levels of 255)", size=9, color=INK)
    _strip(lower.subplots(2, len(record.times), squeeze=False), record)
    figure.supxlabel(note, size=9, color=PALE)
    return figure


# --- on a page ------------------------------------------------------------------------------------


def heat_html(coefficients: Tensor, layers: Sequence[str], profile: np.ndarray, kind: str) -> str:
    """The heat map as a list box: a row of coloured cells for each layer, grouped by block.

    Args:
        coefficients: [layers, N].
        layers: names of the layers.
        profile: change of the picture when a layer's mixture is replaced, [layers]; drawn as a bar.
        kind: how it is replaced, one of :data:`CHANGES`.
    """
    top = float(coefficients.max())
    colours = matplotlib.colormaps[COLOUR_MAP](_norm(coefficients)(coefficients.numpy()), bytes=True)[..., :3]
    spread, n = perplexity(coefficients), coefficients.shape[1]
    parts, last = [], ""
    for i, layer in enumerate(layers):
        block, name = layer_label(layer)
        if block != last:
            parts.append(("</div>" if last else "") + f"<div role='group' aria-label='{block}'><h5>{block}</h5>")
            last = block
        spoken = (
            f"{block}, {name}; perplexity {float(spread[i]):.1f}; LoRA {int(coefficients[i].argmax())} leads; "
            f"{CHANGES[kind]}: changes the picture by {profile[i]:.2f}"
        )
        parts.append(
            f"<button role='option' data-ask='layer' data-value='{i}' aria-label='{escape(spoken)}'>"
            f"<span>{name}</span><img alt='' width='{CELL * n}' height='12' src='{_png(colours[i][None])}'>"
            f"<span class='number'>{float(spread[i]):.1f}</span>"
            f"<i><b style='width:{float(profile[i] / max(profile.max(), 1e-12)):.1%}'></b></i>"
            f"<span class='number'>{profile[i]:.2f}</span></button>"
        )
    ramp = matplotlib.colormaps[COLOUR_MAP](np.linspace(0, 1, 64), bytes=True)[None, :, :3]
    ticks = "".join(f"<span style='left:{(k + 0.5) * CELL:.0f}px'>{k}</span>" for k in range(0, n, max(1, n // 4)))
    head = (
        f"<div class='head'><span>layer</span><div style='width:{CELL * n}px'>LoRA{ticks}</div>"
        f"<span class='number'>perplexity</span><span>change: {escape(CHANGES[kind])}</span></div>"
    )
    foot = (
        f"<p class='pale'>coefficient: 0 <img alt='colour scale' width='90' height='10' src='{_png(ramp)}'> {top:.2f}, "
        "colours by its square root</p>"
    )
    return f"{head}<div role='listbox' aria-label='layers'>{''.join(parts)}</div></div>{foot}"


def _png(pixels: np.ndarray) -> str:
    """Pixels [H, W, 3] of uint8 as the address of a picture that needs no file."""
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _drawn(figure: Figure, alt: str, dpi: int = 92) -> str:
    """A figure as an ``img``; stored for screens of two dots a pixel."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=1.5 * dpi)
    width, height = figure.get_size_inches() * dpi
    source = base64.b64encode(file.getvalue()).decode()
    return (
        f"<img class='figure' alt='{escape(alt)}' width='{width:.0f}' height='{height:.0f}' "
        f"src='data:image/png;base64,{source}'>"
    )


FRAME = (
    f"<p class='warning' role='alert' hidden>{NO_ANSWER}</p>"
    "<div class='columns'><section aria-label='coefficients by layer'><div data-part='heat'></div></section>"
    "<section aria-label='the chosen layer'><div data-part='layer' aria-live='polite'></div>"
    "<h4>Which layers matter?</h4><div role='toolbar' aria-label='replace one layer after the other'>"
    + "".join(f"<button data-ask='sweep' data-value='{kind}'>{text}</button>" for kind, text in CHANGES.items())
    + "</div><p class='pale'>Replaces one layer's mixture after the other. The bar beside each layer: how much the "
    "picture changes, in grey levels of 255.</p>"
    "<h4>Does the time step matter?</h4><div data-part='gates'></div></section></div>"
    "<p class='pale'>Click a layer, or go through them with the arrow keys. This needs a running kernel.</p>"
)


class _Panel(anywidget.AnyWidget):
    """The page: HTML of each part, and which buttons are pressed."""

    _esm, _css = Path(__file__).with_suffix(".js"), Path(__file__).with_suffix(".css")
    frame = traitlets.Unicode(FRAME).tag(sync=True)
    heat = traitlets.Unicode().tag(sync=True)
    layer = traitlets.Unicode().tag(sync=True)
    gates = traitlets.Unicode().tag(sync=True)
    chosen = traitlets.Dict().tag(sync=True)


class Microscope:
    """Coefficients of one analogy by layer; choosing a layer shows what its mixture is worth.

    Every button has a method: :meth:`choose` (a layer), :meth:`sweep` (replace each layer in turn). Where no kernel
    runs, the notebook shows :func:`microscope_figure` instead.

    Attributes:
        coefficients, other: mixtures of this analogy and of the other one, [layers, N].
        record: what the hooks measured, a :class:`GateRecord`.
        layer, drawn, changes: the chosen layer; pictures [3, 64, 64] and their change by kind of replacement, with
            ``drawn["routed"]`` as the router wants it.
        whole: change by kind when every layer is replaced at once.
        kind, profile: how :meth:`sweep` replaced each layer last ("off" at first), and the changes, [layers].

    Args:
        a, a_prime, b: one analogy.
        other: the pair (a, a') of another analogy, routed with the same b; the pair turned round when None.
        steps, seed: as in :meth:`Editor.edit`.

    Raises:
        InputError: an editor without a router, more than one analogy, or a picture that cannot be read.
    """

    def __init__(
        self,
        editor: Editor,
        a: Any,
        a_prime: Any,
        b: Any,
        other: tuple[Any, Any] | None = None,
        steps: int = 4,
        seed: int = 0,
    ) -> None:
        self.editor, self.steps, self.seed = editor, steps, seed
        a, a_prime, self.b = read_image(a, "a"), read_image(a_prime, "a_prime"), read_image(b, "b")
        self.context = (a, a_prime) if editor.layout.needs_context else None
        self.record = record_gates(editor, a, a_prime, self.b, steps, seed)
        self.coefficients = self.record.routed
        self.other = editor.route(*(other or (a_prime, a)), self.b)[0]
        self.norms = update_norms(editor.basis, self.coefficients)
        self._perplexity = perplexity(self.coefficients)
        self.whole = self._replaced(None)[1]
        self._latest = Latest(self._follow, wait=0)
        self.panel = _Panel(
            gates=f"{_drawn(gate_strip(self.record), _sentence(self.record))}<p>{_sentence(self.record)}</p>",
        )
        self.layer = 0
        # The layer that the picture needs most is the most telling one to begin with.
        self.choose(int(self.sweep("off").argmax()))
        self.panel.on_msg(lambda _, message, __: self._answer(message))

    @in_turn
    def _answer(self, message: Mapping[str, Any]) -> None:
        """Does what the page asks for, ``{"ask": ..., "value": ...}``, and says so, or the page would warn."""
        ask, value = message.get("ask"), str(message.get("value", ""))
        if ask == "layer":
            self._latest.ask(int(value))
            return
        if ask == "sweep":
            self.sweep(value)
        elif ask != "alive":
            raise InputError(f"expected a layer or a sweep to be asked for, got {ask!r}")
        self.panel.send({"answered": ask})

    def _follow(self, layer: int) -> None:
        self.choose(layer)
        self.panel.send({"answered": "layer"})

    def choose(self, layer: int) -> None:
        """Shows one layer: its coefficients and measures, and the picture with its mixture replaced.

        Raises:
            InputError: no such layer.
        """
        layers = self.editor.basis.layers
        if not 0 <= layer < len(layers):
            raise InputError(f"expected a layer from 0 to {len(layers) - 1}, got {layer}")
        self.layer = layer
        self.drawn, self.changes = self._replaced(layer)
        with self.panel.hold_sync():
            self.panel.layer = self._layer_html()
            self.panel.chosen = {"layer": str(layer), "sweep": self.kind}

    def sweep(self, kind: str) -> np.ndarray:
        """Replaces every layer's mixture in turn and shows how much the picture changes: [layers].

        Raises:
            InputError: a kind outside :data:`CHANGES`.
        """
        self.profile = layer_changes(
            self.editor, self.b, self.coefficients, self.other, kind, self.context, self.steps, self.seed
        )
        self.kind = kind
        with self.panel.hold_sync():
            self.panel.heat = heat_html(self.coefficients, self.editor.basis.layers, self.profile, kind)
            self.panel.chosen = {"layer": str(self.layer), "sweep": kind}
        return self.profile

    def measures(self, layer: int) -> str:
        """A layer's perplexity and the size of its mixture's weight update, in words."""
        n = self.coefficients.shape[1]
        return f"perplexity {float(self._perplexity[layer]):.1f} of {n}; ‖ΔW‖ = {float(self.norms[layer]):.1%} of ‖W‖"

    def _replaced(self, layer: int | None) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Pictures as routed and with a layer's mixture replaced (every layer's for None), and how much they change."""
        mixtures = {"routed": self.coefficients} | variants(self.coefficients, self.other, layer)
        pictures = self.editor.generate(
            self.b, torch.stack(list(mixtures.values())), self.context, steps=self.steps, seed=self.seed
        ).pictures
        drawn = dict(zip(mixtures, pictures, strict=True))
        return drawn, {kind: float(difference(drawn[kind], drawn["routed"])) for kind in CHANGES}

    def _layer_html(self) -> str:
        block, kind = layer_label(self.editor.basis.layers[self.layer])
        row, other = self.coefficients[self.layer], self.other[self.layer]
        leading = ", ".join(f"LoRA {n}: {float(row[n]):.2f}" for n in row.topk(min(3, len(row))).indices.tolist())

        def tag(picture: Tensor, alt: str, caption: str) -> str:
            return f"<figure>{picture_tag(picture, alt, SIDE)}<figcaption>{caption}</figcaption></figure>"

        replaced = []
        for name, text in CHANGES.items():
            whole = f"<span class='pale'>all layers: {self.whole[name]:.1f}</span>"
            caption = f"{text}<br><b>{self.changes[name]:.1f}</b><br>{whole}"
            replaced.append(tag(self.drawn[name], f"result, {text}", caption))
        return (
            f"<h3>{block}: {kind}</h3><p>{self.measures(self.layer)}</p>"
            f"{_drawn(bars_figure(row, other), f'coefficients of this layer; {leading}')}"
            f"<div class='pictures'>{tag(self.b, 'b', 'b')}{tag(self.drawn['routed'], 'result', 'as routed')}</div>"
            "<h4>This layer's mixture replaced: change in grey levels of 255</h4>"
            f"<div class='pictures'>{''.join(replaced)}</div>"
        )

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Bundle:
        """The live widget, and a still picture for whoever has no kernel."""
        note = "Choosing another layer needs a running kernel: run this cell."
        return with_still(self.panel, microscope_figure(self, note), "Layer microscope")
