"""Judges trained bases on the validation panel: ``python -m benchmarks.recipes FOLDER … [--save]``.

Validation relations on validation concepts; test relations are never looked at here. ``--save`` adds a row for every
folder to ``benchmarks/results/recipes.md``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

import lorweb_mini as lw
from lorweb_mini.analysis.evaluation import Method, by_relation, evaluate
from lorweb_mini.analysis.methods import memoriser_method, methods_of
from lorweb_mini.analysis.unseen import panel, part_shares
from lorweb_mini.emoji.relations import analogies, get_relation, splits
from lorweb_mini.training.log import read_log

from .timing import markdown

RESULTS = Path(__file__).parent / "results" / "recipes.md"


GROUPS = ("drawn edit", "drawn pair", "drawn triple", "strength", "composition", "inside", "outside")
HEAD = """# Recipes, judged on validation relations and concepts

Normalised error (median over relations) at one step unless the note says otherwise; in brackets the memoriser's where
it was asked for.
`python -m benchmarks.recipes FOLDER --save` adds a row. No test relation is looked at.

"""


def append(row: list[str]) -> None:
    """Adds a row to the results, with a heading where the file is new."""
    columns = ["run", "note", "samples", "minutes", "entropy / usage", *GROUPS]
    if not RESULTS.exists():
        RESULTS.write_text(HEAD + markdown(columns, []) + "\n", encoding="utf-8")
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write("| " + " | ".join(row) + " |\n")


def main() -> None:
    """Prints a table a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--count", type=int, default=6, help="analogies of each relation")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--note", default="", help="what is told of the recipe in its row")
    parser.add_argument("--memoriser", action="store_true", help="beside the memoriser: minutes more")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for folder in options.folders:
        editor = lw.load(folder)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        kinds = config.get("kinds")
        asked = panel("val", options.count, 12, kinds)
        items, groups = dict(asked.analogies), dict(asked.groups)
        old = [n for n in splits()["starter"]["seen"] if n not in items]
        artists = by_relation(analogies("val", [n for n in old if not get_relation(n).edits], 0, options.count))
        if artists := {k: v for k, v in artists.items() if len(v) > 1}:
            items |= artists
            groups["tones"] = list(artists)
        methods: dict[str, Method] = {}
        if options.memoriser:
            methods["memoriser"] = memoriser_method(editor.autoencoder, kinds)
        for steps in options.steps:
            methods[f"{steps} steps"] = methods_of(editor, steps=steps)["LoRWeB"]
        evaluation = evaluate(methods, items, editor.autoencoder, groups, retrieval_limit=4, resamples=200)
        print(folder, options.note)
        for method in methods:
            cells = [
                f"{g} {s[method].error.value:.2f}/{s[method].retrieval.value:.2f}" for g, s in evaluation.groups.items()
            ]
            print(f"  {method:10}", " · ".join(cells))
        worst = {n: r[f"{options.steps[0]} steps"]["error"] for n, r in evaluation.relations.items()}
        print("  ", {n: round(v, 2) for n, v in worst.items()})
        pairs = [get_relation(n) for n in groups.get("composition", []) + groups.get("drawn pair", [])]
        for name in ("composition", "drawn pair"):
            chosen = [r for r in pairs if r.name in groups.get(name, [])]
            if chosen:
                shares = part_shares(methods[f"{options.steps[0]} steps"], items, chosen, editor.autoencoder)
                print(f"   {name}: nearest to", {k: round(v, 2) for k, v in shares.items()})
        if options.save:
            log = read_log(folder / "log.csv")[-1]
            scores = evaluation.groups
            row = [folder.name, options.note, f"{int(log['samples']):,}", f"{log['seconds'] / 60:.0f}"]
            row += [f"{log['entropy']:.2f} / {log['usage']:.2f}" if "entropy" in log else "–"]  # without a router
            for group in GROUPS:
                s = scores.get(group)
                cell = "–" if s is None else f"{s[f'{options.steps[0]} steps'].error.value:.2f}"
                known = s is not None and "memoriser" in s
                row.append(f"{cell} ({s['memoriser'].error.value:.2f})" if known else cell)
            append(row)


if __name__ == "__main__":
    main()
