"""Analogies of one's own: three pictures from the data, from files or drawn, and how the editor's answer is judged."""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ..analysis.evaluation import reconstruct, squared
from ..analysis.space import routing_vectors
from ..core.editor import Editor
from ..emoji.edits import Strength
from ..emoji.relations import STYLE_NAMES, Analogy, analogies, differ, get_relation, relations
from ..emoji.sheets import STYLES, load_emoji
from ..errors import InputError, finite_number
from ..images import MAX_PIXELS, SIZE, read_image
from ..models.base import STEPS

NAMES = {"a": "a", "a_prime": "a′", "b": "b"}
PEN_MAX, POINTS_MAX = 24.0, 10_000
FINER = 4  # a stroke is drawn this many times larger, then shrunk: smooth edges
MEAN_OF, NEIGHBOURS = 6, 6  # analogies behind a relation's mean; relations in a list


@dataclass(frozen=True, eq=False)
class Slot:
    """One of the three pictures of a question.

    Attributes:
        picture: [3, 64, 64] in [-1, 1]. caption: what it is, for the reader, in one or two lines.
        drawing: emoji and style (their positions) if it is an artist's drawing, else None.
        edits: applied to that drawing, as in :attr:`~lorweb_mini.emoji.relations.Relation.edits`.
    """

    picture: Tensor
    caption: str
    drawing: tuple[int, int] | None = None
    edits: tuple[tuple[str, Strength], ...] = ()


def drawn(emoji: int, style: int, edits: tuple[tuple[str, Strength], ...] = (), picture: Tensor | None = None) -> Slot:
    """The slot of an artist's drawing, or of ``picture``, which shows that drawing after some edits."""
    data = load_emoji()
    name = f"{data.emojis[emoji].name}{', edited' if edits else ''}"
    picture = data.tensor(emoji, style)[0] if picture is None else picture
    return Slot(picture, f"{name}\n{STYLE_NAMES[STYLES[style]]}", (emoji, style), edits)


def slots_of(analogy: Analogy) -> dict[str, Slot]:
    """a, a' and b of an analogy from the data, with where they come from."""
    slots = {}
    for name, key in zip(NAMES, analogy.keys[:3], strict=True):
        emoji, _, style = key.rpartition("@")
        edits = get_relation(analogy.relation).edits if name == "a_prime" else ()
        slots[name] = drawn(load_emoji().index[emoji], STYLES.index(style), edits, getattr(analogy, name))
    return slots


def read_upload(content: bytes, name: str) -> Tensor:
    """The bytes of a picture file to [3, 64, 64]; InputError, which begins with ``name``, if they are none."""
    try:
        with warnings.catch_warnings():
            # Pillow's own limits on size come later or never; read_image has ours.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(content))
    except Exception as error:  # decoders raise nearly every built-in exception on damaged files
        raise InputError(
            f"{name}: expected a picture file, such as PNG, JPEG or WebP, of at most {MAX_PIXELS // 10**6} megapixels; "
            f"got {len(content):,} bytes that are none"
        ) from error
    return read_image(picture, name)


def paint(picture: Tensor, points: Sequence[Sequence[float]], colour: str, size: float) -> Tensor:
    """A picture [3, 64, 64] after one stroke of a round pen.

    Args:
        points: [x, y] of each point of the stroke, in pixels from the upper left corner.
        colour: ``#rrggbb``.
        size: diameter of the pen in pixels, above 0 and up to 24.

    Raises:
        InputError: no points, too many, one that is not a pair of finite numbers; another colour or size.
    """
    radius = FINER * finite_number(size, "a pen's size", 0, PEN_MAX, above=True) / 2
    if not isinstance(colour, str) or not re.fullmatch("#[0-9a-fA-F]{6}", colour):
        raise InputError(f"expected a colour as #rrggbb, got {colour!r}")
    if not 1 <= len(points) <= POINTS_MAX or any(np.shape(point) != (2,) for point in points):
        raise InputError(f"expected 1 to {POINTS_MAX:,} points [x, y], got {len(points)}: {points!r:.80}")
    where = np.array(points)
    if where.dtype.kind not in "iuf" or not np.isfinite(where).all():
        raise InputError(f"expected points [x, y] of finite numbers, got {points!r:.80}")
    # Far outside nothing is seen, and Pillow's numbers are small.
    places = [tuple(place) for place in (FINER * where.clip(-SIZE, 2 * SIZE)).tolist()]
    cover = Image.new("L", (FINER * SIZE, FINER * SIZE))
    pen = ImageDraw.Draw(cover)
    pen.line(places, fill=255, width=max(1, round(2 * radius)))
    for place in places:
        pen.circle(place, radius, fill=255)
    alpha = torch.from_numpy(np.array(cover.resize((SIZE, SIZE), Image.Resampling.BOX))).float() / 255
    ink = picture.new_tensor([int(colour[i : i + 2], 16) for i in (1, 3, 5)]).view(3, 1, 1) / 127.5 - 1
    return torch.lerp(picture, ink.expand_as(picture), alpha.expand_as(picture))


def known_relations(a: Slot, a_prime: Slot) -> list[str]:
    """Names of the relations that have (a, a') as one of their pairs; a drawing with an edit starts none."""
    if a.drawing is None or a_prime.drawing is None or a.edits:
        return []
    row = (*a.drawing, *a_prime.drawing)
    known = relations().items()
    return [name for name, x in known if x.edits == a_prime.edits and (x.all_pairs == row).all(1).any()]


def true_answers(names: Iterable[str], b: Slot) -> list[tuple[str, Tensor]]:
    """Where relations lead from b: name and true b' [3, 64, 64] of each pair that starts there.

    Answers that look like b, or like one before them, are left out.
    """
    if b.drawing is None or b.edits:
        return []
    answers: list[tuple[str, Tensor]] = []
    for name in names:
        relation = get_relation(name)
        rows = relation.all_pairs[(relation.all_pairs[:, :2] == b.drawing).all(1)]
        for picture in relation.pictures(rows)[1]:
            others = torch.stack([b.picture, *(shown for _, shown in answers)])
            if bool(differ(picture.expand_as(others), others).all()):
                answers.append((name, picture))
    return answers


@dataclass(frozen=True, eq=False)
class Answer:
    """What the editor makes of three pictures.

    Attributes:
        picture: its b', [3, 64, 64]. coefficients: its mixture, [layers, N].
        names: relations that have (a, a') as a pair.
        relation, truth: the relation that leads on from b and the true b', of ``truths`` different ones the nearest to
            ``picture``; None where there is none.
        error: normalised error against the truth (see :mod:`~lorweb_mini.analysis.evaluation`), NaN without one.
    """

    picture: Tensor
    coefficients: Tensor
    names: tuple[str, ...] = ()
    relation: str | None = None
    truth: Tensor | None = None
    truths: int = 0
    error: float = math.nan


def solve(editor: Editor, slots: Mapping[str, Slot], steps: int = STEPS, seed: int = 0) -> Answer:
    """Edits b for the slots a, a_prime and b, and measures the result where the truth is known."""
    a, a_prime, b = (slots[name].picture for name in NAMES)
    result = editor.edit(a, a_prime, b, steps=steps, seed=seed)
    names = tuple(known_relations(slots["a"], slots["a_prime"]))
    bare = Answer(result.pictures[0], result.coefficients[0], names)
    known = true_answers(names, slots["b"])
    if not known:
        return bare
    truths = torch.stack([picture for _, picture in known])
    seen = reconstruct(editor.autoencoder, torch.cat([b[None], truths]))
    errors = squared(result.pictures, seen[1:]) / squared(seen[:1], seen[1:])
    best = int(errors.argmin())
    return replace(bare, relation=known[best][0], truth=truths[best], truths=len(known), error=float(errors[best]))


def relation_means(editor: Editor, names: Iterable[str], n: int = MEAN_OF, seed: int = 0) -> dict[str, np.ndarray]:
    """Mean routing vector of each relation over up to n analogies of train concepts, [layers · N].

    A relation without two such pairs that look different is left out; InputError for an unknown one.
    """
    items = {name: analogies("train", name, seed=seed, n=n) for name in names}
    return {name: routing_vectors(editor, own).mean(0) for name, own in items.items() if own}


def nearest(vector: np.ndarray, means: Mapping[str, np.ndarray], count: int = NEIGHBOURS) -> list[tuple[str, float]]:
    """The relations whose means point most nearly where a routing vector does: name and cosine, the nearest first."""
    length = np.linalg.norm(vector)
    cosines = [(name, float(mean @ vector / (np.linalg.norm(mean) * length))) for name, mean in means.items()]
    return sorted(cosines, key=lambda pair: -pair[1])[:count]
