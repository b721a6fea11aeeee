"""Paths against naive loops, ladders against the data, and the measures on a space whose truth is known."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_models import mixtures as random_mixtures
from tiny_models import pictures, tiny_editor
from torch import Tensor

from lorweb_mini.analysis.bootstrap import Estimate, beyond_doubt
from lorweb_mini.analysis.evaluation import gradient_energy
from lorweb_mini.analysis.ladders import Ladder, Scale
from lorweb_mini.analysis.walking import Trace, Truth, geometric, line, measure, mixtures, walk
from lorweb_mini.core.editor import Editor
from lorweb_mini.errors import InputError

FIVE = Scale(("any",) * 5)
QUARTERS = (0.0, 0.25, 0.5, 0.75, 1.0)


@pytest.fixture(scope="module")
def editor() -> Editor:
    return tiny_editor()


def ladder(seed: int = 0, scale: Scale = FIVE, concept: str = "thing") -> Ladder:
    """Random pictures on every rung."""
    drawn = pictures(12, seed)
    return Ladder(scale, concept, f"{seed}@noto", drawn[0], drawn[1], drawn[2:7], drawn[7:])


# --- paths ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("t", [-0.5, 0.0, 0.3, 1.0, 1.5])
def test_lines_against_a_loop(t: float) -> None:
    first, last = torch.rand(2, 3, 4), torch.rand(2, 3, 4)
    found = line(first, last, [0.1, t])
    for i in range(2):
        torch.testing.assert_close(found[i, 1], first[i] * (1 - t) + last[i] * t)


@pytest.mark.parametrize("t", [-0.5, 0.0, 0.3, 1.0, 1.5])
def test_the_logits_path_is_a_softmax_of_mixed_logits(t: float) -> None:
    first, last = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    found = geometric(first.softmax(-1), last.softmax(-1), [t])[:, 0]
    torch.testing.assert_close(found, ((1 - t) * first + t * last).softmax(-1))
    torch.testing.assert_close(found.sum(-1), torch.ones(2, 3))


def test_a_line_of_coefficients_is_a_line_of_weights(editor: Editor) -> None:
    first, last = random_mixtures(2, editor)
    between = line(first[None], last[None], [0.3])[0, 0]

    def updates(c: Tensor) -> list[Tensor]:
        return [high @ low for low, high in editor.basis.folded(c).values()]

    for one, other, found in zip(updates(first), updates(last), updates(between), strict=True):
        torch.testing.assert_close(found, 0.7 * one + 0.3 * other, atol=1e-6, rtol=1e-5)


def test_a_line_of_the_embedding_is_a_line_of_logits(editor: Editor) -> None:
    item = ladder()
    a, one, other, b = editor.encoder(
        torch.stack([editor.autoencoder.to_latent(x[None])[0] for x in (item.a, *item.examples[[0, -1]], item.b)])
    )
    assert editor.router is not None
    for t in (-0.5, 0.4, 1.5):
        expected = editor.router(a[None], ((1 - t) * one + t * other)[None], b[None])
        torch.testing.assert_close(mixtures(editor, [item], "logits", [t])[:, 0], expected, atol=1e-5, rtol=1e-4)


def test_walks_against_one_picture_at_a_time(editor: Editor) -> None:
    items, ts = [ladder(0), ladder(1)], (-0.5, 0.5, 1.0)
    drawn = {path: walk(editor, items, path, ts, steps=2) for path in ("coefficients", "logits", "example", "pixel")}
    for i, item in enumerate(items):
        first, last = (editor.route(item.a, item.examples[end], item.b)[0] for end in (0, -1))
        results = [editor.generate(item.b, c, steps=2).pictures[0] for c in (first, last)]
        for j, t in enumerate(ts):
            shown = ((1 - t) * item.examples[0] + t * item.examples[-1]).clamp(-1, 1)
            expected = {
                "coefficients": editor.generate(item.b, (1 - t) * first + t * last, steps=2).pictures[0],
                "logits": editor.generate(
                    item.b, ((1 - t) * first.log() + t * last.log()).softmax(-1), steps=2
                ).pictures[0],
                "example": editor.edit(item.a, shown, item.b, steps=2).pictures[0],
                "pixel": ((1 - t) * results[0] + t * results[1]).clamp(-1, 1),
            }
            for path, picture in expected.items():
                torch.testing.assert_close(drawn[path][i, j], picture, atol=1e-4, rtol=1e-3)


def test_a_latent_walk_mixes_the_latents_of_the_two_results(editor: Editor) -> None:
    item = ladder()
    first, last = walk(editor, [item], "coefficients", (0, 1), steps=2)[0]
    z = [editor.autoencoder.to_latent(x[None]) for x in (first, last)]
    expected = editor.autoencoder.to_picture(1.5 * z[1] - 0.5 * z[0])[0]
    torch.testing.assert_close(walk(editor, [item], "latent", (1.5,), steps=2)[0, 0], expected, atol=1e-4, rtol=1e-3)


def test_asking_shows_the_true_example(editor: Editor) -> None:
    item = ladder()
    found = mixtures(editor, [item], "asked", QUARTERS)[0]
    for c, example in zip(found, item.examples, strict=True):
        torch.testing.assert_close(c, editor.route(item.a, example, item.b)[0])
    with pytest.raises(InputError, match="known truth"):
        mixtures(editor, [item], "asked", (0.1,))


def test_from_nothing_the_path_turns_one_mixture_up(editor: Editor) -> None:
    item = ladder(scale=Scale(("any",) * 4, nothing=True))
    last = editor.route(item.a, item.examples[-1], item.b)
    torch.testing.assert_close(mixtures(editor, [item], "coefficients", (0, 0.5, 2))[0], last * torch.tensor(
        [0, 0.5, 2.0]).view(3, 1, 1))  # fmt: skip
    with pytest.raises(InputError, match="from nothing"):
        mixtures(editor, [item], "logits", (0.5,))


def test_paths_that_there_are_not(editor: Editor) -> None:
    with pytest.raises(InputError, match="expected a path out of"):
        walk(editor, [ladder()], "shortest", (0.5,))
    with pytest.raises(InputError, match="got 'pixel'"):
        mixtures(editor, [ladder()], "pixel", (0.5,))


# --- measures -------------------------------------------------------------------------------------


def flat(level: float) -> Tensor:
    """A picture of one grey."""
    return torch.full((3, 64, 64), float(level))


def world(curve: Callable[[Tensor], Tensor]) -> SimpleNamespace:
    """An editor whose mixture is (1 − s, s), s read off the grey of a' (0 at -1, 1 at 1), and that draws curve(s)."""

    def route(a: Tensor, a_prime: Tensor, b: Tensor) -> Tensor:
        s = (a_prime.mean((1, 2, 3)) + 1) / 2
        return torch.stack([1 - s, s], -1)[:, None]

    def generate(b: Tensor, c: Tensor, steps: int, seed: int) -> SimpleNamespace:
        return SimpleNamespace(pictures=curve(c[:, 0, 1])[:, None, None, None].expand(-1, 3, 64, 64))

    identity = SimpleNamespace(to_latent=lambda x: x, to_picture=lambda z: z)
    return SimpleNamespace(route=route, generate=generate, autoencoder=identity)


def straight(concept: str = "thing") -> Ladder:
    """Five greys from -1 to 1, the same ones for a' and b'."""
    greys = torch.stack([flat(x) for x in (-1, -0.5, 0, 0.5, 1)])
    return Ladder(FIVE, concept, concept, flat(0), flat(0), greys, greys)


def traced(curve: Callable[[Tensor], Tensor], path: str = "coefficients", ts: tuple[float, ...] = QUARTERS) -> Trace:
    """What that editor's walks along four such ladders do."""
    made, items = world(curve), [straight(c) for c in "abcd"]
    pictures = walk(made, items, path, ts)  # type: ignore[arg-type]
    return Truth(items, ts, made.autoencoder).trace(pictures)


def test_a_space_that_lies_on_the_truth() -> None:
    for path in ("coefficients", "example", "latent", "pixel", "asked"):
        found = traced(lambda s: 2 * s - 1, path)
        np.testing.assert_allclose([x.value for x in found.errors()], 0, atol=1e-9)
        assert found.nearest.tolist() == [[0, 1, 2, 3, 4]] * 4
        scores = (found.right_ends(), found.order(), found.monotone(), found.midpoint())
        assert [x.value for x in scores] == pytest.approx([1, 1, 1, 1])
        np.testing.assert_allclose(found.reached(), QUARTERS)


def test_a_space_that_bends_off_the_truth() -> None:
    found = traced(lambda s: 2 * s**2 - 1)
    # At t = 1/2 it draws 2/4 − 1, the truth is 0, the ends are 2 apart; the pixels' line between its ends is straight.
    assert found.errors()[2].value == pytest.approx((0.5 / 2) ** 2)
    assert found.nearest[0].tolist() == [0, 0, 1, 2, 4]
    assert found.midpoint().value == 0
    assert found.monotone().value == found.right_ends().value == 1
    assert traced(lambda s: 2 * s**2 - 1, "pixel").midpoint().value == 1


def test_a_space_that_turns_back_jumps_or_stays() -> None:
    back = traced(lambda s: torch.where((s > 0.4) & (s < 0.6), -1.0, 2 * s - 1))
    assert back.nearest[0].tolist() == [0, 1, 0, 3, 4]
    assert back.monotone().value == 0 and back.right_ends().value == 1
    jump = traced(lambda s: torch.where(s > 0.99, 1.0, -1.0))
    assert jump.monotone().value == 1 and jump.midpoint().value == 0
    assert jump.order().value == pytest.approx(np.corrcoef([0, 1, 2, 3, 4], [1.5, 1.5, 1.5, 1.5, 4])[0, 1])
    stays = traced(lambda s: 0 * s)
    assert stays.monotone().value == stays.order().value == stays.right_ends().value == 0
    assert stays.midpoint().value == 1


def test_beyond_the_ends_nothing_is_judged_without_a_truth() -> None:
    found = traced(lambda s: 2 * s - 1, ts=(-0.5, 0.0, 0.5, 1.0, 1.5))
    assert np.isnan(found.error[:, [0, 4]]).all() and not np.isnan(found.error[:, 1:4]).any()
    assert found.order().value == pytest.approx(1)  # the places beyond do not count


def test_two_paths_are_compared_on_the_same_ladders() -> None:
    bent, true = traced(lambda s: 2 * s**2 - 1), traced(lambda s: 2 * s - 1)
    assert bent.excess(true, 0.5).value == pytest.approx(0.25**2)
    assert true.excess(bent, 0.5).high < 0
    with pytest.raises(InputError, match="one of the fractions"):
        bent.excess(true, 0.4)


def test_what_perfect_ends_would_give() -> None:
    items = [straight(), straight("other")]
    truth = Truth(items, QUARTERS, world(lambda s: s).autoencoder)
    assert truth.blend((0.25,))[0, 0].unique().tolist() == [-0.5]
    assert truth.nearer_end((0.25, 0.75))[1].flatten(1).mean(1).tolist() == [-1, 1]


def test_nothing_is_beyond_doubt_on_few_concepts() -> None:
    made, other = world(lambda s: 2 * s**2 - 1), world(lambda s: 2 * s - 1)
    for concepts, expected in (("abcde", 0), ("aabbccdd", 0), ("abcdef", 1)):
        items = [straight(c) for c in concepts]
        truth = Truth(items, QUARTERS, made.autoencoder)
        bent, true = (truth.trace(walk(x, items, "coefficients", QUARTERS)) for x in (made, other))
        assert beyond_doubt(bent.excess(true, 0.5), concepts) == expected
        assert beyond_doubt(true.excess(bent, 0.5), concepts) == -expected
        assert beyond_doubt(bent.excess(true, 0.0), concepts) == 0  # both begin on the truth
    gap = bent.excess(true, 0.5)
    assert beyond_doubt(gap, "abcdef", least=gap.value + 0.01) == 0
    assert beyond_doubt(Estimate(0.2, -0.1, 0.3), "abcdefgh") == 0


def test_the_measures_against_a_loop() -> None:
    items = [ladder(seed, concept=str(seed % 3)) for seed in range(5)]
    identity = world(lambda s: s).autoencoder
    drawn = torch.stack([pictures(5, seed + 50) for seed in range(5)])
    found = Truth(items, QUARTERS, identity).trace(drawn)
    for i, item in enumerate(items):
        for j in range(5):
            squares = [float((drawn[i, j] - rung).double().pow(2).sum()) for rung in item.rungs]
            assert found.error[i, j] == pytest.approx(squares[j])
            assert found.nearest[i, j] == int(np.argmin(squares))
    total = sum(float((x.rungs[0] - x.rungs[-1]).double().pow(2).sum()) for x in items)
    assert found.errors()[3].value == pytest.approx(found.error[:, 3].sum() / total)


def test_there_is_no_middle_of_an_even_number_of_rungs() -> None:
    with pytest.raises(InputError, match="odd number"):
        Trace(QUARTERS, 4, ("a", "b"), np.zeros((2, 5)), np.ones(2), np.zeros((2, 5), int)).midpoint()


@pytest.mark.parametrize("rungs", [3, 5])
def test_chance_counts_ordered_ends(rungs: int) -> None:
    later = [last > first for first in range(rungs) for last in range(rungs)]
    assert Trace((0, 1), rungs, ("a",), np.zeros((1, 2)), np.ones(1), np.zeros((1, 2), int)).chance == pytest.approx(
        np.mean(later)
    )


def test_measuring_several_paths_at_once(editor: Editor) -> None:
    items, ts = [ladder(0), ladder(1, concept="other")], (0.0, 0.5, 1.0, 1.5)
    traces, sharpness = measure(editor, items, ("pixel", "asked"), ts, steps=1)
    assert set(traces) == {"pixel", "asked", "nearer true end", "blend of true ends"}
    truth = Truth(items, ts, editor.autoencoder)
    asked = truth.trace(walk(editor, items, "asked", ts[:3], 1), ts[:3])
    assert traces["asked"].ts == ts[:3] and traces["asked"].error == pytest.approx(asked.error)
    assert traces["nearer true end"].error[:, [0, 2]] == pytest.approx(0)
    middle, true_middle = walk(editor, items, "pixel", (0.5,), 1)[:, 0], truth.pictures[:, 1]
    expected = gradient_energy(middle).sum() / gradient_energy(true_middle).sum()
    assert sharpness["pixel"] == pytest.approx(expected)
    with pytest.raises(InputError, match="expected a known truth"):
        measure(editor, items, ("pixel",), (0.0, 1.0))
