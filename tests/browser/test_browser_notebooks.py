"""The notebooks of the course in JupyterLab: run them, use their widgets, and look at them without running."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import jupytext
import numpy as np
import pytest
from playwright.sync_api import Page, expect

from .lab import CELL_SECONDS, KERNEL, ROOT, Notebook, Server, changed, differ, pixels, source

START, ANALOGIES, FLOW = "00_start_here", "01_visual_analogies", "02_flow_matching"
UNSEEN, MATTERS = "07_unseen", "08_what_matters"


@pytest.fixture
def fresh(server: Server, page: Page, request: pytest.FixtureRequest) -> Iterator[Notebook]:
    """A notebook of the course, without outputs, in a kernel of its own."""
    notebook = jupytext.read(ROOT / "notebooks" / f"{request.param}.py", fmt="py:percent")
    notebook.metadata["kernelspec"] = KERNEL
    name = f"fresh_{request.param}.ipynb"
    jupytext.write(notebook, server.folder / name)
    yield Notebook(page, server, name)
    server.stop_kernels()


@pytest.mark.parametrize("fresh", [START], indirect=True)
def test_the_explorer_and_the_pad_answer_in_the_notebook(fresh: Notebook, screenshots: Path) -> None:
    page = fresh.page
    page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells') }")
    page.locator(".jp-OutputArea-output", has_text="seconds of computing").wait_for(timeout=CELL_SECONDS * 1000)
    assert page.locator("[data-mime-type='application/vnd.jupyter.stderr']").count() == 0
    page.screenshot(path=screenshots / "top.png")

    explorer = page.locator(".lorweb-explorer")
    answer = explorer.locator("[data-shown=result] img")
    explorer.scroll_into_view_if_needed()
    start = source(answer)
    explorer.get_by_role("button", name="Swap a and a′").click()
    differ(start, changed(answer, start))
    page.screenshot(path=screenshots / "explorer_in_the_notebook.png")

    widget = page.locator(".lorweb-pads")
    result, handle = widget.locator("img[alt='result']"), widget.get_by_role("slider")
    widget.scroll_into_view_if_needed()
    start = source(result)
    handle.focus()
    for _ in range(8):
        page.keyboard.press("ArrowRight")
    differ(start, changed(result, start))
    page.screenshot(path=screenshots / "pads_in_the_notebook.png")
    page.keyboard.press("0")
    expect(result).to_have_attribute("src", start)


@pytest.mark.parametrize("fresh", [ANALOGIES], indirect=True)
def test_the_browser_searches_and_follows_a_relation(fresh: Notebook, screenshots: Path) -> None:
    """By the mouse to an emoji, by the keyboard to a relation; JupyterLab's own shortcuts stay out of it."""
    page = fresh.page
    widget = fresh.run(page.locator(".jp-CodeCell", has_text="browser = Browser()")).locator(".lorweb-browser")
    widget.wait_for()
    cells = fresh.cells.count()
    pictures = widget.locator("[data-part=results] img")
    before = source(pictures.first)

    search = widget.get_by_label("Search by name or keyword")
    search.fill("")
    search.press_sequentially("red heart")
    expect(widget.get_by_role("status")).to_contain_text("for “red heart”")
    expect(pictures.first).not_to_have_attribute("src", before)
    assert 0 < pictures.count() < 10
    widget.get_by_role("button", name="red heart", exact=True).click()
    widget.get_by_role("heading", name="red heart").wait_for()
    drawings = widget.get_by_role("toolbar", name="drawings").get_by_role("button")
    assert drawings.count() == 6

    relation = widget.get_by_role("button", name="hue 120", exact=True)
    relation.focus()
    page.keyboard.press("Enter")
    widget.get_by_role("heading", name="edit: hue 120").wait_for()
    expect(relation).to_have_attribute("aria-pressed", "true")
    b, answer = (pixels(source(x)) for x in widget.locator("[data-part=pairs] img").all()[:2])
    assert b.std() > 1 and np.abs(b - answer).mean() > 1
    widget.scroll_into_view_if_needed()
    page.screenshot(path=screenshots / "browser.png")

    page.keyboard.press("ArrowRight")
    page.keyboard.press("b")
    assert page.evaluate("document.activeElement.dataset.value") == "edit/hue=180"
    assert fresh.cells.count() == cells, "a key meant for the widget added a cell"
    page.keyboard.press("Enter")
    widget.get_by_role("heading", name="edit: hue 180").wait_for()
    drawings.get_by_text("Twemoji", exact=True).click()
    expect(widget.get_by_text("start at the drawing by Twemoji")).to_be_visible()
    changed = pixels(source(widget.locator("[data-part=pairs] img").first))
    assert np.abs(b - changed).mean() > 1

    expect(widget.get_by_role("alert")).to_have_count(0)
    fresh.stop_kernel()
    relation.click()
    expect(widget.get_by_role("alert")).to_contain_text("No answer from the kernel")


@pytest.mark.parametrize("lab", [True, False], ids=["lab", "notebook_7"])
def test_bets_and_predictions_are_answered(server: Server, page: Page, screenshots: Path, lab: bool) -> None:
    """Notebook 07 up to the bets: a click opens what the numbers say, and a cell after the bets knows them."""
    text = jupytext.read(ROOT / "notebooks" / f"{UNSEEN}.py", fmt="py:percent")
    code = [cell.source for cell in text.cells if cell.cell_type == "code"]
    (last,) = (i for i, source in enumerate(code) if "bets = Bets(" in source)
    name = f"bets_{lab}.ipynb"
    server.put(name, *code[: last + 1], "bets.bets[:3]")
    notebook = Notebook(page, server, name, lab)
    cells = page.locator(".jp-CodeCell")
    for number, source_of_cell in enumerate(code[:last]):
        output = notebook.run(cells.nth(number))
        if "prediction(" in source_of_cell:
            answer = output.locator("details").first
            expect(answer.locator("p")).to_be_hidden()
            answer.locator("summary").click()
            expect(answer.locator("p")).to_contain_text("It solves")
    output = notebook.run(cells.nth(last))
    menus = output.get_by_role("combobox")
    expect(menus).to_have_count(12)
    menus.nth(0).select_option(label="it works")
    menus.nth(1).select_option(label="it fails")
    expect(output).to_contain_text("2 of 12 bets placed")
    menus.nth(0).scroll_into_view_if_needed()
    page.screenshot(path=screenshots / f"bets_{'lab' if lab else 'notebook_7'}.png")
    expect(notebook.run(cells.nth(last + 1))).to_contain_text("[True, False, None]")
    server.stop_kernels()


COMMITTED = [(START, "pads = Pads(", 5), (ANALOGIES, "browser = Browser()", 5), (FLOW, "sampler = Sampler(", 15)]


@pytest.mark.parametrize(("name", "code", "pictures"), COMMITTED, ids=[name for name, *_ in COMMITTED])
def test_the_committed_notebook_is_never_blank(
    server: Server, page: Page, screenshots: Path, name: str, code: str, pictures: int
) -> None:
    """Opened and not run: static pictures are there, among them the widget's, and no widget's error."""
    shutil.copy(ROOT / "notebooks" / f"{name}.ipynb", server.folder / f"committed_{name}.ipynb")
    Notebook(page, server, f"committed_{name}.ipynb")
    cell = page.locator(".jp-CodeCell", has_text=code)
    cell.locator(".jp-OutputArea-output img").wait_for()
    cell.scroll_into_view_if_needed()
    page.screenshot(path=screenshots / f"committed_{name}.png")
    assert page.locator(".jp-OutputArea-output img").count() >= pictures
    text = page.locator(".jp-Notebook").inner_text()
    assert "Error displaying widget" not in text and "Loading widget" not in text
    server.stop_kernels()


@pytest.mark.parametrize("lab", [True, False], ids=["lab", "notebook_7"])
def test_the_grid_opens_at_once_and_shows_another_group(
    server: Server, page: Page, screenshots: Path, lab: bool
) -> None:
    """Notebook 08 opened and not run: its grid is a picture, under the mouse plotly's figure; its menu moves dots."""
    name = f"grid_{lab}.ipynb"
    shutil.copy(ROOT / "notebooks" / f"{MATTERS}.ipynb", server.folder / name)
    Notebook(page, server, name, lab)
    grid = page.locator(".jp-RenderedPlotly").first
    grid.scroll_into_view_if_needed()
    grid.locator("img").dispatch_event("mouseenter")  # no hover: scrolling may have put the mouse there already
    shown = "nodes => nodes.map(node => node.getAttribute('transform'))"
    dots = grid.locator(".scatterlayer .point")
    dots.first.wait_for()
    before = dots.evaluate_all(shown)
    grid.locator(".updatemenu-header").click()
    grid.locator(".updatemenu-dropdown-button", has_text="unseen edits").click()
    expect(grid.locator(".updatemenu-header")).to_contain_text("unseen edits")
    assert dots.evaluate_all(shown) != before
    page.screenshot(path=screenshots / f"grid_{'lab' if lab else 'notebook_7'}.png")
    server.stop_kernels()
