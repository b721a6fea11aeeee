"""What a run leaves behind: figures and the report."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from ..algebra import Map, pca
from ..analysis.evaluation import Counterfactuals, by_relation, draw, reconstruct, squared
from ..analysis.methods import methods_of
from ..analysis.probes import clustering, read_off
from ..analysis.scores import Evaluation
from ..analysis.space import basis_usage, coefficients_of, concepts_of
from ..core.editor import Editor
from ..emoji.relations import Analogy, as_batch, get_relation
from ..errors import InputError
from ..show import figures, pictures, style
from ..training.log import read_log

SEEN = ("drawn edit", "drawn pair", "tones")  # groups of analogies whose relations training draws
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
    families = [get_relation(x.relation).family for items in groups.values() for x in items]
    outlined = [name not in SEEN for name, items in groups.items() for _ in items]
    style.save(figures.pca_map(plane, families, outlined), output / "routing_pca.png")
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
