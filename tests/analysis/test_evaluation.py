"""The measures against naive recomputations and against answers that are known beforehand."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from known_analogies import Lossless, random_analogies
from tiny_models import tiny_editor

from lorweb_mini.analysis.evaluation import (
    TOUCHED,
    Truth,
    answers,
    by_relation,
    counterfactuals,
    draw,
    evaluate,
    nearest,
    reconstruct,
)
from lorweb_mini.analysis.methods import methods_of
from lorweb_mini.analysis.scores import Evaluation, table
from lorweb_mini.core.editor import Editor
from lorweb_mini.emoji.relations import Analogy, analogies, as_batch, get_relation
from lorweb_mini.emoji.sheets import STYLES, load_emoji
from lorweb_mini.errors import InputError
from lorweb_mini.models.autoencoder import MiniAutoencoder


@pytest.fixture
def data() -> dict[str, list[Analogy]]:
    return random_analogies()


def halfway(items: list[Analogy]) -> torch.Tensor:
    _, _, b, b_prime = as_batch(items)
    return (b + b_prime) / 2


def test_known_scores_copying_the_truth_and_half_the_way(data: dict[str, list[Analogy]]) -> None:
    methods = {
        "copy": lambda items: as_batch(items)[2],
        "truth": lambda items: as_batch(items)[3],
        "half": halfway,
    }
    found = evaluate(methods, data, Lossless(), retrieval_limit=0, resamples=50)
    scores = found.groups["all"]
    for measure in ("error", "pixel_error", "edited_error"):
        assert getattr(scores["copy"], measure).value == pytest.approx(1)
        assert getattr(scores["truth"], measure).value == 0
        assert getattr(scores["half"], measure).value == pytest.approx(0.25)
    # All of what moved lies below; above, every method gives b back but for moves too small to count.
    assert scores["copy"].preserved_error.value < 127.5 * TOUCHED
    assert found.analogies == {"one": 3, "two": 4, "three": 5}
    assert math.isnan(found.chance["all"])


def test_error_is_the_naive_ratio_of_sums_and_its_median(data: dict[str, list[Analogy]]) -> None:
    autoencoder = MiniAutoencoder().eval()
    found = evaluate({"half": halfway}, data, autoencoder, retrieval_limit=0, resamples=20)
    expected = {}
    with torch.no_grad():
        for name, items in data.items():
            above = below = 0.0
            for x in items:
                b, truth = (autoencoder.to_picture(autoencoder.to_latent(p[None]))[0] for p in (x.b, x.b_prime))
                above += float(((x.b + x.b_prime) / 2 - truth).double().pow(2).sum())
                below += float((b - truth).double().pow(2).sum())
            expected[name] = above / below
    for name, value in expected.items():
        assert found.relations[name]["half"]["error"] == pytest.approx(value, rel=1e-4)
    assert found.groups["all"]["half"].error.value == pytest.approx(np.median(list(expected.values())), rel=1e-4)


def test_evaluations_of_the_same_analogies_share_their_truth(data: dict[str, list[Analogy]]) -> None:
    autoencoder, methods = Lossless(), {"half": halfway}
    alone = evaluate(methods, data, autoencoder, retrieval_limit=0, resamples=20).groups["all"]["half"].error
    truth = Truth(data, autoencoder, None, 0, 20, 0)
    again = [evaluate(methods, data, autoencoder, truth=truth).groups["all"]["half"].error for _ in range(2)]
    assert again == [alone, alone]
    with pytest.raises(InputError, match="expected the truth of"):
        evaluate(methods, dict(list(data.items())[:1]), autoencoder, truth=truth)


def test_edited_and_preserved_pixels_are_told_apart() -> None:
    b = torch.zeros(3, 64, 64)
    b_prime = b.clone()
    b_prime[0, :16] = 0.5  # one channel is enough to be edited
    x = Analogy(b, b_prime, b, b_prime, "one", "test", ("x@noto",) * 4)

    def method(items: list[Analogy]) -> torch.Tensor:
        result = torch.stack([x.b_prime for x in items])
        result[:, :, 16:] += 0.02
        result[:, 0, :16] -= 0.25
        return result

    found = evaluate({"m": method}, {"one": [x]}, Lossless(), retrieval_limit=0, resamples=10).relations["one"]["m"]
    assert found["edited_error"] == pytest.approx(0.25)
    assert found["preserved_error"] == pytest.approx(0.02 * 127.5, rel=1e-4)


def test_preserved_is_missing_where_an_edit_touches_everything(data: dict[str, list[Analogy]]) -> None:
    everything = [replace(x, b_prime=-x.b.sign() * 0.9) for x in data["one"]]
    found = evaluate({"half": halfway}, {"one": everything}, Lossless(), retrieval_limit=0, resamples=10)
    assert math.isnan(found.groups["all"]["half"].preserved_error.value)
    assert str(found.groups["all"]["half"].preserved_error) == "–"
    assert found.as_json()["groups"]["all"]["half"]["preserved_error"]["value"] is None


def test_intervals_hold_the_value_and_repeat(data: dict[str, list[Analogy]]) -> None:
    def noisy(items: list[Analogy]) -> torch.Tensor:
        return torch.stack([x.b_prime * (j % 3) / 2 for j, x in enumerate(items)])

    first = evaluate({"m": noisy}, data, Lossless(), retrieval_limit=0, resamples=200)
    second = evaluate({"m": noisy}, data, Lossless(), retrieval_limit=0, resamples=200)
    assert first.groups == second.groups or str(first.groups) == str(second.groups)
    error = first.groups["all"]["m"].error
    assert error.low <= error.value <= error.high and error.low < error.high


def test_results_survive_a_json_file_and_make_a_table(data: dict[str, list[Analogy]]) -> None:
    found = evaluate(
        {"half": halfway},
        data,
        Lossless(),
        {"first": ["one"], "rest": ["two", "three"]},
        retrieval_limit=0,
        resamples=20,
    )
    stored = json.loads(json.dumps(found.as_json(), allow_nan=False))
    again = Evaluation.from_json(stored)
    assert str(again) == str(found)
    lines = table(again).splitlines()
    assert lines[0] == "| method | first (1) | rest (2) |"
    assert lines[2].startswith("| half | 0.25 (0.25–0.25) | 0.25")
    with pytest.raises(InputError, match="expected a measure"):
        table(found, "beauty")


def test_refuses_nothing_to_judge_and_a_group_without_analogies(data: dict[str, list[Analogy]]) -> None:
    with pytest.raises(InputError, match="at least one method"):
        evaluate({"half": halfway}, {"one": []}, Lossless())
    with pytest.raises(InputError, match="'rest'"):
        evaluate({"half": halfway}, data, Lossless(), {"rest": ["four"]})


def test_counterfactuals_know_who_looks_at_the_pair(data: dict[str, list[Analogy]]) -> None:
    blind = counterfactuals(lambda items: as_batch(items)[2], data, Lossless(), resamples=20)
    assert blind.same.value == blind.other.value == 0
    means = {"one": -0.5, "two": 0.0, "three": 0.5}
    plain = {
        r: [replace(x, a=torch.zeros(3, 64, 64), a_prime=torch.full((3, 64, 64), means[r])) for x in items]
        for r, items in data.items()
    }
    right = counterfactuals(lambda items: as_batch(items)[1], plain, Lossless(), resamples=20)
    assert right.same.value == 0 and right.other.value > 0
    with pytest.raises(InputError, match="two relations"):
        counterfactuals(halfway, {"one": data["one"]}, Lossless())


# --- on the real pictures -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real() -> list[Analogy]:
    names = ["edit/invert", "edit/grey", "edit/flip_horizontal", "style/noto>twemoji"]
    return analogies("test", names, seed=0, n=3)


@pytest.fixture(scope="module")
def editor() -> Editor:
    return tiny_editor(seed=0)


def test_answers_are_the_true_ones_and_differ(real: list[Analogy]) -> None:
    chosen = [get_relation(n) for n in by_relation(real)]
    assert answers([], chosen) == []
    every = answers(real, chosen)
    for x, found in zip(real, every, strict=True):
        assert torch.equal(found[0], x.b_prime)
        assert nearest(x.b_prime, found) == 0
        for i in range(len(found)):
            for j in range(i):
                assert (found[i] - found[j]).abs().mean() >= 2 / 255
            assert (found[i] - x.b).abs().mean() >= 2 / 255
    noto = next(i for i, x in enumerate(real) if x.relation.startswith("style/"))
    # Every edit applies to a Noto picture, though a symmetric one looks the same in the mirror.
    assert len(every[noto]) >= 2


def test_answers_are_those_of_one_relation_and_one_picture_after_the_other(real: list[Analogy]) -> None:
    chosen = [get_relation(n) for n in (*by_relation(real), "tone/yellow>dark", "compose/edit/invert+edit/blur=4")]
    for x, found in zip(real, answers(real, chosen), strict=True):
        key, style = x.keys[2].rsplit("@", 1)
        kept = [x.b_prime]
        for relation in chosen:
            pairs = [p for p in relation.all_pairs.tolist() if p[:2] == [load_emoji().index[key], STYLES.index(style)]]
            if pairs and relation.name != x.relation:
                answer = relation.pictures(np.array(pairs[:1]))[1][0]
                if all((answer - other).abs().mean() >= 2 / 255 for other in (x.b, *kept)):
                    kept.append(answer)
        assert torch.equal(found, torch.stack(kept))


def test_retrieval_of_the_truth_is_perfect_and_chance_is_one_in_k(real: list[Analogy]) -> None:
    data = by_relation(real)
    autoencoder = Lossless()
    found = evaluate({"truth": lambda items: as_batch(items)[3]}, data, autoencoder, resamples=10)
    assert found.groups["all"]["truth"].retrieval.value == 1
    chosen = [get_relation(n) for n in data]
    sizes = [len(x) for x in answers(real, chosen)]
    assert found.chance["all"] == pytest.approx(np.mean([1 / k for k in sizes if k > 1]))


def test_methods_draw_what_they_say(real: list[Analogy], editor: Editor) -> None:
    methods = methods_of(editor, editor, steps=1)
    for name, method in methods.items():
        result = draw(method, real)
        assert result.shape == (len(real), 3, 64, 64), name
        assert result.min() >= -1 and result.max() <= 1
    b = torch.stack([x.b for x in real])
    torch.testing.assert_close(draw(methods["copy b"], real), reconstruct(editor.autoencoder, b))
    one = real[1]
    alone = editor.edit(one.a, one.a_prime, one.b, steps=1).pictures[0]
    torch.testing.assert_close(draw(methods["LoRWeB"], real)[1], alone, atol=1e-5, rtol=0)
    assert editor.basis.coefficients is None


def test_oracle_draws_with_the_bare_base(real: list[Analogy], editor: Editor) -> None:
    before = draw(methods_of(editor, steps=1)["oracle instruction"], real[:2])
    high = editor.basis.parameters()[1]
    kept = high.data.clone()
    high.data.normal_()
    after = draw(methods_of(editor, steps=1)["oracle instruction"], real[:2])
    high.data.copy_(kept)
    assert torch.equal(before, after)


def test_judge_prefers_the_truth_to_another_answer(real: list[Analogy]) -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    from lorweb_mini.models.encoders import Judge

    judge = Judge(size=64)
    data = by_relation(real)
    found = evaluate({"copy": lambda items: as_batch(items)[2]}, data, Lossless(), judge=judge, resamples=10)
    scores = found.judge["all"]
    assert set(scores) == {"copy", "true answer", "shuffled answers"}
    assert scores["true answer"].value < 1e-5 < scores["shuffled answers"].value


@pytest.mark.parametrize(
    "method",
    [
        lambda items: halfway(items) * math.nan,
        lambda items: halfway(items)[:1],
        lambda items: halfway(items)[:, :1],
        lambda items: halfway(items)[..., :32, :32],
        lambda items: (127.5 * halfway(items) + 127.5).byte(),
        lambda items: list(halfway(items)),
        lambda items: None,
    ],
)
def test_a_method_that_gives_no_pictures_has_no_scores(method: Any, data: dict[str, list[Analogy]]) -> None:
    """NaN would have been the nearest of all, and one channel would have stood for three."""
    with pytest.raises(InputError, match=r"expected .*pictures .*from a method, got"):
        evaluate({"m": method}, data, Lossless(), retrieval_limit=0, resamples=10)


@pytest.mark.parametrize(
    "wrong", [{"resamples": 0}, {"resamples": 2.5}, {"seed": -1}, {"retrieval_limit": -1}, {"retrieval_limit": 1.5}]
)
def test_numbers_of_an_evaluation(wrong: dict[str, Any], data: dict[str, list[Analogy]]) -> None:
    with pytest.raises(InputError, match=r"expected .* as a whole number"):
        evaluate({"half": halfway}, data, Lossless(), **{"retrieval_limit": 0, **wrong})


@pytest.mark.parametrize("limit", [1, 0, -1])
def test_counterfactuals_need_another_pair(limit: int, data: dict[str, list[Analogy]]) -> None:
    with pytest.raises(InputError, match="expected limit as a whole number of at least 2"):
        counterfactuals(halfway, data, Lossless(), limit)
