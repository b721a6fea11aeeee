"""A walk under the hand: a slider from before the first analogy to beyond the last, truth and error beside it.

What needs no browser is plain functions: :func:`look` draws and measures one place of a walk, :func:`static` a strip of
places for readers without a kernel. :class:`Walk` puts ipywidgets around them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ipywidgets
import torch
from matplotlib.figure import Figure
from torch import Tensor

from ..analysis.walking import PATHS, Ladder, Truth, walk
from ..core.editor import Editor
from ..errors import InputError
from ..images import to_pil
from ..show.figures import picture_rows
from .mixer import Latest, _figure
from .still import Bundle, with_still

FIRST, LAST, STEP = -0.5, 1.5, 0.05
PLACES = tuple(round(FIRST + STEP * i, 2) for i in range(round((LAST - FIRST) / STEP) + 1))
SHOWN = (-0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)  # what the static strip shows


@dataclass(frozen=True)
class Look:
    """One place of a walk.

    Attributes:
        picture: what is drawn there, [3, 64, 64].
        truth: b'(t) as the autoencoder reconstructs it, [3, 64, 64]; None where it is not known.
        error: ‖picture − b'(t)‖² / ‖b'(1) − b'(0)‖²; None without a truth.
    """

    picture: Tensor
    truth: Tensor | None
    error: float | None


def look(
    editor: Editor, truth: Truth, path: str, ts: Sequence[float], ladder: int = 0, steps: int = 4, seed: int = 0
) -> list[Look]:
    """Draws one ladder of a :class:`Truth` at fractions ts of a path, and measures it there.

    Raises:
        InputError: what :func:`~lorweb_mini.analysis.walking.walk` refuses.
    """
    pictures = walk(editor, [truth.items[ladder]], path, ts, steps, seed)[0]
    found = []
    for t, picture in zip(ts, pictures, strict=True):
        if t in truth.known:
            true = truth.pictures[ladder, truth.known.index(t)]
            error = float((picture - true).double().pow(2).sum() / truth.length[ladder])
            found.append(Look(picture, true, error))
        else:
            found.append(Look(picture, None, None))
    return found


class Walk:
    """Choose a walk and a path, and go along it. Naming it in a cell shows it.

    Tab moves between the controls, arrow keys turn them. Where no kernel runs, the notebook shows :func:`static`.

    Args:
        items: a name on the menu to a ladder; the first is chosen at the start.
        path: where the menu of paths starts. ``logits`` is on it only if no ladder starts from nothing.
        t: where the slider starts, from -0.5 to 1.5.
        steps, seed: as in :meth:`Editor.generate`.

    Raises:
        InputError: no ladders, a path that is not on offer, or t out of range.
    """

    def __init__(
        self,
        editor: Editor,
        items: Mapping[str, Ladder],
        path: str = "coefficients",
        t: float = 0.5,
        steps: int = 4,
        seed: int = 0,
    ) -> None:
        if not items:
            raise InputError("expected at least one ladder, got none")
        nothing = any(item.scale.nothing for item in items.values())
        self.paths = tuple(p for p in PATHS if p != "asked" and not (nothing and p == "logits"))
        if path not in self.paths:
            raise InputError(f"expected a path out of {self.paths}, got {path!r}")
        if not FIRST <= t <= LAST:
            raise InputError(f"expected t from {FIRST} to {LAST}, got {t!r}")
        self.editor, self.items, self.steps, self.seed = editor, dict(items), steps, seed
        self._start = (next(iter(self.items)), path, float(t))
        self._truths: dict[str, Truth] = {}
        self._latest = Latest(self._draw)
        self._build()
        self._draw(self.wish)

    @property
    def wish(self) -> tuple[str, str, float]:
        """Where the controls stand: walk, path, t."""
        return self.choice.value, self.path.value, round(self.t.value, 2)

    def reset(self) -> None:
        """All controls back to where they started."""
        self.choice.value, self.path.value, self.t.value = self._start

    def _build(self) -> None:
        name, path, t = self._start
        layout = ipywidgets.Layout(width="330px")
        self.choice = ipywidgets.Dropdown(
            options=list(self.items),
            value=name,
            description="walk",
            tooltip="from one analogy to another",
            layout=layout,
        )
        self.path = ipywidgets.Dropdown(
            options=self.paths, value=path, description="path", tooltip="what is mixed", layout=layout
        )
        self.t = ipywidgets.FloatSlider(
            value=t,
            min=FIRST,
            max=LAST,
            step=STEP,
            description="t",
            tooltip="0 is the first analogy, 1 the second; outside lies what is beyond them",
            readout_format=".2f",
            layout=layout,
        )
        for control in (self.choice, self.path, self.t):
            control.observe(lambda change: self._latest.ask(self.wish), names="value")
        button = ipywidgets.Button(
            description="Back to the start", layout=ipywidgets.Layout(width="auto", margin="8px 0")
        )
        button.on_click(lambda _: self.reset())
        self._b, self._result, self._truth, self._error = (ipywidgets.HTML() for _ in range(4))
        hint = ipywidgets.HTML(
            "<span style='opacity:.7'>0 is the first analogy, 1 the second. Tab and arrow keys work. "
            "The slider needs a running kernel.</span>"
        )
        pictures = ipywidgets.HBox([self._b, self._result, self._truth], layout=ipywidgets.Layout(flex_flow="row wrap"))
        controls = ipywidgets.VBox([self.choice, self.path, self.t, button, self._error])
        controls.layout = ipywidgets.Layout(padding="4px 0 0 16px")
        row = ipywidgets.HBox([pictures, controls], layout=ipywidgets.Layout(flex_flow="row wrap"))
        self.box = ipywidgets.VBox([row, hint])

    def _truth_of(self, name: str) -> Truth:
        if name not in self._truths:
            self._truths[name] = Truth([self.items[name]], PLACES, self.editor.autoencoder)
        return self._truths[name]

    def _draw(self, wish: tuple[str, str, float]) -> None:
        name, path, t = wish
        (found,) = look(self.editor, self._truth_of(name), path, [t], steps=self.steps, seed=self.seed)
        self.picture = to_pil(found.picture)
        self._b.value = _figure(to_pil(self.items[name].b), "b")
        self._result.value = _figure(self.picture, f"the walk at t = {t:.2f}")
        if found.truth is None or found.error is None:
            blank = torch.full_like(found.picture, 0.9)
            self._truth.value = _figure(to_pil(blank), "true b′: not known here")
            self._error.value = "Nobody drew what belongs here, so there is no error."
        else:
            self._truth.value = _figure(to_pil(found.truth), "true b′")
            self._error.value = f"error <b>{found.error:.3f}</b> (1 is the squared distance of the two true ends)"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Bundle:
        """The live widget, and the static strip for whoever has no kernel."""
        name, path, _ = self._start
        strip = static(self.editor, name, self._truth_of(name), path, self.steps, self.seed)
        return with_still(self.box, strip, f"Walk along {name} with a slider for t")


def static(
    editor: Editor,
    name: str,
    truth: Truth,
    path: str = "coefficients",
    steps: int = 4,
    seed: int = 0,
    ts: Sequence[float] = SHOWN,
    ladder: int = 0,
) -> Figure:
    """The slider of a :class:`Walk` as a strip: the walk above, the truth below it, and the error under each picture.

    Args:
        name: the title. truth: with ts among its fractions.
    """
    looks = look(editor, truth, path, ts, ladder, steps, seed)
    blank = torch.full_like(looks[0].picture, 0.9)
    truths = torch.stack([blank if x.truth is None else x.truth for x in looks])
    errors = ["not known" if x.error is None else f"error {x.error:.2f}" for x in looks]
    return picture_rows(
        {path: torch.stack([x.picture for x in looks]), "truth": truths},
        captions={"truth": errors},
        columns=[f"t = {t:g}" for t in ts],
        title=name,
        note="Error: squared distance to the true b′(t), the distance of the two true ends being 1. "
        "The slider needs a running kernel: run this cell.",
        size=0.78,
        label_width=1.0,
    )
