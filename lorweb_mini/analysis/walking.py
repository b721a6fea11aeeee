"""Walks through the LoRA space, and how near they come to the truth.

The first and the last rung of a ladder answer two analogies a : a'_0 :: b : b'_0 and a : a'_1 :: b : b'_1, which give
two mixtures c_0 and c_1. A path leads from one to the other, and the rungs between say where it should be on its way:

    coefficients    c(t) = (1 − t) c_0 + t c_1        the same as a straight line of the weights ΔW
    logits          c(t) ∝ c_0^(1 − t) c_1^t          the same as a straight line of the embedding of a'
    example         c(t) = route(a, (1 − t) a'_0 + t a'_1, b)
    latent, pixel   a straight line between the two results
    asked           c(t) = route(a, a'(t), b) with the true a'(t): what the model can do when no walk is needed

t outside [0, 1] goes beyond the ends. All pictures of a walk are drawn from one noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..core.editor import Editor
from ..errors import InputError
from ..models.autoencoder import MiniAutoencoder
from ..models.base import STEPS
from .bootstrap import Estimate, interval, over_concepts, ratio
from .evaluation import CHUNK, gradient_energy, reconstruct, squared
from .ladders import SAME_PLACE, Ladder
from .order import rank_correlation

PATHS = ("coefficients", "logits", "example", "latent", "pixel", "asked")
LEAST_COEFFICIENT = 1e-12  # below it a logarithm says nothing


def line(first: Tensor, last: Tensor, ts: Sequence[float]) -> Tensor:
    """(1 − t) first + t last, from two tensors [k, …] to [k, S, …]; t may lie outside [0, 1]."""
    t = torch.tensor(ts, dtype=first.dtype).view(1, -1, *[1] * (first.ndim - 1))
    return torch.lerp(first[:, None], last[:, None], t)


def geometric(first: Tensor, last: Tensor, ts: Sequence[float]) -> Tensor:
    """The softmax of a straight line of logits, c ∝ first^(1 − t) last^t: mixtures [k, layers, N] to [k, S, …]."""
    first, last = (c.clamp_min(LEAST_COEFFICIENT).log() for c in (first, last))
    return line(first, last, ts).softmax(-1)


def render(editor: Editor, b: Tensor, mixtures: Tensor, steps: int = STEPS, seed: int = 0) -> Tensor:
    """Every b [k, 3, 64, 64] under S mixtures of its own [k, S, layers, N]: pictures [k, S, 3, 64, 64]."""
    k, s = mixtures.shape[:2]
    parts = zip(b.repeat_interleave(s, 0).split(CHUNK), mixtures.flatten(0, 1).split(CHUNK), strict=True)
    drawn = [editor.generate(x, c, steps=steps, seed=seed).pictures for x, c in parts]
    return torch.cat(drawn).unflatten(0, (k, s))


def _stacked(items: Sequence[Ladder], *names: str) -> list[Tensor]:
    return [torch.stack([getattr(item, name) for item in items]) for name in names]


def ends(editor: Editor, items: Sequence[Ladder]) -> tuple[Tensor, Tensor]:
    """The mixtures c_0 and c_1 of ladders, [k, layers, N] each; c_0 is zero, the bare base, where a scale says so."""
    a, b, examples = _stacked(items, "a", "b", "examples")
    first, last = (editor.route(a, examples[:, end], b) for end in (0, -1))
    begins = torch.tensor([float(not i.scale.nothing) for i in items])
    return first * begins[:, None, None], last


def mixtures(editor: Editor, items: Sequence[Ladder], path: str, ts: Sequence[float]) -> Tensor:
    """The mixtures along one of the first three paths or ``asked``, [k, S, layers, N].

    InputError for ``logits`` of a scale that starts from nothing, and ``asked`` at a fraction without a truth.
    """
    if path == "coefficients":
        return line(*ends(editor, items), ts)
    if path == "logits":
        if any(item.scale.nothing for item in items):
            raise InputError("expected a scale between two analogies, got one from nothing, which has no logits")
        return geometric(*ends(editor, items), ts)
    a, b, examples = _stacked(items, "a", "b", "examples")
    if path == "example":
        shown = line(examples[:, 0], examples[:, -1], ts).clamp(-1, 1)
    elif path == "asked":
        known = [pair[0] for item in items for t in ts if (pair := item.at(t)) is not None]
        if len(known) < len(items) * len(ts):
            raise InputError(f"expected fractions with a known truth, got {list(ts)}")
        shown = torch.stack(known).unflatten(0, (len(items), len(ts)))
    else:
        raise InputError(f"expected coefficients, logits, example or asked, got {path!r}")
    each = (a.repeat_interleave(len(ts), 0), shown.flatten(0, 1), b.repeat_interleave(len(ts), 0))
    parts = zip(*(x.split(CHUNK) for x in each), strict=True)
    return torch.cat([editor.route(*part) for part in parts]).unflatten(0, (len(items), len(ts)))


def walk(
    editor: Editor, items: Sequence[Ladder], path: str, ts: Sequence[float], steps: int = STEPS, seed: int = 0
) -> Tensor:
    """The pictures of k ladders at the fractions ts of one of :data:`PATHS`, [k, S, 3, 64, 64], with layout ``b``."""
    if path not in PATHS:
        raise InputError(f"expected a path out of {PATHS}, got {path!r}")
    (b,) = _stacked(items, "b")
    if path not in ("latent", "pixel"):
        return render(editor, b, mixtures(editor, items, path, ts), steps, seed)
    first, last = render(editor, b, torch.stack(ends(editor, items), 1), steps, seed).unbind(1)
    if path == "pixel":
        return line(first, last, ts).clamp(-1, 1)
    with torch.no_grad():
        between = line(editor.autoencoder.to_latent(first), editor.autoencoder.to_latent(last), ts).flatten(0, 1)
        pictures = torch.cat([editor.autoencoder.to_picture(part) for part in between.split(CHUNK)])
    return pictures.unflatten(0, (len(items), len(ts)))


@dataclass(frozen=True, eq=False)
class Trace:
    """What k walks along one path did, before it is summed up."""

    ts: tuple[float, ...]  # the S fractions
    rungs: int  # number T of rungs
    concepts: tuple[str, ...]  # of the k ladders
    error: np.ndarray  # ‖picture − b'(t)‖², [k, S], NaN where no truth is known
    length: np.ndarray  # ‖b'(1) − b'(0)‖², [k]
    nearest: np.ndarray  # the rung nearest to each picture, int [k, S]

    def errors(self) -> list[Estimate]:
        """Normalised error at every fraction: sum ‖picture − b'(t)‖² / sum ‖b'(1) − b'(0)‖²."""
        return [interval(ratio(error, self.length), self.concepts) for error in self.error.T]

    def excess(self, other: Trace, t: float) -> Estimate:
        """The error at t minus that of another path on the same ladders, resampled together."""
        mine, theirs = (ratio(trace.error[:, trace._place(t)], trace.length) for trace in (self, other))
        return interval(lambda weights: mine(weights) - theirs(weights), self.concepts)

    def right_ends(self) -> Estimate:
        """Share of walks whose first and last picture are nearest to the first and to the last rung."""
        first, last = (self.nearest[:, self._place(t)] for t in (0, 1))
        return over_concepts((first == 0) & (last == self.rungs - 1), self.concepts)

    def order(self) -> Estimate:
        """Mean rank correlation (Spearman) of t and the nearest rung, t in [0, 1]; 0 for a walk that stays."""
        ts = np.array([t for t in self.ts if 0 <= t <= 1])
        return over_concepts(rank_correlation(ts, self._inside()), self.concepts)

    def monotone(self) -> Estimate:
        """Share of walks that never step back to an earlier rung in [0, 1], and end on a later one than they began."""
        inside = self._inside()
        return over_concepts((np.diff(inside) >= 0).all(1) & (inside[:, -1] > inside[:, 0]), self.concepts)

    def midpoint(self) -> Estimate:
        """Share of walks whose picture at t = 1/2 is nearest to the middle one of all rungs; chance is 1 / T."""
        if self.rungs % 2 == 0:
            raise InputError(f"expected an odd number of rungs, got {self.rungs}")
        return over_concepts(self.nearest[:, self._place(0.5)] == self.rungs // 2, self.concepts)

    @property
    def chance(self) -> float:
        """Share of monotone walks by luck: a smooth walk between two rungs drawn at random, (1 − 1 / T) / 2."""
        return (1 - 1 / self.rungs) / 2

    def reached(self) -> np.ndarray:
        """Mean position of the nearest rung at every fraction, [S]; t itself for a walk on the truth."""
        return self.nearest.mean(0) / (self.rungs - 1)

    def _place(self, t: float) -> int:
        places = [i for i, own in enumerate(self.ts) if abs(own - t) < SAME_PLACE]
        if not places:
            raise InputError(f"expected one of the fractions {self.ts}, got {t}")
        return places[0]

    def _inside(self) -> np.ndarray:
        return self.nearest[:, [0 <= t <= 1 for t in self.ts]]


class Truth:
    """What walks of k ladders of one scale at fractions ts are compared with, as the autoencoder reconstructs it.

    ``pictures`` are b'(t) at those of ts where a truth is ``known``, [k, K, 3, 64, 64]; ``rungs`` [k, T, 3, 64, 64].
    """

    def __init__(self, items: Sequence[Ladder], ts: Sequence[float], autoencoder: MiniAutoencoder) -> None:
        self.items, self.ts = list(items), tuple(ts)
        self.known = tuple(t for t in ts if items[0].at(t) is not None)
        truths = [pair[1] for item in items for t in self.known if (pair := item.at(t)) is not None]
        self.pictures = reconstruct(autoencoder, torch.stack(truths)).unflatten(0, (len(items), len(self.known)))
        (rungs,) = _stacked(items, "rungs")
        self.rungs = reconstruct(autoencoder, rungs.flatten(0, 1)).unflatten(0, rungs.shape[:2])
        self.length = squared(self.rungs[:, 0], self.rungs[:, -1])

    def trace(self, pictures: Tensor, ts: Sequence[float] | None = None) -> Trace:
        """Measures the pictures [k, S, 3, 64, 64] of a walk at fractions ts (all by default)."""
        ts = self.ts if ts is None else tuple(ts)
        error = np.full((len(self.items), len(ts)), np.nan)
        for place, t in enumerate(ts):
            if t in self.known:
                error[:, place] = squared(pictures[:, place], self.pictures[:, self.known.index(t)])
        distance = [[squared(picture, rung) for rung in self.rungs.unbind(1)] for picture in pictures.unbind(1)]
        nearest = np.array(distance).argmin(1).T  # [S, T, k] to [k, S]
        concepts = tuple(item.concept for item in self.items)
        return Trace(ts, self.rungs.shape[1], concepts, error, self.length, nearest)

    def blend(self, ts: Sequence[float]) -> Tensor:
        """What a straight line of pixels would be if both ends were perfect, [k, S, 3, 64, 64]."""
        return line(self.rungs[:, 0], self.rungs[:, -1], ts).clamp(-1, 1)

    def nearer_end(self, ts: Sequence[float]) -> Tensor:
        """The nearer of the true ends, copied, [k, S, 3, 64, 64]."""
        return torch.stack([self.rungs[:, 0 if t <= 0.5 else -1] for t in ts], 1)


def measure(
    editor: Editor, items: Sequence[Ladder], paths: Sequence[str], ts: Sequence[float], steps: int = STEPS
) -> tuple[dict[str, Trace], dict[str, float]]:
    """Walks k ladders of one scale along several paths.

    Args:
        ts: the fractions, with 1/2 among them, whose truth has to be known; ``asked`` walks those with a known truth.

    Returns:
        Path to trace, and path to sharpness at t = 1/2, that of the truth being 1. Besides the paths there are
        ``nearer true end`` (not sharpness) and ``blend of true ends``.
    """
    truth = Truth(items, ts, editor.autoencoder)
    if 0.5 not in truth.known:
        raise InputError(f"expected a known truth at 0.5, got truths at {list(truth.known)}")

    def sharp(pictures: Tensor) -> float:
        return gradient_energy(pictures).sum()

    middle = sharp(truth.pictures[:, truth.known.index(0.5)])
    traces, sharpness = {}, {}
    for path in paths:
        places = truth.known if path == "asked" else tuple(ts)
        pictures = walk(editor, items, path, places, steps)
        traces[path] = truth.trace(pictures, places)
        sharpness[path] = float(sharp(pictures[:, places.index(0.5)]) / middle)
    traces["nearer true end"] = truth.trace(truth.nearer_end(ts))
    traces["blend of true ends"] = truth.trace(truth.blend(ts))
    sharpness["blend of true ends"] = float(sharp(truth.blend([0.5])[:, 0]) / middle)
    return traces, sharpness
