"""The measures, one definition each, and the methods that they compare.

Every measure of a relation is a ratio of two sums over its analogies, and a group of relations is summed up by the
median over them (the mean, for retrieval). So an interval needs the numerators and denominators of single analogies
alone: 95 % bootstrap, the analogies resampled within each relation.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.editor import Editor
from ..emoji.relations import Analogy, Relation, as_batch, differ, get_relation
from ..emoji.sheets import STYLES, load_emoji
from ..emoji.words import relation_vectors
from ..errors import InputError
from ..models.autoencoder import MiniAutoencoder
from ..models.encoders import Judge

CHUNK = 64
TOUCHED = 0.1  # a pixel is edited where a channel of [-1, 1] moves by more than this, 13 grey levels of 255
LEAST_PRESERVED = 0.01  # share of untouched pixels below which an edit counts as touching everything
MEASURES = ("error", "pixel_error", "edited_error", "preserved_error", "retrieval")

Method = Callable[[list[Analogy]], Tensor]
"""k analogies to pictures [k, 3, 64, 64]. It may look at a, a' and b; the oracle also at the relation's name."""


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % bootstrap interval; all NaN where the measure is missing."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        if math.isnan(self.value):
            return "–"
        return f"{self.value:.2f} ({self.low:.2f}–{self.high:.2f})"


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

        def number(x: float | None) -> float:
            return math.nan if x is None else float(x)

        def estimate(x: Mapping[str, float | None]) -> Estimate:
            return Estimate(number(x["value"]), number(x["low"]), number(x["high"]))

        groups = {
            g: {m: Score(**{k: estimate(v) for k, v in s.items()}) for m, s in methods.items()}
            for g, methods in stored["groups"].items()
        }
        relations = {
            r: {m: {k: number(v) for k, v in values.items()} for m, values in methods.items()}
            for r, methods in stored["relations"].items()
        }
        judge = {g: {m: estimate(v) for m, v in methods.items()} for g, methods in stored["judge"].items()}
        chance = {g: number(v) for g, v in stored["chance"].items()}
        return cls(**{**stored, "groups": groups, "relations": relations, "judge": judge, "chance": chance})


def without_nan(x: Any) -> Any:
    """Dictionaries, lists and numbers with every NaN replaced by None, which JSON can hold."""
    if isinstance(x, Mapping):
        return {k: without_nan(v) for k, v in x.items()}
    if isinstance(x, list | tuple):
        return [without_nan(v) for v in x]
    return None if isinstance(x, float) and math.isnan(x) else x


# --- methods --------------------------------------------------------------------------------------


def reconstruct(autoencoder: MiniAutoencoder, x: Tensor) -> Tensor:
    """Pictures [k, 3, 64, 64] through the autoencoder and back: the best that any method on latents can draw."""
    with torch.no_grad():
        return torch.cat([autoencoder.to_picture(autoencoder.to_latent(part)) for part in x.split(CHUNK)])


def methods_of(editor: Editor, one_lora: Editor | None = None, steps: int = 8, seed: int = 0) -> dict[str, Method]:
    """LoRWeB and its baselines, all drawing through the same autoencoder.

    Args:
        editor: the basis under test; its frozen base is the oracle's.
        one_lora: one LoRA without router that sees a and a' as context; left out when None.

    The oracle is told the relation in words and sees neither a nor a': what the frozen base knows of the relation.
    """
    autoencoder = editor.autoencoder

    def arithmetic(items: list[Analogy]) -> Tensor:
        a, a_prime, b = (autoencoder.to_latent(x) for x in as_batch(items)[:3])
        return autoencoder.to_picture(b + a_prime - a)

    def oracle(items: list[Analogy]) -> Tensor:
        instructions = relation_vectors([get_relation(x.relation) for x in items])
        latent = autoencoder.to_latent(as_batch(items)[2])
        with editor.basis.disabled():
            drawn = editor.base.edit(latent, instructions, [seed] * len(items), steps)
        return autoencoder.to_picture(drawn)

    def edit_with(one: Editor) -> Method:
        return lambda items: one.edit(*as_batch(items)[:3], steps=steps, seed=seed).pictures

    found: dict[str, Method] = {
        "copy b": lambda items: reconstruct(autoencoder, as_batch(items)[2]),
        "copy a'": lambda items: reconstruct(autoencoder, as_batch(items)[1]),
        "latent arithmetic": arithmetic,
        "oracle instruction": oracle,
    }
    if one_lora is not None:
        found["one LoRA"] = edit_with(one_lora)
    found["LoRWeB"] = edit_with(editor)
    return found


def draw(method: Method, items: Sequence[Analogy]) -> Tensor:
    """A method's results on k analogies, [k, 3, 64, 64], drawn in batches."""
    with torch.no_grad():
        return torch.cat([method(list(items[i : i + CHUNK])) for i in range(0, len(items), CHUNK)])


# --- measures -------------------------------------------------------------------------------------


def squared(x: Tensor, y: Tensor, where: Tensor | None = None) -> np.ndarray:
    """‖x − y‖² of each pair of pictures, float64 [k], over the pixels of a mask [k, 64, 64] if one is given."""
    difference = (x - y).double().pow(2).sum(1)
    return (difference if where is None else difference * where).sum((1, 2)).numpy()


def edited_pixels(b: Tensor, b_prime: Tensor) -> Tensor:
    """Bool [k, 64, 64]: pixels where a channel of b' differs from b by more than :data:`TOUCHED`."""
    return (b_prime - b).abs().amax(1) > TOUCHED


def answers(analogy: Analogy, relations: Sequence[Relation]) -> Tensor:
    """True answers of the K relations that apply to an analogy's b, [K, 3, 64, 64], the analogy's own b' first.

    A relation applies where it has a partner for b that looks different from b. Of relations whose answers look the
    same on this b only the first stays, so the own one always does.
    """
    key, style = analogy.keys[2].rsplit("@", 1)
    b = (load_emoji().index[key], STYLES.index(style))
    found = [analogy.b_prime]
    for relation in relations:
        rows = relation.all_pairs
        partners = rows[(rows[:, 0] == b[0]) & (rows[:, 1] == b[1])]
        if relation.name == analogy.relation or len(partners) == 0:
            continue
        answer = relation.pictures(partners[:1])[1][0]
        others = torch.stack([analogy.b, *found])
        if bool(differ(answer.expand_as(others), others).all()):
            found.append(answer)
    return torch.stack(found)


def nearest(result: Tensor, candidates: Tensor) -> int:
    """Index of the candidate [K, 3, 64, 64] with the least squared distance to a picture [3, 64, 64]."""
    return int((candidates - result).pow(2).sum((1, 2, 3)).argmin())


@dataclass
class Sums:
    """Numerators and denominators [k] of one measure on the analogies of one relation."""

    numerator: np.ndarray
    denominator: np.ndarray
    root: bool = field(default=False)

    def ratio(self, weights: np.ndarray) -> np.ndarray:
        """The measure under weights [R, k], one value a row; NaN where the denominator is 0."""
        with np.errstate(invalid="ignore", divide="ignore"):
            value = (weights @ self.numerator) / (weights @ self.denominator)
        return np.sqrt(value) if self.root else value


def _measure(result: Tensor, b: Tensor, b_prime: Tensor, seen_b: Tensor, seen_b_prime: Tensor) -> dict[str, Sums]:
    """All measures but retrieval; ``seen_*`` are the autoencoder's reconstructions."""
    edited = edited_pixels(b, b_prime)
    share = (~edited).double().mean((1, 2))
    preserved = ~edited & (share >= LEAST_PRESERVED)[:, None, None]
    channels = 3 * preserved.sum((1, 2)).double().numpy()
    return {
        "error": Sums(squared(result, seen_b_prime), squared(seen_b, seen_b_prime)),
        "pixel_error": Sums(squared(result, b_prime), squared(b, b_prime)),
        "edited_error": Sums(squared(result, seen_b_prime, edited), squared(seen_b, seen_b_prime, edited)),
        "preserved_error": Sums(127.5**2 * squared(result, seen_b_prime, preserved), channels, root=True),
    }


def summary(ratios: Sequence[tuple[float, np.ndarray]], mean: bool = False) -> Estimate:
    """Median (or mean) over relations of (value, resampled values [R]); relations where it is missing are left out."""
    kept = [(value, resampled) for value, resampled in ratios if not math.isnan(value)]
    if not kept:
        return Estimate(math.nan, math.nan, math.nan)
    values, resampled = np.array([v for v, _ in kept]), np.stack([r for _, r in kept])
    # A resample may miss every analogy that has the measure; the other relations still speak.
    resampled = np.where(np.isnan(resampled), values[:, None], resampled)
    reduce = np.mean if mean else np.median
    low, high = np.quantile(reduce(resampled, axis=0), [0.025, 0.975])
    return Estimate(float(reduce(values)), float(low), float(high))


def resampling_weights(k: int, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """How often each of k analogies occurs in each bootstrap sample, [resamples, k]."""
    return rng.multinomial(k, np.full(k, 1 / k), size=resamples).astype(float)


def by_relation(items: Sequence[Analogy]) -> dict[str, list[Analogy]]:
    """Analogies sorted by their relation, in the order in which the relations first occur."""
    found: dict[str, list[Analogy]] = {}
    for item in items:
        found.setdefault(item.relation, []).append(item)
    return found


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
        methods: name to method, see :func:`methods_of`.
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
    items = [x for name in data for x in data[name]]
    spans = dict(
        zip(data, np.split(np.arange(len(items)), np.cumsum([len(x) for x in data.values()])[:-1]), strict=True)
    )
    _, _, b, b_prime = as_batch(items)
    seen_b, seen_b_prime = reconstruct(autoencoder, b), reconstruct(autoencoder, b_prime)
    rng = np.random.default_rng(seed)
    weights = {name: resampling_weights(len(x), resamples, rng) for name, x in data.items()}
    candidates, chance = _candidates(data, spans, autoencoder, retrieval_limit)

    def sums_of(name: str, result: Tensor) -> dict[str, Sums]:
        span = spans[name]
        sums = _measure(result[span], b[span], b_prime[span], seen_b[span], seen_b_prime[span])
        right = np.array([float(i in candidates and nearest(result[i], candidates[i]) == 0) for i in span])
        sums["retrieval"] = Sums(right, np.array([float(i in candidates) for i in span]))
        return sums

    seconds: dict[str, float] = {}
    ratios: dict[str, dict[str, dict[str, tuple[float, np.ndarray]]]] = {}
    distances: dict[str, dict[str, tuple[float, np.ndarray]]] = {}
    for method_name, method in methods.items():
        started = time.perf_counter()
        result = draw(method, items)
        seconds[method_name] = (time.perf_counter() - started) / len(items)
        ratios[method_name] = {
            name: {m: resampled_ratio(s, weights[name]) for m, s in sums_of(name, result).items()} for name in data
        }
        if judge is not None and retrieval_limit:
            distances[method_name] = _judged(judge, result, b_prime, spans, retrieval_limit, rng, resamples)
        report(f"{method_name}: {1000 * seconds[method_name]:.0f} ms a picture")
    if judge is not None and retrieval_limit:
        shuffled = torch.empty_like(b_prime)
        for span in spans.values():
            shuffled[span] = b_prime[np.roll(span, 1)]
        for label, pictures in (("true answer", seen_b_prime), ("shuffled answers", shuffled)):
            distances[label] = _judged(judge, pictures, b_prime, spans, retrieval_limit, rng, resamples)
    return Evaluation(
        groups={
            group: {
                m: Score(**{x: summary([r[n][x] for n in names], mean=x == "retrieval") for x in MEASURES})
                for m, r in ratios.items()
            }
            for group, names in groups.items()
        },
        relations={name: {m: {x: ratios[m][name][x][0] for x in MEASURES} for m in methods} for name in data},
        members={group: list(names) for group, names in groups.items()},
        analogies={name: len(x) for name, x in data.items()},
        chance={group: _mean([c for n in names for c in chance[n]]) for group, names in groups.items()},
        judge={
            group: {m: summary([d[n] for n in names]) for m, d in distances.items()}
            for group, names in groups.items()
            if distances
        },
        seconds=seconds,
        resamples=resamples,
        seed=seed,
    )


def resampled_ratio(sums: Sums, weights: np.ndarray) -> tuple[float, np.ndarray]:
    """A measure as it is, and under each of the resampling weights [R, k]."""
    return float(sums.ratio(np.ones((1, weights.shape[1])))[0]), sums.ratio(weights)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else math.nan


def _candidates(
    data: Mapping[str, Sequence[Analogy]], spans: Mapping[str, np.ndarray], autoencoder: MiniAutoencoder, limit: int
) -> tuple[dict[int, Tensor], dict[str, list[float]]]:
    """Reconstructed candidate answers by position of the analogy, where K is at least 2, and 1 / K by relation."""
    chosen = [get_relation(name) for name in data] if limit else []
    found: dict[int, Tensor] = {}
    for name, items in data.items():
        for i, item in zip(spans[name][:limit], items, strict=False):
            answer = answers(item, chosen)
            if len(answer) > 1:
                found[int(i)] = answer
    if found:
        drawn = reconstruct(autoencoder, torch.cat(list(found.values())))
        found = dict(zip(found, drawn.split([len(x) for x in found.values()]), strict=True))
    chance = {n: [1 / len(found[int(i)]) for i in spans[n] if int(i) in found] for n in data}
    return found, chance


def _judged(
    judge: Judge,
    result: Tensor,
    truth: Tensor,
    spans: Mapping[str, np.ndarray],
    limit: int,
    rng: np.random.Generator,
    resamples: int,
) -> dict[str, tuple[float, np.ndarray]]:
    """Mean feature distance by relation, with its resamples."""
    found = {}
    for name, span in spans.items():
        distance = judge.distance(result[span[:limit]], truth[span[:limit]]).double().numpy()
        weights = resampling_weights(len(distance), resamples, rng)
        found[name] = resampled_ratio(Sums(distance, np.ones_like(distance)), weights)
    return found


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
    names = list(data)
    for position, name in enumerate(names):
        following = data[names[(position + 1) % len(names)]]
        for j, item in enumerate(data[name]):
            sibling, stranger = data[name][j - 1], following[j % len(following)]
            items.append(item)
            same.append(replace(item, a=sibling.a, a_prime=sibling.a_prime))
            other.append(replace(item, a=stranger.a, a_prime=stranger.a_prime))
    before = draw(method, items)
    truth = [reconstruct(autoencoder, x) for x in as_batch(items)[2:]]
    scale = squared(*truth)
    spans = np.split(np.arange(len(items)), np.cumsum([len(x) for x in data.values()])[:-1])

    def moved(changed: list[Analogy]) -> Estimate:
        change = squared(draw(method, changed), before)
        ratios = []
        for span in spans:
            weights = resampling_weights(len(span), resamples, rng)
            ratios.append(resampled_ratio(Sums(change[span], scale[span]), weights))
        return summary(ratios)

    return Counterfactuals(moved(same), moved(other))


def table(evaluation: Evaluation, measure: str = "error") -> str:
    """One measure as a Markdown table: a method a row, a group of relations a column, 95 % intervals in brackets.

    Raises:
        InputError: a measure outside :data:`MEASURES`.
    """
    if measure not in MEASURES:
        raise InputError(f"expected a measure out of {MEASURES}, got {measure!r}")
    groups = list(evaluation.groups)
    lines = [
        "| method | " + " | ".join(f"{g} ({len(evaluation.members[g])})" for g in groups) + " |",
        "|---|" + "---|" * len(groups),
    ]
    for method in evaluation.seconds:
        cells = [str(getattr(evaluation.groups[g][method], measure)) for g in groups]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    if measure == "retrieval":
        chances = [evaluation.chance[g] for g in groups]
        cells = ["–" if math.isnan(c) else f"{c:.2f}" for c in chances]
        lines.append("| *chance* | " + " | ".join(cells) + " |")
    return "\n".join(lines)
