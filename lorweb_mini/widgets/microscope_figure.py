"""The figures of the layer microscope: coefficients by layer, one layer's bars, the gate at every sampling step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator
from PIL import Image
from torch import Tensor

from ..analysis.layers import CHANGES, GateRecord, layer_label
from ..images import to_pil
from ..show.style import COLOURS, INK, LINE, PALE, figure_of, styled

if TYPE_CHECKING:
    from .microscope import Microscope

COLOUR_MAP = "viridis"
SAME = 1e-5  # gates are measured as quotients of sums in single precision


def norm_of(coefficients: Any) -> PowerNorm:
    """Colours by the square root: a few coefficients near 1 must not hide what the others do."""
    return PowerNorm(0.5, vmin=0, vmax=float(coefficients.max()))


@styled
def bars_figure(row: Tensor, other: Tensor) -> Figure:
    """One layer's coefficients [N], beside another analogy's [N]."""
    figure, axes = figure_of(4.3, 2.1)
    _bars(axes, row, other)
    return figure


@styled
def gate_strip(record: GateRecord) -> Figure:
    """The gate of every sampling step, measured, above the size of the activations that it weighs."""
    count = len(record.times)
    figure, axes = figure_of(0.7 + 0.85 * count, 2.7, nrows=2, ncols=count, squeeze=False)
    _strip(axes, record)
    return figure


def gate_sentence(record: GateRecord) -> str:
    """What the hooks counted and measured, in words chosen by the numbers."""
    apart, routed = float(record.spread.max()), float((record.gates[0] - record.routed).abs().max())
    same = "the gate was the same at every one of them" if apart < SAME else "the gate was NOT the same at all of them"
    times = "once" if record.router_calls == 1 else f"{record.router_calls} times"
    return (
        f"The router ran {times}, the transformer ran {len(record.times)} times, and {same}: measured on the "
        f"activations, no gate differs by more than {apart:.0e} between steps, nor by more than {routed:.0e} from the "
        f"router's coefficients. What the gate weighs is not the same: at the last step, half of the sizes ‖A x‖ "
        f"differ from those of the first by {float(record.input_spread[-1]):.0%} or more."
    )


@styled
def microscope_figure(microscope: Microscope, note: str = "") -> Figure:
    """The page of a :class:`Microscope` as one picture: heat map, the chosen layer, its replacements, the gates."""
    scope, layer = microscope, microscope.layer
    labels = [layer_label(name) for name in scope.editor.basis.layers]
    figure, empty = figure_of(11, 8.4)
    empty.remove()
    left, right = np.asarray(figure.subfigures(1, 2, width_ratios=(1, 1.5), wspace=0.02))
    _heat(left, scope, labels)
    upper, middle, lower = right.subfigures(3, 1, height_ratios=(1.1, 0.95, 1.15))
    axes = upper.subplots()
    _bars(axes, scope.coefficients[layer], scope.other[layer])
    axes.set_title(", ".join(labels[layer]), loc="left", color=COLOURS[4])
    axes.set_title(scope.measures(layer), loc="right", size=8, weight="normal")
    _replaced(middle, scope.b, scope.drawn, scope.changes, scope.whole)
    _strip(lower.subplots(2, len(scope.record.times), squeeze=False), scope.record)
    figure.supxlabel(note, size=9, color=PALE)
    return figure


def _heat(figure: SubFigure, scope: Microscope, labels: Sequence[tuple[str, str]]) -> None:
    """Coefficients of all layers, and beside each the change of the picture when it is replaced."""
    blocks = [block for block, _ in labels]
    heat, bars = figure.subplots(1, 2, width_ratios=(4, 1), sharey=True)
    norm = norm_of(scope.coefficients)
    image = heat.imshow(scope.coefficients, norm=norm, cmap=COLOUR_MAP, aspect="auto", interpolation="nearest")
    heat.set_yticks(range(len(labels)), [kind for _, kind in labels], size=6.5)
    heat.set(xlabel="LoRA")
    heat.set_title("Coefficients by layer", loc="left")
    bars.barh(range(len(labels)), scope.profile, color=COLOURS[1], height=0.8)
    bars.set_xlabel(f"grey levels,\n{CHANGES[scope.kind]}", size=7.5)
    for axes in (heat, bars):
        axes.grid(False)
        axes.axhspan(scope.layer - 0.5, scope.layer + 0.5, fill=False, ec=COLOURS[4], lw=2, zorder=3)
        for first in [i for i, block in enumerate(blocks) if i and block != blocks[i - 1]]:
            axes.axhline(first - 0.5, color="white" if axes is heat else LINE, lw=1.8)
    for block in dict.fromkeys(blocks):
        rows = [i for i, other in enumerate(blocks) if other == block]
        bars.text(1.04, 1 - (np.mean(rows) + 0.5) / len(blocks), block, transform=bars.transAxes, rotation=-90,
                  size=7.5, color=PALE, ha="left", va="center")  # fmt: skip
    heat.get_yticklabels()[scope.layer].set(color=COLOURS[4], weight="bold")
    figure.colorbar(image, ax=[heat, bars], location="bottom", fraction=0.025, pad=0.01, label="coefficient c")


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


def _replaced(
    figure: SubFigure, b: Tensor, drawn: Mapping[str, Tensor], changes: Mapping[str, float], whole: Mapping[str, float]
) -> None:
    """b, the result, and the results with the layer's mixture replaced."""
    shown = [("b", b, ""), ("as routed", drawn["routed"], "")]
    for kind, text in CHANGES.items():
        shown.append((text, drawn[kind], f"changes by {changes[kind]:.1f}\n(all layers: {whole[kind]:.1f})"))
    for axis, (title, picture, text) in zip(figure.subplots(1, len(shown)), shown, strict=True):
        axis.imshow(to_pil(picture).resize((256, 256), Image.Resampling.LANCZOS))
        axis.set(xticks=[], yticks=[])
        axis.grid(False)
        axis.set_title(title, loc="center", size=8)
        axis.set_xlabel(text, size=7.5)
        axis.spines[:].set(visible=True, color=LINE)
    figure.suptitle("This layer's mixture replaced (change in grey levels of 255)", size=9, color=INK)


def _strip(axes: Sequence[Sequence[Axes]], record: GateRecord) -> None:
    """A column a step: above the measured gate, below the size of what it weighs; each with a verdict from numbers."""
    gates, weighed = record.gates.numpy(), np.log10(record.inputs.clamp_min(1e-6).numpy())
    low, high = np.quantile(weighed, (0.01, 0.99))
    for step, (upper, lower) in enumerate(zip(*axes, strict=True)):
        apart = float(record.spread[step])
        same = "same" if apart < SAME else f"{apart:.2g} off"
        upper.imshow(gates[step], norm=norm_of(gates), cmap=COLOUR_MAP, aspect="auto", interpolation="nearest")
        lower.imshow(weighed[step], cmap="cividis", vmin=low, vmax=high, aspect="auto", interpolation="nearest")
        upper.set_title(f"step {step + 1}\nt = {record.times[step]:.3g}", loc="center", size=8)
        upper.set_xlabel(same if step else "the first", size=8)
        lower.set_xlabel(f"{float(record.input_spread[step]):.0%} off" if step else "the first", size=8)
        for axis in (upper, lower):
            axis.set(xticks=[], yticks=[])
            axis.grid(False)
    axes[0][0].set_ylabel("gate: layers ↓,\nLoRAs →", size=8)
    axes[1][0].set_ylabel("‖A x‖, what\nit weighs", size=8)
