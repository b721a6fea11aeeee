"""A walk with a slider: from before the first analogy to beyond the last, with true picture and error beside it.

:func:`look` renders and measures places of a walk, :func:`static` shows several of them, :class:`Walk` one at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from torch import Tensor

from ..analysis.walking import PATHS, Ladder, Truth, walk
from ..core.editor import Editor
from ..errors import InputError
from ..images import to_pil
from ..show.pictures import picture_rows
from .base import figure_tag
from .controls import Controls, Menu, Slider

FIRST, LAST, STEP = -0.5, 1.5, 0.05
PLACES = tuple(round(FIRST + STEP * i, 2) for i in range(round((LAST - FIRST) / STEP) + 1))
SHOWN = (-0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)  # in the fallback figure
SIDE = 192


@dataclass(frozen=True)
class Look:
    """One place of a walk.

    Attributes:
        picture: what is rendered there, [3, 64, 64].
        truth: b'(t) as the autoencoder reconstructs it, [3, 64, 64]; None where it is not known.
        error: ‖picture − b'(t)‖² / ‖b'(1) − b'(0)‖²; None without a truth.
    """

    picture: Tensor
    truth: Tensor | None
    error: float | None


def look(
    editor: Editor, truth: Truth, path: str, ts: Sequence[float], ladder: int = 0, steps: int = 4, seed: int = 0
) -> list[Look]:
    """Renders one ladder of a :class:`Truth` at fractions ts of a path, and measures it there.

    Raises:
        InputError: what :func:`~lorweb_mini.analysis.walking.walk` refuses.
    """
    pictures = walk(editor, [truth.items[ladder]], path, ts, steps=steps, seed=seed)[0]
    looks = []
    for t, picture in zip(ts, pictures, strict=True):
        true = truth.pictures[ladder, truth.known.index(t)] if t in truth.known else None
        error = None if true is None else float((picture - true).double().pow(2).sum() / truth.length[ladder])
        looks.append(Look(picture, true, error))
    return looks


class Walk(Controls):
    """A widget to choose a walk and a path, and to go along it.

    Args:
        items: a name on the menu to a ladder; the first is chosen at the start.
        path: where the menu of paths starts. ``logits`` is on it only if no ladder starts from nothing.
        t: where the slider starts, from -0.5 to 1.5.
        steps, seed: as in :meth:`Editor.generate`.

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
        steps: int = 4,
        seed: int = 0,
    ) -> None:
        if not items:
            raise InputError("expected at least one ladder, got none")
        nothing = any(item.scale.nothing for item in items.values())
        self.paths = tuple(p for p in PATHS if p != "asked" and not (nothing and p == "logits"))
        super().__init__()
        self.editor, self.items, self.steps, self.seed = editor, dict(items), steps, seed
        self._truths: dict[str, Truth] = {}
        says = "t: 0 is the first analogy, 1 the second; outside lies what is beyond them"
        self.build(
            "0 is the first analogy, 1 the second.",
            walk=Menu("walk", {name: name for name in items}, says="walk: from one analogy to another"),
            path=Menu("path", {name: name for name in self.paths}, path, "path: what is mixed"),
            t=Slider("t", FIRST, LAST, STEP, t, 2, says),
        )

    def render(self, walk: str, path: str, t: float) -> None:
        """Renders the place, and measures it where its true picture is known."""
        (seen,) = look(self.editor, self._truth_of(walk), path, [t], steps=self.steps, seed=self.seed)
        self.picture = to_pil(seen.picture)
        if seen.truth is None:
            truth = figure_tag(seen.picture * 0 + 0.9, "true b′: not known here", SIDE)
            text = "There is no true picture here, so there is no error."
        else:
            truth = figure_tag(seen.truth, "true b′", SIDE)
            text = f"error <b>{seen.error:.3f}</b> (1 is the squared distance of the two true ends)"
        shown = figure_tag(self.items[walk].b, "b", SIDE) + figure_tag(self.picture, f"the walk at t = {t:.2f}", SIDE)
        self.write(pictures=shown + truth, numbers=text)

    def fallback(self) -> Figure:
        """Places along the walk and path that come first."""
        start = self.starts
        return static(self.editor, start["walk"], self._truth_of(start["walk"]), start["path"], self.steps, self.seed)

    def _truth_of(self, name: str) -> Truth:
        if name not in self._truths:
            self._truths[name] = Truth([self.items[name]], PLACES, self.editor.autoencoder)
        return self._truths[name]


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
    return picture_rows(
        {
            path: [x.picture for x in looks],
            "truth": [x.picture * 0 + 0.9 if x.truth is None else x.truth for x in looks],
        },
        captions={"truth": ["not known" if x.error is None else f"error {x.error:.2f}" for x in looks]},
        columns=[f"t = {t:g}" for t in ts],
        title=name,
        note="Error: squared distance to the true b′(t), the distance of the two true ends being 1. "
        "The slider needs a running kernel: run this cell.",
        size=0.78,
        label_width=1.0,
    )
