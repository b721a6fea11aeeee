"""The preflight says what is missing, and never fails itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorweb_mini.show import preflight as module
from lorweb_mini.show.preflight import Check, Preflight, preflight


def test_it_sees_this_environment(no_network: None) -> None:
    report = preflight()
    assert {"Python", "torch", "threads", "free memory", "pictures", "weights", "model hub"} <= {
        check.what for check in report.checks
    }
    assert report.checks[0].ok


def test_missing_data_are_named_not_raised(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LORWEB_DATA", str(tmp_path))
    report = preflight()
    assert not report.ok
    assert "pictures" in report.verdict and "weights" in report.verdict


def test_a_version_out_of_range_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_version", lambda name: None if name == "peft" else "0.0.1")
    monkeypatch.setattr(module, "_ranges", lambda: {"torch": module.Requirement("torch>=2.13,<3")})
    found = {check.what: check for check in preflight().checks}
    assert not found["torch"].ok and found["torch"].needed == "<3,>=2.13"
    assert not found["peft"].ok and found["peft"].here == "missing"
    assert found["diffusers"].ok


def test_a_table_without_paths() -> None:
    report = Preflight((Check("a", "<1>", "2", True), Check("b", "3", "4", False)))
    assert "&lt;1&gt;" in report._repr_html_()
    assert report.verdict == "Have a look at: b."
    home = str(Path.home())
    assert len(home) < 2 or home not in preflight()._repr_html_()
