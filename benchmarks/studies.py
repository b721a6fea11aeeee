"""Trains and judges the cells of the studies behind notebooks 07 and 08.

    python -m benchmarks.studies dial --list            # which cells there are, and which have a result
    python -m benchmarks.studies dial --minutes 60      # one unfinished cell after the other, for so long
    python -m benchmarks.studies ablations --quick      # two steps of two cells: shows that it works

``dial``: the same recipe on M fixed relations or on fresh ones, M from 8 to 2,048. ``ablations``: the starter's recipe
with one thing changed. A cell is one training from one seed; it is as long for all cells of a study in samples, so that
a busy machine makes no difference. A killed cell goes on where it stopped. Results go to ``data/results/<study>.csv``,
one row for each cell, group of relations and method: tidy, with the settings and the revision of the code.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from lorweb_mini.analysis.evaluation import Method, evaluate, reconstruct
from lorweb_mini.analysis.methods import methods_of
from lorweb_mini.analysis.unseen import Panel, panel
from lorweb_mini.commands.train import BASES, DEFAULTS, STARTER_KINDS, recipe_of
from lorweb_mini.core.editor import Editor, load
from lorweb_mini.emoji.distributions import Distribution, Memoriser, held_out
from lorweb_mini.emoji.relations import analogies, as_batch, chain_name
from lorweb_mini.files import data_dir
from lorweb_mini.training.analogies import Listed
from lorweb_mini.training.log import LOG, read_log
from lorweb_mini.training.loop import train

SEEDS = (0, 1, 2)
LISTED = 16  # of the M relations of a cell are judged as seen ones
COLUMNS = (
    "study", "cell", "seed", "settings", "samples", "minutes", "loss", "entropy", "usage",
    "group", "relations", "method", "error", "error_low", "error_high", "retrieval", "revision",
)  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One training.

    Attributes:
        basis: what differs from the starter's :class:`~lorweb_mini.core.editor.BasisConfig`.
        recipe: what differs from its recipe.
    """

    study: str
    name: str
    seed: int
    basis: dict[str, Any] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)

    @property
    def folder_name(self) -> str:
        return f"{self.study}-{self.name}-{self.seed}".replace(" ", "_").replace("/", "_")


SAMPLES = {"dial": 96_000, "ablations": 38_400}
EVERY_KIND: dict[str, Any] = {"kinds": None, "artists_share": 0.0}
# Name of a cell to what differs in the basis, and in the recipe.
DIAL: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    **{str(m): ({}, {**EVERY_KIND, "relations": m}) for m in (8, 32, 128, 512, 2048)},
    "fresh": ({}, EVERY_KIND),
}
ABLATIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "as the starter": ({}, {}),
    # N and r, at the same N·r = 64 and at others
    **{f"N {n}, r {r}": ({"n_loras": n, "rank": r}, {}) for n, r in ((1, 64), (4, 16), (64, 1))},
    **{f"N {n}, r {r}": ({"n_loras": n, "rank": r}, {}) for n, r in ((4, 4), (8, 4), (32, 4), (16, 1), (16, 8))},
    # mixing
    **{f"mixing {m}": ({"mixing": m}, {}) for m in ("tanh", "top-1", "top-2", "top-4")},
    **{f"temperature {t}": ({"temperature": t}, {}) for t in (0.5, 2.0)},
    "balance 0.02": ({}, {"balance": 0.02}),
    "one router for all layers": ({"shared": True}, {}),
    # the query
    **{f"query {q}": ({"query": q}, {}) for q in ("cat", "pair", "difference", "difference+b", "a'")},
    "pair encoder tuned": ({}, {"pair_rate": 0.02}),
    # the encoder, with the paper's query
    **{f"encoder {e}": ({"encoder": e, "query": "cat"}, {}) for e in ("latents", "pixels", "efficientnet-lite0")},
    # what the transformer sees, and whether there is a router
    **{f"layout {x}": ({"layout": x}, {}) for x in ("tokens", "grid")},
    "context only": ({"layout": "tokens", "routed": False, "query": "cat", "n_loras": 1, "rank": 64}, {}),
    # the times
    "times as for artists": ({}, {"exact_shift": 0.8}),
}
STUDIES = {"dial": DIAL, "ablations": ABLATIONS}


def cells(study: str) -> list[Cell]:
    """All cells of a study, seed by seed."""
    return [Cell(study, name, seed, *changes) for seed in SEEDS for name, changes in STUDIES[study].items()]


def trained(cell: Cell, folder: Path, samples: int, precision: str) -> Editor:
    """The cell's basis: read where its training is finished, else trained or trained on."""
    if not (folder / "config.json").is_file():
        config = replace(DEFAULTS["starter"], minutes=None, samples=samples, seed=cell.seed, precision=precision)
        recipe = recipe_of("starter", replace(BASES["starter"], **cell.basis), cell.seed, **cell.recipe)
        train(recipe, config, folder)
    return load(folder)


def judged_panel(cell: Cell, count: int, drawn: int) -> tuple[Panel, Listed | None]:
    """The test panel of the cell's kinds, with the cell's own relations where they are fixed."""
    kinds = cell.recipe.get("kinds", STARTER_KINDS)
    asked = panel("test", count, drawn, kinds)
    if (size := cell.recipe.get("relations")) is None:
        return asked, None
    own = Listed(Distribution(kinds, held_out()), size)
    names = [chain_name(chain) for chain in own.chains[:LISTED].as_lists()]
    items = {name: analogies("test", name, 0, count) for name in dict.fromkeys(names)}
    items = {name: some for name, some in items.items() if len(some) > 1}
    return Panel({**items, **asked.analogies}, {"seen": list(items), **asked.groups}), own


def rows_of(cell: Cell, editor: Editor, folder: Path, quick: bool) -> list[dict[str, Any]]:
    """The cell's rows, without the memoriser where relations are fresh: ``benchmarks.memoriser`` has its answers."""
    asked, own = judged_panel(cell, 2 if quick else 6, 2 if quick else 12)
    methods: dict[str, Method] = {"LoRWeB": methods_of(editor, steps=1)["LoRWeB"]}
    if own is not None:
        memoriser = Memoriser(Distribution(), 1)
        memoriser.chains = own.chains
        methods["memoriser"] = lambda items: reconstruct(editor.autoencoder, memoriser(*as_batch(items)[:3]))
    result = evaluate(methods, asked.analogies, editor.autoencoder, asked.groups, retrieval_limit=3, resamples=500)
    log = read_log(folder / LOG)[-1]
    common = {
        "study": cell.study,
        "cell": cell.name,
        "seed": cell.seed,
        "settings": json.dumps({**cell.basis, **cell.recipe}),
        "samples": int(log["samples"]),
        "minutes": round(log["seconds"] / 60, 1),
        "loss": round(log["loss"], 4),
        **{k: round(log[k], 3) if k in log else "" for k in ("entropy", "usage")},
        "revision": revision(),
    }
    rows = []
    for group, scores in result.groups.items():
        for method, score in scores.items():
            error, retrieval = score.error, score.retrieval.value
            numbers = {"error": error.value, "error_low": error.low, "error_high": error.high, "retrieval": retrieval}
            own_part = {"group": group, "relations": len(result.members[group]), "method": method}
            rows.append({**common, **own_part, **{k: round(v, 4) for k, v in numbers.items()}})
    return rows


def revision() -> str:
    """The commit that the code is of."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or "unknown"


def finished(path: Path) -> set[tuple[str, int]]:
    """Cells that the file has rows of."""
    if not path.is_file():
        return set()
    with path.open(newline="", encoding="utf-8") as file:
        return {(row["cell"], int(row["seed"])) for row in csv.DictReader(file)}


def append(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Adds rows to the file, with a heading where it is new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if new:
            writer.writeheader()
        writer.writerows(rows)


def main(arguments: list[str] | None = None) -> None:
    """Parses the command line and works through the cells."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies", description=__doc__)
    parser.add_argument("study", choices=list(STUDIES))
    parser.add_argument("--cells", nargs="+", help="names of cells; all by default")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--minutes", type=float, help="no cell is started after so long")
    parser.add_argument("--folder", type=Path, default=Path("runs") / "studies", help="one folder a cell in it")
    parser.add_argument("--results", type=Path, help="default: data/results/STUDY.csv")
    parser.add_argument("--precision", choices=("fp32", "bf16", "auto"), default="auto")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--list", action="store_true", help="names the cells, and trains none")
    parser.add_argument("--quick", action="store_true", help="two steps of two cells, nothing kept")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    path = options.results or data_dir() / "results" / f"{options.study}.csv"
    done = finished(path)
    chosen = [c for c in cells(options.study) if c.seed in options.seeds and c.name in (options.cells or [c.name])]
    if options.quick:
        chosen, done = chosen[:2], set()
    started = time.monotonic()
    for cell in chosen:
        if options.list:
            print("done" if (cell.name, cell.seed) in done else "open", cell.name, cell.seed)
            continue
        if (cell.name, cell.seed) in done:
            continue
        if options.minutes is not None and time.monotonic() - started > 60 * options.minutes:
            break
        folder = options.folder / cell.folder_name
        samples = 64 if options.quick else SAMPLES[options.study]
        rows = rows_of(cell, trained(cell, folder, samples, options.precision), folder, options.quick)
        for row in rows:
            print(f"{cell.name}, seed {cell.seed}: {row['group']}, {row['method']}: {row['error']:.3f}")
        if not options.quick:
            append(path, rows)


if __name__ == "__main__":
    main()
