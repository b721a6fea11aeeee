"""What the pictures must obey, measured on the pictures themselves.

Upstream sets get tones, genders and directions wrong now and then. Pictures that do not draw their tone are
dropped; the rest is reported, and the build stops at what is not known to be harmless.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .relations import Pairs, bare
from .sources import STYLES, TONES

COLOURED = tuple(i for i, style in enumerate(STYLES) if style != "openmoji_black")
LUMINANCE = np.array([0.299, 0.587, 0.114])
Finding = tuple[str, str]  # key, style


def tone_families(keys: list[str]) -> Iterator[tuple[str, dict[int, int]]]:
    """Pictures that differ in one tone only: name, and tone 0..4 -> row.

    Families of one toned person (or of two alike), and of couples the families in which one of them changes.
    """
    families: dict[str, dict[int, int]] = {}
    for row, key in enumerate(keys):
        parts = key.split("-")
        places = [i for i, part in enumerate(parts) if part in TONES]
        tones = [TONES.index(parts[i]) for i in places]
        if len(set(tones)) == 1:
            families.setdefault(f"{bare(key)} {len(tones)}", {})[tones[0]] = row
        elif tones:
            for i, tone in zip(places, tones, strict=True):
                families.setdefault("-".join([*parts[:i], "tone", *parts[i + 1 :]]), {})[tone] = row
    yield from ((name, family) for name, family in families.items() if len(family) > 1)


def undrawn_tones(keys: list[str], pictures: np.ndarray, present: np.ndarray) -> list[Finding]:
    """Toned pictures that look like an earlier one of the same thing (no pixel differs by over 8 of 255).

    OpenMoji black draws no tone at all: its toned pictures stay, as pictures, and the pairs that look alike are
    left out wherever pairs are made.
    """
    things: dict[str, list[int]] = {}
    for row, key in enumerate(keys):
        things.setdefault(bare(key), []).append(row)
    findings = []
    for rows in things.values():
        for style in COLOURED:
            drawn = [row for row in rows if present[row, style]]
            for i, row in enumerate(drawn):
                others = pictures[drawn[:i], style].astype(np.int16)
                if bare(keys[row]) != keys[row] and (np.abs(others - pictures[row, style]).max((1, 2, 3)) <= 8).any():
                    findings.append((keys[row], STYLES[style]))
    return findings


def skin_colours(keys: list[str], pictures: np.ndarray, present: np.ndarray, hands: set[str]) -> np.ndarray:
    """Median skin colour [6, 5, 3] of every style and tone, read off the hands, which have no hair or clothes."""
    colours = np.full((len(STYLES), 5, 3), np.nan)
    families = [family for name, family in tone_families(keys) if name.split()[0] in hands and len(family) == 5]
    for style in COLOURED:
        medians = []
        for family in families:
            rows = [family[tone] for tone in range(5)]
            if present[rows, style].all():
                drawn = pictures[rows, style].astype(np.float32)
                skin = np.ptp(drawn, axis=0).sum(-1) > 90
                medians.append(np.median(drawn[:, skin], 1))
        colours[style] = np.median(medians, 0)
    return colours


def wrong_tone_order(
    keys: list[str], pictures: np.ndarray, present: np.ndarray, skin: np.ndarray
) -> list[tuple[str, str, list[int]]]:
    """Families and styles whose mean skin luminance does not fall from light to dark.

    Skin is where the pictures of a family differ, each is near one of the style's five skin colours, and they
    take (nearly) all different ones: hair changes with the tone too, but not through five colours.
    """
    findings = []
    for name, family in tone_families(keys):
        for style in COLOURED:
            rows = [family[tone] for tone in sorted(family) if present[family[tone], style]]
            if len(rows) < 2:
                continue
            drawn = pictures[rows, style].astype(np.float32)
            distance = np.abs(drawn[:, :, :, None] - skin[style]).sum(-1)
            nearest = np.sort(distance.argmin(-1), 0)
            kinds = 1 + (np.diff(nearest, axis=0) > 0).sum(0)
            mask = (np.ptp(drawn, axis=0).sum(-1) > 60) & (distance.min(-1) < 80).all(0)
            mask &= kinds >= len(rows) - (len(rows) > 3)
            luminance = (drawn[:, mask] @ LUMINANCE).mean(1) if mask.sum() >= 6 else np.empty(0)
            if luminance.size and not (np.diff(luminance) < -3).all():
                findings.append((name, STYLES[style], luminance.round().astype(int).tolist()))
    return findings


def swapped(
    pairs: list[tuple[str, str]],
    index: dict[str, int],
    pictures: np.ndarray,
    present: np.ndarray,
    style: int,
    others: tuple[int, ...],
    margin: float,
) -> list[Finding]:
    """Pairs (a, a') that in one style look more like (a', a) of other styles, by more than a margin (of 255)."""
    findings = []
    for a, b in pairs:
        i, j = index[a], index[b]
        votes = [_vote(pictures, i, j, style, other) for other in others if present[[i, j], other].all()]
        if votes and present[[i, j], style].all() and np.mean(votes) > margin:
            findings.append((a, STYLES[style]))
    return findings


def _vote(pictures: np.ndarray, i: int, j: int, style: int, other: int) -> float:
    def small(row: int, column: int) -> np.ndarray:
        return pictures[row, column].reshape(16, 4, 16, 4, 3).mean((1, 3))

    def distance(one: int, two: int) -> float:
        return float(np.abs(small(one, style) - small(two, other)).mean())

    return distance(i, i) + distance(j, j) - distance(i, j) - distance(j, i)


def swapped_genders(pairs: Pairs, index: dict[str, int], pictures: np.ndarray, present: np.ndarray) -> list[Finding]:
    """Man and woman exchanged between the two Fluent sets, which dress them alike (other sets differ too much).

    Swimmers are known to fail: their caps agree, but one drawing is a few pixels higher.
    """
    three_d, flat = STYLES.index("fluent_3d"), STYLES.index("fluent_flat")
    findings = swapped(pairs["gender/man>woman"], index, pictures, present, three_d, (flat,), 3.0)
    return [finding for finding in findings if not finding[0].startswith("1f3ca")]


def swapped_directions(pairs: Pairs, index: dict[str, int], pictures: np.ndarray, present: np.ndarray) -> list[Finding]:
    """Hands, moons and clocks that one style draws the other way round than the other five do."""
    findings = []
    for relation in ("mirror/hand", "hand/up>down", "moon/+2", "clock/+3h"):
        for style in range(len(STYLES)):
            others = tuple(other for other in range(len(STYLES)) if other != style)
            findings += swapped(pairs[relation], index, pictures, present, style, others, 0.0)
    return findings
