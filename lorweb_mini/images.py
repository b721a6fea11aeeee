"""Reading whatever a caller calls a picture, and giving pictures back.

Inside the package a picture is a float32 tensor [3, 64, 64] (a batch: [B, 3, 64, 64]) in [-1, 1], RGB,
composed on white.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from .errors import InputError, one_line
from .files import as_path

SIZE = 64
MAX_PIXELS = 64_000_000
REDUCING_GAP = 1024  # an edge of so many times the new one is first averaged: Pillow has no memory for longer filters
TOLERANCE = 1e-3  # by how much of its range a float may lie outside of it; the rounding of resizing libraries


def read_image(x: Any, name: str = "a", side: int = SIZE) -> Tensor:
    """Read one picture: transparency composed on white, padded with white to a square, resized to side × side.

    Args:
        x: a path (any file Pillow reads, EXIF orientation honoured, first frame of an animation), a PIL
            picture of any mode, an array [H, W], [H, W, 1], [H, W, 3] or [H, W, 4] of uint8 or of floats in
            [0, 1], or a tensor [3, H, W] in [-1, 1].
        name: what the caller calls this picture; it begins the message of an error.
        side: of the result, in pixels.

    Returns:
        float32 [3, side, side] in [-1, 1].

    Raises:
        InputError: anything else; more than 64 megapixels; values out of range or not finite.
    """
    if not isinstance(x, Tensor):
        return _to_square(to_rgb(x, name), side)
    x = checked_tensor(x, name)
    # At the right size nothing is rounded: a tensor that comes from this package goes through unchanged.
    return x if x.shape[1:] == (side, side) else _to_square(to_pil(x), side)


def read_images(x: Any, name: str = "a", side: int = SIZE) -> Tensor:
    """Read one picture, a list or tuple of them, or a tensor [B, 3, H, W]: float32 [B, 3, side, side] in [-1, 1].

    InputError for an empty list, or an item that `read_image` refuses (the message names it, e.g. `b[2]`).
    """
    if isinstance(x, Tensor) and is_plain(x) and x.ndim == 4:
        x = list(x)
    if not isinstance(x, (list, tuple)):
        return read_image(x, name, side)[None]
    if not x:
        raise InputError(f"{name}: expected at least one picture; got an empty list")
    return torch.stack([read_image(item, f"{name}[{i}]", side) for i, item in enumerate(x)])


def read_triplet(a: Any, a_prime: Any, b: Any, read: Callable[[Any, str], Tensor] = read_images) -> list[Tensor]:
    """a, a' and b by ``read``, to [B, 3, H, W] each; a single picture stands for all where others are lists.

    InputError for a picture that cannot be read, or lists of different lengths.
    """
    pictures = [read(x, name) for x, name in ((a, "a"), (a_prime, "a_prime"), (b, "b"))]
    size = max(map(len, pictures))
    if {len(x) for x in pictures} - {1, size}:
        lengths = ", ".join(str(len(x)) for x in pictures)
        raise InputError(f"expected as many pictures a as a_prime as b (or one for all), got {lengths}")
    return [x.expand(size, *x.shape[1:]) for x in pictures]


def to_rgb(x: Any, name: str) -> Image.Image:
    """A path, PIL picture or array as :func:`read_image` takes them, at its own size: RGB, composed on white."""
    if isinstance(x, (str, os.PathLike)):
        return _from_file(as_path(x), name)
    if isinstance(x, np.ndarray) and not np.ma.is_masked(x):  # what is masked has no colour
        x = _from_array(x, name)
    if not isinstance(x, Image.Image):
        raise InputError(f"{name}: expected a path, PIL picture, array or tensor; got {kind_of(x)}")
    return _on_white(x, name)


def to_pil(x: Tensor) -> Image.Image:
    """Tensor [3, H, W] in [-1, 1] (values beyond are clipped) to an RGB picture; InputError for another shape."""
    if not isinstance(x, Tensor) or x.ndim != 3 or x.shape[0] != 3:
        raise InputError(f"expected a tensor [3, H, W]; got {kind_of(x)}")
    scaled = ((x.detach().float().clamp(-1, 1) + 1) * 127.5).round().byte()
    return Image.fromarray(scaled.permute(1, 2, 0).cpu().numpy(), "RGB")


def kind_of(x: Any) -> str:
    """What a value is, for a message: its type, and of arrays and tensors the shape and type of the numbers."""
    if isinstance(x, np.ndarray) or (isinstance(x, Tensor) and not x.is_nested):
        layout = f" ({x.device} {x.layout})" if isinstance(x, Tensor) and not is_plain(x) else ""
        return f"{type(x).__name__} of shape {list(x.shape)} and type {x.dtype}{layout}"
    return "None" if x is None else type(x).__name__


def is_plain(x: Tensor) -> bool:
    """Whether a tensor holds its numbers one by one: not sparse, nested, quantised or on the meta device."""
    return x.layout == torch.strided and not (x.is_nested or x.is_meta or x.is_quantized)


def _check_size(width: int, height: int, name: str) -> None:
    if width < 1 or height < 1:
        raise InputError(f"{name}: expected at least one pixel; got {width}×{height}")
    if width * height > MAX_PIXELS:
        raise InputError(f"{name}: expected at most {MAX_PIXELS // 10**6} megapixels; got {width}×{height}")


def _from_file(path: Path, name: str) -> Image.Image:
    try:
        with warnings.catch_warnings():
            # Pillow's own limits on size come later or never; ours is checked before anything is decoded.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(path)
    except Image.DecompressionBombError as error:
        raise InputError(f"{name}: expected at most {MAX_PIXELS // 10**6} megapixels; got {path}: {error}") from error
    except Exception as error:  # decoders raise nearly every built-in exception on damaged files
        raise InputError(f"{name}: expected a readable picture file; got {path}: {one_line(error)}") from error
    with picture:
        return _on_white(picture, f"{name}: {path}")


def _on_white(picture: Image.Image, name: str) -> Image.Image:
    _check_size(*picture.size, name)
    try:
        rgba = _to_rgba(picture)
    except Exception as error:
        raise InputError(
            f"{name}: expected a whole picture; got one that cannot be decoded: {one_line(error)}"
        ) from error
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")


def _to_rgba(picture: Image.Image) -> Image.Image:
    """Any mode to RGBA, turned as EXIF says."""
    factor = _grey_levels(picture)
    # Without a copy an animation would be left at another frame than the caller had it.
    picture = ImageOps.exif_transpose(picture)
    clear = picture.info.get("transparency")
    if picture.mode.startswith("I") or picture.mode == "F":
        values = np.asarray(picture, np.float64)
        top = 65535.0 if values.max(initial=0) > 255.5 or picture.mode.startswith("I;16") else 255.0
        if picture.mode == "F" and values.max(initial=0) <= 1 + TOLERANCE:
            top = 1.0
        beyond = TOLERANCE * top if picture.mode == "F" else 0
        if not np.isfinite(values).all() or values.min(initial=0) < -beyond or values.max(initial=0) > top + beyond:
            raise ValueError(f"values of mode {picture.mode} outside 0..{top:g}")
        scaled = (values.clip(0, top) / top * 255 + 0.5).astype(np.uint8)
        # Pillow knows no clear value in these modes.
        opaque = np.full_like(scaled, 255) if clear is None else np.where(values == clear, 0, 255).astype(np.uint8)
        return Image.fromarray(np.dstack([scaled, opaque]), "LA").convert("RGBA")
    if picture.mode == "L" and isinstance(clear, int):
        picture.info["transparency"] = clear * factor
    elif picture.mode == "RGB" and isinstance(clear, tuple) and (factor == 0 or max(clear) > 255):
        # 16 bits a channel, of which Pillow keeps the upper eight.
        picture.info["transparency"] = tuple(value >> 8 for value in clear)
    return picture.convert("RGBA")


def _grey_levels(picture: Image.Image) -> int:
    """What Pillow multiplies the values of a PNG by, but not its clear value: 1 for 8 bits, 17 for 4, 85 for 2.

    0 for 16 bits a channel. Of a PNG that is decoded already the bits are not known; its values tell them.
    """
    if tiles := getattr(picture, "tile", None):
        return {"L;2": 85, "L;4": 17, "RGB;16B": 0}.get(tiles[0].args, 1) if isinstance(tiles[0].args, str) else 1
    clear = picture.info.get("transparency")
    if picture.format != "PNG" or picture.mode != "L" or not isinstance(clear, int):
        return 1
    levels = {level for level, count in enumerate(picture.histogram()) if count}
    factors = (k for k in (85, 17) if clear * k in levels and not any(level % k for level in levels))
    return 1 if clear in levels else next(factors, 1)


def _to_square(picture: Image.Image, side: int) -> Tensor:
    # Shrink first: a one-pixel-high strip of 60 megapixels must not become a square of its width.
    width, height = (max(1, round(edge * (side / max(picture.size)))) for edge in picture.size)
    if (width, height) != picture.size:
        picture = picture.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=REDUCING_GAP)
    if (width, height) != (side, side):
        picture, small = Image.new("RGB", (side, side), "white"), picture
        picture.paste(small, ((side - width) // 2, (side - height) // 2))
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float().div_(127.5).sub_(1).contiguous()


def _from_array(x: np.ndarray, name: str) -> Image.Image:
    expected = f"{name}: expected an array [H, W], [H, W, 1], [H, W, 3] or [H, W, 4]"
    if x.ndim == 3 and x.shape[2] == 1:
        x = x[:, :, 0]
    if x.ndim != 2 and (x.ndim != 3 or x.shape[2] not in (3, 4)):
        raise InputError(f"{expected}; got {kind_of(x)}")
    _check_size(x.shape[1], x.shape[0], name)
    if x.dtype == np.bool_:
        x = x.astype(np.float32)
    if np.issubdtype(x.dtype, np.floating):
        if not np.isfinite(x).all():
            raise InputError(f"{name}: expected finite values; got NaN or infinity")
        if x.min() < -TOLERANCE or x.max() > 1 + TOLERANCE:
            raise InputError(f"{name}: expected floats in [0, 1]; got {x.min():.8g} to {x.max():.8g}")
        x = (x.clip(0, 1).astype(np.float64) * 255 + 0.5).astype(np.uint8)
    elif x.dtype != np.uint8:
        raise InputError(f"{expected} of uint8 or of floats in [0, 1]; got {kind_of(x)}")
    return Image.fromarray(np.ascontiguousarray(x))


def checked_tensor(x: Tensor, name: str) -> Tensor:
    """A copy of a picture [3, H, W] or [1, 3, H, W] in [-1, 1] as float32 [3, H, W]; InputError for other tensors."""
    if is_plain(x) and x.ndim == 4 and x.shape[0] == 1:
        x = x[0]
    if not is_plain(x) or x.ndim != 3 or x.shape[0] != 3 or not x.is_floating_point():
        raise InputError(f"{name}: expected a float tensor [3, H, W] in [-1, 1]; got {kind_of(x)}")
    _check_size(x.shape[2], x.shape[1], name)
    x = x.detach().to("cpu", torch.float32)
    if not bool(torch.isfinite(x).all()):
        raise InputError(f"{name}: expected finite values; got NaN or infinity")
    low, high = float(x.min()), float(x.max())
    if low < -1 - 2 * TOLERANCE or high > 1 + 2 * TOLERANCE:
        raise InputError(f"{name}: expected values in [-1, 1]; got {low:.8g} to {high:.8g}")
    return x.clamp(-1, 1)
