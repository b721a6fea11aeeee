"""Sliders over the LoRA space: turn a mixture by hand and see what the editor draws with it.

What needs no browser is plain functions: :func:`remix` maps sliders to coefficients, :class:`Latest` decides which
frame is drawn, :func:`static` draws a strip of pictures for readers without a kernel. :class:`Mixer` puts ipywidgets
around them.
"""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any, Generic, TypeVar

import ipywidgets
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from .editor import Editor
from .figures import COLOURS, PALE, figure_of
from .images import InputError, read_image, to_pil

GAIN_MAX, GAIN_STEP = 8.0, 0.25
GAINS = (0.0, 1.0, 2.0, 4.0, 8.0)  # what the static strip shows
ZOOM = 4

T = TypeVar("T")


def remix(coefficients: Tensor, gains: Mapping[int, float]) -> Tensor:
    """Turns chosen LoRAs of a mixture up or down, in all layers alike.

        c'_{l,n} = g_n c_{l,n} / sum_m g_m c_{l,m},        g_n = 1 for every LoRA without a slider

    so that 1 everywhere is the router's own mixture, 0 takes a LoRA out, a large gain lets it take over wherever the
    router gave it anything, and every row still sums to 1. A row from which everything was taken is zero: that layer
    is the bare base's.

    Args:
        coefficients: [..., layers, N], not negative.
        gains: index of a LoRA to its gain, at least 0.

    Raises:
        InputError: a LoRA that the basis does not have, or a gain that is negative or not finite.
    """
    factor = coefficients.new_ones(coefficients.shape[-1])
    for n, gain in gains.items():
        if not 0 <= n < len(factor):
            raise InputError(f"expected LoRAs 0..{len(factor) - 1}, got {n}")
        if not 0 <= gain < float("inf"):
            raise InputError(f"expected a gain of at least 0 for LoRA {n}, got {gain}")
        factor[n] = gain
    weighted = coefficients * factor
    total = weighted.sum(-1, keepdim=True)
    return torch.where(total > 0, weighted / total.clamp_min(1e-12), torch.zeros_like(weighted))


def shares(coefficients: Tensor) -> Tensor:
    """How much of a mixture [layers, N] each LoRA is, averaged over layers: [N]."""
    return coefficients.mean(-2)


def strongest(coefficients: Tensor, count: int = 4) -> tuple[int, ...]:
    """The LoRAs with the largest share of a mixture [layers, N], largest first."""
    return tuple(shares(coefficients).topk(min(count, coefficients.shape[-1])).indices.tolist())


class Latest(Generic[T]):
    """Runs a job for the latest of many wishes; wishes that came while it was busy are dropped, never queued.

    A slider sends more values than the editor can draw. ``ask`` only notes the value and puts one job on the event
    loop; values that arrive before it runs overwrite the note. So at most one frame is ever waiting, and the last
    picture always belongs to the last value. Everything stays on the kernel's one thread: a cell never runs at the
    same time as a frame. Without an event loop (plain Python, tests) the job runs at once.
    """

    def __init__(self, job: Callable[[T], None], wait: float = 0.01) -> None:
        self.job, self.wait = job, wait
        self.dropped = 0
        self._wanted: list[T] = []
        self._scheduled = False

    def ask(self, value: T) -> None:
        """Wishes for the job to be done with this value."""
        self.dropped += len(self._wanted)
        self._wanted = [value]
        if self._scheduled:
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self._run()
        else:
            self._scheduled = True
            # The short wait lets messages that are already here overwrite the wish before it is fulfilled.
            loop.call_later(self.wait, self._run)

    def _run(self) -> None:
        self._scheduled = False
        wanted, self._wanted = self._wanted, []
        for value in wanted:
            self.job(value)


class Mixer:
    """The router's mixture under sliders, the result beside b. Showing it in a notebook is naming it in a cell.

    Each slider is the gain of one LoRA in all layers (:func:`remix`); 1 is as the router decided. Tab moves between
    sliders, arrow keys turn them. Where no kernel runs, the notebook shows :func:`static` instead.

    Args:
        editor: any editor.
        b: one picture.
        coefficients: the mixture to start from, [layers, N] or [1, layers, N].
        context: (a, a_prime) for layouts whose transformer sees them.
        loras: which LoRAs get a slider; the four with the largest shares when None.
        steps, seed: as in :meth:`Editor.generate`.

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
        steps: int = 4,
        seed: int = 0,
    ) -> None:
        self.editor, self.b, self.context = editor, read_image(b, "b"), context
        self.coefficients = _one(editor, coefficients)
        self.loras = strongest(self.coefficients) if loras is None else tuple(loras)
        self.steps, self.seed = steps, seed
        self.picture = Image.new("RGB", (1, 1))
        remix(self.coefficients, dict.fromkeys(self.loras, 1.0))  # refuses LoRAs that are not there
        self._latest = Latest(self._draw)
        self._build()
        self._draw(self.gains)

    @property
    def gains(self) -> dict[int, float]:
        """Where the sliders stand: LoRA to gain."""
        return {n: slider.value for n, slider in self.sliders.items()}

    def reset(self) -> None:
        """All sliders back to 1, the router's own mixture."""
        for slider in self.sliders.values():
            slider.value = 1.0

    def _build(self) -> None:
        self.sliders = {
            n: ipywidgets.FloatSlider(
                value=1.0,
                min=0.0,
                max=GAIN_MAX,
                step=GAIN_STEP,
                description=f"LoRA {n}",
                tooltip=f"gain of LoRA {n} in all layers; 1 is as the router decided",
                readout_format=".2f",
                layout=ipywidgets.Layout(width="330px"),
            )
            for n in self.loras
        }
        for slider in self.sliders.values():
            slider.observe(lambda change: self._latest.ask(self.gains), names="value")
        button = ipywidgets.Button(
            description="Back to the router's mixture", layout=ipywidgets.Layout(width="auto", margin="8px 0")
        )
        button.on_click(lambda _: self.reset())
        self._result, self._mixture = ipywidgets.HTML(), ipywidgets.HTML()
        hint = ipywidgets.HTML(
            "<span style='opacity:.7'>Gain of each LoRA: 1 is the router's choice. Tab and arrow keys work. "
            "The sliders need a running kernel.</span>"
        )
        pictures = ipywidgets.HBox([ipywidgets.HTML(_figure(to_pil(self.b), "b")), self._result])
        controls = ipywidgets.VBox([*self.sliders.values(), button, self._mixture])
        controls.layout = ipywidgets.Layout(padding="4px 0 0 16px")
        row = ipywidgets.HBox([pictures, controls], layout=ipywidgets.Layout(flex_flow="row wrap"))
        self.box = ipywidgets.VBox([row, hint])

    def _draw(self, gains: dict[int, float]) -> None:
        mixture = remix(self.coefficients, gains)
        self.picture = self.editor.generate(self.b, mixture, self.context, self.steps, self.seed).image
        self._result.value = _figure(self.picture, "result")
        self._mixture.value = _bars(shares(mixture), self.loras)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        """The live widget, and the static strip for whoever has no kernel."""
        bundle = dict(self.box._repr_mimebundle_())
        strip = static(self.editor, self.b, self.coefficients, self.context, self.loras[0], self.steps, self.seed)
        file = io.BytesIO()
        strip.savefig(file, format="png", dpi=80)
        bundle["image/png"] = base64.b64encode(file.getvalue()).decode()
        bundle["text/plain"] = f"Mixer of LoRAs {', '.join(map(str, self.loras))}: needs a running kernel"
        return bundle


def static(
    editor: Editor,
    b: Any,
    coefficients: Tensor,
    context: tuple[Any, Any] | None = None,
    lora: int | None = None,
    steps: int = 4,
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
    pictures = editor.generate(b, mixtures, context, steps, seed).images
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


def _figure(picture: Image.Image, caption: str) -> str:
    """A picture with its caption, enlarged without blur, as HTML that needs no file."""
    width, height = picture.width * ZOOM, picture.height * ZOOM
    file = io.BytesIO()
    picture.resize((width, height), Image.Resampling.NEAREST).save(file, "PNG")
    source = base64.b64encode(file.getvalue()).decode()
    return (
        "<figure style='margin:0 12px 0 0; text-align:center; line-height:1.6'>"
        f"<img alt='{escape(caption)}' width='{width}' height='{height}' "
        f"style='border-radius:8px; max-width:none' src='data:image/png;base64,{source}'>"
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _bars(share: Tensor, loras: Sequence[int]) -> str:
    """The shares [N] of the LoRAs with sliders, and of all others together, as small bars."""
    rows = [(f"LoRA {n}", float(share[n])) for n in loras]
    rows.append(("all others", float(share.sum()) - sum(value for _, value in rows)))
    cells = "".join(
        f"<tr><td style='padding-right:8px'>{name}</td>"
        f"<td style='width:170px'><div style='background:{COLOURS[0]}; height:9px; border-radius:2px; "
        f"width:{max(value, 0):.1%}'></div></td>"
        f"<td style='padding-left:8px; text-align:right'>{max(value, 0):.0%}</td></tr>"
        for name, value in rows
    )
    return f"<table aria-label='share of the mixture' style='line-height:1.35'>{cells}</table>"
