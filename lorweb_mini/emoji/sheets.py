"""The emoji sheets: every emoji in every style, as pictures [3, 64, 64] on a plain background."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import InputError
from ..files import data_dir, read_json
from ..images import SIZE, kind_of

STYLES = ("noto", "twemoji", "openmoji", "openmoji_black", "fluent_3d", "fluent_flat")
FOREIGN = "fluent_high_contrast"  # a style that no part was trained on
COLUMNS = 64


@dataclass(frozen=True)
class Emoji:
    """One emoji, in any number of styles.

    Attributes:
        key: code points in lowercase hex joined by "-", without the variation selector fe0f.
        tone: skin tone 1 (light) to 5 (dark), a pair of them for two people, None without one.
        gender: "woman" or "man" where Unicode spells one out, else None.
        concept: key of the class of all tones, genders and mirrored versions of a thing, by which the data are split.
        styles: the styles that draw it.
    """

    key: str
    char: str
    name: str
    group: str
    subgroup: str
    keywords: tuple[str, ...]
    version: float
    tone: int | tuple[int, int] | None
    gender: str | None
    concept: str
    styles: tuple[str, ...]


@dataclass(frozen=True)
class EmojiSet:
    """All emojis in all styles.

    Attributes:
        emojis: n of them, in Unicode order.
        index: key -> position in `emojis`.
        present: bool [n, 6], whether a style draws an emoji.
        rgba: uint8 [n, 6, 64, 64, 4], not premultiplied; zero where absent.
    """

    emojis: tuple[Emoji, ...]
    index: dict[str, int]
    present: np.ndarray
    rgba: np.ndarray = field(repr=False)

    @functools.cached_property
    def _names(self) -> dict[str, int]:
        names: dict[str, int] = {}
        for position, emoji in enumerate(self.emojis):
            for name in (emoji.key, emoji.char.replace("\ufe0f", ""), emoji.name):
                names.setdefault(name.lower(), position)
        return names

    def tensor(
        self,
        emoji: int | Sequence[int] | np.ndarray | Tensor,
        style: int | Sequence[int] | np.ndarray | Tensor,
        background: float | Sequence[float] = 1.0,
    ) -> Tensor:
        """Pictures composed on a plain background, float32 [k, 3, 64, 64] in [-1, 1].

        Args:
            emoji, style: k positions in `emojis` and in `STYLES` (or one for all).
            background: grey or RGB in [0, 1].

        Raises:
            InputError: a position that is no whole number or out of range, an emoji that a style lacks, or a background
                out of range.
        """
        rows, columns = (np.atleast_1d(np.asarray(x)) for x in (emoji, style))
        for name, given, count in (("emoji", rows, len(self.emojis)), ("style", columns, len(STYLES))):
            if given.ndim != 1 or given.dtype.kind not in "iu":
                raise InputError(f"{name}: expected a whole number or a list of them; got {kind_of(given)}")
            if given.size and (given.min() < 0 or given.max() >= count):
                raise InputError(f"{name}: expected positions in 0..{count - 1}; got {given.min()}..{given.max()}")
        if len(rows) != len(columns) and 1 not in (len(rows), len(columns)):
            raise InputError(f"expected as many emojis as styles, or one of either; got {len(rows)} and {len(columns)}")
        rows, columns = np.broadcast_arrays(rows, columns)
        absent = np.flatnonzero(~self.present[rows, columns])
        if absent.size:
            key, missing = self.emojis[rows[absent[0]]].key, STYLES[columns[absent[0]]]
            raise InputError(f"expected emojis that their style draws; {missing} has no {key}")
        try:
            ground = torch.as_tensor(background, dtype=torch.float32, device="cpu")
        except (TypeError, ValueError, RuntimeError):
            ground = torch.empty(0)
        if ground.numel() not in (1, 3) or not bool(((ground >= 0) & (ground <= 1)).all()):
            raise InputError(f"background: expected a grey or an RGB in [0, 1]; got {background!r}")
        return composed(torch.from_numpy(self.rgba[rows, columns]), ground.reshape(-1, 1, 1))

    def find(self, key_or_char_or_name: str) -> int:
        """Position of an emoji given by key, character or (English CLDR) name; InputError if there is none."""
        asked = key_or_char_or_name
        position = self._names.get(asked.strip().lower().replace("\ufe0f", "")) if isinstance(asked, str) else None
        if position is None:
            expected = "the key, character or name of an emoji, such as '1f525', '🔥' or 'fire'"
            raise InputError(f"expected {expected}; got {asked!r}")
        return position

    def picture(self, key_or_char_or_name: str, style: str = "noto") -> Image.Image:
        """One picture, 64×64 RGBA; InputError for an unknown emoji or style, or one that the style lacks."""
        if style not in STYLES:
            raise InputError(f"style: expected one of {', '.join(STYLES)}; got {style!r}")
        position = self.find(key_or_char_or_name)
        if not self.present[position, STYLES.index(style)]:
            emoji = self.emojis[position]
            raise InputError(f"{emoji.name}: expected one of {', '.join(emoji.styles)}; got {style!r}, which lacks it")
        return Image.fromarray(self.rgba[position, STYLES.index(style)], "RGBA")


def _tupled(value: Any) -> Any:
    """Lists, of keywords, styles and the tones of two people, as tuples."""
    return tuple(value) if isinstance(value, list) else value


def composed(rgba: Tensor, ground: Tensor | float = 1.0) -> Tensor:
    """Drawings, uint8 [k, 64, 64, 4], on a plain ground in [0, 1]: float32 [k, 3, 64, 64] in [-1, 1]."""
    picked = rgba.permute(0, 3, 1, 2).float().div_(255)
    colour, alpha = picked[:, :3], picked[:, 3:]
    return (colour * alpha + ground * (1 - alpha)) * 2 - 1


@functools.lru_cache(maxsize=1)
def load_emoji() -> EmojiSet:
    """The six sheets and their index, read once a process (a few seconds; 0.4 GiB, and twice that while it reads).

    InputError where the data files are not there or do not fit each other.
    """
    folder = data_dir() / "emoji"
    table = read_json(folder / "emoji.json", ("styles", "emojis"))
    if _tupled(table["styles"]) != STYLES:
        raise InputError(f"{folder / 'emoji.json'}: expected the styles {STYLES}; got {table['styles']}")
    try:
        emojis = tuple(Emoji(**{name: _tupled(value) for name, value in entry.items()}) for entry in table["emojis"])
    except (AttributeError, TypeError) as error:
        raise InputError(f"{folder / 'emoji.json'}: expected a list of emojis; got something else: {error}") from None
    n = len(emojis)
    rgba = np.empty((n, len(STYLES), SIZE, SIZE, 4), np.uint8)
    with ThreadPoolExecutor(2) as pool:  # decoding lets go of the interpreter
        list(pool.map(lambda column: _read_sheet(folder / f"{STYLES[column]}.webp", rgba[:, column]), range(6)))
    present = np.array([[style in emoji.styles for style in STYLES] for emoji in emojis])
    rgba.setflags(write=False)
    present.setflags(write=False)
    return EmojiSet(emojis, {emoji.key: i for i, emoji in enumerate(emojis)}, present, rgba)


def foreign_pictures() -> dict[str, Tensor]:
    """Emojis of test concepts in the style :data:`FOREIGN`, on white: key to picture [3, 64, 64] in [-1, 1].

    InputError where the data files are not there or do not fit each other.
    """
    folder = data_dir() / "emoji"
    keys = read_json(folder / f"{FOREIGN}.json", ("keys",))["keys"]
    if not isinstance(keys, list) or not set(map(str, keys)) <= load_emoji().index.keys() or len(set(keys)) < len(keys):
        raise InputError(f"{folder / FOREIGN}.json: expected keys of emojis, each once; got others")
    rgba = np.empty((len(keys), SIZE, SIZE, 4), np.uint8)
    _read_sheet(folder / f"{FOREIGN}.webp", rgba)
    return dict(zip(keys, composed(torch.from_numpy(rgba)), strict=True))


def _read_sheet(path: Path, out: np.ndarray) -> None:
    """Cut a sheet of 64 columns into its first n cells: out is uint8 [n, 64, 64, 4]."""
    n = len(out)
    try:
        with Image.open(path) as sheet:
            expected = (COLUMNS * SIZE, -(-n // COLUMNS) * SIZE)
            if sheet.size != expected or sheet.mode != "RGBA":
                raise InputError(f"{path}: expected RGBA {expected} for {n} emojis; got {sheet.mode} {sheet.size}")
            for start in range(0, n, COLUMNS):
                # Row by row: copies of whole sheets would double the memory.
                row = sheet.crop((0, start // COLUMNS * SIZE, expected[0], (start // COLUMNS + 1) * SIZE))
                cells = np.asarray(row).reshape(SIZE, COLUMNS, SIZE, 4).swapaxes(0, 1)
                out[start : start + COLUMNS] = cells[: n - start]
    except (OSError, SyntaxError) as error:
        raise InputError(f"{path}: expected a whole picture; got none: {error}") from None
