"""Watch the base draw: the way from noise to picture, and sliders for steps and guidance.

What needs no browser is plain functions: :func:`trajectory` records one drawing, :func:`strip` shows it, :func:`draw`
is the picture that the sliders ask for, :func:`static` a table of such pictures for readers without a kernel.
:class:`Sampler` puts ipywidgets around them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import ipywidgets
import matplotlib
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from ..core.layout import unpack
from ..errors import InputError
from ..images import read_image, to_pil
from ..models.autoencoder import MiniAutoencoder
from ..models.base import Base
from ..models.text import vectors_of
from ..show.style import LINE, PALE, STYLE, figure_of
from .mixer import Latest, _figure
from .still import Bundle, with_still

STEPS_MAX = 16
GUIDANCE_MAX, GUIDANCE_STEP = 4.0, 0.25
STEPS_SHOWN, GUIDANCE_SHOWN = (1, 2, 4, 8, 16), (1.0, 2.0, 4.0)  # what the static table shows
NO_INSTRUCTION = "(no instruction)"


@dataclass(frozen=True)
class Trajectory:
    """One drawing from noise to picture, in normalised latents.

    Attributes:
        times: t from 1 to 0, [steps + 1].
        states: z_t at these times, [steps + 1, 16, h, w]; the last one is the result.
        estimates: x̂ = z_t − t v, where the drawing was heading at each time but the last, [steps, 16, h, w].
    """

    times: Tensor
    states: Tensor
    estimates: Tensor


def trajectory(
    base: Base, latent: Tensor, instruction: Tensor | None, seed: int = 0, steps: int = 8, guidance: float = 1.0
) -> Trajectory:
    """Records what :meth:`Base.edit` passes through while it edits one picture.

    Args:
        latent: normalised latent of the reference picture, [16, h, w].
        instruction: sentence vector [384]; None for no instruction.
        seed, steps, guidance: as in :func:`draw`.

    Raises:
        InputError: a latent that is not [16, h, w], or what :func:`draw` refuses.
    """
    _check(seed, steps, guidance)
    if latent.ndim != 3:
        raise InputError(f"expected the latent of one picture, [16, h, w], got shape {list(latent.shape)}")
    seen: list[Tensor] = []

    def note(module: nn.Module, arguments: tuple, named: dict[str, Any]) -> None:
        # The first half of the sequence is the noisy picture, the second the reference.
        seen.append(named["hidden_states"].chunk(2, dim=1)[0])

    handle = base.transformer.register_forward_pre_hook(note, with_kwargs=True)
    try:
        result = base.edit(latent[None], None if instruction is None else instruction[None], [seed], steps, guidance)
    finally:
        handle.remove()
    # With guidance the transformer looks at every state twice.
    tokens = torch.cat(seen[:: len(seen) // steps])
    states = torch.cat([unpack(tokens, *latent.shape[1:]), result])
    times = 1 - torch.arange(steps + 1) / steps
    velocity = (states[:-1] - states[1:]) * steps
    return Trajectory(times, states, states[:-1] - times[:-1, None, None, None] * velocity)


def strip(
    autoencoder: MiniAutoencoder, path: Trajectory, b: Any, b_prime: Any = None, title: str = "", size: float = 0.84
) -> Figure:
    """A trajectory as two rows of pictures: z_t above, the estimate x̂ below; b (and the true b') to their left.

    Args:
        size: side of a picture, in inches.
    """
    with torch.no_grad():
        upper, lower = autoencoder.to_picture(path.states), autoencoder.to_picture(path.estimates)
    gap, apart, margin, head, label = 0.06, 0.3, 0.12, 0.62 if title else 0.3, 0.86
    width = 2 * margin + label + (len(upper) + 1) * (size + gap) + apart
    height = margin + head + 2 * (size + 0.3)
    left = [margin + (size + apart + label + (i - 1) * (size + gap) if i else 0) for i in range(len(upper) + 1)]
    tops = [head, head + size + 0.3]
    with matplotlib.rc_context(STYLE):
        figure, axes = figure_of(width, height)
        figure.set_layout_engine("none")
        axes.set_position((0, 0, 1, 1))
        axes.axis("off")

        def show(picture: Tensor, x: float, y: float, caption: str) -> None:
            axes.imshow(to_pil(picture).resize((256, 256)), extent=(x, x + size, y + size, y), aspect="auto")
            axes.plot([x, x + size, x + size, x, x], [y, y, y + size, y + size, y], color=LINE, lw=0.7)
            axes.text(x + size / 2, y + size + 0.05, caption, size=7.5, color=PALE, ha="center", va="top")

        show(read_image(b, "b"), left[0], tops[0], "b")
        if b_prime is not None:
            show(read_image(b_prime, "b_prime"), left[0], tops[1], "true b′")
        for i, picture in enumerate(upper):
            result = i == len(lower)
            show(picture, left[i + 1], tops[0], "the result" if result else f"t = {path.times[i]:.3g}")
        for i, picture in enumerate(lower):
            show(picture, left[i + 1], tops[1], f"seen from {path.times[i]:.3g}")
        for y, text in zip(tops, ("what is there\n$z_t$", "where it heads\n$\\hat x = z_t - t\\,v$"), strict=True):
            axes.text(left[1] - 0.1, y + size / 2, text, size=8, ha="right", va="center", linespacing=1.6)
        if title:
            axes.text(margin, 0.14, title, size=11, weight="bold", va="top")
        axes.set(xlim=(0, width), ylim=(height, 0))
    return figure


def draw(
    base: Base,
    autoencoder: MiniAutoencoder,
    b: Tensor,
    instruction: str,
    steps: int = 8,
    guidance: float = 1.0,
    seed: int = 0,
) -> Tensor:
    """The base's edit of one picture [3, 64, 64] in [-1, 1] by an instruction: [3, 64, 64].

    Args:
        instruction: a sentence; the empty one gives b back.
        steps: Euler steps, 1 to 16. guidance: 1 (none) to 4, see :meth:`Base.sample`. seed: of the starting noise.

    Raises:
        InputError: steps, guidance or seed out of range; a sentence that :func:`vectors_of` does not know.
    """
    _check(seed, steps, guidance)
    with torch.no_grad():
        latent = autoencoder.to_latent(b[None])
        return autoencoder.to_picture(base.edit(latent, vectors_of([instruction]), [seed], steps, guidance))[0]


def cost(steps: int, guidance: float, instruction: str) -> int:
    """How often the transformer runs for one picture: once a step, twice where guidance has something to compare."""
    return steps * (1 if guidance == 1 or not instruction else 2)


class Sampler:
    """Instruction, steps and guidance under the hand, the result beside b. Naming it in a cell shows it.

    Tab moves between the controls, arrow keys turn them. Where no kernel runs, the notebook shows :func:`static`.

    Args:
        b: one picture.
        instructions: the sentences on offer; the first is chosen at the start. "" is no instruction.
        steps, guidance, seed: where the sliders start, see :func:`draw`.

    Raises:
        InputError: no instruction, or what :func:`draw` refuses.
    """

    def __init__(
        self,
        base: Base,
        autoencoder: MiniAutoencoder,
        b: Any,
        instructions: Sequence[str],
        steps: int = 8,
        guidance: float = 1.0,
        seed: int = 0,
    ) -> None:
        if isinstance(instructions, str) or not instructions:
            raise InputError(f"expected a list of at least one instruction, got {instructions!r}")
        _check(seed, steps, guidance)
        vectors_of(list(instructions))  # refuses sentences without a vector before anything is shown
        self.base, self.autoencoder, self.b = base, autoencoder, read_image(b, "b")
        self.instructions, self.seed = tuple(instructions), seed
        self._start = (self.instructions[0], steps, float(guidance))
        self._latest = Latest(self._draw)
        self._build()
        self._draw(self.wish)

    @property
    def wish(self) -> tuple[str, int, float]:
        """Where the controls stand: instruction, steps, guidance."""
        return self.choice.value, self.steps.value, self.guidance.value

    def reset(self) -> None:
        """All controls back to where they started."""
        self.choice.value, self.steps.value, self.guidance.value = self._start

    def _build(self) -> None:
        instruction, steps, guidance = self._start
        layout = ipywidgets.Layout(width="330px")
        self.choice = ipywidgets.Dropdown(
            options=[(text or NO_INSTRUCTION, text) for text in self.instructions],
            value=instruction,
            description="wish",
            tooltip="the instruction",
            layout=layout,
        )
        self.steps = ipywidgets.IntSlider(
            value=steps, min=1, max=STEPS_MAX, description="steps", tooltip="Euler steps from noise", layout=layout
        )
        self.guidance = ipywidgets.FloatSlider(
            value=guidance,
            min=1.0,
            max=GUIDANCE_MAX,
            step=GUIDANCE_STEP,
            description="guidance",
            tooltip="1 is none",
            readout_format=".2f",
            layout=layout,
        )
        for control in (self.choice, self.steps, self.guidance):
            control.observe(lambda change: self._latest.ask(self.wish), names="value")
        button = ipywidgets.Button(
            description="Back to the start", layout=ipywidgets.Layout(width="auto", margin="8px 0")
        )
        button.on_click(lambda _: self.reset())
        self._result, self._cost = ipywidgets.HTML(), ipywidgets.HTML()
        hint = ipywidgets.HTML(
            "<span style='opacity:.7'>The noise is always the same. Tab and arrow keys work. "
            "The sliders need a running kernel.</span>"
        )
        pictures = ipywidgets.HBox([ipywidgets.HTML(_figure(to_pil(self.b), "b")), self._result])
        controls = ipywidgets.VBox([self.choice, self.steps, self.guidance, button, self._cost])
        controls.layout = ipywidgets.Layout(padding="4px 0 0 16px")
        row = ipywidgets.HBox([pictures, controls], layout=ipywidgets.Layout(flex_flow="row wrap"))
        self.box = ipywidgets.VBox([row, hint])

    def _draw(self, wish: tuple[str, int, float]) -> None:
        instruction, steps, guidance = wish
        self.picture = to_pil(draw(self.base, self.autoencoder, self.b, instruction, steps, guidance, self.seed))
        self._result.value = _figure(self.picture, "result")
        runs = cost(steps, guidance, instruction)
        self._cost.value = f"The transformer runs <b>{runs}</b> time{'s' if runs > 1 else ''} for this picture."

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Bundle:
        """The live widget, and the static table for whoever has no kernel."""
        table = static(self.base, self.autoencoder, self.b, self._start[0], self.seed)
        return with_still(self.box, table, "Sampler with sliders for steps and guidance")


def static(
    base: Base,
    autoencoder: MiniAutoencoder,
    b: Any,
    instruction: str,
    seed: int = 0,
    steps: Sequence[int] = STEPS_SHOWN,
    guidance: Sequence[float] = GUIDANCE_SHOWN,
) -> Figure:
    """The sliders of a :class:`Sampler` as a table of pictures: more steps to the right, more guidance downwards."""
    picture = read_image(b, "b")
    figure, axes = figure_of(
        1.5 * (len(steps) + 1), 1.5 * len(guidance) + 0.75, nrows=len(guidance), ncols=len(steps) + 1, squeeze=False
    )
    for row, strength in zip(axes, guidance, strict=True):
        pictures = [draw(base, autoencoder, picture, instruction, n, strength, seed) for n in steps]
        for axis, shown in zip(row, [picture, *pictures], strict=True):
            axis.imshow(to_pil(shown), interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.grid(False)
            axis.spines[:].set_visible(False)
        row[1].set_ylabel(f"guidance {strength:g}", size=10)
    for axis in axes[1:, 0]:
        axis.set_visible(False)
    for axis, title in zip(axes[0], ["b", *(f"{n} step{'s' if n > 1 else ''}" for n in steps)], strict=True):
        axis.set_title(title, loc="center")
    wish = f"“{instruction}”" if instruction else NO_INSTRUCTION
    figure.supxlabel(f"{wish}, always from the same noise. The sliders need a running kernel.", size=9, color=PALE)
    return figure


def _check(seed: Any, steps: Any, guidance: Any) -> None:
    if isinstance(steps, bool) or not isinstance(steps, Integral) or not 1 <= int(steps) <= STEPS_MAX:
        raise InputError(f"expected steps as a whole number from 1 to {STEPS_MAX}, got {steps!r}")
    number = isinstance(guidance, Real) and not isinstance(guidance, bool) and math.isfinite(guidance)
    if not number or not 1 <= guidance <= GUIDANCE_MAX:
        raise InputError(f"expected guidance from 1 to {GUIDANCE_MAX:g}, got {guidance!r}")
    if not isinstance(seed, Integral) or not 0 <= int(seed) < 2**63:
        raise InputError(f"expected a seed as a whole number in [0, 2^63), got {seed!r}")
