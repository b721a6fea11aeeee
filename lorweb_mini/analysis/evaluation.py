"""The measures, one definition each.

Every measure of a relation is a ratio of two sums over its analogies, and a group of relations is summed up by the
median over them (the mean, for retrieval). Intervals resample the analogies within each relation.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..emoji.relations import Analogy, Relation, as_batch, differ, get_relation
from ..emoji.sheets import STYLES, load_emoji
from ..errors import InputError, check_seed, whole_number
from ..images import kind_of
from ..models.autoencoder import MiniAutoencoder
from ..models.encoders import Judge
from .bootstrap import Estimate, Resampled, ratio, resampled, resampling_weights, summary
from .scores import MEASURES, Evaluation, Score

CHUNK = 64
TOUCHED = 0.1  # a pixel is edited where a channel of [-1, 1] moves by more than this, 13 grey levels of 255
LEAST_PRESERVED = 0.01  # share of untouched pixels below which an edit counts as touching everything

Sums = tuple[np.ndarray, np.ndarray]
"""Numerators and denominators [n] of a measure on n analogies; where the denominator is 0 one is left out."""
Method = Callable[[list[Analogy]], Tensor]
"""k analogies to pictures [k, 3, 64, 64]. It may look at a, a' and b; the oracle also at the relation's name."""


def reconstruct(autoencoder: MiniAutoencoder, x: Tensor) -> Tensor:
    """Pictures [k, 3, 64, 64] through the autoencoder and back: the best result that a method on latents can have."""
    with torch.no_grad():
        return torch.cat([autoencoder.to_picture(autoencoder.to_latent(part)) for part in x.split(CHUNK)])


def draw(method: Method, items: Sequence[Analogy]) -> Tensor:
    """A method's results on k analogies, [k, 3, 64, 64], drawn in batches; InputError where it gives anything else."""
    results = []
    for part in (list(items[i : i + CHUNK]) for i in range(0, len(items), CHUNK)):
        with torch.no_grad():
            result = method(part)
        # Measured as well, NaN would pass for missing, and one channel for all three.
        shape = (len(part), *part[0].b.shape)
        if not isinstance(result, Tensor) or result.shape != shape or not result.is_floating_point():
            raise InputError(f"expected pictures {list(shape)} in [-1, 1] from a method, got {kind_of(result)}")
        if not bool(result.isfinite().all()):
            raise InputError("expected finite pictures from a method, got NaN or infinity among them")
        results.append(result)
    return torch.cat(results)


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


def answers(items: Sequence[Analogy], relations: Sequence[Relation]) -> list[Tensor]:
    """True answers of the relations that apply to each analogy's b, [K, 3, 64, 64], the analogy's own b' first.

    A relation applies where it has a partner for b that looks different from b. Of relations whose answers look the
    same on this b only the first stays, so the own one always does.
    """
    keys = [x.keys[2].rsplit("@", 1) for x in items]
    drawings = np.array([load_emoji().index[key] * len(STYLES) + STYLES.index(style) for key, style in keys], int)
    found = [[x.b, x.b_prime] for x in items]
    for relation in relations:
        others = np.array([x.relation != relation.name for x in items], bool)
        first_pictures = relation.all_pairs[:, 0] * len(STYLES) + relation.all_pairs[:, 1]
        known, positions = np.unique(first_pictures, return_index=True)
        chosen = np.flatnonzero(np.isin(drawings, known) & others)
        if len(chosen):  # all at once: a picture at a time takes several times as long
            pairs = relation.all_pairs[positions[np.searchsorted(known, drawings[chosen])]]
            for i, answer in zip(chosen, relation.pictures(pairs)[1], strict=True):
                found[i].append(answer)
    return [_without_repeats(pictures)[1:] for pictures in found]


def _without_repeats(pictures: list[Tensor]) -> Tensor:
    """Of K pictures [3, 64, 64] those that look different from all that stay before them; the first two always stay."""
    kept, count = torch.stack(pictures), 2
    for picture in pictures[2:]:
        if bool(differ(picture.expand_as(kept[:count]), kept[:count]).all()):
            kept[count] = picture
            count += 1
    return kept[:count]


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


class Truth:
    """What results on the analogies of several relations are compared with, and the bootstrap's weights.

    Making it takes most of the time of a short evaluation, so several of the same analogies share one. Arguments as
    those of :func:`evaluate`; ``limit`` is its retrieval_limit.
    """

    def __init__(
        self,
        data: Mapping[str, Sequence[Analogy]],
        autoencoder: MiniAutoencoder,
        judge: Judge | None,
        limit: int,
        resamples: int,
        seed: int,
    ) -> None:
        self.items = [x for items in data.values() for x in items]
        self.spans, rng = _spans(data), np.random.default_rng(seed)
        self.weights = {name: resampling_weights(len(items), resamples, rng) for name, items in data.items()}
        _, _, self.b, self.b_prime = as_batch(self.items)
        self.seen_b, self.seen_b_prime = (reconstruct(autoencoder, x) for x in (self.b, self.b_prime))
        self.edited = (self.b_prime - self.b).abs().amax(1) > TOUCHED
        touches_all = (~self.edited).double().mean((1, 2)) < LEAST_PRESERVED
        self.preserved = ~self.edited & ~touches_all[:, None, None]
        # Retrieval and the judge look at these.
        self.chosen = [int(i) for span in self.spans.values() for i in span[:limit]]
        self.judge = judge if self.chosen else None
        self.features = self.judge.features(self.b_prime[self.chosen]) if self.judge else None
        relations = [get_relation(name) for name in data] if self.chosen else []
        self.candidates: dict[int, Tensor] = {}
        for part in (self.chosen[i : i + CHUNK] for i in range(0, len(self.chosen), CHUNK)):
            for i, true in zip(part, answers([self.items[i] for i in part], relations), strict=True):
                if len(true) > 1:
                    self.candidates[i] = reconstruct(autoencoder, true)

    def sums(self, result: Tensor) -> dict[str, Sums]:
        """Every measure's numerators and denominators."""
        counted, right = np.zeros((2, len(result)))
        for i, candidates in self.candidates.items():
            counted[i], right[i] = 1, nearest(result[i], candidates) == 0

        def against(b: Tensor, b_prime: Tensor, where: Tensor | None = None) -> Sums:
            return squared(result, b_prime, where), squared(b, b_prime, where)

        kept = 127.5**2 * squared(result, self.seen_b_prime, self.preserved)
        return {
            "error": against(self.seen_b, self.seen_b_prime),
            "pixel_error": against(self.b, self.b_prime),
            "edited_error": against(self.seen_b, self.seen_b_prime, self.edited),
            "preserved_error": (kept, 3 * self.preserved.sum((1, 2)).double().numpy()),
            "retrieval": (right, counted),
            **self.distances(result),
        }

    def distances(self, result: Tensor) -> dict[str, Sums]:
        """The judge's feature distances, if there is one."""
        if self.judge is None or self.features is None:
            return {}
        distance, counted = np.zeros((2, len(result)))
        distance[self.chosen] = 1 - (self.judge.features(result[self.chosen]) * self.features).sum(-1).numpy()
        counted[self.chosen] = 1
        return {"judge": (distance, counted)}

    def resampled(self, sums: Mapping[str, Sums]) -> dict[str, dict[str, Resampled]]:
        """Measure to relation to value."""
        values: dict[str, dict[str, Resampled]] = {}
        for measure, (numerator, denominator) in sums.items():
            root = measure == "preserved_error"
            parts = {name: ratio(numerator[span], denominator[span], root) for name, span in self.spans.items()}
            values[measure] = {name: resampled(part, self.weights[name]) for name, part in parts.items()}
        return values

    def chance(self, names: Sequence[str]) -> float:
        """Mean of 1 / K over those analogies of some relations that retrieval looks at."""
        positions = [int(i) for name in names for i in self.spans[name]]
        shares = [1 / len(self.candidates[i]) for i in positions if i in self.candidates]
        return float(np.mean(shares)) if shares else math.nan


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
    truth: Truth | None = None,
) -> Evaluation:
    """Judges methods (see :func:`~lorweb_mini.analysis.methods.methods_of`) on analogies with true b', by relation.

    Args:
        groups: name to relations that are summed up together; by default one group, ``all``.
        judge: adds its feature distances.
        retrieval_limit: retrieval and the judge look at so many analogies a relation at most, since every candidate
            answer has to go through the autoencoder; 0 leaves both out.
        report: called with a short line after each method.
        truth: of an earlier call with the same analogies, judge, limit, resamples and seed.

    Raises:
        InputError: no analogies, a group names a relation that has none, numbers that are not whole or too small, or a
            method that does not give pictures.
    """
    whole_number(retrieval_limit, "retrieval_limit", 0)
    _check_bootstrap(resamples, seed)
    data = {name: list(items) for name, items in analogies_by_relation.items() if len(items)}
    if not data or not methods:
        raise InputError("expected at least one method and one relation with analogies, got none")
    groups = {"all": list(data)} if groups is None else groups
    _check_groups(groups, data)
    truth = truth or Truth(data, autoencoder, judge, retrieval_limit, resamples, seed)
    wanted, sizes = ({name: len(x) for name, x in some.items()} for some in (data, truth.spans))
    if wanted != sizes:
        raise InputError(f"expected the truth of {wanted} analogies, got {sizes}")
    seconds, values = dict[str, float](), dict[str, dict[str, dict[str, Resampled]]]()
    for method_name, method in methods.items():
        started = time.perf_counter()
        result = draw(method, truth.items)
        seconds[method_name] = (time.perf_counter() - started) / len(result)
        values[method_name] = truth.resampled(truth.sums(result))
        report(f"{method_name}: {1000 * seconds[method_name]:.0f} ms a picture")
    judged = {name: parts["judge"] for name, parts in values.items() if "judge" in parts}
    if judged:
        other_answers = truth.b_prime[np.concatenate([np.roll(span, 1) for span in truth.spans.values()])]
        for name, pictures in (("true answer", truth.seen_b_prime), ("shuffled answers", other_answers)):
            judged[name] = truth.resampled(truth.distances(pictures))["judge"]
    return Evaluation(
        groups={g: {m: _score(parts, names) for m, parts in values.items()} for g, names in groups.items()},
        relations={n: {m: {x: values[m][x][n][0] for x in MEASURES} for m in methods} for n in data},
        members={group: list(names) for group, names in groups.items()},
        analogies=wanted,
        chance={group: truth.chance(names) for group, names in groups.items()},
        judge={g: {m: summary([x[n] for n in ns]) for m, x in judged.items()} for g, ns in groups.items() if judged},
        seconds=seconds,
        resamples=resamples,
        seed=seed,
    )


def _check_groups(groups: Mapping[str, Sequence[str]], data: Mapping[str, Sequence[Analogy]]) -> None:
    for group, names in groups.items():
        if lacking := [n for n in names if n not in data] or not names:
            raise InputError(f"expected relations with analogies in the group {group!r}, got none for {lacking}")


def _check_bootstrap(resamples: int, seed: int) -> None:
    whole_number(resamples, "resamples")
    check_seed(seed)


def _score(values: Mapping[str, Mapping[str, Resampled]], names: Sequence[str]) -> Score:
    """From measure to relation to value, over some relations."""
    return Score(**{m: summary([values[m][n] for n in names], mean=m == "retrieval") for m in MEASURES})


@dataclass(frozen=True)
class Counterfactuals:
    """How far results move, as ‖new − old‖² / ‖b − b'‖² summed within relations, the median over them."""

    same: Estimate  # the pair (a, a') replaced by another pair of the same relation; should be small
    other: Estimate  # replaced by a pair of another relation; should be large


def counterfactuals(
    method: Method,
    analogies_by_relation: Mapping[str, Sequence[Analogy]],
    autoencoder: MiniAutoencoder,
    limit: int = 8,
    resamples: int = 1000,
    seed: int = 0,
) -> Counterfactuals:
    """Swaps the example pair under a method; InputError for fewer than two relations with two analogies each.

    ``limit``, at least 2, is how many analogies of a relation are looked at.
    """
    whole_number(limit, "limit", 2)  # of a single analogy the other pair would be its own
    _check_bootstrap(resamples, seed)
    data = {n: list(x)[:limit] for n, x in analogies_by_relation.items() if len(x) > 1}
    if len(data) < 2:
        raise InputError(f"expected two relations with two analogies each, got {list(data)}")
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
    spans, rng = _spans(data).values(), np.random.default_rng(seed)

    def moved(changed: list[Analogy]) -> Estimate:
        change = squared(draw(method, changed), before)
        weights = [resampling_weights(len(span), resamples, rng) for span in spans]
        return summary([resampled(ratio(change[span], scale[span]), w) for span, w in zip(spans, weights, strict=True)])

    return Counterfactuals(moved(same), moved(other))
