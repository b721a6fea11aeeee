"""Augmentation: the same edit on both pictures of a pair, where the relation allows it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_models import tiny_editor

from lorweb_mini.emoji.distributions import Chains
from lorweb_mini.emoji.edits import apply_edit
from lorweb_mini.emoji.latents import PictureSource
from lorweb_mini.emoji.sheets import load_emoji
from lorweb_mini.training.augmentation import COLOURLESS, DIRECTED, augmented_latents, shared_edits


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> PictureSource:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LORWEB_CACHE", str(tmp_path_factory.mktemp("cache")))
        return PictureSource(tiny_editor().autoencoder, np.argwhere(load_emoji().present)[::400])


def test_which_edits_a_family_gets() -> None:
    families = ["", "clock", "style", "gender"] * 300
    chains, augmented = shared_edits(np.random.default_rng(0), families)
    kinds = {f: set(chains.kinds[i::4].ravel()) - {""} for i, f in enumerate(families[:4])}
    assert "clock" in DIRECTED and kinds["clock"] == {"shrink", "zoom", "move"}
    assert kinds["style"] == {"shrink", "zoom", "move", "rotate", "flip_horizontal"}
    assert "gender" in COLOURLESS and {"hue", "mix", "grey", "invert"} < kinds["gender"]
    assert not augmented[::4].any() and 0.4 < augmented[1::4].mean() < 0.6


def test_both_pictures_get_the_shared_edit_and_the_second_its_own_after_it(source: PictureSource) -> None:
    pairs = np.concatenate([source.drawings[:4], source.drawings[4:8]], 1)
    chains = Chains.of([[("grey", 1)]] * 4)
    shared = Chains.of([[("flip_horizontal", 1)], [("move", (4, 0)), ("shrink", 0.8)]] * 2)
    edited, augmented = np.array([True, False, True, True]), np.array([True, True, False, True])
    first, second = augmented_latents(source, pairs, chains, edited, shared, augmented)
    for i in range(4):
        x, y = (load_emoji().tensor(pairs[i : i + 1, k], pairs[i : i + 1, k + 1]) for k in (0, 2))
        if augmented[i]:
            for kind, strength in shared.as_lists()[i]:
                x, y = apply_edit(x, kind, strength), apply_edit(y, kind, strength)
        if edited[i]:
            y = apply_edit(y, "grey", 1)
        for got, picture in ((first, x), (second, y)):
            torch.testing.assert_close(got[i], source.autoencoder.to_latent(picture)[0], atol=0.02, rtol=0)
