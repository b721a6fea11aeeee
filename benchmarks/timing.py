"""What the benchmarks share: interleaved timing, Markdown tables, where results go."""

from __future__ import annotations

import gc
import platform
import random
from collections.abc import Callable, Hashable, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TypeVar

import torch

from lorweb_mini.files import write_atomically

RESULTS = Path(__file__).parent / "results"
Key = TypeVar("Key", bound=Hashable)


def interleaved(runs: dict[Key, Callable[[], object]], rounds: int, least: float = 5e-3) -> dict[Key, list[float]]:
    """Seconds a call of each run, one value a round.

    Every round visits all runs, in an order of its own, so that a machine that slows down for a while slows them all
    alike. A visit repeats a short run for about ``least`` seconds.
    """
    repeats: dict[Key, int] = {}
    for key, run in runs.items():
        run()  # the first call allocates and picks kernels
        started = perf_counter()
        run()
        repeats[key] = max(1, round(least / max(perf_counter() - started, 1e-9)))
    seconds: dict[Key, list[float]] = {key: [] for key in runs}
    order, shuffled = list(runs), random.Random(0)
    # A garbage collection would hit whichever run happens to trigger it.
    gc.disable()
    try:
        for _ in range(rounds):
            gc.collect()
            shuffled.shuffle(order)
            for key in order:
                started = perf_counter()
                for _ in range(repeats[key]):
                    runs[key]()
                seconds[key].append((perf_counter() - started) / repeats[key])
    finally:
        gc.enable()
    return seconds


def ratio(seconds: Sequence[float], base: Sequence[float]) -> float:
    """Median over rounds of seconds / base, both measured in the same round."""
    return median(s / b for s, b in zip(seconds, base, strict=True))


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first column is text, the others are numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def conditions() -> str:
    """One line on what the numbers were measured with."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "diffusers", "peft"))
    return f"{platform.machine()}, {torch.get_num_threads()} threads, fp32, {packages}"


def write(name: str, text: str) -> None:
    """Keeps a result as ``benchmarks/results/<name>.md``."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text(text + "\n", encoding="utf-8")


def write_readme(readme: Path, name: str, text: str) -> None:
    """Replaces what stands between a README's two marks of a name.

    Raises:
        ValueError: there are no such marks.
    """
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    content = readme.read_text(encoding="utf-8")
    if begin not in content or end not in content:
        raise ValueError(f"expected the marks {begin} and {end} in {readme}")
    before, rest = content.split(begin, 1)
    write_atomically(readme, f"{before}{begin}\n{text}\n{end}{rest.split(end, 1)[1]}".encode())
