"""Results over seeds: intervals by hand, verdicts, and the seed that misleads."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lorweb_mini.analysis.results import Effect, by_seed, effects, next_training, over_seeds, rows_of, tempting
from lorweb_mini.errors import InputError


def written(folder: Path, values: dict[str, list[float]], group: str = "drawn edit") -> None:
    """A file of the ablations with a row for each value, the seeds counted from 0."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "ablations.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["cell", "seed", "group", "method", "error"])
        writer.writerows([c, s, group, "LoRWeB", x] for c, xs in values.items() for s, x in enumerate(xs))


def test_rows_and_effects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORWEB_RESULTS", str(tmp_path))
    assert rows_of("ablations") == []
    written(tmp_path, {"as the starter": [0.3, 0.4, 0.5], "worse": [0.5, 0.62, 0.69], "one seed": [0.1]})
    rows = rows_of("ablations")
    assert by_seed(rows, "as the starter", "drawn edit") == {0: 0.3, 1: 0.4, 2: 0.5}
    assert by_seed(rows, "as the starter", "another group") == {}
    found = effects(rows, "drawn edit", "as the starter")
    assert list(found) == ["worse", "one seed"]
    assert list(found["worse"].gaps.values()) == pytest.approx([0.2, 0.22, 0.19])
    assert found["worse"].sign == -1
    assert found["one seed"].estimate.value == pytest.approx(-0.2) and found["one seed"].sign == 0
    own = effects(rows, "drawn edit", "as the starter", references={"worse": "one seed"})["worse"]
    assert own.cell == "worse (minus one seed)" and list(own.gaps.values()) == pytest.approx([0.4])
    with pytest.raises(InputError, match="expected a study out of"):
        rows_of("nothing")
    (tmp_path / "dial.csv").write_text("cell,seed\n8,0\n")
    with pytest.raises(InputError, match="expected the columns"):
        rows_of("dial")


@pytest.mark.parametrize(
    "damage",
    [
        lambda rows: rows[:-8],  # the last row is cut short
        lambda rows: rows + rows.splitlines(keepends=True)[-1],  # a row twice, as a merge leaves it
        lambda rows: rows.replace(b",0,", b",zero,", 1),
        lambda rows: rows.replace(b"0.25", b"a quarter"),
        lambda rows: rows.replace(b"0.25", b"inf"),
        lambda rows: rows.replace(b"0.25", b"0.25,0.3"),
        lambda rows: rows.decode().encode("utf-16"),
        lambda rows: rows.replace(b",", b";"),
    ],
)
def test_a_damaged_file_is_refused(
    damage: Callable[[bytes], bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORWEB_RESULTS", str(tmp_path))
    written(tmp_path, {"as the starter": [0.3, 0.25], "worse": [0.5, 0.625]})
    path = tmp_path / "ablations.csv"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=r"expected .*ablations\.csv"):
        rows_of("ablations")


def test_a_missing_measure_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORWEB_RESULTS", str(tmp_path))
    written(tmp_path, {"as the starter": [0.3, math.nan, 0.5]})
    assert by_seed(rows_of("ablations"), "as the starter", "drawn edit") == {0: 0.3, 2: 0.5}


def test_intervals_by_hand() -> None:
    """t of 2 and 4 degrees of freedom, from a table: 4.303 and 2.776."""
    three = over_seeds([1.0, 2.0, 4.0])
    deviation = math.sqrt(((1 - 7 / 3) ** 2 + (2 - 7 / 3) ** 2 + (4 - 7 / 3) ** 2) / 2)
    assert three.value == pytest.approx(7 / 3)
    assert three.high - three.value == pytest.approx(4.303 * deviation / math.sqrt(3), rel=1e-3)
    five = next_training([0.2, 0.25, 0.3, 0.22, 0.28])
    assert five.value - five.low == pytest.approx(
        2.776 * np.std([0.2, 0.25, 0.3, 0.22, 0.28], ddof=1) * 1.2**0.5, rel=1e-3
    )
    assert math.isnan(over_seeds([0.5]).low) and over_seeds([0.5]).value == 0.5
    assert math.isnan(over_seeds([]).value)


def test_the_interval_of_the_next_training_holds_it_in_95_of_100_cases() -> None:
    rng = np.random.default_rng(0)
    draws = rng.normal(0.3, 0.05, (4000, 6))
    hits = [(e := next_training(d[:5])).low <= d[5] <= e.high for d in draws]
    assert np.mean(hits) == pytest.approx(0.95, abs=0.012)


def test_too_small_a_difference_is_no_verdict() -> None:
    assert Effect("x", {0: -0.005, 1: -0.0051, 2: -0.0049}).sign == 0
    assert Effect("x", {0: -0.05, 1: -0.051, 2: -0.049}).sign == 1


def test_the_seed_that_misleads_most() -> None:
    steady = Effect("steady", {0: 0.2, 1: 0.3, 2: 0.25})
    mild = Effect("mild", {0: -0.02, 1: 0.3, 2: 0.25})
    false = Effect("false", {0: 0.1, 1: -0.15, 2: 0.12})
    assert tempting({x.cell: x for x in (steady, mild, false)}) == (false, 1)
    assert tempting({"steady": steady}) is None
    assert tempting({"one": Effect("one", {0: 0.2})}) is None
