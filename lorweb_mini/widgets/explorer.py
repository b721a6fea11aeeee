"""A widget for analogies of one's own: choose, upload or draw a, a' and b; see b', its mixture, what it resembles."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any, ClassVar

import numpy as np
import torch
from matplotlib.figure import Figure

from ..core.editor import Editor
from ..emoji.relations import STYLE_NAMES, Analogy, analogies, get_relation
from ..emoji.relations import relations as all_relations
from ..emoji.sheets import STYLES, load_emoji
from ..errors import InputError, check_seed, check_steps
from ..images import SIZE, read_image
from ..models.base import STEPS
from ..show.pictures import relation_label
from .base import button, grouped_options_html
from .browser import Results
from .explorer_html import NEAREST, answer_html, mixture_html, neighbours_html, slots_html, static, title_text
from .questions import NAMES, NEIGHBOURS, Slot, drawn, nearest, paint, read_upload, relation_means, slots_of, solve
from .search import column_of, position_of

FIRST = "tone/yellow>dark"  # the relation at first
STEPS_MAX = 32
UNDO = 100
SLICE = 4  # relations whose mean is taken between two messages of the page


class Explorer(Results):
    """Three pictures, the editor's answer, and why.

    Every control of the page has a method. They raise InputError for slots other than ``a``, ``a_prime`` and ``b``,
    unknown emojis, styles and relations; one that raises leaves the pictures as they were.

    Args:
        editor: any editor.
        a, a_prime, b: pictures, as for :meth:`Editor.edit`; those left out are an analogy's from the data.
        relations: which relations :meth:`nearest` knows; all of them when None.

    Attributes:
        slots: the three pictures, as :class:`Slot`. selected: the one that the controls change.
        answer: the editor's, an :class:`Answer`.

    Raises:
        InputError: a picture that cannot be read, an unknown relation.
    """

    title = "Explorer of analogies"
    parts = ("relations", "styles", "title", "slots", "answer", "status", "results", "mixture", "neighbours")
    asks: ClassVar = Results.asks | {
        "set": lambda self, pair: self.change(*pair),
        "random": lambda self, _: self.random(self.relation or None),
        "swap": lambda self, _: self.swap(),
        "use_result": lambda self, _: self.use_result(),
        "undo": lambda self, _: self.undo(),
        "select": lambda self, slot: self.select(slot),
        "emoji": lambda self, position: self.choose(self.selected, int(position), self.style),
        "style": lambda self, style: self.draw_as(style, self.selected),
        "clear": lambda self, _: self.clear(self.selected),
        "upload": lambda self, value: self.upload(**value),
        "stroke": lambda self, value: self.stroke(**value),
        "prepare": lambda self, _: self.prepare(),
    }

    def __init__(
        self, editor: Editor, a: Any = None, a_prime: Any = None, b: Any = None, relations: Iterable[str] | None = None
    ) -> None:
        given = {
            name: Slot(read_image(picture, name), "a picture of yours")
            for name, picture in zip(NAMES, (a, a_prime, b), strict=True)
            if picture is not None
        }
        default = slots_of(analogies("test", FIRST, n=1)[0]) if len(given) < len(NAMES) else {}
        self._missing = [get_relation(name).name for name in (all_relations() if relations is None else relations)]
        super().__init__()
        self.editor, self.steps, self.seed, self.relation, self.selected = editor, STEPS, 0, "", "b"
        self.slots: dict[str, Slot] = {**default, **given}
        self._all, self._means = len(self._missing), dict[str, np.ndarray]()
        self._turns, self._past = 0, list[dict[str, Slot]]()
        drawing = self.slots["b"].drawing
        self.style = STYLES[drawing[1] if drawing else 0]
        options = grouped_options_html((name.split("/")[0], name, relation_label(name)) for name in all_relations())
        styles = "".join(button("style", style, escape(name)) for style, name in STYLE_NAMES.items())
        self.write(relations=f"<option value=''>any</option>{options}", styles=styles)
        self.search("")
        self._solve()

    def random(self, relation: str | None = None) -> None:
        """Three pictures of a relation, or of any, anew at each call; of unseen concepts where there are some."""
        self._turns += 1
        if relation is None:
            names = list(all_relations())
            relation = names[int(np.random.default_rng(self._turns).integers(len(names)))]
        for split in ("test", "val", "train"):
            if items := analogies(split, relation, seed=self._turns, n=1):
                return self.take(items[0])
        raise InputError(f"expected a relation with two pairs that look different, got {relation!r}")

    def take(self, analogy: Analogy) -> None:
        """Shows a, a' and b of an analogy from the data, whose true b' is then known."""
        self._change(slots_of(analogy))
        drawing = self.slots["b"].drawing
        if drawing is not None and STYLES[drawing[1]] != self.style:
            self._show_style(STYLES[drawing[1]])

    def select(self, slot: str) -> None:
        """Which of the three pictures the controls change: ``a``, ``a_prime`` or ``b``."""
        self.selected = _name(slot)
        self._tell()

    def choose(self, slot: str, emoji: int | str, style: str | None = None) -> None:
        """Puts an emoji, by position, key, character or name, into a slot.

        ``style`` says whose drawing, by default that of the results, or else the first that the emoji has.
        """
        position, column = position_of(emoji), column_of(self.style if style is None else style)
        present = load_emoji().present[position]
        self._change({_name(slot): drawn(position, column if present[column] else int(present.argmax()))})

    def draw_as(self, style: str, slot: str) -> None:
        """Shows the results, and the slot's emoji if it has one, in another style; one that lacks it leaves it."""
        drawing, column = self.slots[_name(slot)].drawing, column_of(style)
        self._show_style(style)
        if drawing is None:
            return
        entry = load_emoji().emojis[drawing[0]]
        if style not in entry.styles:
            raise InputError(
                f"expected a style that has {entry.name}, got {STYLE_NAMES[style]}; other emojis come in this style"
            )
        self._change({slot: drawn(drawing[0], column)})

    def upload(self, slot: str, content: bytes) -> None:
        """Puts the bytes of a picture file into a slot; InputError as :func:`read_upload`."""
        self._change({slot: Slot(read_upload(content, NAMES[_name(slot)]), "a picture of yours")})

    def stroke(
        self, slot: str, points: Sequence[Sequence[float]], colour: str, size: float, continued: bool = False
    ) -> None:
        """Draws one stroke on a slot's picture, see :func:`paint`; ``continued`` ones are undone with that before."""
        picture = paint(self.slots[_name(slot)].picture, points, colour, size)
        self._change({slot: Slot(picture, "drawn by hand")}, keep=not continued)

    def clear(self, slot: str) -> None:
        """Leaves a slot white."""
        self._change({_name(slot): Slot(torch.ones(3, SIZE, SIZE, dtype=torch.float32, device="cpu"), "drawn by hand")})

    def swap(self, first: str = "a", second: str = "a_prime") -> None:
        """Exchanges the pictures of two slots."""
        self._change({_name(first): self.slots[_name(second)], second: self.slots[first]})

    def use_result(self) -> None:
        """Puts the editor's b' into b: the same edit once more, or another one on top of it."""
        self._change({"b": Slot(self.answer.picture.clamp(-1, 1), "drawn by the editor")})

    def undo(self) -> None:
        """Takes back the last change of the pictures; InputError if there is none."""
        if not self._past:
            raise InputError("expected a change of the pictures to take back, got none")
        self.slots = self._past.pop()
        self._solve()

    def set(self, steps: int | None = None, seed: int | None = None) -> None:
        """Euler steps, 1 to 32, and seed of the noise, in [0, 2^63); InputError for others."""
        steps, seed = self.steps if steps is None else steps, self.seed if seed is None else seed
        self.steps, self.seed = check_steps(steps, STEPS_MAX), check_seed(seed)
        self._solve()

    def change(self, key: str, value: str) -> None:
        """Sets steps, seed or the relation of random analogies, as the page does."""
        if key == "relation":
            self.relation = value and get_relation(value).name
            self._tell()
        elif re.fullmatch(r"-?\d+", value):
            self.set(**{key: int(value)})
        else:
            raise InputError(f"expected a whole number, got {value!r}")

    def nearest(self, count: int = NEIGHBOURS) -> list[tuple[str, float]]:
        """The relations whose mean routing is nearest to this one, see :func:`nearest`; none without a router.

        The means are taken once, at the first call or, little by little, while the page is shown.
        """
        if self.editor.router is None:
            return []
        self.prepare(len(self._missing))
        return nearest(self.answer.coefficients.flatten().numpy(), self._means, count)

    def prepare(self, count: int | None = None) -> None:
        """Takes the means of the next relations; the page asks for it, so that it stays responsive meanwhile."""
        count = SLICE if count is None else count
        part, self._missing = self._missing[:count], self._missing[count:]
        if part:
            self._means |= relation_means(self.editor, part)
            self._show_neighbours()
            self._tell()

    def fallback(self) -> Figure:
        return static(self.slots, self.answer, [] if self._missing else self.nearest())

    def _change(self, slots: dict[str, Slot], keep: bool = True) -> None:
        if keep:
            self._past = [*self._past, self.slots][-UNDO:]
        self.slots = self.slots | slots
        self._solve()

    def _solve(self) -> None:
        self.write(slots=slots_html(self.slots, self.selected))
        self._tell()
        self.answer = solve(self.editor, self.slots, self.steps, self.seed)
        self.write(
            answer=answer_html(self.answer),
            title=escape(title_text(self.slots, self.answer)),
            mixture=mixture_html(self.answer.coefficients),
        )
        self._show_neighbours()

    def _show_style(self, style: str) -> None:
        self.style = style
        self.show_results()
        self._tell()

    def _tell(self) -> None:
        drawing = self.slots[self.selected].drawing
        self.tell(
            selected=self.selected,
            chosen={"emoji": "" if drawing is None else str(drawing[0]), "style": self.style},
            values={"steps": self.steps, "seed": self.seed, "relation": self.relation},
            more=bool(self._missing) and self.editor.router is not None,
        )

    def _show_neighbours(self) -> None:
        if self.editor.router is None:
            html = "<p>Without a router every mixture is the same.</p>"
        elif self._missing:
            done = self._all - len(self._missing)
            html = f"<p>Taking the mean routing of every relation: {done} of {self._all} …</p>"
            html += f"<progress value='{done}' max='{self._all}'></progress>"
        else:
            html = neighbours_html(self.nearest(), self.answer.names)
        self.write(neighbours=f"<h3>{NEAREST}</h3>{html}")


def _name(slot: str) -> str:
    if slot not in NAMES:
        raise InputError(f"expected one of {', '.join(NAMES)}; got {slot!r}")
    return slot
