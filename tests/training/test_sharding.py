"""FSDP on two CPU processes: the run of one process, resumed after a kill, on one process fewer too."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from test_loop import CONFIG, Curve
from torch.distributed.tensor import DTensor

from lorweb_mini.errors import InputError
from lorweb_mini.training import sharding
from lorweb_mini.training.log import LOG, read_log
from lorweb_mini.training.loop import train
from lorweb_mini.training.state import PROGRESS, STATE, read_progress, sharded_states

STEPS = replace(CONFIG, steps=24)


class Sharded(Curve):
    """The sine problem; ``kill_at`` ends its process as a kill does."""

    def __init__(self, kill_at: int | None = None) -> None:
        super().__init__()
        self.kill_at = kill_at

    def observe(self, step: int, folder: Path, is_main: bool) -> None:
        if step == 1 and sharding.wanted():
            kinds = {name: type(p) for name, p in self.named_parameters()}
            assert all(issubclass(kind, DTensor) for kind in kinds.values()), kinds
            slices = [p.to_local().shape[0] for p in self.parameters()]
            assert slices[:2] == [16 // dist.get_world_size()] * 2, "its share of the 16 rows in each process"
        if step == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def save(self, folder: Path) -> None:
        torch.save(self.state_dict(), folder / "exact.pt")


def _child(folder: Path, environment: dict[str, str], kill_at: int | None) -> None:
    os.environ.update(environment)
    torch.set_num_threads(1)
    train(Sharded(kill_at), STEPS, folder)


def _together(folder: Path, world: int = 2, kill_at: int | None = None) -> list[int | None]:
    """Runs the training in ``world`` processes as ``accelerate launch`` with the FSDP file does; their exit codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["test_sharding"])
    shared = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    shared |= {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
    ranks = [shared | {"RANK": str(i), "LOCAL_RANK": str(i)} for i in range(world)]
    processes = [context.Process(target=_child, args=(folder, rank, kill_at)) for rank in ranks]
    for process in processes:
        process.start()
    for process in processes:
        process.join(200)
        process.kill()
        process.join()
    return [process.exitcode for process in processes]


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run in two processes that nothing interrupted."""
    folder = tmp_path_factory.mktemp("together")
    assert _together(folder) == [0, 0]
    return folder


def _losses(folder: Path) -> list[float]:
    return [row["loss"] for row in read_log(folder / LOG)]


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "exact.pt")


def test_two_sharded_processes_give_the_run_of_one(together: Path, tmp_path: Path) -> None:
    """The written weights are the moving average's, so that it is sharded and gathered too."""
    train(Sharded(), STEPS, tmp_path)
    np.testing.assert_allclose(_losses(together), _losses(tmp_path), rtol=1e-5)
    one, two = _weights(tmp_path), _weights(together)
    assert one.keys() == two.keys() == {"first.weight", "first.bias", "last.weight", "last.bias"}
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, atol=1e-5, rtol=1e-4)
    assert not list(together.glob("state*")), "a finished run leaves no state behind"


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run whose two processes were killed after their tenth checkpoint."""
    folder = tmp_path_factory.mktemp("killed")
    assert 0 not in _together(folder, kill_at=10)
    return folder


def test_killed_run_resumes_exactly(together: Path, killed: Path, tmp_path: Path) -> None:
    assert not (killed / "exact.pt").exists()
    (state,) = sharded_states(killed)
    assert state.name == "state-00000010" and read_progress(state / PROGRESS)["step"] == 10
    assert len(list(state.glob("*.distcp"))) == 2, "each process wrote its own part"
    shutil.copytree(killed, tmp_path, dirs_exist_ok=True)
    (tmp_path / "state-00000011.part").mkdir()  # as a kill in the middle of writing leaves it
    assert _together(tmp_path) == [0, 0]
    for name, tensor in _weights(together).items():
        assert torch.equal(_weights(tmp_path)[name], tensor), name
    assert _losses(tmp_path) == _losses(together)


def test_resumes_on_one_process_fewer(together: Path, killed: Path, tmp_path: Path) -> None:
    shutil.copytree(killed, tmp_path, dirs_exist_ok=True)
    assert _together(tmp_path, world=1) == [0]
    np.testing.assert_allclose(_losses(tmp_path), _losses(together), rtol=1e-5)
    for name, tensor in _weights(together).items():
        torch.testing.assert_close(_weights(tmp_path)[name], tensor, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("other", ["state-of-the-art", "state-best", "state-00000003.part", "state-3"])
def test_only_what_the_trainer_writes_is_a_state(tmp_path: Path, other: str) -> None:
    for name in (other, "state-00000007", "state-00000012"):
        (tmp_path / name).mkdir()
    (tmp_path / "state-00000099").write_text("a file")
    assert [x.name for x in sharded_states(tmp_path)] == ["state-00000007", "state-00000012"]


def test_states_of_the_other_kind_or_damaged(tmp_path: Path) -> None:
    (tmp_path / "state-00000005").mkdir()
    with pytest.raises(InputError, match=r"expected the state of a run without FSDP .* got that of one with"):
        train(Sharded(), STEPS, tmp_path)
    with pytest.raises(InputError, match="expected the state of an unfinished run, got a damaged file"):
        read_progress(tmp_path / "state-00000005" / PROGRESS)
    train(Sharded(), STEPS, tmp_path, fresh=True)
    assert not (tmp_path / "state-00000005").exists() and not (tmp_path / STATE).exists()


PROGRESSED = {"step": 7, "elapsed": 1.5, "recent": [0.5], "config": {}}


@pytest.mark.parametrize("content", [[], 7, None, {}, *({**PROGRESSED, name: ...} for name in PROGRESSED)], ids=str)
@pytest.mark.parametrize("kind", [PROGRESS, STATE])
def test_progress_that_is_none(tmp_path: Path, kind: str, content: Any) -> None:
    def written(progress: Any) -> Path:
        text = json.dumps(progress)
        if kind == STATE:
            save_file({"x": torch.zeros(1)}, tmp_path / kind, {"progress": text})
        else:
            (tmp_path / kind).write_text(text)
        return tmp_path / kind

    assert read_progress(written(PROGRESSED)) == PROGRESSED
    part = {k: v for k, v in content.items() if v is not ...} if isinstance(content, dict) else content
    with pytest.raises(InputError, match="expected the state of an unfinished run, got a damaged file"):
        read_progress(written(part))
