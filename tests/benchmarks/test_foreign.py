"""The study of a foreign style leaves the published file alone in a quick run."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import foreign
from lorweb_mini.analysis.unseen import Panel


def test_a_quick_run_is_kept_only_where_it_is_asked_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreign, "data_dir", lambda: tmp_path)
    monkeypatch.setattr(foreign, "panel", lambda *given: Panel({}, {}))
    monkeypatch.setattr(foreign, "rows_of", lambda *given, **options: [])
    foreign.main(["--quick"])
    assert not list(tmp_path.iterdir())
    foreign.main(["--quick", "--results", str(tmp_path / "quick.csv")])
    foreign.main([])
    assert (tmp_path / "quick.csv").read_text() == (tmp_path / "results" / "foreign.csv").read_text() != ""
