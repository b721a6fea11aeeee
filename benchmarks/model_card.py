"""``make report``: measures the shipped weights on test concepts and writes the tables of their model card.

``python -m benchmarks.model_card [autoencoder] [encoder] [base] [starter] [full]`` leaves ``report.json`` beside the
weights of each part. The tables of ``CARD.md`` are made of these files alone, the prose around them by hand.

First comes measuring, models in and frozen dataclasses out; then showing. Drawings of one concept (its tones and
genders, its six styles) are no independent samples, so the bootstrap over drawings draws whole concepts.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lorweb_mini.analysis.bootstrap import (
    Estimate,
    Resampled,
    mean_of,
    ratio,
    resampled,
    resampling_weights,
    summary,
)
from lorweb_mini.analysis.evaluation import (
    Method,
    by_relation,
    evaluate,
    gradient_energy,
    reconstruct,
)
from lorweb_mini.analysis.methods import methods_of
from lorweb_mini.analysis.scores import Evaluation, table, without_nan
from lorweb_mini.analysis.space import spread_out
from lorweb_mini.commands.results import PACKAGES
from lorweb_mini.commands.run import root, say, try_judge
from lorweb_mini.core.editor import Editor, load
from lorweb_mini.emoji.distributions import CIRCULAR, LONGEST, Chains, Distribution, held_out
from lorweb_mini.emoji.edits import EDITS
from lorweb_mini.emoji.latents import PictureSource
from lorweb_mini.emoji.relations import (
    DEGREES,
    SPLITS,
    Analogy,
    Relation,
    analogies,
    concept_sides,
    get_relation,
    select,
)
from lorweb_mini.emoji.sheets import STYLES, load_emoji
from lorweb_mini.errors import InputError
from lorweb_mini.files import write_atomically
from lorweb_mini.models.autoencoder import MiniAutoencoder, psnr
from lorweb_mini.models.base import Base
from lorweb_mini.models.encoders import Judge
from lorweb_mini.models.pair_encoder import PairEncoder
from lorweb_mini.models.text import vectors_of
from lorweb_mini.models.tiny_clip import TinyCLIP
from lorweb_mini.models.weights import fingerprint, load_config, weights_dir
from lorweb_mini.show.style import save
from lorweb_mini.training.log import LOG, read_log
from lorweb_mini.training.pair_encoder import pair_targets, strength_places

from .losses import loss_panels

CHUNK = 128
RESAMPLES = 1000
LEAST = 8  # test pairs below which a relation says little
STEPS = 10
DEGREE_NAMES = {
    "seen": "unseen emoji, seen relation",
    "strength": "unseen strength",
    "composition": "unseen composition",
    "family": "unseen family",
}
GUIDANCES = (1.0, 1.5, 2.0, 3.0)
GUIDED = 8  # relations a group on which guidance is measured: it costs two passes a step
CHOICES = 5  # of one emoji a concept
EFFICIENTNET = "EfficientNet-lite0"
TURNS = ("edit/rotate", "edit/flip_horizontal", "edit/flip_vertical")
FAMILIES = {"tone": "skin tones", "gender": "gender", "style": "style"}


# --- drawings -------------------------------------------------------------------------------------


def drawings(split: str) -> np.ndarray:
    """Emoji and style of every drawing of a split's concepts, int [P, 2]."""
    return np.argwhere(load_emoji().present & (concept_sides() == SPLITS.index(split))[:, None])


def one_emoji_a_concept(seed: int, split: str = "test") -> np.ndarray:
    """A random emoji of each of a split's C concepts, the concepts in alphabetical order, int [C]."""
    members: dict[str, list[int]] = {}
    for i in np.flatnonzero(concept_sides() == SPLITS.index(split)):
        members.setdefault(load_emoji().emojis[i].concept, []).append(int(i))
    rng = np.random.default_rng(seed)
    return np.array([rng.choice(members[concept]) for concept in sorted(members)])


def concept_of(emoji: np.ndarray) -> np.ndarray:
    """Emojis [P] to numbers 0, 1, … of their concepts, int [P]."""
    return np.unique([load_emoji().emojis[i].concept for i in emoji], return_inverse=True)[1]


def psnr_of(rows: np.ndarray, compare: Callable[[Tensor, np.ndarray], tuple[Tensor, Tensor]]) -> np.ndarray:
    """PSNR in dB between the two batches that ``compare(pictures, rows)`` returns for drawings [P, 2], float64 [P]."""
    parts = []
    for part in np.array_split(rows, -(-len(rows) // CHUNK)):
        with torch.no_grad():
            parts.append(psnr(*compare(load_emoji().tensor(part[:, 0], part[:, 1]), part)))
    return torch.cat(parts).double().numpy()


def mean_by_concept(values: np.ndarray, concept: np.ndarray, weights: np.ndarray) -> Resampled:
    """The mean of values [P], and again with each concept counted as often as weights [R, C] say."""
    size = weights.shape[1]
    return resampled(ratio(np.bincount(concept, values, size), np.bincount(concept, minlength=size)), weights)


# --- autoencoder ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reconstruction:
    """How well the autoencoder gives drawings back.

    Attributes:
        psnr: split to style to PSNR in dB, the mean over drawings; ``mean`` is the mean over the six styles.
        gap: how much better it is on train concepts than on test concepts, in dB.
        deviation: standard deviation of the normalised latents of test drawings; 1 by design on training drawings.
        channels: lowest and highest standard deviation of a latent channel there.
        pictures: number of drawings of each split.
    """

    psnr: dict[str, dict[str, Estimate]]
    gap: Estimate
    deviation: float
    channels: tuple[float, float]
    pictures: dict[str, int]


def measure_autoencoder(autoencoder: MiniAutoencoder, resamples: int = RESAMPLES, seed: int = 0) -> Reconstruction:
    """Reconstruction of every drawing of test concepts, and of train concepts beside it."""
    rng = np.random.default_rng(seed)
    by_split: dict[str, dict[str, Estimate]] = {}
    means: dict[str, Resampled] = {}
    rows = {split: drawings(split) for split in ("test", "train")}
    for split, shown in rows.items():
        values = psnr_of(shown, lambda x, _: (reconstruct(autoencoder, x), x))
        concept = concept_of(shown[:, 0])
        weights = resampling_weights(concept.max() + 1, resamples, rng)
        ratios = {}
        for i, style in enumerate(STYLES):
            drawn = shown[:, 1] == i
            ratios[style] = mean_by_concept(values[drawn], concept[drawn], weights)
        by_split[split] = {style: summary([ratio]) for style, ratio in ratios.items()}
        by_split[split]["mean"] = summary(list(ratios.values()), mean=True)
        means[split] = (
            float(np.nanmean([value for value, _ in ratios.values()])),
            np.nanmean([again for _, again in ratios.values()], axis=0),
        )
    gap = (means["train"][0] - means["test"][0], means["train"][1] - means["test"][1])
    with torch.no_grad():
        parts = [load_emoji().tensor(p[:, 0], p[:, 1]) for p in np.array_split(rows["test"], 32) if len(p)]
        latents = torch.cat([autoencoder.to_latent(part) for part in parts])
    channels = latents.transpose(0, 1).flatten(1).std(1)
    return Reconstruction(
        psnr=by_split,
        gap=summary([gap]),
        deviation=latents.std().item(),
        channels=(channels.min().item(), channels.max().item()),
        pictures={split: len(shown) for split, shown in rows.items()},
    )


# --- encoder --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Retrieved:
    """Share of right answers over several choices of one emoji a concept; the lowest and the highest of a choice."""

    share: Estimate
    lowest: float
    highest: float


@dataclass(frozen=True)
class Retrieval:
    """Retrieval by the cosine of an embedding, among one emoji of each test concept.

    Attributes:
        top1: embedding to: of a drawing in one style, is the same emoji's drawing in another the nearest of all
            concepts'? Mean over the 30 ordered pairs of styles.
        names: of a picture, is its Unicode name among the five nearest? Mean over the six styles.
        chance: what guessing scores at either.
        concepts, choices: how many concepts, and how many times an emoji was chosen of each.
    """

    top1: dict[str, Retrieved]
    names: Retrieved
    chance: dict[str, float]
    concepts: int
    choices: int


Counts = tuple[np.ndarray, np.ndarray]
"""For each task and concept whether the answer was right and whether it was asked for, two arrays [tasks, C]."""


def found_across_styles(features: Tensor, present: np.ndarray) -> Counts:
    """Every drawing's nearest neighbour in every other style.

    Args:
        features: unit vectors [C, 6, D] of C emojis; ``present``: bool [C, 6], which of them are drawings.

    Returns:
        Two arrays [30, C], a row an ordered pair of styles.
    """
    pairs = list(permutations(range(features.shape[1]), 2))
    right, asked = np.zeros((len(pairs), len(features))), np.zeros((len(pairs), len(features)))
    for task, (s, t) in enumerate(pairs):
        both = np.flatnonzero(present[:, s] & present[:, t])
        nearest = (features[both, s] @ features[both, t].T).argmax(1).numpy()
        right[task, both] = nearest == np.arange(len(both))
        asked[task, both] = 1
    return right, asked


def found_by_name(features: Tensor, names: Tensor, present: np.ndarray, within: int = 5) -> Counts:
    """Whether the name [C, D] of a picture [C, 6, D] is among its nearest ones; two arrays [6, C]."""
    asked = present.T.astype(float)
    right = np.zeros_like(asked)
    for style in range(len(asked)):
        shown = np.flatnonzero(present[:, style])
        likeness = features[shown, style] @ names[shown].T
        better = (likeness > likeness.diagonal()[:, None]).sum(1)
        right[style, shown] = (better < within).numpy()
    return right, asked


def pooled(counts: Sequence[Counts], weights: np.ndarray) -> Retrieved:
    """Sums up several choices: the share over all of them, and the spread between them."""
    single = [float(np.mean(right.sum(1) / asked.sum(1))) for right, asked in counts]
    right, asked = (np.sum(x, axis=0) for x in zip(*counts, strict=True))
    ratios = [resampled(ratio(r, a), weights) for r, a in zip(right, asked, strict=True)]
    return Retrieved(summary(ratios, mean=True), min(single), max(single))


def measure_encoder(
    encoder: TinyCLIP,
    autoencoder: MiniAutoencoder,
    judge: Judge | None = None,
    choices: int = CHOICES,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Retrieval:
    """Retrieval by the encoder's embeddings and, for comparison, by latents, pixels and (with a judge) its features."""
    embeddings: dict[str, Callable[[Tensor], Tensor]] = {
        "identity embedding": lambda x: encoder.identity_embedding(autoencoder.to_latent(x)),
        "embedding (the router's)": lambda x: encoder(autoencoder.to_latent(x)),
        "latents": lambda x: autoencoder.to_latent(x).flatten(1),
        "pixels": lambda x: x.flatten(1),
    }
    if judge is not None:
        embeddings[EFFICIENTNET] = judge.features
    chosen = np.stack([one_emoji_a_concept(seed + i) for i in range(choices)])
    emojis, places = np.unique(chosen, return_inverse=True)
    places = places.reshape(chosen.shape)
    present = load_emoji().present[emojis]
    rows = np.argwhere(present)
    weights = resampling_weights(chosen.shape[1], resamples, np.random.default_rng(seed))
    with torch.no_grad():
        names = encoder.name_embedding(vectors_of([load_emoji().emojis[i].name for i in emojis]))

    def features_of(embed: Callable[[Tensor], Tensor]) -> Tensor:
        parts = []
        for part in np.array_split(rows, -(-len(rows) // CHUNK)):
            with torch.no_grad():
                parts.append(F.normalize(embed(load_emoji().tensor(emojis[part[:, 0]], part[:, 1])), dim=-1))
        vectors = torch.cat(parts)
        features = vectors.new_zeros(*present.shape, vectors.shape[1])
        features[rows[:, 0], rows[:, 1]] = vectors
        return features

    top1 = {}
    for name, embed in embeddings.items():
        features = features_of(embed)
        top1[name] = pooled([found_across_styles(features[p], present[p]) for p in places], weights)
    features = features_of(embeddings["identity embedding"])
    named = [found_by_name(features[p], names[p], present[p]) for p in places]
    both = [int((present[p][:, s] & present[p][:, t]).sum()) for p in places for s, t in permutations(range(6), 2)]
    return Retrieval(
        top1=top1,
        names=pooled(named, weights),
        chance={
            "top1": float(np.mean([1 / n for n in both])),
            "names": float(np.mean([5 / n for p in places for n in present[p].sum(0)])),
        },
        concepts=chosen.shape[1],
        choices=choices,
    )


# --- base -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Instructed:
    """What the base does when told.

    Attributes:
        steps: normalised errors for numbers of steps and for the phrasing held out of training, over all relations.
        sharpness: group to method to sum ‖∇result‖² / sum ‖∇b'‖², b' as the autoencoder reconstructs it; the median
            over relations. 1 is as sharp as the truth.
        guidance: normalised errors for guidance scales, over a fixed sample of the relations.
        preserved: PSNR in dB of what it draws without an instruction against the reference's reconstruction.
        drawings: number of references of the latter.
    """

    steps: Evaluation
    sharpness: dict[str, dict[str, Estimate]]
    guidance: Evaluation
    preserved: Estimate
    drawings: int


def enough(chosen: Sequence[Relation], count: int, seed: int = 0, least: int = LEAST) -> dict[str, list[Analogy]]:
    """Up to ``count`` test analogies of each relation that has at least ``least`` test pairs with a visible change."""
    by_name = by_relation(analogies("test", [r.name for r in chosen], seed, max(count, least)))
    return {name: items[:count] for name, items in by_name.items() if len(items) >= least}


def kinds_of(names: Sequence[str]) -> dict[str, list[str]]:
    """Relations' names sorted into the groups of the base's table; ``all`` comes last."""
    groups: dict[str, list[str]] = {
        k: [] for k in ("procedural edits", "rotations and flips", *FAMILIES.values(), "other semantic")
    }
    for name in names:
        family = get_relation(name).family
        if family.startswith("edit/"):
            groups["rotations and flips" if family in TURNS else "procedural edits"].append(name)
        else:
            groups[FAMILIES.get(family, "other semantic")].append(name)
    return {group: members for group, members in (groups | {"all": list(names)}).items() if members}


def instructed(
    base: Base, autoencoder: MiniAutoencoder, steps: int, phrasing: int = 0, guidance: float = 1.0
) -> Method:
    """The base told of a relation in one of its phrasings, each picture drawn from a noise of its own."""

    def method(items: list[Analogy]) -> Tensor:
        words = vectors_of([get_relation(x.relation).instructions[phrasing] for x in items])
        seeds = [zlib.crc32(" ".join(x.keys).encode()) for x in items]
        latent = autoencoder.to_latent(torch.stack([x.b for x in items]))
        return autoencoder.to_picture(base.edit(latent, words, seeds, steps, guidance))

    return method


def evaluate_with_sharpness(
    methods: Mapping[str, Method],
    data: Mapping[str, Sequence[Analogy]],
    autoencoder: MiniAutoencoder,
    groups: Mapping[str, Sequence[str]],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[Evaluation, dict[str, dict[str, Estimate]]]:
    """What ``evaluate`` measures, and the sharpness (see :class:`Instructed`) of the same results."""
    energies: dict[str, list[np.ndarray]] = {name: [] for name in methods}

    def noting(name: str, items: list[Analogy]) -> Tensor:
        drawn = methods[name](items)
        energies[name].append(gradient_energy(drawn))
        return drawn

    watched = {name: partial(noting, name) for name in methods}
    evaluation = evaluate(watched, data, autoencoder, groups, None, 0, resamples, seed, lambda line: say(f"  {line}"))
    b_prime = torch.stack([x.b_prime for items in data.values() for x in items])
    truth = gradient_energy(reconstruct(autoencoder, b_prime))
    ends = np.cumsum([len(items) for items in data.values()])
    spans = dict(zip(data, np.split(np.arange(len(truth)), ends[:-1]), strict=True))
    rng = np.random.default_rng(seed)  # the resamples that the errors have
    weights = {name: resampling_weights(len(span), resamples, rng) for name, span in spans.items()}
    ratios = {}
    for method, parts in energies.items():
        energy = np.concatenate(parts)
        ratios[method] = {n: resampled(ratio(energy[span], truth[span]), weights[n]) for n, span in spans.items()}
    sharpness = {g: {m: summary([r[n] for n in names]) for m, r in ratios.items()} for g, names in groups.items()}
    return evaluation, sharpness


def measure_base(
    base: Base,
    autoencoder: MiniAutoencoder,
    data: Mapping[str, Sequence[Analogy]],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Instructed:
    """Instruction editing on test analogies of relations that the base knows, and preservation without instruction."""
    told = partial(instructed, base, autoencoder)
    methods = {"1 step": told(1)} | {f"{n} steps": told(n) for n in (2, 4, STEPS)}
    methods[f"{STEPS} steps, held-out words"] = told(STEPS, phrasing=-1)
    groups = kinds_of(list(data))
    steps, sharpness = evaluate_with_sharpness(methods, data, autoencoder, groups, resamples, seed)
    sample = [n for group, names in groups.items() if group != "all" for n in spread_out(names, GUIDED)]
    guided = {f"guidance {scale:g}": told(STEPS, guidance=scale) for scale in GUIDANCES}
    guidance = evaluate(
        guided,
        {n: data[n] for n in sample},
        autoencoder,
        kinds_of(sample),
        retrieval_limit=0,
        resamples=resamples,
        seed=seed,
        report=lambda line: say(f"  {line}"),
    )
    chosen = one_emoji_a_concept(seed)
    rows = np.argwhere(load_emoji().present[chosen])
    rows[:, 0] = chosen[rows[:, 0]]

    def untold(x: Tensor, part: np.ndarray) -> tuple[Tensor, Tensor]:
        seeds = [len(STYLES) * emoji + style for emoji, style in part]
        drawn = base.edit(autoencoder.to_latent(x), None, seeds, STEPS)
        return autoencoder.to_picture(drawn), reconstruct(autoencoder, x)

    weights = resampling_weights(len(chosen), resamples, np.random.default_rng(seed))
    preserved = mean_by_concept(psnr_of(rows, untold), concept_of(rows[:, 0]), weights)
    return Instructed(steps, sharpness, guidance, summary([preserved]), len(rows))


# --- the encoder of the pair ------------------------------------------------------------------------


@dataclass(frozen=True)
class PairReading:
    """What the encoder of the pair reads off pairs of test drawings.

    Attributes:
        kinds: kind to the share of pairs with that single edit whose likeliest kind it is, with an interval over pairs.
        strengths: kind to the median absolute error of the strength of a single edit, in the unit of the kind (pixels
            of distance for a direction, the mean entry for a channel matrix).
        exact: number of edits in a chain (1 to 3) to the share of chains of which all kinds are told and no other.
        order: share of the edits in chains of two and three whose place is told.
        relation: share of the artists' pairs whose relation is told first, and among the first five.
        relations: out of how many; ``pairs``: how many pairs of each sort were read.
    """

    kinds: dict[str, Estimate]
    strengths: dict[str, float]
    exact: dict[str, Estimate]
    order: Estimate
    relation: dict[str, Estimate]
    relations: int
    pairs: int


def share(right: np.ndarray, resamples: int, rng: np.random.Generator) -> Estimate:
    """Share of a bool array [k] that is True, with its bootstrap interval; missing where k is 0."""
    if not len(right):
        return Estimate(math.nan, math.nan, math.nan)
    weights = resampling_weights(len(right), resamples, rng)
    return summary([resampled(mean_of(right.astype(float)), weights)])


@torch.no_grad()
def unscaled_strength(kind: str, scaled: Tensor) -> Tensor:
    """Inverse of :func:`~lorweb_mini.training.pair_encoder.scaled_strength`; angles come out in [0, 360)."""
    if kind in CIRCULAR:
        cosine, sine = scaled.view(len(scaled), -1, 2).unbind(-1)
        return torch.rad2deg(torch.atan2(sine, cosine)) % 360
    low, high = EDITS[kind].range
    return low + (scaled + 1) / 2 * (high - low)


def measure_pair_encoder(
    encoder: PairEncoder, pictures: PictureSource, count: int = 64, resamples: int = RESAMPLES, seed: int = 0
) -> PairReading:
    """Reads fresh edits and the artists' relations off drawings of test concepts, ``count`` of each sort."""
    rng = np.random.default_rng(seed)
    places = strength_places(encoder.kinds)

    def read(chains: Chains) -> Tensor:
        pairs = pictures.draw(rng, len(chains), "test")
        return encoder(*pictures.latents(pairs, chains, np.ones(len(pairs), bool)))

    kinds, strengths = {}, {}
    for index, kind in enumerate(encoder.kinds):
        one = Distribution([kind], held_out(), (1, 0, 0)).draw(rng, count)
        e = read(one)
        kinds[kind] = share((encoder.present(e).argmax(-1) == index).numpy(), resamples, rng)
        if kind in places and one.strengths[:, 0].std(0).max() > 0:
            value = one.strengths[:, 0, : EDITS[kind].parameters]
            error = unscaled_strength(kind, encoder.strength(e)[:, places[kind]]) - value
            if kind in CIRCULAR:
                error = (error + 180) % 360 - 180
            size = error.norm(dim=1) if kind == "move" else error.abs().mean(1)
            strengths[kind] = float(size.median())
    exact, placed = {}, []
    for length in range(1, min(LONGEST, len(encoder.kinds)) + 1):
        chains = Distribution(encoder.kinds, held_out(), [float(length == k + 1) for k in range(LONGEST)]).draw(
            rng, 4 * count
        )
        e, target = read(chains), pair_targets(encoder.kinds, chains)
        exact[str(length)] = share(
            ((encoder.present(e) > 0) == target["present"].bool()).all(-1).numpy(), resamples, rng
        )
        if length > 1:
            told = encoder.order(e).view(len(e), -1, LONGEST).argmax(-1)
            placed.append((told == target["order"])[target["order"] >= 0].numpy())
    hits: dict[str, list[bool]] = {"first": [], "first five": []}
    for index, name in enumerate(encoder.relations):
        pairs = get_relation(name).pairs("test")
        for row in pairs[rng.permutation(len(pairs))[:8]]:
            a, b = pictures.latents(row[None], Chains.of([[("grey", 1.0)]]), np.zeros(1, bool))
            ranked = encoder.relation(encoder(a, b))[0].argsort(descending=True).tolist()
            hits["first"].append(ranked[0] == index)
            hits["first five"].append(index in ranked[:5])
    return PairReading(
        kinds,
        strengths,
        exact,
        share(np.concatenate(placed), resamples, rng),
        {k: share(np.array(v), resamples, rng) for k, v in hits.items()},
        len(encoder.relations),
        count,
    )


# --- bases of LoRAs -------------------------------------------------------------------------------


def by_degree(part: str, count: int, seed: int = 0) -> dict[str, dict[str, list[Analogy]]]:
    """Degree to relation to test analogies: the starter set's relations for the starter, all relations for the full."""
    analogies_of = {}
    for degree in DEGREES:
        chosen = select(degree, starter=part == "starter")
        analogies_of[degree] = enough(chosen, count, seed, LEAST if degree == "seen" else 1)
    return {degree: data for degree, data in analogies_of.items() if data}


@dataclass(frozen=True)
class Exemplified:
    """What a basis does by example, in one step and in ten.

    Attributes:
        errors: normalised errors by degree of generalisation.
        sharpness: as in :class:`Instructed`.
    """

    errors: Evaluation
    sharpness: dict[str, dict[str, Estimate]]


def measure_basis(
    editor: Editor, degrees: Mapping[str, Mapping[str, Sequence[Analogy]]], resamples: int = RESAMPLES, seed: int = 0
) -> Exemplified:
    """LoRWeB on unseen emoji, beside the frozen base that is told the relation in words."""
    once, often = (methods_of(editor, steps=steps, seed=seed) for steps in (1, STEPS))
    methods = {name: once[name] for name in ("oracle instruction", "LoRWeB")}
    methods |= {f"{name}, {STEPS} steps": often[name] for name in methods}
    data = {name: items for some in degrees.values() for name, items in some.items()}
    groups = {DEGREE_NAMES[degree]: list(some) for degree, some in degrees.items()}
    return Exemplified(*evaluate_with_sharpness(methods, data, editor.autoencoder, groups, resamples, seed))


# --- weights --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Weights:
    """What a part is and how it was trained; the last five are those of its last training's log.

    Attributes:
        shape: its architecture in a few words.
        parameters: trained ones; for a basis those of LoRAs and router.
        size: of its file, in bytes.
        load_seconds: median of three loads; a basis is loaded with the frozen parts.
        fingerprint: of the weights that were measured.
        loss: mean over the last hundred steps.
    """

    shape: str
    parameters: int
    size: int
    load_seconds: float
    fingerprint: str
    steps: int
    samples: int
    batch_size: int
    seconds: float
    loss: float


LOADERS: dict[str, Callable[[Path], Any]] = {
    "autoencoder": MiniAutoencoder.load,
    "encoder": TinyCLIP.load,
    "pair_encoder": PairEncoder.load,
    "base": Base.load,
    "starter": load,
    "full": load,
}


def shape_of(part: str, config: Mapping[str, Any]) -> str:
    """A part's architecture in a few words, from its config.json."""
    if part == "autoencoder":
        return (
            f"convolutions of {config['detail_channels']} channels at 32×32 (decoder), "
            f"{config['block_out_channels'][2]} at 16×16 and {config['block_out_channels'][3]} at 8×8, "
            f"latents {config['latent_channels']}×8×8"
        )
    if part in ("encoder", "pair_encoder"):
        return f"{config['layers']} blocks, {config['width']} wide; embeddings of {config['embedding_dim']}"
    if part == "base":
        width = config["attention_head_dim"] * config["num_attention_heads"]
        return f"{config['num_layers']} double and {config['num_single_layers']} single blocks, {width} wide"
    return f"N = {config['n_loras']} LoRAs of rank {config['rank']}; layout `{config['layout']}`"


def weigh(part: str, folder: Path) -> tuple[Any, Weights]:
    """Loads a part three times, and reads what its folder says of it.

    Raises:
        InputError: the weights are missing or unreadable, or have no log.
    """
    took = []
    for _ in range(3):
        started = time.perf_counter()
        model = LOADERS[part](folder)
        took.append(time.perf_counter() - started)
    parameters = (
        [*model.basis.parameters(), *(() if model.router is None else model.router.parameters())]
        if isinstance(model, Editor)
        else model.parameters()
    )
    if not (folder / LOG).is_file():
        raise InputError(f"expected the log of a training, {LOG}, found none in {folder}")
    last = read_log(folder / LOG)[-1]
    return model, Weights(
        shape=shape_of(part, load_config(folder)),
        parameters=sum(p.numel() for p in parameters),
        size=sum(path.stat().st_size for path in folder.glob("*.safetensors")),
        load_seconds=statistics.median(took),
        fingerprint=fingerprint(folder),
        steps=int(last["step"]),
        samples=int(last["samples"]),
        batch_size=int(last["samples"] / last["step"]),
        seconds=last["seconds"],
        loss=last["loss"],
    )


# --- showing --------------------------------------------------------------------------------------


def estimate(stored: Mapping[str, float | None]) -> Estimate:
    """An estimate as JSON holds it."""
    return Estimate(**{k: math.nan if v is None else v for k, v in stored.items()})


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    first, *rest = ("| " + " | ".join(line) + " |" for line in (head, *rows))
    return "\n".join((first, "|" + "---|" * len(head), *rest))


def weights_table(weights: Mapping[str, Any]) -> str:
    """What every part's section begins with."""
    return markdown(
        ("architecture", "parameters", "file", "loads in", "last training", "loss at its end"),
        [
            (
                weights["shape"],
                f"{weights['parameters']:,}",
                f"{weights['size'] / 1e6:.1f} MB",
                f"{weights['load_seconds']:.2f} s",
                f"{weights['steps']:,} steps of {weights['batch_size']}, {weights['samples']:,} samples, "
                f"{weights['seconds'] / 60:.0f} minutes",
                f"{weights['loss']:.3f}",
            )
        ],
    )


def show_autoencoder(measured: Mapping[str, Any], analogies: int) -> str:
    """PSNR by style."""
    names = dict(zip((*STYLES, "mean"), (*(s.replace("_", " ") for s in STYLES), "mean of the six"), strict=True))
    rows = [
        (f"{split} concepts ({measured['pictures'][split]:,} drawings)", *(str(estimate(x[s])) for s in names))
        for split, x in measured["psnr"].items()
    ]
    low, high = measured["channels"]
    return (
        f"PSNR in dB, the mean over drawings:\n\n{markdown(('', *names.values()), rows)}\n\n"
        f"Train concepts minus test concepts: {estimate(measured['gap'])} dB. The normalised latents of test drawings "
        f"have a standard deviation of {measured['deviation']:.2f}, single channels of {low:.2f} to {high:.2f}."
    )


def show_encoder(measured: Mapping[str, Any], analogies: int) -> str:
    """Retrieval by embedding."""
    tasks = [("same emoji, other style: top 1", "top1", name, x) for name, x in measured["top1"].items()]
    tasks.append(("picture to name: top 5", "names", "identity and name embeddings", measured["names"]))
    rows = [
        (
            task,
            by,
            str(estimate(x["share"])),
            f"{x['lowest']:.3f}–{x['highest']:.3f}",
            f"{measured['chance'][key]:.3f}",
        )
        for task, key, by, x in tasks
    ]
    head = ("task", "by the cosine of", "share right", f"range over {measured['choices']} choices", "chance")
    missing = "" if EFFICIENTNET in measured["top1"] else f" {EFFICIENTNET}, an optional package, was not installed."
    return (
        f"{markdown(head, rows)}\n\nThe gallery is one emoji of each of {measured['concepts']} test concepts; another "
        f"choice takes other tones and genders.{missing}"
    )


def show_pair_encoder(measured: Mapping[str, Any], analogies: int) -> str:
    """Kinds, strengths, chains and relations that are read off pairs."""
    rows = [
        (
            kind,
            EDITS[kind].unit,
            str(estimate(x)),
            f"{measured['strengths'][kind]:.2g}" if kind in measured["strengths"] else "–",
        )
        for kind, x in measured["kinds"].items()
    ]
    exact = ", ".join(f"{n}: {estimate(x)}" for n, x in measured["exact"].items())
    relation = measured["relation"]
    return (
        f"{markdown(('single edit', 'unit', 'kind told first', 'median error of its strength'), rows)}\n\n"
        f"All kinds of a chain told and no other, by its number of edits: {exact}. "
        f"Place of an edit in chains of two and three told: {estimate(measured['order'])}. "
        f"The artists' relation of a pair, out of {measured['relations']}: {estimate(relation['first'])}, "
        f"among the first five {estimate(relation['first five'])}. "
        f"{measured['pairs']} pairs a kind, drawings of test concepts."
    )


def show_base(measured: Mapping[str, Any], analogies: int) -> str:
    """Errors by group of relations, sharpness, guidance, preservation, and where it fails."""
    steps, guidance = (Evaluation.from_json(measured[k]) for k in ("steps", "guidance"))
    told = f"{STEPS} steps"
    head = ["", *(f"{group} ({len(names)})" for group, names in steps.members.items())]
    sharp = [
        [method, *(str(estimate(measured["sharpness"][group][method])) for group in steps.members)]
        for method in steps.seconds
    ]
    pixels = [[told, *(str(scores[told].pixel_error) for scores in steps.groups.values())]]
    errors = {name: values[told]["error"] for name, values in steps.relations.items()}
    worst = [f"`{name}` {error:.2f}" for name, error in errors.items() if error >= 1]
    few = sum(values["1 step"]["error"] >= 1 for values in steps.relations.values())
    return "\n\n".join(
        (
            "Normalised error against the autoencoder's reconstructions, the median over relations (their number in "
            f"brackets; {sum(steps.analogies.values()):,} analogies, at most {analogies} a relation):",
            table(steps),
            "The same against true pixels:",
            markdown(head, pixels),
            "Sharpness: gradient energy of the results over that of the true b′, 1 is as sharp as the truth:",
            markdown(head, sharp),
            f"Guidance, {told}, on a fixed sample of the relations ({sum(guidance.analogies.values()):,} analogies):",
            table(guidance),
            f"Without an instruction, {told}: {estimate(measured['preserved'])} dB against the reconstruction of the "
            f"reference ({measured['drawings']:,} drawings of test concepts).",
            f"Relations no better than copying b in {told} ({len(worst)} of {len(errors)}; {few} in one step): "
            f"{', '.join(worst) or 'none'}.",
        )
    )


def show_basis(measured: Mapping[str, Any], analogies: int) -> str:
    """Errors by degree of generalisation, with the spread over relations, and sharpness."""
    evaluation, sharpness = Evaluation.from_json(measured["errors"]), measured["sharpness"]
    head, rows = ["", *evaluation.groups], []
    for method in evaluation.seconds:
        cells = []
        for names in evaluation.members.values():
            low, high = np.nanquantile([evaluation.relations[n][method]["error"] for n in names], [0.25, 0.75])
            cells.append(f"{low:.2f}–{high:.2f}")
        rows.append([method, *cells])
    return "\n\n".join(
        (
            "Normalised error of one step, or as many as are named, against the autoencoder's reconstructions, the "
            f"median over relations (their number in brackets; {sum(evaluation.analogies.values()):,} analogies, at "
            f"most {analogies} a relation):",
            table(evaluation),
            "The middle half of the relations lies between:",
            markdown(head, rows),
            "Sharpness, 1 is as sharp as the truth:",
            markdown(head, [[m, *(str(estimate(sharpness[g][m])) for g in head[1:])] for m in evaluation.seconds]),
        )
    )


SHOW: dict[str, Callable[[Mapping[str, Any], int], str]] = {
    "autoencoder": show_autoencoder,
    "encoder": show_encoder,
    "pair_encoder": show_pair_encoder,
    "base": show_base,
    "starter": show_basis,
    "full": show_basis,
}


def section(report: Mapping[str, Any]) -> str:
    """A part's tables, from its report."""
    shown = SHOW[report["part"]](report["measured"], report["analogies"])
    return (
        f"{weights_table(report['weights'])}\n\n{shown}\n\nIntervals are 95 % bootstrap. "
        f"Measured in {report['seconds'] / 60:.1f} minutes (threads: {report['threads']})."
    )


def filled(card: str, sections: Mapping[str, str]) -> str:
    """A card with new content between ``<!-- begin PART -->`` and the next ``<!-- end -->``; prose stays as it is.

    Raises:
        InputError: a part has no such marks.
    """
    for part, content in sections.items():
        begin, end = f"<!-- begin {part} -->", "<!-- end -->"
        before, mark, rest = card.partition(begin)
        old, closed, after = rest.partition(end)
        if not mark or not closed or "<!-- begin " in old:
            raise InputError(f"expected the marks {begin} and {end} in the card, found them missing or not in turn")
        card = f"{before}{begin}\n{content}\n{end}{after}"
    return card


# --- the command ----------------------------------------------------------------------------------


def report_on(part: str, folder: Path, count: int, seed: int = 0) -> dict[str, Any]:
    """Measures one part in a weights folder and returns its report, ready for JSON.

    Frozen parts that the folder lacks are the shipped ones.
    """
    started = time.perf_counter()
    model, weights = weigh(part, folder / part)
    own = folder / "autoencoder"
    autoencoder = MiniAutoencoder.load(own if own.is_dir() else weights_dir() / "autoencoder")
    measures: Reconstruction | Retrieval | PairReading | Instructed | Exemplified
    if part == "autoencoder":
        measures = measure_autoencoder(model, seed=seed)
    elif part == "encoder":
        measures = measure_encoder(model, autoencoder, try_judge(), seed=seed)
    elif part == "pair_encoder":
        measures = measure_pair_encoder(model, PictureSource(autoencoder), seed=seed)
    elif part == "base":
        measures = measure_base(model, autoencoder, enough(select(known_to_base=True), count, seed), seed=seed)
    else:
        measures = measure_basis(model, by_degree(part, count, seed), seed=seed)
    report = {
        "part": part,
        "weights": asdict(weights),
        "measured": asdict(measures),
        "analogies": count,
        "seed": seed,
        "resamples": RESAMPLES,
        "threads": torch.get_num_threads(),
        "machine": {"cores": os.cpu_count(), "python": platform.python_version()},
        "versions": {p: version(p) for p in PACKAGES},
        "seconds": time.perf_counter() - started,
    }
    # Six digits are more than any of these numbers means.
    return json.loads(json.dumps(without_nan(report)), parse_float=lambda text: float(f"{float(text):.6g}"))


def logged(folder: Path) -> list[str]:
    """Names of the weights in a folder that have a log, in the order in which parts are trained."""
    names = sorted(path.parent.name for path in folder.glob(f"*/{LOG}"))
    return sorted(names, key=lambda n: list(LOADERS).index(n) if n in LOADERS else len(LOADERS))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    command = argparse.ArgumentParser(prog="python -m benchmarks.model_card", description="Measures the weights.")
    command.add_argument("parts", nargs="*", metavar="part", help=f"out of {', '.join(LOADERS)}; all by default")
    command.add_argument("--analogies", type=int, default=8, help="analogies a relation, at most; default 8")
    command.add_argument("--weights", type=Path, help="a folder of parts; default: the shipped weights'")
    command.add_argument("--threads", type=int, default=os.cpu_count())
    return command


def main(arguments: list[str] | None = None) -> None:
    """Measures, writes the reports and the card, draws the losses of the trainings; see the module."""
    options = parser().parse_args(arguments)
    parts = options.parts or list(LOADERS)
    if unknown := set(parts) - LOADERS.keys():
        raise InputError(f"expected parts out of {list(LOADERS)}, got {sorted(unknown)}")
    if options.analogies < 1:
        raise InputError(f"expected at least one analogy a relation, got {options.analogies}")
    torch.set_num_threads(options.threads)
    folder = options.weights or weights_dir()
    card = folder / "CARD.md"
    if card.is_file():  # a card that cannot be filled is refused before minutes of measuring, not after
        filled(card.read_text(encoding="utf-8"), dict.fromkeys(parts, ""))
    for part in parts:
        say(part)
        report = report_on(part, folder, options.analogies)
        write_atomically(folder / part / "report.json", (json.dumps(report, indent=1) + "\n").encode())
        content = section(report)
        if card.is_file():
            write_atomically(card, filled(card.read_text(encoding="utf-8"), {part: content}).encode())
        say(f"\n{content}\n")
    logs = {name: read_log(folder / name / LOG) for name in logged(folder)}
    output = save(
        loss_panels(logs),
        (root() / "figures" if options.weights is None else folder) / "training.png",
    )
    say(f"Reports in {folder}, losses in {output}")


if __name__ == "__main__":
    main()
