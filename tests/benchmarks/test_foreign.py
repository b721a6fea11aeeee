"""The study of a foreign style: its questions and rows, and that a quick run leaves the published file alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_models import tiny_editor

from benchmarks import foreign
from lorweb_mini.analysis.unseen import Panel
from lorweb_mini.emoji.relations import get_relation
from lorweb_mini.emoji.sheets import load_emoji


def test_a_quick_run_is_kept_only_where_it_is_asked_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreign, "data_dir", lambda: tmp_path)
    monkeypatch.setattr(foreign, "panel", lambda *given: Panel({}, {}))
    monkeypatch.setattr(foreign, "rows_of", lambda *given, **options: [])
    foreign.main(["--quick"])
    assert not list(tmp_path.iterdir())
    foreign.main(["--quick", "--results", str(tmp_path / "quick.csv")])
    foreign.main([])
    assert (tmp_path / "quick.csv").read_text() == (tmp_path / "results" / "foreign.csv").read_text() != ""


def test_foreign_questions_are_the_same_in_every_style() -> None:
    names = ["edit/invert", "edit/hue=120", "edit/background=280"]
    asked = foreign.questions(names, 3)
    assert set(asked) == set(foreign.CONDITIONS)
    first = asked[foreign.LINES, foreign.LINES]
    assert [x.relation for x in first] == ["edit/invert"] * 3 + ["edit/background=280"] * 3, "hue shows on no black"
    for (pair, style), items in asked.items():
        assert [x.relation for x in items] == [x.relation for x in first]
        for item, other in zip(items, first, strict=True):
            expected = [foreign.SHEETS[s] for s in (pair, pair, style, style)]
            assert [k.split("@")[1] for k in item.keys] == expected
            assert [k.split("@")[0] for k in item.keys] == [k.split("@")[0] for k in other.keys]
            apply = get_relation(item.relation).apply_edits
            assert torch.equal(item.a_prime, apply(item.a[None])[0])
            assert torch.equal(item.b_prime, apply(item.b[None])[0])
            if style == pair == foreign.COLOURS:
                assert torch.equal(item.b, load_emoji().tensor(load_emoji().find(item.keys[2].split("@")[0]), 5)[0])


def test_foreign_rows_compare_with_line_drawings(monkeypatch: pytest.MonkeyPatch) -> None:
    editor = tiny_editor()
    monkeypatch.setattr(foreign, "load", lambda weights: editor)
    names = ["edit/invert", "edit/background=280"]
    rows = foreign.rows_of("full", Panel({}, {"drawn edit": names, "strength": names[:1]}), 6, 1)
    assert {(r["group"], r["relations"], r["analogies"]) for r in rows} == {("drawn", 2, 12), ("unseen", 1, 6)}
    assert {r["method"] for r in rows} == {"LoRWeB", "words alone", "autoencoder"} and len(rows) == 30
    by_cell = {(r["cell"], r["method"]): r for r in rows if r["group"] == "drawn"}
    lines = f"pair: {foreign.LINES}, b: {foreign.LINES}"
    for (_, method), row in by_cell.items():
        assert row["gap"] == pytest.approx(row["error"] - by_cell[lines, method]["error"], abs=2e-4)
    # What the words draw depends on b alone.
    same = [by_cell[f"pair: {p}, b: {foreign.LINES}", "words alone"]["error"] for p in (foreign.LINES, foreign.STRANGE)]
    assert same[0] == same[1]
    items = [x for x in foreign.questions(names, 6)[foreign.LINES, foreign.LINES] if x.relation == names[0]]
    b, b_prime = (torch.stack([getattr(x, k) for x in items]) for k in ("b", "b_prime"))
    lost = (editor.autoencoder.to_picture(editor.autoencoder.to_latent(b_prime)) - b_prime).square().sum()
    own = next(r for r in rows if (r["cell"], r["method"], r["group"]) == (lines, "autoencoder", "unseen"))
    assert own["error"] == pytest.approx(float(lost / (b - b_prime).square().sum()), abs=2e-4)
