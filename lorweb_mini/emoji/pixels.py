"""What each kind of edit does to pixels: functions of pictures and of one strength for each of them.

Pictures are [B, 3, n, n] in [-1, 1] on a white (+1) ground; strengths are [B], or [B, P] where a kind needs P numbers.
The kinds, the ranges of their strengths and their words stand in :mod:`~lorweb_mini.emoji.edits`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from scipy.ndimage import binary_dilation, binary_propagation, generate_binary_structure
from torch import Tensor
from torch.nn import functional as F

WHITE, BLACK = 1.0, -1.0
DARK, PALE = (1.0, 0.65), (0.6, 1.0)  # saturation and value
GROUND_LEVEL = 0.92  # every channel above this (0.96 in [0, 1]) counts as white ground
CROSS = generate_binary_structure(2, 1)[None]  # a pixel's four neighbours in its own picture

Function = Callable[[Tensor, Tensor], Tensor]


def column(strength: Tensor) -> Tensor:
    """Strengths [B] as [B, 1, 1, 1]."""
    return strength.view(-1, 1, 1, 1)


def blend(edit: Callable[[Tensor], Tensor]) -> Function:
    """An edit without a strength of its own gets one: 0 gives x back, 1 the full edit, linear between."""
    return lambda x, amount: torch.lerp(x, edit(x), column(amount))


def in_unit(edit: Function) -> Function:
    """An edit that is written for [0, 1], for pictures in [-1, 1]."""
    return lambda x, strength: edit((x + 1) / 2, strength) * 2 - 1


def by_value(key: Callable[[Tensor, int], Tensor]) -> Callable[[Callable[[Tensor, float], Tensor]], Function]:
    """Decorates an edit that takes one setting for a whole batch: it is applied to groups of pictures that share one.

    ``key`` gives the settings [B] for strengths [B] and the side of the pictures in pixels.
    """

    def decorate(edit: Callable[[Tensor, float], Tensor]) -> Function:
        def apply(x: Tensor, strength: Tensor) -> Tensor:
            values = key(strength, x.shape[-1])
            out = torch.empty_like(x)
            for value in values.unique().tolist():
                rows = values == value
                out[rows] = edit(x[rows], value)
            return out

        return apply

    return decorate


def warp(places: Callable[[Tensor, Tensor, Tensor, int], tuple[Tensor, Tensor]]) -> Function:
    """Decorates an edit that looks every pixel up, bilinearly, at another place; white outside.

    ``places`` gets the pixel centres right and down in [-1, 1], [n, n] each, the strengths [B, 1, 1] and n. It gives
    the places (right, down), each [B, n, n] or [n, n].
    """

    def apply(x: Tensor, strength: Tensor) -> Tensor:
        n = x.shape[-1]
        line = (torch.arange(n, device=x.device, dtype=x.dtype) * 2 + 1) / n - 1
        down, right = torch.meshgrid(line, line, indexing="ij")
        moved = torch.broadcast_tensors(*places(right, down, strength.view(len(x), -1, 1), n))
        grid = torch.stack(moved, -1).expand(len(x), -1, -1, -1)
        return F.grid_sample(x - WHITE, grid, mode="bilinear", padding_mode="zeros", align_corners=False) + WHITE

    return apply


# Colour


def luminance(x: Tensor) -> Tensor:
    """ITU-R 601 luma, [B, 1, n, n]; weights sum to one, so it maps [-1, 1] to [-1, 1]."""
    weight = x.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    return (x * weight).sum(1, keepdim=True)


def _rgb(sextant: Tensor, chroma: Tensor | float, value: Tensor | float) -> Tensor:
    """Colours [B, 3, n, n] of HSV hues in units of 60 degrees, [B, 1, n, n], by chroma and value."""
    k = (sextant + sextant.new_tensor([5.0, 3.0, 1.0]).view(3, 1, 1)) % 6
    return value - chroma * torch.minimum(k, 4 - k).clamp(0, 1)


def colour(hue: Tensor, saturation: float, value: float) -> Tensor:
    """HSV colours of hues [B] in degrees, as RGB in [0, 1], [B, 3, 1, 1]."""
    return _rgb(column(hue) / 60, value * saturation, value)


def turn_hue(x: Tensor, degrees: Tensor) -> Tensor:
    """Turn the HSV hue; value and saturation, hence white and greys, stay."""
    value = x.amax(1, keepdim=True)
    chroma = value - x.amin(1, keepdim=True)
    r, g, b = x.split(1, 1)
    safe = chroma.clamp_min(1e-12)
    sextant = torch.where(value == r, (g - b) / safe, torch.where(value == g, (b - r) / safe + 2, (r - g) / safe + 4))
    return _rgb(sextant + column(degrees) / 60, chroma, value)


@blend
def sepia(x: Tensor) -> Tensor:
    """A ramp from black to tan. The usual 3x3 matrix would clip, and a pale drawing on white would vanish."""
    return (luminance(x) + 1) * colour(x.new_tensor([33.0]), 0.42, 1.0) - 1


def mix_channels(x: Tensor, weights: Tensor) -> Tensor:
    """Each channel becomes a weighted mean of the three; [B, 9] are the rows of a matrix, divided by their sums."""
    matrix = weights.view(-1, 3, 3)
    return torch.einsum("bij,bjhw->bihw", matrix / matrix.sum(-1, keepdim=True).clamp_min(1e-6), x)


def duotone(x: Tensor, hues: Tensor) -> Tensor:
    """Luminance as a ramp from a dark colour to a pale one; their hues [B, 2]."""
    dark = colour(hues[:, 0], *DARK)
    return (dark + (1 - dark) * (luminance(x) + 1) / 2) * colour(hues[:, 1], *PALE) * 2 - 1


def stencil(x: Tensor, hue: Tensor) -> Tensor:
    """Everything darker than a luminance of 0.7 becomes one dark colour, the rest white."""
    ink = (luminance(x) < 0.4).to(x)
    return 1 - ink * 2 * (1 - colour(hue, *DARK))


# The HSL lightness is inverted; hue and chroma stay.
invert_lightness = blend(lambda x: x - x.amax(1, keepdim=True) - x.amin(1, keepdim=True))


def background(x: Tensor, hue: Tensor) -> Tensor:
    """Colour the ground: near-white pixels that a 4-connected path of such pixels joins to the border."""
    white = (x > GROUND_LEVEL).all(1).cpu().numpy()
    border = white.copy()
    border[:, 1:-1, 1:-1] = False
    # The pixels next to the ground are antialiased against white: only their white part takes the colour,
    # otherwise a pale halo would stay.
    area = binary_dilation(binary_propagation(border, CROSS, white), CROSS)
    unit = (x + 1) / 2
    painted = unit - unit.amin(1, keepdim=True) * (1 - colour(hue, 0.55, 0.95))
    return torch.where(torch.from_numpy(area).to(x.device).unsqueeze(1), painted * 2 - 1, x)


threshold = in_unit(lambda x, level: (luminance(x) >= column(level)).to(x).expand_as(x))


@in_unit
def posterize(x: Tensor, levels: Tensor) -> Tensor:
    steps = column(levels) - 1
    return (torch.floor(x * steps + 0.5) / steps).clamp(0, 1)


# Neighbourhood


def blur(x: Tensor, radius: Tensor) -> Tensor:
    """A box of 2 radius + 1 pixels, twice along each axis; the outermost taps carry the fraction."""
    reach = math.ceil(float(radius.max()))
    offsets = torch.arange(-reach, reach + 1, device=x.device, dtype=x.dtype).abs()
    taps = (radius[:, None] + 1 - offsets).clamp(0, 1)
    # One kernel a channel of a sample: all of them side by side in one picture, each in a group of its own.
    kernel = (taps / taps.sum(-1, keepdim=True)).repeat_interleave(x.shape[1], 0)[:, None, None]
    out = x.flatten(0, 1).unsqueeze(0)
    for _ in range(2):
        for pad, shaped in (((reach, reach, 0, 0), kernel), ((0, 0, reach, reach), kernel.transpose(2, 3))):
            out = F.conv2d(F.pad(out, pad, mode="replicate"), shaped, groups=len(kernel))
    return out.view_as(x)


@by_value(lambda block, side: (side / block).round().clamp_min(1))
def pixelate(x: Tensor, cells: float) -> Tensor:
    return F.interpolate(F.adaptive_avg_pool2d(x, int(cells)), size=x.shape[2:], mode="nearest-exact")


def thicken(x: Tensor, radius: Tensor) -> Tensor:
    """Darkest pixel of a (2 radius + 1)-pixel square; a fractional radius mixes its two whole neighbours."""

    def darkest(x: Tensor, r: float) -> Tensor:
        return -F.max_pool2d(-x, 2 * int(r) + 1, stride=1, padding=int(r))

    low = by_value(lambda r, _: r.floor())(darkest)(x, radius)
    high = by_value(lambda r, _: r.ceil())(darkest)(x, radius)
    return torch.lerp(low, high, column(radius - radius.floor()))


@in_unit
def outline(x: Tensor, gain: Tensor) -> Tensor:
    """Dark lines on white where a channel's Sobel gradient is large; a black-white step has magnitude 1."""
    step = x.new_tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]) / 4
    kernel = torch.stack([step, step.T]).unsqueeze(1)
    gradient = F.conv2d(F.pad(x.flatten(0, 1).unsqueeze(1), (1, 1, 1, 1), mode="replicate"), kernel)
    magnitude = gradient.square().sum(1).sqrt().view_as(x).amax(1, keepdim=True)
    return (1 - column(gain) * magnitude).clamp(0, 1).expand_as(x)


# Geometry


def _turned(right: Tensor, down: Tensor, radians: Tensor) -> tuple[Tensor, Tensor]:
    """Places turned clockwise by angles [B, 1, 1] or [B, n, n]."""
    c, s = radians.cos(), radians.sin()
    return c * right + s * down, c * down - s * right


@by_value(lambda degrees, _: (degrees / 90).round() % 4)
def _quarter_turns(x: Tensor, turns: float) -> Tensor:
    return torch.rot90(x, -int(turns), dims=(2, 3))


def rotate(x: Tensor, degrees: Tensor) -> Tensor:
    """Turn clockwise; quarter turns are exact, without resampling."""
    quarter = degrees % 90 == 0
    out = torch.empty_like(x)
    any_angle = warp(lambda right, down, angle, _: _turned(right, down, torch.deg2rad(angle)))
    for rows, turn in ((quarter, _quarter_turns), (~quarter, any_angle)):
        if bool(rows.any()):
            out[rows] = turn(x[rows], degrees[rows])
    return out


@warp
def swirl(right: Tensor, down: Tensor, degrees: Tensor, _n: int) -> tuple[Tensor, Tensor]:
    """Turn by the full angle at the centre, falling linearly to nothing at the inscribed circle."""
    falling = (1 - (right.square() + down.square()).sqrt()).clamp_min(0)
    return _turned(right, down, torch.deg2rad(degrees) * falling)


# Rows pushed sideways along two sine periods of the given amplitude, a shift by [B, 2] pixels, the middle enlarged.
wave = warp(lambda right, down, pixels, n: (right - 2 * pixels / n * torch.sin(2 * math.pi * down), down))
move = warp(lambda right, down, pixels, n: (right - (2 * pixels / n)[:, :1], down - (2 * pixels / n)[:, 1:]))
zoom = warp(lambda right, down, factor, _: (right / factor, down / factor))


@warp
def ripple(right: Tensor, down: Tensor, pixels: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Push pixels outwards and inwards along three sine periods of the radius."""
    radius = (right.square() + down.square()).sqrt().clamp_min(1e-6)
    push = 2 * pixels / n * torch.sin(6 * math.pi * radius) / radius
    return right * (1 - push), down * (1 - push)


def _resized(x: Tensor, size: int) -> Tensor:
    return F.interpolate(x, size=(size, size), mode="bilinear", antialias=True, align_corners=False)


@by_value(lambda scale, side: (side * scale).round().clamp_min(1))
def shrink(x: Tensor, size: float) -> Tensor:
    n, size = x.shape[-1], int(size)
    before = (n - size) // 2
    after = n - size - before
    return F.pad(_resized(x, size), (before, after, before, after), value=WHITE)


@by_value(lambda copies, _: copies.round())
def tile(x: Tensor, copies: float) -> Tensor:
    n, count = x.shape[-1], int(copies)
    return _resized(x, math.ceil(n / count)).repeat(1, 1, count, count)[:, :, :n, :n]


@by_value(lambda pixels, _: pixels.round())
def roll(x: Tensor, pixels: float) -> Tensor:
    return x.roll(int(pixels), 3)


def mirror_half(x: Tensor) -> Tensor:
    n = x.shape[-1]
    return torch.cat([x[..., : n // 2], x[..., : n - n // 2].flip(3)], 3)


def frame(x: Tensor, width: Tensor) -> Tensor:
    n = x.shape[-1]
    index = torch.arange(n, device=x.device, dtype=x.dtype)
    distance = torch.minimum(index, n - 1 - index)
    cover = (column(width) - torch.minimum(distance[:, None], distance[None])).clamp(0, 1)
    return x + (BLACK - x) * cover


def stripes(x: Tensor, width: Tensor) -> Tensor:
    """Every second band of rows, so many pixels high, becomes white."""
    row = torch.arange(x.shape[-1], device=x.device, dtype=x.dtype).view(1, 1, -1, 1)
    return torch.where((row / column(width)).floor() % 2 == 1, torch.full_like(x, WHITE), x)
