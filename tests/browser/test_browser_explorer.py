"""The explorer in JupyterLab: choose, upload, draw; by mouse and by keyboard; good files and bad ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from .lab import Notebook, pixels, settled, source

SOURCE = """
import lorweb_mini as lw
from lorweb_mini.widgets.explorer import Explorer

explorer = Explorer(lw.load("starter"), relations=["edit/hue=120", "edit/invert", "tone/yellow>dark"])
explorer.set(steps=2)
explorer
"""
CELLS = [SOURCE]
NAMES = ("a", "a_prime", "b", "result", "truth")


class Seen:
    """The explorer on a page."""

    def __init__(self, notebook: Notebook) -> None:
        self.page, self.notebook, self.widget = notebook.page, notebook, notebook.show(0, "explorer")
        settled(self.widget)

    def image(self, name: str) -> Any:
        return self.widget.locator(f"[data-shown={name}] img")

    def source(self, name: str) -> str:
        """The address of a picture; empty if it is not on the page."""
        return source(self.image(name)) if self.image(name).count() else ""

    def picture(self, name: str) -> np.ndarray:
        return pixels(self.source(name))

    def changed(self, name: str, before: str) -> str:
        """Waits until a picture is another one, and the editor is done."""
        expect(self.image(name)).not_to_have_attribute("src", before)
        settled(self.widget)
        return self.source(name)

    def slot(self, name: str) -> Any:
        return self.widget.locator(f"[data-slot={name}]")

    def way(self, name: str) -> None:
        self.widget.get_by_role("tab", name=name, exact=True).click()


@pytest.fixture
def seen(notebook: Notebook) -> Seen:
    return Seen(notebook)


def test_emoji_are_chosen_and_analogies_drawn_at_random(seen: Seen, screenshots: Path) -> None:
    page, widget = seen.page, seen.widget
    cells = seen.notebook.cells.count()
    assert all(seen.picture(name).std() > 1 for name in NAMES), "a blank picture"
    widget.get_by_role("table", name="nearest known relations").wait_for()
    widget.scroll_into_view_if_needed()
    page.screenshot(path=screenshots / "explorer_start.png")

    b, result = seen.source("b"), seen.source("result")
    widget.get_by_label("Search").press_sequentially("red heart")
    expect(widget.get_by_text("for “red heart”")).to_be_visible()
    heart = widget.get_by_role("button", name="red heart", exact=True)
    heart.focus()
    page.keyboard.press("Enter")
    seen.changed("b", b)
    assert seen.source("result") != result
    expect(heart).to_have_attribute("aria-pressed", "true")
    expect(widget.locator("[data-shown=truth]")).to_have_count(0)
    expect(widget.locator("[data-part=title]")).to_contain_text("no true b′")

    seen.slot("b").focus()
    page.keyboard.press("ArrowLeft")
    expect(seen.slot("a_prime")).to_have_attribute("aria-selected", "true")
    expect(seen.slot("a_prime")).to_be_focused()
    page.keyboard.press("b")
    assert seen.notebook.cells.count() == cells, "a key meant for the widget added a cell"

    result = seen.source("result")
    widget.get_by_label("relation of the random analogy").select_option("edit/invert")
    widget.get_by_role("button", name="Random analogy").click()
    seen.changed("result", result)
    expect(widget.locator("[data-part=title]")).to_contain_text("edit: invert")
    expect(widget.locator(".result figcaption")).to_contain_text("error")
    page.screenshot(path=screenshots / "explorer_random.png")
    a, a_prime = seen.picture("a"), seen.picture("a_prime")
    assert np.abs(a + a_prime - 255).max() <= 2, "not each other's inverse"

    before = seen.source("a")
    widget.get_by_role("button", name="Swap a and a′").click()
    seen.changed("a", before)
    assert seen.source("a_prime") == before
    steps = widget.get_by_label("Steps")
    result = seen.source("result")
    steps.fill("5")
    steps.press("Enter")
    seen.changed("result", result)
    steps.fill("0")
    steps.press("Tab")
    expect(widget.get_by_role("alert")).to_contain_text("from 1 to 32")
    expect(steps).to_have_value("5")


def test_pictures_are_uploaded_and_bad_files_refused(seen: Seen, tmp_path: Path, screenshots: Path) -> None:
    page, widget = seen.page, seen.widget
    pictures = {
        "photo.png": Image.linear_gradient("L").resize((300, 200)),
        "large.png": Image.effect_noise((2300, 2300), 90),  # 4 MB: shrunk before it is sent
        "wide.png": Image.new("1", (30000, 3000)),  # small as a file, 90 megapixels
    }
    for name, picture in pictures.items():
        picture.save(tmp_path / name)
    assert (tmp_path / "large.png").stat().st_size > 3e6
    (tmp_path / "broken.png").write_bytes((tmp_path / "photo.png").read_bytes()[:300])
    (tmp_path / "words.png").write_text("not a picture")
    (tmp_path / "large.txt").write_bytes(b"x" * 4_000_000)
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(200_000_000)

    seen.slot("b").click()
    seen.way("Upload")
    chooser = widget.get_by_label("picture file")
    before = seen.source("b"), seen.source("result")
    chooser.set_input_files(tmp_path / "photo.png")
    uploaded = seen.changed("b", before[0])
    assert seen.source("result") != before[1]
    picture = pixels(uploaded)
    assert picture.shape == (64, 64, 3) and (picture[:10] == 255).all() and picture[32].std() < picture[:, 32].std()

    kept = [seen.source(name) for name in NAMES]
    for name, words in {
        "broken.png": "expected a whole picture",
        "words.png": "expected a picture file",
        "large.txt": "cannot be read as a picture",
        "huge.png": "expected at most 150 MB",
        "wide.png": "expected at most 64 megapixels",
    }.items():
        chooser.set_input_files(tmp_path / name)
        expect(widget.get_by_role("alert")).to_contain_text(words)
        expect(widget.get_by_role("alert")).to_contain_text("Nothing was changed")
        settled(widget)
        assert [seen.source(x) for x in NAMES] == kept, f"{name} changed a picture"
    page.screenshot(path=screenshots / "explorer_refused.png")

    chooser.set_input_files(tmp_path / "large.png")
    seen.changed("b", uploaded)
    expect(widget.get_by_role("alert")).to_be_hidden()


def test_a_drawing_is_followed_and_undone(seen: Seen, screenshots: Path) -> None:
    page, widget = seen.page, seen.widget
    seen.slot("b").click()
    seen.way("Draw")
    start, result = seen.source("b"), seen.source("result")
    widget.get_by_role("button", name="Clear").click()
    white = seen.changed("b", start)
    assert (pixels(white) == 255).all()

    widget.get_by_role("button", name="vermilion").click()
    widget.get_by_label("Size of the pen").fill("9")
    canvas = widget.get_by_role("img", name="canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()

    def move(x: float, y: float) -> None:
        page.mouse.move(box["x"] + x / 64 * box["width"], box["y"] + y / 64 * box["height"], steps=8)

    move(10, 32)
    page.mouse.down()
    move(54, 32)
    page.wait_for_timeout(250)  # a part of the stroke is sent meanwhile
    move(54, 54)
    page.mouse.up()
    vermilion = np.array([0xD5, 0x5E, 0x00])
    seen.changed("b", white)
    drawn = seen.picture("b")
    for x, y in ((10, 32), (32, 32), (54, 32), (54, 45), (54, 53)):
        assert np.abs(drawn[y, x] - vermilion).max() < 6, (x, y)
    assert (drawn[:24] == 255).all() and (drawn[40:, :44] == 255).all()
    assert seen.source("result") != result
    inside = "([x, y]) => [...document.querySelector('.lorweb-explorer canvas').getContext('2d')"
    on_canvas = page.evaluate(f"{inside}.getImageData(x, y, 1, 1).data]", [32, 32])
    assert np.abs(np.array(on_canvas[:3]) - vermilion).max() < 6
    page.screenshot(path=screenshots / "explorer_draw.png")

    undo = widget.locator("[data-panel=draw]").get_by_role("button", name="Undo")
    whole = seen.source("b")
    undo.click()
    assert seen.changed("b", whole) == white, "the whole stroke is one step"
    undo.click()
    assert seen.changed("b", white) == start


def test_a_page_without_a_kernel_says_so(seen: Seen, screenshots: Path) -> None:
    """The last test of this file: it takes the kernel away."""
    page, widget = seen.page, seen.widget
    notice = widget.get_by_text("No answer from the kernel")
    assert notice.count() == 0
    seen.notebook.stop_kernel()
    kept = [seen.source(name) for name in NAMES]
    widget.get_by_role("button", name="Random analogy").click()
    notice.wait_for()
    assert [seen.source(name) for name in NAMES] == kept
    seen.slot("a").click()
    expect(seen.slot("a")).to_have_attribute("aria-selected", "true")
    page.screenshot(path=screenshots / "explorer_no_kernel.png")
