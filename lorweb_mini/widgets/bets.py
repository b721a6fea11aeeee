"""Bets on questions: which of them will be answered well? The widget keeps the bets until the answers are shown."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from ..emoji.relations import Analogy
from ..show.unseen import questions
from .base import plot_tag
from .controls import Controls, Menu

CHOICES = {"no bet": None, "it works": True, "it fails": False}


class Bets(Controls):
    """A widget with a menu for each of k questions.

    Args:
        items: the analogies; their answers are not shown.
        labels: what is written over each.

    Raises:
        InputError: no analogies, or another number of labels.
    """

    title = "Bets on unseen edits"

    def __init__(self, items: Sequence[Analogy], labels: Sequence[str]) -> None:
        self.figure = questions(items, labels)
        super().__init__()
        menus = {str(i): Menu(f"{i}  {label}", CHOICES) for i, label in enumerate(labels, 1)}
        self._shown = plot_tag(self.figure, "the questions, without answers")
        self.build("Choose for each question; the next cell compares.", **menus)

    @property
    def bets(self) -> list[bool | None]:
        """For each question whether the learner bets that it works; None where there is no bet."""
        return list(self.values.values())

    def render(self, **values: bool | None) -> None:
        placed = sum(value is not None for value in values.values())
        self.write(pictures=self._shown, numbers=f"{placed} of {len(values)} bets placed.")

    def fallback(self) -> Figure:
        return self.figure
