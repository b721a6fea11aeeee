"""The widget that keeps bets, without a browser."""

from __future__ import annotations

import pytest
from known_analogies import random_analogies
from pages import fallback, images, part, press

from lorweb_mini.errors import InputError
from lorweb_mini.widgets.bets import Bets


@pytest.fixture
def widget() -> Bets:
    return Bets(random_analogies()["one"], ["hue 77", "grey", "mirror half"])


def test_bets_are_kept_as_the_page_places_them(widget: Bets) -> None:
    assert widget.bets == [None, None, None] and "0 of 3 bets" in part(widget, "numbers")
    press(widget, "set", ["1", "1"])
    press(widget, "set", ["3", "2"])
    assert widget.bets == [True, None, False] and "2 of 3 bets" in part(widget, "numbers")
    assert widget.state["values"] == {"1": 1, "2": 0, "3": 2}
    press(widget, "reset")
    assert widget.bets == [None, None, None]


def test_bets_are_placed_and_taken_back_by_code(widget: Bets) -> None:
    widget.set(**{"2": False})
    assert widget.bets == [None, False, None]
    widget.set(**{"2": None})
    assert widget.bets == [None, None, None]
    with pytest.raises(InputError, match=r"expected controls out of \['1', '2', '3'\], got \['4'\]"):
        widget.set(**{"4": True})


def test_the_page_shows_questions_and_labelled_menus(widget: Bets) -> None:
    assert len(images(part(widget, "pictures"))) == 1
    assert "3  mirror half" in part(widget, "controls") and part(widget, "controls").count("<select") == 3


def test_without_a_kernel_the_questions_are_shown(widget: Bets) -> None:
    fallback(widget, 400, 900_000)
    assert "3  mirror half" in [text.get_text() for text in widget.fallback().axes[0].texts]


def test_refusals() -> None:
    with pytest.raises(InputError, match="expected labels for 3 analogies, got 1"):
        Bets(random_analogies()["one"], ["one"])
