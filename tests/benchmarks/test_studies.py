"""The studies: their cells, their files, and that a cell judged once is not trained again."""

from __future__ import annotations

import csv
import json
import multiprocessing
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from test_benchmarks import tiny_training  # noqa: F401

from benchmarks import sheet, studies
from benchmarks.cells import ABLATIONS, CONTEXT_TOTAL, HEADLINE, PAIR_ADAPTER, SEEDS, STARTER
from benchmarks.pair_adapter import new_pair_editor
from lorweb_mini.adapter import LAYERS, adapted_linears
from lorweb_mini.commands.train import BASES, DEFAULTS, STARTER_KINDS
from lorweb_mini.core.editor import new_editor
from lorweb_mini.emoji.distributions import Distribution, held_out
from lorweb_mini.errors import InputError
from lorweb_mini.models.base import transformer_of
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
    every = studies.cells(study)
    assert len({cell.folder_name for cell in every}) == len(every)
    first = [cell.name for cell in every[: len(studies.STUDIES[study])]]
    assert first == list(studies.STUDIES[study]), "all cells of the first seed come first"
    assert {cell.seed for cell in every[: len(first)]} == {SEEDS[study][0]}
    for cell in every:
        assert replace(BASES["starter"], **cell.change.basis).n_loras >= 1
        assert replace(DEFAULTS["starter"], **cell.change.training).learning_rate > 0


def test_the_headline_has_five_seeds_and_so_has_what_ablations_are_compared_with() -> None:
    for study in ("headline", "ablations"):
        seeds = {name: [c.seed for c in studies.cells(study) if c.name == name] for name in studies.STUDIES[study]}
        five = HEADLINE if study == "headline" else (STARTER,)
        assert all(seeds[name] == [0, 1, 2, 3, 4] for name in five)
        assert all(len(own) == 3 for name, own in seeds.items() if name not in five)


def test_rivals_have_as_many_parameters_as_the_starter() -> None:
    """Counted from the layers: a LoRA of rank r has r (in + out) numbers; routers and adapters by their tensors."""
    starter, adapter = new_editor(BASES["starter"]), ABLATIONS[PAIR_ADAPTER]
    widths = sum(m.in_features + m.out_features for m in starter.basis.modules)
    router = sum(p.numel() for p in starter.router.parameters())
    total = BASES["starter"].n_loras * BASES["starter"].rank * widths + router
    single = ABLATIONS[CONTEXT_TOTAL].basis["rank"] * widths
    other = new_pair_editor(replace(BASES["starter"], **adapter.basis)).router
    paired = adapter.basis["rank"] * widths + sum(p.numel() for p in other.parameters())
    assert max(abs(single - total), abs(paired - total)) <= widths / 2, "the nearest rank"


def test_loras_in_some_layers_have_about_as_many_parameters_as_in_all() -> None:
    every = transformer_of()
    cells = {name: change.basis for name, change in ABLATIONS.items() if "adapted" in change.basis}
    assert len(cells) == len(LAYERS) - 1

    def size(adapted: str, rank: int) -> int:
        layers = [every.get_submodule(name) for name in adapted_linears(every, adapted)]
        return rank * sum(m.in_features + m.out_features for m in layers)

    starter = size("all", BASES["starter"].rank)
    assert all(0.9 < size(own["adapted"], own["rank"]) / starter < 1.1 for own in cells.values())


def test_a_cell_is_trained_judged_and_kept_once(
    tiny_training: None,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(studies.SAMPLES, "dial", 64)
    small = studies.judged_panel
    monkeypatch.setattr(studies, "judged_panel", lambda listed, count, drawn: small(listed, 2, 1))
    path = tmp_path / "dial.csv"
    given = ["dial", "--cells", "8", "--seeds", "0", "--folder", str(tmp_path / "runs"), "--results", str(path)]
    studies.main(given)
    rows = list(csv.DictReader(path.open(encoding="utf-8")))
    assert {row["method"] for row in rows} == {"LoRWeB", "memoriser"}
    assert {"seen", "drawn", "unseen", "drawn edit", "strength", "composition", "outside"} <= {
        row["group"] for row in rows
    }
    memory = {row["group"]: float(row["error"]) for row in rows if row["method"] == "memoriser"}
    assert memory["seen"] < 1e-3 < memory["outside"], "its own relations, and others"
    assert json.loads(rows[0]["settings"])["relations"] == 8 and int(rows[0]["samples"]) == 64
    capsys.readouterr()
    studies.main(given)
    assert list(csv.DictReader(path.open(encoding="utf-8"))) == rows, "judged once"
    studies.main([*given, "--list"])
    assert capsys.readouterr().out == "done 8 0\n"
    monkeypatch.setitem(studies.SAMPLES, "dial", 96)
    with pytest.raises(InputError, match=r"expected a training of 96 samples in .*, got one of 64"):
        studies.main([*given[:-1], str(tmp_path / "other.csv")])


def test_a_cell_that_another_process_holds_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cell = studies.cells("ablations")[0]
    folder = tmp_path / "runs" / cell.folder_name
    monkeypatch.setattr(studies, "trained", lambda *given: None)
    monkeypatch.setattr(
        studies, "rows_of", lambda *given: [{"cell": cell.name, "seed": 0, "group": "g", "method": "m", "error": 0.5}]
    )
    given = [
        "ablations",
        "--cells",
        STARTER,
        "--seeds",
        "0",
        "--folder",
        str(tmp_path / "runs"),
        "--results",
        str(tmp_path / "ablations.csv"),
    ]
    context = multiprocessing.get_context("spawn")
    held = context.Event()
    other = context.Process(target=_hold, args=(folder, held), daemon=True)
    other.start()
    assert held.wait(60)
    studies.main(given)
    assert not (tmp_path / "ablations.csv").exists() and "another process" in capsys.readouterr().out
    other.kill()  # without any chance to clean up
    other.join()
    studies.main(given)
    assert studies.finished(tmp_path / "ablations.csv") == {(STARTER, 0)}


def test_rows_are_added_all_or_none(tmp_path: Path) -> None:
    path = tmp_path / "dial.csv"
    row = {"cell": "8", "seed": 0, "group": "g", "method": "m", "error": 0.5}
    studies.append(path, [row])
    before = path.read_bytes()
    with pytest.raises(ValueError, match="fieldnames"):
        studies.append(path, [row | {"seed": 1}, row | {"unknown": 1}])
    assert path.read_bytes() == before and [x.name for x in tmp_path.iterdir()] == [path.name]
    studies.append(path, [row | {"seed": 1}])
    assert path.read_bytes().startswith(before) and studies.finished(path) == {("8", 0), ("8", 1)}
    path.write_bytes(path.read_bytes().rstrip())  # an editor took the last newline
    studies.append(path, [row | {"seed": 2}])
    assert studies.finished(path) == {("8", 0), ("8", 1), ("8", 2)}
    path.write_text("cell,seed,group,method,error\n8,0,g,m,0.5\n")
    with pytest.raises(InputError, match="expected the columns study"):
        studies.append(path, [row])


@pytest.mark.parametrize("wrong", [["--cells", "8", "nine"], ["--seeds", "77"]])
def test_cells_that_are_not_there(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        studies.main(["dial", "--list", *wrong])
    assert "no cell of dial has" in capsys.readouterr().err


def _hold(folder: Path, held: Any) -> None:
    """Takes the lock of a cell, says so, and keeps it."""
    folder.mkdir(parents=True)
    with FileLock(folder / "lock"):
        held.set()
        time.sleep(600)


def test_forty_questions_with_an_answer_each() -> None:
    items = sheet.questions()
    assert len(items) == len({x.relation for x in items}) == 40
    assert all((x.b - x.b_prime).abs().mean() > 0.01 for x in items)
