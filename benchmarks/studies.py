"""Trains and judges the cells of the studies behind notebooks 07 and 08.

    python -m benchmarks.studies dial --list                        # which cells there are, and which have a result
    python -m benchmarks.studies dial --minutes 60 --threads 1      # one open cell after the other, for so long
    python -m benchmarks.studies ablations --quick                  # two steps of two cells: shows that it works

``dial``: the starter's recipe on M fixed relations, M from 2 to 2,048, or on fresh ones. ``headline``: a basis against
one LoRA on equal terms. ``ablations``: the starter's recipe cut to two minutes, one thing changed; notebook 08 repeats
one of these trainings. ``controls``: the shipped starter without one of its parts, which takes no training.
``benchmarks.cells`` has the list.

A killed cell goes on where it stopped. Two processes may work on one study side by side: a cell that one of them holds
is left out by the other. Results go to ``data/results/<study>.csv``, one row for each cell, group of relations and
method: tidy, with the settings and the revision of the code.
"""

from __future__ import annotations

import argparse
import csv
import gc
import json
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from lorweb_mini.analysis.evaluation import Method, Truth, evaluate, reconstruct
from lorweb_mini.analysis.methods import controls_of, methods_of, remembered, told_in_words
from lorweb_mini.analysis.results import read_rows
from lorweb_mini.analysis.scores import Evaluation
from lorweb_mini.analysis.unseen import DRAWN, PARTS, Panel, panel, part_shares, seen_analogies
from lorweb_mini.commands.run import PROFILES
from lorweb_mini.commands.train import BASES, DEFAULTS, STARTER_KINDS, recipe_of
from lorweb_mini.core.editor import Editor, load
from lorweb_mini.emoji.distributions import Distribution, Memoriser, held_out
from lorweb_mini.emoji.relations import UNSEEN_DEGREES, analogies, as_batch, chain_name, get_relation
from lorweb_mini.errors import InputError, whole_number
from lorweb_mini.files import data_dir, read_json, whole_file
from lorweb_mini.models.autoencoder import MiniAutoencoder
from lorweb_mini.models.weights import latent_fingerprint, weights_dir
from lorweb_mini.training.analogies import Listed
from lorweb_mini.training.log import LOG, read_log
from lorweb_mini.training.loop import train

from .cells import SAMPLES, STUDIES, Cell, cells
from .pair_adapter import load_pair_editor, new_pair_editor

LISTED = 16  # of the M relations of a cell are judged as seen ones
TRUTHS: dict[Any, Truth] = {}
PAIRED = ("drawn pair", "composition")  # groups with compositions of two edits, judged by their parts as well
COLUMNS = (
    "study", "cell", "seed", "settings", "samples", "minutes", "loss", "entropy", "usage",
    "group", "relations", "method", "error", "error_low", "error_high", "retrieval", "both", "revision",
)  # fmt: skip


def trained(cell: Cell, folder: Path, samples: int, precision: str) -> Editor:
    """The cell's basis: read where its training is finished, else trained or trained on.

    Raises:
        InputError: the folder has a finished training of another length.
    """
    if (folder / "config.json").is_file():
        if (found := read_json(folder / "training.json", ["samples"])["samples"]) != samples:
            raise InputError(f"expected a training of {samples} samples in {folder}, got one of {found}")
    else:
        config = replace(
            DEFAULTS["starter"],
            minutes=None,
            samples=samples,
            seed=cell.seed,
            precision=precision,
            **cell.change.training,
        )
        basis, options = replace(BASES["starter"], **cell.change.basis), dict(cell.change.recipe)
        if cell.change.adapter:
            options["editor"] = new_pair_editor(basis, cell.seed)
        train(recipe_of("starter", basis, cell.seed, **options), config, folder)
    return load_pair_editor(folder) if cell.change.adapter else load(folder)


@lru_cache(maxsize=1)
def judged_panel(listed: int | None, count: int, drawn: int) -> tuple[Panel, Listed | None]:
    """The test panel of the starter's kinds with unions of its groups; some of the fixed relations, if there are."""
    asked = panel("test", count, drawn, STARTER_KINDS)
    unions = {"drawn": DRAWN.values(), "unseen": UNSEEN_DEGREES}
    whole = {name: [x for part in parts for x in asked.groups.get(part, [])] for name, parts in unions.items()}
    asked = Panel(asked.analogies, {**whole, **asked.groups})
    if listed is None:
        return asked, None
    own = Listed(Distribution(STARTER_KINDS, held_out()), listed)
    names = [chain_name(chain) for chain in own.chains[:LISTED].as_lists()]
    items = {name: analogies("test", name, 0, count) for name in dict.fromkeys(names)}
    items = {name: some for name, some in items.items() if len(some) > 1}
    return Panel({**items, **asked.analogies}, {"seen": list(items), **asked.groups}), own


def judged_truth(asked: Panel, autoencoder: MiniAutoencoder, limit: int) -> Truth:
    """The true answers on a panel; those of the last one are kept, since most cells have the same."""
    sizes = tuple((name, len(items)) for name, items in asked.analogies.items())
    key = (sizes, latent_fingerprint(autoencoder), limit)
    if key not in TRUTHS:
        TRUTHS.clear()
        TRUTHS[key] = Truth(asked.analogies, autoencoder, None, limit, 1000, 0)
    return TRUTHS[key]


def judged_methods(cell: Cell, editor: Editor, asked: Panel, own: Listed | None, quick: bool) -> dict[str, Method]:
    """The cell's own answers; with fixed relations their memoriser's, for the controls all of theirs."""
    methods: dict[str, Method] = {"LoRWeB": methods_of(editor, steps=1)["LoRWeB"]}
    if own is not None:
        memoriser = Memoriser(Distribution(), 1)
        memoriser.chains = own.chains
        methods["memoriser"] = lambda items: reconstruct(editor.autoencoder, memoriser(*as_batch(items)[:3]))
    if cell.study == "controls":
        chosen_on = {name: found for name in asked.analogies if (found := analogies("val", name, n=2))}
        seen = seen_analogies(STARTER_KINDS, 24 if quick else 200)
        methods |= controls_of(editor, seen, asked.items, chosen_on, steps=1)
        # Words confound what the pictures say: how far they go alone, and whether they help the mixture.
        methods["words alone"] = told_in_words(editor, steps=1)
        methods["mixture and words"] = told_in_words(editor, steps=1, routed=True)
        if (known := remembered(editor.autoencoder, asked.items, STARTER_KINDS)) is not None:
            methods["memoriser"] = known
        elif not quick:
            raise InputError("expected the memoriser's answers to all questions; run benchmarks.memoriser --save first")
    return methods


def rows_of(cell: Cell, editor: Editor, folder: Path, quick: bool) -> list[dict[str, Any]]:
    """The cell's rows: one a group of relations and method."""
    *counts, limit = (2, 2, 1) if quick else (PROFILES["cpu"].analogies, PROFILES["cpu"].drawn, 3)
    listed = cell.change.recipe.get("relations")
    asked, own = judged_panel(listed, *counts)
    methods = judged_methods(cell, editor, asked, own, quick)
    truth = judged_truth(asked, editor.autoencoder, limit)
    result = evaluate(methods, asked.analogies, editor.autoencoder, asked.groups, truth=truth)
    log = read_log(folder / LOG)[-1]
    common = {
        "study": cell.study,
        "cell": cell.name,
        "seed": cell.seed,
        "settings": json.dumps(cell.settings),
        "samples": int(log["samples"]),
        "minutes": round(log["seconds"] / 60, 1),
        "loss": round(log["loss"], 4),
        **{k: round(log[k], 3) if k in log else "" for k in ("entropy", "usage")},
        "revision": revision(),
    }
    return [{**common, **row} for row in _score_rows(result, methods, asked, editor)]


def _score_rows(
    result: Evaluation, methods: Mapping[str, Method], asked: Panel, editor: Editor
) -> list[dict[str, str | float]]:
    rows = []
    for group, scores in result.groups.items():
        for method, score in scores.items():
            numbers = {
                "error": score.error.value,
                "error_low": score.error.low,
                "error_high": score.error.high,
                "retrieval": score.retrieval.value,
            }
            pairs = [r for r in map(get_relation, result.members[group]) if group in PAIRED and len(r.edits) == 2]
            if pairs:
                shares = part_shares(methods[method], asked.analogies, pairs, editor.autoencoder)
                numbers["both"] = shares[PARTS[-1]]
            names = {"group": group, "relations": len(result.members[group]), "method": method}
            rows.append({**names, "both": "", **{k: round(v, 4) for k, v in numbers.items()}})
    return rows


def revision() -> str:
    """The commit that the code is of."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or "unknown"


def finished(path: Path) -> set[tuple[str, int]]:
    """Cells that the file has rows of."""
    return {(row["cell"], int(row["seed"])) for row in read_rows(path)}


def append(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Adds rows to the file, with a heading where it is new: all of them, or none where it is interrupted.

    Raises:
        InputError: what :func:`~lorweb_mini.analysis.results.read_rows` refuses, or a row lacks a column.
    """
    known = read_rows(path)
    if any(set(row) != set(COLUMNS) for row in known):
        raise InputError(f"expected the columns {', '.join(COLUMNS)} in {path}, got {', '.join(known[0])}")
    with whole_file(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows([*known, *rows])


def work(cell: Cell, path: Path, options: argparse.Namespace) -> None:
    """Trains and judges one cell, unless its rows are there or another process holds it."""
    folder = options.folder / cell.folder_name
    folder.mkdir(parents=True, exist_ok=True)
    try:
        # The system lets go of the lock when its process ends, however it ends.
        with FileLock(folder / "lock", timeout=0):
            if not options.quick and (cell.name, cell.seed) in finished(path):
                return
            if cell.study == "controls":
                folder = weights_dir() / "starter"
                editor = load(folder)
            else:
                samples = 64 if options.quick else SAMPLES[cell.study]
                editor = trained(cell, folder, samples, options.precision)
            rows = rows_of(cell, editor, folder, options.quick)
            for row in rows:
                print(f"{cell.name}, seed {cell.seed}: {row['group']}, {row['method']}: {row['error']:.3f}", flush=True)
            if not options.quick:
                with FileLock(options.folder / f"{cell.study}.lock"):
                    append(path, rows)
    except Timeout:
        print(f"{cell.name}, seed {cell.seed}: another process is at it", flush=True)


def main(arguments: list[str] | None = None) -> None:
    """Parses the command line and works through the cells."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies", description=__doc__)
    parser.add_argument("study", choices=list(STUDIES))
    parser.add_argument("--cells", nargs="+", help="names of cells; all by default")
    parser.add_argument("--seeds", type=int, nargs="+", help="all by default")
    parser.add_argument("--minutes", type=float, help="no cell is started after so long")
    parser.add_argument("--folder", type=Path, default=Path("runs") / "studies", help="one folder a cell in it")
    parser.add_argument("--results", type=Path, help="default: data/results/STUDY.csv")
    parser.add_argument("--precision", choices=("fp32", "bf16", "auto"), default="auto")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--list", action="store_true", help="names the cells, and trains none")
    parser.add_argument("--quick", action="store_true", help="two steps of two cells, nothing kept")
    options = parser.parse_args(arguments)
    torch.set_num_threads(whole_number(options.threads, "threads"))
    path = options.results or data_dir() / "results" / f"{options.study}.csv"
    every = cells(options.study)
    asked = {*(options.cells or ()), *(options.seeds or ())}
    if unknown := asked - {x for c in every for x in (c.name, c.seed)}:
        parser.error(f"no cell of {options.study} has {', '.join(map(repr, unknown))}: --list shows which there are")
    chosen = [c for c in every if c.seed in (options.seeds or [c.seed]) and c.name in (options.cells or [c.name])]
    if options.quick:
        with tempfile.TemporaryDirectory() as folder:
            options.folder = Path(folder)
            for cell in chosen[:2]:
                work(cell, path, options)
        return
    started = time.monotonic()
    for cell in chosen:
        done = (cell.name, cell.seed) in finished(path)
        if options.list:
            print("done" if done else "open", cell.name, cell.seed)
        elif options.minutes is not None and time.monotonic() - started > 60 * options.minutes:
            break
        elif not done:
            work(cell, path, options)
            gc.collect()  # an editor and its transformer refer to each other: a gigabyte a cell would pile up


if __name__ == "__main__":
    main()
