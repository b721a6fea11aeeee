"""The mixer and the pads in JupyterLab: sliders, the choice of layers, a drag, keys, and a kernel that is gone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Locator, expect

from .lab import Notebook, changed, differ, settled, source

SOURCE = """
import lorweb_mini as lw
from lorweb_mini.widgets.pads import Pads
from lorweb_mini.widgets.mixer import Mixer

editor = lw.load("starter")
names = ["edit/invert", "edit/grey", "edit/hue=120", "edit/blur=4"]
items = [lw.analogies("test", name, n=1)[0] for name in names]
b = items[2].b
"""
MIXER = "Mixer(editor, b, editor.route(items[0].a, items[0].a_prime, b), steps=2)"
CELLS = [SOURCE + MIXER, *(SOURCE + f"Pads(editor, items[:{n}], b, steps=2)" for n in (3, 4))]


def result_of(widget: Locator) -> Locator:
    return widget.locator("img[alt='result']")


def test_sliders_layers_and_the_way_back(notebook: Notebook, screenshots: Path) -> None:
    widget, page, cells = notebook.show(0, "mixer"), notebook.page, notebook.cells.count()
    result = result_of(widget)
    start = source(result)
    slider = widget.get_by_role("slider").first
    name = (slider.get_attribute("aria-label") or "").removeprefix("gain of ")
    assert name.startswith("LoRA ")
    slider.focus()
    for _ in range(12):
        page.keyboard.press("ArrowRight")
    assert slider.input_value() == "4" and slider.get_attribute("aria-valuetext") == "gain 4.00"
    turned = changed(result, start)
    widget.screenshot(path=screenshots / "mixer.png")
    page.keyboard.press("b")
    assert notebook.cells.count() == cells, "a key meant for the widget added a cell"

    box = slider.bounding_box()
    assert box
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    for i in range(30):
        page.mouse.move(box["x"] + box["width"] * (15 - i / 2) / 30, box["y"] + box["height"] / 2)
    page.mouse.up()
    out = changed(result, turned)
    assert float(slider.input_value()) < 0.5
    share = widget.locator(f"[data-bar='{name.split()[1]}'] b")
    assert int(share.inner_text().rstrip("%")) < 10

    layers = widget.get_by_label("layers that the sliders change")
    layers.select_option("5")
    expect(slider).to_have_value("1")
    settled(widget)
    assert source(result) == out, "looking at a layer changes nothing"
    widget.locator("summary").focus()
    page.keyboard.press("Enter")
    hidden = widget.locator("details input[type=range]").first
    hidden.focus()
    page.keyboard.press("End")
    assert hidden.get_attribute("aria-valuetext") == "gain 8.00"
    settled(widget)
    before = source(result)
    widget.screenshot(path=screenshots / "mixer_layer.png")
    layers.select_option("")
    expect(hidden).to_have_attribute("aria-valuetext", "gain 1.00")
    hidden.focus()
    page.keyboard.press("End")
    differ(start, turned, out, changed(result, before))
    widget.get_by_role("button", name="Back to the router's mixture").click()
    expect(result).to_have_attribute("src", start)
    expect(widget.locator("[role=alert]")).to_be_hidden()


@pytest.mark.parametrize("corners", [3, 4])
def test_the_pad_follows_keys_and_the_mouse(notebook: Notebook, screenshots: Path, corners: int) -> None:
    widget, page, cells = notebook.show(corners - 2, "pads"), notebook.page, notebook.cells.count()
    result, handle = result_of(widget), widget.get_by_role("slider", name="mixture of the analogies")
    middle = source(result)
    widget.screenshot(path=screenshots / f"pads{corners}.png")
    handle.focus()
    page.keyboard.press("2")
    second = changed(result, middle)
    expect(handle).to_have_attribute("aria-valuetext", re.compile("^0% edit: invert, 100% edit: grey"))
    page.keyboard.press("1")
    first = changed(result, second)
    expect(handle).to_have_attribute("aria-valuenow", "100")
    for _ in range(6):
        page.keyboard.press("ArrowDown")
    below = changed(result, first)
    assert 0 < int(handle.get_attribute("aria-valuenow") or 0) < 100
    page.keyboard.press("b")
    assert notebook.cells.count() == cells, "a key meant for the widget added a cell"

    pad = widget.locator(".pad").bounding_box()
    assert pad
    page.mouse.move(pad["x"] + pad["width"] / 2, pad["y"] + pad["height"] / 2)
    page.mouse.down()
    for i in range(30):  # far to the upper right, out of the pad
        page.mouse.move(pad["x"] + pad["width"] * (0.5 + i / 30), pad["y"] + pad["height"] * (0.5 - i / 30))
    page.mouse.up()
    edge = changed(result, below)
    widget.screenshot(path=screenshots / f"pads{corners}_edge.png")
    at = handle.bounding_box()
    assert at
    x = (at["x"] + at["width"] / 2 - pad["x"]) / pad["width"]
    y = (at["y"] + at["height"] / 2 - pad["y"]) / pad["height"]
    assert abs(x - (1 + y) / 2 if corners == 3 else x - 1) < 0.02, "on the edge, not outside"
    differ(middle, second, first, below, edge)
    handle.focus()
    page.keyboard.press("0")
    expect(result).to_have_attribute("src", middle)


def test_a_kernel_that_is_gone_is_said_to_be(notebook: Notebook, screenshots: Path) -> None:
    """The last test of this file: it takes the kernel away."""
    widget = notebook.show(0, "mixer")
    shown = source(result_of(widget))
    notebook.stop_kernel()
    widget.get_by_role("slider").first.focus()
    notebook.page.keyboard.press("ArrowRight")
    expect(widget.get_by_role("alert")).to_contain_text("No answer from the kernel")
    notebook.page.screenshot(path=screenshots / "mixer_no_kernel.png")
    assert source(result_of(widget)) == shown
