"""Procedural edits with a strength: exact ground truth for the analogy a : a' :: b : b'.

Every edit is a plain function of a batch of pictures and one number, so that b' is known exactly and the
strength is a dial that can be turned continuously. Pictures: [B, 3, n, n] in [-1, 1] on a white (+1) ground.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import InputError

WHITE, BLACK = 1.0, -1.0
GROUND_LEVEL = 0.92  # every channel above this (0.96 in [0, 1]) counts as white ground
RANGE_TOLERANCE = 1e-3  # decoded pictures may miss [-1, 1] by rounding

Function = Callable[[Tensor, float], Tensor]


@dataclass(frozen=True)
class Edit:
    """One kind of edit.

    kind: its name. unit: what the strength counts. apply: (pictures [B, 3, n, n] in [-1, 1], strength) -> the
    same shape. strengths: those that relations use, along the dial; of three or more, that at len // 2 lies
    between the others. range: lowest and highest strength of the dial. phrase: instructions, with {strength}
    where the words for the strength go; the last is held out of training. words: those words, one for each of
    the strengths.
    """

    kind: str
    unit: str
    apply: Function
    strengths: tuple[float, ...]
    range: tuple[float, float]
    phrase: tuple[str, ...]
    words: tuple[str, ...] = ()


def _luminance(x: Tensor) -> Tensor:
    """ITU-R 601 luma, [B, 1, n, n]; weights sum to one, so it maps [-1, 1] to [-1, 1]."""
    weight = x.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    return (x * weight).sum(1, keepdim=True)


def _colour(x: Tensor, hue: float, saturation: float, value: float) -> Tensor:
    """A colour in [0, 1] as [1, 3, 1, 1], hue in degrees."""
    return x.new_tensor(colorsys.hsv_to_rgb(hue / 360 % 1, saturation, value)).view(1, 3, 1, 1)


def _blend(edit: Callable[[Tensor], Tensor]) -> Function:
    """An edit that has no dial of its own gets one: 0 gives x back, 1 the full edit, linear between."""
    return lambda x, amount: torch.lerp(x, edit(x), amount)


def _in_unit(edit: Function) -> Function:
    """Run an edit that is written for [0, 1] on pictures in [-1, 1]."""
    return lambda x, strength: edit((x + 1) / 2, strength) * 2 - 1


# Colour


def _hue(x: Tensor, degrees: float) -> Tensor:
    """Turn the HSV hue; value and saturation, hence white and greys, stay."""
    value, low = x.amax(1), x.amin(1)
    chroma = value - low
    r, g, b = x.unbind(1)
    safe = chroma.clamp_min(1e-12)
    sextant = torch.where(value == r, (g - b) / safe, torch.where(value == g, (b - r) / safe + 2, (r - g) / safe + 4))
    sextant = sextant + degrees / 60
    channels = []
    for offset in (5, 3, 1):
        k = (sextant + offset) % 6
        channels.append(value - chroma * torch.minimum(k, 4 - k).clamp(0, 1))
    return torch.stack(channels, 1)


def _sepia(x: Tensor) -> Tensor:
    # A ramp from black to tan. The usual 3x3 matrix would clip, and a pale drawing on white would vanish.
    return (_luminance(x) + 1) * _colour(x, 33, 0.42, 1.0) - 1


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


def _background(x: Tensor, hue: float) -> Tensor:
    # The pixels next to the ground are antialiased against white: only their white part takes the colour,
    # otherwise a pale halo would stay.
    area = _neighbours(_ground(x)).unsqueeze(1)
    unit = (x + 1) / 2
    painted = unit - unit.amin(1, keepdim=True) * (1 - _colour(x, hue, 0.55, 0.95))
    return torch.where(area, painted * 2 - 1, x)


def _posterize(x: Tensor, levels: float) -> Tensor:
    return (torch.floor(x * (levels - 1) + 0.5) / (levels - 1)).clamp(0, 1)


# Neighbourhood


def _blur(x: Tensor, radius: float) -> Tensor:
    """A box of 2 radius + 1 pixels, twice along each axis; the outermost taps carry the fraction."""
    reach = math.ceil(radius)
    taps = (radius + 1 - torch.arange(-reach, reach + 1, device=x.device, dtype=x.dtype).abs()).clamp(0, 1)
    taps = taps / taps.sum()
    out = x.flatten(0, 1).unsqueeze(1)
    for _ in range(2):
        out = F.conv2d(F.pad(out, (reach, reach, 0, 0), mode="replicate"), taps.view(1, 1, 1, -1))
        out = F.conv2d(F.pad(out, (0, 0, reach, reach), mode="replicate"), taps.view(1, 1, -1, 1))
    return out.view_as(x)


def _pixelate(x: Tensor, block: float) -> Tensor:
    n = x.shape[-1]
    cells = max(1, round(n / block))
    return F.interpolate(F.adaptive_avg_pool2d(x, cells), size=(n, n), mode="nearest-exact")


def _thicken(x: Tensor, radius: float) -> Tensor:
    """Darkest pixel of a (2 radius + 1)-pixel square; a fractional radius mixes its two whole neighbours."""
    low = math.floor(radius)

    def darkest(r: int) -> Tensor:
        return -F.max_pool2d(-x, 2 * r + 1, stride=1, padding=r)

    return darkest(low) if radius == low else torch.lerp(darkest(low), darkest(low + 1), radius - low)


def _outline(x: Tensor, gain: float) -> Tensor:
    """Dark lines on white where a channel's Sobel gradient is large; a black-white step has magnitude 1."""
    step = x.new_tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]) / 4
    kernel = torch.stack([step, step.T]).unsqueeze(1)
    gradient = F.conv2d(F.pad(x.flatten(0, 1).unsqueeze(1), (1, 1, 1, 1), mode="replicate"), kernel)
    magnitude = gradient.square().sum(1).sqrt().view_as(x).amax(1, keepdim=True)
    return (1 - gain * magnitude).clamp(0, 1).expand_as(x)


# Geometry


def _coordinates(x: Tensor) -> tuple[Tensor, Tensor]:
    """Pixel centres as (right, down) in [-1, 1], each [n, n]."""
    n = x.shape[-1]
    line = (torch.arange(n, device=x.device, dtype=x.dtype) * 2 + 1) / n - 1
    down, right = torch.meshgrid(line, line, indexing="ij")
    return right, down


def _sample(x: Tensor, right: Tensor, down: Tensor) -> Tensor:
    """Bilinear look-up of x at the given places; white outside."""
    grid = torch.stack([right, down], -1).expand(len(x), -1, -1, -1)
    return F.grid_sample(x - WHITE, grid, mode="bilinear", padding_mode="zeros", align_corners=False) + WHITE


def _rotate(x: Tensor, degrees: float) -> Tensor:
    if degrees % 90 == 0:
        return torch.rot90(x, -int(degrees // 90), dims=(2, 3))
    right, down = _coordinates(x)
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return _sample(x, c * right + s * down, c * down - s * right)


def _swirl(x: Tensor, degrees: float) -> Tensor:
    """Turn by the full angle at the centre, falling linearly to nothing at the inscribed circle."""
    right, down = _coordinates(x)
    angle = math.radians(degrees) * (1 - (right.square() + down.square()).sqrt()).clamp_min(0)
    c, s = angle.cos(), angle.sin()
    return _sample(x, c * right + s * down, c * down - s * right)


def _wave(x: Tensor, pixels: float) -> Tensor:
    """Push rows sideways along two sine periods of the given amplitude."""
    right, down = _coordinates(x)
    return _sample(x, right - 2 * pixels / x.shape[-1] * torch.sin(2 * math.pi * down), down)


def _zoom(x: Tensor, factor: float) -> Tensor:
    right, down = _coordinates(x)
    return _sample(x, right / factor, down / factor)


def _shrink(x: Tensor, scale: float) -> Tensor:
    n = x.shape[-1]
    size = max(1, round(n * scale))
    before = (n - size) // 2
    after = n - size - before
    small = F.interpolate(x, size=(size, size), mode="bilinear", antialias=True, align_corners=False)
    return F.pad(small, (before, after, before, after), value=WHITE)


def _tile(x: Tensor, copies: float) -> Tensor:
    n, count = x.shape[-1], round(copies)
    size = math.ceil(n / count)
    small = F.interpolate(x, size=(size, size), mode="bilinear", antialias=True, align_corners=False)
    return small.repeat(1, 1, count, count)[:, :, :n, :n]


def _shift(x: Tensor, pixels: float) -> Tensor:
    low = math.floor(pixels)

    def right(k: int) -> Tensor:
        return F.pad(x, (k, -k), value=WHITE)

    return right(low) if pixels == low else torch.lerp(right(low), right(low + 1), pixels - low)


def _frame(x: Tensor, width: float) -> Tensor:
    n = x.shape[-1]
    index = torch.arange(n, device=x.device, dtype=x.dtype)
    distance = torch.minimum(index, n - 1 - index)
    cover = (width - torch.minimum(distance[:, None], distance[None])).clamp(0, 1)
    return x + (BLACK - x) * cover


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
        "tint", "degrees of hue", lambda x, hue: (x + 1) * _colour(x, hue, 0.6, 1.0) - 1,
        (0, 120, 240), (0, 360),
        ("tint everything {strength}", "look at it through {strength} glass", "bathe the whole scene in {strength}"),
        ("red", "green", "blue"),
    ),
    Edit(
        "darken", "of the light kept", lambda x, kept: (x + 1) * kept - 1, (0.65, 0.45, 0.25), (0, 1),
        ("make it {strength} darker", "darken it {strength}", "lower the brightness, {strength}"),
        ("a little", "clearly", "very much"),
    ),
    Edit(
        "fade", "of white", lambda x, amount: torch.lerp(x, torch.full_like(x, WHITE), amount),
        (0.4, 0.6, 0.8), (0, 1),
        ("fade it {strength} to white", "make it {strength} paler", "whiten it all over, {strength}"),
        ("a little", "clearly", "very much"),
    ),
    Edit(
        "saturate", "times", lambda x, factor: torch.lerp(_luminance(x).expand_as(x), x, factor),
        (0.3, 3), (0, 4),
        ("make the colours {strength}", "give it {strength} colours", "render it with {strength} saturation"),
        ("dull", "vivid"),
    ),
    Edit(
        "contrast", "times", lambda x, factor: x * factor, (0.4, 2), (0, 4),
        ("make the contrast {strength}", "give it {strength} contrast",
         "show {strength} differences between bright and dark"),
        ("weaker", "stronger"),
    ),
    Edit(
        "threshold", "level", _in_unit(lambda x, level: (_luminance(x) >= level).to(x).expand_as(x)),
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
        "pixelate", "pixels", _pixelate, (4, 8, 16), (1, 32),
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
        "shrink", "of the size", _shrink, (0.75, 0.55, 0.35), (0.1, 1),
        ("make it {strength} smaller", "shrink it {strength}", "scale it down, {strength}"),
        ("a little", "clearly", "very much"),
    ),
    Edit(
        "tile", "copies a side", _tile, (2, 3, 4), (1, 8),
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
        "shift", "pixels", _shift, (8, 16, 24), (0, 32),
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
)  # fmt: skip

EDITS: dict[str, Edit] = {edit.kind: edit for edit in _ALL}


def _lookup(kind: str, strength: float) -> tuple[Edit, float]:
    if kind not in EDITS:
        raise InputError(f"expected an edit of {', '.join(EDITS)}; got {kind!r}")
    edit = EDITS[kind]
    low, high = edit.range
    try:
        value = float(strength)
    except (TypeError, ValueError):
        raise InputError(f"expected a number as strength of {kind!r}; got {strength!r}") from None
    if not low <= value <= high:
        raise InputError(f"expected a strength of {kind!r} in [{low:g}, {high:g}] ({edit.unit}); got {strength!r}")
    return edit, value


def apply_edit(x: Tensor, kind: str, strength: float) -> Tensor:
    """Edit pictures exactly.

    x: floating point [B, 3, n, n] in [-1, 1], B >= 1. kind: a key of EDITS. strength: in EDITS[kind].range.
    Returns a new tensor of the same shape and dtype in [-1, 1]. Raises InputError for an unknown kind, a
    strength outside the range, or a tensor of another shape, type or range.
    """
    edit, value = _lookup(kind, strength)
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise InputError(f"expected a floating-point tensor; got {getattr(x, 'dtype', type(x).__name__)}")
    if x.ndim != 4 or x.shape[1] != 3 or x.shape[2] != x.shape[3] or not x.numel():
        raise InputError(f"expected square pictures [B, 3, n, n]; got {list(x.shape)}")
    low, high = (float(v) for v in x.aminmax())
    if not (low >= -1 - RANGE_TOLERANCE and high <= 1 + RANGE_TOLERANCE):
        raise InputError(f"expected values in [-1, 1]; got [{low:g}, {high:g}]")
    return edit.apply(x.clamp(-1, 1), value).clamp(-1, 1)


def relation_name(kind: str, strength: float) -> str:
    """The name of b -> edit(b): "edit/kind" at the only strength of a kind, else "edit/kind=strength".

    Raises InputError for an unknown kind or a strength outside its range.
    """
    edit, value = _lookup(kind, strength)
    return f"edit/{kind}" if edit.strengths == (value,) else f"edit/{kind}={value:g}"


def parse_relation(name: str) -> tuple[str, float]:
    """The (kind, strength) that relation_name wrote as `name`; raises InputError for any other string."""
    family, _, rest = name.partition("/")
    kind, equals, text = rest.partition("=")
    if family != "edit" or kind not in EDITS or (not equals and len(EDITS[kind].strengths) > 1):
        raise InputError(f"expected 'edit/kind' or 'edit/kind=strength'; got {name!r}")
    edit, value = _lookup(kind, text if equals else EDITS[kind].strengths[0])  # type: ignore[arg-type]
    return edit.kind, value


def edit_relations() -> list[str]:
    """Names of all edits at all their strengths."""
    return [relation_name(edit.kind, strength) for edit in _ALL for strength in edit.strengths]


def instructions(kind: str, strength: float) -> tuple[str, ...]:
    """Three or four ways to ask for the edit; off the listed strengths number and unit stand for words.

    The last way is held out of training.

    Raises InputError for an unknown kind or a strength outside its range.
    """
    edit, value = _lookup(kind, strength)
    if edit.words and value in edit.strengths:
        words = edit.words[edit.strengths.index(value)]
    else:
        words = f"{value:g} {edit.unit}"
    return tuple(phrase.format(strength=words) for phrase in edit.phrase)
