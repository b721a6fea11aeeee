"""Figures and tables of walks, and of analogies added or averaged."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure

from lorweb_mini.analysis.bootstrap import Estimate
from lorweb_mini.analysis.walking import Trace
from lorweb_mini.errors import InputError
from lorweb_mini.show import walks

TS = (-0.5, 0.0, 0.5, 1.0)
CONCEPTS = ("one", "two", "three")


def trace(error: float, nearest: tuple[int, ...] = (0, 0, 1, 2)) -> Trace:
    """Three walks that err by the same at every t, but for −0.5, whose truth is unknown."""
    errors = np.full((3, 4), float(error))
    errors[:, 0] = np.nan
    return Trace(TS, 3, CONCEPTS, errors, np.full(3, 2.0), np.array([nearest] * 3))


def titles(figure: Figure) -> list[str]:
    return [axes.get_title() for axes in figure.axes]


def test_error_panels_show_known_errors_and_mark_what_is_cut_off() -> None:
    ladders = {"low": {"pixel": trace(1), "nearer true end": trace(0.4)}, "high": {"pixel": trace(8)}}
    figure = walks.error_panels(ladders, columns=2)
    assert titles(figure)[:2] == ["low", "high (↑ cut off)"]
    low, _, legend, last = figure.axes
    ends = [x for x in low.lines if x.get_label() == "nearer true end"]
    assert ends[0].get_xydata() == pytest.approx(np.array([[0, 0.2], [0.5, 0.2], [1, 0.2]]))
    assert low.containers[0].lines[0].get_ydata() == pytest.approx([0.5] * 3), "no point without a truth"
    assert [t.get_text() for t in legend.get_legend().get_texts()] == ["nearer true end", "pixel"]
    assert not legend.axison and not last.axison
    with pytest.raises(InputError, match="'teleport'"):
        walks.error_panels({"low": {"teleport": trace(1)}})
    with pytest.raises(InputError, match="got no ladders"):
        walks.error_panels({})


def test_reached_panels_stay_between_the_ends() -> None:
    ladders = {"up": {"coefficients": trace(1), "asked": trace(1, (2, 2, 1, 0))}}
    figure = walks.reached_panels(ladders, ("coefficients", "asked"))
    walked, asked, truth = figure.axes[0].lines
    assert walked.get_xydata().tolist() == [[0, 0], [0.5, 0.5], [1, 1]]
    assert asked.get_ydata().tolist() == [1, 0.5, 0] and truth.get_label() == "the truth"
    with pytest.raises(InputError, match="got no ladders"):
        walks.reached_panels({}, ("asked",))


def test_recipes_stand_from_top_to_bottom() -> None:
    own = {"alone": Estimate(0.9, 0.8, 1), "sum": Estimate(0.5, 0.4, 0.6), "in turn": Estimate(0.2, 0.1, 0.3)}
    figure = walks.recipe_intervals({"edits": own, "styles": own}, pale=["alone"], contrast=["in turn"])
    first = figure.axes[0]
    assert titles(figure) == ["edits", "styles"]
    assert [t.get_text() for t in first.get_yticklabels()] == ["in turn", "sum", "alone"]
    dots = [line for line in first.lines if line.get_marker() == "o"]
    assert [(*line.get_xdata(), *line.get_ydata()) for line in dots] == [(0.2, 0), (0.5, 1), (0.9, 2)]
    assert [dot.get_color() for dot in dots] == [walks.COLOURS[1], walks.COLOURS[0], walks.PALE]
    with pytest.raises(InputError, match="groups with the same ways"):
        walks.recipe_intervals({"edits": own, "styles": {"sum": own["sum"]}})


def test_examples_have_one_legend_for_all_panels() -> None:
    own = {way: {"1": Estimate(1, 0.9, 1.1), "4": Estimate(y, y, y)} for way, y in (("space", 0.5), ("pictures", 0.4))}
    figure = walks.example_panels({"seen (3)": own, "unseen (2)": own})
    assert titles(figure) == ["seen (3)", "unseen (2)"]
    assert figure.axes[1].containers[1].lines[0].get_ydata().tolist() == [1, 0.4]
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["space", "pictures"]
    assert all(axes.get_legend() is None for axes in figure.axes)
    with pytest.raises(InputError, match="at least one panel"):
        walks.example_panels({})


def test_the_table_of_walks_shows_the_measures_of_one_path() -> None:
    rows = walks.walk_table({"up": {"pixel": trace(1)}}, {"up": {"pixel": 0.25}}, "pixel").splitlines()
    sure = "1.00 (1.00–1.00)"
    expected = ["up", "3 (3)", sure, sure, sure, "0.33", sure, "0.33", "0.50 (0.50–0.50)", "0.25"]
    assert rows[2] == f"| {' | '.join(expected)} |"


def test_marks_need_a_clear_and_large_gap_on_enough_concepts() -> None:
    many, gap = [str(i) for i in range(6)], Estimate(-0.2, -0.3, -0.1)
    assert walks.marked(gap, many) == "▼ -0.20 (-0.30–-0.10)"
    assert walks.marked(Estimate(0.2, 0.1, 0.3), many).startswith("▲ ")
    for unclear, concepts in ((gap, many[:5]), (Estimate(0.2, -0.1, 0.3), many), (Estimate(0.005, 0.004, 0.006), many)):
        assert walks.marked(unclear, concepts) == str(unclear)
