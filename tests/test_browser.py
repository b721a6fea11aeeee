"""The first notebook in a live JupyterLab: run all, turn a slider by keyboard, see the picture change.

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
NAME = "00_start_here"
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
SECONDS = 120
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
    """Address of a JupyterLab with settings of its own, in a folder that holds a copy of the notebook."""
    home = tmp_path_factory.mktemp("lab")
    course = home / "course"
    course.mkdir()
    source = ROOT / "notebooks" / f"{NAME}.py"
    fresh = jupytext.read(source, fmt="py:percent")
    # Without it JupyterLab asks for a kernel.
    fresh.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    jupytext.write(fresh, course / "fresh.ipynb")
    committed = source.with_suffix(".ipynb")
    if committed.exists():
        shutil.copy(committed, course / "committed.ipynb")
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
    yield opened
    opened.close()


@pytest.fixture
def screenshots(tmp_path: Path) -> Path:
    folder = Path(os.environ.get("LORWEB_SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _pixels(source: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))).convert("RGB"), int)


def test_a_slider_turned_by_keyboard_changes_the_picture(lab: str, page: Any, screenshots: Path) -> None:
    page.goto(f"{lab}/lab/tree/fresh.ipynb?reset")
    page.wait_for_selector(".jp-Notebook .jp-Cell")
    page.wait_for_function("document.querySelector('.jp-NotebookPanel-toolbar') && window.jupyterapp")
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
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


def test_the_committed_notebook_is_never_blank(lab: str, page: Any, screenshots: Path) -> None:
    """Opened and not run: still pictures are there, among them the slider's strip, and no widget's error."""
    page.goto(f"{lab}/lab/tree/committed.ipynb?reset")
    page.wait_for_selector(".jp-Notebook .jp-Cell")
    mixer = page.locator(".jp-CodeCell", has_text="mixer = Mixer(")
    mixer.locator(".jp-OutputArea-output img").wait_for()
    mixer.scroll_into_view_if_needed()
    page.screenshot(path=screenshots / "committed.png")
    assert page.locator(".jp-OutputArea-output img").count() >= 5
    text = page.locator(".jp-Notebook").inner_text()
    assert "Error displaying widget" not in text and "Loading widget" not in text
