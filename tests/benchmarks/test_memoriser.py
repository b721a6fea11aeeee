"""The memoriser's stored answers are those that it would give."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import memoriser
from lorweb_mini.analysis import methods
from lorweb_mini.commands.train import STARTER_KINDS
from lorweb_mini.emoji.distributions import Chains, Distribution, Memoriser, held_out
from lorweb_mini.emoji.relations import Analogy, analogies
from lorweb_mini.errors import InputError
from lorweb_mini.models.autoencoder import MiniAutoencoder
from lorweb_mini.models.weights import weights_dir


@pytest.fixture(scope="module")
def autoencoder() -> MiniAutoencoder:
    return MiniAutoencoder.load(weights_dir() / "autoencoder")


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Analogy]:
    """Three questions, answered by a memoriser of 40 relations."""
    asked = [x for name in ("edit/grey", "edit/flip_horizontal", "edit/hue=120") for x in analogies("test", name, n=1)]
    for module in (memoriser, methods):
        monkeypatch.setattr(module, "data_dir", lambda: tmp_path)
    monkeypatch.setattr(methods, "MEMORISED", 40)
    monkeypatch.setattr(memoriser, "questions", lambda kinds: asked)
    memoriser.main(["--save", "--threads", "1"])
    return asked


@pytest.mark.parametrize("kinds", [None, STARTER_KINDS])
def test_stored_answers_are_those_of_the_search(
    stored: list[Analogy], kinds: tuple[str, ...] | None, autoencoder: MiniAutoencoder
) -> None:
    known = methods.remembered(autoencoder, stored, kinds)
    assert known is not None
    torch.testing.assert_close(known(stored), methods.memoriser_method(autoencoder, kinds, 40)(stored))
    other = analogies("test", "edit/invert", n=1)
    assert methods.remembered(autoencoder, stored + other, kinds) is None, "one of them was never asked"


def test_what_is_stored_is_not_searched_again(stored: list[Analogy], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(Memoriser, "fit", lambda self, a, a_prime: asked.append(a) or 0)
    more = stored + analogies("test", "edit/invert", n=1)
    monkeypatch.setattr(memoriser, "questions", lambda kinds: more)
    memoriser.main(["--threads", "1"])
    assert len(asked) == 2, "the new question, to both of them"


def test_the_published_file_has_every_question() -> None:
    for kinds in (None, STARTER_KINDS):
        entry, asked = methods.memoriser_answers(kinds), memoriser.questions(kinds)
        chosen = entry["chosen"]
        assert {methods.key_of(x) for x in asked} == set(chosen)
        assert entry["size"] == 10_000
        chains = Distribution(kinds, held_out()).draw(np.random.default_rng(entry["seed"]), 10_000)
        known = {tuple(chain) for chain in chains.as_lists()}
        assert known.issuperset(map(tuple, chosen.values())), "all answers are what this memoriser was shown"
        # One of them against relations that were not chosen.
        item = asked[len(asked) // 2]
        own = Chains.of([chosen[methods.key_of(item)]])
        best = (own.apply(item.a[None]) - item.a_prime).pow(2).sum()
        some = [*range(0, 10_000, 50)]
        rivals = [(chains[i : i + 1].apply(item.a[None]) - item.a_prime).pow(2).sum() for i in some]
        assert best <= min(rivals)


def test_a_quick_memoriser_is_not_saved(stored: list[Analogy], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        memoriser.main(["--quick", "--save"])
    assert "not to be saved" in capsys.readouterr().err


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        '{"all": 3}',
        '{"all": {"size": 40}}',
        '{"all": {"size": 40, "seed": 0, "chosen": {"edit/grey x": 40}}}',
        '{"all": {"size": 40, "seed": 0, "chosen": {"edit/grey x": [["gray", 1.0]]}}}',
        '{"all": {"size": 40, "seed": 0, "chosen": {"edit/grey x": [["grey", "much"]]}}}',
        '{"all": {"size": "forty", "seed": 0, "chosen": {}}}',
    ],
)
def test_a_damaged_file_is_refused(content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "data_dir", lambda: tmp_path)
    (tmp_path / "memoriser.json").write_text(content)
    with pytest.raises(InputError, match=r"memoriser\.json"):
        methods.memoriser_answers()
