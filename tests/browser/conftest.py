"""One Jupyter server and one Chromium for all tests of this folder; what they showed when a test failed.

Skips where there is no Chromium or no Playwright. Screenshots go to pytest's temporary folder, or to
$LORWEB_SCREENSHOTS.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright.sync_api")
pytest.importorskip("jupyterlab")

from playwright.sync_api import Browser, Page, expect, sync_playwright

from .lab import ARGUMENTS, CHROMIUM, SECONDS, Notebook, Server, serving

FOLDER = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without a browser nothing of this folder runs."""
    if CHROMIUM is None:
        for item in items:
            if FOLDER in item.path.parents:
                item.add_marker(pytest.mark.skip(reason="no Chromium here"))


# Of the package and not of the session: until Playwright is stopped its event loop counts as running in this thread,
# and the tests that come later start loops of their own.
@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A Jupyter server for all tests of this folder."""
    with serving(tmp_path_factory.mktemp("server")) as started:
        yield started


@pytest.fixture(scope="package")
def chromium() -> Iterator[Browser]:
    """A browser for all tests of this folder."""
    with sync_playwright() as p:
        # Playwright's own headless switch asks for a mode that a system Chromium may lack; ARGUMENTS has the right one.
        launched = p.chromium.launch(executable_path=CHROMIUM, headless=False, args=ARGUMENTS)
        expect.set_options(timeout=SECONDS * 1000)
        yield launched
        launched.close()


@contextmanager
def _opened(chromium: Browser) -> Iterator[Page]:
    context = chromium.new_context(viewport={"width": 1400, "height": 1000})
    context.set_default_timeout(SECONDS * 1000)
    yield context.new_page()
    context.close()


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    """A page of one test."""
    with _opened(chromium) as opened:
        yield opened


@pytest.fixture(scope="module")
def notebook(request: pytest.FixtureRequest, chromium: Browser, server: Server) -> Iterator[Notebook]:
    """One notebook in JupyterLab with one kernel for the tests of a file; the file names its cells in CELLS."""
    name = f"{request.module.__name__.rpartition('.')[2]}.ipynb"
    server.put(name, *request.module.CELLS)
    with _opened(chromium) as opened:
        yield Notebook(opened, server, name)
    server.stop_kernels()


@pytest.fixture
def screenshots(tmp_path: Path) -> Path:
    """Where screenshots go."""
    folder = Path(os.environ.get("LORWEB_SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """Leaves a screenshot of every open page and the end of the server's log behind a failure."""
    report = yield
    found = getattr(item, "funcargs", {})
    if report.failed and FOLDER in item.path.parents:
        if isinstance(found.get("server"), Server):
            report.sections.append(("Jupyter server", found["server"].log.read_text()[-3000:]))
        if isinstance(found.get("chromium"), Browser):
            folder = Path(os.environ.get("LORWEB_SCREENSHOTS", tempfile.gettempdir()))
            shown = [opened for context in found["chromium"].contexts for opened in context.pages]
            for number, opened in enumerate(shown):
                path = folder / f"failed_{item.name}_{number}.png"
                opened.screenshot(path=path, timeout=10_000)
                report.sections.append(("Screenshot", str(path)))
    return report
