"""Exercises and their solutions have not drifted apart: the stub fails its check, the hidden solution passes it."""

from __future__ import annotations

import re
from pathlib import Path

import jupytext
import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[2]
SOLUTION = re.compile(r"<details><summary>Solution</summary>\s*```python\n(.*?)```.*?</details>", re.S)


def _exercises(notebook: nbformat.NotebookNode) -> list[tuple[nbformat.NotebookNode, nbformat.NotebookNode, str]]:
    """Each exercise as (stub cell, check cell after it, the solution's code)."""
    found = []
    for i, cell in enumerate(notebook.cells):
        if "exercise" in cell.metadata.get("tags", []):
            text = "\n".join(c.source for c in notebook.cells[i + 2 : i + 4] if c.cell_type == "markdown")
            match = SOLUTION.search(text)
            assert match, f"no solution after the exercise {cell.source!r}"
            found.append((cell, notebook.cells[i + 1], match.group(1)))
    return found


SOURCES = [p for p in sorted((ROOT / "notebooks").glob("*.py")) if "tags=" in p.read_text(encoding="utf-8")]


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_solutions_pass_their_checks(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORWEB_PROFILE", "smoke")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    notebook = jupytext.read(source, fmt="py:percent")
    exercises = _exercises(notebook)
    assert exercises
    # Both in one run: the check after the stub must refuse, the same check after the solution must accept.
    for _, check, solution in exercises:
        place = notebook.cells.index(check)
        notebook.cells[place + 1 : place + 1] = [
            nbformat.v4.new_code_cell(solution),
            nbformat.v4.new_code_cell(check.source, metadata={"tags": ["solved"]}),
        ]
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources).execute()
    printed = {id(c): "".join(o.get("text", "") for o in c.outputs) for c in notebook.cells if c.cell_type == "code"}
    for _, check, _ in exercises:
        assert printed[id(check)].startswith("Not yet")
    solved = [c for c in notebook.cells if "solved" in c.metadata.get("tags", [])]
    assert len(solved) == len(exercises)
    for cell in solved:
        assert "✓" in printed[id(cell)], printed[id(cell)]
