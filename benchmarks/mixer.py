"""How fast the picture follows a slider: from the slider to the picture, in the kernel and in a browser.

    .venv/bin/python -m benchmarks.mixer                    # two minutes; --save writes results/mixer.md
    .venv/bin/python -m benchmarks.mixer --browser          # in a live JupyterLab with Chromium as well
    .venv/bin/python -m benchmarks.mixer --weights FOLDER   # a basis that training wrote
    .venv/bin/python -m benchmarks.mixer --quick            # once each: shows that it works

Every method renders one new mixture after the other, as a user who drags a slider asks for it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import quantiles

import nbformat
import torch
from torch import Tensor

import lorweb_mini as lw
from lorweb_mini.analysis.evaluation import by_relation
from lorweb_mini.core.editor import Editor
from lorweb_mini.emoji.relations import Analogy, as_batch, select
from lorweb_mini.images import to_pil
from lorweb_mini.widgets.base import png_url
from lorweb_mini.widgets.mixer import GAIN_MAX, Mixer, MixturePanel
from lorweb_mini.widgets.pads import Pads
from lorweb_mini.widgets.rendering import Renderer

from .model_card import evaluate_with_sharpness
from .timing import conditions, interleaved, markdown, write

TOLERANCE = 2e-3  # of a picture in [-1, 1]; a grey level is 8e-3
GENERATE, FREEZE, RENDERER = "`generate`", "`freeze`, then `generate`", "`Renderer`"
METHODS = (GENERATE, FREEZE, RENDERER)
FRAME = "the whole frame"
PARTS = ("sliders to coefficients", "steps", "latent to picture", "picture to PNG", FRAME)
TURN, MOVE = "a slider of `Mixer` turned", "the point of `Pads` moved"
RELATIONS = ("edit/invert", "edit/hue=120", "edit/grey", "edit/blur=4")
ROOT = Path(__file__).resolve().parents[1]


def spread(seconds: Sequence[float]) -> list[str]:
    """Median and 95th percentile in milliseconds."""
    cuts = quantiles(seconds, n=20, method="inclusive")
    return [f"{1e3 * cuts[9]:.3g}", f"{1e3 * cuts[18]:.3g}"]


# --- in the kernel --------------------------------------------------------------------------------


def cycle(mixtures: Sequence[Tensor], draw: Callable[[Tensor], object]) -> Callable[[], object]:
    """Draws under the next mixture at every call."""
    following = itertools.cycle(mixtures)
    return lambda: draw(next(following))


def pictures_table(editor: Editor, one: Analogy, mixtures: Sequence[Tensor], steps: Sequence[int], rounds: int) -> str:
    """Milliseconds a picture by method and number of steps; the pictures are compared first."""
    context = (one.a, one.a_prime)
    runs: dict[tuple[str, int], Callable[[], object]] = {}
    for count in steps:
        renderer = Renderer(editor, one.b, context, count)
        generate = partial(editor.generate, one.b, context=context, steps=count)
        for mixture in mixtures[:3]:
            difference = float((renderer(mixture) - generate(mixture).pictures[0]).abs().max())
            if not difference <= TOLERANCE:
                raise RuntimeError(f"{RENDERER}: the pictures differ by {difference:.1e}")

        def freeze(mixture: Tensor, generate: Callable = generate) -> None:
            with editor.freeze(mixture):
                generate(mixture)

        methods = {GENERATE: generate, FREEZE: freeze, RENDERER: renderer}
        runs |= {(name, count): cycle(mixtures, method) for name, method in methods.items()}
    seconds = interleaved(runs, rounds)
    rows = [[name, *(cell for count in steps for cell in spread(seconds[name, count]))] for name in METHODS]
    head = [f"{count} step{'s' if count > 1 else ''}, {what}" for count in steps for what in ("median", "95 %")]
    return markdown(["ms a picture", *head], rows)


def parts_table(mixer: Mixer, rounds: int) -> str:
    """Milliseconds of each part of a frame."""
    renderer = mixer.renderer
    mixer.turn(mixer.loras[0], 2.0)
    with torch.inference_mode():
        mixture = mixer.mixture
        drawn = renderer.draw(mixture)
        picture = to_pil(renderer(mixture))
        runs: dict[str, Callable[[], object]] = {
            PARTS[0]: lambda: mixer.mixture,
            PARTS[1]: lambda: renderer.draw(mixture),
            PARTS[2]: lambda: renderer.backend.decode(drawn),
            PARTS[3]: lambda: png_url(picture),
            FRAME: mixer.refresh,
        }
        seconds = interleaved(runs, rounds)
    return markdown(["ms", "median", "95 %"], [[name, *spread(seconds[name])] for name in PARTS])


def answers(widget: MixturePanel, changes: Sequence[list]) -> list[float]:
    """Seconds from each message of a page until it is answered, with its picture on the page."""
    seconds = []
    for number, change in enumerate(changes):
        started = time.perf_counter()
        widget.receive({"ask": "set", "value": change, "id": f"benchmark:{number}"})
        seconds.append(time.perf_counter() - started)
    return seconds[1:]


def kernel_table(mixer: Mixer, pads: Pads, count: int) -> str:
    """Milliseconds from the page's message to the picture, one message at a time."""
    lora = str(mixer.loras[0])
    gains = [[lora, GAIN_MAX * (i % 33) / 32] for i in range(count)]
    points = [["point", [(i % 21) / 20, (i % 17) / 16]] for i in range(count)]
    rows = [[TURN, *spread(answers(mixer, gains))], [MOVE, *spread(answers(pads, points))]]
    return markdown(["ms in the kernel", "median", "95 %"], rows)


def errors_table(editor: Editor, names: Sequence[str], each: int, steps: Sequence[int]) -> str:
    """What fewer steps cost: the measures of the README on validation analogies."""
    items = lw.analogies("val", names, n=each)
    methods = {
        str(count): lambda part, count=count: editor.edit(*as_batch(part)[:3], steps=count).pictures for count in steps
    }
    data = by_relation(items)
    found, sharpness = evaluate_with_sharpness(methods, data, editor.autoencoder, {"all": list(data)})
    rows = [
        [name, *map(str, (score.error, score.edited_error, score.preserved_error, sharpness["all"][name]))]
        for name, score in found.groups["all"].items()
    ]
    return markdown(["steps", "normalised error", "on edited pixels", "preserved, grey levels", "sharpness"], rows)


# --- in a browser ---------------------------------------------------------------------------------

SOURCE = """
import torch
torch.set_num_threads({threads})
import lorweb_mini as lw
from lorweb_mini.widgets.pads import Pads
from lorweb_mini.widgets.mixer import Mixer
editor = lw.load({weights!r})
items = [lw.analogies("val", name, n=1)[0] for name in {relations!r}]
one = items[0]
mixer = Mixer(editor, one.b, editor.route(one.a, one.a_prime, one.b), (one.a, one.a_prime))
"""
# From the event of the user to the moment after the frame with the new picture was painted.
WATCH = """number => {
  const page = document.querySelectorAll(".lorweb-mixer, .lorweb-pads")[number];
  const seen = (window.seen = { times: [], since: null });
  for (const kind of ["keydown", "pointermove"])
    page.addEventListener(kind, (event) => { seen.since ??= event.timeStamp; }, true);
  new MutationObserver(() => {
    const since = seen.since;
    seen.since = null;
    if (since === null) return;
    const painted = () => seen.times.push(performance.now() - since);
    page.querySelector("img[alt=result]").decode().then(() => requestAnimationFrame(() => setTimeout(painted)));
  }).observe(page.querySelector("[data-part=pictures]"), { childList: true });
}"""


@contextmanager
def lab() -> Iterator[str]:
    """Address of a JupyterLab of its own."""
    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        names = ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTERLAB_WORKSPACES_DIR")
        environment = os.environ | {name: f"{folder}/{name}" for name in names} | {"HF_HUB_OFFLINE": "1"}
        command = [
            *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--IdentityProvider.token="),
            *("--LabApp.expose_app_in_browser=True", "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}"),
            f"--ServerApp.root_dir={folder}",
        ]
        with open(Path(folder) / "log", "wb") as log:
            server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=ROOT)
        address = f"http://127.0.0.1:{port}"
        try:
            for _ in range(400):
                try:
                    urllib.request.urlopen(f"{address}/api/status", timeout=5).close()
                    break
                except (urllib.error.URLError, OSError):
                    time.sleep(0.3)
            yield address
        finally:
            server.terminate()
            server.wait(20)


def browser_table(weights: str, count: int) -> str:
    """Milliseconds from a key or a mouse to the painted picture, and pictures a second while the mouse drags."""
    from playwright.sync_api import sync_playwright

    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        raise RuntimeError("expected Chromium on the path, found none")
    source = SOURCE.format(weights=weights, relations=RELATIONS, threads=torch.get_num_threads())
    cells = [source + "mixer", "Pads(editor, items, one.b)"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    rows = []
    with lab() as address, sync_playwright() as p:
        # A system Chromium may lack the headless mode that Playwright's own switch asks for.
        browser = p.chromium.launch(
            executable_path=chromium, headless=False, args=["--headless=new", "--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.set_default_timeout(300_000)
        page.goto(f"{address}/lab?reset")
        page.wait_for_function("() => window.jupyterapp")
        page.evaluate(
            "([name, text]) => window.jupyterapp.serviceManager.contents.save("
            "name, {type: 'notebook', format: 'json', content: JSON.parse(text)})",
            ["mixer.ipynb", json.dumps(notebook)],
        )
        page.goto(f"{address}/lab/tree/mixer.ipynb?reset")
        page.wait_for_selector(".jp-Notebook .jp-Cell")
        page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
        page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells') }")
        page.locator(".lorweb-pads").wait_for()
        page.wait_for_timeout(2000)
        for number, (name, control) in enumerate(((TURN, "input[type=range]"), (MOVE, "[role=slider]"))):
            handle = page.locator(".lorweb-mixer, .lorweb-pads").nth(number).locator(control).first
            handle.scroll_into_view_if_needed()
            handle.focus()
            page.evaluate(WATCH, number)
            for i in range(count):
                page.keyboard.press("ArrowRight" if i // 9 % 2 == 0 else "ArrowLeft")
                page.wait_for_function("count => window.seen.times.length >= count", arg=i + 1)
            single = page.evaluate("() => window.seen.times.splice(0)")
            box = handle.bounding_box()
            x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
            page.mouse.move(x, y)
            page.mouse.down()
            started = time.perf_counter()
            for i in range(3 * count):
                page.mouse.move(x + 60 * (i % 40 / 20 - 1 if i % 80 < 40 else 1 - i % 40 / 20), y + i % 7)
                page.wait_for_timeout(8)
            page.mouse.up()
            dragged, seconds = page.evaluate("() => window.seen.times.splice(0)"), time.perf_counter() - started
            rows.append([f"{name}, by key", *spread([t / 1e3 for t in single[1:]]), "–"])
            rows.append([f"{name}, dragged", *spread([t / 1e3 for t in dragged]), f"{len(dragged) / seconds:.0f}"])
        browser.close()
    return markdown(["ms in the browser", "median", "95 %", "pictures a second"], rows)


# --- everything -----------------------------------------------------------------------------------


def report(weights: str, quick: bool, browser: bool) -> str:
    """Everything as Markdown."""
    steps, rounds, count = ((1, 2), 2, 3) if quick else ((1, 2, 4, 8), 25, 100)
    editor = lw.load(weights)
    items = [lw.analogies("val", name, n=1)[0] for name in RELATIONS]
    one = items[0]
    mixtures = list(editor.route([x.a for x in items], [x.a_prime for x in items], one.b))
    mixer = Mixer(editor, one.b, mixtures[0], (one.a, one.a_prime))
    sections = [
        "# From the slider to the picture",
        f"`lw.load({weights!r})`: {editor.config.n_loras} LoRAs of rank {editor.config.rank}, layout "
        f"{editor.config.layout!r}; {conditions()}",
        "## One picture under a new mixture\n\n" + pictures_table(editor, one, mixtures, steps, rounds),
        f"The pictures agree to within {TOLERANCE:g} of [-1, 1].",
        "## Its parts\n\n" + parts_table(mixer, rounds),
        "## In the kernel\n\n" + kernel_table(mixer, Pads(editor, items, one.b), count),
        f"Euler steps of a picture, here and below: {mixer.steps}. From the page's message to the new picture in the "
        "page's model.",
    ]
    if browser:
        sections += [
            "## In the browser\n\n" + browser_table(weights, count),
            "A live JupyterLab, from the key or the mouse to the painted picture. By key each picture is waited for; "
            "dragged, the first movement counts that the picture before did not show yet.",
        ]
    names = sorted(r.name for r in select("seen", starter=weights == "starter") if len(r.pairs("val")))
    # Some sixty relations tell, and take half a minute.
    names = RELATIONS[:1] if quick else names[:: -(-len(names) // 60)]
    sections += [
        "## What fewer steps cost\n\n"
        + errors_table(editor, names, 2 if quick else 4, steps if quick else (*steps, 16)),
        "Validation analogies of the relations that the basis was trained on; copying b scores 1, the truth has a "
        "sharpness of 1.",
    ]
    return "\n\n".join(sections)


def main(arguments: list[str] | None = None) -> None:
    """Parses the command line and measures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mixer", description=__doc__)
    parser.add_argument("--weights", default="full", help="'starter', 'full' or a folder with a trained basis")
    parser.add_argument("--browser", action="store_true", help="measure in JupyterLab too; needs Playwright, Chromium")
    parser.add_argument("--quick", action="store_true", help="everything once; the numbers mean nothing")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/mixer.md")
    options = parser.parse_args(arguments)
    if options.quick and options.save:
        parser.error("a quick run's numbers mean nothing and are not saved")
    text = report(options.weights, options.quick, options.browser)
    print(text)
    if options.save:
        write("mixer", text)


if __name__ == "__main__":
    main()
