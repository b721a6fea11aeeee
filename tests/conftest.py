"""What holds for every test: offline, two threads, the same seeds."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

# Before anything imports a library that reads them.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("LORWEB_PROFILE", "smoke")

import numpy as np
import pytest
import torch
from no_network import refuse_network

ROOT = Path(__file__).resolve().parents[1]

# Two, or what a pinned process or OMP_NUM_THREADS allows: more threads than cores wait for each other.
usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2
torch.set_num_threads(min(2, usable, torch.get_num_threads()))


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test starts from the same random state, whichever tests ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any attempt to connect or to look up a name raises; Unix-domain sockets stay allowed."""
    refuse_network(monkeypatch.setattr)


@pytest.fixture
def offline_environment() -> dict[str, str]:
    """The environment of a child process that has no network and none of our own settings but the profile."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LORWEB_")}
    return kept | {
        "HF_HUB_OFFLINE": "1",
        "LORWEB_PROFILE": "smoke",
        "PYTHONPATH": str(ROOT / "tests" / "offline"),
    }


@pytest.fixture
def locked_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders called ``locked`` take no new file, for root as well, whom permissions do not hold back."""

    def opened(dir: Path) -> Any:
        if dir.name == "locked":
            raise PermissionError(errno.EACCES, "Permission denied", str(dir))
        return TemporaryFile(dir=dir)

    monkeypatch.setattr("lorweb_mini.files.TemporaryFile", opened)
