"""The base of all widgets: parts, messages and their answers, the page's files, controls."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from matplotlib.figure import Figure
from pages import ask, fallback, images, part
from tiny_models import pictures

from lorweb_mini.errors import InputError
from lorweb_mini.images import to_pil
from lorweb_mini.show.style import figure_of
from lorweb_mini.widgets.base import Widget, figure_tag, picture_tag
from lorweb_mini.widgets.browser import Browser
from lorweb_mini.widgets.controls import Choice, Controls, Menu, Slider


class Simple(Widget):
    title = "Simple"
    parts = ("text",)
    page = "<p data-part='text'></p>"
    asks = {"say": lambda self, words: self.say(words), "break": lambda self, _: 1 / 0}  # noqa: RUF012

    def say(self, words: str) -> None:
        if not words:
            raise InputError("expected words, got none")
        self.write(text=words)
        self.tell(said=words)

    def fallback(self) -> Figure:
        figure, axes = figure_of(6, 2)
        axes.imshow(np.arange(60).reshape(6, 10))
        return figure


def test_a_message_is_done_and_answered() -> None:
    widget = Simple()
    assert ask(widget, "say", "hello") == "" and part(widget, "text") == "hello" and widget.state == {"said": "hello"}
    assert ask(widget, "say", "") == "Nothing was changed: expected words, got none."
    assert part(widget, "text") == "hello"
    assert "expected one of say, break to be asked for, got 'dance'" in ask(widget, "dance")
    widget.receive({"ask": "say", "value": "bye", "id": "x:1"})
    with pytest.raises(ZeroDivisionError):
        widget.receive({"ask": "break", "id": "x:2"})
    assert widget.answered["id"] == "x:2", "a page never waits in vain"
    assert "ZeroDivisionError" in widget.answered["error"], "nor takes a failure for an answer"
    with pytest.raises(TypeError):
        widget.receive({"ask": "say", "value": "words", "id": "x:3"}, [b"and bytes"])
    assert widget.answered["id"] == "x:3"


def test_messages_from_two_threads_are_done_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in JupyterLab: the first message comes on the main thread, those after it on another one."""
    running, most = 0, 0

    def slow(self: Simple, words: str) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        time.sleep(0.05)
        running -= 1

    monkeypatch.setattr(Simple, "say", slow)
    widget = Simple()
    other = threading.Thread(target=lambda: [widget.receive({"ask": "say", "value": "a"}) for _ in range(3)])
    other.start()
    for _ in range(3):
        widget.receive({"ask": "say", "value": "b"})
    other.join(10)
    assert most == 1


def test_the_page_has_the_common_files_and_its_own() -> None:
    browser, simple = Browser(), Simple()
    for widget in (browser, simple):
        assert "function openPage" in widget._esm and widget._esm.count("export default") == 1
        assert widget._css.startswith(f".lorweb-{widget.name} {{")
        assert widget.part_names == list(widget.parts)
        assert all(
            f'data-part="{name}"' in widget.frame or f"data-part='{name}'" in widget.frame for name in widget.parts
        )
    assert ".lorweb-browser" in browser._css and ".lorweb-browser" not in simple._css
    assert browser.name == "browser" and 'type="search"' in browser.frame


def test_without_a_kernel_the_fallback_is_shown() -> None:
    fallback(Simple(), 400, 100_000)


def test_pictures_are_stored_no_larger_than_shown() -> None:
    picture = pictures(1)[0]
    assert images(picture_tag(picture, "x", 40))[0].shape == (40, 40, 3)
    tag = figure_tag(picture, "a <b>", 200)
    assert np.array_equal(images(tag)[0], np.asarray(to_pil(picture), int))
    assert "alt='a &lt;b&gt;'" in tag and "<figcaption>a &lt;b&gt;</figcaption>" in tag and "width='200'" in tag


def test_controls_stay_where_they_were_when_what_they_ask_for_fails() -> None:
    def draw(kind: str, size: int) -> Figure:
        if kind == "bad":
            raise InputError("expected a kind that can be drawn, got bad")
        return figure_of(6, 2)[0]

    choice = Choice(draw, figure_of(6, 2)[0], kind={"good": "good", "bad": "bad"}, size={"1": 1, "2": 2})
    assert "Nothing was changed" in ask(choice, "set", ["kind", "1"])
    assert choice.values == {"kind": "good", "size": 1}
    assert ask(choice, "set", ["size", "1"]) == "", "the other menu still works"


class Panel(Controls):
    title = "Panel"

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple] = []
        self.build("Hint.", size=Slider("size", 0, 2, 0.25, 1, 2), kind=Menu("kind", {"one": 1, "none": None}))

    def render(self, size: float, kind: int | None) -> None:
        self.seen.append((size, kind))

    def fallback(self) -> Figure:
        return figure_of(6, 2)[0]


def test_controls_are_moved_by_name_and_by_the_page() -> None:
    panel = Panel()
    panel.set(size=1.5)
    assert ask(panel, "set", ["kind", "1"]) == "" and ask(panel, "set", ["size", 0.25]) == ""
    assert panel.seen == [(1, 1), (1.5, 1), (1.5, None), (0.25, None)]
    assert panel.state["values"] == {"size": 0.25, "kind": 1}, "a menu's value is its number on the page"
    assert ask(panel, "reset") == "" and panel.seen[-1] == (1, 1)
    html = part(panel, "controls")
    assert "data-set='size'" in html and "min='0' max='2' step='0.25'" in html and "aria-label='size'" in html
    assert "<option value='1'>none</option>" in html and "running kernel" in part(panel, "hint")


@pytest.mark.parametrize("wrong", [{"size": 3}, {"size": True}, {"size": float("nan")}, {"kind": 2}, {"colour": 1}])
def test_controls_refuse(wrong: dict) -> None:
    panel = Panel()
    with pytest.raises(InputError, match=r"expected .* got"):
        panel.set(**wrong)
    assert panel.seen == [(1, 1)]


def test_a_choice_shows_the_figure_that_its_menus_choose() -> None:
    drawn: list[tuple] = []

    def draw(layer: int, colour: str) -> Figure:
        drawn.append((layer, colour))
        figure, axes = figure_of(6, 2)
        axes.imshow(np.arange(60).reshape(6, 10))
        return figure

    choice = Choice(draw, draw(0, "static"), layer={"first": 3, "second": 4}, colour={"blue": "b"})
    choice.set(layer=4)
    assert drawn == [(0, "static"), (3, "b"), (4, "b")]
    assert len(images(part(choice, "pictures"))) == 1
    fallback(choice, 400, 100_000)
