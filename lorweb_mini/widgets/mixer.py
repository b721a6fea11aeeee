"""Sliders over the LoRA space: turn a mixture by hand and see what the editor draws with it.

What needs no browser is plain functions: :func:`remix` maps sliders to coefficients, :func:`static` draws a strip of
pictures for readers without a kernel. :class:`Mixer` puts a page around them, see :mod:`~lorweb_mini.widgets.pads`.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from ..core.editor import Editor
from ..errors import InputError
from ..images import read_image, to_pil
from ..show.style import PALE, figure_of
from .pads import Instrument, bar_html
from .pads import picture_html as _figure
from .rendering import Latest

__all__ = ["Latest", "Mixer", "_figure", "remix", "shares", "static", "strongest"]

GAIN_MAX, GAIN_STEP = 8.0, 0.25
GAINS = (0.0, 1.0, 2.0, 4.0, 8.0)  # what the static strip shows
ALL_LAYERS, RESET = "", "reset"
KINDS = {"transformer_blocks": "double", "single_transformer_blocks": "single"}


def remix(coefficients: Tensor, gains: Mapping[int, float], layer: int | None = None) -> Tensor:
    """Turns chosen LoRAs of a mixture up or down, in all layers alike or in one.

        c'_{l,n} = g_n c_{l,n} / sum_m g_m c_{l,m},        g_n = 1 for every LoRA without a slider

    so that 1 everywhere is the router's own mixture, 0 takes a LoRA out, a large gain lets it take over wherever the
    router gave it anything, and every row still sums to 1. A row from which everything was taken is zero: that layer
    is the bare base's. Remixing twice multiplies the gains.

    Args:
        coefficients: [..., layers, N], not negative.
        gains: index of a LoRA to its gain, at least 0.
        layer: the only one that changes; None for all.

    Raises:
        InputError: a LoRA or a layer that the basis does not have, or a gain that is negative or not finite.
    """
    count = coefficients.shape[-2]
    if layer is not None and not 0 <= layer < count:
        raise InputError(f"expected a layer from 0 to {count - 1}, got {layer}")
    factor = torch.ones_like(coefficients)
    rows = slice(None) if layer is None else layer
    for n, gain in gains.items():
        if not 0 <= n < factor.shape[-1]:
            raise InputError(f"expected LoRAs 0..{factor.shape[-1] - 1}, got {n}")
        if not 0 <= gain < float("inf"):
            raise InputError(f"expected a gain of at least 0 for LoRA {n}, got {gain}")
        factor[..., rows, n] = gain
    weighted = coefficients * factor
    total = weighted.sum(-1, keepdim=True)
    turned = torch.where(total > 0, weighted / total.clamp_min(1e-12), torch.zeros_like(weighted))
    # A row that nothing turned stays as it is, whatever its sum.
    return torch.where((factor == 1).all(-1, keepdim=True), coefficients, turned)


def shares(coefficients: Tensor) -> Tensor:
    """How much of a mixture [layers, N] each LoRA is, averaged over layers: [N]."""
    return coefficients.mean(-2)


def strongest(coefficients: Tensor, count: int = 4) -> tuple[int, ...]:
    """The LoRAs with the largest share of a mixture [layers, N], largest first."""
    return tuple(shares(coefficients).topk(min(count, coefficients.shape[-1])).indices.tolist())


class Mixer(Instrument):
    """The router's mixture under sliders, the result beside b. Showing it in a notebook is naming it in a cell.

    Each slider is the gain of one LoRA (:func:`remix`), in all layers or in the one that was chosen above; 1 is as the
    router decided. Gains of one layer multiply those of all layers. Beside each slider stands the LoRA's share of the
    mixture. Where no kernel runs, the notebook shows :func:`static`.

    Args:
        editor: any editor.
        b: one picture.
        coefficients: the mixture to start from, [layers, N] or [1, layers, N].
        context: (a, a_prime) for layouts whose transformer sees them.
        loras: which LoRAs come first; the four with the largest shares when None. The others wait behind a fold.
        steps, seed: as in :meth:`Editor.generate`. Two steps take half as long as four, and on validation analogies
            their errors are no larger (``benchmarks.mixer``).

    Attributes:
        layer: the chosen one, None for all. loras: in the order of the sliders that come first.

    Raises:
        InputError: as :meth:`Editor.generate`; a LoRA that the basis does not have; more than one mixture.
    """

    def __init__(
        self,
        editor: Editor,
        b: Any,
        coefficients: Tensor,
        context: tuple[Any, Any] | None = None,
        loras: Sequence[int] | None = None,
        steps: int = 2,
        seed: int = 0,
    ) -> None:
        self.coefficients = _one(editor, coefficients)
        self.loras = strongest(self.coefficients) if loras is None else tuple(loras)
        remix(self.coefficients, dict.fromkeys(self.loras, 1.0))  # refuses LoRAs that are not there
        super().__init__(editor, b, context, steps, seed)
        self.layer: int | None = None
        self._gains: dict[int | None, dict[int, float]] = {}
        self._open(
            self._controls(),
            "Gain of each LoRA: 1 is the router's choice. Tab moves from slider to slider, arrow keys turn them. "
            "The sliders need a running kernel.",
        )

    @property
    def mixture(self) -> Tensor:
        """Coefficients as the sliders stand, [layers, N]."""
        mixture = self.coefficients
        for layer, gains in self._gains.items():
            mixture = remix(mixture, gains, layer)
        return mixture

    @property
    def gains(self) -> dict[int, float]:
        """Where the sliders stand, for the chosen layer or for all: LoRA to gain, 1 where nothing was turned."""
        return dict.fromkeys(range(self.coefficients.shape[-1]), 1.0) | self._gains.get(self.layer, {})

    def turn(self, lora: int, gain: float) -> None:
        """Turns one slider and draws; InputError for a LoRA that is not there or a gain outside [0, 8]."""
        self._change(str(lora), gain)
        self._draw(self.mixture)

    def look_at(self, layer: int | None) -> None:
        """Chooses the layer that the sliders turn, None for all of them; InputError if there is no such layer."""
        self._change("layer", ALL_LAYERS if layer is None else str(layer))
        self._draw(self.mixture)

    def reset(self) -> None:
        """All gains back to 1 in all layers, the router's own mixture."""
        self._change(RESET, True)
        self._draw(self.mixture)

    @property
    def values(self) -> dict[str, Any]:
        """The gains and the chosen layer, as the page knows them."""
        chosen = ALL_LAYERS if self.layer is None else str(self.layer)
        return {str(n): gain for n, gain in self.gains.items()} | {"layer": chosen}

    def bars(self, mixture: Tensor) -> dict[str, float]:
        """Share of every LoRA in the chosen layer or, on average, in all; ``others`` are those behind the fold."""
        share = (shares(mixture) if self.layer is None else mixture[self.layer]).tolist()
        others = sum(value for n, value in enumerate(share) if n not in self.loras)
        return {str(n): round(value, 4) for n, value in enumerate(share)} | {"others": round(others, 4)}

    def static(self) -> Figure:
        """The first slider as a strip of pictures."""
        lora = self.loras[0] if self.loras else None
        return static(self.editor, self.b, self.coefficients, self.context, lora, self.steps, self.seed)

    def _change(self, key: str, value: Any) -> None:
        if key == RESET:
            self._gains = {}
        elif key == "layer":
            layer = None if value == ALL_LAYERS else int(value)
            remix(self.coefficients, {}, layer)  # refuses a layer that is not there
            self.layer = layer
        else:
            gain = float(value)
            if not 0 <= gain <= GAIN_MAX:
                raise InputError(f"expected a gain from 0 to {GAIN_MAX:g} for LoRA {key}, got {value!r}")
            remix(self.coefficients, {int(key): gain})
            self._gains.setdefault(self.layer, {})[int(key)] = gain

    def _controls(self) -> str:
        layers, count = self.editor.basis.layers, self.coefficients.shape[-1]
        groups = itertools.groupby(enumerate(layers), key=lambda item: item[1].split(".")[:2])
        options = "".join(
            f"<optgroup label='{KINDS[kind]} block {number}'>"
            + "".join(
                f"<option value='{i}'>{KINDS[kind]} {number} · {name.split('.', 2)[2]}</option>" for i, name in members
            )
            + "</optgroup>"
            for (kind, number), members in groups
        )
        rest = [n for n in range(count) if n not in self.loras]
        fold = (
            f"<details><summary>The other {len(rest)} LoRAs {bar_html('others', 'all others')}</summary>"
            f"<div>{''.join(map(_slider, rest))}</div></details>"
        )
        return (
            "<div class='controls'><label>Turn in <select data-key='layer' aria-label='layers that the sliders turn'>"
            f"<option value='{ALL_LAYERS}'>all {len(layers)} layers</option>{options}</select></label>"
            "<div class='row head'><span></span><span>gain</span><span></span><span>share of the mixture</span></div>"
            f"{''.join(map(_slider, self.loras))}{fold if rest else ''}"
            f"<button data-key='{RESET}'>Back to the router's mixture</button></div>"
        )


def _slider(lora: int) -> str:
    """The row of one LoRA: its gain, and its share of the mixture."""
    name = f"LoRA {lora}"
    return (
        f"<div class='row'><label><span>{name}</span>"
        f"<input type='range' data-key='{lora}' min='0' max='{GAIN_MAX:g}' step='{GAIN_STEP:g}' value='1' "
        f"aria-label='gain of {escape(name)}'><output></output></label>{bar_html(str(lora), name)}</div>"
    )


def static(
    editor: Editor,
    b: Any,
    coefficients: Tensor,
    context: tuple[Any, Any] | None = None,
    lora: int | None = None,
    steps: int = 2,
    seed: int = 0,
    gains: Sequence[float] = GAINS,
) -> Figure:
    """One slider of a :class:`Mixer` as a strip of pictures: b, then the result at rising gains of one LoRA.

    Args:
        lora: which; the one with the largest share when None. The others are those of :class:`Mixer`.
    """
    mixture = _one(editor, coefficients)
    lora = strongest(mixture, 1)[0] if lora is None else lora
    mixtures = torch.stack([remix(mixture, {lora: gain}) for gain in gains])
    pictures = editor.generate(b, mixtures, context, steps=steps, seed=seed).images
    figure, axes = figure_of(1.5 * (len(pictures) + 1), 2.5, ncols=len(pictures) + 1)
    below = ["", *(f"{float(shares(one)[lora]):.0%}" for one in mixtures)]
    titles = ["b", *(f"gain {gain:g}" for gain in gains)]
    drawn = [to_pil(read_image(b, "b")), *pictures]
    for axis, picture, title, share in zip(axes, drawn, titles, below, strict=True):
        axis.imshow(picture, interpolation="nearest")
        axis.set(xticks=[], yticks=[], xlabel=share)
        axis.set_title(title, loc="center")
        axis.grid(False)
        axis.spines[:].set_visible(False)
    figure.supxlabel(
        f"LoRA {lora} turned down and up; below each picture its share of the mixture. "
        "The sliders need a running kernel: run this cell.",
        size=9,
        color=PALE,
    )
    return figure


def _one(editor: Editor, coefficients: Tensor) -> Tensor:
    checked = editor.basis.check(coefficients)
    if len(checked) != 1:
        raise InputError(f"expected the coefficients of one analogy, got a batch of {len(checked)}")
    return checked[0].detach()
