"""Sliders over the LoRA space: change a mixture, and see what the editor renders with it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from ..analysis.layers import layer_label
from ..analysis.mixtures import remix, shares, strongest
from ..core.editor import Editor
from ..images import read_image
from ..models.base import STEPS
from ..show.pictures import picture_rows
from .base import bar_html, grouped_options_html
from .controls import Panel, Slider
from .rendering import Renderer, one_mixture

GAIN_MAX = 8.0
GAIN = Slider("LoRA", 0, GAIN_MAX, 0.25, 1, 2)
GAINS = (0.0, 1.0, 2.0, 4.0, 8.0)  # in the fallback figure
ALL_LAYERS = ""


class MixturePanel(Panel):
    """Controls that decide on a mixture, with b edited by it; the arguments are those of :class:`Renderer`."""

    def __init__(self, editor: Editor, b: Any, context: tuple[Any, Any] | None, steps: int) -> None:
        super().__init__()
        self.editor, self.b, self.context, self.steps = editor, read_image(b, "b"), context, steps
        self.renderer = Renderer(editor, self.b, context, steps)

    @property
    @abstractmethod
    def mixture(self) -> Tensor:
        """Coefficients as the controls stand, [layers, N]."""

    @abstractmethod
    def stand(self, mixture: Tensor) -> dict[str, Any]:
        """The page's state: ``values`` of the controls, and shares as ``bars``."""

    def refresh(self) -> None:
        mixture = self.mixture
        pictures = self.show(self.b, self.renderer(mixture))
        with self.hold_sync():
            self.write(pictures=pictures)
            self.tell(**self.stand(mixture))


class Mixer(MixturePanel):
    """The router's mixture with a slider for each LoRA, and the result beside b.

    Each slider is the gain of one LoRA (:func:`remix`), in all layers or in the chosen one; 1 is as the router decided.
    Gains of one layer multiply those of all layers. Beside each slider stands the LoRA's share of the mixture.

    Args:
        coefficients: the mixture to start from, [layers, N] or [1, layers, N].
        context: (a, a_prime) for layouts whose transformer sees them.
        loras: which LoRAs come first; the four with the largest shares when None. The others are folded away.
        steps: as in :meth:`Editor.generate`.

    Attributes:
        layer: the chosen one, None for all. loras: in the order of the sliders that come first.

    Raises:
        InputError: as :meth:`Editor.generate`; a LoRA that the basis does not have; more than one mixture.
    """

    title = "Mixer of LoRAs"
    back = "Back to the router's mixture"

    def __init__(
        self,
        editor: Editor,
        b: Any,
        coefficients: Tensor,
        context: tuple[Any, Any] | None = None,
        loras: Sequence[int] | None = None,
        steps: int = STEPS,
    ) -> None:
        self.coefficients = one_mixture(editor, coefficients).detach()
        self.loras = strongest(self.coefficients) if loras is None else tuple(loras)
        remix(self.coefficients, dict.fromkeys(self.loras, 1.0))  # refuses LoRAs that are not there
        super().__init__(editor, b, context, steps)
        self.layer: int | None = None
        self._gains: dict[int | None, dict[int, float]] = {}
        hint = "Gain of each LoRA: 1 is the router's choice. Tab moves from slider to slider, arrow keys change them."
        self.begin(self._controls(), hint)

    @property
    def mixture(self) -> Tensor:
        mixture = self.coefficients
        for layer, gains in self._gains.items():
            mixture = remix(mixture, gains, layer)
        return mixture

    @property
    def gains(self) -> dict[int, float]:
        """Where the sliders stand, for the chosen layer or for all: LoRA to gain, 1 where nothing was changed."""
        return dict.fromkeys(range(self.coefficients.shape[-1]), 1.0) | self._gains.get(self.layer, {})

    def turn(self, lora: int, gain: float) -> None:
        """Moves one slider and renders; InputError for a LoRA that is not there or a gain outside [0, 8]."""
        gain = GAIN.check(gain)
        remix(self.coefficients, {lora: gain})
        self._gains.setdefault(self.layer, {})[lora] = gain
        self.refresh()

    def look_at(self, layer: int | None) -> None:
        """Chooses the layer that the sliders change, None for all of them; InputError if there is no such layer."""
        remix(self.coefficients, {}, layer)
        self.layer = layer
        self.refresh()

    def reset(self) -> None:
        self._gains = {}
        self.refresh()

    def change(self, key: str, value: Any) -> None:
        if key == "layer":
            self.look_at(None if value == ALL_LAYERS else int(value))
        else:
            self.turn(int(key), value)

    def stand(self, mixture: Tensor) -> dict[str, Any]:
        """Gains and chosen layer; share of every LoRA in that layer or, on average, in all (``others``: the folded)."""
        chosen = ALL_LAYERS if self.layer is None else str(self.layer)
        share = (shares(mixture) if self.layer is None else mixture[self.layer]).tolist()
        bars = {str(n): round(value, 4) for n, value in enumerate(share)}
        bars["others"] = round(sum(value for n, value in enumerate(share) if n not in self.loras), 4)
        return {"values": {str(n): gain for n, gain in self.gains.items()} | {"layer": chosen}, "bars": bars}

    def fallback(self) -> Figure:
        """The first slider as a strip of pictures: b, then the result at rising gains of one LoRA."""
        lora = (self.loras or strongest(self.coefficients, 1))[0]
        mixtures = torch.stack([remix(self.coefficients, {lora: gain}) for gain in GAINS])
        pictures = self.editor.generate(self.b, mixtures, self.context, steps=self.steps).pictures
        return picture_rows(
            {"": [self.b, *pictures]},
            captions={"": ["", *(f"{float(shares(mixture)[lora]):.0%}" for mixture in mixtures)]},
            columns=["b", *(f"gain {gain:g}" for gain in GAINS)],
            note=f"LoRA {lora} turned down and up; below each picture its share of the mixture. "
            "The sliders need a running kernel: run this cell.",
            size=1.3,
            label_width=0.0,
        )

    def _controls(self) -> str:
        blocks = [layer_label(name)[0] for name in self.editor.basis.layers]
        texts = [f"{block} · {x.split('.', 2)[2]}" for block, x in zip(blocks, self.editor.basis.layers, strict=True)]
        options = grouped_options_html(zip(blocks, range(len(blocks)), texts, strict=True))
        folded = [n for n in range(self.coefficients.shape[-1]) if n not in self.loras]
        fold = (
            f"<details><summary>The other {len(folded)} LoRAs {bar_html('others')}</summary>"
            f"<div>{''.join(map(_slider, folded))}</div></details>"
        )
        return (
            "<label>Change in <select data-set='layer' aria-label='layers that the sliders change'>"
            f"<option value='{ALL_LAYERS}'>all {len(blocks)} layers</option>{options}</select>"
            "</label><div class='row head'><span></span><span>gain</span><span></span><span>share of the mixture</span>"
            f"</div>{''.join(map(_slider, self.loras))}{fold if folded else ''}"
        )


def _slider(lora: int) -> str:
    """The row of one LoRA: its gain, and its share of the mixture."""
    slider = replace(GAIN, label=f"LoRA {lora}", says=f"gain of LoRA {lora}")
    return f"<div class='row'>{slider.html(str(lora), 'gain')}{bar_html(str(lora))}</div>"
