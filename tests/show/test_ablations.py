"""The figure of the ablations, and the questions that answer back."""

from __future__ import annotations

import math
import re

import pytest

from lorweb_mini.analysis.bootstrap import Estimate
from lorweb_mini.analysis.results import Effect
from lorweb_mini.errors import InputError
from lorweb_mini.show.ablations import forest, prediction, told


def test_forest_has_a_row_a_change_and_a_dot_a_seed() -> None:
    found = {x.cell: x for x in (Effect("worse", {0: 0.2, 1: 0.21, 2: 0.22}), Effect("once", {0: -0.1}))}
    axes = forest(found, "drawn edit").axes[0]
    assert [x.get_text() for x in axes.get_yticklabels()] == ["once", "worse"], "the best on top"
    assert axes.yaxis_inverted()
    dots = [point for c in axes.collections for point in c.get_offsets().tolist()]
    assert {(0.2, 1.0), (0.21, 1.0), (0.22, 1.0), (-0.1, 0.0)} <= {tuple(p) for p in dots}
    widths = [line.get_xdata() for line in axes.lines if len(set(line.get_ydata())) == 1]
    assert len(widths) == 1, "one seed has no interval"
    with pytest.raises(InputError, match="at least one change"):
        forest({}, "nothing")


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
