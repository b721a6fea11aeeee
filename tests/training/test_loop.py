"""The training loop: its schedule and average by hand, and what a kill may cost (nothing but time)."""

from __future__ import annotations

import csv
import itertools
import json
import math
import multiprocessing
import os
import random
import re
import shutil
import socket
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from lorweb_mini.commands.train import branch
from lorweb_mini.errors import InputError
from lorweb_mini.models.weights import save_weights
from lorweb_mini.training import state
from lorweb_mini.training.config import TrainingConfig, learning_rate_factor
from lorweb_mini.training.log import LOG, VALIDATION, cut_log, read_log
from lorweb_mini.training.loop import Recipe, train
from lorweb_mini.training.state import STATE

EACH_STEP = 1e-9  # minutes between checkpoints: one at every step
CONFIG = TrainingConfig(
    steps=120,
    batch_size=8,
    learning_rate=1e-2,
    warmup_steps=10,
    ema_decay=0.9,
    log_every=7,
    checkpoint_minutes=EACH_STEP,
)

SINE = {"problem": "sine"}  # the configuration of the recipe below


class Curve(Recipe):
    """A small network that learns a sine; its second layer learns at a tenth of the rate."""

    def __init__(self, width: int = 16, pause: float = 0.0, stop_at: int | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(4, width), nn.Linear(width, 1)
        self.pause, self.stop_at, self.drawn = pause, stop_at, 0
        self.history: list[list[Tensor]] = []

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.first.parameters())}, {"params": list(self.last.parameters()), "scale": 0.1}]

    def configuration(self) -> dict[str, Any]:
        return dict(SINE)

    def batch(self, rng: np.random.Generator, size: int) -> dict[str, Tensor]:
        if self.drawn == self.stop_at:
            raise KeyboardInterrupt
        self.drawn += 1
        time.sleep(self.pause)
        x = torch.from_numpy(rng.standard_normal((size, 4))).float()
        return {"x": x, "y": torch.sin(x.sum(1, keepdim=True))}

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        self.history.append([p.detach().clone() for p in self.parameters()])
        error = self.last(torch.tanh(self.first(batch["x"]))) - batch["y"]
        return {"loss": error.pow(2).mean(), "mean_error": error.detach().mean()}

    def save(self, folder: Path) -> None:
        # The state of the last step is kept too: a resume must restore moments and averages, not weights alone.
        shutil.copy(folder / STATE, folder / "last_state.safetensors")
        save_weights(folder, {"width": self.first.out_features}, {k: v.detach() for k, v in self.state_dict().items()})
        torch.save(self.state_dict(), folder / "exact.pt")


def _child(folder: Path, environment: dict[str, str], config: TrainingConfig, pause: float) -> None:
    os.environ.update(environment)
    torch.set_num_threads(1)
    train(Curve(pause=pause), config, folder)


def _process(
    folder: Path, config: TrainingConfig = CONFIG, pause: float = 0.0, **environment: str
) -> multiprocessing.process.BaseProcess:
    """A real process of its own. The server that forks it has done the slow imports once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["test_loop"])
    process = context.Process(target=_child, args=(folder, environment, config, pause))
    process.start()
    return process


def _finish(process: multiprocessing.process.BaseProcess, seconds: float = 120) -> None:
    process.join(seconds)
    code = process.exitcode
    process.kill()
    assert code == 0, f"the training process ended with {code}"


def _tensors(folder: Path) -> dict[str, Tensor]:
    found = {f"{name}/{k}": v for name in ("model", "last_state") for k, v in _load(folder / name).items()}
    return found | {f"exact/{k}": v for k, v in torch.load(folder / "exact.pt").items()}


def _load(stem: Path) -> dict[str, Tensor]:
    return load_file(stem.with_suffix(".safetensors"))


def _recent(folder: Path) -> list[float]:
    with safe_open(folder / "last_state.safetensors", "pt") as file:
        return json.loads(file.metadata()["progress"])["recent"]


def _rows(folder: Path) -> list[dict[str, str]]:
    """The log without its clock."""
    with (folder / LOG).open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    _finish(_process(folder))
    return folder


def test_kill_at_random_moments_and_resume(whole: Path, tmp_path: Path) -> None:
    chance = random.Random()  # not seeded: another moment at every run of the tests
    kills, delays = 0, []
    while kills < 4:
        process = _process(tmp_path, pause=0.02)
        deadline = time.monotonic() + 60
        before = (tmp_path / STATE).stat().st_mtime_ns if (tmp_path / STATE).exists() else 0
        while time.monotonic() < deadline and process.is_alive():
            if (tmp_path / STATE).exists() and (tmp_path / STATE).stat().st_mtime_ns != before:
                break
            time.sleep(0.002)
        delays.append(chance.uniform(0, 0.4))
        process.join(delays[-1])
        if process.exitcode is not None:
            assert process.exitcode == 0
            break
        process.kill()  # SIGKILL
        process.join()
        assert process.exitcode == -9
        kills += 1
        with safe_open(tmp_path / STATE, "pt") as file:  # whole at any moment
            assert json.loads(file.metadata()["progress"])["step"] >= 1
    assert kills, f"never killed; delays {delays}"
    assert not (tmp_path / "model.safetensors").exists() or kills < 4
    _finish(_process(tmp_path))

    expected, got = _tensors(whole), _tensors(tmp_path)
    assert expected.keys() == got.keys() and len(expected) > 20
    assert {k.split("/")[1] for k in expected if k.startswith("last_state")} == {"parameter", "ema", "optimizer"}
    for name, tensor in expected.items():
        assert torch.equal(got[name], tensor), f"{name} differs after kills at {delays}"
    assert _recent(tmp_path) == _recent(whole)
    assert _rows(tmp_path) == _rows(whole)
    assert not (tmp_path / STATE).exists(), "a finished run leaves no state behind"


def test_log_is_continuous(whole: Path) -> None:
    steps = [int(row["step"]) for row in _rows(whole)]
    assert steps == [*range(7, 120, 7), 120]
    log = read_log(whole / LOG)
    assert [row["samples"] for row in log] == [8 * s for s in steps]
    assert all(a["seconds"] <= b["seconds"] for a, b in itertools.pairwise(log))
    assert log[-1]["loss"] < log[0]["loss"]


def _stopped(folder: Path, at: int = 30, **changes: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(Curve(stop_at=at), replace(CONFIG, **changes), folder)
    assert (folder / STATE).exists()


def test_checkpoints_between_log_rows(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows beyond the last checkpoint, which a kill may leave, are written once."""
    _stopped(tmp_path, at=30)
    with (tmp_path / LOG).open("ab") as file:
        file.write(b"35,0.1,280,9.9,0.01,0.0\r\n42,0.1,33")
    train(Curve(), CONFIG, tmp_path)
    assert _rows(tmp_path) == _rows(whole)
    assert all(torch.equal(v, _tensors(tmp_path)[k]) for k, v in _tensors(whole).items())


@pytest.mark.parametrize(
    "changes",
    [{"learning_rate": 3e-3}, {"batch_size": 16}, {"seed": 1}, {"optimizer": "muon"}, {"betas": (0.9, 0.95)}],
    ids=str,
)
def test_resume_with_another_configuration(tmp_path: Path, changes: dict[str, Any]) -> None:
    _stopped(tmp_path, at=3)
    with pytest.raises(InputError, match=r"expected an unfinished run with .* got one with") as caught:
        train(Curve(), replace(CONFIG, **changes), tmp_path)
    assert next(iter(changes)) in str(caught.value)
    assert (tmp_path / STATE).exists() and json.loads((tmp_path / "training.json").read_text())["steps"] == 120


@pytest.mark.parametrize("shorter", [{"steps": 20}, {"steps": None, "minutes": 1e-6}], ids=str)
def test_a_shorter_plan_does_not_end_a_run_unnoticed(tmp_path: Path, shorter: dict[str, Any]) -> None:
    _stopped(tmp_path, at=30)
    before = (tmp_path / STATE).read_bytes()
    with pytest.raises(InputError, match="expected a plan beyond the 240 samples"):
        train(Curve(), replace(CONFIG, **shorter), tmp_path)
    assert (tmp_path / STATE).read_bytes() == before and not (tmp_path / "model.safetensors").exists()


def test_weights_that_a_training_began_with_are_asked_for_again(tmp_path: Path) -> None:
    first, other = Curve(stop_at=5), Curve()
    first.began_with, other.began_with = "one", "another"
    with pytest.raises(KeyboardInterrupt):
        train(first, CONFIG, tmp_path)
    for recipe in (other, Curve()):
        with pytest.raises(InputError, match="from_weights"):
            train(recipe, CONFIG, tmp_path)
    again = Curve(stop_at=3)
    again.began_with = "one"
    with pytest.raises(KeyboardInterrupt):
        train(again, CONFIG, tmp_path)


@pytest.mark.parametrize("finished", [True, False])
def test_a_full_disk_costs_nothing_of_an_earlier_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: bool
) -> None:
    """The first checkpoint of a new training fails: log, state and weights are those of the one before."""
    if finished:
        train(Curve(), replace(CONFIG, steps=9), tmp_path)
    else:
        _stopped(tmp_path, at=30)
    before = {x.name: x.read_bytes() for x in tmp_path.iterdir()}

    def full(*given: Any, **options: Any) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(state, "save_file", full)
        with pytest.raises(OSError, match="No space left"):
            train(Curve(), replace(CONFIG, seed=1), tmp_path, fresh=True)
    assert {x.name: x.read_bytes() for x in tmp_path.iterdir()} == before


def test_weights_that_are_not_finite_replace_none(tmp_path: Path) -> None:
    class Broken(Curve):
        def observe(self, step: int, folder: Path, is_main: bool) -> None:
            if step == 9:
                self.first.weight.data[0, 0] = math.nan

    plan = replace(CONFIG, steps=9, ema_decay=None, checkpoint_minutes=60)
    with pytest.raises(FloatingPointError, match="not finite at step 9"):
        train(Broken(), plan, tmp_path)
    assert not (tmp_path / "model.safetensors").exists()


def test_old_weights_keep_their_configuration_until_the_new_training_has_a_state(tmp_path: Path) -> None:
    train(Curve(), replace(CONFIG, steps=9), tmp_path)
    with pytest.raises(KeyboardInterrupt):
        train(Curve(stop_at=0), CONFIG, tmp_path)
    assert json.loads((tmp_path / "training.json").read_text())["steps"] == 9
    _stopped(tmp_path, at=3)
    assert json.loads((tmp_path / "training.json").read_text())["steps"] == CONFIG.steps


class Checked(Curve):
    """With a row of validation at each checkpoint."""

    def validation(self) -> dict[str, float]:
        return {"fixed": 1.0}


def _content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("unfinished", [False, True])
def test_a_kill_before_the_first_checkpoint_of_a_new_training_costs_nothing(tmp_path: Path, unfinished: bool) -> None:
    train(Checked(), replace(CONFIG, steps=9), tmp_path)
    if unfinished:
        with pytest.raises(KeyboardInterrupt):
            train(Checked(stop_at=9), replace(CONFIG, steps=30), tmp_path)
    before = _content(tmp_path)
    assert {LOG, VALIDATION} < before.keys() and (STATE in before) is unfinished
    with pytest.raises(KeyboardInterrupt):
        train(Checked(stop_at=0), replace(CONFIG, seed=1), tmp_path, fresh=True)
    assert _content(tmp_path) == before
    train(Curve(), replace(CONFIG, steps=9), tmp_path, fresh=True)
    assert [row["step"] for row in _rows(tmp_path)] == ["7", "9"]
    assert not (tmp_path / VALIDATION).exists() and not (tmp_path / STATE).exists()


def test_finished_weights_are_replaced_only_where_that_is_wanted(tmp_path: Path) -> None:
    def started(**options: Any) -> dict[str, float]:
        return train(Curve(), replace(CONFIG, steps=3), tmp_path, replace=False, **options)

    _stopped(tmp_path, at=2, steps=3)
    started()
    before = _content(tmp_path)
    with pytest.raises(InputError, match=r"expected a folder without finished weights, got .*--fresh"):
        started()
    assert _content(tmp_path) == before
    assert started(fresh=True)["steps"] == 3


def test_a_file_in_the_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(InputError, match="expected a folder"):
            train(Curve(), CONFIG, folder)
    assert (tmp_path / "file").read_text() == "mine"


def test_resume_of_another_model_or_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _stopped(tmp_path, at=3)
    with pytest.raises(InputError, match=r"expected .* parameter tensors of this model's shapes .* got"):
        train(Curve(width=1), CONFIG, tmp_path)
    monkeypatch.setattr(Curve, "configuration", lambda self: {"problem": "cosine"})
    with pytest.raises(InputError, match=r"cosine.*got one with.*sine"):
        train(Curve(), CONFIG, tmp_path)


@pytest.mark.parametrize("content", [b"", b"not a state file", None], ids=["empty", "foreign", "truncated"])
def test_damaged_state(tmp_path: Path, content: bytes | None) -> None:
    _stopped(tmp_path, at=3)
    (tmp_path / STATE).write_bytes((tmp_path / STATE).read_bytes()[:200] if content is None else content)
    with pytest.raises(InputError, match=r"expected the state of an unfinished run, got a damaged file"):
        train(Curve(), CONFIG, tmp_path)


def test_a_second_training_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    class Watched(Curve):
        def observe(self, step: int, folder: Path, is_main: bool) -> None:
            with pytest.raises(InputError, match="no other training is at work"):
                train(Curve(), CONFIG, folder)

    train(Watched(), replace(CONFIG, steps=3), tmp_path)
    train(Curve(), replace(CONFIG, steps=3), tmp_path)  # but one after the other


def test_a_state_that_the_disk_has_no_room_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last whole state stays, and nothing of the other fills the disk."""

    def full(tensors: Any, path: Path, metadata: Any) -> None:
        path.write_bytes(b"half of it")
        raise OSError("no space left on device")

    _stopped(tmp_path, at=3)
    before = (tmp_path / STATE).read_bytes()
    monkeypatch.setattr(state, "save_file", full)
    with pytest.raises(OSError, match="no space left"):
        train(Curve(), CONFIG, tmp_path)
    assert (tmp_path / STATE).read_bytes() == before and not list(tmp_path.glob("*.part"))
    monkeypatch.undo()
    (tmp_path / state.PART).write_bytes(b"what a kill left")
    train(Curve(), replace(CONFIG, steps=4), tmp_path)
    assert not list(tmp_path.glob("*.part"))


def test_fresh_throws_the_unfinished_run_away(whole: Path, tmp_path: Path) -> None:
    _stopped(tmp_path, at=30, seed=5)
    train(Curve(), CONFIG, tmp_path, fresh=True)
    assert _rows(tmp_path) == _rows(whole)
    assert all(torch.equal(v, _tensors(tmp_path)[k]) for k, v in _tensors(whole).items())


def test_other_seed_other_run(tmp_path: Path, whole: Path) -> None:
    train(Curve(), replace(CONFIG, seed=1), tmp_path)
    assert _rows(tmp_path)[0]["loss"] != _rows(whole)[0]["loss"]


@pytest.mark.parametrize(
    ("log", "kept"),
    [
        (b"step,loss\r\n5,0.5\r\n10,0.4\r\n15,0.3\r\n", b"step,loss\r\n5,0.5\r\n10,0.4\r\n"),
        (b"step,loss\r\n5,0.5\r\n1", b"step,loss\r\n5,0.5\r\n"),
        (b"step,loss\r\n5,0.5\r\n10,0.4", b"step,loss\r\n5,0.5\r\n"),
        (b"step,loss\r\n\r\n5,0.5\r\nwords\r\n10,0.4\r\n", b"step,loss\r\n5,0.5\r\n10,0.4\r\n"),
        (b"step,lo", None),
        (b"", None),
    ],
)
def test_cut_log(tmp_path: Path, log: bytes, kept: bytes | None) -> None:
    path = tmp_path / LOG
    path.write_bytes(log)
    cut_log(path, 10)
    assert (path.read_bytes() if path.exists() else None) == kept
    cut_log(tmp_path / "none.csv", 10)


def test_learning_rate_schedule() -> None:
    config = TrainingConfig(steps=1000, warmup_steps=50, final_fraction=0.1)
    for step in (0, 1, 24, 49, 50, 300, 500, 999):
        warmup = (step + 1) / 50 if step < 49 else 1.0
        expected = warmup * (0.1 + 0.9 * (1 + math.cos(math.pi * step / 1000)) / 2)
        assert learning_rate_factor(config, step, step / 1000) == pytest.approx(expected, rel=1e-9)
    factors = [learning_rate_factor(config, s, s / 1000) for s in range(1000)]
    assert 0.98 < max(factors) <= 1 and factors.index(max(factors)) in (49, 50)
    assert learning_rate_factor(config, 5000, 1.0) == pytest.approx(0.1)
    assert learning_rate_factor(config, 5000, 1.7) == pytest.approx(0.1), "beyond its time it stays low"
    assert learning_rate_factor(replace(config, warmup_steps=0), 0, 0.0) == pytest.approx(1.0)


def test_logged_learning_rate(whole: Path) -> None:
    for row in read_log(whole / LOG):
        step = int(row["step"]) - 1
        cosine = 0.02 + 0.98 * (1 + math.cos(math.pi * step / 120)) / 2
        assert row["learning_rate"] == pytest.approx(1e-2 * min(1, (step + 1) / 10) * cosine, rel=1e-9)


def test_groups_learn_at_their_own_rate(tmp_path: Path) -> None:
    """AdamW's first step moves every weight by the learning rate itself."""
    recipe = Curve()
    before = [p.detach().clone() for p in recipe.parameters()]
    config = TrainingConfig(steps=1, warmup_steps=0, learning_rate=1e-3, weight_decay=0.0, checkpoint_minutes=EACH_STEP)
    train(recipe, config, tmp_path)
    moved = [(p - q).abs().max().item() for p, q in zip(recipe.parameters(), before, strict=True)]
    assert moved == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4], rel=1e-2)


def test_moving_average_and_optimiser_by_hand(tmp_path: Path) -> None:
    """A dozen steps with torch's own unfused AdamW and an average that warms up as 1 − (1 + s)^(−2/3)."""
    config = replace(CONFIG, steps=12, warmup_steps=3, max_grad_norm=0.5)
    recipe = Curve()
    train(recipe, config, tmp_path)

    twin = Curve()
    parameters = list(twin.parameters())
    groups = [{"params": parameters[:2], "scale": 1.0}, {"params": parameters[2:], "scale": 0.1}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99), weight_decay=0.01, fused=False, foreach=False)
    average = [p.detach().clone() for p in parameters]
    for step in range(12):
        for p, seen in zip(parameters, recipe.history[step], strict=True):
            torch.testing.assert_close(p.detach(), seen, atol=1e-6, rtol=1e-5)
        for group in optimizer.param_groups:
            cosine = 0.02 + 0.98 * (1 + math.cos(math.pi * step / 12)) / 2
            group["lr"] = 1e-2 * min(1, (step + 1) / 3) * cosine * group["scale"]
        optimizer.zero_grad()
        twin(twin.batch(np.random.default_rng([0, step]), 8))["loss"].backward()
        norm = torch.cat([p.grad.flatten() for p in parameters]).norm()
        for p in parameters:
            p.grad.mul_(min(1.0, 0.5 / (norm + 1e-6)))
        optimizer.step()
        decay = min(0.9, 1 - (1 + step) ** (-2 / 3)) if step else 0.0
        average = [decay * m + (1 - decay) * p.detach() for m, p in zip(average, parameters, strict=True)]
    for got, expected in zip(recipe.parameters(), average, strict=True):
        torch.testing.assert_close(got.detach(), expected, atol=1e-6, rtol=1e-5)


def test_summary_and_configuration_file(tmp_path: Path) -> None:
    summary = train(Curve(), replace(CONFIG, steps=9), tmp_path)
    assert summary["steps"] == 9 and summary["samples"] == 72 and summary["seconds"] > 0
    assert summary["loss"] == pytest.approx(np.mean(_recent(tmp_path)))
    assert json.loads((tmp_path / "training.json").read_text()) == json.loads(
        json.dumps(asdict(replace(CONFIG, steps=9)))
    )


def test_minutes_end_by_the_clock(tmp_path: Path) -> None:
    config = replace(CONFIG, steps=None, minutes=0.01)
    started = time.monotonic()
    summary = train(Curve(pause=0.005), config, tmp_path)
    assert 0.6 <= summary["seconds"] <= time.monotonic() - started
    assert summary["steps"] > 1
    assert summary["seconds"] < 5


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"steps": 5, "minutes": 1.0},
        {"steps": 5, "samples": 40},
        {"minutes": 1.0, "decay_samples": 10},
        {"samples": 40, "decay_samples": 41},
        {"samples": 40, "decay_samples": 0},
        {"steps": 0},
        {"steps": -3},
        {"steps": 2.5},
        {"samples": 0},
        {"minutes": -1},
        {"minutes": 0},
        {"minutes": math.nan},
        {"minutes": math.inf},
        {"steps": 5, "batch_size": 0},
        {"steps": 5, "batch_size": -8},
        {"steps": 5, "learning_rate": math.nan},
        {"steps": 5, "learning_rate": 0},
        {"steps": 5, "checkpoint_minutes": -1},
        {"steps": 5, "log_every": 0},
        {"steps": 5, "seed": -1},
        {"steps": 5, "optimizer": "sgd"},
        {"steps": 5, "precision": "fp16"},
        {"steps": 5, "learning_rate": True},
        {"steps": 5, "weight_decay": math.nan},
        {"steps": 5, "weight_decay": -1},
        {"steps": 5, "ema_decay": 1.5},
        {"steps": 5, "ema_decay": "0.9"},
        {"steps": 5, "final_fraction": math.nan},
        {"steps": 5, "max_grad_norm": None},
        {"steps": 5, "betas": None},
        {"steps": 5, "betas": (0.9, 2)},
        {"samples": 40, "decay_samples": 10.5},
    ],
    ids=str,
)
def test_plans_that_cannot_be(given: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="expected"):
        TrainingConfig(**given)


@pytest.mark.parametrize(
    "given",
    [
        {"steps": np.int64(5)},
        {"samples": np.int32(40), "decay_samples": np.uint8(8), "seed": np.int16(1)},
        {"minutes": np.float32(0.5), "batch_size": np.int8(8)},
        {"steps": 5, "learning_rate": np.float64(1e-3), "ema_decay": None, "betas": [np.float32(0.5), 0.75]},
    ],
    ids=str,
)
def test_plans_in_numbers_of_numpy(given: dict[str, Any]) -> None:
    """A run writes them as JSON."""
    config = TrainingConfig(**given)
    read = json.loads(json.dumps(asdict(config)))
    assert {name: read[name] for name in given} == given and TrainingConfig(**read) == config


@pytest.mark.parametrize(
    "plan", [{"steps": 1}, {"steps": None, "samples": 24}, {"steps": None, "minutes": 1e-9}], ids=str
)
def test_a_run_shorter_than_the_log_s_interval_has_a_log(tmp_path: Path, plan: dict[str, Any]) -> None:
    summary = train(Curve(), replace(CONFIG, log_every=20, **plan), tmp_path)
    assert read_log(tmp_path / "log.csv")[-1]["step"] == summary["steps"]


@pytest.mark.parametrize(
    "content",
    [
        "step,loss\n20;0.5\n",
        "step;loss\n20;0,5\n",
        "step,loss\n20,\n",
        "step,loss\n20,0.5,7\n",
        "PK\x03\x04 a workbook",
    ],
)
def test_logs_that_are_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "log.csv").write_text(content if "PK" not in content else content + "\nx")
    with pytest.raises(InputError, match="log"):
        read_log(tmp_path / "log.csv")


def test_logs_that_are_read_all_the_same(tmp_path: Path) -> None:
    plain = "step,loss\n20,0.5\n40,0.25\n"
    for content in (
        plain,
        plain.replace("\n40", "\n\n40"),
        "\ufeff" + plain,
        plain.replace("\n", "\r\n"),
        plain + "\n\n",
    ):
        (tmp_path / "log.csv").write_bytes(content.encode())
        assert read_log(tmp_path / "log.csv") == [{"step": 20, "loss": 0.5}, {"step": 40, "loss": 0.25}]
    with pytest.raises(InputError, match="found none"):
        read_log(tmp_path / "other.csv")


SAMPLES = replace(CONFIG, steps=None, samples=320, decay_samples=160, warmup_steps=4)


def test_constant_then_decay_in_samples(tmp_path: Path) -> None:
    train(Curve(), replace(SAMPLES, log_every=1), tmp_path)
    rates = [row["learning_rate"] / SAMPLES.learning_rate for row in read_log(tmp_path / "log.csv")]
    naive = []
    for step in range(40):
        share = 1.0 if step < 20 else (40 - step) / 20
        naive.append(min(1, (step + 1) / 4) * (0.02 + 0.98 * share))
    assert rates == pytest.approx(naive)


def test_a_longer_plan_goes_on_as_if_it_had_been_the_first(tmp_path: Path) -> None:
    train(Curve(), SAMPLES, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(Curve(stop_at=15), replace(SAMPLES, samples=240, decay_samples=100), tmp_path / "prolonged")
    train(Curve(), SAMPLES, tmp_path / "prolonged")
    _same_weights(tmp_path / "whole", tmp_path / "prolonged")


def test_minutes_cap_a_run_that_goes_on_later(tmp_path: Path) -> None:
    capped = replace(SAMPLES, minutes=0.002)
    first = train(Curve(pause=0.02), capped, tmp_path)
    assert 0 < first["steps"] < 40 and (tmp_path / STATE).exists() and not (tmp_path / "model.safetensors").exists()
    rounds = 0
    while train(Curve(pause=0.02), capped, tmp_path)["steps"] < 40:
        rounds += 1
    assert 0 < rounds < 40 and not (tmp_path / STATE).exists()
    train(Curve(), SAMPLES, tmp_path / "whole")
    _same_weights(tmp_path / "whole", tmp_path)


def test_branch_decays_a_copy(tmp_path: Path) -> None:
    constant = replace(SAMPLES, samples=10**6, decay_samples=160)
    with pytest.raises(KeyboardInterrupt):
        train(Curve(stop_at=20), constant, tmp_path / "long")
    before = (tmp_path / "long" / STATE).read_bytes()
    plan = branch(tmp_path / "long", tmp_path / "branch", constant, 160, SINE)
    assert (plan.samples, plan.decay_samples) == (320, 160)
    train(Curve(), plan, tmp_path / "branch")
    train(Curve(), SAMPLES, tmp_path / "whole")
    _same_weights(tmp_path / "whole", tmp_path / "branch")
    assert (tmp_path / "long" / STATE).read_bytes() == before
    with pytest.raises(InputError, match="unfinished run"):
        branch(tmp_path / "nothing", tmp_path / "other", constant, 160, SINE)


def test_a_refused_branch_leaves_nothing(tmp_path: Path) -> None:
    constant, long = replace(SAMPLES, samples=10**6, decay_samples=160), tmp_path / "long"
    with pytest.raises(KeyboardInterrupt):
        train(Curve(stop_at=20), constant, long)
    for config, settings in ((replace(constant, batch_size=16), SINE), (constant, {"problem": "cosine"})):
        with pytest.raises(InputError, match=r"batch_size|problem"):
            branch(long, tmp_path / "branch", config, 160, settings)
    content = (long / STATE).read_bytes()
    (long / STATE).write_bytes(content[:100])
    with pytest.raises(InputError, match=re.escape(str(long / STATE))):
        branch(long, tmp_path / "branch", constant, 160, SINE)
    assert not (tmp_path / "branch").exists()
    (long / STATE).write_bytes(content)
    assert branch(long, tmp_path / "branch", constant, 160, SINE).samples == 320


def test_a_branch_goes_on_without_its_source(tmp_path: Path) -> None:
    constant, long, short = replace(SAMPLES, samples=10**6, decay_samples=160), tmp_path / "long", tmp_path / "branch"
    with pytest.raises(KeyboardInterrupt):
        train(Checked(stop_at=20), replace(constant, log_every=1), long)
    plan = branch(long, short, constant, 160, SINE)
    with pytest.raises(KeyboardInterrupt):
        train(Curve(stop_at=25), constant, long)  # the source goes on, and then is gone
    assert branch(long, short, constant, 160, SINE) == plan
    with pytest.raises(KeyboardInterrupt):
        train(Checked(stop_at=5), plan, short)
    shutil.rmtree(long)
    assert branch(long, short, constant, 160, SINE) == plan
    with pytest.raises(InputError, match="expected a decay over 80 samples"):
        branch(long, short, constant, 80, SINE)
    train(Checked(), plan, short)
    train(Curve(), SAMPLES, tmp_path / "whole")
    _same_weights(tmp_path / "whole", short)
    assert [int(row["step"]) for row in read_log(short / VALIDATION)] == list(range(1, 41))


def test_a_branch_is_copied_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed at any moment of copying, it leaves no state, or the state with its logs and its plan."""
    constant, long = replace(SAMPLES, samples=10**6, decay_samples=160), tmp_path / "long"
    with pytest.raises(KeyboardInterrupt):
        train(Checked(stop_at=20), replace(constant, log_every=1), long)

    class Killed(BaseException):
        pass

    def killed(done: Any, at: int, count: itertools.count) -> Any:
        def instead(source: Path, target: Path, *given: Any, **options: Any) -> Any:
            if next(count) < at:
                return done(source, target, *given, **options)
            if done is not replaced:  # that one does all or nothing
                Path(target).write_bytes(Path(source).read_bytes()[:200])
            raise Killed

        return instead

    replaced, copied = os.replace, shutil.copyfile
    for moment in range(9):
        folder, count = tmp_path / str(moment), itertools.count()
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", killed(replaced, moment, count))
            patch.setattr(shutil, "copyfile", killed(copied, moment, count))
            try:
                branch(long, folder, constant, 160, SINE)
            except Killed:
                assert not state.has_state(folder)
            else:
                break
    assert moment == 5
    assert {STATE, LOG, VALIDATION, "training.json"} == {x.name for x in folder.iterdir()}


def _same_weights(one: Path, other: Path) -> None:
    first, second = (torch.load(folder / "exact.pt", weights_only=True) for folder in (one, other))
    assert all(torch.equal(first[k], second[k]) for k in first)


@pytest.mark.parametrize("changes", [{"optimizer": "muon"}, {"precision": "bf16"}], ids=str)
def test_other_optimiser_and_precision_learn_and_resume(tmp_path: Path, changes: dict[str, Any]) -> None:
    config = replace(CONFIG, **changes)
    train(Curve(), config, tmp_path / "whole")
    train(Curve(), CONFIG, tmp_path / "plain")
    (losses, plain) = ([row["loss"] for row in read_log(tmp_path / run / "log.csv")] for run in ("whole", "plain"))
    assert losses[-1] < losses[0] and losses != plain
    if "precision" in changes:
        assert losses == pytest.approx(plain, rel=0.02)
    with pytest.raises(KeyboardInterrupt):
        train(Curve(stop_at=50), config, tmp_path / "resumed")
    train(Curve(), config, tmp_path / "resumed")
    _same_weights(tmp_path / "whole", tmp_path / "resumed")
    assert all(p.dtype == torch.float32 for p in Curve().parameters())


@pytest.mark.parametrize(
    "name", ["state-of-the-art", "state-best", "state-00000012-copy", "state-", "my-state-00000012"]
)
def test_a_fresh_start_deletes_nothing_of_others(tmp_path: Path, name: str) -> None:
    _stopped(tmp_path, at=3)
    (tmp_path / name).mkdir()
    (tmp_path / name / "notes.txt").write_text("mine")
    train(Curve(), replace(CONFIG, steps=2), tmp_path, fresh=True)
    assert (tmp_path / name / "notes.txt").read_text() == "mine"


class Validated(Curve):
    """Its loss on fixed samples, under a name."""

    def validation(self) -> dict[str, float]:
        batch = self.batch(np.random.default_rng(5), 64)
        return {"fixed": float(self(batch)["loss"])}


def test_validation_is_that_of_the_average_and_leaves_the_training_alone(tmp_path: Path) -> None:
    config = replace(CONFIG, steps=12)
    recipe = Validated()
    train(recipe, config, tmp_path / "validated")
    train(Curve(), config, tmp_path / "plain")
    _same_weights(tmp_path / "validated", tmp_path / "plain")
    rows = read_log(tmp_path / "validated" / VALIDATION)
    assert [row["step"] for row in rows] == list(range(1, 13))
    with torch.no_grad():
        assert rows[-1]["fixed"] == pytest.approx(recipe.validation()["fixed"], rel=1e-5)


def test_loss_that_is_not_finite_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Curve, "forward", lambda self, batch: {"loss": self.last.bias.sum() * float("nan")})
    with pytest.raises(FloatingPointError, match="at step 0"):
        train(Curve(), CONFIG, tmp_path)


def test_two_processes_give_the_curve_of_one(whole: Path, tmp_path: Path) -> None:
    """The environment is what ``accelerate launch --cpu --num_processes 2`` sets; the global batch is the same."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = replace(CONFIG, steps=42)
    train(Curve(), config, tmp_path / "one")
    shared = {"ACCELERATE_USE_CPU": "true", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [
        _process(tmp_path / "two", config, RANK=str(rank), LOCAL_RANK=str(rank), **shared) for rank in range(2)
    ]
    for process in processes:
        _finish(process)
    one, two = (read_log(tmp_path / name / LOG) for name in ("one", "two"))
    assert [r["step"] for r in one] == [r["step"] for r in two]
    np.testing.assert_allclose([r["loss"] for r in two], [r["loss"] for r in one], rtol=1e-4)
    for name, tensor in torch.load(tmp_path / "one" / "exact.pt").items():
        torch.testing.assert_close(torch.load(tmp_path / "two" / "exact.pt")[name], tensor, atol=1e-5, rtol=1e-4)


def test_processes_that_draw_give_the_run_of_one(whole: Path, tmp_path: Path) -> None:
    drawn_here, drawn_there = Curve(), Curve()
    train(drawn_here, replace(CONFIG, steps=11), tmp_path / "here")
    train(drawn_there, replace(CONFIG, steps=11), tmp_path / "there", num_workers=2, make=Curve)
    assert drawn_there.drawn == 0 < drawn_here.drawn
    for ours, theirs in zip(drawn_here.parameters(), drawn_there.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert not multiprocessing.active_children()
    for num_workers, said in ((1, "expected what makes the recipe"), (-1, "num_workers")):
        with pytest.raises(InputError, match=said):
            train(Curve(), CONFIG, tmp_path / "none", num_workers=num_workers)
    assert not (tmp_path / "none").exists()


def test_a_resumed_run_goes_on_with_the_batches_of_its_step(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "run")
    (tmp_path / "run" / "model.safetensors").unlink()
    with pytest.raises(KeyboardInterrupt):
        train(Curve(stop_at=40), CONFIG, tmp_path / "run", fresh=True)
    train(Curve(), CONFIG, tmp_path / "run", num_workers=1, make=Curve)
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (tmp_path / "run", whole))
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs)
