"""Each notebook equals its source, was executed without an error, stays small, and runs from top to end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import jupytext
import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "notebooks").glob("*.py"))
BYTES = 3_000_000
SECONDS = 600

RUN = """
import sys
import nbformat
from nbclient import NotebookClient

NotebookClient(
    nbformat.read(sys.argv[1], as_version=4),
    timeout=int(sys.argv[2]),
    kernel_name="offline",
    resources={"metadata": {"path": sys.argv[3]}},
).execute()
"""

each_notebook = pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)


def _cells(notebook: nbformat.NotebookNode) -> list[tuple[str, str, list[str]]]:
    return [(cell.cell_type, cell.source, cell.metadata.get("tags", [])) for cell in notebook.cells]


def test_the_course_has_its_first_notebook() -> None:
    assert "00_start_here" in {path.stem for path in SOURCES}


def test_no_notebook_without_a_source() -> None:
    generated = {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert generated == {path.stem for path in SOURCES}


@each_notebook
def test_notebook_equals_its_source(source: Path) -> None:
    generated = nbformat.read(source.with_suffix(".ipynb"), as_version=4)
    nbformat.validate(generated)
    written = jupytext.read(source, fmt="py:percent")
    assert _cells(generated) == _cells(written), f"{source.name} changed: run `make notebooks`"


@each_notebook
def test_committed_outputs(source: Path) -> None:
    path = source.with_suffix(".ipynb")
    assert path.stat().st_size < BYTES
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    # Counted one after the other: executed from top to end in one go, not cell by cell.
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert outputs, "no outputs committed"
    assert not [output for output in outputs if output.output_type == "error"]
    assert str(ROOT) not in path.read_text(encoding="utf-8"), "an output shows a path of one machine"


@each_notebook
def test_notebook_runs(source: Path, tmp_path: Path, offline_environment: dict[str, str]) -> None:
    """In the smoke profile, away from the checkout, in a kernel that has no network."""
    notebook = tmp_path / f"{source.stem}.ipynb"
    jupytext.write(jupytext.read(source, fmt="py:percent"), notebook)
    # The process that starts the kernel talks to it over loopback; only the kernel is walled in.
    folder = tmp_path / "kernels" / "kernels" / "offline"
    folder.mkdir(parents=True)
    (folder / "kernel.json").write_text(
        json.dumps(
            {
                "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
                "display_name": "Python without network",
                "language": "python",
                "env": {"PYTHONPATH": offline_environment["PYTHONPATH"]},
            }
        )
    )
    environment = {name: value for name, value in offline_environment.items() if name != "PYTHONPATH"}
    environment |= {"JUPYTER_PATH": str(tmp_path / "kernels"), "IPYTHONDIR": str(tmp_path / "ipython")}
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(notebook), str(SECONDS), str(tmp_path)],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=SECONDS + 60,
    )
    assert done.returncode == 0, done.stderr[-4000:]
