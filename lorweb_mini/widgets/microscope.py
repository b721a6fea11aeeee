"""One analogy layer by layer: what each layer mixes, what it is for, and that the gate does not depend on the time.

:mod:`~lorweb_mini.analysis.layers` measures, :mod:`~lorweb_mini.widgets.microscope_figure` draws, :class:`Microscope`
puts both on a page.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any, ClassVar

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from ..analysis.layers import (
    CHANGES,
    difference,
    layer_changes,
    layer_label,
    perplexity,
    record_gates,
    update_norms,
    variants,
)
from ..core.editor import Editor
from ..errors import InputError
from ..images import read_image
from .base import Widget, figure_tag, plot_tag, png_url
from .microscope_figure import COLOUR_MAP, bars_figure, gate_sentence, gate_strip, microscope_figure, norm_of

SIDE, CELL = 112, 6  # CSS pixels: of a picture, of a coefficient in the heat map


def heat_html(coefficients: Tensor, layers: Sequence[str], profile: np.ndarray, kind: str) -> str:
    """The heat map as a list box: a row of coloured cells for each layer, grouped by block.

    Args:
        coefficients: [layers, N].
        layers: names of the layers.
        profile: change of the picture when a layer's mixture is replaced, [layers]; shown as a bar.
        kind: how it is replaced, one of :data:`CHANGES`.
    """
    colours = matplotlib.colormaps[COLOUR_MAP](norm_of(coefficients)(coefficients.numpy()), bytes=True)[..., :3]
    spread, n = perplexity(coefficients), coefficients.shape[1]
    groups: dict[str, str] = {}
    for i, layer in enumerate(layers):
        block, name = layer_label(layer)
        spoken = (
            f"{block}, {name}; perplexity {float(spread[i]):.1f}; LoRA {int(coefficients[i].argmax())} leads; "
            f"{CHANGES[kind]}: changes the picture by {profile[i]:.2f}"
        )
        groups[block] = groups.get(block, "") + (
            f"<button role='option' data-ask='layer' data-value='{i}' aria-label='{escape(spoken)}'>"
            f"<span>{name}</span><img alt='' width='{CELL * n}' height='12' src='{_pixels(colours[i][None])}'>"
            f"<span class='number'>{float(spread[i]):.1f}</span>"
            f"<i><b style='width:{float(profile[i] / max(profile.max(), 1e-12)):.1%}'></b></i>"
            f"<span class='number'>{profile[i]:.2f}</span></button>"
        )
    ticks = "".join(f"<span style='left:{(k + 0.5) * CELL:.0f}px'>{k}</span>" for k in range(0, n, max(1, n // 4)))
    rows = "".join(f"<div role='group' aria-label='{x}'><h5>{x}</h5>{inside}</div>" for x, inside in groups.items())
    ramp = _pixels(matplotlib.colormaps[COLOUR_MAP](np.linspace(0, 1, 64), bytes=True)[None, :, :3])
    return (
        f"<div class='head'><span>layer</span><div style='width:{CELL * n}px'>LoRA{ticks}</div>"
        f"<span class='number'>perplexity</span><span>change: {escape(CHANGES[kind])}</span></div>"
        f"<div role='listbox' aria-label='layers'>{rows}</div>"
        f"<p class='pale scale'>coefficient: 0 <img alt='colour scale' width='90' height='10' src='{ramp}'> "
        f"{float(coefficients.max()):.2f}, colours by its square root</p>"
    )


def _pixels(pixels: np.ndarray) -> str:
    """Pixels [H, W, 3] of uint8 as the address of a picture."""
    return png_url(Image.fromarray(np.ascontiguousarray(pixels)))


class Microscope(Widget):
    """Coefficients of one analogy by layer; choosing a layer shows what its mixture is for.

    Every button has a method: :meth:`choose` (a layer), :meth:`sweep` (replace each layer in turn).

    Attributes:
        coefficients, other: mixtures of this analogy and of the other one, [layers, N].
        record: what the hooks measured, a :class:`~lorweb_mini.analysis.layers.GateRecord`.
        layer, drawn, changes: the chosen layer; pictures [3, 64, 64] and their change by kind of replacement, with
            ``drawn["routed"]`` as the router decided.
        whole: change by kind when every layer is replaced at once.
        kind, profile: how :meth:`sweep` replaced each layer last ("off" at first), and the changes, [layers].

    Args:
        a, a_prime, b: one analogy.
        other: the pair (a, a') of another analogy, routed with the same b; the pair turned round when None.
        steps, seed: as in :meth:`Editor.edit`.

    Raises:
        InputError: an editor without a router, more than one analogy, or a picture that cannot be read.
    """

    title = "Layer microscope"
    parts = ("heat", "layer", "sweeps", "gates")
    asks: ClassVar = {
        "layer": lambda self, layer: self.choose(int(layer)),
        "sweep": lambda self, kind: self.sweep(kind),
    }

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
        super().__init__()
        self.editor, self.steps, self.seed = editor, steps, seed
        a, a_prime, self.b = read_image(a, "a"), read_image(a_prime, "a_prime"), read_image(b, "b")
        self.context = (a, a_prime) if editor.layout.needs_context else None
        self.record = record_gates(editor, a, a_prime, self.b, steps, seed)
        self.coefficients = self.record.routed
        self.other = editor.route(*(other or (a_prime, a)), self.b)[0]
        self.norms = update_norms(editor.basis, self.coefficients)
        self._perplexity = perplexity(self.coefficients)
        self.whole = self._replaced(None)[1]
        sentence = gate_sentence(self.record)
        self.write(
            gates=f"{plot_tag(gate_strip(self.record), sentence)}<p>{sentence}</p>",
            sweeps="".join(f"<button data-ask='sweep' data-value='{x}'>{text}</button>" for x, text in CHANGES.items()),
        )
        self.layer = 0
        # The layer that the picture needs most is the most telling one to begin with.
        self.choose(int(self.sweep("off").argmax()))

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
        with self.hold_sync():
            self.write(layer=self._layer_html())
            self.tell(chosen={"layer": str(layer), "sweep": self.kind})

    def sweep(self, kind: str) -> np.ndarray:
        """Replaces every layer's mixture in turn and shows how much the picture changes: [layers].

        Raises:
            InputError: a kind outside :data:`CHANGES`.
        """
        self.profile = layer_changes(
            self.editor, self.b, self.coefficients, self.other, kind, self.context, self.steps, self.seed
        )
        self.kind = kind
        with self.hold_sync():
            self.write(heat=heat_html(self.coefficients, self.editor.basis.layers, self.profile, kind))
            self.tell(chosen={"layer": str(self.layer), "sweep": kind})
        return self.profile

    def measures(self, layer: int) -> str:
        """A layer's perplexity and the size of its mixture's weight update, in words."""
        n = self.coefficients.shape[1]
        return f"perplexity {float(self._perplexity[layer]):.1f} of {n}; ‖ΔW‖ = {float(self.norms[layer]):.1%} of ‖W‖"

    def fallback(self) -> Figure:
        """The page as one picture."""
        return microscope_figure(self, "Choosing another layer needs a running kernel: run this cell.")

    def _replaced(self, layer: int | None) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Pictures as routed and with a layer's mixture replaced (every layer's for None), and how much they change."""
        mixtures = {"routed": self.coefficients} | variants(self.coefficients, self.other, layer)
        many, options = torch.stack(list(mixtures.values())), {"steps": self.steps, "seed": self.seed}
        pictures = self.editor.generate(self.b, many, self.context, **options).pictures
        drawn = dict(zip(mixtures, pictures, strict=True))
        return drawn, {kind: float(difference(drawn[kind], drawn["routed"])) for kind in CHANGES}

    def _layer_html(self) -> str:
        block, kind = layer_label(self.editor.basis.layers[self.layer])
        row, other = self.coefficients[self.layer], self.other[self.layer]
        leading = ", ".join(f"LoRA {n}: {float(row[n]):.2f}" for n in row.topk(min(3, len(row))).indices.tolist())
        replaced = ""
        for name, text in CHANGES.items():
            whole = f"<span class='pale'>all layers: {self.whole[name]:.1f}</span>"
            caption = f"{text}<br><b>{self.changes[name]:.1f}</b><br>{whole}"
            replaced += figure_tag(self.drawn[name], f"result, {text}", SIDE, caption)
        routed = figure_tag(self.drawn["routed"], "result", SIDE, "as routed")
        return (
            f"<h3>{block}: {kind}</h3><p>{self.measures(self.layer)}</p>"
            f"{plot_tag(bars_figure(row, other), f'coefficients of this layer; {leading}')}"
            f"<div class='pictures'>{figure_tag(self.b, 'b', SIDE)}{routed}</div>"
            "<h4>This layer's mixture replaced: change in grey levels of 255</h4>"
            f"<div class='pictures'>{replaced}</div>"
        )
