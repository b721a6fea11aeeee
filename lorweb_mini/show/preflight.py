"""A check before a notebook starts: versions, threads, memory, and whether all data are on this disk."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from html import escape
from importlib import metadata
from pathlib import Path

import psutil
import torch
from packaging.requirements import Requirement

from ..emoji.sheets import STYLES
from ..errors import InputError
from ..files import data_dir
from ..models.weights import weights_dir

PACKAGES = ("torch", "diffusers", "peft", "transformers", "anywidget")
LEAST_GIB = 2.0
PARTS = ("autoencoder", "encoder", "base", "starter", "full")


@dataclass(frozen=True)
class Check:
    """One line: what is checked, what is here, what is needed, and whether the one meets the other."""

    what: str
    here: str
    needed: str
    ok: bool


@dataclass(frozen=True)
class Preflight:
    """All checks; notebooks show it as a table."""

    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether every need is met."""
        return all(check.ok for check in self.checks)

    @property
    def verdict(self) -> str:
        """One sentence that says what to do."""
        missing = [check.what for check in self.checks if not check.ok]
        return f"Have a look at: {', '.join(missing)}." if missing else "Ready: everything needed is here."

    def __str__(self) -> str:
        lines = [f"{'✓' if c.ok else '!'} {c.what:<14}{c.here:<34}{c.needed}" for c in self.checks]
        return "\n".join([*lines, self.verdict])

    def _repr_html_(self) -> str:
        rows = [("", "", "here", "needed")]
        rows += [("✓" if c.ok else "⚠", c.what, c.here, c.needed) for c in self.checks]
        cells = "".join(f"<tr>{''.join(f'<td align=left>{escape(x)}</td>' for x in row)}</tr>" for row in rows)
        return f"<table>{cells}</table><p><b>{escape(self.verdict)}</b></p>"


def preflight() -> Preflight:
    """Looks at Python, packages, threads, memory, data and offline mode. Never raises, never needs a network."""
    threads, free = torch.get_num_threads(), psutil.virtual_memory().available / 2**30
    sheets = [path for path in _files(data_dir) if path.suffix == ".webp" and path.stem in STYLES]
    weights = [path for path in _files(weights_dir) if path.parent.name in PARTS and path.suffix == ".safetensors"]
    models = {path.parent.name for path in weights}
    offline = os.environ.get("HF_HUB_OFFLINE") == "1"
    return Preflight(
        (
            Check("Python", platform.python_version(), "3.11 or newer", sys.version_info >= (3, 11)),
            *map(_package, PACKAGES),
            Check("threads", f"{threads} of {os.cpu_count() or 1} cores", "1 or more", threads >= 1),
            Check("free memory", f"{free:.1f} GiB", f"{LEAST_GIB:g} GiB", free >= LEAST_GIB),
            Check("pictures", f"{len(sheets)} sheets, {_size(sheets)}", "six sheets", len(sheets) == 6),
            Check("weights", f"{len(models)} models, {_size(weights)}", ", ".join(PARTS), models == set(PARTS)),
            Check("model hub", "switched off" if offline else "reachable", "HF_HUB_OFFLINE=1", offline),
        )
    )


def _package(name: str) -> Check:
    version, need = _version(name), _ranges().get(name)
    ok = version is not None and (need is None or need.specifier.contains(version, prereleases=True))
    return Check(name, version or "missing", str(need.specifier) if need else "any", ok)


def _ranges() -> dict[str, Requirement]:
    with suppress(metadata.PackageNotFoundError):  # imported from a folder, never installed
        return {r.name: r for r in map(Requirement, metadata.requires("lorweb_mini") or [])}
    return {}


def _version(name: str) -> str | None:
    with suppress(metadata.PackageNotFoundError):
        return metadata.version(name)
    return None


def _files(folder: Callable[[], Path]) -> list[Path]:
    """Files one folder down; none where the folder is missing."""
    with suppress(InputError):
        return list(folder().glob("*/*"))
    return []


def _size(paths: Sequence[Path]) -> str:
    return f"{sum(path.stat().st_size for path in paths) / 1e6:.0f} MB on this disk"
