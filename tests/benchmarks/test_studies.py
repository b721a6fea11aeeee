"""The studies: their cells, their files, and that a cell judged once is not trained again."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from test_benchmarks import tiny_training  # noqa: F401

from benchmarks import sheet, studies
from lorweb_mini.commands.train import BASES, STARTER_KINDS
from lorweb_mini.emoji.distributions import Distribution, held_out
from lorweb_mini.errors import InputError
from lorweb_mini.training.analogies import Listed


def test_lists_of_relations_are_nested_and_hold_nothing_out() -> None:
    every = Distribution(STARTER_KINDS, held_out())
    small, large = Listed(every, 8), Listed(every, 64)
    assert small.chains.as_lists() == large.chains.as_lists()[:8]
    assert not held_out().chains(large.chains).any()
    drawn = large.draw(np.random.default_rng(0), 500).as_lists()
    assert {str(x) for x in drawn} == {str(x) for x in large.chains.as_lists()}
    with pytest.raises(InputError, match="expected from 1 to 4096 relations, got 0"):
        Listed(every, 0)


@pytest.mark.parametrize("study", list(studies.STUDIES))
def test_every_cell_is_a_shape_that_can_be(study: str) -> None:
    from dataclasses import replace

    names = [cell.folder_name for cell in studies.cells(study)]
    assert len(set(names)) == len(names) == len(studies.SEEDS) * len(studies.STUDIES[study])
    for cell in studies.cells(study):
        assert replace(BASES["starter"], **cell.basis).n_loras >= 1


def test_a_cell_is_trained_judged_and_kept_once(
    tiny_training: None,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(studies.SAMPLES, "dial", 64)
    small = studies.judged_panel
    monkeypatch.setattr(studies, "judged_panel", lambda cell, count, drawn: small(cell, 2, 1))
    path = tmp_path / "dial.csv"
    given = ["dial", "--cells", "8", "--seeds", "0", "--folder", str(tmp_path / "runs"), "--results", str(path)]
    studies.main(given)
    rows = list(csv.DictReader(path.open(encoding="utf-8")))
    assert {row["method"] for row in rows} == {"LoRWeB", "memoriser"}
    assert {"seen", "drawn edit", "strength", "composition", "inside", "outside"} <= {row["group"] for row in rows}
    memory = {row["group"]: float(row["error"]) for row in rows if row["method"] == "memoriser"}
    assert memory["seen"] < 1e-3 < memory["outside"], "its own relations, and others"
    assert json.loads(rows[0]["settings"])["relations"] == 8 and int(rows[0]["samples"]) == 64
    capsys.readouterr()
    studies.main(given)
    assert list(csv.DictReader(path.open(encoding="utf-8"))) == rows, "judged once"
    studies.main([*given, "--list"])
    assert capsys.readouterr().out == "done 8 0\n"


def test_forty_questions_with_an_answer_each() -> None:
    items = sheet.questions()
    assert len(items) == len({x.relation for x in items}) == 40
    assert all((x.b - x.b_prime).abs().mean() > 0.01 for x in items)
