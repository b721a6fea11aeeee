"""pyproject.toml, requirements.lock and environment.yml say the same; and offline means offline."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]


def _by_name(lines: list[str]) -> dict[str, Requirement]:
    requirements = [Requirement(line) for line in lines]
    named = {canonicalize_name(requirement.name): requirement for requirement in requirements}
    assert len(named) == len(requirements), "a package is named twice"
    return named


LOCK_LINES = [
    line for line in (ROOT / "requirements.lock").read_text().splitlines() if line and not line.startswith("#")
]
LOCK = _by_name(LOCK_LINES)
DIRECT = _by_name(PROJECT["dependencies"])
EVERYTHING = DIRECT | {name: requirement for extra in EXTRAS.values() for name, requirement in _by_name(extra).items()}


def _pinned(name: str) -> str:
    (pin,) = LOCK[name].specifier
    return pin.version


def test_lock_pins_each_package_exactly() -> None:
    for line in LOCK_LINES:
        # No local versions (torch's +cpu), links or files: they would resolve on one machine only.
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", line), line


@pytest.mark.parametrize("name", sorted(LOCK))
def test_locked_version_runs_on_the_oldest_python(name: str) -> None:
    assert metadata.version(name).split("+")[0] == _pinned(name), "another version is installed: make install"
    (oldest,) = SpecifierSet(PROJECT["requires-python"])
    needed = metadata.metadata(name).get("Requires-Python") or ""
    assert SpecifierSet(needed).contains(f"{oldest.version}.0"), f"{name} {_pinned(name)} needs Python {needed}"


def test_lock_brings_no_gpu_build() -> None:
    assert not [name for name in LOCK if name.startswith(("nvidia-", "cuda-", "triton"))]


@pytest.mark.parametrize("name", sorted(EVERYTHING))
def test_range_admits_the_locked_version(name: str) -> None:
    assert name in LOCK, f"{name} is in pyproject.toml but not in requirements.lock"
    assert EVERYTHING[name].specifier.contains(_pinned(name)), (str(EVERYTHING[name]), _pinned(name))


@pytest.mark.parametrize("name", sorted(DIRECT))
def test_runtime_ranges_are_bounded_above(name: str) -> None:
    assert any(part.operator == "<" for part in DIRECT[name].specifier), str(DIRECT[name])


@pytest.mark.skipif(sys.platform != "linux", reason="the lock was made on Linux")
def test_lock_is_closed() -> None:
    """Nothing that a locked package needs is left for pip to choose."""
    missing = set()
    for name in LOCK:
        if name == "torch":  # its GPU builds need further packages, on purpose not locked
            continue
        for line in metadata.requires(name) or []:
            needed = Requirement(line)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                if canonicalize_name(needed.name) not in LOCK:
                    missing.add(f"{name} needs {needed.name}")
    assert not missing


def test_conda_environment_says_the_same() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    plain = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert "pip" in plain, "conda warns, and may fail, without pip beside a pip section"

    (python,) = [entry for entry in plain if re.match(r"python\b", entry)]
    assert SpecifierSet(python.removeprefix("python")) == SpecifierSet(PROJECT["requires-python"])

    (package,) = [entry for entry in pip if entry.startswith("-e ")]
    extras = re.fullmatch(r"-e \.\[([a-z,]+)\]", package)
    assert extras and set(extras[1].split(",")) == set(EXTRAS)

    ranges = _by_name([entry for entry in pip if entry != package])
    assert {name: requirement.specifier for name, requirement in ranges.items()} == {
        name: requirement.specifier for name, requirement in DIRECT.items()
    }


def test_pre_commit_uses_the_locked_ruff() -> None:
    configuration = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    pins = {
        pin
        for repository in configuration["repos"]
        for hook in repository["hooks"]
        for pin in hook["additional_dependencies"]
        if pin.startswith("ruff==")
    }
    assert pins == {f"ruff=={_pinned('ruff')}"}


def test_the_network_is_refused(no_network: None, offline_environment: dict[str, str]) -> None:
    """The wall that other tests stand behind holds, in this process and in a child."""
    with pytest.raises(AssertionError, match="offline"):
        socket.create_connection(("127.0.0.1", 9))
    with socket.socket() as outward, pytest.raises(AssertionError, match="offline"):
        outward.connect(("127.0.0.1", 9))

    code = "import socket; socket.socket().connect(('127.0.0.1', 9))"
    child = subprocess.run(
        [sys.executable, "-c", code], env=offline_environment, capture_output=True, text=True, timeout=60
    )
    assert child.returncode != 0 and "NetworkUsed" in child.stderr


def test_the_package_is_imported_without_what_only_the_analysis_needs() -> None:
    late = ("sklearn", "pandas", "matplotlib", "datasets", "IPython")
    code = f"import sys, lorweb_mini; print([name for name in {late} if name in sys.modules])"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert child.stdout.strip() == "[]"
