"""The sampler in a live JupyterLab: turn its sliders by keyboard, see the picture change and come back.

Uses the JupyterLab of test_browser.py and skips where that skips.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
import test_browser
from test_browser import CHROMIUM, ROOT, _open, _pixels, _settle

lab, browser, page, screenshots = test_browser.lab, test_browser.browser, test_browser.page, test_browser.screenshots

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")

WISHES = ["invert the colours", "make it grey", ""]
SOURCE = f"""
import lorweb_mini as lw
from lorweb_mini.editor import load_frozen
from lorweb_mini.sampler import Sampler

autoencoder, _, base = load_frozen()
question = lw.analogies("test", "edit/invert", n=1)[0]
Sampler(base, autoencoder, question.b, {WISHES}, steps=2)
"""


def _save(page: Any, lab: str, name: str, notebook: nbformat.NotebookNode) -> None:
    """Puts a notebook into JupyterLab's folder, through JupyterLab itself."""
    page.goto(f"{lab}/lab?reset")
    page.wait_for_function("() => window.jupyterapp")
    page.evaluate(
        "([name, content]) => window.jupyterapp.serviceManager.contents.save("
        "name, {type: 'notebook', format: 'json', content: JSON.parse(content)})",
        [name, json.dumps(notebook)],
    )


def test_sliders_turned_by_keyboard_change_the_picture(lab: str, page: Any, screenshots: Path) -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(SOURCE)])
    notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    _save(page, lab, "sampler.ipynb", notebook)
    _open(page, f"{lab}/lab/tree/sampler.ipynb?reset")
    page.locator(".jp-CodeCell .cm-content").first.click()
    page.keyboard.press("Shift+Enter")
    result = page.locator("figure img[alt='result']")
    result.wait_for()
    assert page.locator("[data-mime-type='application/vnd.jupyter.stderr']").count() == 0
    start = result.get_attribute("src")

    def changed(before: str) -> str:
        page.wait_for_function(
            "before => document.querySelector(\"figure img[alt='result']\").src !== before", arg=before
        )
        _settle(page)
        return result.get_attribute("src")

    steps, guidance = page.locator(".jupyter-widgets .noUi-handle").all()
    steps.focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    more_steps = changed(start)
    assert float(steps.get_attribute("aria-valuenow")) == 5
    page.get_by_text("The transformer runs 5 times").wait_for()
    guidance.focus()
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    guided = changed(more_steps)
    assert float(guidance.get_attribute("aria-valuenow")) == 2
    page.get_by_text("The transformer runs 10 times").wait_for()
    page.locator(".widget-dropdown select").select_option(label=WISHES[1])
    grey = changed(guided)
    page.screenshot(path=screenshots / "sampler.png")
    seen = [_pixels(source) for source in (start, more_steps, guided, grey)]
    assert {x.shape for x in seen} == {(256, 256, 3)}
    for first, second in itertools.pairwise(seen):
        assert first.std() > 1 and np.abs(first - second).mean() > 0.1

    page.get_by_role("button", name="Back to the start").click()
    page.wait_for_function("before => document.querySelector(\"figure img[alt='result']\").src === before", arg=start)


def test_the_committed_notebook_shows_the_table(lab: str, page: Any, screenshots: Path) -> None:
    """Opened and not run: the static table is there, and no widget's error."""
    committed = nbformat.read(ROOT / "notebooks" / "02_flow_matching.ipynb", as_version=4)
    _save(page, lab, "committed_02.ipynb", committed)
    page.goto(f"{lab}/lab/tree/committed_02.ipynb?reset")
    page.wait_for_selector(".jp-Notebook .jp-Cell")
    cell = page.locator(".jp-CodeCell", has_text="sampler = Sampler(")
    cell.locator(".jp-OutputArea-output img").wait_for()
    cell.scroll_into_view_if_needed()
    page.screenshot(path=screenshots / "committed_02.png")
    assert page.locator(".jp-OutputArea-output img").count() >= 15
    text = page.locator(".jp-Notebook").inner_text()
    assert "Error displaying widget" not in text and "Loading widget" not in text
