"""Works out the memoriser's answers on the panels: ``python -m benchmarks.memoriser --save``.

Each distribution and part takes three quarters of an hour of one core.

Which of its 10,000 relations fits an example pair best does not depend on any weights, so the answers are kept in
``data/memoriser.json``: for the distribution of all kinds and for the starter's, on both panels.
"""

from __future__ import annotations

import argparse
import json
import os

import torch
from tqdm.auto import tqdm

from lorweb_mini.analysis.methods import key_of
from lorweb_mini.analysis.unseen import cut, panel
from lorweb_mini.commands.run import PROFILES
from lorweb_mini.commands.train import STARTER_KINDS
from lorweb_mini.emoji.distributions import Distribution, Memoriser, held_out
from lorweb_mini.files import data_dir, write_atomically

SIZE, SEED = 10_000, 0


def main() -> None:
    """Adds what is missing; a killed run goes on."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=PROFILES["cpu"].analogies, help="analogies of each relation")
    parser.add_argument("--drawn", type=int, default=PROFILES["cpu"].drawn, help="drawn relations of each length")
    parser.add_argument("--first", type=int, default=3, help="so many of them are asked, as in notebook 07")
    parser.add_argument("--parts", nargs="+", default=("test", "val"), choices=("test", "val"))
    parser.add_argument("--all-kinds", action="store_true", help="not those of the starter")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--quick", action="store_true", help="two analogies, for the tests")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    path = data_dir() / "memoriser.json"
    table = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for kinds in (None,) if options.all_kinds else (None, STARTER_KINDS):
        memoriser = Memoriser(Distribution(kinds, held_out()), 100 if options.quick else SIZE, SEED)
        entry = table.setdefault(",".join(kinds or ["all"]), {"size": SIZE, "seed": SEED, "chosen": {}})
        for part in options.parts:
            items = cut(panel(part, options.count, options.drawn, kinds), options.first).items
            missing = [x for x in items if key_of(x) not in entry["chosen"]][: 2 if options.quick else None]
            for number, item in enumerate(tqdm(missing, desc=f"{part}, {len(kinds or ()) or 'all'} kinds")):
                entry["chosen"][key_of(item)] = memoriser.fit(item.a, item.a_prime)
                if options.save and number % 50 == 49:
                    write_atomically(path, json.dumps(table, indent=0).encode())
    if options.save:
        write_atomically(path, (json.dumps(table, indent=0, ensure_ascii=False) + "\n").encode())


if __name__ == "__main__":
    main()
