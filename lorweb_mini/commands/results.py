"""What a run leaves behind: figures, the report, and the README's table."""

from __future__ import annotations

import math
import os
import platform
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from ..algebra import Map, pca
from ..analysis.evaluation import (
    Counterfactuals,
    by_relation,
    draw,
    reconstruct,
    squared,
)
from ..analysis.methods import methods_of
from ..analysis.probes import clustering, read_off
from ..analysis.scores import Evaluation, table
from ..analysis.space import basis_usage, coefficients_of, concepts_of
from ..core.editor import Editor
from ..emoji.relations import Analogy, as_batch
from ..errors import InputError
from ..files import read_json, write_atomically
from ..show import figures, pictures, style
from ..training.log import read_log

SEEN = ("drawn edit", "drawn pair", "tones")  # groups of analogies whose relations training draws
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
PACKAGES = ("torch", "diffusers", "transformers", "peft", "accelerate", "scikit-learn", "numpy")


def space_report(editor: Editor, items: Sequence[Analogy], seed: int) -> tuple[Map, dict[str, Any]]:
    """The map of routing vectors of analogies, and what can be read off them."""
    coefficients = coefficients_of(editor, items)
    vectors, labels = coefficients.flatten(1).numpy(), np.array([x.relation for x in items])
    plane, usage = pca(vectors), basis_usage(coefficients)
    report: dict[str, Any] = {
        "explained_variance": plane.explained.tolist(),
        "entropy": usage.entropy,
        "usage": usage.usage,
        "variation": usage.variation,
        "effective_loras": float(usage.effective.mean()),
    }
    try:
        shuffled_labels, concepts = np.random.default_rng(seed).permutation(labels), concepts_of(items)
        right, by_chance = (read_off(vectors, x, concepts, seed=seed).mean() for x in (labels, shuffled_labels))
        most = np.unique(labels, return_counts=True)[1].max()
        report["probe"] = {"accuracy": right, "shuffled": by_chance, "chance": most / len(labels)}
        report["clustering"] = asdict(clustering(vectors, labels, seed))
    except InputError:  # too few analogies, in the smoke profile
        pass
    return plane, report


def draw_figures(
    output: Path,
    editor: Editor,
    groups: Mapping[str, Sequence[Analogy]],
    evaluation: Evaluation,
    plane: Map,
    log: Path,
    steps: int,
) -> None:
    """All pictures of a run."""
    method = methods_of(editor, steps=steps)["LoRWeB"]
    seen, unseen = ([x for g in groups if (g in SEEN) == known for x in groups[g]] for known in (True, False))
    for name, items, title in (
        ("seen", seen, "Unseen emoji, relations that training draws"),
        ("unseen", unseen, "Unseen emoji, relations never trained"),
    ):
        relations = list(by_relation(items).values())
        each = 1 if len(relations) > 5 else 2
        every = max(1, each * len(relations) // 20)
        chosen = [x for some in relations[::every] for x in some[:each]][:20]
        if not chosen:
            continue
        results = draw(method, chosen)
        b, b_prime = (reconstruct(editor.autoencoder, x) for x in as_batch(chosen)[2:])
        errors = (squared(results, b_prime) / squared(b, b_prime)).tolist()
        style.save(pictures.triplets(chosen, results, title=title, errors=errors), output / f"triplets_{name}.png")
    labels = [x.relation for items in groups.values() for x in items]
    style.save(figures.pca_map(plane, labels, {x.relation for x in unseen}), output / "routing_pca.png")
    style.save(figures.training_curves(log, editor.config.n_loras), output / "training.png")
    style.save(figures.error_bars(evaluation), output / "errors.png")


def report_of(
    editor: Editor, log: Path, evaluation: Evaluation, swapped: Counterfactuals | None, space: Mapping[str, Any]
) -> dict[str, Any]:
    """All numbers of a run with their intervals, seeds, versions, times."""
    last = read_log(log)[-1]
    return {
        "seed": evaluation.seed,
        "machine": {"cores": os.cpu_count(), "python": platform.python_version()},
        "versions": {p: version(p) for p in PACKAGES},
        "basis": asdict(editor.config),
        "training": {
            "steps": int(last["step"]),
            "samples": int(last["samples"]),
            "seconds": last["seconds"],
            "loss": last["loss"],
        },
        "evaluation": evaluation.as_json(),
        "counterfactuals": None if swapped is None else asdict(swapped),
        "space": space,
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


def write_readme(readme: Path, report: Mapping[str, Any]) -> None:
    """Replaces what stands between the README's two results marks; InputError where they are missing."""
    text = readme.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        raise InputError(f"expected the marks {BEGIN} and {END} in {readme}")
    before, rest = text.split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    content = f"{before}{BEGIN}\n{readme_table(report)}\n{END}{after}"
    write_atomically(readme, content.encode())


def publish(home: Path) -> None:
    """Copies pictures and report of the last run in the cpu profile into figures/run, and its table into the README."""
    source, target = home / "runs" / "cpu" / "results", home / "figures" / "run"
    if not (source / "report.json").is_file():
        raise InputError(f"expected the results of make run in {source}, found none")
    target.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        shutil.copy2(path, target / path.name)
    write_readme(home / "README.md", read_json(target / "report.json"))
