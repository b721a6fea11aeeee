"""Contact sheets of the data, to be looked at: `python -m data.build.contact`.

One a style (every so many-th emoji), one a group of relations (a beside a', a row a pair, a column a style).
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from lorweb_mini.emoji.sheets import STYLES, EmojiSet, load_emoji
from lorweb_mini.files import data_dir

FIGURES = Path(__file__).resolve().parents[2] / "figures" / "data"
CELL = 40
GROUPS = {
    "tone": ("tone",),
    "gender_age": ("gender", "age"),
    "hair": ("hair",),
    "role": ("role",),
    "aid_couple_mirror": ("aid", "couple", "mirror", "hand"),
    "colour_shape_size": ("colour", "shape", "size"),
    "clock": ("clock",),
    "moon_rotate_digit": ("moon", "rotate", "digit"),
    "hand_written": (
        *("animal", "arrow", "banknote", "food", "grow", "lock", "mailbox", "medal", "place", "sex", "sign"),
        *("sky", "species", "tool", "vehicle", "volume", "weather", "zodiac"),
    ),
}
PAIRS_EACH = {"hand_written": 20, "gender_age": 12, "aid_couple_mirror": 8, "moon_rotate_digit": 4}
BLOCKS = 4


def save(picture: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.quantize(128, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(path, optimize=True)


def cell(emojis: EmojiSet, row: int, column: int) -> Image.Image:
    rgba = Image.fromarray(emojis.rgba[row, column])
    ground = Image.new("RGBA", rgba.size, "white" if emojis.present[row, column] else (225, 225, 225, 255))
    return Image.alpha_composite(ground, rgba).convert("RGB").resize((CELL, CELL), Image.Resampling.LANCZOS)


def style_sheet(emojis: EmojiSet, column: int, across: int = 24, down: int = 14) -> Image.Image:
    rows = np.flatnonzero(emojis.present[:, column])
    rows = rows[np.linspace(0, len(rows) - 1, across * down).astype(int)]
    sheet = Image.new("RGB", (across * CELL, down * CELL), "white")
    for i, row in enumerate(rows):
        sheet.paste(cell(emojis, row, column), (i % across * CELL, i // across * CELL))
    return sheet


def relation_sheet(emojis: EmojiSet, table: dict[str, dict], families: tuple[str, ...], each: int) -> Image.Image:
    """Blocks side by side; a row is a pair, under the name of its relation: a and a' in each of the six styles."""
    rows: list[str | tuple[str, str]] = []
    for name, entry in table.items():
        if entry["family"] in families:
            pairs = entry["pairs"]
            chosen = np.unique(np.linspace(0, len(pairs) - 1, min(each, len(pairs))).astype(int))
            rows += [name, *(tuple(pairs[i]) for i in chosen)]
    heights = [14 if isinstance(row, str) else CELL for row in rows]
    limit = sum(heights) // BLOCKS + CELL
    width = (2 * CELL + 4) * len(STYLES) + 12
    sheet = Image.new("RGB", (BLOCKS * width, limit + CELL), "white")
    draw = ImageDraw.Draw(sheet)
    x = y = 0
    for row, height in zip(rows, heights, strict=True):
        if y > limit - (CELL if isinstance(row, str) else 0):
            x, y = x + width, 0
        if isinstance(row, str):
            draw.text((x, y), row, fill="black")
        else:
            for column in range(len(STYLES)):
                for side, key in enumerate(row):
                    picture = cell(emojis, emojis.index[key], column)
                    sheet.paste(picture, (x + column * (2 * CELL + 4) + side * CELL, y))
        y += height
    return sheet


def main() -> None:
    emojis = load_emoji()
    table = json.loads((data_dir() / "relations.json").read_text(encoding="utf-8"))
    for column, style in enumerate(STYLES):
        save(style_sheet(emojis, column), FIGURES / f"style_{style}.png")
    for group, families in GROUPS.items():
        sheet = relation_sheet(emojis, table, families, PAIRS_EACH.get(group, 2))
        save(sheet, FIGURES / f"relations_{group}.png")


if __name__ == "__main__":
    main()
