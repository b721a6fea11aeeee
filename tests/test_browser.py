"""Notebooks in a live JupyterLab: turn a slider, search and click in the browser of emojis, see the pictures change.

Skips where there is no Chromium or no Playwright. Screenshots go to pytest's temporary folder, or to
$LORWEB_SCREENSHOTS.
"""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jupytext
import numpy as np
import pytest
from PIL import Image

playwright = pytest.importorskip("playwright.sync_api")
pytest.importorskip("jupyterlab")

ROOT = Path(__file__).resolve().parents[1]
START, ANALOGIES = "00_start_here", "01_visual_analogies"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ARGUMENTS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]
SECONDS = 300
QUIET_LAB = {
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
    # Otherwise only the cells on the screen are on the page.
    "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},
}

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def _wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end and server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    pytest.fail(f"JupyterLab did not start:\n{log.read_text()[-3000:]}")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a JupyterLab with settings of its own, in a folder that holds copies of the notebooks."""
    home = tmp_path_factory.mktemp("lab")
    course = home / "course"
    course.mkdir()
    for name in (START, ANALOGIES):
        source = ROOT / "notebooks" / f"{name}.py"
        fresh = jupytext.read(source, fmt="py:percent")
        # Without it JupyterLab asks for a kernel.
        fresh.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
        jupytext.write(fresh, course / f"fresh_{name}.ipynb")
        committed = source.with_suffix(".ipynb")
        if committed.exists():
            shutil.copy(committed, course / f"committed_{name}.ipynb")
    for plugin, settings in QUIET_LAB.items():
        package, _, name = plugin.partition(":")
        folder = home / "settings" / package
        folder.mkdir(parents=True)
        (folder / f"{name}.jupyterlab-settings").write_text(json.dumps(settings))
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "LORWEB_PROFILE": "smoke",
        "IPYTHONDIR": str(home / "ipython"),
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
    }
    port, log = _free_port(), home / "server.log"
    command = [
        *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--LabApp.expose_app_in_browser=True"),
        *("--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}", "--ServerApp.port_retries=0"),
        *("--IdentityProvider.token=", "--ServerApp.password=", f"--ServerApp.root_dir={course}"),
    ]
    with log.open("wb") as output:
        server = subprocess.Popen(command, env=environment, stdout=output, stderr=output, cwd=course)
    try:
        _wait_for(f"http://127.0.0.1:{port}/api/status", server, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as p:
        # Playwright's own headless switch asks for a mode that a system Chromium may lack; ARGUMENTS has the right one.
        launched = p.chromium.launch(executable_path=CHROMIUM, headless=False, args=ARGUMENTS)
        yield launched
        launched.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    opened = browser.new_page(viewport={"width": 1400, "height": 1000})
    opened.set_default_timeout(SECONDS * 1000)
    playwright.expect.set_options(timeout=SECONDS * 1000)
    yield opened
    opened.close()


@pytest.fixture
def screenshots(tmp_path: Path) -> Path:
    folder = Path(os.environ.get("LORWEB_SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _pixels(source: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))).convert("RGB"), int)


def _open(page: Any, address: str) -> None:
    """Opens a notebook and waits until its kernel is there."""
    page.goto(address)
    page.wait_for_selector(".jp-Notebook .jp-Cell")
    page.wait_for_function("document.querySelector('.jp-NotebookPanel-toolbar') && window.jupyterapp")
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()


def test_a_slider_turned_by_keyboard_changes_the_picture(lab: str, page: Any, screenshots: Path) -> None:
    _open(page, f"{lab}/lab/tree/fresh_{START}.ipynb?reset")
    # In braces: Playwright would wait for a promise without end, whatever its timeout.
    page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells') }")
    page.locator(".jp-OutputArea-output", has_text="seconds of computing").wait_for()
    assert page.locator("[data-mime-type='application/vnd.jupyter.stderr']").count() == 0
    page.screenshot(path=screenshots / "top.png")

    result = page.locator("figure img[alt='result']")
    result.scroll_into_view_if_needed()
    page.screenshot(path=screenshots / "before.png")
    before = result.get_attribute("src")
    handle = page.locator(".jupyter-widgets .noUi-handle").first
    handle.focus()
    for _ in range(12):
        page.keyboard.press("ArrowRight")
    value = float(handle.get_attribute("aria-valuenow"))
    assert value > 1
    page.wait_for_function("before => document.querySelector(\"figure img[alt='result']\").src !== before", arg=before)
    _settle(page)
    page.screenshot(path=screenshots / "after.png")
    after = result.get_attribute("src")
    first, second = _pixels(before), _pixels(after)
    assert first.shape == second.shape == (256, 256, 3)
    assert first.std() > 1 and second.std() > 1, "a blank picture"
    assert np.abs(first - second).mean() > 0.1

    page.get_by_role("button", name="Back to the router's mixture").click()
    page.wait_for_function("before => document.querySelector(\"figure img[alt='result']\").src === before", arg=before)


def _settle(page: Any, quiet: float = 1.0) -> None:
    """Waits until the picture has stayed the same for a while."""
    last, since = None, time.monotonic()
    while time.monotonic() - since < quiet:
        now = page.locator("figure img[alt='result']").get_attribute("src")
        if now != last:
            last, since = now, time.monotonic()
        page.wait_for_timeout(100)


def test_the_browser_searches_and_follows_a_relation(lab: str, page: Any, screenshots: Path) -> None:
    """By the mouse to an emoji, by the keyboard to a relation; JupyterLab's own shortcuts stay out of it."""
    _open(page, f"{lab}/lab/tree/fresh_{ANALOGIES}.ipynb?reset")
    cell = page.locator(".jp-CodeCell", has_text="browser = Browser()")
    cell.locator(".cm-content").click()
    page.keyboard.press("Shift+Enter")
    widget = cell.locator(".lorweb-browser")
    widget.wait_for()
    cells = page.locator(".jp-Cell").count()
    pictures = widget.locator("[data-part=results] img")
    before = pictures.first.get_attribute("src")

    search = widget.get_by_label("Search by name or keyword")
    search.fill("")
    search.press_sequentially("red heart")
    playwright.expect(widget.get_by_role("status")).to_contain_text("for “red heart”")
    shown = "document.querySelector('.lorweb-browser [data-part=results] img').src"
    page.wait_for_function(f"before => {shown} !== before", arg=before)
    assert 0 < pictures.count() < 10
    widget.get_by_role("button", name="red heart", exact=True).click()
    widget.get_by_role("heading", name="red heart").wait_for()
    drawings = widget.get_by_role("toolbar", name="drawings").get_by_role("button")
    assert drawings.count() == 6

    relation = widget.get_by_role("button", name="hue 120", exact=True)
    relation.focus()
    page.keyboard.press("Enter")
    widget.get_by_role("heading", name="edit: hue 120").wait_for()
    playwright.expect(relation).to_have_attribute("aria-pressed", "true")
    b, answer = (_pixels(x.get_attribute("src")) for x in widget.locator("[data-part=pairs] img").all()[:2])
    assert b.std() > 1 and np.abs(b - answer).mean() > 1
    widget.scroll_into_view_if_needed()
    page.screenshot(path=screenshots / "browser.png")

    page.keyboard.press("ArrowRight")
    page.keyboard.press("b")
    assert page.evaluate("document.activeElement.dataset.value") == "edit/hue=180"
    assert page.locator(".jp-Cell").count() == cells, "a key meant for the widget added a cell"
    page.keyboard.press("Enter")
    widget.get_by_role("heading", name="edit: hue 180").wait_for()
    drawings.get_by_text("Twemoji", exact=True).click()
    playwright.expect(widget.get_by_text("start at the drawing by Twemoji")).to_be_visible()
    changed = _pixels(widget.locator("[data-part=pairs] img").first.get_attribute("src"))
    assert np.abs(b - changed).mean() > 1


COMMITTED = [(START, "mixer = Mixer("), (ANALOGIES, "browser = Browser()")]


@pytest.mark.parametrize(("name", "code"), COMMITTED, ids=[name for name, _ in COMMITTED])
def test_the_committed_notebook_is_never_blank(lab: str, page: Any, screenshots: Path, name: str, code: str) -> None:
    """Opened and not run: still pictures are there, among them the widget's, and no widget's error."""
    page.goto(f"{lab}/lab/tree/committed_{name}.ipynb?reset")
    page.wait_for_selector(".jp-Notebook .jp-Cell")
    cell = page.locator(".jp-CodeCell", has_text=code)
    cell.locator(".jp-OutputArea-output img").wait_for()
    cell.scroll_into_view_if_needed()
    page.screenshot(path=screenshots / f"committed_{name}.png")
    assert page.locator(".jp-OutputArea-output img").count() >= 5
    text = page.locator(".jp-Notebook").inner_text()
    assert "Error displaying widget" not in text and "Loading widget" not in text
