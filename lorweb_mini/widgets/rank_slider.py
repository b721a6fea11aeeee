"""Sliders for rank and strength of one LoRA; see :mod:`~lorweb_mini.analysis.one_lora`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from ..analysis.one_lora import energy_kept, kept, render, strengths
from ..core.editor import Editor
from ..errors import InputError
from ..images import read_image
from ..models.base import STEPS
from ..show.pictures import picture_rows
from .base import figure_tag
from .controls import Controls, Menu, Slider

STRENGTHS_SHOWN = (0.0, 0.5, 1.0, 1.5, 2.0)  # in the fallback figure


class RankSlider(Controls):
    """A widget for rank and strength of one LoRA, with the result beside b and the true b'.

    Args:
        editor: what :func:`by_direction` returned, with a layout whose transformer sees b alone.
        pairs: name to (b, true b'), the pictures on offer; the first is chosen at the start.
        steps: as in :meth:`Editor.generate`.

    Raises:
        InputError: no pictures, LoRAs of a rank above one, or a layout that needs a context.
    """

    title = "Sliders for rank and strength of one LoRA"
    back = "Back to the whole LoRA"

    def __init__(self, editor: Editor, pairs: Mapping[str, tuple[Any, Any]], steps: int = STEPS) -> None:
        if not pairs:
            raise InputError("expected at least one pair (b, true b'), got none")
        if editor.layout.needs_context:
            raise InputError(f"expected the layout b, got {editor.config.layout!r}")
        strengths(editor.basis)  # refuses what has no directions
        super().__init__()
        self.editor, self.steps = editor, steps
        self.pairs = {name: (read_image(b, "b"), read_image(truth, "b_prime")) for name, (b, truth) in pairs.items()}
        most = editor.basis.n_loras
        self.build(
            "",
            b=Menu("b", {name: name for name in self.pairs}, says="b: the picture that is edited"),
            rank=Slider("rank", 0, most, 1, most, says="rank: directions kept in every layer"),
            strength=Slider("strength", 0, 2, 0.1, 1, 1, "strength: factor of the update; 1 is as trained"),
        )

    def reset(self) -> None:
        """All of the LoRA, at its own strength, on the same picture."""
        self.set(rank=self.editor.basis.n_loras, strength=1.0)

    def render(self, b: str, rank: int, strength: float) -> None:
        (picture, truth), basis = self.pairs[b], self.editor.basis
        drawn, (self.error,) = self._drawn(b, [(rank, strength)])
        size = rank * sum(low.shape[-1] + high.shape[-2] for low, high in map(basis.factors, range(len(basis.layers))))
        shown = self.show(picture, drawn[0], caption=f"result: error {self.error:.2f}")
        self.write(
            pictures=shown + figure_tag(truth, "true b′", self.side),
            numbers=f"{size:,} parameters, {energy_kept(basis, rank):.0%} of ‖ΔW‖²",
        )

    def fallback(self) -> Figure:
        """The two sliders as rows of pictures for the first pair: rising rank above, rising strength below."""
        first, most = next(iter(self.pairs)), self.editor.basis.n_loras
        ranks = sorted({0, *(2**i for i in range(int(math.log2(most)) + 1)), most})
        rows, captions = {"b and true b′": torch.stack(self.pairs[first])}, {"b and true b′": ["b", "true b′"]}
        for label, settings, names in (
            ("rank", [(rank, 1.0) for rank in ranks], [f"rank {rank}" for rank in ranks]),
            ("strength", [(most, x) for x in STRENGTHS_SHOWN], [f"× {x:g}" for x in STRENGTHS_SHOWN]),
        ):
            rows[label], errors = self._drawn(first, settings)
            captions[label] = [f"{name}: {error:.2f}" for name, error in zip(names, errors, strict=True)]
        note = "Below each picture its error. The sliders need a running kernel."
        return picture_rows(rows, captions, note=note, label_width=1.1)

    def _drawn(self, name: str, settings: list[tuple[int, float]]) -> tuple[Tensor, Any]:
        """Pictures and errors of a pair at ranks and strengths."""
        mixtures = torch.stack([kept(self.editor.basis, rank, strength) for rank, strength in settings])
        return render(self.editor, *self.pairs[name], mixtures, steps=self.steps)
