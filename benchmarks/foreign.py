"""How far foreign may the style of the pictures be? Edits of a panel on drawings that no part was trained on.

    python -m benchmarks.foreign

The same test concepts in three styles: flat colours and line drawings, which every part was trained on, and the black
drawings of Fluent Emoji in high contrast, which none was. The example pair and b are of one style or of two. Edits that
do not show on a black drawing (hue, for example) are left out in all of them. Writes ``data/results/foreign.csv``: one
row for each basis, pair of styles, group of edits and method. Each has its error, and its difference to line drawings
throughout, on the same concepts and edits, resampled together.
"""

from __future__ import annotations

import argparse
import csv
import json
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lorweb_mini.analysis.bootstrap import Estimate, interval, median_ratio
from lorweb_mini.analysis.evaluation import reconstruct, squared
from lorweb_mini.analysis.generalisation import Judged, judge
from lorweb_mini.analysis.methods import methods_of
from lorweb_mini.analysis.unseen import DRAWN, Panel, merged_groups, panel
from lorweb_mini.commands.run import PROFILES
from lorweb_mini.commands.train import STARTER_KINDS
from lorweb_mini.core.editor import load
from lorweb_mini.emoji.relations import UNSEEN_DEGREES, Analogy, differ, get_relation
from lorweb_mini.emoji.sheets import FOREIGN, STYLES, foreign_pictures, load_emoji
from lorweb_mini.errors import InputError
from lorweb_mini.files import data_dir, whole_file

from .studies import revision

COLOURS, LINES, STRANGE = "flat colours", "line drawings", "foreign drawings"
SHEETS = {COLOURS: "fluent_flat", LINES: "openmoji_black", STRANGE: FOREIGN}
# Style of a and a', style of b.
CONDITIONS = ((COLOURS, COLOURS), (LINES, LINES), (STRANGE, STRANGE), (LINES, STRANGE), (STRANGE, LINES))
LEAST = 4  # analogies of a relation that stays
GROUPS = {"drawn": list(DRAWN.values()), "unseen": list(UNSEEN_DEGREES)}
COLUMNS = (
    "study", "cell", "seed", "settings", "weights", "group", "relations", "analogies", "method",
    "error", "error_low", "error_high", "gap", "gap_low", "gap_high", "revision",
)  # fmt: skip


def pictures_of_concepts() -> tuple[list[str], dict[str, Tensor]]:
    """Keys of the test concepts that all three styles draw, one a concept, and each style's pictures [k, 3, 64, 64]."""
    strange, emoji = foreign_pictures(), load_emoji()
    columns = {name: STYLES.index(sheet) for name, sheet in SHEETS.items() if sheet in STYLES}
    own: dict[str, str] = {}
    for key in strange:
        if emoji.present[emoji.index[key], list(columns.values())].all():
            own.setdefault(emoji.emojis[emoji.index[key]].concept, key)
    keys = list(own.values())
    rows = [emoji.index[key] for key in keys]
    pictures = {name: emoji.tensor(rows, column) for name, column in columns.items()}
    return keys, {**pictures, STRANGE: torch.stack([strange[key] for key in keys])}


def questions(names: Sequence[str], count: int) -> dict[tuple[str, str], list[Analogy]]:
    """Up to ``count`` analogies of each relation in every condition: the same concepts and edits, other styles."""
    keys, pictures = pictures_of_concepts()
    out: dict[tuple[str, str], list[Analogy]] = {condition: [] for condition in CONDITIONS}
    for name in names:
        edited = {style: get_relation(name).apply_edits(x) for style, x in pictures.items()}
        shown = torch.stack([differ(x, edited[style]) for style, x in pictures.items()]).all(0).nonzero()[:, 0].numpy()
        order = np.random.default_rng(zlib.crc32(name.encode())).permutation(shown)
        if len(order) <= LEAST:
            continue
        for i, j in zip(order[:count], np.roll(order, -1)[:count], strict=True):
            for pair, style in CONDITIONS:
                four = pictures[pair][i], edited[pair][i], pictures[style][j], edited[style][j]
                labels = (f"{keys[k]}@{SHEETS[s]}" for k, s in ((i, pair), (i, pair), (j, style), (j, style)))
                out[pair, style].append(Analogy(*four, name, "test", tuple(labels)))
    return out


def rows_of(weights: str, asked: Panel, count: int, steps: int) -> list[dict[str, Any]]:
    """One shipped basis and its base on the panel's relations."""
    editor = load(weights)
    methods = {k: v for k, v in methods_of(editor, steps=steps).items() if k in ("LoRWeB", "oracle instruction")}
    rows: list[dict[str, Any]] = []
    references: dict[str, Judged] = {}
    items = questions(list(dict.fromkeys(name for names in asked.groups.values() for name in names)), count)
    for condition in sorted(CONDITIONS, key=lambda c: c != (LINES, LINES)):
        answered = judge(methods, items[condition], editor.autoencoder)
        b, b_prime = (torch.stack([getattr(x, name) for x in answered.items]) for name in ("b", "b_prime"))
        # The detail that the autoencoder loses, in pixels: the methods' measure leaves it out.
        lost = {"autoencoder": squared(reconstruct(editor.autoencoder, b_prime), b_prime)}
        judged_by = dict.fromkeys(methods, answered)
        judged_by["autoencoder"] = replace(answered, errors=lost, size=squared(b, b_prime))
        references = references or judged_by
        for group, names in merged_groups(asked, GROUPS).items():
            names = sorted(set(names) & set(answered.relations.tolist()))
            for method, one in judged_by.items():
                numbers = {"error": one.error(method, names), "gap": gap(one, references[method], method, names)}
                rows.append(
                    {
                        "study": "foreign",
                        "cell": f"pair: {condition[0]}, b: {condition[1]}",
                        "seed": 0,
                        "settings": json.dumps({"pair": SHEETS[condition[0]], "b": SHEETS[condition[1]]}),
                        "weights": weights,
                        "group": group,
                        "relations": len(names),
                        "analogies": int(np.isin(answered.relations, names).sum()),
                        "method": "words alone" if method == "oracle instruction" else method,
                        **{f"{k}{end}": round(getattr(e, part), 4) for k, e in numbers.items()
                           for end, part in (("", "value"), ("_low", "low"), ("_high", "high"))},
                        "revision": revision(),
                    }
                )  # fmt: skip
    return rows


def gap(here: Judged, there: Judged, method: str, names: Sequence[str]) -> Estimate:
    """The median error here minus that there, whole concepts resampled together."""
    kept = np.isin(here.relations, list(names))
    if not np.array_equal(here.relations, there.relations) or not np.array_equal(here.concepts, there.concepts):
        raise InputError("expected the same relations and concepts in both, got others")
    mine, theirs = (
        median_ratio(x.errors[method][kept], x.size[kept], x.relations[kept].tolist()) for x in (here, there)
    )
    return interval(lambda weights: mine(weights) - theirs(weights), here.concepts[kept])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.foreign", description=__doc__)
    parser.add_argument("--results", type=Path, default=None, help="default: data/results/foreign.csv")
    parser.add_argument(
        "--quick", action="store_true", help="two relations of each group, four analogies; kept only with --results"
    )
    options = parser.parse_args(arguments)
    path = options.results or data_dir() / "results" / "foreign.csv"
    count, drawn = (4, 2) if options.quick else (PROFILES["cpu"].analogies, PROFILES["cpu"].drawn)
    rows = []
    for weights, kinds in (("starter", STARTER_KINDS), ("full", None)):
        asked = panel("test", count, drawn, kinds)
        if options.quick:
            asked = Panel(asked.analogies, {group: names[:2] for group, names in asked.groups.items()})
        rows += rows_of(weights, asked, count, steps=1)
    if options.results or not options.quick:
        with whole_file(path) as part, part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
    for row in rows:
        print(*(row[k] for k in ("weights", "cell", "group", "relations", "method", "error", "gap")), sep="  ")


if __name__ == "__main__":
    main()
