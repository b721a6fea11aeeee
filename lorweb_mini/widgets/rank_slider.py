"""Rank and strength of one LoRA under two sliders; see :mod:`~lorweb_mini.analysis.one_lora`."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping
from typing import Any

import ipywidgets
import torch
from matplotlib.figure import Figure
from PIL import Image

from ..analysis.one_lora import energy_kept, kept, render, strengths
from ..core.editor import Editor
from ..errors import InputError
from ..images import read_image, to_pil
from ..show.figures import picture_rows
from .mixer import Latest, _figure

STRENGTH_MAX, STRENGTH_STEP = 2.0, 0.1
STRENGTHS_SHOWN = (0.0, 0.5, 1.0, 1.5, 2.0)  # what the static strip shows


class RankSlider:
    """Rank and strength of one LoRA under the hand, the result beside b and the truth. Naming it in a cell shows it.

    Tab moves between the controls, arrow keys turn them. Where no kernel runs, the notebook shows :func:`static`.

    Args:
        editor: what :func:`by_direction` returned, with a layout whose transformer sees b alone.
        pairs: name to (b, true b'), the pictures on offer; the first is chosen at the start.
        steps, seed: as in :meth:`Editor.generate`.

    Raises:
        InputError: no pictures, LoRAs of a rank above one, or a layout that needs a context.
    """

    def __init__(self, editor: Editor, pairs: Mapping[str, tuple[Any, Any]], steps: int = 4, seed: int = 0) -> None:
        if not pairs:
            raise InputError("expected at least one pair (b, true b'), got none")
        if editor.layout.needs_context:
            raise InputError(f"expected the layout b, got {editor.config.layout!r}")
        strengths(editor.basis)  # refuses what has no directions
        self.editor, self.steps, self.seed = editor, steps, seed
        self.pairs = {name: (read_image(b, "b"), read_image(truth, "b_prime")) for name, (b, truth) in pairs.items()}
        self.picture, self.error = Image.new("RGB", (1, 1)), math.nan
        self._latest = Latest(self._draw)
        self._build()
        self._draw(self.wish)

    @property
    def wish(self) -> tuple[str, int, float]:
        """Where the controls stand: picture, rank, strength."""
        return self.choice.value, self.rank.value, self.strength.value

    def reset(self) -> None:
        """All of the LoRA, at its own strength."""
        self.rank.value, self.strength.value = self.editor.basis.n_loras, 1.0

    def _build(self) -> None:
        layout, most = ipywidgets.Layout(width="330px"), self.editor.basis.n_loras
        self.choice = ipywidgets.Dropdown(
            options=list(self.pairs), description="b", tooltip="the picture that is edited", layout=layout
        )
        self.rank = ipywidgets.IntSlider(
            value=most, min=0, max=most, description="rank", tooltip="directions kept in every layer", layout=layout
        )
        self.strength = ipywidgets.FloatSlider(
            value=1.0,
            min=0.0,
            max=STRENGTH_MAX,
            step=STRENGTH_STEP,
            description="strength",
            tooltip="factor of the update; 1 is as trained",
            readout_format=".1f",
            layout=layout,
        )
        for control in (self.choice, self.rank, self.strength):
            control.observe(lambda change: self._latest.ask(self.wish), names="value")
        button = ipywidgets.Button(
            description="Back to the whole LoRA", layout=ipywidgets.Layout(width="auto", margin="8px 0")
        )
        button.on_click(lambda _: self.reset())
        self._before, self._result, self._truth = ipywidgets.HTML(), ipywidgets.HTML(), ipywidgets.HTML()
        self._numbers = ipywidgets.HTML()
        hint = ipywidgets.HTML(
            "<span style='opacity:.7'>Tab and arrow keys work. The sliders need a running kernel.</span>"
        )
        controls = ipywidgets.VBox([self.choice, self.rank, self.strength, button, self._numbers])
        controls.layout = ipywidgets.Layout(padding="4px 0 0 16px")
        pictures = ipywidgets.HBox([self._before, self._result, self._truth])
        row = ipywidgets.HBox([pictures, controls], layout=ipywidgets.Layout(flex_flow="row wrap"))
        self.box = ipywidgets.VBox([row, hint])

    def _draw(self, wish: tuple[str, int, float]) -> None:
        name, rank, strength = wish
        (b, truth), basis = self.pairs[name], self.editor.basis
        drawn, errors = render(self.editor, b, truth, kept(basis, rank, strength)[None], self.steps, self.seed)
        self.picture, self.error = to_pil(drawn[0]), errors[0]
        for html, picture, caption in (
            (self._before, to_pil(b), "b"),
            (self._result, self.picture, f"result: error {self.error:.2f}"),
            (self._truth, to_pil(truth), "true b′"),
        ):
            html.value = _figure(picture, caption)
        size = rank * sum(low.shape[-1] + high.shape[-2] for low, high in map(basis.factors, range(len(basis.layers))))
        self._numbers.value = f"{size:,} parameters, {energy_kept(basis, rank):.0%} of ‖ΔW‖²"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        """The live widget, and the static strip for whoever has no kernel."""
        bundle = dict(self.box._repr_mimebundle_())
        b, truth = next(iter(self.pairs.values()))
        file = io.BytesIO()
        static(self.editor, b, truth, self.steps, self.seed).savefig(file, format="png", dpi=80)
        bundle["image/png"] = base64.b64encode(file.getvalue()).decode()
        bundle["text/plain"] = "Sliders for rank and strength of one LoRA: need a running kernel"
        return bundle


def static(editor: Editor, b: Any, b_prime: Any, steps: int = 4, seed: int = 0) -> Figure:
    """The two sliders of a :class:`RankSlider` as two rows of pictures: rising rank above, rising strength below."""
    basis = editor.basis
    b, b_prime = read_image(b, "b"), read_image(b_prime, "b_prime")
    most = basis.n_loras
    ranks = [0, *(2**i for i in range(int(math.log2(most)) + 1))]
    ranks = [*ranks, most] if ranks[-1] < most else ranks
    rows, captions = {"b and true b′": torch.stack([b, b_prime])}, {"b and true b′": ["b", "true b′"]}
    for label, wishes, names in (
        ("rank", [(rank, 1.0) for rank in ranks], [f"rank {rank}" for rank in ranks]),
        ("strength", [(most, x) for x in STRENGTHS_SHOWN], [f"× {x:g}" for x in STRENGTHS_SHOWN]),
    ):
        mixtures = torch.stack([kept(basis, rank, strength) for rank, strength in wishes])
        rows[label], errors = render(editor, b, b_prime, mixtures, steps, seed)
        captions[label] = [f"{name}: {error:.2f}" for name, error in zip(names, errors, strict=True)]
    return picture_rows(
        rows, captions, note="Below each picture its error. The sliders need a running kernel.", label_width=1.1
    )
