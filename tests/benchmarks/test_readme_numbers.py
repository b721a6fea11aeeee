"""The sentences of the README say what the result files say."""

from __future__ import annotations

import json
import re
from pathlib import Path
from statistics import median
from typing import Any

import nbformat
import pytest

from benchmarks.cells import BOTH, BOTH_PAPER, CONTEXT_TOTAL, STARTER
from benchmarks.foreign import LINES, STRANGE
from lorweb_mini.analysis.generalisation import WORKS
from lorweb_mini.analysis.results import by_seed, effects, over_seeds, rows_of

ROOT = Path(__file__).resolve().parents[2]
README = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
SINGLE, STRENGTH, COMPOSED = "single edit", "unseen strength", "unseen composition"
OUTSIDE = "unseen kind, outside"
UNSEEN = (STRENGTH, COMPOSED, "unseen kind, between", OUTSIDE)


def report(*parts: str) -> dict[str, Any]:
    with ROOT.joinpath(*parts, "report.json").open(encoding="utf-8") as file:
        return json.load(file)


def numbers(pattern: str) -> tuple[float, ...]:
    """The numbers that stand at # in a sentence, which the README has to hold once."""
    found = re.findall(re.escape(pattern).replace(r"\#", r"(\d+(?:[.,]\d+)*)"), README)
    assert len(found) == 1, f"{len(found)} times in the README: {pattern}"
    texts = found[0] if isinstance(found[0], tuple) else (found[0],)
    return tuple(float(text.replace(",", "")) for text in texts)


def test_the_starters_sentences() -> None:
    evaluation = report("figures", "run")["evaluation"]

    def error(group: str, method: str = "LoRWeB") -> float:
        return evaluation["groups"][group][method]["error"]["value"]

    def judged(group: str, method: str = "LoRWeB") -> float:
        return evaluation["judge"][group][method]["value"]

    def made(*groups: str) -> tuple[int, int]:
        names = [name for group in groups for name in evaluation["members"][group]]
        return sum(evaluation["relations"][n]["LoRWeB"]["error"] < WORKS for n in names), len(names)

    assert "Above 0.15 hardly any answer looks right" in README and WORKS == 0.15
    expected = {
        "(# against # on strengths, # against # on compositions, # against # on kinds outside the span)": tuple(
            error(group, x) for group in (STRENGTH, COMPOSED, OUTSIDE) for x in ("LoRWeB", "memoriser")
        ),
        "is the better one (# against #)": (error(SINGLE, "memoriser"), error(SINGLE)),
        "below 0.15 for # of the # single edits and # of the # pairs": (*made(SINGLE), *made("two in a row")),
        "*Unseen edits*: below 0.15 for # of # relations": made(*UNSEEN),
        "no better than copying *a′* (# against #)": (error(COMPOSED), error(COMPOSED, "copy a'")),
        "one LoRA has the lower error (#)": (error(COMPOSED, "one LoRA"),),
        "for single edits (# against #; the true answer through the autoencoder #, the answer to another question #)": (
            *(judged(SINGLE, x) for x in ("LoRWeB", "copy b", "true answer", "shuffled answers")),
        ),
        "for unseen compositions (# against #)": (judged(COMPOSED), judged(COMPOSED, "copy b")),
        "makes single edits far better (#)": (error(SINGLE, "oracle instruction"),),
    }
    for sentence, values in expected.items():
        assert numbers(sentence) == tuple(round(x, 2) for x in values), sentence
    # The words around the numbers.
    for group in UNSEEN:
        ours, theirs = (evaluation["groups"][group][x]["error"] for x in ("LoRWeB", "memoriser"))
        assert ours["high"] >= theirs["low"], "nowhere clearly better"
    assert error(COMPOSED) >= error(COMPOSED, "copy a'") and error(COMPOSED) > error(COMPOSED, "one LoRA")
    assert judged(SINGLE) > judged(SINGLE, "copy b") and judged(COMPOSED) > 2 * judged(COMPOSED, "copy b")


def test_the_full_basis_sentences() -> None:
    measured = report("data", "weights", "full")["measured"]
    errors, sharpness, group = measured["errors"], measured["sharpness"], "unseen emoji, seen relation"
    seen, relations = errors["members"][group], errors["relations"]
    edits = [name for name in seen if name.startswith(("edit/", "compose/"))]
    artists = [name for name in seen if name not in edits]

    def middle(names: list[str], method: str) -> float:
        return round(median(relations[n][method]["error"] for n in names), 2)

    assert numbers("it makes # of the artists' relations with # of copying's error") == (
        len(artists),
        middle(artists, "LoRWeB"),
    )
    assert numbers("(the base that is told them in words: #), # of them below 0.15") == (
        middle(artists, "oracle instruction"),
        sum(relations[n]["LoRWeB"]["error"] < WORKS for n in artists),
    )
    assert numbers("and # single edits with # (told in words #)") == (
        len(edits),
        middle(edits, "LoRWeB"),
        middle(edits, "oracle instruction"),
    )
    unseen, often, once = "unseen family", "LoRWeB, 10 steps", "LoRWeB"

    def both(degree: str) -> list[float]:
        values = sharpness[degree], {x: score["error"] for x, score in errors["groups"][degree].items()}
        return [round(value[steps]["value"], 2) for value in values for steps in (often, once)]

    for degree, name in ((group, "(seen relations"), (unseen, "; unseen families")):
        assert numbers(f"{name}: sharpness # against #, error # against #") == tuple(both(degree))
    assert numbers("families have # of copying's error and # of the sharpness") == (both(unseen)[3], both(unseen)[1])


def test_the_sentence_on_the_full_basis_and_unseen_edits() -> None:
    notebook = nbformat.read(ROOT / "notebooks" / "07_unseen.ipynb", as_version=4)
    shown = "\n".join(o.get("data", {}).get("text/markdown", "") for c in notebook.cells for o in c.get("outputs", []))
    asked, ours, memory, words = map(int, re.findall(
        r"Of (\d+) answers to unseen edits .*: LoRWeB (\d+), memoriser (\d+), oracle instruction (\d+)\.", shown
    )[0])  # fmt: skip
    assert numbers("Of # answers to unseen edits # have an error below 0.15") == (asked, ours)
    assert numbers("(the memoriser's #, the base's # when it is told the edit)") == (memory, words)
    verdicts = dict(re.findall(r"^\| (unseen [\w ,]+) \(\d+\) \| memoriser \| [^|]+ \| (\w+) \|$", shown, re.MULTILINE))
    assert verdicts.pop("unseen strength") == "yes" and verdicts.pop("unseen kind, outside") == "no"
    assert len(verdicts) == 3 and set(verdicts.values()) == {"undecided"}


def test_the_sentence_on_a_foreign_style() -> None:
    rows = {(r["weights"], r["cell"], r["group"]): r for r in rows_of("foreign") if r["method"] == "LoRWeB"}
    cells = [f"pair: {style}, b: {style}" for style in (STRANGE, LINES)]
    for sentence, weights, group in (
        ("edits of the training distribution (#, and # on a trained style of black lines)", "full", "drawn"),
        ("slightly easier there (# and #; [`data/results/foreign.csv`]", "full", "unseen"),
        ("and harder for the starter (# and #)", "starter", "unseen"),
    ):
        assert numbers(sentence) == tuple(round(float(rows[weights, cell, group]["error"]), 2) for cell in cells)
    drawn = rows["full", cells[0], "drawn"]
    assert float(drawn["gap_low"]) < 0 < float(drawn["gap_high"]), "undecided"
    assert float(rows["full", cells[0], "unseen"]["gap_high"]) < 0, "easier"
    assert float(rows["starter", cells[0], "unseen"]["gap_low"]) > 0, "harder"


def test_the_sentence_on_the_headline_and_the_memoriser() -> None:
    (memory,) = [r for r in rows_of("controls") if (r["group"], r["method"]) == ("unseen", "memoriser")]
    error, low, high = (float(memory[k]) for k in ("error", "error_low", "error_high"))
    rows = rows_of("headline")
    means = {cell: over_seeds(list(by_seed(rows, cell, "unseen").values())) for cell in {r["cell"] for r in rows}}
    assert numbers("sampled edits (# against # (# to # over analogies))") == tuple(
        round(x, 3) for x in (means[BOTH].value, error, low, high)
    )
    assert [cell for cell, x in means.items() if x.high < low] == [BOTH], "the only one"


def test_the_sentence_on_validation_compositions() -> None:
    lines = (ROOT / "benchmarks" / "results" / "recipes.md").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    place, by_name = rows[0].index("composition"), {row[0]: row for row in rows}
    expected = tuple(float(by_name[name][place]) for name in ("starter_tokens", "starter"))
    assert numbers("no better than the shipped starter (# against #") == expected
    assert all("0.20" in by_name[name][1] for name in ("starter_tokens", "starter")), "both edits in a fifth"


@pytest.mark.parametrize(
    ("sentence", "cell", "group", "better"),
    [
        ("with that encoder is ahead on the training distribution and on the four compositions", BOTH, "drawn", 1),
        (
            "with that encoder is ahead on the training distribution and on the four compositions",
            BOTH,
            "composition",
            1,
        ),
        ("and behind outside the span", BOTH, "outside", -1),
        ("over all unseen edits five seeds leave it open", BOTH, "unseen", 0),
        ("The basis that sees *b* alone is behind one LoRA on unseen edits", STARTER, "unseen", -1),
        (
            "makes the training distribution as well as one LoRA and is behind it on unseen edits",
            BOTH_PAPER,
            "drawn",
            0,
        ),
        (
            "makes the training distribution as well as one LoRA and is behind it on unseen edits",
            BOTH_PAPER,
            "unseen",
            -1,
        ),
    ],
)
def test_the_headlines_sentences(sentence: str, cell: str, group: str, better: int) -> None:
    """1 where the basis is ahead of one LoRA, −1 where it is behind, 0 where the seeds leave it open."""
    assert sentence in README
    assert effects(rows_of("headline"), group, CONTEXT_TOTAL)[cell].sign == better
