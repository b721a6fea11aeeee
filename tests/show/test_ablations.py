"""The figure of the ablations, and the questions that answer back."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import plotly.graph_objects as go
import pytest

from lorweb_mini.analysis.bootstrap import Estimate
from lorweb_mini.analysis.results import Effect
from lorweb_mini.errors import InputError
from lorweb_mini.show.ablations import VERDICTS, along, forest, live_forest, prediction, told


def test_forest_has_a_row_a_change_and_a_dot_a_seed() -> None:
    found = {x.cell: x for x in (Effect("worse", {0: 0.2, 1: 0.21, 2: 0.22}), Effect("once", {0: -0.1}))}
    axes = forest(found, "drawn edit").axes[0]
    assert [x.get_text() for x in axes.get_yticklabels()] == ["once (1 seed)", "worse"], "the best on top"
    assert axes.yaxis_inverted()
    dots = [point for c in axes.collections for point in c.get_offsets().tolist()]
    assert {(0.2, 1.0), (0.21, 1.0), (0.22, 1.0), (-0.1, 0.0)} <= {tuple(p) for p in dots}
    widths = [line.get_xdata() for line in axes.lines if len(set(line.get_ydata())) == 1]
    assert len(widths) == 1, "one seed has no interval"
    with pytest.raises(InputError, match="at least one change"):
        forest({}, "nothing")


def test_a_single_row_shows_its_whole_interval() -> None:
    effect = Effect("one", {0: -0.03, 1: 0.02, 2: 0.03})
    low, high = forest({"one": effect}, "alone").axes[0].get_xlim()
    assert low < effect.estimate.low < effect.estimate.high < high


def test_told_in_words() -> None:
    assert told(Estimate(0.123, -0.1, 0.3)) == "0.12 (-0.10 to 0.30)"
    assert told(Estimate(0.5, math.nan, math.nan)) == "0.50 (one seed)"
    assert told(Estimate(math.nan, math.nan, math.nan)) == "no training yet"


def test_prediction_answers_each_choice() -> None:
    html = prediction("Is 1 < 2?", [("yes", True, "by 1"), ("no", False, "1 < 2 & so on"), ("who knows", None, "–")])
    assert re.findall(r"<summary>(.*?)</summary><p>(.*?)</p>", html) == [
        ("yes", "✓ Yes. by 1"),
        ("no", "✗ No. 1 &lt; 2 &amp; so on"),
        ("who knows", "Undecided. –"),
    ]
    assert "Is 1 &lt; 2?" in html
    with pytest.raises(InputError, match="at least two answers"):
        prediction("?", [("yes", True, "")])


def test_a_difference_beyond_the_axis_is_a_number() -> None:
    found = {x.cell: x for x in (Effect("far", {0: 0.6, 1: 0.64}), Effect("near", {0: 0.05, 1: 0.06, 2: 0.07}))}
    axes = forest(found, "drawn edit", limit=0.3).axes[0]
    assert axes.get_xlim()[1] < 0.3
    assert [t.get_text() for t in axes.texts] == ["+0.62 →"]
    assert [x.get_text() for x in axes.get_yticklabels()] == ["near", "far (2 seeds)"]


def test_a_difference_beyond_the_live_axis_is_an_arrow() -> None:
    near = {str(i): Effect(str(i), {0: 0.01 * i, 1: 0.01 * i + 0.02, 2: 0.01 * i + 0.01}) for i in range(20)}
    far = {"far": Effect("far", {0: 0.9, 1: 0.91, 2: 0.92})}
    live = live_forest({"one": near | far, "most": far}, "one", 0.4, {})
    worse = next(t for t in live["data"] if t["name"] == "worse")
    *others, symbol = worse["marker"]["symbol"]
    assert set(others) == {"triangle-up"} and symbol == "triangle-right", "the legend shows the first one's"
    assert worse["x"][-1] == pytest.approx(0.392) and worse["error_x"]["array"][-1] == 0
    assert worse["y"][-1] == "far" and "0.910" in worse["text"][-1]
    ranges = [button["args"][1]["xaxis.range"] for button in live["layout"]["updatemenus"][0]["buttons"]]
    assert ranges == [[-0.4, 0.4], pytest.approx([-1.001, 1.001])] and live["layout"]["xaxis"]["range"] == ranges[0]


def test_live_forest_has_every_group_and_seed() -> None:
    seeds = {"a": {0: 0.2, 1: 0.21, 2: 0.22}, "b": {0: -0.1}, "c": {0: 0.3, 1: 0.3}}
    one = {cell: Effect(cell, gaps) for cell, gaps in seeds.items()}
    other = {"a": Effect("a", {0: -0.2, 1: -0.21, 2: -0.22})}
    live = live_forest({"drawn": one, "unseen": other}, "unseen", 0.4, {"drawn": "sampled edits"})
    figure = go.Figure(live)  # refuses what plotly.js does not know
    json.dumps(live)
    seen = [trace for trace in figure.data if trace.visible]
    assert {t.name for t in seen} == {*VERDICTS.values(), "a seed"} and len(figure.data) == 2 * len(seen)
    assert [tuple(t.x) for t in seen if t.name == "a seed"] == [(-0.2, -0.21, -0.22)]
    assert [tuple(t.x) for t in seen if t.name == "better"] == [(pytest.approx(-0.21),)]
    menu = live["layout"]["updatemenus"][0]
    assert [button["label"] for button in menu["buttons"]] == ["sampled edits", "unseen"] and menu["active"] == 1
    visible, order = menu["buttons"][0]["args"]
    assert visible["visible"] == [not trace.visible for trace in figure.data]
    assert order["yaxis.categoryarray"] == ["c (2 seeds)", "a", "b (1 seed)"], "from below: the best on top"
    assert live["layout"]["yaxis"]["categoryarray"] == ["a"]


def test_effects_along_a_quantity() -> None:
    effect = Effect("N 4", {0: 0.1, 1: 0.12, 2: 0.14})
    figure = along({"N": {"sampled": {"4": effect, "16": None}}, "r": {"sampled": {"4": None, "8": effect}}})
    first, second = figure.axes
    assert [t.get_text() for t in first.get_xticklabels()] == ["4", "16"] and second.get_title("left") == "r"
    dots = [tuple(p) for c in first.collections for p in np.asarray(c.get_offsets()).tolist()]
    assert {(0.0, 0.1), (0.0, 0.12), (0.0, 0.14)} <= set(dots)
    assert pytest.approx(0.12) in [y for line in second.lines for y in line.get_ydata()]
