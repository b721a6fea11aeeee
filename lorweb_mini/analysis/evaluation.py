"""The measures, one definition each.

Every measure of a relation is a ratio of two sums over its analogies, and a group of relations is summed up by the
median over them (the mean, for retrieval). Intervals resample the analogies within each relation.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..emoji.relations import Analogy, Relation, as_batch, differ, get_relation
from ..emoji.sheets import STYLES, load_emoji
from ..errors import InputError
from ..models.autoencoder import MiniAutoencoder
from ..models.encoders import Judge
from .bootstrap import Estimate, Resampled, ratio, resampled, resampling_weights, summary

CHUNK = 64
TOUCHED = 0.1  # a pixel is edited where a channel of [-1, 1] moves by more than this, 13 grey levels of 255
LEAST_PRESERVED = 0.01  # share of untouched pixels below which an edit counts as touching everything
MEASURES = ("error", "pixel_error", "edited_error", "preserved_error", "retrieval")

Sums = tuple[np.ndarray, np.ndarray]
"""Numerators and denominators [n] of a measure on n analogies."""
Method = Callable[[list[Analogy]], Tensor]
"""k analogies to pictures [k, 3, 64, 64]. It may look at a, a' and b; the oracle also at the relation's name."""


@dataclass(frozen=True)
class Score:
    """One method on one group of relations.

    Attributes:
        error: sum ‖result − b'‖² / sum ‖b − b'‖², b and b' as the autoencoder reconstructs them. Copying b scores 1.
        pixel_error: the same with the true pixels of b and b'.
        edited_error: as ``error``, over the edited pixels alone.
        preserved_error: root mean square error over the pixels that should stay, in grey levels of 255.
        retrieval: share of results that lie nearest to the right relation's answer; the mean over relations.
    """

    error: Estimate
    pixel_error: Estimate
    edited_error: Estimate
    preserved_error: Estimate
    retrieval: Estimate


@dataclass(frozen=True)
class Evaluation:
    """What :func:`evaluate` returns; ``as_json`` and ``from_json`` keep it in a file.

    Attributes:
        groups: group to method to :class:`Score`.
        relations: relation to method to measure to value; missing values are NaN.
        members: group to the names of its relations.
        analogies: how many analogies of each relation were judged.
        chance: for each group the mean of 1 / K, what retrieval scores by guessing.
        judge: for each group the feature distance (see :mod:`~lorweb_mini.models.encoders`) of every method, and of the
            ``true answer`` and ``shuffled answers``; empty without a judge.
        seconds: seconds a picture, for each method.
    """

    groups: dict[str, dict[str, Score]]
    relations: dict[str, dict[str, dict[str, float]]]
    members: dict[str, list[str]]
    analogies: dict[str, int]
    chance: dict[str, float]
    judge: dict[str, dict[str, Estimate]]
    seconds: dict[str, float]
    resamples: int
    seed: int

    def as_json(self) -> dict[str, Any]:
        """Plain dictionaries, lists and numbers; NaN becomes None."""
        return without_nan(asdict(self))

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Evaluation:
        """The inverse of :meth:`as_json`."""
        stored = _each_number(stored, lambda x: math.nan if x is None else x)
        groups = {
            group: {
                method: Score(**{measure: Estimate(**x) for measure, x in score.items()})
                for method, score in scores.items()
            }
            for group, scores in stored["groups"].items()
        }
        judge = {g: {method: Estimate(**x) for method, x in part.items()} for g, part in stored["judge"].items()}
        return cls(**{**stored, "groups": groups, "judge": judge})


def without_nan(x: Any) -> Any:
    """Dictionaries, lists and numbers with every NaN replaced by None, which JSON can hold."""
    return _each_number(x, lambda value: None if isinstance(value, float) and math.isnan(value) else value)


def _each_number(x: Any, function: Callable[[Any], Any]) -> Any:
    """Applies a function to all that dictionaries and lists hold in the end."""
    if isinstance(x, Mapping):
        return {k: _each_number(v, function) for k, v in x.items()}
    if isinstance(x, list | tuple):
        return [_each_number(v, function) for v in x]
    return function(x)


# --- pictures -------------------------------------------------------------------------------------


def reconstruct(autoencoder: MiniAutoencoder, x: Tensor) -> Tensor:
    """Pictures [k, 3, 64, 64] through the autoencoder and back: the best that any method on latents can draw."""
    with torch.no_grad():
        return torch.cat([autoencoder.to_picture(autoencoder.to_latent(part)) for part in x.split(CHUNK)])


def draw(method: Method, items: Sequence[Analogy]) -> Tensor:
    """A method's results on k analogies, [k, 3, 64, 64], drawn in batches."""
    with torch.no_grad():
        return torch.cat([method(list(items[i : i + CHUNK])) for i in range(0, len(items), CHUNK)])


def squared(x: Tensor, y: Tensor, where: Tensor | None = None) -> np.ndarray:
    """‖x − y‖² of each pair of pictures, float64 [k], over the pixels of a mask [k, 64, 64] if one is given."""
    difference = (x - y).double().pow(2).sum(1)
    return (difference if where is None else difference * where).sum((1, 2)).numpy()


def gradient_energy(x: Tensor) -> np.ndarray:
    """Sharpness: ‖∇x‖² of each picture [k, 3, 64, 64] by differences of neighbouring pixels, float64 [k]."""
    x = x.double()
    return (x.diff(dim=3).pow(2).sum((1, 2, 3)) + x.diff(dim=2).pow(2).sum((1, 2, 3))).numpy()


def nearest(result: Tensor, candidates: Tensor) -> int:
    """Index of the candidate [K, 3, 64, 64] with the least squared distance to a picture [3, 64, 64]."""
    return int((candidates - result).pow(2).sum((1, 2, 3)).argmin())


def answers(analogy: Analogy, relations: Sequence[Relation]) -> Tensor:
    """True answers of the K relations that apply to an analogy's b, [K, 3, 64, 64], the analogy's own b' first.

    A relation applies where it has a partner for b that looks different from b. Of relations whose answers look the
    same on this b only the first stays, so the own one always does.
    """
    key, style = analogy.keys[2].rsplit("@", 1)
    drawing = (load_emoji().index[key], STYLES.index(style))
    kept = [analogy.b_prime]
    for relation in relations:
        partners = relation.all_pairs[(relation.all_pairs[:, :2] == drawing).all(1)]
        if relation.name == analogy.relation or len(partners) == 0:
            continue
        answer = relation.pictures(partners[:1])[1][0]
        others = torch.stack([analogy.b, *kept])
        if bool(differ(answer.expand_as(others), others).all()):
            kept.append(answer)
    return torch.stack(kept)


# --- methods compared -----------------------------------------------------------------------------


def by_relation(items: Sequence[Analogy]) -> dict[str, list[Analogy]]:
    """Analogies sorted by their relation, in the order in which the relations first occur."""
    sorted_items: dict[str, list[Analogy]] = {}
    for item in items:
        sorted_items.setdefault(item.relation, []).append(item)
    return sorted_items


def _spans(data: Mapping[str, Sequence[Analogy]]) -> dict[str, np.ndarray]:
    """Where each relation's analogies lie when all are in a row."""
    ends = np.cumsum([len(items) for items in data.values()])
    return dict(zip(data, np.split(np.arange(ends[-1]), ends[:-1]), strict=True))


class _Truth:
    """What results on n analogies are compared with; retrieval and the judge look at the positions ``looked_at``."""

    def __init__(
        self, items: list[Analogy], looked_at: Sequence[int], autoencoder: MiniAutoencoder, judge: Judge | None
    ) -> None:
        _, _, self.b, self.b_prime = as_batch(items)
        self.seen_b, self.seen_b_prime = (reconstruct(autoencoder, x) for x in (self.b, self.b_prime))
        self.edited = (self.b_prime - self.b).abs().amax(1) > TOUCHED
        touches_all = (~self.edited).double().mean((1, 2)) < LEAST_PRESERVED
        self.preserved = ~self.edited & ~touches_all[:, None, None]
        self.looked_at, self.judge = looked_at, judge
        relations = [get_relation(name) for name in by_relation(items)] if len(looked_at) else []
        true = {i: answers(items[i], relations) for i in looked_at}
        self.candidates = {i: reconstruct(autoencoder, x) for i, x in true.items() if len(x) > 1}

    def sums(self, result: Tensor) -> dict[str, Sums]:
        """Every measure's numerators and denominators; a denominator of 0 leaves an analogy out."""
        asked, right = np.zeros((2, len(result)))
        for i, candidates in self.candidates.items():
            asked[i], right[i] = 1, nearest(result[i], candidates) == 0
        edited, preserved = self.edited, self.preserved
        return {
            "error": (squared(result, self.seen_b_prime), squared(self.seen_b, self.seen_b_prime)),
            "pixel_error": (squared(result, self.b_prime), squared(self.b, self.b_prime)),
            "edited_error": (
                squared(result, self.seen_b_prime, edited),
                squared(self.seen_b, self.seen_b_prime, edited),
            ),
            "preserved_error": (
                127.5**2 * squared(result, self.seen_b_prime, preserved),
                3 * preserved.sum((1, 2)).double().numpy(),
            ),
            "retrieval": (right, asked),
            **self.distances(result),
        }

    def chance(self, positions: Sequence[int]) -> float:
        """Mean of 1 / K over those of some analogies that retrieval looks at."""
        shares = [1 / len(self.candidates[i]) for i in positions if i in self.candidates]
        return float(np.mean(shares)) if shares else math.nan

    def distances(self, result: Tensor) -> dict[str, Sums]:
        """The judge's feature distances, if there is one."""
        if self.judge is None or not self.looked_at:
            return {}
        distance, asked = np.zeros((2, len(result)))
        distance[self.looked_at] = self.judge.distance(result[self.looked_at], self.b_prime[self.looked_at]).numpy()
        asked[self.looked_at] = 1
        return {"judge": (distance, asked)}


def evaluate(
    methods: Mapping[str, Method],
    analogies_by_relation: Mapping[str, Sequence[Analogy]],
    autoencoder: MiniAutoencoder,
    groups: Mapping[str, Sequence[str]] | None = None,
    judge: Judge | None = None,
    retrieval_limit: int = 8,
    resamples: int = 1000,
    seed: int = 0,
    report: Callable[[str], None] = lambda line: None,
) -> Evaluation:
    """Judges methods on analogies with true b'.

    Args:
        methods: name to method, see :func:`~lorweb_mini.analysis.methods.methods_of`.
        analogies_by_relation: relation to its analogies, see :func:`by_relation`.
        groups: name to relations that are summed up together; by default one group, ``all``.
        judge: adds its feature distances.
        retrieval_limit: retrieval and the judge look at so many analogies a relation at most, since every candidate
            answer has to go through the autoencoder; 0 leaves both out.
        report: called with a short line after each method.

    Raises:
        InputError: no analogies, or a group names a relation that has none.
    """
    data = {name: list(items) for name, items in analogies_by_relation.items() if len(items)}
    if not data or not methods:
        raise InputError("expected at least one method and one relation with analogies, got none")
    groups = {"all": list(data)} if groups is None else groups
    for group, names in groups.items():
        if lacking := [n for n in names if n not in data] or not names:
            raise InputError(f"expected relations with analogies in the group {group!r}, got none for {lacking}")
    items, spans = [x for part in data.values() for x in part], _spans(data)
    looked_at = [int(i) for span in spans.values() for i in span[:retrieval_limit]]
    truth = _Truth(items, looked_at, autoencoder, judge)
    rng = np.random.default_rng(seed)
    weights = {name: resampling_weights(len(part), resamples, rng) for name, part in data.items()}

    def by_measure(sums: Mapping[str, Sums]) -> dict[str, dict[str, Resampled]]:
        """Measure to relation to value."""
        values: dict[str, dict[str, Resampled]] = {}
        for measure, (numerator, denominator) in sums.items():
            root = measure == "preserved_error"
            parts = {n: ratio(numerator[span], denominator[span], root) for n, span in spans.items()}
            values[measure] = {n: resampled(statistic, weights[n]) for n, statistic in parts.items()}
        return values

    seconds: dict[str, float] = {}
    values: dict[str, dict[str, dict[str, Resampled]]] = {}
    for method_name, method in methods.items():
        started = time.perf_counter()
        result = draw(method, items)
        seconds[method_name] = (time.perf_counter() - started) / len(items)
        values[method_name] = by_measure(truth.sums(result))
        report(f"{method_name}: {1000 * seconds[method_name]:.0f} ms a picture")
    judged = {name: parts["judge"] for name, parts in values.items() if "judge" in parts}
    if judged:
        other_answers = truth.b_prime[np.concatenate([np.roll(span, 1) for span in spans.values()])]
        judged["true answer"] = by_measure(truth.distances(truth.seen_b_prime))["judge"]
        judged["shuffled answers"] = by_measure(truth.distances(other_answers))["judge"]
    return Evaluation(
        groups={g: {m: _score(parts, names) for m, parts in values.items()} for g, names in groups.items()},
        relations={n: {m: {x: values[m][x][n][0] for x in MEASURES} for m in methods} for n in data},
        members={group: list(names) for group, names in groups.items()},
        analogies={name: len(part) for name, part in data.items()},
        chance={group: truth.chance([i for n in names for i in spans[n]]) for group, names in groups.items()},
        judge={
            g: {m: summary([x[n] for n in names]) for m, x in judged.items()} for g, names in groups.items() if judged
        },
        seconds=seconds,
        resamples=resamples,
        seed=seed,
    )


def _score(values: Mapping[str, Mapping[str, Resampled]], names: Sequence[str]) -> Score:
    """From measure to relation to value, over some relations."""
    return Score(**{m: summary([values[m][n] for n in names], mean=m == "retrieval") for m in MEASURES})


@dataclass(frozen=True)
class Counterfactuals:
    """How far results move, as ‖new − old‖² / ‖b − b'‖² summed within relations, the median over them.

    Attributes:
        same: the pair (a, a') replaced by another pair of the same relation; should be small.
        other: replaced by a pair of another relation; should be large.
    """

    same: Estimate
    other: Estimate


def counterfactuals(
    method: Method,
    analogies_by_relation: Mapping[str, Sequence[Analogy]],
    autoencoder: MiniAutoencoder,
    limit: int = 8,
    resamples: int = 1000,
    seed: int = 0,
) -> Counterfactuals:
    """Swaps the example pair under a method; see :class:`Counterfactuals`.

    Raises:
        InputError: fewer than two relations with at least two analogies each.
    """
    data = {n: list(x)[:limit] for n, x in analogies_by_relation.items() if len(x) > 1}
    if len(data) < 2:
        raise InputError(f"expected two relations with two analogies each, got {list(data)}")
    rng = np.random.default_rng(seed)
    items, same, other = [], [], []
    following = [*list(data.values())[1:], next(iter(data.values()))]
    for own, strangers in zip(data.values(), following, strict=True):
        for j, item in enumerate(own):
            sibling, stranger = own[j - 1], strangers[j % len(strangers)]
            items.append(item)
            same.append(replace(item, a=sibling.a, a_prime=sibling.a_prime))
            other.append(replace(item, a=stranger.a, a_prime=stranger.a_prime))
    before = draw(method, items)
    scale = squared(*(reconstruct(autoencoder, x) for x in as_batch(items)[2:]))

    def moved(changed: list[Analogy]) -> Estimate:
        change = squared(draw(method, changed), before)
        parts = []
        for span in _spans(data).values():
            weights = resampling_weights(len(span), resamples, rng)
            parts.append(resampled(ratio(change[span], scale[span]), weights))
        return summary(parts)

    return Counterfactuals(moved(same), moved(other))


def table(evaluation: Evaluation, measure: str = "error") -> str:
    """One measure as a Markdown table: a method a row, a group of relations a column, 95 % intervals in brackets.

    Raises:
        InputError: a measure outside :data:`MEASURES`.
    """
    if measure not in MEASURES:
        raise InputError(f"expected a measure out of {MEASURES}, got {measure!r}")
    groups = list(evaluation.groups)
    rows = [["method", *(f"{g} ({len(evaluation.members[g])})" for g in groups)]]
    for method in evaluation.seconds:
        rows.append([method, *(str(getattr(evaluation.groups[g][method], measure)) for g in groups)])
    if measure == "retrieval":
        chances = [evaluation.chance[g] for g in groups]
        rows.append(["*chance*", *("–" if math.isnan(c) else f"{c:.2f}" for c in chances)])
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|---|" + "---|" * len(groups), *lines[1:]])
