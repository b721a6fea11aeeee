"""The ledger of the paper's claims agrees with the result files, and leads to sections that are there."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
from scipy import stats

from benchmarks import claims, verdicts
from benchmarks.cells import BOTH, CONTEXT_TOTAL, STARTER
from lorweb_mini.analysis.bootstrap import Estimate
from lorweb_mini.errors import InputError

MISSING = ("–", claims.MISSING)
ROOT = Path(__file__).resolve().parents[2]


def test_the_ledger_is_what_the_files_say() -> None:
    assert claims.LEDGER.read_text(encoding="utf-8") == claims.ledger(), "run python -m benchmarks.claims"
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for mark, table in (("claims", claims.summary()), ("headline", claims.headline())):
        between = readme.split(f"<!-- {mark}:begin -->\n")[1].split(f"\n<!-- {mark}:end -->")[0]
        assert between == table, "run python -m benchmarks.claims"


def test_the_headline_is_the_mean_over_seeds_and_of_differences() -> None:
    with (ROOT / "data" / "results" / "headline.csv").open(newline="", encoding="utf-8") as file:
        rows = [r for r in csv.DictReader(file) if r["group"] == "unseen" and r["method"] == "LoRWeB"]
    ours, theirs = ({r["seed"]: float(r["error"]) for r in rows if r["cell"] == c} for c in (BOTH, CONTEXT_TOTAL))
    assert ours.keys() == theirs.keys() and len(ours) == 5
    lines = claims.headline().splitlines()
    name = "basis, transformer sees *a*, *a′*, *b*"
    assert f"{sum(ours.values()) / 5:.3f} (" in next(x for x in lines if x.startswith(f"| {name} (5)"))
    gaps = [ours[s] - theirs[s] for s in ours]
    mean, half = sum(gaps) / 5, stats.t.ppf(0.975, 4) * stats.sem(gaps)
    told = f"{mean:.3f} ({mean - half:.3f} to {mean + half:.3f})"
    assert told in next(x for x in lines if x.endswith("|") and f"by seed*: {name} |" in x)


def test_every_claim_leads_to_a_section() -> None:
    assert len(claims.CLAIMS) >= 12
    assert {claim.question for claim in claims.CLAIMS} == {f"RQ{n}" for n in range(1, 6)}
    for claim in claims.CLAIMS:
        source = (ROOT / "notebooks" / f"{claim.notebook}.py").read_text(encoding="utf-8")
        assert re.search(rf"^# ##+ {re.escape(claim.section)}$", source, re.MULTILINE), claim.section


def test_a_changed_file_changes_the_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three seeds by hand: one LoRA is worse by 0.1 each time, so that the claim holds; better, and it does not."""
    monkeypatch.setenv("LORWEB_RESULTS", str(tmp_path))
    (claim,) = [x for x in claims.CLAIMS if "generalises better than one LoRA" in x.text]
    assert claim.row()[:2] == ("–", claims.MISSING)
    for gap, verdict in ((0.1, claims.HOLDS), (-0.1, claims.FAILS)):
        with (tmp_path / "headline.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["cell", "seed", "group", "method", "error"])
            for seed, error in enumerate((0.4, 0.5, 0.6)):
                writer.writerow([STARTER, seed, "unseen", "LoRWeB", error])
                writer.writerow([CONTEXT_TOTAL, seed, "unseen", "LoRWeB", error + gap + 0.001 * seed])
        number, found, sentence = claim.row()
        assert found == verdict and "3 seeds" in number
        assert f"error of the basis minus one LoRA {-gap - 0.001:.2f} (" in number, "negative speaks for the claim"
        assert sentence == claim.says[verdict]


def test_nothing_is_written_without_the_headline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORWEB_RESULTS", str(tmp_path))
    monkeypatch.setattr(claims, "ROOT", tmp_path)
    monkeypatch.setattr(claims, "LEDGER", tmp_path / "claims.md")
    with pytest.raises(InputError, match="headline"):
        claims.main()
    assert not list(tmp_path.iterdir())


def test_verdicts_of_single_trainings_need_intervals_apart() -> None:
    low, high, wide = (Estimate(v, v - d, v + d) for v, d in ((0.2, 0.05), (0.4, 0.05), (0.3, 0.2)))
    assert verdicts.apart(low, high) == claims.HOLDS and verdicts.apart(high, low) == claims.FAILS
    assert verdicts.apart(low, wide) == claims.OPEN
    assert verdicts.apart(low, high, larger=True) == claims.FAILS


def test_what_a_report_lacks_is_not_measured_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "figures" / "run"
    folder.mkdir(parents=True)
    monkeypatch.setattr(verdicts, "ROOT", tmp_path)
    monkeypatch.setenv("LORWEB_RESULTS", str(tmp_path))
    with pytest.raises(InputError, match="report"):
        verdicts.swapped()
    numbers, none = ({"value": x, "low": x, "high": x} for x in (0.5, None))
    group = {"LoRWeB": {"error": numbers}, "copy b": {"error": none}, "copy a'": {"error": numbers | {"low": 0.4}}}
    report = {"evaluation": {"groups": {"g": group}}, "counterfactuals": None}
    (folder / "report.json").write_text(json.dumps(report))
    assert verdicts.swapped() == verdicts.against_one("g", "error") == verdicts.against_trivial("h") == MISSING
    number, verdict = verdicts.against_trivial("g")
    assert "copy a'" in number and verdict == claims.OPEN, "a rival without a number is no rival"
    rows = "cell,seed,group,method,error,error_low,error_high\nstarter,0,drawn,LoRWeB,0.1,,\n"
    (tmp_path / "controls.csv").write_text(rows)
    assert verdicts.controlled("mean mixture") == MISSING
