"""The sheet of a style that no part is trained on: `python -m data.build.foreign [--packages FOLDER]`.

Writes data/emoji/fluent_high_contrast.webp and .json, the same bytes every time: the emojis of test concepts in the
order of data/emoji/emoji.json. The other sheets stay as they are.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from lorweb_mini.emoji.relations import SPLITS, concept_sides
from lorweb_mini.emoji.sheets import FOREIGN, load_emoji

from . import sources
from .build import DATA, dump
from .render import rasterise, write_sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path, help="folder with the tarball (else npm fetches it)")
    parser.add_argument("--out", type=Path, default=DATA / "emoji", help="where to write (default: data/emoji)")
    arguments = parser.parse_args()
    drawings = sources.iconify(sources.FOREIGN, arguments.packages)
    sides, emojis = concept_sides(), load_emoji().emojis
    keys = [e.key for e, side in zip(emojis, sides, strict=True) if SPLITS[side] == "test" and e.key in drawings]
    pictures = np.stack([rasterise(drawings[key]) for key in keys])
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_sheet(arguments.out / f"{FOREIGN}.webp", pictures)
    dump(arguments.out / f"{FOREIGN}.json", {"keys": keys})
    print(f"{FOREIGN}: {len(keys)} emojis of test concepts")


if __name__ == "__main__":
    main()
