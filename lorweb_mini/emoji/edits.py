"""Procedural edits with a strength: exact ground truth for the analogy a : a' :: b : b'.

Every edit is a function of a batch of pictures, [B, 3, n, n] in [-1, 1] on a white (+1) ground, and one strength for
each of them: a number, or a vector for the kinds that need more (a channel matrix, a direction). A new edit is one
entry of the table below, with a function from :mod:`~lorweb_mini.emoji.pixels`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import InputError
from ..images import is_plain, kind_of
from . import pixels
from .pixels import DARK, PALE, WHITE, Function, blend, colour, column

RANGE_TOLERANCE = 1e-3  # decoded pictures may miss [-1, 1] by rounding

Strength = float | Sequence[float] | Tensor


@dataclass(frozen=True)
class Edit:
    """One kind of edit.

    Attributes:
        kind: its name.
        unit: what the strength counts.
        function: (pictures [B, 3, n, n] in [-1, 1], strengths [B], or [B, P] for P > 1 parameters) to the same shape.
        strengths: those that named relations use, in order; of three or more, that at len // 2 lies between the others.
        range: lowest and highest value of the strength, the same for each of its numbers.
        phrase: instructions, with {strength} where the words for the strength go; the last is held out of training.
        words: words for {strength}, of strengths from low to high, among them the named ones.
        parameters: how many numbers P a strength has.
    """

    kind: str
    unit: str
    function: Function
    strengths: tuple[float, ...]
    range: tuple[float, float]
    phrase: tuple[str, ...]
    words: dict[float, str] = field(default_factory=dict)
    parameters: int = 1

    def apply(self, x: Tensor, strength: Tensor) -> Tensor:
        """Pictures [B, 3, n, n] and strengths [B, P], both in range, to the edited pictures, clamped to [-1, 1]."""
        return self.function(x, strength[:, 0] if self.parameters == 1 else strength).clamp(-1, 1)


_TABLE = (
    Edit("hue", "degrees", pixels.turn_hue, (60, 120, 180, 240, 300), (0, 360),
         ("rotate the colours by {strength}", "shift the hue by {strength}", "turn all hues by {strength}",
          "move every colour {strength} around the colour wheel")),
    Edit("rotate", "degrees", pixels.rotate, (90, 180, 270), (0, 360),
         ("rotate it clockwise by {strength}", "turn the picture {strength} clockwise",
          "spin the whole image {strength} to the right")),
    Edit("flip_horizontal", "whole", lambda x, _: x.flip(3), (1,), (1, 1),
         ("flip it horizontally", "mirror it left to right", "swap left and right", "reverse it from side to side")),
    Edit("flip_vertical", "whole", lambda x, _: x.flip(2), (1,), (1, 1),
         ("flip it vertically", "mirror it top to bottom", "turn it upside down like a reflection in water",
          "reflect it so that up becomes down")),
    Edit("grey", "amount", blend(pixels.luminance), (1,), (0, 1),
         ("make it grey", "remove the colours", "convert it to black and white tones",
          "drain every bit of colour from it"),
         {0.25: "a quarter of the way", 0.5: "half of the way", 0.75: "almost wholly", 1: ""}),
    Edit("invert", "amount", blend(torch.neg), (1,), (0, 1),
         ("invert the colours", "make it a photographic negative", "replace each shade by its opposite")),
    Edit("sepia", "amount", pixels.sepia, (1,), (0, 1),
         ("make it sepia", "give it the brown tone of an old photograph", "colour it like a vintage snapshot")),
    Edit("swap_channels", "amount", blend(lambda x: x.flip(1)), (1,), (0, 1),
         ("swap red and blue", "exchange the red and the blue channel", "reorder the channels from RGB to BGR")),
    Edit("background", "degrees of hue", pixels.background, (0, 120, 220), (0, 360),
         ("make the background {strength}", "put it on a {strength} ground",
          "fill the empty space behind it with {strength}"),
         {0: "red", 120: "green", 220: "blue"}),
    Edit("tint", "degrees of hue", lambda x, hue: (x + 1) * colour(hue, *PALE) - 1, (0, 120, 240), (0, 360),
         ("tint everything {strength}", "look at it through {strength} glass", "bathe the whole scene in {strength}"),
         {0: "red", 120: "green", 240: "blue"}),
    Edit("darken", "of the light kept", lambda x, kept: (x + 1) * column(kept) - 1, (0.65, 0.45, 0.25), (0, 1),
         ("make it {strength} darker", "darken it {strength}", "lower the brightness, {strength}"),
         {0.05: "almost to black", 0.25: "very much", 0.45: "clearly", 0.65: "a little", 0.85: "barely"}),
    Edit("fade", "of white", blend(lambda x: torch.full_like(x, WHITE)), (0.4, 0.6, 0.8), (0, 1),
         ("fade it {strength} to white", "make it {strength} paler", "whiten it all over, {strength}"),
         {0.2: "barely", 0.4: "a little", 0.6: "clearly", 0.8: "very much", 0.95: "almost wholly"}),
    Edit("saturate", "times", lambda x, factor: torch.lerp(pixels.luminance(x), x, column(factor)), (0.3, 3), (0, 4),
         ("make the colours {strength}", "give it {strength} colours", "render it with {strength} saturation"),
         {0: "colourless", 0.3: "dull", 0.6: "slightly dull", 1.6: "slightly vivid", 3: "vivid", 4: "garish"}),
    Edit("contrast", "times", lambda x, factor: x * column(factor), (0.4, 2), (0, 4),
         ("make the contrast {strength}", "give it {strength} contrast",
          "show {strength} differences between bright and dark"),
         {0.2: "almost no", 0.4: "weaker", 0.7: "slightly weaker", 1.5: "slightly stronger", 2: "stronger",
          3: "extreme"}),
    Edit("threshold", "level", pixels.threshold, (0.7,), (0, 1),
         ("make it pure black and white", "keep two tones only, black and white", "threshold it",
          "make every pixel either black or white"),
         {0.5: "only what is very dark stays black", 0.6: "dark parts become black", 0.7: "half of it becomes black",
          0.8: "most of it becomes black", 0.9: "almost everything becomes black"}),
    Edit("posterize", "levels", pixels.posterize, (3,), (2, 16),
         ("posterize it", "use only a few flat colours", "reduce the number of shades to a handful")),
    Edit("blur", "pixels", pixels.blur, (1, 2, 4), (0, 8),
         ("blur it {strength}", "make it {strength} out of focus", "defocus it, {strength}"),
         {0.5: "barely", 1: "slightly", 2: "clearly", 4: "strongly", 6: "extremely"}),
    Edit("pixelate", "pixels", pixels.pixelate, (4, 8, 16), (1, 32),
         ("pixelate it with {strength} blocks", "make it a mosaic of {strength} squares",
          "redraw it as pixel art of a {strength} cell size"),
         {2: "tiny", 4: "small", 8: "medium", 16: "large", 24: "huge"}),
    Edit("thicken", "pixels", pixels.thicken, (0.5, 1, 2), (0, 6),
         ("make the dark lines {strength} thicker", "thicken every dark stroke {strength}",
          "make the black contours {strength} bolder"),
         {0.5: "a little", 1: "clearly", 2: "very much", 3: "enormously"}),
    Edit("outline", "gain", pixels.outline, (2,), (0.5, 4),
         ("draw only its outlines", "turn it into a line drawing", "keep nothing but the contours"),
         {0.5: "with faint lines", 1: "with thin lines", 2: "with clear lines", 4: "with heavy lines"}),
    Edit("shrink", "of the size", pixels.shrink, (0.75, 0.55, 0.35), (0.1, 1),
         ("make it {strength} smaller", "shrink it {strength}", "scale it down, {strength}"),
         {0.15: "to a dot", 0.35: "very much", 0.55: "clearly", 0.75: "a little", 0.9: "barely"}),
    Edit("tile", "copies a side", pixels.tile, (2, 3, 4), (1, 8),
         ("repeat it {strength}", "fill the picture with {strength} small copies",
          "lay out duplicates in a grid, {strength}"),
         {2: "two by two", 3: "three by three", 4: "four by four"}),
    Edit("zoom", "times", pixels.zoom, (1.3, 1.6, 2.2), (1, 4),
         ("zoom in {strength}", "show its middle enlarged {strength}", "magnify the central part {strength}"),
         {1.1: "1.1 times", 1.3: "1.3 times", 1.6: "1.6 times", 2.2: "2.2 times", 3: "3 times"}),
    Edit("shift", "pixels", lambda x, right: pixels.move(x, torch.stack([right, 0 * right], -1)), (8, 16, 24), (0, 32),
         ("move it {strength} to the right", "shift it right {strength}",
          "push it {strength} towards the right-hand edge"),
         {8: "a little", 16: "clearly", 24: "very far"}),
    Edit("frame", "pixels", pixels.frame, (4,), (0, 16),
         ("put a black frame around it", "add a black border", "draw a black rectangle along its edges"),
         {1: "very thin", 2: "thin", 4: "of medium width", 8: "wide"}),
    Edit("swirl", "degrees", pixels.swirl, (90, 150, 240), (-360, 360),
         ("swirl it {strength}", "twist it around its centre {strength}", "stir it like a whirlpool, {strength}"),
         {90: "a little", 150: "clearly", 240: "very much"}),
    Edit("wave", "pixels", pixels.wave, (3, 5, 8), (0, 12),
         ("make it {strength} wavy", "let it ripple {strength}", "warp it like a fluttering flag, {strength}"),
         {1.5: "barely", 3: "slightly", 5: "clearly", 8: "strongly"}),
    Edit("mix", "weights, row by row", pixels.mix_channels, (), (0, 1),
         ("mix the channels: {strength}", "exchange the colour channels: {strength}",
          "recombine red, green and blue: {strength}"), parameters=9),
    Edit("screen", "degrees of hue", lambda x, hue: 1 - (1 - x) * (1 - colour(hue, *DARK)), (), (0, 360),
         ("turn black into dark {strength}", "lighten the shadows with {strength}",
          "let {strength} light fall on all dark places")),
    Edit("move", "pixels right and down", pixels.move, (), (-32, 32),
         ("move it {strength}", "shift it {strength}", "push it {strength}"), parameters=2),
    Edit("duotone", "degrees of hue, dark and pale", pixels.duotone, (), (0, 360),
         ("print it in two colours, {strength}", "make it a duotone, {strength}", "use only two inks, {strength}"),
         parameters=2),
    Edit("transpose", "whole", lambda x, _: x.transpose(2, 3), (), (1, 1),
         ("mirror it along the diagonal", "swap rows and columns", "exchange across and down")),
    Edit("invert_lightness", "amount", pixels.invert_lightness, (), (0, 1),
         ("swap light and dark but keep the hues", "make it a negative in its own colours",
          "exchange bright and dark shades of every colour")),
    Edit("stencil", "degrees of hue", pixels.stencil, (), (0, 360),
         ("make it a {strength} stencil", "print its shape in {strength} ink", "show its {strength} silhouette")),
    Edit("mirror_half", "whole", lambda x, _: pixels.mirror_half(x), (), (1, 1),
         ("mirror its left half onto the right", "make it symmetric", "repeat the left side reversed on the right")),
    Edit("roll", "pixels", pixels.roll, (), (0, 64),
         ("roll it sideways {strength}", "wrap it around horizontally {strength}", "turn it like a drum {strength}")),
    Edit("ripple", "pixels", pixels.ripple, (), (0, 6),
         ("let rings of waves run through it", "drop a stone into it", "distort it in circles")),
    Edit("stripes", "pixels", pixels.stripes, (), (1, 16),
         ("cut it into white stripes", "lay white bars over it", "show it through a blind")),
)  # fmt: skip

EDITS: dict[str, Edit] = {edit.kind: edit for edit in _TABLE}


def _lookup(kind: str, strength: Strength) -> tuple[Edit, Tensor]:
    """The edit and its strengths as float32 [P] or [B, P]; the one number of a kind with P = 1 may be left bare."""
    if not isinstance(kind, str) or kind not in EDITS:
        raise InputError(f"expected an edit of {', '.join(EDITS)}; got {kind!r}")
    edit = EDITS[kind]
    low, high = edit.range
    try:
        value = torch.as_tensor(strength, dtype=torch.float32, device="cpu")
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
    if not isinstance(x, Tensor) or not is_plain(x) or not x.is_floating_point():
        raise InputError(f"expected a floating-point tensor; got {kind_of(x)}")
    if x.ndim != 4 or x.shape[1] != 3 or x.shape[2] != x.shape[3] or not x.numel():
        raise InputError(f"expected square pictures [B, 3, n, n]; got {list(x.shape)}")
    if value.ndim == 2 and len(value) != len(x):
        raise InputError(f"expected a strength for each of the {len(x)} pictures; got {len(value)}")
    low, high = (float(v) for v in x.detach().aminmax())
    if not (low >= -1 - RANGE_TOLERANCE and high <= 1 + RANGE_TOLERANCE):
        raise InputError(f"expected values in [-1, 1]; got [{low:g}, {high:g}]")
    return edit.apply(x.clamp(-1, 1), value.to(x).expand(len(x), edit.parameters))


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
    edit = EDITS.get(kind)
    if family != "edit" or edit is None or not (equals or len(edit.strengths) == 1 or edit.range == (1, 1)):
        raise InputError(f"expected 'edit/kind' or 'edit/kind=strength'; got {name!r}")
    if not equals:
        return kind, (edit.strengths or (1.0,))[0]
    try:
        numbers = tuple(float(t) for t in text.split(","))
    except ValueError:
        raise InputError(f"expected numbers as strength of {kind!r}; got {text!r}") from None
    strength: Strength = numbers[0] if len(numbers) == 1 else numbers
    _lookup(kind, strength)
    return kind, strength


def instructions(kind: str, strength: Strength) -> tuple[str, ...]:
    """Three or four ways to ask for the edit; off the listed strengths number and unit stand for words.

    The last way is held out of training. Raises InputError for an unknown kind or a strength outside its range.
    """
    edit, numbers = _one(kind, strength)
    words = edit.words.get(numbers[0]) if numbers[0] in edit.strengths else None
    words = words or f"{', '.join(f'{v:g}' for v in numbers)} {edit.unit}"
    return tuple(phrase.format(strength=words) for phrase in edit.phrase)


def chain_name(chain: Sequence[tuple[str, Strength]]) -> str:
    """``edit/kind=strength`` for one edit, ``compose/edit/…+edit/…`` for several."""
    parts = [relation_name(kind, strength) for kind, strength in chain]
    return parts[0] if len(parts) == 1 else f"compose/{'+'.join(parts)}"


def parse_chain(name: str) -> tuple[tuple[str, Strength], ...]:
    """Inverse of :func:`chain_name`; :class:`InputError` for a name with anything but edits in it."""
    parts = name.removeprefix("compose/").split("+edit/") if name.startswith("compose/") else [name]
    return tuple(parse_relation(part if i == 0 else f"edit/{part}") for i, part in enumerate(parts))
