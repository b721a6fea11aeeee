"""Rebuild every data file from the npm packages: `python -m data.build.build [--packages FOLDER]`.

Writes data/emoji/*.webp, data/emoji/emoji.json, data/relations.json and data/splits.json, the same bytes
every time. Needs resvg-py and scipy beside the package's own requirements.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from . import checks
from .concepts import concepts_of, lookalikes
from .instructions import instructions
from .relations import Pairs, collect
from .render import on_white, render_all, write_sheet
from .sources import MIN_STYLES, STYLES, read_drawings
from .splits import split_concepts, split_relations, starter

DATA = Path(__file__).resolve().parents[1]
SAME_PICTURE = 1.0  # mean absolute difference, of 255


def dump(path: Path, content: Any) -> None:
    """JSON with one entry of the outer levels a line, so that changes of the data can be read as differences."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_lines(content, 2) + "\n", encoding="utf-8")


def _lines(content: Any, depth: int) -> str:
    if depth and isinstance(content, dict):
        body = ",\n".join(
            f"{json.dumps(key, ensure_ascii=False)}: {_lines(value, depth - 1)}" for key, value in content.items()
        )
        return "{\n" + body + "\n}"
    if depth and isinstance(content, list):
        return "[\n" + ",\n".join(_lines(value, depth - 1) for value in content) + "\n]"
    return json.dumps(content, ensure_ascii=False)


def visible(pairs: Pairs, index: dict[str, int], pictures: np.ndarray, present: np.ndarray) -> Pairs:
    """The pairs that at least one style draws differently, of the relations that keep two of them or more."""
    kept: Pairs = {}
    for relation, members in pairs.items():
        seen = []
        for a, b in members:
            both = present[index[a]] & present[index[b]]
            one, two = pictures[index[a], both].astype(np.int16), pictures[index[b], both]
            if (np.abs(one - two).mean((1, 2, 3)) >= SAME_PICTURE).any():
                seen.append((a, b))
        if len(seen) >= 2:
            kept[relation] = seen
    return kept


def report(name: str, findings: list[Any]) -> None:
    print(f"{name}: {len(findings)}")
    for finding in findings:
        print("   ", *finding)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path, help="folder with the tarballs (else npm fetches them)")
    parser.add_argument("--out", type=Path, default=DATA, help="where to write (default: the data folder)")
    arguments = parser.parse_args()

    emojis, drawings = read_drawings(arguments.packages)
    keys = [entry["key"] for entry in emojis]
    rgba, present = render_all(keys, drawings)
    pictures = on_white(rgba)

    dropped = checks.undrawn_tones(keys, pictures, present)
    report("dropped, tone not drawn", dropped)
    for key, style in dropped:
        cell = keys.index(key), STYLES.index(style)
        rgba[cell], pictures[cell], present[cell] = 0, 255, False
    kept = present.sum(1) >= MIN_STYLES
    emojis = [entry for entry, keep in zip(emojis, kept, strict=True) if keep]
    rgba, pictures, present = rgba[kept], pictures[kept], present[kept]
    keys = [entry["key"] for entry in emojis]
    index = {key: row for row, key in enumerate(keys)}
    print(f"{len(keys)} emojis, {present.sum()} pictures:", dict(zip(STYLES, present.sum(0).tolist(), strict=True)))

    pairs = visible(collect(emojis), index, pictures, present)
    hands = {entry["key"] for entry in emojis if entry["subgroup"].startswith("hand") and "200d" not in entry["key"]}
    skin = checks.skin_colours(keys, pictures, present, hands)
    problems = {
        "tone order wrong": checks.wrong_tone_order(keys, pictures, present, skin),
        "man and woman swapped": checks.swapped_genders(pairs, index, pictures, present),
        "direction swapped": checks.swapped_directions(pairs, index, pictures, present),
    }
    for name, findings in problems.items():
        report(name, findings)

    related = [
        pair
        for name, members in pairs.items()
        if name.split("/")[0] in ("tone", "gender", "mirror")
        for pair in members
    ]
    alike = lookalikes(keys, pictures, present)
    concept = concepts_of(keys, related, [(one, other) for one, other, _ in alike])
    for row, entry in enumerate(emojis):
        entry["concept"] = concept[entry["key"]]
        entry["styles"] = [style for column, style in enumerate(STYLES) if present[row, column]]
    concepts = split_concepts(emojis, pairs)
    relations = split_relations(emojis, pairs, concepts)
    print(
        f"{len(pairs)} relations, {sum(map(len, pairs.values()))} pairs;",
        {part: len(names) for part, names in concepts.items()},
    )

    dump(arguments.out / "emoji" / "emoji.json", {"styles": STYLES, "emojis": emojis})
    table = {
        name: {"family": name.split("/")[0], "instructions": instructions(name), "pairs": members}
        for name, members in pairs.items()
    }
    dump(arguments.out / "relations.json", table)
    dump(arguments.out / "splits.json", {"concepts": concepts, "relations": relations, "starter": starter(relations)})
    for column, style in enumerate(STYLES):
        path = arguments.out / "emoji" / f"{style}.webp"
        write_sheet(path, rgba[:, column])
        print(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB", flush=True)
    if any(problems.values()):
        raise SystemExit("the pictures break the checks above")


if __name__ == "__main__":
    main()
