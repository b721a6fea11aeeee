"""The widgets outside JupyterLab: under Voila, in Notebook 7, and in an HTML file where no kernel runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbconvert import HTMLExporter
from playwright.sync_api import Locator, Page, expect

from .lab import CELL_SECONDS, ROOT, Notebook, Server, changed, differ, pixels, source
from .test_browser_atlas import ATLAS, EDITOR, MICROSCOPE
from .test_browser_controls import SAMPLER, WALK
from .test_browser_explorer import SOURCE as EXPLORER
from .test_browser_mixer import CELLS as MIXERS

BROWSER = "from lorweb_mini.widgets.browser import Browser\n\nBrowser()"
FALLBACKS = {
    "Mixer": MIXERS[0],
    "Pad": MIXERS[1],
    "Explorer": EXPLORER,
    "Map": EDITOR + ATLAS,
    "Layer microscope": EDITOR + MICROSCOPE,
    "Sampler": SAMPLER,
    "Walk": WALK,
    "Browser": BROWSER,
}


@pytest.fixture
def mixer(server: Server) -> Iterator[str]:
    """A notebook that shows nothing but the mixer."""
    server.put("only_mixer.ipynb", MIXERS[0])
    yield "only_mixer.ipynb"
    server.stop_kernels()


def _turn(widget: Locator) -> None:
    """A slider by keyboard: the picture changes, and comes back."""
    result, slider = widget.locator("img[alt='result']"), widget.get_by_role("slider").first
    start = source(result)
    slider.focus()
    for _ in range(12):
        widget.page.keyboard.press("ArrowRight")
    assert slider.input_value() == "4"
    differ(start, changed(result, start))
    widget.get_by_role("button", name="Back to the router's mixture").click()
    expect(result).to_have_attribute("src", start)
    expect(widget.locator("[role=alert]")).to_be_hidden()


def test_the_mixer_under_voila(server: Server, page: Page, mixer: str, screenshots: Path) -> None:
    page.goto(f"{server.address}/voila/render/{mixer}", timeout=CELL_SECONDS * 1000)  # it runs the cell first
    widget = page.locator(".lorweb-mixer")
    widget.wait_for(timeout=CELL_SECONDS * 1000)
    _turn(widget)
    page.screenshot(path=screenshots / "voila.png")


def test_the_mixer_in_notebook_7(server: Server, page: Page, mixer: str, screenshots: Path) -> None:
    _turn(Notebook(page, server, mixer, lab=False).show(0, "mixer"))
    page.screenshot(path=screenshots / "notebook_7.png")


def test_every_widget_in_a_page_without_a_kernel(
    page: Page, tmp_path: Path, screenshots: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A picture that is not blank, and words that say what it needs, where the widget was."""
    monkeypatch.syspath_prepend(str(ROOT / "notebooks" / "build"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    from execute import execute, without_widgets

    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code) for code in FALLBACKS.values()])
    execute(notebook, tmp_path, seconds=120)
    without_widgets(notebook)
    for template in ("lab", "classic"):
        html, _ = HTMLExporter(template_name=template).from_notebook_node(notebook)
        file = tmp_path / f"{template}.html"
        file.write_text(html, encoding="utf-8")
        page.goto(file.as_uri(), wait_until="domcontentloaded")
        assert "Error displaying widget" not in page.inner_text("body")
        pictures = page.locator(".jp-OutputArea-output img, .output_png img")
        expect(pictures).to_have_count(len(FALLBACKS))
        for name, picture in zip(FALLBACKS, pictures.all(), strict=True):
            shown = pixels(source(picture))
            assert shown.shape[1] > 400 and shown.std() > 5, name
            assert len(np.unique(shown.reshape(-1, 3), axis=0)) > 100, name
            assert picture.evaluate("image => image.complete && image.naturalWidth") == shown.shape[1]
            if template == "classic":  # the other one drops the words; there they stand in the picture alone
                said = picture.get_attribute("alt") or ""
                assert said.startswith(name) and "needs a running kernel" in said
            else:
                picture.screenshot(path=screenshots / f"fallback_{name.lower().replace(' ', '_')}.png")
