"""Which regions of the distribution of edits are held out, decided by pixels: data/unseen.json.

A relation counts as unseen only where the memoriser, which knows 10,000 relations of the training distribution, errs by
at least :data:`LEAST_ERROR`. It lies *inside* the span where a chain of at most three trained edits, of kinds that are
never drawn together, reproduces it within :data:`INSIDE`; *outside* where none comes below :data:`OUTSIDE`; else
*between*. Validation relations choose recipes, test relations are scored once.

Run: ``python -m data.build.unseen`` (about ten minutes; ``--check`` compares the committed file instead).
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lorweb_mini.emoji.distributions import LONGEST, WIDTH, Chains, Distribution, HeldOut, Memoriser
from lorweb_mini.emoji.edits import EDITS
from lorweb_mini.emoji.relations import SPLITS, chain_name, concept_sides
from lorweb_mini.emoji.sheets import load_emoji
from lorweb_mini.files import data_dir

LEAST_ERROR, INSIDE, OUTSIDE = 0.25, 0.05, 0.5
PICTURES = 24
MEMORY = 10_000
SEARCH = 12_000  # chains that the span is searched with before the best are refined
COLOURED = 0.05  # mean chroma of a picture of the measurement

SWAP_RED_BLUE = [0, 0, 1, 0, 1, 0, 1, 0, 0]
SWAP_GREEN_BLUE = [1, 0, 0, 0, 0, 1, 0, 1, 0]

INTERVALS: list[dict[str, Any]] = [
    {"kind": "hue", "low": 120, "high": 240, "part": "val", "known_to_base": True},
    {"kind": "pixelate", "low": 6.6, "high": 12, "part": "val", "known_to_base": True},
    {"kind": "shrink", "low": 0.46, "high": 0.64, "part": "val", "known_to_base": True},
    {"kind": "move", "low": 55, "high": 105, "part": "val", "known_to_base": True},
    {"kind": "mix", "centre": SWAP_RED_BLUE, "radius": 1.1, "part": "val", "known_to_base": False},
    {"kind": "background", "low": 20, "high": 200, "part": "test", "known_to_base": True},
    {"kind": "tint", "low": 10, "high": 110, "part": "test", "known_to_base": True},
    {"kind": "screen", "low": 240, "high": 0, "part": "test", "known_to_base": True},
    {"kind": "rotate", "low": 100, "high": 170, "part": "test", "known_to_base": True},
    {"kind": "zoom", "low": 1.5, "high": 2.0, "part": "test", "known_to_base": True},
    {"kind": "move", "low": 110, "high": 160, "part": "test", "known_to_base": True},
    {"kind": "mix", "centre": SWAP_GREEN_BLUE, "radius": 1.1, "part": "test", "known_to_base": False},
]

PAIRS: list[tuple[str, str, str, bool]] = [
    ("grey", "tint", "val", True),
    ("mix", "tint", "val", True),
    ("saturate", "tint", "val", True),
    ("mix", "hue", "val", False),
    ("shrink", "zoom", "val", True),
    ("flip_horizontal", "hue", "val", True),
    ("grey", "shrink", "val", True),
    ("hue", "background", "val", True),
    ("pixelate", "invert", "val", False),
    ("rotate", "grey", "val", False),
    ("rotate", "tint", "val", False),
    ("flip_vertical", "fade", "val", False),
    ("move", "hue", "val", False),
    ("grey", "screen", "test", True),
    ("mix", "screen", "test", True),
    ("saturate", "screen", "test", True),
    ("invert", "mix", "test", False),
    ("threshold", "screen", "test", False),
    ("flip_horizontal", "rotate", "test", True),
    ("flip_vertical", "rotate", "test", True),
    ("invert", "hue", "test", False),
    ("invert", "move", "test", False),
    ("tint", "flip_horizontal", "test", True),
    ("background", "zoom", "test", True),
    ("outline", "shrink", "test", False),
    ("background", "flip_vertical", "test", False),
    ("wave", "invert", "test", False),
    ("tint", "move", "test", True),
]

# Name to chain, degree asked for, part, known to the base. Inside and outside are what the measurement finds.
Candidate = tuple[list[tuple[str, Any]], str, str, bool]


def _one(kind: str, strength: Any, degree: str, part: str, known: bool) -> Candidate:
    return [(kind, strength)], degree, part, known


CANDIDATES: list[Candidate] = [
    # unseen strength
    *[_one("hue", d, "strength", "val", True) for d in (165, 180, 200)],
    *[_one("pixelate", b, "strength", "val", True) for b in (8,)],
    *[_one("shrink", s, "strength", "val", True) for s in (0.55,)],
    *[_one("move", m, "strength", "val", True) for m in ((3, 16), (2, 10), (-1, 22), (6, 13))],
    *[_one("background", d, "strength", "test", True) for d in (80, 110, 140)],
    *[_one("tint", d, "strength", "test", True) for d in (52, 66)],
    *[_one("screen", d, "strength", "test", True) for d in (290, 310)],
    *[_one("rotate", d, "strength", "test", True) for d in (120, 135, 150)],
    *[_one("zoom", z, "strength", "test", True) for z in (1.7, 1.85)],
    *[_one("move", m, "strength", "test", True) for m in ((-12, 12), (-7, 10))],
    # unseen composition
    ([("flip_horizontal", 1), ("hue", 120)], "composition", "val", True),
    ([("grey", 1), ("shrink", 0.4)], "composition", "val", True),
    ([("hue", 240), ("background", 250)], "composition", "val", True),
    ([("hue", 90), ("background", 320)], "composition", "val", True),
    ([("pixelate", 16), ("invert", 1)], "composition", "val", False),
    ([("rotate", 90), ("grey", 1)], "composition", "val", False),
    ([("rotate", 270), ("tint", 240)], "composition", "val", False),
    ([("flip_vertical", 1), ("fade", 0.5)], "composition", "val", False),
    ([("move", (-14, -14)), ("hue", 100)], "composition", "val", False),
    ([("move", (12, -16)), ("hue", 250)], "composition", "val", False),
    ([("hue", 70), ("move", (-18, 6))], "composition", "val", False),
    ([("grey", 1), ("tint", 200)], "composition", "val", True),
    ([("grey", 1), ("tint", 300)], "composition", "val", True),
    ([("saturate", 0.1), ("tint", 160)], "composition", "val", True),
    ([("zoom", 2.2), ("shrink", 0.4)], "composition", "val", True),
    ([("invert", 1), ("move", (18, -4))], "composition", "test", False),
    ([("move", (0, -16)), ("invert", 1)], "composition", "test", False),
    ([("tint", 210), ("flip_horizontal", 1)], "composition", "test", True),
    ([("flip_horizontal", 1), ("tint", 300)], "composition", "test", True),
    ([("zoom", 1.4), ("background", 250)], "composition", "test", True),
    ([("zoom", 2.2), ("background", 300)], "composition", "test", True),
    ([("shrink", 0.7), ("outline", 2)], "composition", "test", False),
    ([("shrink", 0.78), ("outline", 3)], "composition", "test", False),
    ([("flip_vertical", 1), ("background", 220)], "composition", "test", False),
    ([("background", 320), ("flip_vertical", 1)], "composition", "test", False),
    ([("invert", 1), ("wave", 8)], "composition", "test", False),
    ([("tint", 260), ("move", (-4, -18))], "composition", "test", True),
    ([("zoom", 1.3), ("background", 330)], "composition", "test", True),
    ([("move", (14, -10)), ("tint", 180)], "composition", "test", True),
    ([("tint", 0), ("move", (-16, 0))], "composition", "test", True),
    # unseen kinds
    _one("sepia", 1, "kind", "val", True),
    _one("swap_channels", 1, "kind", "val", False),
    _one("posterize", 3, "kind", "val", False),
    *[_one("swirl", d, "kind", "val", False) for d in (90, 150, 240)],
    *[_one("duotone", d, "kind", "test", True) for d in ((0, 60), (130, 20), (240, 180), (280, 80))],
    _one("mix", tuple(SWAP_GREEN_BLUE), "kind", "test", False),
    _one("transpose", 1, "kind", "test", True),
    _one("invert_lightness", 1, "kind", "test", False),
    *[_one("stencil", d, "kind", "test", False) for d in (0, 130, 230)],
    _one("mirror_half", 1, "kind", "test", True),
    *[_one("roll", p, "kind", "test", False) for p in (32, 20)],
    *[_one("ripple", p, "kind", "test", False) for p in (3, 5)],
    *[_one("stripes", p, "kind", "test", False) for p in (4, 8)],
    # more to choose recipes by; behind the others, since the search draws from one generator
    *[_one("pixelate", b, "strength", "val", True) for b in (9, 10)],
    *[_one("move", m, "strength", "val", True) for m in ((1, 7), (0, 18), (9, 21))],
    ([("move", (-20, -10)), ("hue", 60)], "composition", "val", False),
    ([("move", (20, 8)), ("hue", 110)], "composition", "val", False),
    ([("hue", 300), ("move", (4, -22))], "composition", "val", False),
    ([("hue", 250), ("move", (-22, -3))], "composition", "val", False),
    ([("shrink", 0.8), ("zoom", 2.3)], "composition", "val", True),
    ([("zoom", 2.3), ("shrink", 0.75)], "composition", "val", True),
    ([("rotate", 40), ("grey", 1)], "composition", "val", False),
    ([("rotate", 70), ("tint", 180)], "composition", "val", False),
    ([("tint", 140), ("rotate", 310)], "composition", "val", False),
    ([("flip_horizontal", 1), ("hue", 90)], "composition", "val", True),
    ([("hue", 60), ("background", 290)], "composition", "val", True),
    ([("sepia", 1), ("flip_horizontal", 1)], "kind", "val", False),
    ([("sepia", 1), ("invert", 1)], "kind", "val", False),
    ([("sepia", 1), ("rotate", 90)], "kind", "val", False),
    ([("shrink", 0.75), ("sepia", 1)], "kind", "val", False),
]


def regions() -> HeldOut:
    """Everything that the bases of LoRAs are not shown."""
    intervals: dict[str, list[dict[str, Any]]] = {}
    for interval in INTERVALS:
        intervals.setdefault(interval["kind"], []).append(interval)
    return HeldOut(intervals, frozenset(frozenset(p[:2]) for p in PAIRS))


def pictures() -> tuple[Tensor, Tensor]:
    """Colourful drawings of validation concepts, in all styles: a and b, [PICTURES, 3, 64, 64] each."""
    emoji = load_emoji()
    rows = np.argwhere(emoji.present & (concept_sides() == SPLITS.index("val"))[:, None])
    x = emoji.tensor(rows[:, 0], rows[:, 1])
    rows = rows[((x.amax(1) - x.amin(1)).mean((1, 2)) > 2 * COLOURED).numpy()]
    rows = rows[np.random.default_rng(0).permutation(len(rows))[: 2 * PICTURES]]
    return emoji.tensor(rows[:, 0], rows[:, 1]).chunk(2)


def relative(result: Tensor, b: Tensor, b_prime: Tensor) -> float:
    """sum ‖result − b'‖² / sum ‖b − b'‖² in pixels."""
    return float((result - b_prime).pow(2).sum() / (b - b_prime).pow(2).sum())


def distances(drawn: Tensor, targets: Tensor) -> Tensor:
    """Squared distances [P, K, R] of drawn [P, K, D] and target vectors [P, R, D], by one matrix product."""
    square = drawn.square().sum(-1)[:, :, None] + targets.square().sum(-1)[:, None]
    return (square - 2 * drawn @ targets.transpose(1, 2)).clamp_min(0)


def memoriser_errors(truth: list[tuple[Tensor, Tensor]], a: Tensor, b: Tensor) -> list[float]:
    """The memoriser's error on each relation, given as (a', b')."""
    memoriser = Memoriser(Distribution(held_out=regions()), MEMORY)
    best = torch.full((len(truth), len(a)), float("inf"))
    chosen = torch.zeros(len(truth), len(a), dtype=torch.long)
    shown = torch.stack([a_prime for a_prime, _ in truth], 1).flatten(2)
    for start in range(0, MEMORY, 200):
        part = memoriser.chains[start : start + 200]
        drawn = part.apply(a.expand(len(part), *a.shape))
        error, row = distances(drawn.transpose(0, 1).flatten(2), shown).min(1)  # [pictures, relations]
        better = error.T < best
        best[better], chosen[better] = error.T[better], row.T[better] + start
    return [relative(memoriser.chains[chosen[r].numpy()].apply(b), b, b_prime) for r, (_, b_prime) in enumerate(truth)]


def span_errors(truth: list[tuple[Tensor, Tensor]], b: Tensor, seed: int = 0) -> list[tuple[float, list]]:
    """For each relation the best chain of trained edits, of kinds in any company, and its error."""
    rng = np.random.default_rng(seed)
    free = Distribution(held_out=HeldOut(regions().intervals, frozenset()), lengths=(0.2, 0.4, 0.4))
    some = b[::2]
    targets = torch.stack([b_prime[::2] for _, b_prime in truth])
    scale = (some - targets).pow(2).sum((1, 2, 3, 4))

    def errors(chains: Chains, rows: list[int]) -> Tensor:
        parts = []
        for start in range(0, len(chains), 200):
            part = chains[start : start + 200]
            drawn = part.apply(some.expand(len(part), *some.shape))
            parts.append(distances(drawn.flatten(1)[None], targets[rows].flatten(1)[None])[0] / scale[rows])
        return torch.cat(parts)

    chains = free.draw(rng, SEARCH)
    table = errors(chains, list(range(len(truth))))
    best: list[tuple[float, list]] = []
    for r in range(len(truth)):
        order = table[:, r].argsort()[:6].numpy()
        pool, value = chains[order], table[order, r]
        for spread in (0.15, 0.15, 0.08, 0.04, 0.02, 0.01):
            tried = _perturbed(rng, pool, spread, 12)
            allowed = ~HeldOut(free.held_out.intervals, frozenset()).chains(tried)
            tried = tried[np.flatnonzero(allowed)]
            joint = Chains(np.concatenate([pool.kinds, tried.kinds]), torch.cat([pool.strengths, tried.strengths]))
            joint_value = torch.cat([value, errors(tried, [r])[:, 0]])
            keep = joint_value.argsort()[:6].numpy()
            pool, value = joint[keep], joint_value[keep]
        best.append((relative(pool[0:1].apply(b[None])[0], b, truth[r][1]), pool[0:1].as_lists()[0]))
    return best


def _perturbed(rng: np.random.Generator, chains: Chains, spread: float, times: int) -> Chains:
    """Each chain so many times, its strengths moved by a normal step of ``spread`` times their range."""
    kinds = np.repeat(chains.kinds, times, 0)
    strengths = chains.strengths.repeat_interleave(times, 0).clone()
    for row in range(len(kinds)):
        for place in range(LONGEST):
            if kinds[row, place]:
                edit = EDITS[kinds[row, place]]
                low, high = edit.range
                step = torch.from_numpy(rng.normal(0, spread * (high - low), WIDTH)).float()
                p = edit.parameters
                strengths[row, place, :p] = (strengths[row, place, :p] + step[:p]).clamp(low, high)
    return Chains(kinds, strengths)


def measure() -> dict[str, Any]:
    """The content of data/unseen.json."""
    for chain, degree, *_ in CANDIDATES:
        only_pair = HeldOut(regions().intervals, frozenset()).chains(Chains.of([chain]))[0]
        if degree == "composition" and only_pair:
            raise ValueError(f"a composition should be of strengths that are drawn, {chain_name(chain)} is not")
    a, b = pictures()
    chains = [Chains.of([chain]) for chain, *_ in CANDIDATES]
    truth = [(c.apply(a[None])[0], c.apply(b[None])[0]) for c in chains]
    remembered, spanned = memoriser_errors(truth, a, b), span_errors(truth, b)
    entries = []
    for (chain, degree, part, known), memory, (error, best) in zip(CANDIDATES, remembered, spanned, strict=True):
        if degree == "kind":
            degree = "inside" if error <= INSIDE else "outside" if error >= OUTSIDE else "between"
        entries.append(
            {
                "name": chain_name(chain),
                "chain": [[kind, strength] for kind, strength in chain],
                "degree": degree,
                "part": part,
                "known_to_base": known,
                "held_out": memory >= LEAST_ERROR,
                "memoriser": round(memory, 3),
                "nearest_chain": round(error, 3),
                "nearest": [[kind, np.round(strength, 3).tolist()] for kind, strength in best],
            }
        )
    pairs = [{"kinds": list(p[:2]), "part": p[2], "known_to_base": p[3]} for p in PAIRS]
    return {"intervals": INTERVALS, "pairs": pairs, "relations": entries}


def main() -> None:
    """Writes or checks the file, and prints a line a relation."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare the committed file instead of writing it")
    check = parser.parse_args().check
    measured = measure()
    for r in measured["relations"]:
        print(
            f"{r['part']:4} {r['degree']:11} memoriser {r['memoriser']:.2f} chain {r['nearest_chain']:.2f} {r['name']}"
        )
    text = json.dumps(measured, indent=1, ensure_ascii=False) + "\n"
    path = data_dir() / "unseen.json"
    if check:
        sys.exit(0 if path.read_text(encoding="utf-8") == text else f"{path} is not what the measurement gives")
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
