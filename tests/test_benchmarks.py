"""The benchmarks run and check what they measure; how fast anything is, no test asks."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import ROOT
from tiny_models import tiny_data

from lorweb_mini.images import data_dir


@pytest.fixture(autouse=True)
def from_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))


def _tables(printed: str) -> list[dict[str, list[str]]]:
    """Every Markdown table: first cell of a row to its other cells, the heading under ``""``."""
    tables: list[dict[str, list[str]]] = []
    for block in printed.split("\n\n"):
        if block.startswith("|"):
            rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()]
            tables.append({"": rows[0][1:]} | {row[0]: row[1:] for row in rows[2:]})
    return tables


def test_mixing_has_every_method_and_checks_each(capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks import mixing

    mixing.main(["--quick"])
    tables = _tables(capsys.readouterr().out)
    assert len(tables) == 2, "one Linear and one step"
    for table in tables:
        heading = table.pop("")
        assert list(table) == list(mixing.ROWS)
        difference = heading.index("difference")
        assert all(float(table[name][difference]) <= mixing.TOLERANCE for name in mixing.CHECKED)
        assert {float(x) for x in table[mixing.BARE][:4]} == {1.0}, "the bare base is the measure"
        trained = [name for name in table if "–" not in table[name][:4]]
        assert trained == [mixing.BARE, mixing.PLAIN, mixing.GATE, mixing.RELEASED, mixing.LOOP]


@pytest.mark.parametrize("wrong", ["b...i,nir,bm,nro->b...o", "b...i,nir,bn,mro->b...o"])
def test_mixing_refuses_to_time_a_wrong_formula(monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    from benchmarks import mixing

    monkeypatch.setattr(mixing, "EINSUM", wrong)
    with pytest.raises(RuntimeError, match=r"einsum .* differs from the naive loop"):
        mixing.section(mixing.linear(32, rounds=1), batch=2, sizes=(3,), rank=2)


def test_editing_has_every_method_and_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from benchmarks import editing

    real = data_dir() / "emoji"
    data = tiny_data(tmp_path / "data", monkeypatch)
    (data / "emoji" / "emoji.json").unlink()
    for file in real.iterdir():
        (data / "emoji" / file.name).symlink_to(file)
    editing.main(["--quick"])
    start, edit, part = _tables(capsys.readouterr().out)
    assert {"`import lorweb_mini`", "then `lw.load('starter')`", "then first edit, 2 steps"} < set(start)
    assert "then `load_emoji()`" in start
    assert all(float(cell) > 0 for name, row in start.items() if name for cell in row)
    assert list(edit)[1:] == list(editing.METHODS)
    assert list(part)[-1] == editing.WHOLE and len(part) == 6


@pytest.mark.parametrize("name", ["mixing", "editing"])
def test_a_quick_run_is_never_saved(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    from importlib import import_module

    with pytest.raises(SystemExit):
        import_module(f"benchmarks.{name}").main(["--quick", "--save"])
    assert "not saved" in capsys.readouterr().err
