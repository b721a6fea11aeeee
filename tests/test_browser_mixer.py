"""The mixer and the pads in a live JupyterLab: sliders, the choice of layers, a drag, keys, and a kernel that is gone.

Uses the JupyterLab of test_browser.py and skips where that skips.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
import test_browser
from test_browser import CHROMIUM, _open, _pixels
from test_browser_sampler import _save

playwright = pytest.importorskip("playwright.sync_api")

lab, browser, page, screenshots = test_browser.lab, test_browser.browser, test_browser.page, test_browser.screenshots

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")

SOURCE = """
import lorweb_mini as lw
from lorweb_mini.mixer import Pads
from lorweb_mini.widgets import Mixer

editor = lw.load("starter")
names = ["edit/invert", "edit/grey", "edit/hue=120", "edit/blur=4"]
items = [lw.analogies("test", name, n=1)[0] for name in names]
b = items[2].b
"""
MIXER = "Mixer(editor, b, editor.route(items[0].a, items[0].a_prime, b), steps=2)"
SHOWN = "document.querySelector(\".lorweb-mixer img[alt='result']\").src"


def open_with(page: Any, lab: str, name: str, code: str) -> Any:
    """A fresh notebook whose only cell shows an instrument; returns its page."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(SOURCE + code)])
    notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    _save(page, lab, name, notebook)
    _open(page, f"{lab}/lab/tree/{name}?reset")
    page.locator(".jp-CodeCell .cm-content").first.click()
    page.keyboard.press("Shift+Enter")
    widget = page.locator(".lorweb-mixer")
    widget.wait_for()
    assert page.locator("[data-mime-type='application/vnd.jupyter.stderr']").count() == 0
    return widget


def changed(page: Any, before: str) -> str:
    """Waits for another picture, then until it rests."""
    page.wait_for_function(f"before => {SHOWN} !== before", arg=before)
    return rest(page)


def rest(page: Any) -> str:
    last = None
    while (now := page.evaluate(SHOWN)) != last:
        last = now
        page.wait_for_timeout(700)
    return now


def differ(*sources: str) -> None:
    """Each is a picture, and each differs from the one before."""
    seen = [_pixels(source) for source in sources]
    assert {x.shape for x in seen} == {(64, 64, 3)}
    for first, second in itertools.pairwise(seen):
        assert first.std() > 1 and second.std() > 1 and np.abs(first - second).mean() > 0.1


def test_sliders_layers_and_the_way_back(lab: str, page: Any, screenshots: Path) -> None:
    widget = open_with(page, lab, "mixer.ipynb", MIXER)
    cells = page.locator(".jp-Cell").count()
    start = rest(page)
    slider = widget.get_by_role("slider").first
    assert slider.get_attribute("aria-label").startswith("gain of LoRA ")
    name = slider.get_attribute("aria-label").removeprefix("gain of ")
    slider.focus()
    for _ in range(12):
        page.keyboard.press("ArrowRight")
    assert slider.input_value() == "4" and slider.get_attribute("aria-valuetext") == "gain 4.00"
    turned = changed(page, start)
    widget.screenshot(path=screenshots / "mixer.png")
    page.keyboard.press("b")
    assert page.locator(".jp-Cell").count() == cells, "a key meant for the widget added a cell"

    box = slider.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    for i in range(30):
        page.mouse.move(box["x"] + box["width"] * (15 - i / 2) / 30, box["y"] + box["height"] / 2)
    page.mouse.up()
    out = changed(page, turned)
    assert float(slider.input_value()) < 0.5
    share = widget.locator(f"[data-bar='{name.split()[1]}'] b")
    assert int(share.inner_text().rstrip("%")) < 10

    layers = widget.get_by_label("layers that the sliders turn")
    layers.select_option("5")
    page.wait_for_function(
        "key => document.querySelector(`.lorweb-mixer input[data-key='${key}']`).value === '1'", arg=name.split()[1]
    )
    assert rest(page) == out, "looking at a layer changes nothing"
    others = widget.locator("summary")
    others.focus()
    page.keyboard.press("Enter")
    hidden = widget.locator("details input[type=range]").first
    hidden.focus()
    page.keyboard.press("End")
    assert hidden.get_attribute("aria-valuetext") == "gain 8.00"
    rest(page)
    widget.screenshot(path=screenshots / "mixer_layer.png")
    layers.select_option("")
    playwright.expect(hidden).to_have_attribute("aria-valuetext", "gain 1.00")
    before = rest(page)
    hidden.focus()
    page.keyboard.press("End")
    differ(start, turned, out, changed(page, before))
    widget.get_by_role("button", name="Back to the router's mixture").click()
    page.wait_for_function(f"before => {SHOWN} === before", arg=start)
    assert widget.get_by_role("alert").count() == 0, "the kernel answered"


@pytest.mark.parametrize("corners", [3, 4])
def test_the_pad_follows_keys_and_the_mouse(lab: str, page: Any, screenshots: Path, corners: int) -> None:
    widget = open_with(page, lab, f"pads{corners}.ipynb", f"Pads(editor, items[:{corners}], b, steps=2)")
    cells = page.locator(".jp-Cell").count()
    middle = rest(page)
    handle = widget.get_by_role("slider", name="mixture of the analogies")
    widget.screenshot(path=screenshots / f"pads{corners}.png")
    handle.focus()
    page.keyboard.press("2")
    second = changed(page, middle)
    assert handle.get_attribute("aria-valuetext").startswith("0% edit: invert, 100% edit: grey")
    page.keyboard.press("1")
    first = changed(page, second)
    assert handle.get_attribute("aria-valuenow") == "100"
    for _ in range(6):
        page.keyboard.press("ArrowDown")
    below = changed(page, first)
    assert 0 < int(handle.get_attribute("aria-valuenow")) < 100
    page.keyboard.press("b")
    assert page.locator(".jp-Cell").count() == cells, "a key meant for the widget added a cell"

    pad = widget.locator(".pad").bounding_box()
    page.mouse.move(pad["x"] + pad["width"] / 2, pad["y"] + pad["height"] / 2)
    page.mouse.down()
    for i in range(30):  # far to the upper right, out of the pad
        page.mouse.move(pad["x"] + pad["width"] * (0.5 + i / 30), pad["y"] + pad["height"] * (0.5 - i / 30))
    page.mouse.up()
    edge = changed(page, below)
    widget.screenshot(path=screenshots / f"pads{corners}_edge.png")
    at = handle.bounding_box()
    x = (at["x"] + at["width"] / 2 - pad["x"]) / pad["width"]
    y = (at["y"] + at["height"] / 2 - pad["y"]) / pad["height"]
    assert abs(x - (1 + y) / 2 if corners == 3 else x - 1) < 0.02, "on the edge, not outside"
    differ(middle, second, first, below, edge)
    handle.focus()
    page.keyboard.press("0")
    page.wait_for_function(f"before => {SHOWN} === before", arg=middle)


def test_a_kernel_that_is_gone_is_said_to_be(lab: str, page: Any, screenshots: Path) -> None:
    widget = open_with(page, lab, "gone.ipynb", MIXER)
    shown = rest(page)
    page.evaluate("() => window.jupyterapp.serviceManager.sessions.shutdownAll()")
    page.get_by_text("| No Kernel").or_(page.get_by_text("No Kernel")).first.wait_for()
    if widget.count():  # JupyterLab leaves the last page of the widget where it was
        widget.get_by_role("slider").first.focus()
        page.keyboard.press("ArrowRight")
        widget.get_by_role("alert").wait_for()
        assert "No answer from the kernel" in widget.get_by_role("alert").inner_text()
        page.screenshot(path=screenshots / "no_kernel.png")
        assert page.evaluate(SHOWN) == shown
    else:
        assert page.locator(".jp-OutputArea-output img").count() == 1, "the static strip instead"
