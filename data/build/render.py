"""From drawings to pictures of 64×64 pixels, and from pictures to one sheet a style."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import resvg_py
from PIL import Image

from .sources import STYLES, Drawing

SIZE = 64
COLUMNS = 64


def rasterise(drawing: Drawing) -> np.ndarray:
    """One drawing as uint8 [64, 64, 4], not premultiplied, zero wherever it is fully transparent."""
    if isinstance(drawing, str):
        # System fonts would make the pictures depend on the machine; no drawing contains text.
        png = resvg_py.svg_to_bytes(svg_string=drawing, width=SIZE, height=SIZE, skip_system_fonts=True)
        picture = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
    else:
        picture = Image.open(io.BytesIO(drawing)).convert("RGBA")
    picture = centred(picture)
    pixels = np.array(picture) if picture.size == (SIZE, SIZE) else shrink(np.asarray(picture))
    pixels[pixels[..., 3] == 0] = 0
    return pixels


def centred(picture: Image.Image) -> Image.Image:
    """The picture in the middle of a transparent square."""
    side = max(picture.size)
    if picture.size == (side, side):
        return picture
    square = Image.new("RGBA", (side, side))
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return square


def shrink(pixels: np.ndarray) -> np.ndarray:
    """Lanczos on premultiplied channels: uint8 [H, H, 4] to [64, 64, 4]. Without premultiplying, edges turn dark."""
    values = pixels.astype(np.float32) / 255
    values[..., :3] *= values[..., 3:]
    channels = [Image.fromarray(values[..., i]).resize((SIZE, SIZE), Image.Resampling.LANCZOS) for i in range(4)]
    small = np.clip(np.stack([np.asarray(channel) for channel in channels], -1), 0, 1)
    alpha = small[..., 3:]
    small[..., :3] = np.where(alpha > 1e-4, small[..., :3] / np.maximum(alpha, 1e-4), 0)
    return (np.clip(small, 0, 1) * 255 + 0.5).astype(np.uint8)


def render_all(keys: list[str], drawings: dict[str, dict[str, Drawing]]) -> tuple[np.ndarray, np.ndarray]:
    """All emojis in all styles: uint8 [n, 6, 64, 64, 4] and present, bool [n, 6]. Empty drawings count as absent."""
    rgba = np.zeros((len(keys), len(STYLES), SIZE, SIZE, 4), np.uint8)
    present = np.zeros((len(keys), len(STYLES)), bool)
    for column, style in enumerate(STYLES):
        for row, key in enumerate(keys):
            if key not in drawings[style]:
                continue
            picture = rasterise(drawings[style][key])
            if picture[..., 3].max() >= 32:
                rgba[row, column], present[row, column] = picture, True
    return rgba, present


def on_white(rgba: np.ndarray) -> np.ndarray:
    """uint8 [..., 4] composed on white: uint8 [..., 3]."""
    out = np.empty((*rgba.shape[:-1], 3), np.uint8)
    for i in range(len(rgba)):  # one at a time: the whole set as floats would take 4 GiB
        alpha = rgba[i, ..., 3:].astype(np.float32) / 255
        out[i] = rgba[i, ..., :3] * alpha + 255 * (1 - alpha) + 0.5
    return out


def write_sheet(path: Path, pictures: np.ndarray) -> None:
    """uint8 [n, 64, 64, 4] as one lossless WebP of 64 columns, row by row."""
    rows = -(-len(pictures) // COLUMNS)
    cells = np.zeros((rows * COLUMNS, SIZE, SIZE, 4), np.uint8)
    cells[: len(pictures)] = pictures
    sheet = cells.reshape(rows, COLUMNS, SIZE, SIZE, 4).swapaxes(1, 2).reshape(rows * SIZE, COLUMNS * SIZE, 4)
    Image.fromarray(sheet).save(path, "WEBP", lossless=True, method=6, quality=100, exact=True)
