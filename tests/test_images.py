"""Reading whatever a caller calls a picture, against the same thing computed by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from lorweb_mini.errors import InputError
from lorweb_mini.images import SIZE, read_image, read_images, to_pil

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def _random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def _bytes(x: Tensor) -> np.ndarray:
    """[3, H, W] in [-1, 1] as [H, W, 3] in 0..255, not rounded."""
    assert x.shape == (3, SIZE, SIZE) and x.dtype == torch.float32
    return (x.permute(1, 2, 0).double().numpy() + 1) * 127.5


def _on_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha.astype(float)[..., None] / 255
    return colour.astype(float) * share + 255 * (1 - share)


def _grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(np.asarray(values, float)[..., None], 3, -1)


# --- Pillow's modes -------------------------------------------------------------------------------


def _mode_1() -> tuple[Image.Image, np.ndarray]:
    bits = _random(SIZE, SIZE) > 127
    return Image.fromarray(bits), _grey(bits * 255)


def _mode_l() -> tuple[Image.Image, np.ndarray]:
    values = _random(SIZE, SIZE)
    return Image.fromarray(values), _grey(values)


def _mode_la() -> tuple[Image.Image, np.ndarray]:
    values = _random(SIZE, SIZE, 2)
    return Image.fromarray(values, "LA"), _on_white(_grey(values[..., 0]), values[..., 1])


def _palette() -> tuple[Image.Image, np.ndarray, np.ndarray]:
    index, colours = _random(SIZE, SIZE), _random(256, 3, seed=1)
    picture = Image.fromarray(index, "L")
    picture.putpalette(colours.tobytes())
    assert picture.mode == "P"
    return picture, index, colours


def _mode_p() -> tuple[Image.Image, np.ndarray]:
    picture, index, colours = _palette()
    return picture, colours[index].astype(float)


def _mode_p_with_one_clear_colour() -> tuple[Image.Image, np.ndarray]:
    picture, index, colours = _palette()
    picture.info["transparency"] = 7
    return picture, _on_white(colours[index], np.where(index == 7, 0, 255))


def _mode_p_with_alpha_table() -> tuple[Image.Image, np.ndarray]:
    picture, index, colours = _palette()
    alpha = _random(256, seed=2)
    picture.info["transparency"] = alpha.tobytes()
    return picture, _on_white(colours[index], alpha[index])


def _mode_rgb() -> tuple[Image.Image, np.ndarray]:
    values = _random(SIZE, SIZE, 3)
    return Image.fromarray(values), values.astype(float)


def _mode_rgb_with_clear_colour() -> tuple[Image.Image, np.ndarray]:
    values = _random(SIZE, SIZE, 3)
    values[10:20, 30:50] = (1, 2, 3)
    picture = Image.fromarray(values)
    picture.info["transparency"] = (1, 2, 3)
    return picture, _on_white(values, np.where((values == (1, 2, 3)).all(-1), 0, 255))


def _mode_rgba() -> tuple[Image.Image, np.ndarray]:
    values = _random(SIZE, SIZE, 4)
    return Image.fromarray(values), _on_white(values[..., :3], values[..., 3])


def _mode_cmyk() -> tuple[Image.Image, np.ndarray]:
    values = _random(SIZE, SIZE, 4)
    ink = values.astype(float)
    return Image.fromarray(values, "CMYK"), (255 - ink[..., :3]) * (255 - ink[..., 3:]) / 255


def _mode_i16() -> tuple[Image.Image, np.ndarray]:
    values = np.random.default_rng(0).integers(0, 65536, (SIZE, SIZE)).astype(np.uint16)
    picture = Image.fromarray(values)
    assert picture.mode == "I;16"
    return picture, _grey(values / 257)


def _mode_i() -> tuple[Image.Image, np.ndarray]:
    values = _random(SIZE, SIZE).astype(np.int32)
    return Image.fromarray(values), _grey(values)


def _mode_f_of_unit() -> tuple[Image.Image, np.ndarray]:
    values = np.random.default_rng(0).random((SIZE, SIZE)).astype(np.float32)
    return Image.fromarray(values), _grey(values * 255)


def _mode_f_of_bytes() -> tuple[Image.Image, np.ndarray]:
    values = _random(SIZE, SIZE).astype(np.float32)
    return Image.fromarray(values), _grey(values)


MODES = (
    _mode_1,
    _mode_l,
    _mode_la,
    _mode_p,
    _mode_p_with_one_clear_colour,
    _mode_p_with_alpha_table,
    _mode_rgb,
    _mode_rgb_with_clear_colour,
    _mode_rgba,
    _mode_cmyk,
    _mode_i16,
    _mode_i,
    _mode_f_of_unit,
    _mode_f_of_bytes,
)


@pytest.mark.parametrize("make", MODES, ids=lambda make: make.__name__.removeprefix("_mode_"))
def test_mode(make) -> None:
    picture, expected = make()
    before = picture.copy()
    # At 64×64 nothing is resampled; one step of 255 is left for the rounding of each conversion.
    assert np.abs(_bytes(read_image(picture)) - expected).max() <= 1
    assert picture.mode == before.mode and picture.tobytes() == before.tobytes(), "the caller's picture was changed"


@pytest.mark.parametrize("mode", ["YCbCr", "HSV", "RGBX", "PA"])
def test_rarer_modes_read_as_what_they_show(mode: str) -> None:
    picture = Image.fromarray(_random(SIZE, SIZE, 3)).convert("P" if mode == "PA" else "RGB").convert(mode)
    assert picture.mode == mode
    assert np.abs(_bytes(read_image(picture)) - np.asarray(picture.convert("RGB"), float)).max() <= 1


@pytest.mark.parametrize("value", [-1.0, 300000.0, float("nan"), float("inf")])
def test_float_picture_out_of_range_is_refused(value: float) -> None:
    values = np.zeros((SIZE, SIZE), np.float32)
    values[3, 4] = value
    with pytest.raises(InputError, match="outside"):
        read_image(Image.fromarray(values))


# --- Files ----------------------------------------------------------------------------------------


# EXIF 2.3, tag 0x0112: which side of the scene the 0th row and the 0th column of the file are.
SIDES = {
    1: ("top", "left"),
    2: ("top", "right"),
    3: ("bottom", "right"),
    4: ("bottom", "left"),
    5: ("left", "top"),
    6: ("right", "top"),
    7: ("right", "bottom"),
    8: ("left", "bottom"),
}


@pytest.mark.parametrize("orientation", SIDES)
def test_exif_orientation(orientation: int, tmp_path: Path) -> None:
    scene = _random(SIZE, SIZE, 3)
    row_side, column_side = SIDES[orientation]
    stored = np.empty_like(scene)
    last = SIZE - 1
    for row in range(SIZE):
        for column in range(SIZE):
            place = {}
            for side, steps in ((row_side, row), (column_side, column)):
                axis = "y" if side in ("top", "bottom") else "x"
                place[axis] = steps if side in ("top", "left") else last - steps
            stored[row, column] = scene[place["y"], place["x"]]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(_bytes(read_image(tmp_path / "turned.png")).round(), scene)
    with Image.open(tmp_path / "turned.png") as picture:
        assert np.array_equal(_bytes(read_image(picture)).round(), scene)


def test_exif_turns_before_padding(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (64, 32), RED).save(tmp_path / "turned.png", exif=exif)
    read = _bytes(read_image(tmp_path / "turned.png")).round()
    assert (read[:, 16:48] == RED).all() and (read[:, :16] == WHITE).all() and (read[:, 48:] == WHITE).all()


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_animation_gives_its_first_frame(suffix: str, tmp_path: Path) -> None:
    frames = [Image.new("RGB", (SIZE, SIZE), colour) for colour in (RED, GREEN, BLUE)]
    path = tmp_path / f"moving.{suffix}"
    lossless = {"lossless": True} if suffix == "webp" else {}
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=100, **lossless)
    with Image.open(path) as picture:
        assert picture.n_frames == 3
        assert (_bytes(read_image(path)).round() == RED).all()
        picture.seek(1)
        assert (_bytes(read_image(picture)).round() == GREEN).all(), "an open animation shows the frame it stands at"
        assert picture.tell() == 1


def test_paths_strings_and_pictures_read_alike(tmp_path: Path) -> None:
    values = _random(40, 90, 3)
    path = tmp_path / "picture.png"
    Image.fromarray(values).save(path)
    from_array = read_image(values)
    for x in (path, str(path), Image.fromarray(values)):
        assert torch.equal(read_image(x), from_array)


# --- Shape ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("width", "height", "across", "down"), [(128, 64, 64, 32), (16, 64, 16, 64), (30, 10, 64, 21), (500, 1, 64, 1)]
)
def test_padded_with_white_not_squeezed(width: int, height: int, across: int, down: int) -> None:
    read = _bytes(read_image(Image.new("RGB", (width, height), BLUE))).round()
    left, top = (SIZE - across) // 2, (SIZE - down) // 2
    expected = np.full((SIZE, SIZE, 3), 255.0)
    expected[top : top + down, left : left + across] = BLUE
    assert np.array_equal(read, expected)


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (64, 64), (333, 333)])
def test_square_fills_the_frame(size: tuple[int, int]) -> None:
    assert (_bytes(read_image(Image.new("RGB", size, RED))).round() == RED).all()


def test_shrinks_without_aliasing() -> None:
    # A pattern finer than the result's pixels must turn into its mean, and a coarse one must stay.
    fine = np.indices((512, 512)).sum(0) % 2 * 255
    assert np.abs(_bytes(read_image(fine.astype(np.uint8))) - 127.5).max() <= 2
    ramp = np.linspace(0, 255, 512)[None].repeat(512, 0)
    means = ramp.reshape(SIZE, 8, SIZE, 8).mean((1, 3))
    assert np.abs(_bytes(read_image(ramp.round().astype(np.uint8))) - _grey(means)).max() <= 2


# --- Arrays and tensors ---------------------------------------------------------------------------


def test_arrays() -> None:
    rgb, alpha = _random(SIZE, SIZE, 3), _random(SIZE, SIZE, seed=3)
    grey = rgb[..., 0]
    rgba = np.dstack([rgb, alpha])
    for values, expected in (
        (grey, _grey(grey)),
        (grey[..., None], _grey(grey)),
        (rgb, rgb),
        (rgba, _on_white(rgb, alpha)),
        (grey > 99, _grey((grey > 99) * 255)),
    ):
        kept = values.copy()
        assert np.abs(_bytes(read_image(values)) - expected).max() <= 1
        assert np.array_equal(values, kept)
        if values.dtype == np.uint8:
            for dtype in (np.float32, np.float64):
                # Every byte has a float that stands for it, and comes back as itself.
                assert torch.equal(read_image((values / 255).astype(dtype)), read_image(values))
    assert torch.equal(read_image(rgb[:, ::-1]), read_image(rgb).flip(2)), "strides"
    assert torch.equal(read_image(np.asfortranarray(rgb)), read_image(rgb)), "memory order"


def test_tensor_of_the_right_size_is_copied_unchanged() -> None:
    x = torch.rand(3, SIZE, SIZE) * 2 - 1
    for given in (x, x[None], x.clone().requires_grad_()):
        read = read_image(given)
        assert torch.equal(read, x) and not read.requires_grad
    read_image(x).zero_()
    assert x.abs().sum() > 0, "the caller's tensor was handed out"
    assert torch.equal(read_image(x.double()), x)
    assert torch.allclose(read_image(x.half()), x, atol=1e-3)


def test_tensor_of_another_size_reads_as_its_picture() -> None:
    values = _random(100, 37, 3)
    x = torch.from_numpy(values).permute(2, 0, 1).float() / 127.5 - 1
    assert torch.equal(read_image(x), read_image(values))


def test_many() -> None:
    batch = torch.rand(4, 3, SIZE, SIZE) * 2 - 1
    assert torch.equal(read_images(batch), batch)
    assert torch.equal(read_images(list(batch)), batch)
    one = read_images(batch[0])
    assert one.shape == (1, 3, SIZE, SIZE) and torch.equal(one[0], batch[0])
    mixed = read_images((batch[0], Image.new("L", (5, 5), 255), np.zeros((9, 9), np.uint8)))
    assert torch.equal(mixed[0], batch[0]) and (mixed[1] == 1).all() and (mixed[2] == -1).all()
    with pytest.raises(InputError, match=r"b\[1\]"):
        read_images([batch[0], None], "b")


def test_round_trip() -> None:
    values = _random(SIZE, SIZE, 3)
    picture = to_pil(read_image(values))
    assert picture.mode == "RGB" and np.array_equal(np.asarray(picture), values)
    x = torch.rand(3, SIZE, SIZE) * 2 - 1
    assert (read_image(to_pil(x)) - x).abs().max() <= 1 / 255 + 1e-6, "more than half a step of 255"
    beyond = torch.tensor([-9.0, 0.0, 9.0]).view(3, 1, 1).expand(3, 2, 5)
    assert np.array_equal(np.asarray(to_pil(beyond)), np.full((2, 5, 3), (0, 128, 255)))
