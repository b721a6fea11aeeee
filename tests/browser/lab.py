"""A Jupyter server for the browser tests, notebooks in it, and what the tests look at on their pages.

Every wait has an end. Playwright bounds all of its own but ``evaluate``, which waits for a promise as long as that
takes: no script in these tests returns one.
"""

from __future__ import annotations

import base64
import io
import itertools
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import nbformat
import numpy as np
from PIL import Image
from playwright.sync_api import Locator, Page, expect

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ARGUMENTS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]
SECONDS = 90  # after which a wait has failed
CELL_SECONDS = 240  # for a cell, which imports torch first, beside other work on the machine
QUIET_LAB = {
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
    # Otherwise only the cells on the screen are on the page.
    "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},
}
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


# --- the server -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Server:
    """A running Jupyter server: JupyterLab under /lab, Notebook under /notebooks, Voila under /voila.

    Attributes:
        address: without a slash at the end. folder: where its notebooks are. log: what it printed.
    """

    address: str
    folder: Path
    log: Path

    def put(self, name: str, *cells: str) -> None:
        """Writes a notebook of code cells into the folder."""
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        # Without it JupyterLab asks for a kernel.
        notebook.metadata["kernelspec"] = KERNEL
        nbformat.write(notebook, self.folder / name)

    def stop_kernels(self) -> None:
        """Ends every kernel, so that the next test has the processor to itself."""
        for kernel in json.loads(self._ask("GET", "kernels")):
            self._ask("DELETE", f"kernels/{kernel['id']}")

    def wait_for_kernel(self, name: str) -> None:
        """Waits until a page is connected to the kernel of a notebook."""
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            sessions = json.loads(self._ask("GET", "sessions"))
            if any(session["path"] == name and session["kernel"]["connections"] for session in sessions):
                return
            time.sleep(0.1)
        raise AssertionError(f"no page connected to a kernel for {name}; sessions: {sessions}")

    def _ask(self, method: str, path: str) -> bytes:
        request = urllib.request.Request(f"{self.address}/api/{path}", method=method)
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            return answer.read()


@contextmanager
def serving(home: Path) -> Iterator[Server]:
    """A Jupyter server with settings of its own; raises RuntimeError with its log if it does not start."""
    course = home / "course"
    course.mkdir()
    for plugin, settings in QUIET_LAB.items():
        package, _, name = plugin.partition(":")
        folder = home / "settings" / package
        folder.mkdir(parents=True, exist_ok=True)
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
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--LabApp.expose_app_in_browser=True"),
        *("--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}", "--ServerApp.port_retries=0"),
        *("--IdentityProvider.token=", "--ServerApp.password=", "--ServerApp.disable_check_xsrf=True"),
        f"--ServerApp.root_dir={course}",
    ]
    server = Server(f"http://127.0.0.1:{port}", course, home / "server.log")
    with server.log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, cwd=course)
    try:
        _wait_for(server, process)
        yield server
        server.stop_kernels()
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()


def _wait_for(server: Server, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{server.address}/api/status", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise RuntimeError(f"the Jupyter server did not start:\n{server.log.read_text()[-3000:]}")


# --- a notebook in JupyterLab ---------------------------------------------------------------------


class Notebook:
    """A notebook that is open in JupyterLab, or in Notebook 7, with its kernel ready.

    Cells are run one by one and again: the kernel and what it imported stay, a widget starts anew.
    """

    def __init__(self, page: Page, server: Server, name: str, lab: bool = True) -> None:
        self.page, self.server, self.name = page, server, name
        page.goto(f"{server.address}/{'lab/tree' if lab else 'notebooks'}/{name}?reset")
        page.wait_for_selector(".jp-Notebook .jp-Cell")
        page.wait_for_selector(".jp-NotebookPanel-toolbar")
        if lab:
            page.wait_for_function("() => window.jupyterapp")
        # The page says "idle" even before it has asked for a kernel, and a cell that is run then may not be sent.
        server.wait_for_kernel(name)
        page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").wait_for()

    @property
    def cells(self) -> Locator:
        """All cells, code and text."""
        return self.page.locator(".jp-Notebook .jp-Cell")

    def run(self, cell: Locator) -> Locator:
        """Runs a code cell to its end and returns its output; AssertionError if it wrote to stderr or raised."""
        prompt, code = cell.locator(".jp-InputPrompt"), cell.locator(".jp-InputArea .cm-content")
        before = prompt.inner_text()
        code.click()
        code.press("Control+Enter")
        expect(prompt, "the cell was not sent to the kernel").not_to_have_text(before)
        expect(prompt, "the cell did not end").to_have_text(re.compile(r"\[\d+\]"), timeout=CELL_SECONDS * 1000)
        errors = cell.locator("[data-mime-type='application/vnd.jupyter.stderr']")
        assert errors.count() == 0, errors.first.inner_text()
        return cell.locator(".jp-Cell-outputArea")

    def show(self, number: int, name: str) -> Locator:
        """Runs the code cell with this number and returns the widget of the class ``lorweb-NAME`` below it."""
        widget = self.run(self.page.locator(".jp-CodeCell").nth(number)).locator(f".lorweb-{name}")
        widget.wait_for()
        widget.scroll_into_view_if_needed()
        return widget

    def stop_kernel(self) -> None:
        """Ends the kernel, and waits until JupyterLab knows."""
        self.page.evaluate("() => { window.jupyterapp.serviceManager.sessions.shutdownAll() }")
        self.page.get_by_text("No Kernel").first.wait_for()


# --- on a page ------------------------------------------------------------------------------------


def pixels(source: str) -> np.ndarray:
    """The picture at an address that holds its data, [height, width, 3] from 0 to 255."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))).convert("RGB"), int)


def source(picture: Locator) -> str:
    """The address of an <img>."""
    found = picture.get_attribute("src")
    assert found
    return found


def settled(widget: Locator) -> None:
    """Waits until the widget has heard all answers."""
    expect(widget.page.locator("[class^=lorweb][aria-busy=true], [class^=lorweb] [aria-busy=true]")).to_have_count(0)


def changed(picture: Locator, before: str) -> str:
    """Waits for another picture in this place and until the widget rests; the new address."""
    expect(picture).not_to_have_attribute("src", before)
    settled(picture)
    return source(picture)


def differ(*sources: str) -> None:
    """Each is a picture of the same size, none is blank, and each differs from the one before."""
    seen = [pixels(one) for one in sources]
    assert len({x.shape for x in seen}) == 1
    assert all(x.std() > 1 for x in seen), "a blank picture"
    for first, second in itertools.pairwise(seen):
        assert np.abs(first - second).mean() > 0.1
