"""The figures of what happens outside the training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from known_analogies import Lossless, random_analogies
from matplotlib.figure import Figure

from lorweb_mini.analysis.bootstrap import Estimate
from lorweb_mini.analysis.fitting import Curves
from lorweb_mini.analysis.generalisation import WORKS, judged
from lorweb_mini.emoji.distributions import unseen as published
from lorweb_mini.emoji.relations import as_batch
from lorweb_mini.errors import InputError
from lorweb_mini.show import style, unseen


def texts(figure: Figure) -> list[str]:
    return [t.get_text() for t in figure.findobj(lambda x: hasattr(x, "get_text")) if t.get_text()]


def test_the_map_shows_every_relation_once() -> None:
    entries = published()["relations"]
    figure = unseen.span_map(entries, 0.25, 0.05, 0.5)
    points = sum(len(x.get_offsets()) for x in figure.axes[0].collections)
    assert points == len(entries)
    held = sum(e["held_out"] for e in entries)
    filled = sum(len(x.get_offsets()) for x in figure.axes[0].collections if len(x.get_facecolors()))
    assert filled == held


def test_questions_show_three_pictures_and_no_answer() -> None:
    items = [x for some in random_analogies().values() for x in some][:5]
    figure = unseen.questions(items, [f"edit {i}" for i in range(5)], columns=2)
    assert len(figure.axes[0].images) == 15
    found = texts(figure)
    assert found.count("?") == 5 and "5  edit 4" in found
    with pytest.raises(InputError, match="expected labels for 5 analogies, got 1"):
        unseen.questions(items, ["one"])


def test_groups_show_every_known_value(tmp_path: Path) -> None:
    known, missing, far = Estimate(0.4, 0.3, 0.6), Estimate(*[float("nan")] * 3), Estimate(7.0, 5.0, 9.0)
    values = {"first": {"copy b": known, "LoRWeB": far}, "second": {"copy b": missing, "LoRWeB": known}}
    figure = unseen.by_group(values, "error", top=2)
    drawn = [y for line in figure.axes[0].lines for y in line.get_ydata() if line.get_marker() in ("o", "X")]
    assert sorted(drawn) == [0.4, 0.4], "beyond the axis there is a number in place of a marker"
    assert "7.0 ↑" in texts(figure) and "first" in texts(figure)
    assert style.save(figure, tmp_path / "groups.png").stat().st_size < style.MAX_BYTES
    with pytest.raises(InputError, match="groups with the same methods"):
        unseen.by_group({"first": {"x": known}, "second": {"y": known}}, "error")


def test_shares_are_bars_that_sum_to_one() -> None:
    parts = {"b": 0.25, "first edit alone": 0.0, "second edit alone": 0.25, "both": 0.5}
    figure = unseen.shares({"LoRWeB": parts, "memoriser": parts}, "Parts")
    widths = np.array([bar.get_width() for bar in figure.axes[0].patches]).reshape(4, 2)
    assert widths.sum(0).tolist() == [1, 1] and "50%" in texts(figure)


def test_foresight_shows_points_and_curves() -> None:
    rng = np.random.default_rng(0)
    errors, scores = rng.random(20), {"distance": rng.random(20), "change": rng.random(20)}
    aucs = dict.fromkeys(scores, Estimate(0.7, 0.5, 0.9))
    figure = unseen.foresight(scores, errors, ["one", "two"] * 10, aucs)
    left, right = figure.axes
    assert sum(len(x.get_offsets()) for x in left.collections) == 20
    assert len(right.lines) == 3 and any("AUC 0.70" in t for t in texts(figure))
    assert left.get_title("left") == f"{(errors > WORKS).sum()} of 20 analogies fail"
    one_outcome = unseen.foresight(scores, np.ones(20), ["one"] * 20, aucs)
    assert len(one_outcome.axes[1].lines) == 1


def test_curves_of_fitting() -> None:
    items = [x for some in random_analogies().values() for x in some]
    b, b_prime = as_batch(items)[2:]
    judgements = {
        way: [judged({way: x}, items, Lossless()) for x in (b, (b + b_prime) / 2)] for way in ("mixture", "LoRA")
    }
    curves = Curves((0, 5), {way: np.array([0, 1.5]) for way in judgements}, judgements, judgements)
    figure = unseen.fit_curves(curves, {"first": ["one", "two"], "none": ["four"], "second": ["three"]})
    assert [axes.get_title("left") for axes in figure.axes] == ["first (7)", "second (5)"]
    assert figure.axes[0].lines[0].get_ydata() == pytest.approx([1, 0.25])
    with pytest.raises(InputError, match="groups with relations that were fitted"):
        unseen.fit_curves(curves, {"none": ["four"]})


def test_a_frame_of_a_fit() -> None:
    item = random_analogies()["one"][0]
    figure = unseen.fit_frame(item, [item.b, item.b_prime], [0, 5], [1.0, 0.0])
    assert len(figure.axes[0].images) == 5 and "after 5 steps" in texts(figure)
    assert figure.axes[1].lines[0].get_xydata().tolist() == [[0, 1], [5, 0]]
    only = unseen.fit_frame(item, [torch.zeros(3, 64, 64)], [0], [0.0])
    assert only.axes[1].get_ylim()[1] > 1


def test_lines_have_a_value_at_each_place() -> None:
    figure = unseen.lines({"routed": {"1": Estimate(1, 0.9, 1.1), "4": Estimate(0.5, 0.4, 0.7)}}, "pairs")
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["1", "4"]
    assert figure.axes[0].lines[0].get_ydata().tolist() == [1, 0.5]


def test_the_dial_orders_sizes_and_takes_medians_over_seeds() -> None:
    rows = [
        {"cell": cell, "seed": str(seed), "group": group, "method": method, "error": str(error + 0.1 * seed)}
        for cell, error in (("fresh", 0.2), ("32", 0.6), ("8", 0.9))
        for seed in (0, 1, 3)
        for group in ("strength", "outside")
        for method in (("LoRWeB", "memoriser") if cell != "fresh" else ("LoRWeB",))
    ]
    figure = unseen.dial(rows, columns=3)
    first, second, empty = figure.axes
    assert [axes.get_title("left") for axes in (first, second)] == ["strength", "outside"] and not empty.axison
    assert [t.get_text() for t in first.get_xticklabels()] == ["8", "32", "∞"]
    basis, memoriser = first.lines[:2]
    assert basis.get_ydata() == pytest.approx([1.0, 0.7, 0.3])
    assert memoriser.get_xdata().tolist() == [0, 1]
    assert len(first.collections[0].get_offsets()) == 9
    with pytest.raises(InputError, match="expected rows of the study of the dial, got none"):
        unseen.dial([])
