"""Each notebook equals its source, was executed without an error, stays small, and runs from top to end.

It is executed once: each exercise is left open first, so that its check refuses the stub, and then solved by the hidden
solution, so that the same check accepts it.
"""

from __future__ import annotations

import re
from pathlib import Path

import jupytext
import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "notebooks").glob("*.py"))
BYTES = 3_000_000
SECONDS = 600
SOLUTION = re.compile(r"<details><summary>Solution</summary>\s*```python\n(.*?)```.*?</details>", re.S)

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
    assert not [o for o in outputs if "%|" in str(o.get("data", {}).get("text/plain", ""))], "a dead progress bar"
    assert str(ROOT) not in path.read_text(encoding="utf-8"), "an output shows a path of one machine"


def _exercises(notebook: nbformat.NotebookNode) -> list[tuple[nbformat.NotebookNode, str]]:
    """Each exercise as its check, the cell after the stub, and the code of its solution, in the text after that."""
    exercises = []
    for i, cell in enumerate(notebook.cells):
        if "exercise" in cell.metadata.get("tags", []):
            text = "\n".join(c.source for c in notebook.cells[i + 2 : i + 4] if c.cell_type == "markdown")
            match = SOLUTION.search(text)
            assert match, f"no solution after the exercise {cell.source!r}"
            exercises.append((notebook.cells[i + 1], match.group(1)))
    return exercises


def _printed(cell: nbformat.NotebookNode) -> str:
    return "".join(output.get("text", "") for output in cell.outputs)


@each_notebook
def test_notebook_runs(source: Path, tmp_path: Path, offline_environment: dict[str, str]) -> None:
    """In the smoke profile, away from the checkout, in a kernel that has no network."""
    notebook = jupytext.read(source, fmt="py:percent")
    exercises = _exercises(notebook)
    assert exercises, "a notebook without an exercise"
    again = []
    for check, solution in exercises:
        again.append(nbformat.v4.new_code_cell(check.source))
        place = notebook.cells.index(check) + 1
        notebook.cells[place:place] = [nbformat.v4.new_code_cell(solution), again[-1]]
    client = NotebookClient(
        notebook, timeout=SECONDS, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    # The environment is the kernel's alone: this process talks to it over loopback.
    client.execute(env=offline_environment | {"IPYTHONDIR": str(tmp_path / "ipython")})
    for (check, _), solved in zip(exercises, again, strict=True):
        assert _printed(check).startswith("Not yet"), _printed(check)
        assert "✓" in _printed(solved), _printed(solved)
