"""The map and the layer microscope in JupyterLab: drag, click, keys; pictures change; a dead kernel is said."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from playwright.sync_api import Page, expect

from .lab import Notebook, changed, differ, pixels, source

EDITOR = """
import lorweb_mini as lw

editor = lw.load("starter")
"""
ATLAS = """
from lorweb_mini.widgets.atlas import Atlas
from lorweb_mini.emoji.relations import splits

items = lw.analogies("test", splits()["starter"]["seen"], n=6)
Atlas(editor, items, b=lw.load_emoji().picture("tram"), steps=2)
"""
MICROSCOPE = """
from lorweb_mini.widgets.microscope import Microscope

one, other = (lw.analogies("test", name, n=1)[0] for name in ("edit/hue=120", "edit/blur=4"))
Microscope(editor, one.a, one.a_prime, one.b, other=(other.a, other.a_prime), steps=2)
"""
CELLS = [EDITOR + ATLAS, EDITOR + MICROSCOPE]


def _first_point(page: Page) -> list[float]:
    """Middle of a point, in pixels of the plane."""
    return page.evaluate(
        """() => {
            const plane = document.querySelector('.lorweb-atlas .plane').getBoundingClientRect();
            const point = document.querySelector('.lorweb-atlas path[data-family]').getBoundingClientRect();
            return [point.x + point.width / 2 - plane.x, point.y + point.height / 2 - plane.y];
        }"""
    )


def test_the_map_is_dragged_clicked_and_walked_by_keys(notebook: Notebook, screenshots: Path) -> None:
    widget, page = notebook.show(0, "atlas"), notebook.page
    result, plane, status = widget.locator("img[alt='result']"), widget.locator(".plane"), widget.get_by_role("status")
    cells, warning = notebook.cells.count(), widget.get_by_role("alert")
    start = source(result)
    page.screenshot(path=screenshots / "atlas_start.png")
    assert widget.locator("[data-part=pictures] img").count() >= 5

    box = plane.bounding_box()
    page.mouse.move(box["x"] + 330, box["y"] + 190)
    page.mouse.down()
    for i in range(25):
        page.mouse.move(box["x"] + 330 - 10 * i, box["y"] + 190 + 4 * i)
    page.mouse.up()
    dragged = changed(result, start)
    expect(status).to_contain_text("This place is decoded")
    page.screenshot(path=screenshots / "atlas_dragged.png")

    # A click on a point: its own mixture; hovering over it first shows its pictures.
    u, v = _first_point(page)
    card = widget.locator("[data-part=card]")
    page.mouse.move(box["x"] + u, box["y"] + v)
    expect(card).to_contain_text("from now on")
    page.mouse.click(box["x"] + u, box["y"] + v)
    clicked = changed(result, dragged)
    expect(status).to_contain_text("own mixture")
    assert card.locator("img").count() == 4

    plane.focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    walked = changed(result, clicked)
    expect(status).to_contain_text("This place is decoded")
    page.keyboard.press("b")
    page.keyboard.press("Home")
    expect(result).to_have_attribute("src", start)
    page.keyboard.press("Enter")
    expect(status).to_contain_text("own mixture")
    assert notebook.cells.count() == cells, "a key meant for the widget changed the notebook"

    shown = widget.locator("[data-part=pictures] img").first
    truth = source(shown)
    widget.get_by_role("button", name="the chosen b, edited").click()
    chosen = changed(shown, truth)
    assert np.abs(pixels(truth) - pixels(chosen)).mean() > 1
    legend = widget.get_by_role("toolbar", name="families").get_by_role("button")
    legend.first.click()
    expect(legend.first).to_have_attribute("aria-pressed", "true")
    assert widget.locator(".plane .dim").count() > 10
    before = source(widget.locator("img[alt='b']"))
    widget.get_by_role("button", name="from now on").click()
    changed(widget.locator("img[alt='b']"), before)
    page.screenshot(path=screenshots / "atlas_chosen.png")

    differ(start, dragged, clicked, walked)
    expect(warning).to_be_hidden()


def test_a_layer_is_chosen_by_mouse_and_keys(notebook: Notebook, screenshots: Path) -> None:
    """The last test of this file: it takes the kernel away."""
    widget, page = notebook.show(1, "microscope"), notebook.page
    page.screenshot(path=screenshots / "microscope_start.png")
    heading, layers = widget.get_by_role("heading", level=3), widget.get_by_role("option")
    bars = widget.locator("[data-part=layer] img.plot")
    expect(widget.locator("[data-part=gates]")).to_contain_text("router ran once")
    expect(widget.locator("[data-part=gates]")).to_contain_text("the gate was the same at every one")
    assert layers.count() == 52
    first = source(bars)

    layers.nth(30).click()
    expect(layers.nth(30)).to_have_attribute("aria-selected", "true")
    expect(heading).to_have_text("single block 1: attention and MLP out")
    second = changed(bars, first)
    for _ in range(7):
        page.keyboard.press("ArrowDown")
    expect(layers.nth(37)).to_have_attribute("aria-selected", "true")
    expect(heading).to_have_text("single block 2: query")
    third = changed(bars, second)
    assert page.evaluate("document.activeElement.dataset.value") == "37"
    assert pixels(third).std() > 1

    expect(layers.first).to_have_attribute("aria-label", re.compile("switched off: changes the picture by"))
    widget.get_by_role("button", name="all LoRAs alike").click()
    expect(layers.first).to_have_attribute("aria-label", re.compile("all LoRAs alike: changes the picture by"))
    expect(widget.get_by_role("button", name="all LoRAs alike")).to_have_attribute("aria-pressed", "true")
    assert widget.locator("[data-part=heat] i").count() == 52
    page.screenshot(path=screenshots / "microscope_swept.png")
    expect(widget.get_by_role("alert")).to_be_hidden()
    notebook.stop_kernel()
    layers.first.click()
    expect(widget.get_by_role("alert")).to_contain_text("No answer from the kernel")
    page.screenshot(path=screenshots / "microscope_no_kernel.png")
