"""``make run`` from end to end on tiny random weights and the real pictures; the README agrees with its report."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from safetensors.torch import save_file
from tiny_models import tiny_base, tiny_editor, tiny_pair_encoder

from benchmarks.readme import publish, readme_table
from benchmarks.timing import write_readme
from lorweb_mini.commands import run
from lorweb_mini.errors import InputError
from lorweb_mini.files import data_dir
from lorweb_mini.models.weights import WEIGHTS, save_weights
from lorweb_mini.training.log import LOG
from lorweb_mini.training.state import STATE

README = "# Title\n\n<!-- results:begin -->\nold\n<!-- results:end -->\nafter\n"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the real pictures and relations beside tiny frozen weights."""
    home, real = tmp_path_factory.mktemp("home"), data_dir()
    data = home / "data"
    data.mkdir()
    for name in ("emoji", "relations.json", "splits.json", "unseen.json", "text.json", "text.safetensors"):
        (data / name).symlink_to(real / name)
    editor = tiny_editor()
    editor.autoencoder.save(data / "weights" / "autoencoder")
    editor.encoder.save(data / "weights" / "encoder")
    tiny_base().save(data / "weights" / "base")
    tiny_pair_encoder().save(data / "weights" / "pair_encoder")
    (home / "README.md").write_text(README)
    return home


@pytest.fixture
def at_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LORWEB_DATA", str(home / "data"))
    monkeypatch.setenv("LORWEB_CACHE", str(home / "cache"))
    monkeypatch.setenv("LORWEB_PROFILE", "smoke")
    monkeypatch.setattr(run, "root", lambda: home)
    monkeypatch.setattr(run, "try_judge", lambda: None)
    return home


def test_a_run_trains_judges_draws_and_reports(at_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run.main(["--steps", "3"])
    printed = capsys.readouterr().out
    assert "| LoRWeB |" in printed and "| oracle instruction |" in printed
    assert "no shipped baseline" in printed and "no memoriser: data/memoriser.json" in printed
    output = at_home / "runs" / "smoke" / "results"
    names = {"triplets_seen.png", "triplets_unseen.png", "routing_pca.png", "training.png", "errors.png"}
    assert names | {"report.json"} == {p.name for p in output.iterdir()}
    assert all((output / n).stat().st_size <= 1_200_000 for n in names)
    report = json.loads((output / "report.json").read_text())
    assert report["training"]["steps"] == 3 and report["seed"] == 0
    groups = report["evaluation"]["groups"]
    assert {"single edit", "two in a row", "unseen strength", "unseen composition"} <= set(groups)
    assert report["versions"]["torch"]
    # A run never writes into the checkout; a command of its own does, and only the results of the cpu profile.
    assert (at_home / "README.md").read_text() == README and not (at_home / "figures").exists()
    with pytest.raises(InputError, match="make run"):
        publish(at_home)

    folder, options = output.with_name("starter"), run.parser().parse_args(["--steps", "3"])
    trained_at = (folder / WEIGHTS).stat().st_mtime_ns
    again = run.trained(folder, run.training_config(run.PROFILES["smoke"], options))
    assert "already trained" in capsys.readouterr().out
    assert again.config == run.BASES["starter"] and (folder / WEIGHTS).stat().st_mtime_ns == trained_at
    with pytest.raises(InputError, match="other settings"):
        run.main(["--steps", "4"])
    settings = run.training_config(run.PROFILES["smoke"], options)
    with pytest.raises(InputError, match=r"other settings .*'n_loras': 16"):
        run.trained(folder, settings, run.one_lora_config())
    (folder / LOG).rename(folder / "log")
    with pytest.raises(InputError, match=r"expected log\.csv beside the finished weights"):
        run.main(["--steps", "3"])
    (folder / "log").rename(folder / LOG)

    shutil.copytree(at_home / "runs" / "smoke", at_home / "runs" / "cpu")
    with pytest.raises(InputError, match="got those of smoke"):
        publish(at_home)
    report["profile"] = "cpu"
    (at_home / "runs" / "cpu" / "results" / "report.json").write_text(json.dumps(report))
    for _ in range(2):  # published again, the README stays the same
        publish(at_home)
        text = (at_home / "README.md").read_text()
        assert text == README.replace("old", readme_table(report))
    assert {p.name for p in (at_home / "figures" / "run").iterdir()} == names | {"report.json"}


def test_the_baseline_is_one_lora_of_the_same_size() -> None:
    config = run.one_lora_config()
    starter = run.BASES["starter"]
    assert (config.n_loras, config.routed) == (1, False)
    assert config.rank == starter.n_loras * starter.rank


def test_an_unknown_profile_is_refused(at_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORWEB_PROFILE", "fast")
    with pytest.raises(InputError, match="LORWEB_PROFILE"):
        run.main([])


def test_the_folder_of_a_run_may_be_the_current_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []

    class Stop(Exception):
        pass

    def stop(folder: Path, *given: object, **options: object) -> None:
        asked.append(folder)
        raise Stop

    monkeypatch.setenv("LORWEB_PROFILE", "smoke")
    monkeypatch.setattr(run, "trained", stop)
    (tmp_path / "own").mkdir()
    monkeypatch.chdir(tmp_path / "own")
    with pytest.raises(Stop):
        run.main(["--folder", ".", "--train-baseline"])
    assert asked == [tmp_path / "own"] and (tmp_path / "results").is_dir()
    with pytest.raises(SystemExit):
        run.main(["--steps", "3", "--minutes", "4"])


@pytest.mark.parametrize("name", ["one_lora", "results"])
def test_folders_that_a_run_writes_to_itself_are_no_folder_of_the_basis(at_home: Path, name: str) -> None:
    with pytest.raises(InputError, match=f"expected a --folder of another name.*{name}"):
        run.main(["--folder", str(at_home / "runs" / name)])


@pytest.mark.parametrize("fresh", [False, True])
def test_a_run_that_another_has_finished_meanwhile_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh: bool
) -> None:
    """It may end while this one loads what it trains with, which takes a minute."""

    class Stop(Exception):
        pass

    def loaded(*given: object) -> None:
        for name in (WEIGHTS, LOG):
            (tmp_path / name).write_text("of the other")
        if fresh:
            raise Stop

    monkeypatch.setattr(run, "recipe_of", loaded)
    with pytest.raises(Stop if fresh else InputError):
        run.trained(tmp_path, run.DEFAULTS["starter"], fresh=fresh)
    assert {(tmp_path / name).read_text() for name in (WEIGHTS, LOG)} == {"of the other"}


def test_a_baseline_of_other_settings_is_found_before_the_training(
    at_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = at_home / "runs" / "other" / "one_lora"
    save_weights(folder, {"n_loras": 2}, {})
    (folder / "training.json").write_text("{}")
    monkeypatch.setattr(run, "trained", lambda *given, **options: pytest.fail("it was trained"))
    with pytest.raises(InputError, match=r"one_lora holds a finished run of other settings \({'n_loras': 2}"):
        run.main(["--folder", str(folder.with_name("starter")), "--train-baseline"])


def test_an_unfinished_baseline_of_other_settings_is_found_before_the_training(
    at_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = at_home / "runs" / "unfinished" / "one_lora"
    folder.mkdir(parents=True)
    progress = {"step": 1, "elapsed": 2.0, "recent": [], "config": {"batch_size": 5}}
    save_file({"parameter/0": torch.zeros(1)}, folder / STATE, metadata={"progress": json.dumps(progress)})
    monkeypatch.setattr(run, "trained", lambda *given, **options: pytest.fail("it was trained"))
    with pytest.raises(InputError, match=r"expected an unfinished run with .* in .*one_lora, got one with"):
        run.main(["--folder", str(folder.with_name("starter")), "--train-baseline"])


def test_readme_without_marks_is_refused(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("nothing")
    with pytest.raises(ValueError, match="marks"):
        write_readme(tmp_path / "README.md", "results", "")


def test_readme_agrees_with_the_report() -> None:
    readme, path = ROOT / "README.md", ROOT / "figures" / "run" / "report.json"
    if not (readme.is_file() and path.is_file()):
        pytest.skip("no README or no report")
    report = json.loads(path.read_text(encoding="utf-8"))
    assert readme_table(report) in readme.read_text(encoding="utf-8")
