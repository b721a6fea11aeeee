"""Works out the memoriser's answers to the test questions: ``python -m benchmarks.memoriser --save``.

Which of its 10,000 relations fits an example pair best does not depend on any weights, and takes seconds a pair. So
these relations are kept in ``data/memoriser.json``: for the questions of notebook 07 (all kinds), and for those of the
README's table and of the studies (the starter's kinds). About 40 minutes of one core.
"""

from __future__ import annotations

import argparse
import json
import os
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from lorweb_mini.analysis.methods import key_of, kinds_key, memoriser_answers
from lorweb_mini.analysis.unseen import cut, panel
from lorweb_mini.commands.run import PROFILES
from lorweb_mini.commands.train import STARTER_KINDS, STARTER_TONES
from lorweb_mini.emoji.distributions import Distribution, Memoriser, held_out
from lorweb_mini.emoji.relations import Analogy, analogies
from lorweb_mini.files import data_dir, write_atomically

FILE = "memoriser.json"
COUNT, DRAWN = PROFILES["cpu"].analogies, PROFILES["cpu"].drawn
FIRST = 3  # so many of a relation's analogies are asked in notebook 07


def questions(kinds: tuple[str, ...] | None) -> list[Analogy]:
    """The analogies that are asked of a basis with these kinds of edit."""
    asked = panel("test", COUNT, DRAWN, kinds)
    return cut(asked, FIRST).items if kinds is None else asked.items + analogies("test", STARTER_TONES, 0, COUNT)


def text_of(table: dict[str, dict[str, Any]]) -> str:
    """The table as JSON, an answer a line."""
    parts = []
    for name, entry in table.items():
        answers = [f"{json.dumps(k, ensure_ascii=False)}: {json.dumps(v)}" for k, v in entry["chosen"].items()]
        head = f'"size": {entry["size"]}, "seed": {entry["seed"]}, "chosen"'
        parts.append(f"{json.dumps(name)}: {{{head}: {{\n" + ",\n".join(answers) + "}}")
    return "{\n" + ",\n".join(parts) + "}\n"


def main(arguments: list[str] | None = None) -> None:
    """Adds what is missing; a killed run goes on."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memoriser", description=__doc__)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--quick", action="store_true", help="two analogies of each, for the tests")
    options = parser.parse_args(arguments)
    if options.quick and options.save:
        parser.error("--quick asks a smaller memoriser: its answers are not to be saved")
    torch.set_num_threads(options.threads)
    table = {kinds_key(kinds): memoriser_answers(kinds) for kinds in (None, STARTER_KINDS)}

    def save() -> None:
        if options.save:
            write_atomically(data_dir() / FILE, text_of(table).encode())

    for kinds in (None, STARTER_KINDS):
        entry = table[kinds_key(kinds)]
        memoriser = Memoriser(Distribution(kinds, held_out()), 100 if options.quick else entry["size"], entry["seed"])
        missing = [x for x in questions(kinds) if key_of(x) not in entry["chosen"]][: 2 if options.quick else None]
        for number, item in enumerate(tqdm(missing, desc=f"{len(kinds or ()) or 'all'} kinds")):
            best = np.array([memoriser.fit(item.a, item.a_prime)])
            entry["chosen"][key_of(item)] = memoriser.chains[best].as_lists()[0]
            if number % 50 == 49:
                save()
        save()


if __name__ == "__main__":
    main()
