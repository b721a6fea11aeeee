"""``make run``: trains the starter basis and its router on real emoji, judges and draws what it does on unseen ones.

``LORWEB_PROFILE=smoke`` does all of it in about a minute to show that it works; its numbers mean nothing.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from ..algebra import pca
from ..analysis.bootstrap import Estimate
from ..analysis.evaluation import (
    Counterfactuals,
    Evaluation,
    by_relation,
    counterfactuals,
    draw,
    evaluate,
    reconstruct,
    squared,
    table,
    without_nan,
)
from ..analysis.methods import methods_of, remembered
from ..analysis.space import basis_usage, clustering, coefficients_of, concepts_of, linear_probe
from ..analysis.unseen import panel
from ..core.editor import BasisConfig, Editor, load
from ..emoji.relations import Analogy, analogies, as_batch
from ..errors import InputError
from ..files import read_json, tolerant_console, write_atomically
from ..models.encoders import EFFICIENTNET, Judge
from ..models.weights import WEIGHTS, load_config, weights_dir
from ..show import figures, pictures, style
from ..training.config import TrainingConfig
from ..training.log import LOG, read_log
from ..training.loop import train
from ..training.state import STATE
from .train import BASES, DEFAULTS, STARTER_KINDS, STARTER_TONES, recipe_of

# The one LoRA's coefficients are 1, not about 1/N: at the basis's rate its weights would move N times as far a step.
ONE_LORA_RATE = 2e-3
GROUPS = {
    "drawn edit": "edit that could have been drawn",
    "drawn pair": "two in a row",
    "tones": "skin tones",
    "strength": "unseen strength",
    "composition": "unseen composition",
    "inside": "unseen kind, inside the span",
    "between": "unseen kind, between",
    "outside": "unseen kind, outside",
}
SEEN = ("drawn edit", "drawn pair", "tones")
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
PACKAGES = ("torch", "diffusers", "transformers", "peft", "accelerate", "scikit-learn", "numpy")


@dataclass(frozen=True)
class Profile:
    """How much a run does.

    Attributes:
        steps, minutes: length of the training, one of them.
        analogies: how many of each relation are judged.
        checked: analogies a relation that retrieval, the judge and the counterfactuals look at.
        drawn: relations of the training distribution that are judged, of one edit and of two.
    """

    steps: int | None
    minutes: float | None
    analogies: int
    checked: int
    sampling_steps: int
    resamples: int
    drawn: int


PROFILES = {
    "smoke": Profile(30, None, 2, 1, 2, 200, 3),
    "cpu": Profile(None, 10, 8, 8, 1, 1000, 16),
    "gpu": Profile(None, 10, 8, 8, 1, 1000, 16),
}


def one_lora_config() -> BasisConfig:
    """The baseline: one LoRA with as many parameters as the starter basis, no router, a and a' as context."""
    basis = BASES["starter"]
    return replace(basis, n_loras=1, rank=basis.n_loras * basis.rank, layout="tokens", routed=False, query="cat")


def root() -> Path:
    """The checkout, or the current folder where the package was installed from a wheel."""
    here = Path(__file__).resolve().parents[2]
    return here if (here / "pyproject.toml").is_file() else Path.cwd()


def say(line: str) -> None:
    """One line of progress."""
    print(line, flush=True)


def trained(
    folder: Path,
    config: TrainingConfig,
    basis: BasisConfig | None = None,
    fresh: bool = False,
) -> Editor:
    """The editor in a folder: trained now, resumed, or reused where training has finished with the same settings.

    Raises:
        InputError: the folder holds a run of other settings.
    """
    finished = (folder / WEIGHTS).is_file() and not (folder / STATE).exists()
    if finished and not fresh:
        stored = read_json(folder / "training.json")
        ours = json.loads(json.dumps(asdict(config)))
        if changed := {k: v for k, v in stored.items() if ours.get(k) != v}:
            raise InputError(
                f"{folder} holds a finished run of other settings ({changed} there): "
                "train anew with --fresh, or choose another --folder"
            )
        say(f"  already trained: reusing {folder} (--fresh trains anew)")
        return load(folder)
    if fresh:
        # A kill before the first checkpoint must not make the old weights look like the new run's.
        (folder / WEIGHTS).unlink(missing_ok=True)
    elif (folder / STATE).exists():
        say(f"  resuming the unfinished run in {folder}")
    recipe = recipe_of("starter", basis, config.seed)
    summary = train(recipe, config, folder, fresh)
    say(
        f"  {summary['steps']:,.0f} steps, {summary['samples']:,.0f} samples in {summary['seconds'] / 60:.1f} min, "
        f"loss {summary['loss']:.3f}"
    )
    return load(folder)


def baseline(options: argparse.Namespace, profile: Profile, config: TrainingConfig, folder: Path) -> Editor | None:
    """The one-LoRA baseline: shipped, or trained here by the same recipe for the same time."""
    shipped = weights_dir() / "one_lora"
    if not options.train_baseline and (shipped / WEIGHTS).is_file():
        if load_config(shipped).get("kinds") == list(STARTER_KINDS):
            return load(shipped)
        say("  the shipped baseline learned other relations: left out (--train-baseline trains one on the same)")
        return None
    if options.train_baseline:
        say("Training the baseline: one LoRA, no router, a and a' as context")
        config = replace(config, learning_rate=ONE_LORA_RATE)
        return trained(folder.with_name("one_lora"), config, one_lora_config(), options.fresh)
    say("  no shipped baseline in data/weights/one_lora: left out (--train-baseline trains it)")
    return None


def gathered(profile: Profile, kinds: Sequence[str], tones: Sequence[str], seed: int) -> dict[str, list[Analogy]]:
    """Test analogies by group: on unseen emoji, with edits that could have been drawn, tones, and unseen edits."""
    asked = panel("test", profile.analogies, profile.drawn, kinds, seed)
    found = {g: [x for name in names for x in asked.analogies[name]] for g, names in asked.groups.items()}
    found["tones"] = analogies("test", tones, seed, profile.analogies)
    return {group: found[group] for group in GROUPS if found.get(group)}


def try_judge() -> Judge | None:
    """The judge, or None where its optional packages are not installed."""
    try:
        return Judge()
    except InputError:
        say("  no judge: pip install 'lorweb_mini[judge]' adds it")
        return None


def judge_of(editor: Editor) -> Judge | None:
    """The judge of an editor's pictures; None where its router looks through the judge's own network."""
    if editor.config.encoder == EFFICIENTNET:
        say(f"  no judge: the router itself looks through {EFFICIENTNET}")
        return None
    return try_judge()


def space_report(editor: Editor, items: Sequence[Analogy], seed: int) -> tuple[Any, dict[str, Any]]:
    """The map of routing vectors of analogies, and what can be read off them."""
    coefficients = coefficients_of(editor, items)
    vectors, labels = coefficients.flatten(1).numpy(), [x.relation for x in items]
    found, usage = pca(vectors), basis_usage(coefficients)
    report: dict[str, Any] = {
        "explained_variance": found.explained.tolist(),
        "entropy": usage.entropy,
        "usage": usage.usage,
        "variation": usage.variation,
        "effective_loras": float(usage.effective.mean()),
    }
    try:
        report["probe"] = asdict(linear_probe(vectors, labels, concepts_of(items), seed=seed))
        report["clustering"] = asdict(clustering(vectors, labels, seed))
    except InputError:  # too few analogies, in the smoke profile
        pass
    return found, report


def draw_figures(
    output: Path,
    editor: Editor,
    degrees: Mapping[str, Sequence[Analogy]],
    evaluation: Evaluation,
    found: Any,
    log: Path,
    steps: int,
) -> None:
    """All pictures of a run."""
    method = methods_of(editor, steps=steps)["LoRWeB"]
    seen = [x for d in degrees if d in SEEN for x in degrees[d]]
    unseen = [x for d in degrees if d not in SEEN for x in degrees[d]]
    for name, items, title in (
        ("seen", seen, "Unseen emoji, relations that training draws"),
        ("unseen", unseen, "Unseen emoji, relations never trained"),
    ):
        groups = by_relation(items)
        each = 1 if len(groups) > 5 else 2
        every = max(1, each * len(groups) // 20)
        chosen = [x for group in list(groups.values())[::every] for x in group[:each]][:20]
        if not chosen:
            continue
        results = draw(method, chosen)
        b, b_prime = (reconstruct(editor.autoencoder, x) for x in as_batch(chosen)[2:])
        errors = (squared(results, b_prime) / squared(b, b_prime)).tolist()
        style.save(pictures.triplets(chosen, results, title=title, errors=errors), output / f"triplets_{name}.png")
    labels = [x.relation for items in degrees.values() for x in items]
    hollow = {x.relation for x in unseen}
    style.save(figures.pca_map(found, labels, sorted(hollow)), output / "routing_pca.png")
    style.save(figures.training_curves(log, editor.config.n_loras), output / "training.png")
    style.save(figures.error_bars(evaluation), output / "errors.png")


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


def write_report(
    path: Path,
    profile: str,
    seed: int,
    log: Path,
    editor: Editor,
    evaluation: Evaluation,
    swapped: Counterfactuals | None,
    space: Mapping[str, Any],
    seconds: float,
) -> dict[str, Any]:
    """Writes and returns the report: all numbers with their intervals, seeds, versions, times."""
    last = read_log(log)[-1]
    report = without_nan(
        {
            "profile": profile,
            "seed": seed,
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
            "seconds_after_training": round(seconds, 1),
        }
    )
    content = json.dumps(report, indent=1, ensure_ascii=False) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content.encode())
    return report


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(prog="python -m lorweb_mini.run", description=__doc__)
    found.add_argument("--minutes", type=float, help="training time; default 10")
    found.add_argument("--steps", type=int, help="exact number of steps instead, repeatable bit for bit")
    found.add_argument("--folder", type=Path, help="folder of the trained basis; default runs/PROFILE/starter")
    found.add_argument("--seed", type=int, default=0)
    found.add_argument("--fresh", action="store_true", help="train anew, whatever the folder holds")
    found.add_argument("--train-baseline", action="store_true", help="train the one-LoRA baseline, too")
    found.add_argument(
        "--publish", action="store_true", help="only copy the last run's pictures and report to figures/run and README"
    )
    return found


def main(arguments: list[str] | None = None) -> None:
    """Trains, evaluates, draws; see the module."""
    tolerant_console()
    options = parser().parse_args(arguments)
    home = root()
    if options.publish:
        publish(home)
        return
    name = os.environ.get("LORWEB_PROFILE", "cpu")
    if name not in PROFILES:
        raise InputError(f"expected LORWEB_PROFILE out of {list(PROFILES)}, got {name!r}")
    profile = PROFILES[name]
    torch.set_num_threads(os.cpu_count() or 1)
    folder = options.folder or home / "runs" / name / "starter"
    output = folder.with_name("results")
    config = replace(DEFAULTS["starter"], steps=profile.steps, minutes=profile.minutes, seed=options.seed)
    if options.steps is not None:
        config = replace(config, steps=options.steps, minutes=None)
    elif options.minutes is not None:
        config = replace(config, steps=None, minutes=options.minutes)

    length = f"{config.steps} steps" if config.minutes is None else f"{config.minutes:g} minutes"
    say(f"1/5  Training a basis of LoRAs and its router, {length} (if it is stopped, run it again: it resumes)")
    editor = trained(folder, config, None, options.fresh)

    say("2/5  Gathering analogies on unseen emoji")
    started = time.perf_counter()
    degrees = gathered(profile, STARTER_KINDS, STARTER_TONES, options.seed)
    items = [x for part in degrees.values() for x in part]
    for degree, part in degrees.items():
        say(f"  {GROUPS[degree]}: {len(part)} analogies of {len(by_relation(part))} relations")
    one_lora = baseline(options, profile, config, folder)

    say("3/5  Editing and measuring")
    methods = methods_of(editor, one_lora, profile.sampling_steps, options.seed)
    if (memoriser := remembered(editor.autoencoder, items, STARTER_KINDS)) is not None:
        methods["memoriser"] = memoriser
    groups = {GROUPS[d]: list(by_relation(part)) for d, part in degrees.items() if part}
    evaluation = evaluate(
        methods,
        by_relation(items),
        editor.autoencoder,
        groups,
        judge_of(editor),
        profile.checked,
        profile.resamples,
        options.seed,
        lambda line: say(f"  {line}"),
    )
    swapped = None
    if profile.checked > 1:
        swapped = counterfactuals(
            methods["LoRWeB"],
            by_relation([x for d in degrees if d in SEEN for x in degrees[d]]),
            editor.autoencoder,
            profile.checked,
            profile.resamples,
            options.seed,
        )

    say("4/5  Looking into the LoRA space, drawing")
    found, space = space_report(editor, items, options.seed)
    draw_figures(output, editor, degrees, evaluation, found, folder / LOG, profile.sampling_steps)
    write_report(
        output / "report.json",
        name,
        options.seed,
        folder / LOG,
        editor,
        evaluation,
        swapped,
        space,
        time.perf_counter() - started,
    )
    say("5/5  Results: normalised error, 0 is the artist's drawing, 1 is copying b (95 % intervals)\n")
    say(table(evaluation))
    if swapped is not None:
        say(f"\nAnother example pair moves the result by {swapped.same}, one of another relation by {swapped.other}.")
    if evaluation.judge:
        say("Judge (EfficientNet-lite0 feature distance): " + judged_line(evaluation.judge[GROUPS["drawn edit"]]))
    say(f"\nPictures and report: {output}")


def judged_line(scores: Mapping[str, Estimate]) -> str:
    """Methods' feature distances in one line."""
    return ", ".join(f"{m} {e.value:.3f}" for m, e in scores.items())
