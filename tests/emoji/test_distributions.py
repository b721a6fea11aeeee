"""Relations as distributions: what is drawn, what is never drawn, and the null model."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from lorweb_mini.emoji.distributions import (
    LONGEST,
    NOTHING,
    TRAINED,
    Chains,
    Distribution,
    HeldOut,
    Memoriser,
    held_out,
    unseen,
)
from lorweb_mini.emoji.edits import EDITS, apply_edit
from lorweb_mini.emoji.relations import (
    UNSEEN_DEGREES,
    analogies,
    chain_name,
    get_relation,
    parse_chain,
    relations,
    unseen_relations,
)
from lorweb_mini.errors import InputError


@pytest.fixture
def x() -> torch.Tensor:
    return torch.rand(6, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_chains_apply_their_edits_in_turn(x: torch.Tensor) -> None:
    chains = Distribution().draw(np.random.default_rng(3), 6)
    together = chains.apply(x)
    for i, chain in enumerate(chains.as_lists()):
        alone = x[i : i + 1]
        for kind, strength in chain:
            alone = apply_edit(alone, kind, strength)
        torch.testing.assert_close(together[i : i + 1], alone, atol=5e-5, rtol=0)
    several = chains.apply(torch.stack([x, x.flip(0)], 1))
    torch.testing.assert_close(several[:, 0], together, atol=5e-5, rtol=0)
    assert Chains.of(chains.as_lists()).as_lists() == chains.as_lists()


def test_draws_repeat_and_differ() -> None:
    first, again = (Distribution().draw(np.random.default_rng(5), 500) for _ in range(2))
    assert (first.kinds == again.kinds).all() and torch.equal(first.strengths, again.strengths)
    names = [chain_name(c) for c in first.as_lists() if len(c) > 1]  # some kinds have few strengths of their own
    assert len(set(names)) > 0.98 * len(names)
    lengths = np.bincount([len(c) for c in first.as_lists()], minlength=LONGEST + 1)[1:] / 500
    assert np.abs(lengths - [0.55, 0.3, 0.15]).max() < 0.07
    assert all(len({k for k, _ in c}) == len(c) for c in first.as_lists())


@pytest.mark.parametrize("kind", TRAINED)
def test_every_sampler_keeps_to_the_range(kind: str) -> None:
    value = TRAINED[kind][1](np.random.default_rng(0), 2000)
    low, high = EDITS[kind].range
    assert value.shape == (2000, EDITS[kind].parameters) and (value >= low).all() and (value <= high).all()


def test_nothing_held_out_is_drawn() -> None:
    regions = held_out()
    chains = Distribution(held_out=regions).draw(np.random.default_rng(11), 20_000).as_lists()
    pairs = {frozenset(p["kinds"]) for p in unseen()["pairs"]}
    for chain in chains:
        for (one, _), (other, _) in itertools.combinations(chain, 2):
            assert frozenset((one, other)) not in pairs
        for kind, strength in chain:
            for region in (r for r in unseen()["intervals"] if r["kind"] == kind):
                if "centre" in region:
                    assert math.dist(strength, region["centre"]) >= region["radius"] - 1e-4
                    continue
                value = strength
                if kind == "move":
                    value = math.degrees(math.atan2(strength[1], strength[0]))
                turns = (
                    (value - region["low"]) % 360
                    if "hue" in EDITS[kind].unit or kind in ("hue", "rotate", "move")
                    else None
                )
                if turns is None:
                    assert not region["low"] + 1e-4 < value < region["high"] - 1e-4
                else:
                    width = (region["high"] - region["low"]) % 360
                    assert turns > width - 1e-3 or turns < 1e-3
    assert not regions.chains(Chains.of(chains[:2000])).any()


def test_chains_that_are_drawn_again_are_those_with_a_kind_twice_or_a_held_out_pair() -> None:
    held = held_out()
    own = Distribution(held_out=held)
    chosen = np.random.default_rng(1).integers(-1, len(own.kinds), (500, 3))
    names = own.names[chosen]
    naive = [len(set(k) - {""}) < (k != "").sum() or held.has_pair(k) for k in names]
    assert own._excluded(chosen).tolist() == naive and 0 < sum(naive) < 500


def test_what_is_unseen_is_held_out() -> None:
    """An unseen kind is in no distribution, an unseen strength in an interval, an unseen composition a pair."""
    regions, by_degree = (
        held_out(),
        {d: unseen_relations("test", d) + unseen_relations("val", d) for d in UNSEEN_DEGREES},
    )
    for degree, some in by_degree.items():
        for relation in some:
            kinds = {k for k, _ in relation.edits}
            if kinds <= set(TRAINED):
                assert regions.chains(Chains.of([relation.edits]))[0], relation.name
            else:
                assert degree not in ("strength", "composition"), relation.name
    assert len(by_degree["strength"]) >= 8 and len(by_degree["composition"]) >= 8 and len(by_degree["inside"]) >= 5
    assert len(unseen_relations("test", "outside")) >= 4


def test_published_decisions() -> None:
    entries = unseen()["relations"]
    assert all(e["held_out"] == (e["memoriser"] >= 0.25) for e in entries)
    for entry in entries:
        if entry["degree"] in ("inside", "between", "outside"):
            bounds = {"inside": (0, 0.05), "between": (0.05, 0.5), "outside": (0.5, math.inf)}[entry["degree"]]
            assert bounds[0] - 6e-4 <= entry["nearest_chain"] <= bounds[1] + 6e-4, entry
    names = [e["name"] for e in entries]
    assert len(set(names)) == len(names)
    tests = {e["name"] for e in entries if e["part"] == "test"}
    # What has been looked at before chooses recipes and reports nothing.
    assert not tests & set(relations())


def test_seen_named_edits_are_not_held_out() -> None:
    regions = held_out()
    for relation in relations().values():
        if relation.degree == "seen" and relation.edits and not relation.name.startswith("compose/"):
            kinds = {k for k, _ in relation.edits}
            if kinds <= set(TRAINED):
                assert not regions.chains(Chains.of([relation.edits]))[0], relation.name


def test_held_out_for_the_base_is_less() -> None:
    less, all_of_it = held_out(known_to_base=True), held_out()
    assert less.pairs < all_of_it.pairs
    assert sum(map(len, less.intervals.values())) < sum(map(len, all_of_it.intervals.values()))


def test_memoriser_is_exact_on_what_it_remembers(x: torch.Tensor) -> None:
    memoriser = Memoriser(Distribution(["flip_horizontal", "grey", "rotate"], lengths=(1, 0, 0)), size=30)
    a, b = x[:3], x[3:]
    chains = memoriser.chains[np.array([4, 11, 25])]
    torch.testing.assert_close(memoriser(a, chains.apply(a), b), chains.apply(b))
    naive = [
        min(range(30), key=lambda k: float((memoriser.chains[k : k + 1].apply(a[i : i + 1]) - a[i].neg()).pow(2).sum()))
        for i in range(3)
    ]
    assert [memoriser.fit(a[i], a[i].neg()) for i in range(3)] == naive


@pytest.mark.parametrize(
    "make",
    [
        lambda: Distribution(["nothing"]),
        lambda: Distribution(["grey"]),
        lambda: Distribution(["grey", "tint"], HeldOut({}, frozenset([frozenset(("grey", "tint"))])), (0, 1, 0)).draw(
            np.random.default_rng(0), 4
        ),
        lambda: Chains.of([[("grey", 1)] * 4]),
        lambda: unseen_relations("train"),
        lambda: unseen_relations("test", "seen"),
    ],
)
def test_bad_input(make) -> None:
    with pytest.raises(InputError):
        make()


def test_any_chain_is_a_relation() -> None:
    name = "compose/edit/hue=77+edit/move=3,-2"
    assert parse_chain(name) == (("hue", 77.0), ("move", (3.0, -2.0))) and chain_name(parse_chain(name)) == name
    assert get_relation(name).edits == parse_chain(name)
    (item,) = analogies("val", name, n=1)
    expected = Chains.of([parse_chain(name)]).apply(item.b[None])[0]
    torch.testing.assert_close(item.b_prime, expected, atol=5e-5, rtol=0)
    with pytest.raises(InputError):
        get_relation("edit/hue=400")
    assert NOTHING.chains(Chains.of([[("hue", 77)]])).tolist() == [False]


def test_chains_of_edits_without_a_strength_have_a_name_too() -> None:
    name = "compose/edit/flip_vertical+edit/flip_horizontal"
    assert [kind for kind, _ in get_relation(name).edits] == ["flip_vertical", "flip_horizontal"]
    assert get_relation(name).edits == parse_chain(name)
    for wrong in ("compose/edit/flip_vertical+edit/flop", "edit/gray"):
        with pytest.raises(InputError, match="the nearest are"):
            get_relation(wrong)
