"""The map and the layer microscope in a live JupyterLab: drag, click, keys; pictures change; a dead kernel is said.

Uses the JupyterLab of test_browser.py and skips where that skips.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
import test_browser
from test_browser import CHROMIUM, _open, _pixels
from test_browser_sampler import _save

lab, browser, page, screenshots = test_browser.lab, test_browser.browser, test_browser.page, test_browser.screenshots
expect = test_browser.playwright.expect

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")

EDITOR = """
import lorweb_mini as lw

editor = lw.load("starter")
"""
ATLAS = """
from lorweb_mini.atlas import Atlas
from lorweb_mini.relations import splits

items = lw.analogies("test", splits()["starter"]["seen"], n=6)
Atlas(editor, items, b=lw.load_emoji().picture("tram"), steps=2)
"""
MICROSCOPE = """
from lorweb_mini.microscope import Microscope

one, other = (lw.analogies("test", name, n=1)[0] for name in ("edit/hue=120", "edit/blur=4"))
Microscope(editor, one.a, one.a_prime, one.b, other=(other.a, other.a_prime), steps=2)
"""


def _run(page: Any, lab: str, name: str, *cells: str) -> Any:
    """Runs cells in a new notebook; the last one's output."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    _save(page, lab, name, notebook)
    _open(page, f"{lab}/lab/tree/{name}?reset")
    page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells') }")
    return page.locator(".jp-CodeCell").last


def _source(picture: Any) -> str:
    return picture.get_attribute("src")


def _changed(page: Any, picture: Any, before: str) -> str:
    """Waits for another picture in this place, and until the page has heard all answers."""
    expect(picture).not_to_have_attribute("src", before)
    expect(page.locator("[class^=lorweb][aria-busy=true]")).to_have_count(0)
    return _source(picture)


def _first_point(page: Any) -> list[float]:
    """Middle of a point, in pixels of the plane."""
    return page.evaluate(
        """() => {
            const plane = document.querySelector('.lorweb-atlas .plane').getBoundingClientRect();
            const point = document.querySelector('.lorweb-atlas path[data-family]').getBoundingClientRect();
            return [point.x + point.width / 2 - plane.x, point.y + point.height / 2 - plane.y];
        }"""
    )


def _stop_kernel(page: Any) -> None:
    page.evaluate("() => window.jupyterapp.serviceManager.sessions.shutdownAll()")


def test_the_map_is_dragged_clicked_and_walked_by_keys(lab: str, page: Any, screenshots: Path) -> None:
    cell = _run(page, lab, "atlas.ipynb", EDITOR, ATLAS)
    widget = cell.locator(".lorweb-atlas")
    widget.wait_for()
    assert page.locator("[data-mime-type='application/vnd.jupyter.stderr']").count() == 0
    widget.scroll_into_view_if_needed()
    result, plane, status = widget.locator("img[alt='result']"), widget.locator(".plane"), widget.get_by_role("status")
    cells, warning = page.locator(".jp-Cell").count(), widget.get_by_role("alert")
    start = _source(result)
    page.screenshot(path=screenshots / "atlas_start.png")
    assert widget.locator("[data-part=pictures] img").count() >= 5

    box = plane.bounding_box()
    page.mouse.move(box["x"] + 330, box["y"] + 190)
    page.mouse.down()
    for i in range(25):
        page.mouse.move(box["x"] + 330 - 10 * i, box["y"] + 190 + 4 * i)
    page.mouse.up()
    dragged = _changed(page, result, start)
    expect(status).to_contain_text("This place is decoded")
    page.screenshot(path=screenshots / "atlas_dragged.png")

    # A click on a point: its own mixture; hovering over it first shows its pictures.
    u, v = _first_point(page)
    card = widget.locator("[data-part=card]")
    page.mouse.move(box["x"] + u, box["y"] + v)
    expect(card).to_contain_text("from now on")
    page.mouse.click(box["x"] + u, box["y"] + v)
    clicked = _changed(page, result, dragged)
    expect(status).to_contain_text("own mixture")
    assert card.locator("img").count() == 4

    plane.focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    walked = _changed(page, result, clicked)
    expect(status).to_contain_text("This place is decoded")
    page.keyboard.press("b")
    page.keyboard.press("Home")
    expect(result).to_have_attribute("src", start)
    page.keyboard.press("Enter")
    expect(status).to_contain_text("own mixture")
    assert page.locator(".jp-Cell").count() == cells, "a key meant for the widget changed the notebook"

    shown = widget.locator("[data-part=pictures] img").first
    truth = _source(shown)
    widget.get_by_role("button", name="the chosen b, edited").click()
    chosen = _changed(page, shown, truth)
    assert np.abs(_pixels(truth) - _pixels(chosen)).mean() > 1
    legend = widget.get_by_role("toolbar", name="families").get_by_role("button")
    legend.first.click()
    expect(legend.first).to_have_attribute("aria-pressed", "true")
    assert widget.locator(".plane .dim").count() > 10
    before = _source(widget.locator("img[alt='b']"))
    widget.get_by_role("button", name="from now on").click()
    _changed(page, widget.locator("img[alt='b']"), before)
    page.screenshot(path=screenshots / "atlas_chosen.png")

    pictures = [_pixels(source) for source in (start, dragged, clicked, walked)]
    assert {x.shape for x in pictures} == {(64, 64, 3)} and all(x.std() > 1 for x in pictures)
    expect(warning).to_be_hidden()
    _stop_kernel(page)
    plane.focus()
    page.keyboard.press("ArrowLeft")
    expect(warning).to_be_visible()
    expect(warning).to_contain_text("No answer from the kernel")
    page.screenshot(path=screenshots / "atlas_dead.png")


def test_a_layer_is_chosen_by_mouse_and_keys(lab: str, page: Any, screenshots: Path) -> None:
    cell = _run(page, lab, "microscope.ipynb", EDITOR, MICROSCOPE)
    widget = cell.locator(".lorweb-microscope")
    widget.wait_for()
    assert page.locator("[data-mime-type='application/vnd.jupyter.stderr']").count() == 0
    widget.scroll_into_view_if_needed()
    page.screenshot(path=screenshots / "microscope_start.png")
    heading, layers = widget.get_by_role("heading", level=3), widget.get_by_role("option")
    bars = widget.locator("[data-part=layer] img.figure")
    expect(widget.locator("[data-part=gates]")).to_contain_text("asked once")
    expect(widget.locator("[data-part=gates]")).to_contain_text("the gate was the same at every one")
    assert layers.count() == 52
    first = _source(bars)

    layers.nth(30).click()
    expect(layers.nth(30)).to_have_attribute("aria-selected", "true")
    expect(heading).to_have_text("single block 1: attention and MLP out")
    second = _changed(page, bars, first)
    for _ in range(7):
        page.keyboard.press("ArrowDown")
    expect(layers.nth(37)).to_have_attribute("aria-selected", "true")
    expect(heading).to_have_text("single block 2: query")
    third = _changed(page, bars, second)
    assert page.evaluate("document.activeElement.dataset.value") == "37"
    assert _pixels(third).std() > 1

    expect(layers.first).to_have_attribute("aria-label", re.compile("switched off: changes the picture by"))
    widget.get_by_role("button", name="all LoRAs alike").click()
    expect(layers.first).to_have_attribute("aria-label", re.compile("all LoRAs alike: changes the picture by"))
    expect(widget.get_by_role("button", name="all LoRAs alike")).to_have_attribute("aria-pressed", "true")
    assert widget.locator("[data-part=heat] i").count() == 52
    page.screenshot(path=screenshots / "microscope_swept.png")
    expect(widget.get_by_role("alert")).to_be_hidden()
    _stop_kernel(page)
    layers.first.click()
    expect(widget.get_by_role("alert")).to_be_visible()
