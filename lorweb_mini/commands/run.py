"""``make run``: trains the starter basis and its router on real emoji, judges and draws what it does on unseen ones.

``LORWEB_PROFILE=smoke`` does all of it in two minutes to show that it works; its numbers mean nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from ..analysis.evaluation import Counterfactuals, by_relation, counterfactuals, evaluate
from ..analysis.methods import methods_of, remembered
from ..analysis.scores import Evaluation, table, without_nan
from ..analysis.unseen import panel
from ..core.editor import BasisConfig, Editor, load
from ..emoji.relations import Analogy, analogies
from ..errors import InputError
from ..files import read_json, tolerant_console, writable_folder, write_atomically
from ..models.encoders import EFFICIENTNET, Judge
from ..models.weights import WEIGHTS, load_config, weights_dir
from ..training.config import TrainingConfig
from ..training.log import LOG, read_log
from ..training.loop import train
from ..training.state import STATE, check_settings, read_progress
from .results import SEEN, draw_figures, report_of, space_report
from .train import BASES, DEFAULTS, STARTER_KINDS, STARTER_TONES, recipe_of

# The one LoRA's coefficients are 1, not about 1/N: at the basis's rate its weights would move N times as far a step.
ONE_LORA_RATE = 2e-3
FOLDER_HELP = "folder of the trained basis, whose results go to the folder `results` beside it, over those of another"
FOLDER_HELP += " basis there; default runs/PROFILE/starter"
GROUPS = {
    "drawn edit": "single edit",
    "drawn pair": "two in a row",
    "tones": "skin tones",
    "strength": "unseen strength",
    "composition": "unseen composition",
    "inside": "unseen kind, inside the span",
    "between": "unseen kind, between",
    "outside": "unseen kind, outside",
}


@dataclass(frozen=True)
class Profile:
    """How much a run does.

    Attributes:
        steps, minutes: length of the training, one of them.
        analogies: how many of each relation are judged.
        checked: analogies a relation that retrieval, the judge and the counterfactuals look at.
        sampling_steps: Euler steps a picture.
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
    **dict.fromkeys(("cpu", "gpu"), Profile(None, 10, 8, 8, 1, 1000, 16)),
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
    """Prints one line of progress."""
    print(line, flush=True)


def finished(folder: Path, config: TrainingConfig, basis: BasisConfig | None = None) -> bool:
    """Whether a folder holds a finished run; InputError where it is of other settings or shape, or lacks its log."""
    if not (folder / WEIGHTS).is_file() or (folder / STATE).exists():
        return False
    remedy = "train anew with --fresh, or choose another --folder"
    shape = asdict(basis or BASES["starter"])
    stored = {k: v for k, v in load_config(folder).items() if k in shape} | read_json(folder / "training.json", ())
    ours = shape | json.loads(json.dumps(asdict(config)))
    if changed := {k: v for k, v in stored.items() if ours.get(k) != v}:
        raise InputError(f"{folder} holds a finished run of other settings ({changed} there): {remedy}")
    if not (folder / LOG).is_file() or not read_log(folder / LOG):
        raise InputError(f"expected {LOG} beside the finished weights in {folder}, found none: {remedy}")
    return True


def trained(folder: Path, config: TrainingConfig, basis: BasisConfig | None = None, fresh: bool = False) -> Editor:
    """The editor in a folder: trained now, resumed, or reused where training has :func:`finished`."""
    if not fresh and finished(folder, config, basis):
        say(f"  already trained: reusing {folder} (--fresh trains anew)")
        return load(folder)
    if (folder / STATE).exists() and not fresh:
        say(f"  resuming the unfinished run in {folder}")
    summary = train(recipe_of("starter", basis, config.seed), config, folder, fresh, replace=False)
    length = f"{summary['steps']:,.0f} steps, {summary['samples']:,.0f} samples"
    say(f"  {length} in {summary['seconds'] / 60:.1f} min, loss {summary['loss']:.3f}")
    return load(folder)


def shipped_baseline() -> Editor | None:
    """The one LoRA that the package ships, where it learned what the starter learns."""
    shipped = weights_dir() / "one_lora"
    if not (shipped / WEIGHTS).is_file():
        say("  no shipped baseline in data/weights/one_lora: left out (--train-baseline trains it)")
        return None
    if load_config(shipped).get("kinds") != list(STARTER_KINDS):
        say("  the shipped baseline learned other relations: left out (--train-baseline trains one on the same)")
        return None
    return load(shipped)


def gathered(profile: Profile, kinds: Sequence[str], tones: Sequence[str], seed: int) -> dict[str, list[Analogy]]:
    """Test analogies by group: on unseen emoji, with edits that training samples, tones, and unseen edits."""
    tests = panel("test", profile.analogies, profile.drawn, kinds, seed)
    items = {group: [x for name in names for x in tests.analogies[name]] for group, names in tests.groups.items()}
    items["tones"] = analogies("test", tones, seed, profile.analogies)
    return {group: items[group] for group in GROUPS if items.get(group)}


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


def measured(
    editor: Editor, one_lora: Editor | None, groups: Mapping[str, Sequence[Analogy]], profile: Profile, seed: int
) -> tuple[Evaluation, Counterfactuals | None]:
    """All methods on all groups of analogies, and what another example pair changes."""
    items = [x for part in groups.values() for x in part]
    methods = methods_of(editor, one_lora, profile.sampling_steps, seed)
    if (memoriser := remembered(editor.autoencoder, items, STARTER_KINDS)) is not None:
        methods["memoriser"] = memoriser
    else:
        say("  no memoriser: data/memoriser.json lacks answers to these questions")
    evaluation = evaluate(
        methods,
        by_relation(items),
        editor.autoencoder,
        {GROUPS[group]: list(by_relation(part)) for group, part in groups.items()},
        judge_of(editor),
        profile.checked,
        profile.resamples,
        seed,
        lambda line: say(f"  {line}"),
    )
    if profile.checked < 2:
        return evaluation, None
    seen = by_relation([x for group in groups if group in SEEN for x in groups[group]])
    limits = profile.checked, profile.resamples, seed
    return evaluation, counterfactuals(methods["LoRWeB"], seen, editor.autoencoder, *limits)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m lorweb_mini.run", description=__doc__)
    length = made.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, help="training time; default 10")
    length.add_argument("--steps", type=int, help="exact number of steps instead, repeatable bit for bit")
    made.add_argument("--folder", type=Path, help=FOLDER_HELP)
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--fresh", action="store_true", help="train anew, whatever the folder holds")
    made.add_argument("--train-baseline", action="store_true", help="train the one-LoRA baseline, too")
    return made


def training_config(profile: Profile, options: argparse.Namespace) -> TrainingConfig:
    """The starter's settings with the length that the profile or the command line asks for."""
    steps, minutes = profile.steps, profile.minutes
    if options.steps is not None:
        steps, minutes = options.steps, None
    elif options.minutes is not None:
        steps, minutes = None, options.minutes
    return replace(DEFAULTS["starter"], steps=steps, minutes=minutes, seed=options.seed)


def main(arguments: list[str] | None = None) -> None:
    """Trains, evaluates, draws; see the module."""
    tolerant_console()
    options = parser().parse_args(arguments)
    name = os.environ.get("LORWEB_PROFILE", "cpu")
    if name not in PROFILES:
        raise InputError(f"expected LORWEB_PROFILE out of {list(PROFILES)}, got {name!r}")
    profile = PROFILES[name]
    torch.set_num_threads(os.cpu_count() or 1)
    folder = (options.folder or root() / "runs" / name / "starter").resolve()  # "." has no name, and no neighbours
    output = folder.parent / "results"
    if folder.name in ("one_lora", "results"):
        raise InputError(f"expected a --folder of another name, since {folder.name} is written beside it, got {folder}")
    config = training_config(profile, options)
    # What can fail without a training fails before it.
    writable_folder(folder)
    writable_folder(output)
    baseline_folder, baseline = folder.parent / "one_lora", replace(config, learning_rate=ONE_LORA_RATE)
    if options.train_baseline and not options.fresh and not finished(baseline_folder, baseline, one_lora_config()):
        if (baseline_folder / STATE).exists():
            ours = asdict(baseline) | recipe_of("starter", one_lora_config(), baseline.seed).settings()
            check_settings(ours, read_progress(baseline_folder / STATE)["config"], baseline_folder)
    one_lora = None if options.train_baseline else shipped_baseline()

    length = f"{config.steps} steps" if config.minutes is None else f"{config.minutes:g} minutes"
    say(f"1/5  Training a basis of LoRAs and its router, {length} (if it is stopped, run it again: it resumes)")
    editor = trained(folder, config, fresh=options.fresh)

    say("2/5  Gathering analogies on unseen emoji")
    started = time.perf_counter()
    groups = gathered(profile, STARTER_KINDS, STARTER_TONES, options.seed)
    for group, items in groups.items():
        say(f"  {GROUPS[group]}: {len(items)} analogies of {len(by_relation(items))} relations")
    if options.train_baseline:
        say("Training the baseline: one LoRA, no router, a and a' as context")
        one_lora = trained(baseline_folder, baseline, one_lora_config(), options.fresh)

    say("3/5  Editing and measuring")
    evaluation, swapped = measured(editor, one_lora, groups, profile, options.seed)

    say("4/5  Looking into the LoRA space, drawing")
    plane, space = space_report(editor, [x for items in groups.values() for x in items], options.seed)
    draw_figures(output, editor, groups, evaluation, plane, folder / LOG, profile.sampling_steps)
    report = {"profile": name, **report_of(editor, folder / LOG, evaluation, swapped, space)}
    report["seconds_after_training"] = round(time.perf_counter() - started, 1)
    content = json.dumps(without_nan(report), indent=1, ensure_ascii=False) + "\n"
    write_atomically(output / "report.json", content.encode())

    say("5/5  Results: normalised error, 0 is the artist's drawing, 1 is copying b (95 % intervals)\n")
    say(table(evaluation))
    if swapped is not None:
        say(f"\nAnother example pair moves the result by {swapped.same}, one of another relation by {swapped.other}.")
    if evaluation.judge:
        distances = evaluation.judge[GROUPS["drawn edit"]].items()
        line = ", ".join(f"{method} {distance.value:.3f}" for method, distance in distances)
        say(f"Judge (EfficientNet-lite0 feature distance): {line}")
    say(f"\nPictures and report: {output}")
