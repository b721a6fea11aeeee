"""How much results vary with the seed: the starter trained again from other seeds, on the same analogies.

    .venv/bin/python -m benchmarks.seeds            # two trainings of ten minutes each; --save writes results/seeds.md
    .venv/bin/python -m benchmarks.seeds --quick    # two steps each: shows that it works

The README's intervals are over analogies, with one training. A seed sets the first weights, the order of the pictures,
the noise and the times of a training; the starting noise of the drawings and the analogies stay the same here. As many
steps as the shipped starter took, not as many minutes, so that a busy machine makes no difference. A killed run goes on
where it stopped.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

import torch

from lorweb_mini.analysis.evaluation import by_relation, evaluate
from lorweb_mini.analysis.methods import methods_of
from lorweb_mini.analysis.scores import MEASURES, Evaluation
from lorweb_mini.commands.run import GROUPS, PROFILES, gathered, root, trained
from lorweb_mini.commands.train import DEFAULTS, STARTER_KINDS, STARTER_TONES
from lorweb_mini.core.editor import load
from lorweb_mini.models.weights import weights_dir
from lorweb_mini.training.log import LOG, read_log

from .timing import conditions, markdown, write

LABELS = {"error": "Normalised error", "retrieval": "Relation retrieval"}


def table(evaluation: Evaluation, measure: str) -> str:
    """A training a row, each with its interval over analogies; below, the mean and the deviation over trainings."""
    groups = list(evaluation.groups)
    scores = {name: [getattr(evaluation.groups[g][name], measure) for g in groups] for name in evaluation.seconds}
    rows = [[name, *map(str, cells)] for name, cells in scores.items()]
    values = [[one.value for one in column] for column in zip(*scores.values(), strict=True)]
    rows.append(["mean ± deviation over seeds", *(f"{mean(column):.3f} ± {stdev(column):.3f}" for column in values)])
    return markdown([LABELS[measure], *(f"{g} ({len(evaluation.members[g])})" for g in groups)], rows)


def main(arguments: list[str] | None = None) -> None:
    """Parses the command line, trains what is not trained yet, and prints."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.seeds", description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2], help="of the trainings beside the shipped one")
    parser.add_argument("--folder", type=Path, default=root() / "runs" / "seeds", help="one folder a seed in it")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--quick", action="store_true", help="two steps, one analogy a relation")
    parser.add_argument("--save", action="store_true", help="keep the tables in results/")
    options = parser.parse_args(arguments)
    if options.quick and options.save:
        parser.error("a quick run is not saved")
    torch.set_num_threads(options.threads)
    profile = PROFILES["smoke" if options.quick else "cpu"]
    shipped = weights_dir() / "starter"
    steps = 2 if options.quick else int(read_log(shipped / LOG)[-1]["step"])
    config = replace(DEFAULTS["starter"], steps=steps, minutes=None, batch_size=4 if options.quick else 32)
    first = json.loads((shipped / "training.json").read_text(encoding="utf-8"))["seed"]
    editors = {f"seed {first}, as shipped": load(shipped)}
    for seed in options.seeds:
        folder = options.folder / str(seed)
        editors[f"seed {seed}"] = trained(folder, replace(config, seed=seed))
    methods = {name: methods_of(editor, steps=profile.sampling_steps)["LoRWeB"] for name, editor in editors.items()}
    degrees = gathered(profile, STARTER_KINDS, STARTER_TONES, seed=0)
    items = [x for part in degrees.values() for x in part]
    groups = {GROUPS[d]: list(by_relation(part)) for d, part in degrees.items() if part}
    autoencoder = next(iter(editors.values())).autoencoder
    evaluation = evaluate(
        methods, by_relation(items), autoencoder, groups, None, profile.checked, profile.resamples, report=print
    )
    text = (
        f"The starter, {steps:,} steps of {config.batch_size} samples from each seed, on the {len(items)} analogies of "
        "the README's table; 95 % bootstrap intervals over analogies.\n\n"
        + "\n\n".join(table(evaluation, measure) for measure in MEASURES if measure in LABELS)
        + f"\n\n{conditions()}."
    )
    print("\n" + text)
    if options.save:
        write("seeds", text)


if __name__ == "__main__":
    main()
