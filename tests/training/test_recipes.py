"""The recipes on fresh relations: what they draw, what they learn from, what they leave alone."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_models import tiny_base, tiny_editor, tiny_pair_encoder

from lorweb_mini.core.editor import Editor, Miniature
from lorweb_mini.emoji.distributions import Chains, Distribution, held_out
from lorweb_mini.emoji.latents import PictureSource
from lorweb_mini.emoji.relations import get_relation
from lorweb_mini.emoji.sheets import load_emoji
from lorweb_mini.emoji.words import chain_vectors
from lorweb_mini.errors import InputError
from lorweb_mini.models.pair_encoder import PairEncoder
from lorweb_mini.models.weights import weights_dir
from lorweb_mini.training import basis
from lorweb_mini.training.analogies import FreshAnalogies
from lorweb_mini.training.autoencoder import AutoencoderRecipe
from lorweb_mini.training.base import BaseRecipe
from lorweb_mini.training.basis import BasisRecipe
from lorweb_mini.training.config import TrainingConfig
from lorweb_mini.training.loop import train
from lorweb_mini.training.pair_encoder import PairRecipe, pair_targets, strength_count, strength_places


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> PictureSource:
    """Every fortieth drawing, through an untrained autoencoder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LORWEB_CACHE", str(tmp_path_factory.mktemp("cache")))
        return PictureSource(tiny_editor().autoencoder, np.argwhere(load_emoji().present)[::40])


def test_pixels_kept_on_a_device_are_those_of_the_sheets(source: PictureSource) -> None:
    rows, other = source.drawings[3:9], np.argwhere(load_emoji().present)[1:3]
    source.sheet = torch.from_numpy(load_emoji().rgba[source.drawings[:, 0], source.drawings[:, 1]])
    try:
        for shown in (rows, np.concatenate([rows, other])):
            assert torch.equal(source.as_drawn(shown), load_emoji().tensor(*shown.T))
    finally:
        source.sheet = None


def with_pairs(seed: int = 0) -> Editor:
    plain = tiny_editor(seed=seed)
    config = replace(plain.config, query="cat+pair")
    return Editor(Miniature(plain.autoencoder, plain.encoder, tiny_base(seed), config, tiny_pair_encoder()))


def test_latents_of_pairs_are_those_of_their_pictures(source: PictureSource) -> None:
    rng = np.random.default_rng(0)
    rows = source.draw(rng, 8)[:, :2]
    other = np.argwhere(load_emoji().present)[1:9]  # not among the drawings that are kept encoded
    chains = Distribution().draw(rng, 8)
    edited = np.array([True, False] * 4)
    first, second = source.latents(np.concatenate([rows, other], 1), chains, edited)
    pictures = load_emoji().tensor(other[:, 0], other[:, 1])
    expected = torch.where(torch.from_numpy(edited)[:, None, None, None], chains.apply(pictures), pictures)
    torch.testing.assert_close(second, source.autoencoder.to_latent(expected), atol=2e-3, rtol=0)
    torch.testing.assert_close(
        first, source.autoencoder.to_latent(load_emoji().tensor(rows[:, 0], rows[:, 1])), atol=5e-3, rtol=0
    )


def test_concepts_with_many_drawings_do_not_crowd_out_the_others(source: PictureSource) -> None:
    drawn = source.draw(np.random.default_rng(0), 4000)
    concepts = np.array([load_emoji().emojis[i].concept for i in drawn[:, 0]])
    rows, _ = source.sides["train"]
    plain = np.array([load_emoji().emojis[i].concept for i in rows[:, 0]])
    commonest = max(set(plain), key=lambda c: (plain == c).sum())
    assert (concepts == commonest).mean() < 0.8 * (plain == commonest).mean()


def test_base_recipe_tells_the_words_of_what_it_draws(source: PictureSource, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = BaseRecipe(tiny_base(), source)
    monkeypatch.setattr(recipe, "NO_INSTRUCTION", 0.0)
    monkeypatch.setattr(recipe, "SHARES", (0.0, 1.0, 0.0))
    seen = {}
    original = source.latents
    monkeypatch.setattr(source, "latents", lambda p, c, e: seen.update(chains=c, edited=e) or original(p, c, e))
    batch = recipe.batch(np.random.default_rng(0), 16)
    assert seen["edited"].all()
    usual = chain_vectors(seen["chains"])
    nearest = (batch["instruction"] @ usual.T).argmax(1)
    assert (nearest == torch.arange(16)).sum() >= 13
    assert not recipe.fresh.held_out.chains(seen["chains"]).any()
    again = recipe.batch(np.random.default_rng(0), 16)
    assert all(torch.equal(batch[k], again[k]) for k in batch)


def test_base_recipe_learns_to_give_back_without_words(source: PictureSource) -> None:
    recipe = BaseRecipe(tiny_base(), source)
    recipe.NO_INSTRUCTION = 1.0  # type: ignore[misc]
    batch = recipe.batch(np.random.default_rng(0), 12)
    target = batch["noisy"] - batch["t"][:, None, None] * batch["velocity"]
    torch.testing.assert_close(target, batch["reference"], atol=1e-4, rtol=1e-3)
    assert (batch["instruction"] == 0).all()
    losses = recipe.validation()
    assert {"tone", "edit", "two edits", "three edits"} <= set(losses)
    assert losses == recipe.validation() and all(math.isfinite(v) for v in losses.values())


def test_fresh_analogies_share_their_edit_and_show_it(source: PictureSource) -> None:
    distribution = Distribution(["flip_horizontal", "invert"], lengths=(1, 0, 0))
    a, a_prime, b, _, exact = FreshAnalogies(source, distribution).draw(np.random.default_rng(1), 24)
    assert exact.all() and a.shape == (24, 16, 8, 8)
    assert (a_prime - a).abs().mean((1, 2, 3)).min() > 0
    assert not torch.equal(a, b)
    tones = FreshAnalogies(source, distribution, [get_relation("tone/yellow>dark")], share=1.0, followed=0.0)
    *_, exact = tones.draw(np.random.default_rng(1), 8)
    assert not exact.any()


def test_basis_recipe_trains_basis_router_and_pair_encoder_only(
    source: PictureSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(basis, "STANDARDISED", 32)
    editor = with_pairs()
    recipe = BasisRecipe(
        editor.config,
        [get_relation("tone/yellow>dark")],
        editor=editor,
        pictures=source,
        fresh=Distribution(held_out=held_out()),
        pair_rate=0.02,
        balance=0.1,
    )
    groups = recipe.parameter_groups()
    assert [g["scale"] for g in groups] == [1.0, 0.1, 0.02]
    out = recipe(recipe.batch(np.random.default_rng(0), 8))
    naive = out["flow_matching"] + 0.1 * (math.log(3) - out["usage"])
    torch.testing.assert_close(out["loss"].detach().float(), naive.detach().float())
    out["loss"].backward()
    trained = {id(p) for g in groups for p in g["params"]}
    for parameter in [*editor.base.parameters(), *editor.encoder.parameters(), *editor.autoencoder.parameters()]:
        assert parameter.grad is None or id(parameter) in trained
    assert all(p.grad is not None for p in editor.basis.parameters())
    assert editor.pair_encoder is not None and editor.pair_encoder.stem[0].weight.grad is not None
    assert set(recipe.validation()) >= {"edit", "two edits", "three edits"}


def test_an_encoder_of_the_pair_is_saved_where_it_is_not_the_shipped_one(tmp_path: Path) -> None:
    editor = with_pairs()
    editor.save(tmp_path / "tuned")
    saved = load_file(tmp_path / "tuned" / "model.safetensors")
    for name, tensor in editor.pair_encoder.state_dict().items():
        torch.testing.assert_close(saved[f"pair_encoder.{name}"], tensor.half())
    editor.pair_encoder = PairEncoder.load(weights_dir() / "pair_encoder")
    editor.save(tmp_path / "shipped")
    assert not any(k.startswith("pair_encoder") for k in load_file(tmp_path / "shipped" / "model.safetensors"))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("pair_rate", 0.02),
        ("balance", 0.1),
        ("exact_shift", 1.0),
        ("change_floor", 0.3),
        ("artists_share", 0.2),
        ("emphasis", {"tone": 2.0}),
    ],
)
def test_a_killed_run_resumes_with_the_same_options_only(
    source: PictureSource, monkeypatch: pytest.MonkeyPatch, option: str, value: Any
) -> None:
    monkeypatch.setattr(basis, "STANDARDISED", 32)
    editor = with_pairs()
    make = partial(BasisRecipe, editor.config, [], editor=editor, pictures=source, fresh=Distribution())
    assert make().configuration() == make().configuration() != make(**{option: value}).configuration()


def test_change_floor_divides_each_loss_by_its_change(source: PictureSource, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(basis, "STANDARDISED", 32)
    editor = with_pairs()
    fresh = Distribution(held_out=held_out())
    plain, divided = (
        BasisRecipe(editor.config, [], editor=editor, pictures=source, fresh=fresh, change_floor=floor)
        for floor in (None, 0.2)
    )
    _, _, b, b_prime, _ = plain.analogies.draw(np.random.default_rng(0), 6)
    batch = plain.batch(np.random.default_rng(0), 6)
    ratios = [
        plain({k: v[i : i + 1] for k, v in batch.items()})["loss"] / ((b[i] - b_prime[i]).pow(2).mean() + 0.2)
        for i in range(6)
    ]
    out = divided(batch)
    torch.testing.assert_close(out["loss"], torch.stack(ratios).mean())
    torch.testing.assert_close(out["flow_matching"], plain(batch)["loss"])
    with pytest.raises(InputError, match="change_floor"):
        BasisRecipe(editor.config, [], editor=editor, pictures=source, fresh=fresh, change_floor=0.0)


def test_change_floor_of_the_base_divides_by_what_is_asked_for(source: PictureSource) -> None:
    base = tiny_base()
    plain, divided = (BaseRecipe(base, source, change_floor=floor) for floor in (None, 0.2))
    batch = plain.batch(np.random.default_rng(0), 8)
    clean = batch["noisy"] - batch["t"][:, None, None] * batch["velocity"]
    batch["instruction"][0] = 0  # nothing is asked of it
    ratios = [
        plain({k: v[i : i + 1] for k, v in batch.items()})["loss"]
        / ((clean[i] - batch["reference"][i]).pow(2).mean() + 0.2 if batch["instruction"][i].any() else 1)
        for i in range(8)
    ]
    torch.testing.assert_close(divided(batch)["loss"], torch.stack(ratios).mean())
    torch.testing.assert_close(divided(batch)["flow_matching"], plain(batch)["loss"])


def test_the_pair_reaches_the_coefficients() -> None:
    editor = with_pairs()
    latents = [torch.randn(2, 16, 8, 8, generator=torch.Generator().manual_seed(k)) for k in range(3)]
    embeddings = editor.embeddings(*latents)
    assert [e.shape[-1] for e in embeddings] == [16, 16, 16, 16]
    torch.testing.assert_close(embeddings[3].norm(dim=1), torch.full((2,), 10.0))
    before = editor.coefficients(*latents)
    assert editor.pair_encoder is not None
    torch.nn.init.zeros_(editor.pair_encoder.vision.visual_projection.weight)
    assert not torch.allclose(editor.coefficients(*latents), before)


def test_decoder_alone_keeps_the_latents(tmp_path) -> None:
    recipe = AutoencoderRecipe(decoder_only=True)
    kept = {k: v.clone() for k, v in recipe.autoencoder.encoder.state_dict().items()}
    before = recipe.autoencoder.decoder.state_dict()["coarse.2.weight"].clone()
    config = TrainingConfig(steps=2, batch_size=8, ema_decay=None, learning_rate=1e-2)
    train(recipe, config, tmp_path)
    assert all(torch.equal(v, kept[k]) for k, v in recipe.autoencoder.encoder.state_dict().items())
    assert not torch.equal(recipe.autoencoder.decoder.state_dict()["coarse.2.weight"], before)
    assert recipe.autoencoder.config["scaling_factor"] == 1.0


def test_pair_targets_by_hand() -> None:
    kinds = ("grey", "hue", "flip_horizontal", "move")
    chains = Chains.of([[("hue", 90), ("grey", 0.75)], [("move", (16, -32))], [("flip_horizontal", 1)]])
    found = pair_targets(kinds, chains)
    assert found["present"].tolist() == [[1, 1, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]]
    assert found["order"].tolist() == [[1, 0, -1, -1], [-1, -1, -1, 0], [-1, -1, 0, -1]]
    places = strength_places(kinds)
    assert list(places) == ["grey", "hue", "move"] and strength_count(kinds) == 5
    torch.testing.assert_close(found["strength"][0], torch.tensor([0.5, 0.0, 1.0, 0.0, 0.0]), atol=1e-6, rtol=0)
    torch.testing.assert_close(found["strength"][1], torch.tensor([0.0, 0.0, 0.0, 0.5, -1.0]))
    assert found["mask"].tolist() == [[1, 1, 1, 0, 0], [0, 0, 0, 1, 1], [0, 0, 0, 0, 0]]


def test_pair_recipe_and_its_file(source: PictureSource, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = PairRecipe(source)
    recipe.VALIDATION = 16  # type: ignore[misc]
    out = recipe(recipe.batch(np.random.default_rng(0), 24))
    assert all(torch.isfinite(v) for k, v in out.items() if k != "relation_top1")
    assert set(recipe.encoder.kinds) == set(Distribution(held_out=held_out()).kinds)
    assert not {r.degree for r in recipe.artists} - {"seen"}
    assert recipe.validation() == recipe.validation()
    recipe.save(tmp_path)
    loaded = PairEncoder.load(tmp_path)
    a, b = torch.randn(2, 3, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(loaded(a, b), recipe.encoder.eval()(a, b), atol=0.05, rtol=0.02)
