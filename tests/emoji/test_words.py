"""Words for any strength: interpolation on a grid of cached sentences."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lorweb_mini.emoji.distributions import TRAINED, Chains, Distribution
from lorweb_mini.emoji.edits import EDITS
from lorweb_mini.emoji.words import KINDS, NORM, all_sentences, chain_vectors, edit_vectors, grid_of
from lorweb_mini.errors import InputError
from lorweb_mini.models.text import cached_vectors, vectors_of


def usual(kind: str, strengths: list) -> torch.Tensor:
    value = torch.tensor(strengths, dtype=torch.float32).view(len(strengths), -1)
    phrasing = torch.zeros(len(value), len(EDITS[kind].phrase))
    phrasing[:, 0] = 1
    return edit_vectors(kind, value, phrasing)


def test_every_sentence_is_cached_and_every_trained_kind_has_words() -> None:
    sentences = all_sentences()
    assert len(set(sentences)) == len(sentences) and not any("{" in s or s.endswith(", ") for s in sentences)
    assert set(sentences) <= set(cached_vectors())
    assert set(TRAINED) <= set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_a_mean_of_neighbours(kind: str) -> None:
    low, high = EDITS[kind].range
    value = torch.from_numpy(np.random.default_rng(0).uniform(low, high, (50, EDITS[kind].parameters))).float()
    weights = grid_of(kind).weights(value)
    assert weights.shape == (50, len(grid_of(kind).sentences("")))
    assert (weights >= -1e-6).all() and torch.allclose(weights.sum(1), torch.ones(50), atol=1e-5)
    if kind != "mix":
        assert ((weights > 1e-6).sum(1) <= 2 ** len(grid_of(kind).axes)).all()


def test_a_node_has_its_own_sentence_and_between_two_lies_their_mean() -> None:
    ends = vectors_of(
        [
            "rotate the colours by 30 degrees, so that red becomes orange",
            "rotate the colours by 60 degrees, so that red becomes yellow",
        ]
    )
    at = usual("hue", [30, 45, 60])
    torch.testing.assert_close(at[0], ends[0] / ends[0].norm() * NORM)
    middle = ends[0] / 2 + ends[1] / 2
    torch.testing.assert_close(at[1], middle / middle.norm() * NORM)
    torch.testing.assert_close(usual("hue", [345]), usual("hue", [-15]))
    swap = usual("mix", [[0, 0, 1, 0, 1, 0, 1, 0, 0]])
    words = vectors_of(["mix the channels: red from blue, green from green, blue from red"])
    torch.testing.assert_close(swap, words / words.norm() * NORM)


def test_chains_are_normalised_sums() -> None:
    parts = usual("grey", [1.0]) + usual("blur", [2.5])
    both = chain_vectors(Chains.of([[("grey", 1.0), ("blur", 2.5)]]))
    torch.testing.assert_close(both, NORM * parts / parts.norm())
    chains = Distribution().draw(np.random.default_rng(0), 40)
    for vectors in (chain_vectors(chains, torch.Generator().manual_seed(0)), chain_vectors(chains, held_out=True)):
        torch.testing.assert_close(vectors.norm(dim=1), torch.full((40,), NORM))
    assert not torch.allclose(chain_vectors(chains), chain_vectors(chains, held_out=True))


def test_training_never_shows_the_last_phrasing() -> None:
    """Mixtures of the shown phrasings lie in their span; the held-out sentence does not."""
    strength = torch.full((64, 1), 2.0)
    generator = torch.Generator().manual_seed(0)
    chains = Chains.of([[("blur", 2.0)]] * 64)
    mixed = chain_vectors(chains, generator)
    phrases = [p.format(strength="clearly") for p in EDITS["blur"].phrase]
    shown = vectors_of(phrases[:-1])
    residual = mixed - mixed @ torch.linalg.pinv(shown) @ shown
    assert residual.norm(dim=1).max() < 1e-2
    held = edit_vectors("blur", strength[:1], torch.eye(len(phrases))[-1:])
    assert (held - held @ torch.linalg.pinv(shown) @ shown).norm() > 1


def test_kinds_without_words() -> None:
    with pytest.raises(InputError, match="swirl"):
        chain_vectors(Chains.of([[("swirl", 90)]]))
