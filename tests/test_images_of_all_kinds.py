"""Pictures of every mode, bit depth, size, dtype and container: read rightly, or refused with InputError.

What is right is computed here with NumPy from the values that were written.
"""

from __future__ import annotations

import contextlib
import gc
import io
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from lorweb_mini.errors import InputError, check_seed, check_steps, whole_number
from lorweb_mini.flux.picture_encoder import read_picture
from lorweb_mini.images import MAX_PIXELS, SIZE, read_image, read_images
from lorweb_mini.widgets.questions import read_upload

GREY, RGB, PALETTE = 0, 2, 3  # colour types of PNG


def _png(values: np.ndarray, bits: int, clear: tuple[int, ...] | None, colour: int | None = None) -> bytes:
    """A PNG file, written by hand: values [H, W] or [H, W, 3] of 1 to 16 bits, and one clear value."""
    colour = (GREY if values.ndim == 2 else RGB) if colour is None else colour
    flat = values.reshape(len(values), -1)
    if bits == 16:
        rows = [row.astype(">u2").tobytes() for row in flat]
    else:
        planes = (flat[..., None] >> np.arange(bits)[::-1]) & 1
        rows = [np.packbits(row.reshape(-1).astype(np.uint8)).tobytes() for row in planes]
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], bits, colour, 0, 0, 0)
    chunks = [(b"IHDR", header)]
    if clear is not None:
        chunks.append((b"tRNS", struct.pack(f">{len(clear)}H", *clear)))
    chunks += [(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))), (b"IEND", b"")]
    body = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def _on_white(values: np.ndarray, top: int, clear: tuple[int, ...] | None) -> np.ndarray:
    """Values [H, W] or [H, W, 3] up to ``top`` as bytes [H, W, 3], white where they have the clear value."""
    shape = (*values.shape[:2], 3)
    colours = np.broadcast_to(values.reshape(*values.shape[:2], -1), shape).astype(float) / top * 255
    if clear is not None:
        gone = (values.reshape(*values.shape[:2], -1) == np.array(clear)).all(-1)
        colours = np.where(gone[..., None], 255, colours)
    return colours


def _same(read: Tensor, expected: np.ndarray, grey_levels: float = 1.01) -> None:
    """Compares with bytes [H, W, 3], scaled and padded by reading them as a plain RGB picture."""
    assert read.shape == (3, SIZE, SIZE) and read.dtype == torch.float32
    plain = read_image(Image.fromarray((expected + 0.5).clip(0, 255).astype(np.uint8)))
    assert float((read - plain).abs().max()) * 127.5 <= grey_levels


def _ways(content: bytes, folder: Path) -> list[Any]:
    """A file by its path, opened, decoded, and opened from memory."""
    path = folder / "picture.png"
    path.write_bytes(content)
    decoded, in_memory = Image.open(path), Image.open(io.BytesIO(content))
    decoded.load()
    in_memory.load()
    return [path, str(path), Image.open(path), Image.open(io.BytesIO(content)), decoded, in_memory]


@pytest.mark.parametrize(
    ("bits", "channels", "clear"),
    [
        (1, 1, (0,)),
        (1, 1, (1,)),
        (2, 1, (0,)),
        (2, 1, (1,)),
        (2, 1, (3,)),
        (4, 1, (1,)),
        (4, 1, (5,)),
        (4, 1, (15,)),
        (8, 1, (0,)),
        (8, 1, (200,)),
        (16, 1, (0,)),
        (16, 1, (300,)),
        (16, 1, (60000,)),
        (8, 3, (9, 9, 9)),
        (8, 3, (0, 255, 7)),
        (16, 3, (300, 400, 500)),
        (16, 3, (60000, 0, 9000)),
        (16, 3, (65535, 65535, 0)),
    ],
)
def test_png_with_a_clear_value_is_composed_on_white(
    bits: int, channels: int, clear: tuple[int, ...], tmp_path: Path
) -> None:
    rng = np.random.default_rng(bits)
    # Steps of 256 in 16-bit RGB, of which Pillow keeps the upper byte.
    step = 256 if bits == 16 and channels == 3 else 1
    values = rng.integers(0, 2**bits // step, (SIZE, SIZE, channels)) * step
    values[8:40, 16:50] = clear
    values = values[..., 0] if channels == 1 else values
    expected = _on_white(values, 2**bits - 1, clear)
    if step > 1:
        expected = np.where(expected == 255, 255, np.floor(values / 256))
    for way in _ways(_png(values, bits, clear), tmp_path):
        _same(read_image(way), expected)
    opaque = _on_white(values, 2**bits - 1, None) if step == 1 else np.floor(values / 256)
    _same(read_image(_ways(_png(values, bits, None), tmp_path)[0]), opaque)


def test_a_strip_of_60_megapixels_is_the_average_of_its_parts() -> None:
    """Wider than Pillow has memory for a filter of."""
    strip = Image.new("L", (60_000_000, 1))
    strip.paste(255, (30_000_000, 0, 60_000_000, 1))
    row = read_image(strip)[0, SIZE // 2 - 1 : SIZE // 2 + 1].min(0).values
    assert (row[:29] < -0.95).all() and (row[-29:] > 0.95).all()


@pytest.mark.parametrize("value", [1.0000002, 1.0005, 1.0])
@pytest.mark.parametrize(
    "container",
    [
        lambda top: np.full((8, 8, 3), top, np.float32),
        lambda top: np.full((8, 8), top, np.float64),
        lambda top: np.full((8, 8, 4), top, np.float32),
        lambda top: torch.full((3, 8, 8), top),
        lambda top: torch.full((3, SIZE, SIZE), top),
        lambda top: Image.fromarray(np.full((8, 8), top, np.float32)),
    ],
)
def test_the_rounding_of_floats_is_no_error(value: float, container: Callable[[float], Any]) -> None:
    assert torch.equal(read_image(container(value)), torch.ones(3, SIZE, SIZE))


def test_below_the_range_too() -> None:
    assert torch.equal(read_image(np.full((8, 8, 3), -2e-7)), -torch.ones(3, SIZE, SIZE))
    assert torch.equal(read_image(torch.full((3, 8, 8), -1.0000002)), -torch.ones(3, SIZE, SIZE))
    assert torch.equal(read_image(Image.fromarray(np.full((8, 8), -2e-7, np.float32))), -torch.ones(3, SIZE, SIZE))
    for wrong in (np.full((8, 8, 3), 1.01), torch.full((3, 8, 8), -1.01), np.full((8, 8), -0.01)):
        with pytest.raises(InputError, match=r"expected .* got -?[0-9.]+ to"):
            read_image(wrong)


@pytest.mark.parametrize("size", [(8001, 8000), (MAX_PIXELS + 1, 1), (1, MAX_PIXELS + 1)])
def test_one_size_limit_for_every_container(size: tuple[int, int], tmp_path: Path) -> None:
    width, height = size
    (tmp_path / "big.png").write_bytes(_png(np.zeros((1, 1), int), 1, None).replace(
        struct.pack(">II", 1, 1), struct.pack(">II", width, height)
    ))  # fmt: skip
    zero = torch.zeros(1)
    for x in (np.broadcast_to(np.uint8(0), (height, width, 3)), zero.expand(3, height, width)):
        with pytest.raises(InputError, match=f"at most 64 megapixels; got {width}×{height}"):
            read_image(x)
    with pytest.raises(InputError, match=r"64 megapixels|readable picture"):
        read_image(tmp_path / "big.png")


# --- whole numbers --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [int, np.int64, np.int8, np.uint16, np.int32])
def test_whole_numbers_of_every_kind(kind: type) -> None:
    for check in (check_steps, check_seed, lambda x: whole_number(x, "a rank", 0, 9)):
        assert type(check(kind(2))) is int and check(kind(2)) == 2


@pytest.mark.parametrize("value", [True, np.True_, 2.0, np.float32(2), "2", None, -1, [2], torch.tensor(2)])
def test_what_is_no_whole_number(value: Any) -> None:
    for check in (check_steps, check_seed, lambda x: whole_number(x, "a rank", 0, 9)):
        with pytest.raises(InputError, match=r"expected .* as a whole number .*, got"):
            check(value)


def test_limits_of_whole_numbers() -> None:
    assert check_seed(0) == 0 and check_seed(2**63 - 1) == 2**63 - 1 and check_steps(1) == 1
    for check, value in ((check_steps, 0), (check_seed, 2**63), (lambda x: whole_number(x, "a rank", 1, 4), 5)):
        with pytest.raises(InputError):
            check(value)


# --- anything -------------------------------------------------------------------------------------

SIDES = st.integers(1, 90)


@st.composite
def _values(draw: st.DrawFn, channels: int, top: int = 255) -> np.ndarray:
    """Few levels, so that clear values meet; [H, W, channels]."""
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    levels = rng.integers(0, top + 1, draw(st.integers(1, 40)))
    return rng.choice(levels, (draw(SIDES), draw(SIDES), channels))


def _with_palette(draw: st.DrawFn) -> tuple[Image.Image, np.ndarray]:
    """Sixteen colours, of which one, or each to its own degree, may be clear."""
    values = draw(_values(1, 15))[..., 0]
    colours = (np.arange(48).reshape(16, 3) * 5 + draw(st.integers(0, 255))) % 256
    picture = Image.fromarray(values.astype(np.uint8))
    picture.putpalette(colours.astype(np.uint8).tobytes())
    share = np.ones(16)
    if clear := draw(st.sampled_from(["", "one", "each"])):
        share = np.linspace(0, 1, 16) if clear == "each" else (np.arange(16) != values[0, 0]).astype(float)
        degrees = np.round(share * 255).astype(np.uint8)
        picture.info["transparency"] = degrees.tobytes() if clear == "each" else int(values[0, 0])
        share = degrees / 255
    return picture, (colours * share[:, None] + 255 * (1 - share[:, None]))[values]


@st.composite
def _picture(draw: st.DrawFn) -> tuple[Any, np.ndarray]:
    """A picture in some container, and its bytes on white [H, W, 3] by NumPy."""
    kinds = "array,float array,tensor,1,L,LA,P,RGB,RGBA,CMYK,I;16,I,F".split(",")
    kind = draw(st.sampled_from(kinds))
    if kind == "P":
        return _with_palette(draw)
    if kind == "CMYK":
        values = draw(_values(4))
        return Image.fromarray(values.astype(np.uint8), kind), (255 - values[..., :3]) * (255 - values[..., 3:]) / 255
    if kind in ("1", "L", "I;16", "I", "F"):
        top = {"1": 1, "I;16": 65535, "I": 65535}.get(kind, 255)
        values = draw(_values(1, top))[..., 0]
        if kind == "I":
            values[0, 0] = top  # a picture in mode I says by its values what its range is
        expected = _on_white(values, top, None)
        plain = {"1": np.bool_, "L": np.uint8, "I;16": np.uint16, "I": np.int32, "F": np.float32}[kind]
        picture = Image.fromarray((values / 255 if kind == "F" else values).astype(plain))
        assert picture.mode == kind
        if kind in ("L", "I;16", "I") and draw(st.booleans()):
            clear = int(draw(st.sampled_from(sorted(set(values.flat)))))
            picture.info["transparency"] = clear
            expected = _on_white(values, top, (clear,))
        return picture, expected
    if kind in ("LA", "RGBA"):
        values = draw(_values(2 if kind == "LA" else 4))
        share = values[..., -1:] / 255
        expected = np.broadcast_to(values[..., :-1], (*values.shape[:2], 3)) * share + 255 * (1 - share)
        return Image.fromarray(values.astype(np.uint8), kind), expected
    channels = draw(st.sampled_from([1, 3])) if "array" in kind else 3
    values = draw(_values(channels))
    expected = _on_white(values, 255, None)
    if kind == "RGB":
        return Image.fromarray(values.astype(np.uint8)), expected
    if kind == "tensor":
        dtype = draw(st.sampled_from([torch.float32, torch.float64, torch.float16, torch.bfloat16]))
        return torch.from_numpy(values / 127.5 - 1).permute(2, 0, 1).to(dtype), expected
    values = values[..., 0] if channels == 1 and draw(st.booleans()) else values
    if kind == "array":
        return np.asarray(values, np.uint8, order=draw(st.sampled_from(["C", "F"]))), expected
    return (values / 255).astype(draw(st.sampled_from([np.float16, np.float32, np.float64, ">f4"]))), expected


# Files, how to write them without loss, and the modes of Pillow that they take.
WRITTEN: dict[str, tuple[dict[str, Any], set[str]]] = {
    "png": ({}, {"1", "L", "LA", "P", "RGB", "RGBA", "I;16"}),
    "webp": ({"lossless": True, "exact": True}, {"RGB", "RGBA"}),
    "tiff": ({}, {"1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F"}),
}
CONTAINERS = ["itself", "list", "tuple", "batch", *WRITTEN, *(f"opened {kind}" for kind in WRITTEN)]


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(made=_picture(), container=st.sampled_from(CONTAINERS))
def test_any_picture_is_read_rightly(
    made: tuple[Any, np.ndarray], container: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    picture, expected = made
    kind = container.removeprefix("opened ")
    if kind in WRITTEN and isinstance(picture, Image.Image):
        options, modes = WRITTEN[kind]
        if picture.mode in modes and (kind == "png" or "transparency" not in picture.info):
            path = tmp_path_factory.getbasetemp() / f"any.{kind}"
            picture.save(path, **options)
            picture = path if kind == container else Image.open(io.BytesIO(path.read_bytes()))
    if container == "batch" and isinstance(picture, Tensor):
        picture = picture[None]
    read = read_images({"list": [picture], "tuple": (picture, picture)}.get(container, picture))
    assert len(read) == (2 if container == "tuple" else 1)
    # The alpha of 8 bits and the resizing each round once.
    _same(read[0], expected, 2.01)
    own = (read_picture(picture, "a")[0].permute(1, 2, 0).double().numpy() + 1) * 127.5
    assert np.abs(own - expected).max() <= 1.01, "at its own size only the alpha rounds"


NUMBERS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=9)
DTYPES = [np.uint8, np.int8, np.int64, np.uint16, np.float16, np.float32, np.complex64, np.bool_, object, "U1", "M8[s]"]
# Those of pictures among them, since few others get past the first check.
SHAPES = st.lists(st.integers(0, 5), max_size=5).map(tuple) | st.sampled_from(
    [(4, 5), (4, 5, 1), (4, 5, 3), (4, 5, 4), (3, 4, 5), (3, SIZE, SIZE), (1, 3, 4, 5), (2, 3, 4, 5)]
)
LEVELS = st.sampled_from([0.0, 0.5, 1.0, np.nan, np.inf, -np.inf, -2.0, 300.0])


@st.composite
def _anything(draw: st.DrawFn) -> Any:
    kind = draw(st.sampled_from(["plain", "array", "tensor", "picture", "file", "list"]))
    if kind == "array":
        x = np.zeros(draw(SHAPES), draw(st.sampled_from(DTYPES)))
        return np.full_like(x, draw(LEVELS)) if x.dtype.kind in "fc" else x
    if kind == "tensor":
        dtypes = [torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.complex64, torch.bool]
        x = torch.zeros(draw(SHAPES), dtype=draw(st.sampled_from(dtypes)))
        x = x.fill_(draw(LEVELS)) if x.is_floating_point() else x
        return draw(st.sampled_from([lambda: x, lambda: x.to("meta"), lambda: x.to_sparse() if x.ndim else x]))()
    if kind == "picture":
        modes = [
            "1",
            "L",
            "P",
            "RGB",
            "RGBA",
            "CMYK",
            "YCbCr",
            "LAB",
            "HSV",
            "I",
            "F",
            "LA",
            "PA",
            "RGBX",
            "RGBa",
            "La",
        ]
        return Image.new(draw(st.sampled_from([*modes, "I;16", "I;16B"])), (draw(st.integers(0, 5)), draw(SIDES)))
    if kind == "file":
        whole = _png(np.arange(12).reshape(3, 4) % 4, 2, (1,))
        cut, flip = draw(st.integers(0, len(whole))), draw(st.integers(0, len(whole) - 1))
        broken = bytearray(whole[:cut] if draw(st.booleans()) else whole)
        if flip < len(broken):
            broken[flip] ^= draw(st.integers(0, 255))
        return bytes(broken)
    if kind == "list":
        return draw(st.lists(NUMBERS, max_size=2))
    return draw(NUMBERS | st.just(object()) | st.dictionaries(st.text(max_size=2), NUMBERS, max_size=2))


@settings(max_examples=250, deadline=None, derandomize=True, database=None)
@given(x=_anything())
def test_anything_else_is_read_or_refused(x: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    if isinstance(x, bytes) and x[:4] in (b"\x89PNG", b""):
        path = tmp_path_factory.getbasetemp() / "broken.png"
        path.write_bytes(x)
        x = path
    for read in (read_images, lambda x: read_picture(x, "a")):
        try:
            picture = read(x)
        except InputError as error:
            assert "expected" in str(error) and "got" in str(error)
        else:
            assert picture.ndim == 4 and picture.shape[1] == 3 and picture.dtype == torch.float32
            assert picture.numel() and bool((picture.abs() <= 1).all())
            assert read is not read_images or picture.shape[2:] == (SIZE, SIZE)
            if isinstance(x, (np.ndarray, Tensor)):
                assert np.isfinite(x if isinstance(x, np.ndarray) else x.double().numpy()).all()


# --- damaged files --------------------------------------------------------------------------------


def _files() -> dict[str, bytes]:
    """A picture in every format that Pillow writes and reads, with what some of them hold besides pixels."""
    picture = Image.linear_gradient("L").resize((40, 24)).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6
    frames = {"save_all": True, "append_images": [picture.rotate(90)]}
    more: dict[str, list[dict[str, Any]]] = {kind: [{"exif": exif}] for kind in ("PNG", "JPEG", "TIFF", "AVIF")}
    more |= {kind: [frames] for kind in ("WEBP", "GIF", "MPO")}
    files = {}
    for kind in "PNG JPEG WEBP AVIF GIF TIFF BMP DIB PPM JPEG2000 TGA ICO ICNS DDS PCX SGI QOI MPO BLP".split():
        for options in [{}, *more.get(kind, [])]:
            file = io.BytesIO()
            (picture.convert("P") if kind == "BLP" else picture).save(file, kind, **options)
            files[f"{kind} with {', '.join(options)}" if options else kind] = file.getvalue()
    return files


FILES = _files()
CHANGES = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), max_size=8)


@settings(max_examples=400, deadline=None, derandomize=True, database=None)
@given(kind=st.sampled_from(sorted(FILES)), changes=CHANGES, kept=st.just(1.0) | st.floats(0, 1))
def test_damaged_files_are_read_or_named(
    kind: str, changes: list[tuple[float, int]], kept: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Changed bytes anywhere, the end cut off. Without a checksum that may show another picture, but no other error."""
    content = bytearray(FILES[kind])
    for place, bits in changes:
        content[int(place * len(content))] ^= bits
    del content[int(kept * len(content)) :]
    path = tmp_path_factory.getbasetemp() / "damaged.picture"
    path.write_bytes(content)
    for read in (read_image, read_picture):
        try:
            picture = read(path, "b")
        except InputError as error:
            assert str(error).startswith("b: ") and "expected" in str(error)
            assert str(path) in str(error) and len(str(error)) < 600
        else:
            assert bool((picture.abs() <= 1).all())
    with contextlib.suppress(InputError):
        assert read_upload(bytes(content), "b").shape == (3, SIZE, SIZE)


@pytest.mark.parametrize("kind", FILES)
def test_whole_files_are_read_and_closed(kind: str, tmp_path: Path) -> None:
    (tmp_path / "picture").write_bytes(FILES[kind])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        read = read_image(tmp_path / "picture")
        gc.collect()
    assert float(read.min()) < 0 and not [x for x in caught if x.category is ResourceWarning]


@pytest.mark.parametrize("place", range(60, len(FILES["PNG"]) - 16, 11))
def test_a_png_has_a_checksum(place: int, tmp_path: Path) -> None:
    content = bytearray(FILES["PNG"])
    content[place] ^= 64
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(InputError, match=r"b: .*x\.png.*expected a whole picture"):
        read_image(tmp_path / "x.png", "b")


@pytest.mark.parametrize("kind", ["JPEG", "GIF", "TIFF"])
def test_pictures_that_are_too_large_are_named(kind: str, tmp_path: Path) -> None:
    Image.new("L", (9000, 7200)).save(tmp_path / "big", kind)
    for read in (read_image, read_picture):
        with pytest.raises(InputError, match=r"b: .*big: expected at most 64 megapixels; got 9000×7200"):
            read(tmp_path / "big", "b")
