"""The parts of the layer microscope's page as HTML and plots, and its fallback figure."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator
from PIL import Image
from torch import Tensor

from ..analysis.layers import CHANGES, GateRecord, perplexity
from ..images import to_pil
from ..show.style import COLOURS, INK, LINE, PALE, figure_of, styled
from .base import coloured, figure_tag, plot_tag, png_url

if TYPE_CHECKING:
    from .microscope import Microscope

COLOUR_MAP = "viridis"
SAME = 1e-5  # gates are measured as quotients of sums in single precision
SIDE, CELL = 112, 6  # CSS pixels: of a picture, of a coefficient in the heat map


def norm_of(coefficients: Any) -> PowerNorm:
    """Colours by the square root: a few coefficients near 1 must not hide what the others do."""
    return PowerNorm(0.5, vmin=0, vmax=float(coefficients.max()))


def heat_html(coefficients: Tensor, labels: Sequence[tuple[str, str]], profile: np.ndarray, kind: str) -> str:
    """Coefficients [layers, N] as a list box: a row of coloured cells for each layer, grouped by block.

    A bar shows each layer's ``profile``, the change of the picture when its mixture is replaced as ``kind`` says.
    """
    norm, n, change = norm_of(coefficients), coefficients.shape[1], escape(CHANGES[kind])
    spread, leading = perplexity(coefficients).tolist(), coefficients.argmax(1).tolist()
    groups: dict[str, str] = {}
    for i, (block, name) in enumerate(labels):
        spoken = (
            f"{block}, {name}; perplexity {spread[i]:.1f}; LoRA {leading[i]} leads; "
            f"{CHANGES[kind]}: changes the picture by {profile[i]:.2f}"
        )
        source = png_url(coloured(norm(coefficients[i, None].numpy()), COLOUR_MAP))
        groups[block] = groups.get(block, "") + (
            f"<button role='option' data-ask='layer' data-value='{i}' aria-label='{escape(spoken)}'><span>{name}</span>"
            f"<img alt='' width='{CELL * n}' height='12' src='{source}'><span class='number'>{spread[i]:.1f}</span>"
            f"<i><b style='width:{profile[i] / max(profile.max(), 1e-12):.1%}'></b></i>"
            f"<span class='number'>{profile[i]:.2f}</span></button>"
        )
    ticks = "".join(f"<span style='left:{(k + 0.5) * CELL:.0f}px'>{k}</span>" for k in range(0, n, max(1, n // 4)))
    scale = png_url(coloured(np.linspace(0, 1, 64)[None], COLOUR_MAP))
    rows = "".join(f"<div role='group' aria-label='{x}'><h5>{x}</h5>{inside}</div>" for x, inside in groups.items())
    return (
        f"<div class='head'><span>layer</span><div style='width:{CELL * n}px'>LoRA{ticks}</div>"
        f"<span class='number'>perplexity</span><span>change:<br>{change}</span></div>"
        f"<div role='listbox' aria-label='layers'>{rows}</div><p class='scale'>coefficient: 0 "
        f"<img alt='colour scale' width='90' height='10' src='{scale}'> "
        f"{float(coefficients.max()):.2f}, colours by its square root</p>"
    )


def layer_html(scope: Microscope) -> str:
    """The chosen layer: its coefficients, and the picture with them replaced."""
    row = scope.coefficients[scope.layer]
    leading = ", ".join(f"LoRA {n}: {float(row[n]):.2f}" for n in row.topk(min(3, len(row))).indices.tolist())
    replaced = ""
    for name, text in CHANGES.items():
        caption = f"{text}<br><b>{scope.changes[name]:.1f}</b><br>all layers: {scope.whole[name]:.1f}"
        replaced += figure_tag(scope.drawn[name], f"result, {text}", SIDE, caption)
    routed = figure_tag(scope.drawn["routed"], "result", SIDE, "as routed")
    return (
        f"<h3>{': '.join(scope.labels[scope.layer])}</h3><p>{scope.measures}</p>"
        f"{plot_tag(bars_figure(row, scope.other[scope.layer]), f'coefficients of this layer; {leading}')}"
        f"<div class='pictures'>{figure_tag(scope.b, 'b', SIDE)}{routed}</div>"
        "<h4>This layer's mixture replaced: change in grey levels of 255</h4>"
        f"<div class='pictures'>{replaced}</div>"
    )


def gates_html(record: GateRecord) -> str:
    """The gate at every sampling step, and what the hooks counted and measured, in words chosen by the numbers."""
    apart, routed = float(record.spread.max()), float((record.gates[0] - record.routed).abs().max())
    same = "the gate was the same at every one of them" if apart < SAME else "the gate was NOT the same at all of them"
    times = "once" if record.router_calls == 1 else f"{record.router_calls} times"
    sentence = (
        f"The router ran {times}, the transformer ran {len(record.times)} times, and {same}: measured on the "
        f"activations, no gate differs by more than {apart:.0e} between steps, nor by more than {routed:.0e} from the "
        f"router's coefficients. What the gate weighs is not the same: at the last step, half of the sizes ‖A x‖ "
        f"differ from those of the first by {float(record.input_spread[-1]):.0%} or more."
    )
    return f"{plot_tag(gate_strip(record), sentence)}<p>{sentence}</p>"


def bars_figure(row: Tensor, other: Tensor) -> Figure:
    """One layer's coefficients [N], beside another analogy's [N]."""
    figure, axes = figure_of(4.3, 2.1)
    _bars(axes, row, other)
    return figure


def gate_strip(record: GateRecord) -> Figure:
    """The gate of every sampling step, measured, above the size of the activations that it weighs."""
    count = len(record.times)
    figure, axes = figure_of(0.7 + 0.85 * count, 2.7, nrows=2, ncols=count, squeeze=False)
    _strip(axes, record)
    return figure


@styled
def microscope_figure(scope: Microscope) -> Figure:
    """The page as one picture: heat map, the chosen layer, its replacements, the gates."""
    figure, empty = figure_of(11, 8.4)
    empty.remove()
    left, right = np.asarray(figure.subfigures(1, 2, width_ratios=(1, 1.5), wspace=0.02))
    _heat(left, scope)
    upper, middle, lower = right.subfigures(3, 1, height_ratios=(1.1, 0.95, 1.15))
    axes = upper.subplots()
    _bars(axes, scope.coefficients[scope.layer], scope.other[scope.layer])
    axes.set_title(", ".join(scope.labels[scope.layer]), loc="left", color=COLOURS[4])
    axes.set_title(scope.measures, loc="right", size=8, weight="normal")
    shown = [("b", scope.b, ""), ("as routed", scope.drawn["routed"], "")]
    for kind, text in CHANGES.items():
        change = f"changes by {scope.changes[kind]:.1f}\n(all layers: {scope.whole[kind]:.1f})"
        shown.append((text, scope.drawn[kind], change))
    for axis, (title, picture, text) in zip(middle.subplots(1, len(shown)), shown, strict=True):
        axis.imshow(to_pil(picture).resize((256, 256), Image.Resampling.LANCZOS))
        _label(axis, title, text)
        axis.spines[:].set(visible=True, color=LINE)
    middle.suptitle("This layer's mixture replaced (change in grey levels of 255)", size=9, color=INK)
    _strip(lower.subplots(2, len(scope.record.times), squeeze=False), scope.record)
    figure.supxlabel("Choosing another layer needs a running kernel: run this cell.", size=9, color=PALE)
    return figure


def _label(axes: Axes, title: str, text: str) -> None:
    """A picture's title above it, and a text below it in place of ticks."""
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    axes.set_title(title, loc="center", size=8)
    axes.set_xlabel(text, size=8)


def _heat(figure: SubFigure, scope: Microscope) -> None:
    """Coefficients of all layers, and beside each the change of the picture when it is replaced."""
    heat, bars = figure.subplots(1, 2, width_ratios=(4, 1), sharey=True)
    heat.set_xlabel("LoRA")
    norm, places = norm_of(scope.coefficients), range(len(scope.labels))
    image = heat.imshow(scope.coefficients, norm=norm, cmap=COLOUR_MAP, aspect="auto", interpolation="nearest")
    heat.set_yticks(places, [": ".join(label) for label in scope.labels], size=6)
    heat.set_title("Coefficients by layer", loc="left")
    bars.barh(places, scope.profile, color=COLOURS[1], height=0.8)
    bars.set_xlabel(f"grey levels,\n{CHANGES[scope.kind]}", size=7.5)
    for axes in (heat, bars):
        axes.grid(False)
        axes.axhspan(scope.layer - 0.5, scope.layer + 0.5, fill=False, ec=COLOURS[4], lw=2, zorder=3)
    heat.get_yticklabels()[scope.layer].set(color=COLOURS[4], weight="bold")
    figure.colorbar(image, ax=[heat, bars], location="bottom", fraction=0.025, pad=0.01, label="coefficient c")


@styled
def _bars(axes: Axes, row: Tensor, other: Tensor) -> None:
    """One layer's coefficients [N] as bars, the other analogy's as dots, and the level of all alike."""
    axes.bar(range(len(row)), row, color=COLOURS[0], label="this analogy")
    axes.plot(other, ls="", marker="D", ms=4, color=COLOURS[1], mec="white", mew=0.5, label="the other analogy")
    axes.axhline(1 / len(row), color=PALE, lw=1, ls="--", label="all alike")
    axes.set(xlabel="LoRA", ylabel="coefficient", xlim=(-0.7, len(row) - 0.3))
    axes.set_ylim(0, 1.3 * max(float(row.max()), float(other.max())))
    axes.grid(axis="x", visible=False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(fontsize=8, ncols=3, loc="upper left", borderaxespad=0.2, columnspacing=1.2, handletextpad=0.4)


@styled
def _strip(axes: Sequence[Sequence[Axes]], record: GateRecord) -> None:
    """A column a step: above the measured gate, below the size of what it weighs; each with a verdict from numbers."""
    gates, weighed = record.gates.numpy(), np.log10(record.inputs.clamp_min(1e-6).numpy())
    low, high = np.quantile(weighed, (0.01, 0.99))
    for step, (upper, lower) in enumerate(zip(*axes, strict=True)):
        apart = float(record.spread[step])
        same = "same" if apart < SAME else f"{apart:.2g} off"
        upper.imshow(gates[step], norm=norm_of(gates), cmap=COLOUR_MAP, aspect="auto", interpolation="nearest")
        lower.imshow(weighed[step], cmap="cividis", vmin=low, vmax=high, aspect="auto", interpolation="nearest")
        _label(upper, f"step {step + 1}\nt = {record.times[step]:.3g}", same if step else "the first")
        _label(lower, "", f"{float(record.input_spread[step]):.0%} off" if step else "the first")
    axes[0][0].set_ylabel("gate: layers ↓,\nLoRAs →", size=8)
    axes[1][0].set_ylabel("‖A x‖, what\nit weighs", size=8)
