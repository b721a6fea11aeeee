"""Pictures: the emoji sheets, and reading whatever a caller calls a picture.

Inside the package a picture is a float32 tensor [3, 64, 64] (a batch: [B, 3, 64, 64]) in [-1, 1], RGB,
composed on white.
"""

from __future__ import annotations

import functools
import json
import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

STYLES = ("noto", "twemoji", "openmoji", "openmoji_black", "fluent_3d", "fluent_flat")
SIZE = 64
COLUMNS = 64
MAX_PIXELS = 64_000_000


class InputError(ValueError):
    """The one exception for bad input; its message says what was expected and what came."""


def data_dir() -> Path:
    """Folder of the data files: $LORWEB_DATA, else `data` in the installed package, else beside the checkout's package.

    Raises:
        InputError: none of them holds `emoji/emoji.json`.
    """
    here = Path(__file__).resolve().parent
    override = os.environ.get("LORWEB_DATA")
    candidates = [Path(override)] if override else [here / "data", here.parent / "data"]
    for folder in candidates:
        if (folder / "emoji" / "emoji.json").is_file():
            return folder
    raise InputError(f"expected emoji/emoji.json in {' or '.join(map(str, candidates))}; found none")


@dataclass(frozen=True)
class Emoji:
    """One emoji, in any number of styles.

    Attributes:
        key: code points in lowercase hex joined by "-", without the variation selector fe0f.
        tone: skin tone 1 (light) to 5 (dark), a pair of them for two people, None without one.
        gender: "woman" or "man" where Unicode spells one out, else None.
        concept: key that names the class of all tones, genders and mirrored versions of the same thing;
            the unit by which the data are split.
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
        """Pictures composed on a plain background.

        Args:
            emoji: k positions in `emojis`.
            style: k positions in `STYLES` (or one for all).
            background: grey or RGB in [0, 1].

        Returns:
            float32 [k, 3, 64, 64] in [-1, 1].

        Raises:
            InputError: a position out of range, an emoji that a style lacks, or a background out of range.
        """
        rows, columns = np.broadcast_arrays(np.atleast_1d(np.asarray(emoji)), np.atleast_1d(np.asarray(style)))
        if rows.size and (rows.min() < 0 or rows.max() >= len(self.emojis)):
            raise InputError(f"emoji: expected positions in 0..{len(self.emojis) - 1}; got {rows.min()}..{rows.max()}")
        if rows.size and (columns.min() < 0 or columns.max() >= len(STYLES)):
            raise InputError(f"style: expected 0..{len(STYLES) - 1}; got {columns.min()}..{columns.max()}")
        absent = np.flatnonzero(~self.present[rows, columns])
        if absent.size:
            key, missing = self.emojis[rows[absent[0]]].key, STYLES[columns[absent[0]]]
            raise InputError(f"expected emojis that their style draws; {missing} has no {key}")
        ground = torch.as_tensor(background, dtype=torch.float32)
        if ground.numel() not in (1, 3) or not bool(((ground >= 0) & (ground <= 1)).all()):
            raise InputError(f"background: expected a grey or an RGB in [0, 1]; got {background!r}")
        picked = torch.from_numpy(self.rgba[rows, columns]).permute(0, 3, 1, 2).float().div_(255)
        colour, alpha = picked[:, :3], picked[:, 3:]
        return (colour * alpha + ground.reshape(-1, 1, 1) * (1 - alpha)) * 2 - 1

    def find(self, key_or_char_or_name: str) -> int:
        """Position of an emoji given by key, character or (English CLDR) name; InputError if there is none."""
        position = self._names.get(key_or_char_or_name.strip().lower().replace("\ufe0f", ""))
        if position is None:
            raise InputError(
                f"expected the key, character or name of an emoji, such as '1f525', '🔥' or 'fire'; "
                f"got {key_or_char_or_name!r}"
            )
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


def _pair(tone: int | list[int] | None) -> int | tuple[int, int] | None:
    return (tone[0], tone[1]) if isinstance(tone, list) else tone


@functools.lru_cache(maxsize=1)
def load_emoji() -> EmojiSet:
    """The six sheets and their index, read once a process (a few seconds; 0.4 GiB, and twice that while it reads).

    Raises:
        InputError: the data files are not there or do not fit each other.
    """
    folder = data_dir() / "emoji"
    table = json.loads((folder / "emoji.json").read_text(encoding="utf-8"))
    if tuple(table["styles"]) != STYLES:
        raise InputError(f"{folder / 'emoji.json'}: expected the styles {STYLES}; got {tuple(table['styles'])}")
    emojis = tuple(
        Emoji(
            **{
                **entry,
                "keywords": tuple(entry["keywords"]),
                "styles": tuple(entry["styles"]),
                "tone": _pair(entry["tone"]),
            }
        )
        for entry in table["emojis"]
    )
    n = len(emojis)
    rgba = np.empty((n, len(STYLES), SIZE, SIZE, 4), np.uint8)
    with ThreadPoolExecutor(2) as pool:  # decoding lets go of the interpreter
        list(pool.map(lambda column: _read_sheet(folder / f"{STYLES[column]}.webp", rgba[:, column]), range(6)))
    present = np.array([[style in emoji.styles for style in STYLES] for emoji in emojis])
    rgba.setflags(write=False)
    present.setflags(write=False)
    return EmojiSet(emojis, {emoji.key: i for i, emoji in enumerate(emojis)}, present, rgba)


def _read_sheet(path: Path, out: np.ndarray) -> None:
    """Cut a sheet of 64 columns into its first n cells: out is uint8 [n, 64, 64, 4]."""
    n = len(out)
    with Image.open(path) as sheet:
        expected = (COLUMNS * SIZE, -(-n // COLUMNS) * SIZE)
        if sheet.size != expected or sheet.mode != "RGBA":
            raise InputError(f"{path}: expected RGBA {expected} for {n} emojis; got {sheet.mode} {sheet.size}")
        for start in range(0, n, COLUMNS):
            # Row by row: copies of whole sheets would double the memory.
            row = sheet.crop((0, start // COLUMNS * SIZE, expected[0], (start // COLUMNS + 1) * SIZE))
            cells = np.asarray(row).reshape(SIZE, COLUMNS, SIZE, 4).swapaxes(0, 1)
            out[start : start + COLUMNS] = cells[: n - start]


# --- reading --------------------------------------------------------------------------------------


def read_image(x: Any, name: str = "a") -> Tensor:
    """Read one picture: transparency composed on white, padded with white to a square, resized to 64×64.

    Args:
        x: a path (any file Pillow reads, EXIF orientation honoured, first frame of an animation), a PIL
            picture of any mode, an array [H, W], [H, W, 1], [H, W, 3] or [H, W, 4] of uint8 or of floats in
            [0, 1], or a tensor [3, H, W] in [-1, 1].
        name: what the caller calls this picture; it begins the message of an error.

    Returns:
        float32 [3, 64, 64] in [-1, 1].

    Raises:
        InputError: anything else; more than 64 megapixels; values out of range or not finite.
    """
    if isinstance(x, (str, os.PathLike)):
        return _from_pil(_open(Path(x), name), name)
    if isinstance(x, Image.Image):
        return _from_pil(x, name)
    if isinstance(x, Tensor):
        return _from_tensor(x, name)
    if isinstance(x, np.ndarray):
        return _from_pil(_from_array(x, name), name)
    raise InputError(f"{name}: expected a path, PIL picture, array or tensor; got {_kind(x)}")


def read_images(x: Any, name: str = "a") -> Tensor:
    """Read one picture, a list or tuple of them, or a tensor [B, 3, H, W]: float32 [B, 3, 64, 64] in [-1, 1].

    Raises:
        InputError: an empty list, or an item that `read_image` refuses (the message names it, e.g. `b[2]`).
    """
    if isinstance(x, Tensor) and x.ndim == 4:
        x = list(x)
    if not isinstance(x, (list, tuple)):
        return read_image(x, name)[None]
    if not x:
        raise InputError(f"{name}: expected at least one picture; got an empty list")
    return torch.stack([read_image(item, f"{name}[{i}]") for i, item in enumerate(x)])


def to_pil(x: Tensor) -> Image.Image:
    """Tensor [3, H, W] in [-1, 1] (values beyond are clipped) to an RGB picture; InputError for another shape."""
    if not isinstance(x, Tensor) or x.ndim != 3 or x.shape[0] != 3:
        raise InputError(f"expected a tensor [3, H, W]; got {_kind(x)}")
    scaled = ((x.detach().float().clamp(-1, 1) + 1) * 127.5).round().byte()
    return Image.fromarray(scaled.permute(1, 2, 0).cpu().numpy(), "RGB")


def _kind(x: Any) -> str:
    if isinstance(x, (np.ndarray, Tensor)):
        return f"{type(x).__name__} of shape {list(x.shape)} and type {x.dtype}"
    return "None" if x is None else type(x).__name__


def _check_size(width: int, height: int, name: str) -> None:
    if width < 1 or height < 1:
        raise InputError(f"{name}: expected at least one pixel; got {width}×{height}")
    if width * height > MAX_PIXELS:
        raise InputError(f"{name}: expected at most {MAX_PIXELS // 10**6} megapixels; got {width}×{height}")


def _open(path: Path, name: str) -> Image.Image:
    try:
        with warnings.catch_warnings():
            # Pillow's own limits on size come later or never; ours is checked before anything is decoded.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(path)
    except Image.DecompressionBombError as error:
        raise InputError(f"{name}: expected at most {MAX_PIXELS // 10**6} megapixels; got {path}: {error}") from error
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError(f"{name}: expected a readable picture file; got {path}: {error}") from error
    return picture


def _from_pil(picture: Image.Image, name: str) -> Tensor:
    _check_size(*picture.size, name)
    try:
        # Without a copy an animation would be left at another frame than the caller had it.
        picture = ImageOps.exif_transpose(picture)
        rgba = _to_rgba(picture)
    except Exception as error:  # decoders raise nearly every built-in exception on damaged files
        raise InputError(
            f"{name}: expected a whole picture; got one that cannot be decoded: {error or type(error).__name__}"
        ) from error
    white = Image.new("RGBA", rgba.size, "white")
    return _to_square(Image.alpha_composite(white, rgba).convert("RGB"))


def _to_rgba(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I") or picture.mode == "F":
        values = np.asarray(picture, np.float64)
        top = 65535.0 if values.max(initial=0) > 255 or picture.mode.startswith("I;16") else 255.0
        if picture.mode == "F" and values.max(initial=0) <= 1:
            top = 1.0
        if not np.isfinite(values).all() or values.min(initial=0) < 0 or values.max(initial=0) > top:
            raise ValueError(f"values of mode {picture.mode} outside 0..{top:g}")
        picture = Image.fromarray((values / top * 255 + 0.5).astype(np.uint8), "L")
    return picture.convert("RGBA")


def _to_square(picture: Image.Image) -> Tensor:
    side = max(picture.size)
    # Shrink first: a one-pixel-high strip of 60 megapixels must not become a square of its width.
    scale = SIZE / side
    width, height = (max(1, round(edge * scale)) for edge in picture.size)
    if (width, height) != picture.size:
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    if (width, height) != (SIZE, SIZE):
        square = Image.new("RGB", (SIZE, SIZE), "white")
        square.paste(picture, ((SIZE - width) // 2, (SIZE - height) // 2))
        picture = square
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float().div_(127.5).sub_(1).contiguous()


def _from_array(x: np.ndarray, name: str) -> Image.Image:
    expected = f"{name}: expected an array [H, W], [H, W, 1], [H, W, 3] or [H, W, 4]"
    if x.ndim == 3 and x.shape[2] == 1:
        x = x[:, :, 0]
    if x.ndim not in (2, 3) or (x.ndim == 3 and x.shape[2] not in (3, 4)):
        raise InputError(f"{expected}; got {_kind(x)}")
    _check_size(x.shape[1], x.shape[0], name)
    if x.dtype == np.bool_:
        x = x.astype(np.float32)
    if np.issubdtype(x.dtype, np.floating):
        if not np.isfinite(x).all():
            raise InputError(f"{name}: expected finite values; got NaN or infinity")
        if x.min() < 0 or x.max() > 1:
            raise InputError(f"{name}: expected floats in [0, 1]; got {x.min():.4g} to {x.max():.4g}")
        x = (x * 255 + 0.5).astype(np.uint8)
    elif x.dtype != np.uint8:
        raise InputError(f"{expected} of uint8 or of floats in [0, 1]; got {_kind(x)}")
    return Image.fromarray(np.ascontiguousarray(x))


def _from_tensor(x: Tensor, name: str) -> Tensor:
    if x.ndim == 4 and x.shape[0] == 1:
        x = x[0]
    if x.ndim != 3 or x.shape[0] != 3 or not x.is_floating_point():
        raise InputError(f"{name}: expected a float tensor [3, H, W] in [-1, 1]; got {_kind(x)}")
    _check_size(x.shape[2], x.shape[1], name)
    x = x.detach().to("cpu", torch.float32)
    if not bool(torch.isfinite(x).all()):
        raise InputError(f"{name}: expected finite values; got NaN or infinity")
    low, high = float(x.min()), float(x.max())
    if low < -1.001 or high > 1.001:
        raise InputError(f"{name}: expected values in [-1, 1]; got {low:.4g} to {high:.4g}")
    x = x.clamp(-1, 1)
    # At the right size nothing is rounded: a tensor that comes from this package goes through unchanged.
    return x.clone() if x.shape[1:] == (SIZE, SIZE) else _to_square(to_pil(x))
