"""One analogy layer by layer: what each layer mixes, what it is for, and that the gate does not depend on the time.

:mod:`~lorweb_mini.analysis.layers` measures, :mod:`~lorweb_mini.widgets.microscope_html` shows, :class:`Microscope`
puts both on a page.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from matplotlib.figure import Figure
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
from ..errors import whole_number
from ..images import read_image
from .base import Widget, button
from .microscope_html import gates_html, heat_html, layer_html, microscope_figure


class Microscope(Widget):
    """Coefficients of one analogy by layer; choosing a layer shows what its mixture is for.

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
        steps: as in :meth:`Editor.edit`.

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
        self, editor: Editor, a: Any, a_prime: Any, b: Any, other: tuple[Any, Any] | None = None, steps: int = 4
    ) -> None:
        super().__init__()
        self.editor, self.steps, self.labels = editor, steps, [layer_label(name) for name in editor.basis.layers]
        a, a_prime, self.b = read_image(a, "a"), read_image(a_prime, "a_prime"), read_image(b, "b")
        self.context = (a, a_prime) if editor.layout.needs_context else None
        self.record = record_gates(editor, a, a_prime, self.b, steps)
        self.coefficients = self.record.routed
        self.other = editor.route(*(other or (a_prime, a)), self.b)[0]
        self.norms = update_norms(editor.basis, self.coefficients)
        self.whole = self._replaced(None)[1]
        sweeps = "".join(button("sweep", kind, text) for kind, text in CHANGES.items())
        self.write(gates=gates_html(self.record), sweeps=sweeps)
        self.layer = 0
        # The layer that the picture needs most is the most telling one to begin with.
        self.choose(int(self.sweep("off").argmax()))

    def choose(self, layer: int) -> None:
        """Shows one layer: its coefficients, and the picture with them replaced; InputError if there is none such."""
        layer = whole_number(layer, "a layer", 0, len(self.labels) - 1)
        self.drawn, self.changes = self._replaced(layer)
        self.layer = layer
        with self.hold_sync():
            self.write(layer=layer_html(self))
            self.tell(chosen={"layer": str(layer), "sweep": self.kind})

    def sweep(self, kind: str) -> np.ndarray:
        """Replaces each layer's mixture in a way of :data:`CHANGES` and shows the picture's changes: [layers]."""
        self.profile = layer_changes(self.editor, self.b, self.coefficients, self.other, kind, self.context, self.steps)
        self.kind = kind
        with self.hold_sync():
            self.write(heat=heat_html(self.coefficients, self.labels, self.profile, kind))
            self.tell(chosen={"layer": str(self.layer), "sweep": kind})
        return self.profile

    @property
    def measures(self) -> str:
        """The chosen layer's perplexity and the size of its mixture's weight update, in words."""
        row, size = self.coefficients[self.layer], float(self.norms[self.layer])
        return f"perplexity {float(perplexity(row)):.1f} of {len(row)}; ‖ΔW‖ = {size:.1%} of ‖W‖"

    def fallback(self) -> Figure:
        return microscope_figure(self)

    def _replaced(self, layer: int | None) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Pictures as routed and with a layer's mixture replaced (every layer's for None), and how much they change."""
        mixtures = {"routed": self.coefficients} | variants(self.coefficients, self.other, layer)
        many = torch.stack(list(mixtures.values()))
        pictures = self.editor.generate(self.b, many, self.context, steps=self.steps).pictures
        drawn = dict(zip(mixtures, pictures, strict=True))
        return drawn, {kind: float(difference(drawn[kind], drawn["routed"])) for kind in CHANGES}
