from __future__ import annotations

import colorsys
import math
from collections import deque

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor

from lorweb_mini.emoji.edits import EDITS, apply_edit, instructions, parse_relation, relation_name
from lorweb_mini.errors import InputError

ALL = [(edit.kind, strength) for edit in EDITS.values() for strength in edit.strengths]
N = 64


def _pictures() -> Tensor:
    """Two pictures on white whose values are whole bytes, so PIL sees the same numbers: [2, 3, 64, 64]."""
    rng = np.random.default_rng(0)
    values = np.full((2, N, N, 3), 255, dtype=np.uint8)
    values[0, 10:50, 14:44] = rng.integers(0, 256, (40, 30, 3))
    values[1, 20:40, 8:60] = (250, 200, 40)
    values[1, 26:32, 16:30] = (20, 10, 5)
    values[1, 30:36, 40:50] = 255
    return torch.from_numpy(values).permute(0, 3, 1, 2).float() / 127.5 - 1


@pytest.fixture
def x() -> Tensor:
    return _pictures()


def _bytes(x: Tensor) -> np.ndarray:
    return ((x.permute(0, 2, 3, 1).double().numpy() + 1) * 127.5).round().astype(np.uint8)


def _unit(x: Tensor) -> np.ndarray:
    return (x.permute(0, 2, 3, 1).double().numpy() + 1) / 2


def _by_pil(x: Tensor, function) -> np.ndarray:
    return np.stack([np.asarray(function(Image.fromarray(picture))) for picture in _bytes(x)]).astype(int)


@pytest.mark.parametrize(("kind", "strength"), ALL)
def test_shape_range_and_determinism(x: Tensor, kind: str, strength: float) -> None:
    before = x.clone()
    y = apply_edit(x, kind, strength)
    assert y.shape == x.shape and y.dtype == x.dtype
    assert y.min() >= -1 and y.max() <= 1
    assert torch.equal(x, before)
    assert torch.equal(y, apply_edit(x, kind, strength))
    torch.testing.assert_close(y[1:], apply_edit(x[1:], kind, strength))
    assert (y - x).abs().mean() > 0.01


@pytest.mark.parametrize("kind", EDITS)
def test_whole_dial(x: Tensor, kind: str) -> None:
    edit = EDITS[kind]
    for value in np.linspace(*edit.range, 9):
        y = apply_edit(x, kind, float(value) if edit.parameters == 1 else [float(value)] * edit.parameters)
        assert y.shape == x.shape and torch.isfinite(y).all() and y.abs().max() <= 1


@pytest.mark.parametrize("kind", EDITS)
def test_a_strength_for_each_picture_is_one_after_the_other(x: Tensor, kind: str) -> None:
    edit = EDITS[kind]
    rng = np.random.default_rng(1)
    strengths = torch.from_numpy(rng.uniform(*edit.range, (4, edit.parameters))).float()
    if kind == "rotate":
        strengths[1] = 90  # exact turns and others side by side
    pictures = torch.cat([x, x])
    together = apply_edit(pictures, kind, strengths[:, 0] if edit.parameters == 1 else strengths)
    for i in range(4):
        alone = apply_edit(pictures[i : i + 1], kind, strengths[i, 0] if edit.parameters == 1 else strengths[i])
        torch.testing.assert_close(together[i : i + 1], alone, atol=2e-5, rtol=0)


def test_new_kinds_by_hand(x: Tensor) -> None:
    unit = (x + 1) / 2
    weights = torch.tensor([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0], [0.0, 0.25, 0.75]])
    mixed = torch.stack([sum(weights[i, j] * x[:, j] for j in range(3)) for i in range(3)], 1)
    torch.testing.assert_close(apply_edit(x, "mix", weights.flatten()), mixed)
    torch.testing.assert_close(apply_edit(x, "mix", [0, 0, 1, 0, 1, 0, 1, 0, 0]), apply_edit(x, "swap_channels", 1))
    dark = torch.tensor(colorsys.hsv_to_rgb(200 / 360, 1, 0.65)).view(1, 3, 1, 1)
    torch.testing.assert_close((apply_edit(x, "screen", 200) + 1) / 2, 1 - (1 - unit) * (1 - dark), atol=1e-5, rtol=0)
    chain = apply_edit(apply_edit(apply_edit(x, "grey", 1), "screen", 200), "tint", 40)
    torch.testing.assert_close(apply_edit(x, "duotone", [200, 40]), chain, atol=1e-5, rtol=0)
    turned = apply_edit(apply_edit(x, "rotate", 90), "flip_horizontal", 1)
    torch.testing.assert_close(apply_edit(x, "transpose", 1), turned)
    negative = apply_edit(apply_edit(x, "invert", 1), "hue", 180)
    torch.testing.assert_close(apply_edit(x, "invert_lightness", 1), negative, atol=1e-4, rtol=0)
    stencil = apply_edit(apply_edit(x, "threshold", 0.7), "screen", 120)
    torch.testing.assert_close(apply_edit(x, "stencil", 120), stencil, atol=1e-5, rtol=0)
    moved = apply_edit(x, "move", [5, -3])
    torch.testing.assert_close(moved[..., :-3, 5:], x[..., 3:, :-5], atol=1e-4, rtol=0)
    half = apply_edit(x, "mirror_half", 1)
    torch.testing.assert_close(half, half.flip(3))
    torch.testing.assert_close(half[..., : N // 2], x[..., : N // 2])
    torch.testing.assert_close(apply_edit(x, "roll", 20), x.roll(20, 3))
    striped = apply_edit(x, "stripes", 4)
    assert (striped[:, :, 4:8] == 1).all() and torch.equal(striped[:, :, 8:12], x[:, :, 8:12])


@pytest.mark.parametrize("kind", EDITS)
def test_strengths_run_along_the_dial(kind: str) -> None:
    edit = EDITS[kind]
    steps = np.sign(np.diff(edit.strengths))
    assert (steps == steps[:1]).all() and 0 not in steps
    assert all(edit.range[0] <= strength <= edit.range[1] for strength in edit.strengths)
    assert list(edit.words) == sorted(edit.words)
    assert not edit.words or set(edit.strengths) <= set(edit.words)
    assert all(edit.range[0] <= strength <= edit.range[1] for strength in edit.words)


@pytest.mark.parametrize(
    ("kind", "strength", "times"),
    [
        ("invert", 1, 2),
        ("flip_horizontal", 1, 2),
        ("flip_vertical", 1, 2),
        ("swap_channels", 1, 2),
        ("rotate", 90, 4),
        ("rotate", 180, 2),
    ],
)
def test_exact_cycles(x: Tensor, kind: str, strength: float, times: int) -> None:
    y = x
    for _ in range(times):
        y = apply_edit(y, kind, strength)
    assert torch.equal(y, x)


@pytest.mark.parametrize(
    ("kind", "strength"),
    [
        ("hue", 0),
        ("hue", 360),
        ("rotate", 0),
        ("rotate", 360),
        ("grey", 0),
        ("sepia", 0),
        ("darken", 1),
        ("fade", 0),
        ("saturate", 1),
        ("contrast", 1),
        ("blur", 0),
        ("pixelate", 1),
        ("thicken", 0),
        ("shrink", 1),
        ("tile", 1),
        ("zoom", 1),
        ("shift", 0),
        ("frame", 0),
        ("swirl", 0),
        ("wave", 0),
    ],
)
def test_neutral_strength_gives_the_picture_back(x: Tensor, kind: str, strength: float) -> None:
    torch.testing.assert_close(apply_edit(x, kind, strength), x, atol=1e-4, rtol=0)


def test_hue_against_colorsys(x: Tensor) -> None:
    source, result = _unit(x), _unit(apply_edit(x, "hue", 75))
    for place in [(0, r, c) for r in range(8, 54, 5) for c in range(12, 48, 5)] + [(1, 22, 10), (1, 28, 20)]:
        h, s, v = colorsys.rgb_to_hsv(*source[place])
        np.testing.assert_allclose(result[place], colorsys.hsv_to_rgb((h + 75 / 360) % 1, s, v), atol=1e-5)


def test_hue_composes(x: Tensor) -> None:
    there = apply_edit(x, "hue", 120)
    torch.testing.assert_close(apply_edit(there, "hue", 240), x, atol=1e-5, rtol=0)
    torch.testing.assert_close(apply_edit(there, "hue", 60), apply_edit(x, "hue", 180), atol=1e-5, rtol=0)


def test_hue_keeps_greys() -> None:
    grey = torch.linspace(-1, 1, N).expand(1, 3, N, N)
    torch.testing.assert_close(apply_edit(grey, "hue", 137), grey)


def test_rotate_is_clockwise_and_continuous(x: Tensor) -> None:
    expected = _by_pil(x, lambda p: p.transpose(Image.Transpose.ROTATE_270))
    assert (_bytes(apply_edit(x, "rotate", 90)) == expected).all()
    nearly, exactly = apply_edit(x, "rotate", 89.9999), apply_edit(x, "rotate", 90)
    torch.testing.assert_close(nearly, exactly, atol=1e-2, rtol=0)


@pytest.mark.parametrize(
    ("kind", "strength", "function", "tolerance"),
    [
        ("flip_horizontal", 1, ImageOps.mirror, 0),
        ("flip_vertical", 1, ImageOps.flip, 0),
        ("invert", 1, ImageOps.invert, 0),
        ("grey", 1, lambda p: p.convert("L").convert("RGB"), 1),
        ("swap_channels", 1, lambda p: Image.merge("RGB", p.split()[::-1]), 0),
        ("threshold", 0.7, lambda p: p.convert("L").point(lambda v: 255 * (v >= 178.5)).convert("RGB"), 0),
        ("thicken", 1, lambda p: _darkest(p, 3), 0),
        ("thicken", 2, lambda p: _darkest(p, 5), 0),
        ("pixelate", 8, lambda p: p.resize((8, 8), Image.Resampling.BOX).resize((N, N), 0), 1),
        ("tile", 2, lambda p: _tiled(p.resize((32, 32), Image.Resampling.BILINEAR)), 1),
        ("shrink", 0.55, lambda p: _centred(p.resize((35, 35), Image.Resampling.BILINEAR)), 1),
        ("frame", 4, lambda p: ImageOps.expand(p.crop((4, 4, 60, 60)), 4, "black"), 0),
        ("shift", 16, lambda p: ImageOps.expand(p.crop((0, 0, 48, N)), (16, 0, 0, 0), "white"), 0),
        ("darken", 0.45, lambda p: p.point(lambda v: v * 0.45 + 0.5), 1),
        ("fade", 0.6, lambda p: Image.blend(p, Image.new("RGB", p.size, "white"), 0.6), 1),
        ("contrast", 0.4, lambda p: p.point(lambda v: (v - 127.5) * 0.4 + 128), 1),
    ],
)  # fmt: skip
def test_against_pillow(x: Tensor, kind: str, strength: float, function, tolerance: int) -> None:
    assert np.abs(_bytes(apply_edit(x, kind, strength)) - _by_pil(x, function)).max() <= tolerance


def _darkest(picture: Image.Image, size: int) -> Image.Image:
    wide = ImageOps.expand(picture, size, "white").filter(ImageFilter.MinFilter(size))
    return wide.crop((size, size, size + N, size + N))


def _tiled(small: Image.Image) -> Image.Image:
    return Image.fromarray(np.tile(np.asarray(small), (2, 2, 1)))


def _centred(small: Image.Image) -> Image.Image:
    canvas = Image.new("RGB", (N, N), "white")
    canvas.paste(small, ((N - small.width) // 2, (N - small.height) // 2))
    return canvas


@pytest.mark.parametrize("radius", [1, 2, 2.4])
def test_blur_against_naive_loop(x: Tensor, radius: float) -> None:
    reach = math.ceil(radius)
    weights = [min(1.0, radius + 1 - abs(i)) for i in range(-reach, reach + 1)]
    y = _unit(x)
    for _ in range(2):
        for axis in (1, 2):
            padding = [(reach, reach) if i == axis else (0, 0) for i in range(4)]
            padded = np.pad(y, padding, mode="edge")
            taps = [w * np.take(padded, range(i, i + N), axis) for i, w in enumerate(weights)]
            y = np.sum(taps, axis=0) / sum(weights)
    np.testing.assert_allclose(_unit(apply_edit(x, "blur", radius)), y, atol=1e-5)


def test_posterize_and_saturate_and_tint(x: Tensor) -> None:
    unit = _unit(x)
    levels = _unit(apply_edit(x, "posterize", 3))
    assert set(np.unique(levels.round(4))) <= {0.0, 0.5, 1.0}
    assert np.abs(levels - unit).max() <= 0.25 + 1e-4
    grey = (unit @ [0.299, 0.587, 0.114])[..., None]
    np.testing.assert_allclose(_unit(apply_edit(x, "saturate", 3)), np.clip(grey + 3 * (unit - grey), 0, 1), atol=1e-5)
    np.testing.assert_allclose(_unit(apply_edit(x, "tint", 120)), unit * [0.4, 1.0, 0.4], atol=1e-5)


def test_sepia_is_a_ramp_of_luminance(x: Tensor) -> None:
    grey = (_unit(x) @ [0.299, 0.587, 0.114])[..., None]
    tan = colorsys.hsv_to_rgb(33 / 360, 0.42, 1.0)
    np.testing.assert_allclose(_unit(apply_edit(x, "sepia", 1)), grey * tan, atol=1e-5)


def test_background_against_naive_flood_fill(x: Tensor) -> None:
    result = _unit(apply_edit(x, "background", 120))
    colour = np.array(colorsys.hsv_to_rgb(120 / 360, 0.55, 0.95))
    for source, painted in zip(_unit(x), result, strict=True):
        white = (source > 0.96).all(-1)
        queue = deque((i, j) for i in range(N) for j in range(N) if white[i, j] and (i in (0, 63) or j in (0, 63)))
        ground = np.zeros((N, N), dtype=bool)
        while queue:
            i, j = queue.popleft()
            if 0 <= i < N and 0 <= j < N and white[i, j] and not ground[i, j]:
                ground[i, j] = True
                queue.extend([(i + 1, j), (i - 1, j), (i, j + 1), (i, j - 1)])
        for i in range(N):
            for j in range(N):
                near = any(ground[max(0, i - 1) : i + 2, j]) or any(ground[i, max(0, j - 1) : j + 2])
                expected = source[i, j] - source[i, j].min() * (1 - colour) if near else source[i, j]
                np.testing.assert_allclose(painted[i, j], expected, atol=1e-5)


def test_background_leaves_enclosed_white_alone(x: Tensor) -> None:
    result = apply_edit(x, "background", 0)
    assert (result[1, :, 32, 44] == 1).all()
    assert (result[1, :, 0, 0] < 1).any()


def test_outline_draws_edges_only() -> None:
    x = torch.ones(1, 3, N, N)
    x[:, :, :, 32:] = -1
    y = apply_edit(x, "outline", 1)
    assert (y[..., :31] == 1).all() and (y[..., 33:] == 1).all()
    torch.testing.assert_close(y[..., 31:33], torch.full((1, 3, N, 2), -1.0))


def test_warps_keep_what_they_should(x: Tensor) -> None:
    swirled = apply_edit(x, "swirl", 150)
    line = (np.arange(N) * 2 + 1) / N - 1
    outside = torch.from_numpy(np.hypot(line[:, None], line[None]) >= 1)
    torch.testing.assert_close(swirled[..., outside], x[..., outside], atol=1e-4, rtol=0)

    rows = torch.linspace(-1, 1, N).view(1, 1, N, 1).expand(1, 3, N, N)
    torch.testing.assert_close(apply_edit(rows, "wave", 5)[..., 8:-8], rows[..., 8:-8], atol=1e-4, rtol=0)

    zoomed = apply_edit(x, "zoom", 2)
    torch.testing.assert_close(
        torch.nn.functional.interpolate(x[:, :, 15:49, 15:49], scale_factor=2, mode="bilinear")[..., 2:-2, 2:-2],
        zoomed,
        atol=1e-4,
        rtol=0,
    )


def test_shift_and_thicken_mix_between_whole_pixels(x: Tensor) -> None:
    for kind in ("shift", "thicken"):
        ends = apply_edit(x, kind, 2), apply_edit(x, kind, 3)
        torch.testing.assert_close(apply_edit(x, kind, 2.25), 0.75 * ends[0] + 0.25 * ends[1])


def test_names_round_trip() -> None:
    names = [relation_name(*edit) for edit in ALL]
    assert len(EDITS) >= 16 and len(names) == len(set(names)) == len(ALL)
    assert [parse_relation(name) for name in names] == ALL
    assert [relation_name(*parse_relation(name)) for name in names] == names
    assert relation_name("invert", 1) == "edit/invert"
    assert relation_name("hue", 60) == "edit/hue=60"
    assert parse_relation("edit/sepia=0.5") == ("sepia", 0.5)
    assert relation_name("move", (3, -2.5)) == "edit/move=3,-2.5"
    assert parse_relation("edit/move=3,-2.5") == ("move", (3, -2.5))
    assert parse_relation(relation_name("transpose", 1)) == ("transpose", 1)


@pytest.mark.parametrize("name", ["hue=60", "style/hue=60", "edit/hue", "edit/none=1", "edit/hue=far", "edit/hue=", ""])
def test_bad_names(name: str) -> None:
    with pytest.raises(InputError):
        parse_relation(name)


def test_instructions_are_distinct() -> None:
    every = [phrase for kind, strength in ALL for phrase in instructions(kind, strength)]
    assert len(every) == len(set(every))
    assert not any("{" in phrase for phrase in every)
    assert all(3 <= len(instructions(kind, strength)) <= 4 for kind, strength in ALL)
    assert instructions("hue", 120)[0] == "rotate the colours by 120 degrees"
    assert instructions("hue", 90)[0] == "rotate the colours by 90 degrees"
    assert instructions("hue", 90)[-1] == "move every colour 90 degrees around the colour wheel"


def test_every_phrasing_of_a_dial_says_the_strength() -> None:
    for edit in EDITS.values():
        says = {"{strength}" in phrase for phrase in edit.phrase}
        assert len(says) == 1, edit.kind
        if edit.strengths:
            assert says == {len(edit.strengths) > 1}, edit.kind
        if says == {True} and edit.parameters == 1:  # off the list the number stands for the words
            value = sum(edit.range) / 2 + 0.01
            assert all(f"{value:g} {edit.unit}" in phrase for phrase in instructions(edit.kind, value)), edit.kind


@pytest.mark.parametrize("strength", [-1, 361, float("nan"), float("inf"), "far", None])
def test_bad_strength(x: Tensor, strength) -> None:
    for call in (lambda: apply_edit(x, "hue", strength), lambda: relation_name("hue", strength)):
        with pytest.raises(InputError, match="hue"):
            call()


@pytest.mark.parametrize(
    "bad",
    [
        torch.zeros(3, N, N),
        torch.zeros(1, 4, N, N),
        torch.zeros(1, 3, N, N - 1),
        torch.zeros(0, 3, N, N),
        torch.zeros(1, 3, N, N, dtype=torch.uint8),
        torch.full((1, 3, N, N), 2.0),
        torch.full((1, 3, N, N), float("nan")),
        torch.zeros(1, 3, N, N, device="meta"),
        torch.zeros(1, 3, N, N).to_sparse(),
        np.zeros((1, 3, N, N), dtype=np.float32),
    ],
)
def test_bad_pictures(bad) -> None:
    with pytest.raises(InputError, match="expected"):
        apply_edit(bad, "invert", 1)


def test_unknown_kind(x: Tensor) -> None:
    with pytest.raises(InputError, match="sharpen"):
        apply_edit(x, "sharpen", 1)
    with pytest.raises(InputError, match="expected an edit of"):
        apply_edit(x, ["hue"], 1)
