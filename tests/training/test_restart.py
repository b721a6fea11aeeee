"""A basis trained on from finished weights."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lorweb_mini.commands import train as command
from lorweb_mini.commands.train import recipe_of
from lorweb_mini.core.editor import BasisConfig
from lorweb_mini.errors import InputError
from lorweb_mini.models.weights import weights_dir
from lorweb_mini.training import basis
from lorweb_mini.training.loop import Recipe

CONFIG = BasisConfig(n_loras=16, rank=4, layout="b", query="cat+pair")


def test_weights_on_other_frozen_parts_are_taken_and_standardised_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(basis, "STANDARDISED", 64)
    shipped = weights_dir() / "starter"
    config = json.loads((shipped / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps({**config, "frozen": "other"}), encoding="utf-8")
    (tmp_path / "model.safetensors").write_bytes((shipped / "model.safetensors").read_bytes())
    recipe = recipe_of("starter", CONFIG)
    editor = recipe.editor
    fresh, untrained = editor.router.mean.clone(), editor.router.keys.clone()
    stored = load_file(tmp_path / "model.safetensors")
    recipe.start_from(tmp_path)
    assert not torch.equal(editor.router.keys, untrained)
    torch.testing.assert_close(editor.router.keys, stored["router.keys"].float())
    torch.testing.assert_close(editor.router.mean, fresh)
    for name, value in editor.basis.state_dict().items():
        torch.testing.assert_close(value, stored[f"basis.{name}"].float())


def test_weights_of_another_shape_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(basis, "STANDARDISED", 64)
    recipe = recipe_of("starter", CONFIG)
    with pytest.raises(InputError, match="shape"):
        recipe.start_from(weights_dir() / "full")


def test_a_budget_stands_in_place_of_samples(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    trained: list[tuple] = []
    made: list[dict[str, Any]] = []
    monkeypatch.setattr(command, "train", lambda *given: trained.append(given) or {})
    monkeypatch.setattr(command, "recipe_of", lambda part, basis, seed, **options: made.append(options) or part)
    command.main(["full", "--budget", "2", "--num-workers", "3", "--change-floor", "0.3", "--folder", str(tmp_path)])
    (recipe, config, folder, fresh, num_workers, make, _), *_ = trained
    assert (config.minutes, config.samples, config.steps, config.decay_samples) == (2, None, None, None)
    assert (recipe, folder, fresh, num_workers) == ("full", tmp_path, False, 3)
    assert make() == "full"
    assert made == [{"change_floor": 0.3}, {"change_floor": 0.3, "standardise": False}]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["full", "--budget", "2", "--steps", "3"], "--budget is the length"),
        (["full", "--budget", "2", "--samples", "3"], "--budget is the length"),
        (["starter", "--steps", "3", "--samples", "3"], "--steps is the length"),
        (["starter", "--steps", "3", "--minutes", "3"], "--steps is the length"),
        (["starter", "--decay-samples", "3"], "--decay-samples needs --samples"),
        (["full", "--branch-from", "x", "--samples", "3", "--fresh"], "nor --fresh"),
        (["encoder", "--change-floor", "0.1"], "--change-floor: not for encoder"),
        (["base", "--loras", "3", "--no-router"], "--loras, --no-router: not for base"),
        (["starter", "--edited-pairs", "3"], "--edited-pairs: not for starter"),
    ],
)
def test_options_that_would_do_nothing_are_refused(
    given: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        command.main(given)
    assert said in capsys.readouterr().err


def test_a_floor_of_nothing_leaves_the_loss_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[dict[str, Any]] = []
    monkeypatch.setattr(command, "train", lambda *given: {})
    monkeypatch.setattr(command, "recipe_of", lambda part, basis, seed, **options: made.append(options))
    command.main(["full", "--change-floor", "0", "--fresh"])
    assert made == [{"change_floor": None}]


@pytest.mark.parametrize("part", ["starter", "decoder"])
def test_finished_weights_stay_unless_they_are_given_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, part: str
) -> None:
    """Of the shipped ones, the decoder's are those that its training starts from."""
    started: list[Path] = []
    monkeypatch.setattr(command, "train", lambda recipe, config, folder, *given: started.append(folder) or {})
    monkeypatch.setattr(command, "recipe_of", lambda *given, **options: Recipe())
    monkeypatch.setattr(Recipe, "start_from", lambda self, folder: None)
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    with pytest.raises(InputError, match="expected a folder without finished weights"):
        command.main([part, "--folder", str(tmp_path)])
    for given in (["--fresh"], ["--from-weights", str(tmp_path)]):
        command.main([part, "--folder", str(tmp_path), *given])
    assert started == [tmp_path, tmp_path]
    if part == "decoder":
        command.main([part])
        assert started[-1] == weights_dir() / "autoencoder"
    else:
        with pytest.raises(InputError, match="finished weights"):
            command.main([part])


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("artists_share", (7, math.nan, -3)),
        ("pair_rate", (-1, math.nan)),
        ("balance", (-1, math.nan)),
        ("exact_shift", (math.inf, math.nan)),
    ],
)
def test_numbers_that_no_basis_is_trained_with(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, values: tuple[float, ...]
) -> None:
    monkeypatch.setattr(basis, "new_editor", lambda *given: pytest.fail("weights were read"))
    for value in values:
        with pytest.raises(InputError, match=f"expected {name} as a number"):
            command.main(["starter", "--folder", str(tmp_path), f"--{name.replace('_', '-')}={value}"])
