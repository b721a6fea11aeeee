"""Walks through the LoRA space, and how near they come to the truth.

A :class:`Ladder` is one b with the true answers along a :class:`Scale`: its rungs. Its first and its last rung answer
two analogies a : a'_0 :: b : b'_0 and a : a'_1 :: b : b'_1, which give two mixtures c_0 and c_1. A path leads from one
to the other, and the rungs between say where it should be on its way:

    coefficients    c(t) = (1 − t) c_0 + t c_1        the same as a straight line of the weights ΔW
    logits          c(t) ∝ c_0^(1 − t) c_1^t          the same as a straight line of the embedding of a'
    example         c(t) = route(a, (1 − t) a'_0 + t a'_1, b)
    latent, pixel   a straight line between the two results
    asked           c(t) = route(a, a'(t), b) with the true a'(t): what the model can do when no walk is needed

t outside [0, 1] goes beyond the ends. All pictures of a walk are drawn from one noise.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from ..core.editor import Editor
from ..emoji.edits import EDITS, apply_edit
from ..emoji.relations import SPLITS, concept_sides, differ, get_relation
from ..emoji.sheets import STYLES, load_emoji
from ..errors import InputError
from ..models.autoencoder import MiniAutoencoder
from .evaluation import Estimate, reconstruct, resampling_weights, squared

CHUNK = 64
PATHS = ("coefficients", "logits", "example", "latent", "pixel", "asked")
SAME_PLACE = 1e-6  # fractions closer than this are one
ENOUGH = 6  # concepts, for a verdict: all of them agree by luck once in 32 times
LEAST_COEFFICIENT = 1e-12  # below it a logarithm says nothing

Statistic = Callable[[np.ndarray], np.ndarray]
"""Weights [R, k] of k items to R values."""


# --- where the truth is known ---------------------------------------------------------------------


@dataclass(frozen=True)
class Scale:
    """Evenly spaced true answers to one b.

    Attributes:
        relations: from b to each rung, as artists drew it; or
        dial: kind of an edit and its strengths at the first and at the last rung, which makes five rungs.
        nothing: the first rung is b itself. ``relations`` then starts with the second rung; a dial's first strength
            has to be the one that changes nothing.
    """

    relations: tuple[str, ...] = ()
    dial: tuple[str, float, float] | None = None
    nothing: bool = False

    def __post_init__(self) -> None:
        if bool(self.relations) == (self.dial is not None):
            raise InputError("expected either relations or a dial, got both or none of them")

    @property
    def positions(self) -> tuple[float, ...]:
        """Fractions of the rungs, from 0 to 1."""
        count = len(self.relations) + self.nothing if self.relations else 5
        return tuple(i / (count - 1) for i in range(count))

    def strength(self, t: float) -> float | None:
        """The dial at fraction t; None beyond the range of its edit, and for relations."""
        if self.dial is None:
            return None
        kind, first, last = self.dial
        value = round(first + t * (last - first), 9)
        low, high = EDITS[kind].range
        return value if low <= value <= high else None


# In all of them the middle is a relation, or a strength, that the full basis was never trained on.
TONES = ("light", "medium-light", "medium", "medium-dark", "dark")
SCALES = {
    "tone: light → dark": Scale(tuple(f"tone/yellow>{tone}" for tone in TONES)),
    "clock: + 1 h → + 3 h": Scale(tuple(f"clock/+{hours}h" for hours in (1, 2, 3))),
    "moon: + 2 → + 4 phases": Scale(tuple(f"moon/+{phases}" for phases in (2, 3, 4))),
    "arrow: 90° → 180°": Scale(tuple(f"rotate/{degrees}deg" for degrees in (90, 135, 180))),
    "hue: 120° → 240°": Scale(dial=("hue", 120, 240)),
    "darken: 0.65 → 0.25": Scale(dial=("darken", 0.65, 0.25)),
    "blur: 1 → 4 pixels": Scale(dial=("blur", 1, 4)),
    "shrink: 0.75 → 0.35": Scale(dial=("shrink", 0.75, 0.35)),
    "shift: 8 → 24 pixels": Scale(dial=("shift", 8, 24)),
}
# From b itself to an answer that the starter was trained on: one analogy, turned up.
FROM_NOTHING = {
    "tone: dark → light": Scale(tuple(f"tone/dark>{tone}" for tone in TONES[3::-1]), nothing=True),
    "grey": Scale(dial=("grey", 0, 1), nothing=True),
    "darken: to 0.25": Scale(dial=("darken", 1, 0.25), nothing=True),
    "blur: to 4 pixels": Scale(dial=("blur", 0, 4), nothing=True),
    "shrink: to 0.35": Scale(dial=("shrink", 1, 0.35), nothing=True),
}


@dataclass(frozen=True, eq=False)
class Ladder:
    """One b with its rungs, and another picture a with the same rungs as example. All pictures in [-1, 1].

    Attributes:
        scale: what lies along it.
        concept, key: what b shows, and its ``code points@style``.
        a, b: [3, 64, 64]; examples, rungs: a'(t) and b'(t) at :attr:`Scale.positions`, [T, 3, 64, 64].
    """

    scale: Scale
    concept: str
    key: str
    a: Tensor
    b: Tensor
    examples: Tensor
    rungs: Tensor

    def at(self, t: float) -> tuple[Tensor, Tensor] | None:
        """True a'(t) and b'(t): a rung's pictures, for a dial those of any strength in range; None where unknown."""
        for i, position in enumerate(self.scale.positions):
            if abs(position - t) < SAME_PLACE:
                return self.examples[i], self.rungs[i]
        strength = self.scale.strength(t)
        if self.scale.dial is None or strength is None:
            return None
        edited = apply_edit(torch.stack([self.a, self.b]), self.scale.dial[0], strength)
        return edited[0], edited[1]


def ladders(scale: Scale, n: int = 32, split: str = "test", seed: int = 0) -> list[Ladder]:
    """At most n ladders, of as many concepts as possible; the same ones for the same arguments.

    ``test``: among b and its rungs at least one belongs to a test concept and none to a val concept, as for
    :meth:`~lorweb_mini.emoji.relations.Relation.pairs`; ``train`` and ``val``: all of them do. a shows other concepts
    than b wherever the scale has more than a few, another emoji in any case. Ladders with two rungs that look the same
    are left out.

    Raises:
        InputError: an unknown split or relation, or no ladder is found.
    """
    emoji, rng = load_emoji(), np.random.default_rng(seed)
    chains = _chains(scale, split)
    chains = chains[rng.permutation(len(chains))]
    met: Counter[str] = Counter()
    turn = []
    for i in chains[:, 0, 0]:
        turn.append(met[emoji.emojis[i].concept])
        met[emoji.emojis[i].concept] += 1
    chains = chains[np.argsort(turn, kind="stable")][: 3 * n + 16]
    pictures = emoji.tensor(chains[..., 0].ravel(), chains[..., 1].ravel()).unflatten(0, chains.shape[:2])
    if scale.dial is not None:
        strengths = [scale.strength(t) for t in scale.positions]
        if None in strengths:
            raise InputError(f"expected strengths in the range of {scale.dial[0]}, got {scale.dial[1:]}")
        rungs = [apply_edit(pictures[:, 0], scale.dial[0], s) for s in strengths if s is not None]
        pictures = torch.stack([pictures[:, 0], *rungs], 1)
    neighbours = zip(pictures[:, 1:-1].unbind(1), pictures[:, 2:].unbind(1), strict=True)
    visible = np.flatnonzero(torch.stack([differ(x, y) for x, y in neighbours], 1).all(1).numpy())
    shown = [{emoji.emojis[i].concept for i in chain} for chain in chains[..., 0]]
    found: list[Ladder] = []
    for j in visible:
        others = [i for i in visible if not shown[i] & shown[j]]
        others = others or [i for i in visible if chains[i, 0, 0] != chains[j, 0, 0]]
        if not others:
            continue
        i, entry = rng.choice(others), emoji.emojis[chains[j, 0, 0]]
        key = f"{entry.key}@{STYLES[chains[j, 0, 1]]}"
        pair = (pictures[i, 0], pictures[j, 0], pictures[i, 1:], pictures[j, 1:])
        found.append(Ladder(scale, entry.concept, key, *pair))
        if len(found) == n:
            break
    if not found:
        raise InputError(f"expected pictures that the scale applies to in {split}, found none for {scale}")
    return found


def _chains(scale: Scale, split: str) -> np.ndarray:
    """Emoji and style of b, and of the rungs where they are drawn: int [k, 1 or 1 + T, 2]."""
    if split not in SPLITS:
        raise InputError(f"expected a split out of {SPLITS}, got {split!r}")
    if scale.dial is not None:
        chains = np.argwhere(load_emoji().present)[:, None]
    else:
        steps = [{tuple(row[:2]): row[2:] for row in get_relation(name).all_pairs} for name in scale.relations]
        starts = sorted(set.intersection(*map(set, steps)))
        drawn = [np.array([step[start] for start in starts]) for step in steps]
        own = [np.array(starts)] * (1 + scale.nothing)
        chains = np.stack([*own, *drawn], 1)
    side = concept_sides()[chains[..., 0]]
    if split == "test":
        return chains[(side == SPLITS.index("test")).any(1) & (side != SPLITS.index("val")).all(1)]
    return chains[(side == SPLITS.index(split)).all(1)]


# --- paths ----------------------------------------------------------------------------------------


def line(first: Tensor, last: Tensor, ts: Sequence[float]) -> Tensor:
    """(1 − t) first + t last, from two tensors [k, …] to [k, S, …]; t may lie outside [0, 1]."""
    t = torch.tensor(ts, dtype=first.dtype).view(1, -1, *[1] * (first.ndim - 1))
    return torch.lerp(first[:, None], last[:, None], t)


def geometric(first: Tensor, last: Tensor, ts: Sequence[float]) -> Tensor:
    """The softmax of a straight line of logits, c ∝ first^(1 − t) last^t: mixtures [k, layers, N] to [k, S, …]."""
    first, last = (c.clamp_min(LEAST_COEFFICIENT).log() for c in (first, last))
    return line(first, last, ts).softmax(-1)


def render(editor: Editor, b: Tensor, mixtures: Tensor, steps: int = 4, seed: int = 0) -> Tensor:
    """Every b [k, 3, 64, 64] under S mixtures of its own [k, S, layers, N]: pictures [k, S, 3, 64, 64]."""
    k, s = mixtures.shape[:2]
    parts = zip(b.repeat_interleave(s, 0).split(CHUNK), mixtures.flatten(0, 1).split(CHUNK), strict=True)
    drawn = [editor.generate(x, c, steps=steps, seed=seed).pictures for x, c in parts]
    return torch.cat(drawn).unflatten(0, (k, s))


def ends(editor: Editor, items: Sequence[Ladder]) -> tuple[Tensor, Tensor]:
    """The mixtures c_0 and c_1 of ladders, [k, layers, N] each; c_0 is zero, the bare base, where a scale says so."""
    a, b = (torch.stack(x) for x in ([i.a for i in items], [i.b for i in items]))
    first, last = (editor.route(a, torch.stack([i.examples[end] for i in items]), b) for end in (0, -1))
    begins = torch.tensor([float(not i.scale.nothing) for i in items])
    return first * begins[:, None, None], last


def mixtures(editor: Editor, items: Sequence[Ladder], path: str, ts: Sequence[float]) -> Tensor:
    """The mixtures along a path through the LoRA space, [k, S, layers, N].

    Raises:
        InputError: another path than the first three and ``asked``, ``logits`` of a scale that starts from nothing, or
            ``asked`` at a fraction without a truth.
    """
    if path == "coefficients":
        return line(*ends(editor, items), ts)
    if path == "logits":
        if any(item.scale.nothing for item in items):
            raise InputError("expected a scale between two analogies, got one from nothing, which has no logits")
        return geometric(*ends(editor, items), ts)
    if path == "example":
        one, other = (torch.stack([item.examples[end] for item in items]) for end in (0, -1))
        shown = line(one, other, ts).clamp(-1, 1)
    elif path == "asked":
        known = [[item.at(t) for t in ts] for item in items]
        if any(pair is None for row in known for pair in row):
            raise InputError(f"expected fractions with a known truth, got {list(ts)}")
        shown = torch.stack([torch.stack([pair[0] for pair in row if pair is not None]) for row in known])
    else:
        raise InputError(f"expected coefficients, logits, example or asked, got {path!r}")
    a, b = (torch.stack(x).repeat_interleave(len(ts), 0) for x in ([i.a for i in items], [i.b for i in items]))
    parts = zip(a.split(CHUNK), shown.flatten(0, 1).split(CHUNK), b.split(CHUNK), strict=True)
    return torch.cat([editor.route(*part) for part in parts]).unflatten(0, (len(items), len(ts)))


def walk(
    editor: Editor, items: Sequence[Ladder], path: str, ts: Sequence[float], steps: int = 4, seed: int = 0
) -> Tensor:
    """The pictures of k ladders at the fractions ts of a path, [k, S, 3, 64, 64].

    Args:
        path: one of :data:`PATHS`. ``latent`` and ``pixel`` draw the two ends and mix their latents or their pixels.
        steps, seed: as in :meth:`Editor.generate`. The layout of the editor has to be ``b``.

    Raises:
        InputError: an unknown path, or what :func:`mixtures` refuses.
    """
    if path not in PATHS:
        raise InputError(f"expected a path out of {PATHS}, got {path!r}")
    b = torch.stack([item.b for item in items])
    if path not in ("latent", "pixel"):
        return render(editor, b, mixtures(editor, items, path, ts), steps, seed)
    first, last = render(editor, b, torch.stack(ends(editor, items), 1), steps, seed).unbind(1)
    if path == "pixel":
        return line(first, last, ts).clamp(-1, 1)
    with torch.no_grad():
        first, last = (editor.autoencoder.to_latent(x) for x in (first, last))
        between = line(first, last, ts).flatten(0, 1)
        pictures = torch.cat([editor.autoencoder.to_picture(part) for part in between.split(CHUNK)])
    return pictures.unflatten(0, (len(items), len(ts)))


# --- measures -------------------------------------------------------------------------------------


def interval(statistic: Statistic, concepts: Sequence[str], resamples: int = 1000, seed: int = 0) -> Estimate:
    """A statistic of k items with its 95 % bootstrap interval over concepts; NaN where the statistic is.

    The tones and styles of one concept are no independent samples: they are drawn, or left out, together.

    Raises:
        InputError: fewer than two concepts.
    """
    names, group = np.unique(np.asarray(concepts), return_inverse=True)
    if len(names) < 2:
        raise InputError(f"expected items of at least two concepts, got {len(names)}")
    value = float(statistic(np.ones((1, len(group))))[0])
    if np.isnan(value):
        return Estimate(value, value, value)
    weights = resampling_weights(len(names), resamples, np.random.default_rng(seed))[:, group]
    low, high = np.nanquantile(statistic(weights), [0.025, 0.975])
    return Estimate(value, float(low), float(high))


def beyond_doubt(gap: Estimate, concepts: Sequence[str], least: float = 0.0) -> int:
    """The sign of a difference if its interval leaves no doubt of it and it is at least so large, otherwise 0.

    Never on fewer than :data:`ENOUGH` concepts, however narrow the interval: of five that only differ by luck, all lie
    on the same side in one case of 16, which a bootstrap of those five cannot know.
    """
    if len(set(concepts)) < ENOUGH or abs(gap.value) < least:
        return 0
    return int(gap.low > 0) - int(gap.high < 0)


def mean_of(values: np.ndarray) -> Statistic:
    """The weighted mean of values [k]."""
    return lambda weights: weights @ values / weights.sum(1)


def median_ratio(numerator: np.ndarray, denominator: np.ndarray, groups: Sequence[str]) -> Statistic:
    """Sum over sum within each group of items, then the median over groups: the normalised error of relations."""
    names = np.asarray(groups)

    def statistic(weights: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):  # a resample may miss all items of a group
            each = [(weights * (names == g)) @ numerator / ((weights * (names == g)) @ denominator) for g in set(names)]
        return np.nanmedian(each, axis=0)

    return statistic


@dataclass(frozen=True, eq=False)
class Trace:
    """What k walks along one path did, before it is summed up.

    Attributes:
        ts: the S fractions; rungs: number T of rungs.
        concepts: of the k ladders.
        error: ‖picture − b'(t)‖², [k, S], NaN where no truth is known.
        length: ‖b'(1) − b'(0)‖², [k].
        nearest: the rung nearest to each picture, int [k, S].
    """

    ts: tuple[float, ...]
    rungs: int
    concepts: tuple[str, ...]
    error: np.ndarray
    length: np.ndarray
    nearest: np.ndarray

    def errors(self) -> list[Estimate]:
        """Normalised error at every fraction: sum ‖picture − b'(t)‖² / sum ‖b'(1) − b'(0)‖².

        The length of the walk is the same at all t. Copying the nearer end, the other candidate, would divide by 0 at
        the ends themselves.
        """
        return [interval(self._error(i), self.concepts) for i in range(len(self.ts))]

    def excess(self, other: Trace, t: float) -> Estimate:
        """The error at t minus that of another path on the same ladders, resampled together."""
        mine, theirs = self._error(self._place(t)), other._error(other._place(t))
        return interval(lambda weights: mine(weights) - theirs(weights), self.concepts)

    def right_ends(self) -> Estimate:
        """Share of walks whose first and last picture are nearest to the first and to the last rung."""
        first, last = (self.nearest[:, self._place(t)] for t in (0, 1))
        return self._share((first == 0) & (last == self.rungs - 1))

    def order(self) -> Estimate:
        """Mean rank correlation (Spearman) of t and the nearest rung, t in [0, 1]; 0 for a walk that stays."""
        inside = self._inside()
        moves = [np.ptp(row) > 0 for row in inside]
        ts = [t for t in self.ts if 0 <= t <= 1]
        found = [float(spearmanr(ts, row).statistic) if m else 0.0 for row, m in zip(inside, moves, strict=True)]
        return interval(mean_of(np.array(found)), self.concepts)

    def monotone(self) -> Estimate:
        """Share of walks that never step back to an earlier rung in [0, 1], and end on a later one than they began."""
        inside = self._inside()
        return self._share((np.diff(inside, axis=1) >= 0).all(1) & (inside[:, -1] > inside[:, 0]))

    def midpoint(self) -> Estimate:
        """Share of walks whose picture at t = 1/2 is nearest to the middle one of all rungs; chance is 1 / T."""
        if self.rungs % 2 == 0:
            raise InputError(f"expected an odd number of rungs, got {self.rungs}")
        return self._share(self.nearest[:, self._place(0.5)] == self.rungs // 2)

    def reached(self) -> np.ndarray:
        """Mean position of the nearest rung at every fraction, [S]; t itself for a walk on the truth."""
        return self.nearest.mean(0) / (self.rungs - 1)

    def _place(self, t: float) -> int:
        for i, own in enumerate(self.ts):
            if abs(own - t) < SAME_PLACE:
                return i
        raise InputError(f"expected one of the fractions {self.ts}, got {t}")

    def _inside(self) -> np.ndarray:
        return self.nearest[:, [i for i, t in enumerate(self.ts) if 0 <= t <= 1]]

    def _error(self, place: int) -> Statistic:
        error = self.error[:, place]
        return lambda weights: weights @ error / (weights @ self.length)

    def _share(self, right: np.ndarray) -> Estimate:
        return interval(mean_of(right.astype(float)), self.concepts)


class Truth:
    """The rungs of k ladders as the autoencoder reconstructs them: what walks are compared with.

    Args:
        items: ladders of one scale.
        ts: the fractions S at which pictures will be compared.

    Attributes:
        known: those of ts at which a truth is known; the same for all ladders of a scale.
        pictures: b'(t) at ``known``, [k, K, 3, 64, 64].
        rungs: [k, T, 3, 64, 64].
    """

    def __init__(self, items: Sequence[Ladder], ts: Sequence[float], autoencoder: MiniAutoencoder) -> None:
        self.items, self.ts = list(items), tuple(ts)
        pairs = [[item.at(t) for t in ts] for item in items]
        self.known = tuple(t for t, pair in zip(ts, pairs[0], strict=True) if pair is not None)
        truths = torch.stack([torch.stack([pair[1] for pair in row if pair is not None]) for row in pairs])
        rungs = torch.stack([item.rungs for item in items])
        self.pictures, self.rungs = (
            reconstruct(autoencoder, x.flatten(0, 1)).unflatten(0, x.shape[:2]) for x in (truths, rungs)
        )
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
