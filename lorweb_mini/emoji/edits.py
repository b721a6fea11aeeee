"""Procedural edits with a strength: exact ground truth for the analogy a : a' :: b : b'.

Every edit is a function of a batch of pictures and one strength for each of them, so that b' is known exactly and the
strength can be varied continuously. A strength is one number, or a vector for the kinds that need more (a channel
matrix, a direction). Pictures: [B, 3, n, n] in [-1, 1] on a white (+1) ground.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import InputError

WHITE, BLACK = 1.0, -1.0
GROUND_LEVEL = 0.92  # every channel above this (0.96 in [0, 1]) counts as white ground
RANGE_TOLERANCE = 1e-3  # decoded pictures may miss [-1, 1] by rounding

Function = Callable[[Tensor, Tensor], Tensor]
Strength = float | Sequence[float] | Tensor


@dataclass(frozen=True)
class Edit:
    """One kind of edit.

    Attributes:
        kind: its name.
        unit: what the strength counts.
        apply: (pictures [B, 3, n, n] in [-1, 1], strengths [B], or [B, P] for P > 1 parameters) to the same shape.
        strengths: those that named relations use, in order; of three or more, that at len // 2 lies between the others.
        range: lowest and highest value of the strength, the same for each of its numbers.
        phrase: instructions, with {strength} where the words for the strength go; the last is held out of training.
        words: those words, one for each of the strengths.
        parameters: how many numbers P a strength has.
    """

    kind: str
    unit: str
    apply: Function
    strengths: tuple[float, ...]
    range: tuple[float, float]
    phrase: tuple[str, ...]
    words: tuple[str, ...] = ()
    parameters: int = 1


def _column(strength: Tensor) -> Tensor:
    """Strengths [B] as [B, 1, 1, 1]."""
    return strength.view(-1, 1, 1, 1)


def _luminance(x: Tensor) -> Tensor:
    """ITU-R 601 luma, [B, 1, n, n]; weights sum to one, so it maps [-1, 1] to [-1, 1]."""
    weight = x.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    return (x * weight).sum(1, keepdim=True)


def _colour(hue: Tensor, saturation: float, value: float) -> Tensor:
    """HSV colours of hues [B] in degrees, as RGB in [0, 1], [B, 3, 1, 1]."""
    k = (hue[:, None] / 60 + hue.new_tensor([5.0, 3.0, 1.0])) % 6
    return (value - value * saturation * torch.minimum(k, 4 - k).clamp(0, 1))[..., None, None]


def _blend(edit: Callable[[Tensor], Tensor]) -> Function:
    """An edit without a strength of its own gets one: 0 gives x back, 1 the full edit, linear between."""
    return lambda x, amount: torch.lerp(x, edit(x), _column(amount))


def _in_unit(edit: Function) -> Function:
    """Run an edit that is written for [0, 1] on pictures in [-1, 1]."""
    return lambda x, strength: edit((x + 1) / 2, strength) * 2 - 1


def _by_value(edit: Callable[[Tensor, float], Tensor], key: Callable[[Tensor, int], Tensor]) -> Function:
    """An edit that takes one setting for a whole batch, applied to the groups of samples that share it.

    key: (strengths [B], side of the pictures in pixels) to the settings [B].
    """

    def apply(x: Tensor, strength: Tensor) -> Tensor:
        values = key(strength, x.shape[-1])
        out = torch.empty_like(x)
        for value in values.unique().tolist():
            rows = values == value
            out[rows] = edit(x[rows], value)
        return out

    return apply


# Colour


def _hue(x: Tensor, degrees: Tensor) -> Tensor:
    """Turn the HSV hue; value and saturation, hence white and greys, stay."""
    value, low = x.amax(1), x.amin(1)
    chroma = value - low
    r, g, b = x.unbind(1)
    safe = chroma.clamp_min(1e-12)
    sextant = torch.where(value == r, (g - b) / safe, torch.where(value == g, (b - r) / safe + 2, (r - g) / safe + 4))
    sextant = sextant + degrees.view(-1, 1, 1) / 60
    channels = []
    for offset in (5, 3, 1):
        k = (sextant + offset) % 6
        channels.append(value - chroma * torch.minimum(k, 4 - k).clamp(0, 1))
    return torch.stack(channels, 1)


def _sepia(x: Tensor) -> Tensor:
    # A ramp from black to tan. The usual 3x3 matrix would clip, and a pale drawing on white would vanish.
    return (_luminance(x) + 1) * _colour(x.new_tensor([33.0]), 0.42, 1.0) - 1


def _mix(x: Tensor, weights: Tensor) -> Tensor:
    """Each channel becomes a weighted mean of the three; [B, 9] are the rows of a matrix, divided by their sums."""
    matrix = weights.view(-1, 3, 3)
    return torch.einsum("bij,bjhw->bihw", matrix / matrix.sum(-1, keepdim=True).clamp_min(1e-6), x)


def _tint(x: Tensor, hue: Tensor) -> Tensor:
    return (x + 1) * _colour(hue, 0.6, 1.0) - 1


def _screen(x: Tensor, hue: Tensor) -> Tensor:
    """The negative of tinting the negative: black becomes a dark colour, white stays."""
    return 1 - (1 - x) * (1 - _colour(hue, 1.0, 0.65))


def _duotone(x: Tensor, hues: Tensor) -> Tensor:
    """Luminance as a ramp from a dark colour to a pale one; their hues [B, 2]."""
    dark, pale = _colour(hues[:, 0], 1.0, 0.65), _colour(hues[:, 1], 0.6, 1.0)
    return (dark + (1 - dark) * (_luminance(x) + 1) / 2) * pale * 2 - 1


def _invert_lightness(x: Tensor) -> Tensor:
    """The HSL lightness is inverted; hue and chroma stay."""
    return x - x.amax(1, keepdim=True) - x.amin(1, keepdim=True)


def _stencil(x: Tensor, hue: Tensor) -> Tensor:
    """Everything darker than a luminance of 0.7 becomes one dark colour, the rest white."""
    ink = (_luminance(x) < 0.4).to(x)
    return 1 - ink * 2 * (1 - _colour(hue, 1.0, 0.65))


def _ground(x: Tensor) -> Tensor:
    """Near-white pixels that a 4-connected path of such pixels joins to the border: bool [B, n, n]."""
    white = (x > GROUND_LEVEL).all(1)
    reached = white.clone()
    reached[:, 1:-1, 1:-1] = False
    count = -1
    while (now := int(reached.sum())) != count:
        count = now
        reached = _neighbours(reached) & white
    return reached


def _neighbours(mask: Tensor) -> Tensor:
    """The mask [B, n, n] and its four neighbours."""
    grown = mask.clone()
    grown[:, 1:] |= mask[:, :-1]
    grown[:, :-1] |= mask[:, 1:]
    grown[:, :, 1:] |= mask[:, :, :-1]
    grown[:, :, :-1] |= mask[:, :, 1:]
    return grown


def _background(x: Tensor, hue: Tensor) -> Tensor:
    # The pixels next to the ground are antialiased against white: only their white part takes the colour,
    # otherwise a pale halo would stay.
    area = _neighbours(_ground(x)).unsqueeze(1)
    unit = (x + 1) / 2
    painted = unit - unit.amin(1, keepdim=True) * (1 - _colour(hue, 0.55, 0.95))
    return torch.where(area, painted * 2 - 1, x)


def _posterize(x: Tensor, levels: Tensor) -> Tensor:
    steps = _column(levels) - 1
    return (torch.floor(x * steps + 0.5) / steps).clamp(0, 1)


# Neighbourhood


def _blur(x: Tensor, radius: Tensor) -> Tensor:
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


def _pixelate(x: Tensor, cells: float) -> Tensor:
    return F.interpolate(F.adaptive_avg_pool2d(x, int(cells)), size=x.shape[2:], mode="nearest-exact")


def _thicken(x: Tensor, radius: Tensor) -> Tensor:
    """Darkest pixel of a (2 radius + 1)-pixel square; a fractional radius mixes its two whole neighbours."""

    def darkest(x: Tensor, r: float) -> Tensor:
        return -F.max_pool2d(-x, 2 * int(r) + 1, stride=1, padding=int(r))

    low = _by_value(darkest, lambda r, _: r.floor())(x, radius)
    return torch.lerp(low, _by_value(darkest, lambda r, _: r.ceil())(x, radius), _column(radius - radius.floor()))


def _outline(x: Tensor, gain: Tensor) -> Tensor:
    """Dark lines on white where a channel's Sobel gradient is large; a black-white step has magnitude 1."""
    step = x.new_tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]) / 4
    kernel = torch.stack([step, step.T]).unsqueeze(1)
    gradient = F.conv2d(F.pad(x.flatten(0, 1).unsqueeze(1), (1, 1, 1, 1), mode="replicate"), kernel)
    magnitude = gradient.square().sum(1).sqrt().view_as(x).amax(1, keepdim=True)
    return (1 - _column(gain) * magnitude).clamp(0, 1).expand_as(x)


# Geometry


def _coordinates(x: Tensor) -> tuple[Tensor, Tensor]:
    """Pixel centres as (right, down) in [-1, 1], each [n, n]."""
    n = x.shape[-1]
    line = (torch.arange(n, device=x.device, dtype=x.dtype) * 2 + 1) / n - 1
    down, right = torch.meshgrid(line, line, indexing="ij")
    return right, down


def _sample(x: Tensor, right: Tensor, down: Tensor) -> Tensor:
    """Bilinear look-up of x at places [B, n, n] or [n, n]; white outside."""
    grid = torch.stack(torch.broadcast_tensors(right, down), -1).expand(len(x), -1, -1, -1)
    return F.grid_sample(x - WHITE, grid, mode="bilinear", padding_mode="zeros", align_corners=False) + WHITE


def _turned(x: Tensor, angle: Tensor) -> Tensor:
    """Look-up turned clockwise by angles in radians, [B, 1, 1] or [B, n, n]."""
    right, down = _coordinates(x)
    c, s = angle.cos(), angle.sin()
    return _sample(x, c * right + s * down, c * down - s * right)


def _rotate(x: Tensor, degrees: Tensor) -> Tensor:
    quarter = degrees % 90 == 0
    out = torch.empty_like(x)
    if bool(quarter.any()):  # exact, without resampling
        exact = _by_value(lambda x, turns: torch.rot90(x, -int(turns), dims=(2, 3)), lambda d, _: (d / 90).round() % 4)
        out[quarter] = exact(x[quarter], degrees[quarter])
    if not bool(quarter.all()):
        out[~quarter] = _turned(x[~quarter], torch.deg2rad(degrees[~quarter]).view(-1, 1, 1))
    return out


def _swirl(x: Tensor, degrees: Tensor) -> Tensor:
    """Turn by the full angle at the centre, falling linearly to nothing at the inscribed circle."""
    right, down = _coordinates(x)
    falling = (1 - (right.square() + down.square()).sqrt()).clamp_min(0)
    return _turned(x, torch.deg2rad(degrees).view(-1, 1, 1) * falling)


def _wave(x: Tensor, pixels: Tensor) -> Tensor:
    """Push rows sideways along two sine periods of the given amplitude."""
    right, down = _coordinates(x)
    push = 2 * pixels.view(-1, 1, 1) / x.shape[-1] * torch.sin(2 * math.pi * down)
    return _sample(x, right - push, down.expand_as(push))


def _ripple(x: Tensor, pixels: Tensor) -> Tensor:
    """Push pixels outwards and inwards along three sine periods of the radius."""
    right, down = _coordinates(x)
    radius = (right.square() + down.square()).sqrt().clamp_min(1e-6)
    push = 2 * pixels.view(-1, 1, 1) / x.shape[-1] * torch.sin(6 * math.pi * radius) / radius
    return _sample(x, right * (1 - push), down * (1 - push))


def _zoom(x: Tensor, factor: Tensor) -> Tensor:
    right, down = _coordinates(x)
    factor = factor.view(-1, 1, 1)
    return _sample(x, right / factor, down / factor)


def _shrink(x: Tensor, size: float) -> Tensor:
    n, size = x.shape[-1], int(size)
    before = (n - size) // 2
    after = n - size - before
    small = F.interpolate(x, size=(size, size), mode="bilinear", antialias=True, align_corners=False)
    return F.pad(small, (before, after, before, after), value=WHITE)


def _tile(x: Tensor, copies: float) -> Tensor:
    n, count = x.shape[-1], int(copies)
    size = math.ceil(n / count)
    small = F.interpolate(x, size=(size, size), mode="bilinear", antialias=True, align_corners=False)
    return small.repeat(1, 1, count, count)[:, :, :n, :n]


def _move(x: Tensor, pixels: Tensor) -> Tensor:
    """Shift by [B, 2] pixels to the right and down."""
    right, down = _coordinates(x)
    by = 2 * pixels / x.shape[-1]
    return _sample(x, right - by[:, :1, None], down - by[:, 1:, None])


def _mirror_half(x: Tensor) -> Tensor:
    n = x.shape[-1]
    return torch.cat([x[..., : n // 2], x[..., : n - n // 2].flip(3)], 3)


def _frame(x: Tensor, width: Tensor) -> Tensor:
    n = x.shape[-1]
    index = torch.arange(n, device=x.device, dtype=x.dtype)
    distance = torch.minimum(index, n - 1 - index)
    cover = (_column(width) - torch.minimum(distance[:, None], distance[None])).clamp(0, 1)
    return x + (BLACK - x) * cover


def _stripes(x: Tensor, width: Tensor) -> Tensor:
    """Every second band of rows, so many pixels high, becomes white."""
    row = torch.arange(x.shape[-1], device=x.device, dtype=x.dtype).view(1, 1, -1, 1)
    return torch.where((row / _column(width)).floor() % 2 == 1, torch.full_like(x, WHITE), x)


_ALL = (
    Edit(
        "hue", "degrees", _hue, (60, 120, 180, 240, 300), (0, 360),
        ("rotate the colours by {strength}", "shift the hue by {strength}", "turn all hues by {strength}",
         "move every colour {strength} around the colour wheel"),
        tuple(f"{d} degrees" for d in (60, 120, 180, 240, 300)),
    ),
    Edit(
        "rotate", "degrees", _rotate, (90, 180, 270), (0, 360),
        ("rotate it clockwise by {strength}", "turn the picture {strength} clockwise",
         "spin the whole image {strength} to the right"),
        ("90 degrees", "180 degrees", "270 degrees"),
    ),
    Edit(
        "flip_horizontal", "whole", lambda x, _: x.flip(3), (1,), (1, 1),
        ("flip it horizontally", "mirror it left to right", "swap left and right", "reverse it from side to side"),
    ),
    Edit(
        "flip_vertical", "whole", lambda x, _: x.flip(2), (1,), (1, 1),
        ("flip it vertically", "mirror it top to bottom", "turn it upside down like a reflection in water",
         "reflect it so that up becomes down"),
    ),
    Edit(
        "grey", "amount", _blend(lambda x: _luminance(x).expand_as(x)), (1,), (0, 1),
        ("make it grey", "remove the colours", "convert it to black and white tones",
         "drain every bit of colour from it"),
    ),
    Edit(
        "invert", "amount", _blend(torch.neg), (1,), (0, 1),
        ("invert the colours", "make it a photographic negative", "replace each shade by its opposite"),
    ),
    Edit(
        "sepia", "amount", _blend(_sepia), (1,), (0, 1),
        ("make it sepia", "give it the brown tone of an old photograph", "colour it like a vintage snapshot"),
    ),
    Edit(
        "swap_channels", "amount", _blend(lambda x: x.flip(1)), (1,), (0, 1),
        ("swap red and blue", "exchange the red and the blue channel", "reorder the channels from RGB to BGR"),
    ),
    Edit(
        "background", "degrees of hue", _background, (0, 120, 220), (0, 360),
        ("make the background {strength}", "put it on a {strength} ground",
         "fill the empty space behind it with {strength}"),
        ("red", "green", "blue"),
    ),
    Edit(
        "tint", "degrees of hue", _tint, (0, 120, 240), (0, 360),
        ("tint everything {strength}", "look at it through {strength} glass", "bathe the whole scene in {strength}"),
        ("red", "green", "blue"),
    ),
    Edit(
        "darken", "of the light kept", lambda x, kept: (x + 1) * _column(kept) - 1, (0.65, 0.45, 0.25), (0, 1),
        ("make it {strength} darker", "darken it {strength}", "lower the brightness, {strength}"),
        ("a little", "clearly", "very much"),
    ),
    Edit(
        "fade", "of white", _blend(lambda x: torch.full_like(x, WHITE)),
        (0.4, 0.6, 0.8), (0, 1),
        ("fade it {strength} to white", "make it {strength} paler", "whiten it all over, {strength}"),
        ("a little", "clearly", "very much"),
    ),
    Edit(
        "saturate", "times", lambda x, factor: torch.lerp(_luminance(x).expand_as(x), x, _column(factor)),
        (0.3, 3), (0, 4),
        ("make the colours {strength}", "give it {strength} colours", "render it with {strength} saturation"),
        ("dull", "vivid"),
    ),
    Edit(
        "contrast", "times", lambda x, factor: x * _column(factor), (0.4, 2), (0, 4),
        ("make the contrast {strength}", "give it {strength} contrast",
         "show {strength} differences between bright and dark"),
        ("weaker", "stronger"),
    ),
    Edit(
        "threshold", "level", _in_unit(lambda x, level: (_luminance(x) >= _column(level)).to(x).expand_as(x)),
        (0.7,), (0, 1),
        ("make it pure black and white", "keep two tones only, black and white", "threshold it",
         "make every pixel either black or white"),
    ),
    Edit(
        "posterize", "levels", _in_unit(_posterize), (3,), (2, 16),
        ("posterize it", "use only a few flat colours", "reduce the number of shades to a handful"),
    ),
    Edit(
        "blur", "pixels", _blur, (1, 2, 4), (0, 8),
        ("blur it {strength}", "make it {strength} out of focus", "defocus it, {strength}"),
        ("slightly", "clearly", "strongly"),
    ),
    Edit(
        "pixelate", "pixels",
        _by_value(_pixelate, lambda block, side: (side / block).round().clamp_min(1)), (4, 8, 16), (1, 32),
        ("pixelate it with {strength} blocks", "make it a mosaic of {strength} squares",
         "redraw it as pixel art of a {strength} cell size"),
        ("small", "medium", "large"),
    ),
    Edit(
        "thicken", "pixels", _thicken, (0.5, 1, 2), (0, 6),
        ("make the dark lines {strength} thicker", "thicken every dark stroke {strength}",
         "make the black contours {strength} bolder"),
        ("a little", "clearly", "very much"),
    ),
    Edit(
        "outline", "gain", _in_unit(_outline), (2,), (0.5, 4),
        ("draw only its outlines", "turn it into a line drawing", "keep nothing but the contours"),
    ),
    Edit(
        "shrink", "of the size",
        _by_value(_shrink, lambda scale, side: (side * scale).round().clamp_min(1)), (0.75, 0.55, 0.35), (0.1, 1),
        ("make it {strength} smaller", "shrink it {strength}", "scale it down, {strength}"),
        ("a little", "clearly", "very much"),
    ),
    Edit(
        "tile", "copies a side", _by_value(_tile, lambda copies, _: copies.round()), (2, 3, 4), (1, 8),
        ("repeat it {strength}", "fill the picture with {strength} small copies",
         "lay out duplicates in a grid, {strength}"),
        ("two by two", "three by three", "four by four"),
    ),
    Edit(
        "zoom", "times", _zoom, (1.3, 1.6, 2.2), (1, 4),
        ("zoom in {strength}", "show its middle enlarged {strength}", "magnify the central part {strength}"),
        ("1.3 times", "1.6 times", "2.2 times"),
    ),
    Edit(
        "shift", "pixels", lambda x, pixels: _move(x, torch.stack([pixels, 0 * pixels], -1)), (8, 16, 24), (0, 32),
        ("move it {strength} to the right", "shift it right {strength}",
         "push it {strength} towards the right-hand edge"),
        ("a little", "clearly", "very far"),
    ),
    Edit(
        "frame", "pixels", _frame, (4,), (0, 16),
        ("put a black frame around it", "add a black border", "draw a black rectangle along its edges"),
    ),
    Edit(
        "swirl", "degrees", _swirl, (90, 150, 240), (-360, 360),
        ("swirl it {strength}", "twist it around its centre {strength}", "stir it like a whirlpool, {strength}"),
        ("a little", "clearly", "very much"),
    ),
    Edit(
        "wave", "pixels", _wave, (3, 5, 8), (0, 12),
        ("make it {strength} wavy", "let it ripple {strength}", "warp it like a fluttering flag, {strength}"),
        ("slightly", "clearly", "strongly"),
    ),
    Edit(
        "mix", "weights, row by row", _mix, (), (0, 1),
        ("mix the channels: {strength}", "exchange the colour channels: {strength}",
         "recombine red, green and blue: {strength}"),
        parameters=9,
    ),
    Edit(
        "screen", "degrees of hue", _screen, (), (0, 360),
        ("turn black into dark {strength}", "lighten the shadows with {strength}",
         "let {strength} light fall on all dark places"),
    ),
    Edit(
        "move", "pixels right and down", _move, (), (-32, 32),
        ("move it {strength}", "shift it {strength}", "push it {strength}"),
        parameters=2,
    ),
    Edit(
        "duotone", "degrees of hue, dark and pale", _duotone, (), (0, 360),
        ("print it in two colours, {strength}", "make it a duotone, {strength}", "use only two inks, {strength}"),
        parameters=2,
    ),
    Edit(
        "transpose", "whole", lambda x, _: x.transpose(2, 3), (), (1, 1),
        ("mirror it along the diagonal", "swap rows and columns", "exchange across and down"),
    ),
    Edit(
        "invert_lightness", "amount", _blend(_invert_lightness), (), (0, 1),
        ("swap light and dark but keep the hues", "make it a negative in its own colours",
         "exchange bright and dark shades of every colour"),
    ),
    Edit(
        "stencil", "degrees of hue", _stencil, (), (0, 360),
        ("make it a {strength} stencil", "print its shape in {strength} ink", "show its {strength} silhouette"),
    ),
    Edit(
        "mirror_half", "whole", lambda x, _: _mirror_half(x), (), (1, 1),
        ("mirror its left half onto the right", "make it symmetric", "repeat the left side reversed on the right"),
    ),
    Edit(
        "roll", "pixels", _by_value(lambda x, by: x.roll(int(by), 3), lambda pixels, _: pixels.round()), (), (0, 64),
        ("roll it sideways {strength}", "wrap it around horizontally {strength}", "turn it like a drum {strength}"),
    ),
    Edit(
        "ripple", "pixels", _ripple, (), (0, 6),
        ("let rings of waves run through it", "drop a stone into it", "distort it in circles"),
    ),
    Edit(
        "stripes", "pixels", _stripes, (), (1, 16),
        ("cut it into white stripes", "lay white bars over it", "show it through a blind"),
    ),
)  # fmt: skip

EDITS: dict[str, Edit] = {edit.kind: edit for edit in _ALL}


def _lookup(kind: str, strength: Strength) -> tuple[Edit, Tensor]:
    """The edit and its strengths as float32 [P] or [B, P]; the one number of a kind with P = 1 may be left bare."""
    if kind not in EDITS:
        raise InputError(f"expected an edit of {', '.join(EDITS)}; got {kind!r}")
    edit = EDITS[kind]
    low, high = edit.range
    try:
        value = torch.as_tensor(strength, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"expected numbers as strength of {kind!r}; got {strength!r}") from None
    if edit.parameters == 1:
        value = value[..., None]
    if value.ndim not in (1, 2) or value.shape[-1] != edit.parameters:
        expected = "one number" if edit.parameters == 1 else f"{edit.parameters} numbers"
        raise InputError(f"expected {expected} as strength of {kind!r}, or that for each picture; got {strength!r}")
    if not bool(((value >= low) & (value <= high)).all()):
        raise InputError(f"expected a strength of {kind!r} in [{low:g}, {high:g}] ({edit.unit}); got {strength!r}")
    return edit, value


def _one(kind: str, strength: Strength) -> tuple[Edit, tuple[float, ...]]:
    """The edit and the numbers of a single strength, rounded to four digits behind the point."""
    edit, value = _lookup(kind, strength)
    if value.ndim != 1:
        raise InputError(f"expected one strength of {kind!r}; got {strength!r}")
    return edit, tuple(round(v, 4) for v in value.tolist())


def apply_edit(x: Tensor, kind: str, strength: Strength) -> Tensor:
    """Edit pictures exactly.

    Args:
        x: floating point [B, 3, n, n] in [-1, 1], B >= 1.
        kind: a key of :data:`EDITS`.
        strength: within ``EDITS[kind].range``: one number for all pictures or [B], one for each; kinds with P > 1
            parameters take [P] or [B, P].

    Returns:
        A new tensor of the same shape and dtype in [-1, 1].

    Raises:
        InputError: an unknown kind, a strength of another shape or outside the range, or a tensor of another shape,
            type or range.
    """
    edit, value = _lookup(kind, strength)
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise InputError(f"expected a floating-point tensor; got {getattr(x, 'dtype', type(x).__name__)}")
    if x.ndim != 4 or x.shape[1] != 3 or x.shape[2] != x.shape[3] or not x.numel():
        raise InputError(f"expected square pictures [B, 3, n, n]; got {list(x.shape)}")
    if value.ndim == 2 and len(value) != len(x):
        raise InputError(f"expected a strength for each of the {len(x)} pictures; got {len(value)}")
    low, high = (float(v) for v in x.aminmax())
    if not (low >= -1 - RANGE_TOLERANCE and high <= 1 + RANGE_TOLERANCE):
        raise InputError(f"expected values in [-1, 1]; got [{low:g}, {high:g}]")
    value = value.to(x).expand(len(x), edit.parameters)
    return edit.apply(x.clamp(-1, 1), value[:, 0] if edit.parameters == 1 else value).clamp(-1, 1)


def relation_name(kind: str, strength: Strength) -> str:
    """The name of b -> edit(b): "edit/kind" at the only strength of a kind, else "edit/kind=strength".

    Several numbers are separated by commas. Raises InputError for an unknown kind or a strength outside its range.
    """
    edit, numbers = _one(kind, strength)
    if numbers == edit.strengths or edit.range == (1, 1):
        return f"edit/{kind}"
    return f"edit/{kind}={','.join(f'{v:g}' for v in numbers)}"


def parse_relation(name: str) -> tuple[str, Strength]:
    """The (kind, strength) that relation_name wrote as `name`; raises InputError for any other string."""
    family, _, rest = name.partition("/")
    kind, equals, text = rest.partition("=")
    only = kind in EDITS and (len(EDITS[kind].strengths) == 1 or EDITS[kind].range == (1, 1))
    if family != "edit" or kind not in EDITS or (not equals and not only):
        raise InputError(f"expected 'edit/kind' or 'edit/kind=strength'; got {name!r}")
    if not equals:
        return kind, (EDITS[kind].strengths or (1.0,))[0]
    try:
        numbers = tuple(float(t) for t in text.split(","))
    except ValueError:
        raise InputError(f"expected numbers as strength of {kind!r}; got {text!r}") from None
    strength: Strength = numbers[0] if len(numbers) == 1 else numbers
    _lookup(kind, strength)
    return kind, strength


def edit_relations() -> list[str]:
    """Names of all edits at all their strengths."""
    return [relation_name(edit.kind, strength) for edit in _ALL for strength in edit.strengths]


def instructions(kind: str, strength: Strength) -> tuple[str, ...]:
    """Three or four ways to ask for the edit; off the listed strengths number and unit stand for words.

    The last way is held out of training.

    Raises InputError for an unknown kind or a strength outside its range.
    """
    edit, numbers = _one(kind, strength)
    if edit.words and numbers[0] in edit.strengths:
        words = edit.words[edit.strengths.index(numbers[0])]
    else:
        words = f"{', '.join(f'{v:g}' for v in numbers)} {edit.unit}"
    return tuple(phrase.format(strength=words) for phrase in edit.phrase)
