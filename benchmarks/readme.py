"""What the README shows of a run, for maintainers.

python -m benchmarks.readme results    # the last run's pictures and report to figures/run, its table to the README
python -m benchmarks.readme picture    # figures/readme.png, answers of the shipped full basis on unseen emoji
"""

from __future__ import annotations

import argparse
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lorweb_mini.analysis.evaluation import draw
from lorweb_mini.analysis.methods import methods_of
from lorweb_mini.analysis.scores import Evaluation, table
from lorweb_mini.core.editor import load
from lorweb_mini.emoji.relations import analogies
from lorweb_mini.errors import InputError
from lorweb_mini.files import read_json
from lorweb_mini.show.pictures import triplets
from lorweb_mini.show.style import save

from .timing import write_readme

ROOT = Path(__file__).resolve().parents[1]
# Relation to what is written over it: what the full basis mostly makes well, and at the end two that it does not.
PICTURED = {
    "edit/hue=120": "turn all hues by 120°",
    "edit/tint=150": "tint it green",
    "edit/background=300": "put it on pink",
    "edit/screen=200": "shine a pale blue light on it",
    "edit/grey": "take the colour out",
    "edit/saturate=0.3": "dull the colours",
    "edit/darken=0.4": "darken it",
    "edit/invert": "make a negative of it",
    "colour/orange>blue": "orange to blue, as artists drew it",
    "tone/yellow>dark": "skin from yellow to dark, as artists drew it",
    "edit/rotate=90": "does not work: a quarter turn",
    "edit/move=18,-6": "does not work: move it right and up",
}


def readme_table(report: Mapping[str, Any]) -> str:
    """The README's results section, from a report."""
    evaluation = Evaluation.from_json(report["evaluation"])
    training = report["training"]
    lines = [table(evaluation), ""]
    if any(not math.isnan(c) for c in evaluation.chance.values()):
        lines += [
            "Relation retrieval: among the true answers of all relations that apply to b, is the right relation's "
            "the nearest to the result?",
            "",
            table(evaluation, "retrieval"),
            "",
        ]
    lines.append(
        f"The number of relations is in brackets after each heading; intervals are 95 % bootstrap over analogies "
        f"({sum(evaluation.analogies.values()):,} in all). Trained for {training['seconds'] / 60:.0f} minutes on "
        f"{report['machine']['cores']} cores ({training['samples']:,} samples, seed {report['seed']}); the "
        "*oracle instruction* is the frozen base told the relation in words. Everything else is in "
        "[`figures/run/report.json`](figures/run/report.json)."
    )
    return "\n".join(lines)


def publish(home: Path) -> None:
    """Copies pictures and report of the last run in the cpu profile into figures/run, and its table into the README.

    Raises:
        InputError: no such run, half of one, or one in another profile. ValueError: a README without the marks of the
            table.
    """
    source, target = home / "runs" / "cpu" / "results", home / "figures" / "run"
    if not (source / "report.json").is_file():
        raise InputError(f"expected the results of make run in {source}, found none")
    report = read_json(source / "report.json", ("profile", "training", "evaluation", "machine", "seed"))
    if report["profile"] != "cpu":
        raise InputError(f"expected results of the profile cpu in {source}, got those of {report['profile']}")
    table = readme_table(report)
    target.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        if path.is_file():
            shutil.copy2(path, target / path.name)
    write_readme(home / "README.md", "results", table)


def picture(home: Path) -> None:
    """Draws ``figures/readme.png``."""
    # Of eight questions a relation the one whose edit shows most, since a black arrow has no hue to turn; no result is
    # looked at for the choice.
    items = [
        max(analogies("test", name, seed=5), key=lambda x: float((x.b - x.b_prime).pow(2).sum())) for name in PICTURED
    ]
    results = draw(methods_of(load("full"), steps=1)["LoRWeB"], items)
    title = "a is to a′ as b is to …? The model is given three pictures, and no words"
    figure = triplets(items, results, columns=2, size=0.86, labels=list(PICTURED.values()), title=title)
    print("wrote", save(figure, home / "figures" / "readme.png"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("results", "picture"))
    (publish if parser.parse_args().what == "results" else picture)(ROOT)


if __name__ == "__main__":
    main()
