"""A walk with a slider: from before the first analogy to beyond the last, with true picture and error beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from matplotlib.figure import Figure
from torch import Tensor

from ..analysis.ladders import Ladder
from ..analysis.walking import PATHS, Truth, walk
from ..core.editor import Editor
from ..errors import InputError
from ..models.base import STEPS
from ..show.pictures import picture_rows
from .base import figure_tag
from .controls import Controls, Menu, Slider

FIRST, LAST, STEP = -0.5, 1.5, 0.05
PLACES = tuple(round(FIRST + STEP * i, 2) for i in range(round((LAST - FIRST) / STEP) + 1))
SHOWN = PLACES[::5]  # in the fallback figure


@dataclass(frozen=True)
class Look:
    """One place of a walk.

    Attributes:
        picture: what is rendered there, [3, 64, 64].
        truth: b'(t) as the autoencoder reconstructs it, [3, 64, 64]; light grey where it is not known.
        error: ‖picture − b'(t)‖² / ‖b'(1) − b'(0)‖²; NaN without a truth.
    """

    picture: Tensor
    truth: Tensor
    error: float


def look(editor: Editor, truth: Truth, path: str, ts: Sequence[float], steps: int = STEPS) -> list[Look]:
    """Renders and measures the one ladder of a :class:`Truth` at fractions ts of a path; InputError as `walk`."""
    pictures = walk(editor, truth.items, path, ts, steps=steps)
    errors = truth.trace(pictures, ts).error[0] / truth.length[0]
    unknown = torch.full_like(pictures[0, 0], 0.9)
    trues = [truth.pictures[0, truth.known.index(t)] if t in truth.known else unknown for t in ts]
    return [Look(*place) for place in zip(pictures[0], trues, errors.tolist(), strict=True)]


class Walk(Controls):
    """A widget to choose a walk and a path, and to go along it.

    Args:
        items: a name on the menu to a ladder; the first is chosen at the start.
        path: where the menu of paths starts. ``logits`` is on it only if no ladder starts from nothing.
        t: where the slider starts, from -0.5 to 1.5.
        steps: as in :meth:`Editor.generate`.

    Raises:
        InputError: no ladders, a path that is not on offer, or t out of range.
    """

    title = "Walk with a slider for t"

    def __init__(
        self,
        editor: Editor,
        items: Mapping[str, Ladder],
        path: str = "coefficients",
        t: float = 0.5,
        steps: int = STEPS,
    ) -> None:
        if not items:
            raise InputError("expected at least one ladder, got none")
        nothing = any(item.scale.nothing for item in items.values())
        self.paths = tuple(p for p in PATHS if p != "asked" and not (nothing and p == "logits"))
        super().__init__()
        self.editor, self.items, self.steps = editor, dict(items), steps
        self._truths: dict[str, Truth] = {}
        says = "t: 0 is the first analogy, 1 the second; outside lies what is beyond them"
        self.build(
            "0 is the first analogy, 1 the second.",
            walk=Menu("walk", {name: name for name in items}, says="walk: from one analogy to another"),
            path=Menu("path", {name: name for name in self.paths}, path, "path: what is mixed"),
            t=Slider("t", FIRST, LAST, STEP, t, 2, says),
        )

    def render(self, walk: str, path: str, t: float) -> None:
        (place,) = self._looks(walk, path, [t])
        name, text = "true b′", f"error <b>{place.error:.3f}</b> (1 is the squared distance of the two true ends)"
        if math.isnan(place.error):
            name, text = "true b′: not known here", "There is no true picture here, so there is no error."
        shown = self.show(self.items[walk].b, place.picture, f"the walk at t = {t:.2f}")
        self.write(pictures=shown + figure_tag(place.truth, name, self.side), numbers=text)

    def fallback(self) -> Figure:
        """The walk and path that come first as a strip, the truth below it, and the error under each picture."""
        walk, path = self.starts["walk"], self.starts["path"]
        looks = self._looks(walk, path, SHOWN)
        return picture_rows(
            {path: [x.picture for x in looks], "truth": [x.truth for x in looks]},
            captions={"truth": ["not known" if math.isnan(x.error) else f"error {x.error:.2f}" for x in looks]},
            columns=[f"t = {t:g}" for t in SHOWN],
            title=walk,
            note="Error: squared distance to the true b′(t), the distance of the two true ends being 1. "
            "The slider needs a running kernel: run this cell.",
            size=0.78,
            label_width=1.0,
        )

    def _looks(self, name: str, path: str, ts: Sequence[float]) -> list[Look]:
        if name not in self._truths:
            self._truths[name] = Truth([self.items[name]], PLACES, self.editor.autoencoder)
        return look(self.editor, self._truths[name], path, ts, self.steps)
