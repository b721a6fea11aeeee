"""The cells of the studies behind notebooks 07 and 08: what each training changes.

A study is a table from the name of a cell to its :class:`Change`, the most telling cells first. Trainings of a study
are equally long in samples, so that a busy machine makes no difference.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lorweb_mini.commands.run import ONE_LORA_RATE


@dataclass(frozen=True)
class Change:
    """What differs from the starter.

    Attributes:
        basis: in its :class:`~lorweb_mini.models.miniature.BasisConfig`.
        recipe: in the options of :func:`~lorweb_mini.commands.train.recipe_of`.
        training: in its :class:`~lorweb_mini.training.config.TrainingConfig`.
        adapter: a :class:`~benchmarks.pair_adapter.PairAdapter` takes the router's place.
    """

    basis: dict[str, Any] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    adapter: bool = False


@dataclass(frozen=True)
class Cell:
    """One training from one seed."""

    study: str
    name: str
    seed: int
    change: Change = field(default_factory=Change)

    @property
    def folder_name(self) -> str:
        return f"{self.study}-{self.name}-{self.seed}".replace(" ", "_").replace("/", "_")

    @property
    def settings(self) -> dict[str, Any]:
        """What the cell changes, as one table."""
        change = self.change
        return {**change.basis, **change.recipe, **change.training, **({"adapter": True} if change.adapter else {})}


def context_only(rank: int, rate: float = ONE_LORA_RATE) -> Change:
    """One LoRA and no router: the transformer itself sees a and a'."""
    basis = {"layout": "tokens", "routed": False, "query": "cat", "n_loras": 1, "rank": rank}
    return Change(basis, training={"learning_rate": rate})


def size(n: int, rank: int) -> Change:
    """A basis of N LoRAs of rank r; a single one has coefficient 1, and the rate of one."""
    return Change({"n_loras": n, "rank": rank}, training={"learning_rate": ONE_LORA_RATE} if n == 1 else {})


STARTER = "as the starter"
CONTEXT, CONTEXT_TOTAL, CONTEXT_RANK, BOTH, BOTH_PAPER = (
    "context only, r 64",  # as many parameters as the starter's LoRAs
    "context only, r 119",  # as many as the starter's LoRAs and router together
    "context only, r 4",  # the rank of each of the starter's LoRAs
    "both, layout tokens",
    "both, query cat",
)
PAIR_ADAPTER = "pair adapter"
NO_ARTISTS: dict[str, Any] = {"artists_share": 0.0}
FRESH = "fresh"
DIAL = {
    **{str(m): Change(recipe={**NO_ARTISTS, "relations": m}) for m in (2, 8, 32, 128, 512, 2048)},
    FRESH: Change(recipe=NO_ARTISTS),
}
ABLATIONS = {
    STARTER: Change(),
    # Router, context, both: one LoRA at equal parameters and at equal rank.
    CONTEXT: context_only(64),
    BOTH: Change({"layout": "tokens"}),
    CONTEXT_RANK: context_only(4),
    CONTEXT_TOTAL: context_only(119),
    # RelationAdapter's kind: one LoRA and cross-attention to what the router reads, in as many parameters.
    PAIR_ADAPTER: Change({"n_loras": 1, "rank": 78}, adapter=True),
    # The paper's own: its query, and a transformer that sees a and a'.
    BOTH_PAPER: Change({"layout": "tokens", "query": "cat"}),
    # The paper's query, and ours alone.
    **{f"query {q}": Change({"query": q}) for q in ("cat", "pair")},
    "one router for all layers": Change({"shared": True}),
    # The router's inputs as the encoders give them, as the paper has them.
    "inputs not standardised": Change(recipe={"standardise": False}),
    # Small changes count as much as large ones.
    "loss by change": Change(recipe={"change_floor": 0.2}),
    # N and r at the same N·r = 64; the single LoRA sees b alone, so that it cannot know the edit.
    **{f"N {n}, r {r}": size(n, r) for n, r in ((1, 64), (4, 16), (64, 1))},
    # The same rank with fewer and more LoRAs; the same number with another rank.
    **{f"N {n}, r {r}": size(n, r) for n, r in ((4, 4), (32, 4), (16, 1), (16, 8), (8, 4))},
    "mixing tanh": Change({"mixing": "tanh"}),
    **{f"query {q}": Change({"query": q}) for q in ("difference", "difference+b", "a'")},
    "encoder latents": Change({"encoder": "latents", "query": "cat"}),
    "encoder efficientnet-lite0": Change({"encoder": "efficientnet-lite0", "query": "cat"}),
    **{f"mixing {m}": Change({"mixing": m}) for m in ("top-1", "top-2", "top-4")},
    **{f"temperature {t}": Change({"temperature": t}) for t in (0.5, 2.0)},
    "layout grid": Change({"layout": "grid"}),
    "pair encoder tuned": Change(recipe={"pair_rate": 0.02}),
    "balance 0.02": Change(recipe={"balance": 0.02}),
    "encoder pixels": Change({"encoder": "pixels", "query": "cat"}),
    # LoRAs in some layers only, of a rank that leaves their number of parameters about as it is.
    **{
        f"layers: {adapted}, r {rank}": Change({"adapted": adapted, "rank": rank})
        for adapted, rank in (("attention", 13), ("all but modulation", 5), ("double blocks", 7), ("single blocks", 9))
    },
    "times as for artists": Change(recipe={"exact_shift": 0.8}),
    # Whether one LoRA was only given too low a rate.
    "context only, r 64, the basis's rate": context_only(64, 1e-2),
}
# The basis against one LoRA on equal terms, trained longer and from more seeds.
HEADLINE = (STARTER, CONTEXT_TOTAL, BOTH, BOTH_PAPER)
STUDIES: dict[str, dict[str, Change]] = {
    "dial": DIAL,
    "headline": {name: ABLATIONS[name] for name in HEADLINE},
    "ablations": ABLATIONS,
    "controls": {"starter": Change()},  # not trained: the shipped basis with one part taken away at a time
}
SAMPLES = {"dial": 25_600, "headline": 19_200, "ablations": 5_760, "controls": 0}
SEEDS = {"dial": range(3), "headline": range(5), "ablations": range(3), "controls": range(1)}
MORE_SEEDS = range(3, 5)  # of the starter among the ablations, which all others are compared with


def cells(study: str) -> list[Cell]:
    """All cells of a study, seed by seed, so that a figure of it is complete after each seed."""
    every = [Cell(study, name, seed, change) for seed in SEEDS[study] for name, change in STUDIES[study].items()]
    if study == "ablations":
        every += [Cell(study, STARTER, seed) for seed in MORE_SEEDS]
    return every
