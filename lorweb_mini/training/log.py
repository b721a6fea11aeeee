"""CSV logs of a training: appended at checkpoints, cut where a resumed run goes on; what is logged of a routing."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import torch
from torch import Tensor

from ..errors import InputError
from ..files import read_text, write_atomically

LOG = "log.csv"
VALIDATION = "validation.csv"


def append_log(path: Path, rows: list[dict[str, float]]) -> None:
    """Appends rows to the CSV log, with a heading when the file is new."""
    if not rows:
        return
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        if new:
            writer.writeheader()
        writer.writerows(rows)


def cut_log(path: Path, step: int) -> None:
    """Drops the rows after a step, which a resumed run writes again, and what is no row, as after a kill."""
    if not path.exists():
        return
    whole = [row for row in path.read_bytes().splitlines(keepends=True) if row.endswith(b"\n")]
    kept = whole[:1] + [row for row in whole[1:] if (at := row.split(b",")[0]).isdigit() and int(at) <= step]
    if kept:
        write_atomically(path, b"".join(kept))
    else:
        path.unlink()


def read_log(path: str | Path) -> list[dict[str, float]]:
    """Reads a training log: one dictionary a logged step, all values numbers. Blank lines are skipped.

    Raises:
        InputError: no such file, or one that a spreadsheet has saved in its own way.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"expected the log of a training, found none at {path}")
    rows = csv.DictReader(read_text(path).splitlines())
    try:
        return [{k: float(v) for k, v in row.items()} for row in rows if any(row.values())]
    except (TypeError, ValueError) as error:
        raise InputError(f"expected a log of comma-separated numbers in {path}, got another file: {error}") from None


def routing_statistics(coefficients: Tensor) -> dict[str, float]:
    """Health of a routing, from coefficients [B, layers, N].

    entropy: mean over rows, in nats, ln N where uniform and 0 where one LoRA takes all; usage: entropy of the batch
    mean, low where some LoRAs are never used; variation: mean L1 distance of a row to the batch mean, 0 where the
    router ignores its input. Signed coefficients, those of ``tanh``, have no entropy: NaN.
    """
    mean = coefficients.mean(0)

    def entropy(c: Tensor) -> float:
        found = float(torch.special.entr(c).sum(-1).mean())
        return found if found > -math.inf else math.nan

    variation = (coefficients - mean).abs().sum(-1).mean()
    return {"entropy": entropy(coefficients), "usage": entropy(mean), "variation": float(variation)}
