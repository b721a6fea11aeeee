"""Generate every notebook of the course from its py:percent source and execute it.

    python notebooks/build/execute.py              # all of them
    python notebooks/build/execute.py 00_start_here

The source `NAME.py` is what people edit; `NAME.ipynb` beside it is written by this script only. Outputs are
executed in the profile that LORWEB_PROFILE names and committed, so that a reader without a kernel sees them.
"""

from __future__ import annotations

import argparse
import base64
import os
import time
from io import BytesIO
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from PIL import Image

NOTEBOOKS = Path(__file__).resolve().parents[1]
ROOT = NOTEBOOKS.parent
SECONDS_PER_CELL = 1800
MEGABYTES = 3
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"


def read_source(path: Path) -> nbformat.NotebookNode:
    """The notebook of a py:percent file; metadata and cell ids do not change from run to run."""
    notebook = jupytext.read(path, fmt="py:percent")
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
            "jupytext": {"formats": "ipynb,py:percent"},
        }
    )
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:03d}"
    return notebook


def execute(notebook: nbformat.NotebookNode, folder: Path, seconds: int = SECONDS_PER_CELL) -> None:
    """Run all cells in place with `folder` as the working directory; raises at the first cell that fails."""
    client = NotebookClient(
        notebook,
        timeout=seconds,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
        coalesce_streams=True,
        store_widget_state=False,
    )
    client.execute()


def without_widgets(notebook: nbformat.NotebookNode) -> None:
    """Drop live views, which show an error where no kernel runs; the still picture beside each of them stays.

    A view without one, such as a progress bar, goes as a whole.
    """
    for cell in notebook.cells:
        kept = []
        for output in cell.get("outputs", []):
            view = output.get("data", {}).pop(WIDGET_VIEW, None)
            if view is None or set(output["data"]) != {"text/plain"}:
                kept.append(output)
        if "outputs" in cell:
            cell.outputs = kept


def without_alpha(notebook: nbformat.NotebookNode) -> None:
    """Store opaque pictures without their alpha channel: the same pixels in a tenth less space."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            png = output.get("data", {}).get("image/png")
            if png is None:
                continue
            picture = Image.open(BytesIO(base64.b64decode(png)))
            if picture.mode == "RGBA" and picture.getextrema()[3] == (255, 255):
                smaller = BytesIO()
                picture.convert("RGB").save(smaller, "PNG", optimize=True)
                output["data"]["image/png"] = base64.b64encode(smaller.getvalue()).decode()


def without_local_paths(text: str) -> str:
    """`text` with the place of this checkout and the home folder taken out."""
    for place, name in ((ROOT, "lorweb_mini-checkout"), (Path.home(), "~")):
        if len(str(place)) > 1:
            text = text.replace(str(place), name)
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="notebooks without their ending; all when none is given")
    names = parser.parse_args().names or sorted(path.stem for path in NOTEBOOKS.glob("*.py"))
    os.environ.setdefault("HF_HUB_OFFLINE", "1")

    for name in names:
        notebook = read_source(NOTEBOOKS / f"{name}.py")
        start = time.perf_counter()
        execute(notebook, NOTEBOOKS)
        without_widgets(notebook)
        without_alpha(notebook)
        seconds = time.perf_counter() - start
        text = without_local_paths(nbformat.writes(notebook)) + "\n"
        size = len(text.encode()) / 1e6
        if size > MEGABYTES:
            largest = sorted((len(str(cell.get("outputs", ""))) / 1e6, cell.id) for cell in notebook.cells)[:-6:-1]
            cells = ", ".join(f"{cell} {megabytes:.2f} MB" for megabytes, cell in largest)
            raise SystemExit(f"{name}: {size:.2f} MB, at most {MEGABYTES} MB are committed; the largest: {cells}")
        (NOTEBOOKS / f"{name}.ipynb").write_text(text, encoding="utf-8")
        print(f"{name}: {seconds:.0f} s, {size:.2f} MB")


if __name__ == "__main__":
    main()
