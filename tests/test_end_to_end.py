"""The shipped weights and pictures through the public API, as a reader of the README would use them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

import lorweb_mini as lw
from lorweb_mini.core.layout import unpack
from lorweb_mini.emoji.relations import as_batch, splits
from lorweb_mini.models.base import Base
from lorweb_mini.models.weights import weights_dir


@pytest.fixture(scope="module")
def editor() -> lw.Editor:
    return lw.load("starter")


@pytest.fixture(scope="module")
def analogies() -> list[lw.Analogy]:
    return lw.analogies("test", splits()["starter"]["seen"], seed=0, n=3)


def test_public_names() -> None:
    for name in lw.__all__:
        assert getattr(lw, name).__doc__, name
    assert {"load", "Editor", "EditResult", "BasisConfig", "analogies", "relations", "InputError"} <= set(lw.__all__)


def test_edit_offline(no_network: None) -> None:
    emoji = lw.load_emoji()
    a, b = emoji.picture("dog face", "noto"), emoji.picture("cat face", "twemoji")
    a_prime = a.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    result = lw.load("starter").edit(a, a_prime, b, steps=8, seed=0)
    assert result.image.size == (64, 64) and result.image.mode == "RGB"
    batch, layers, n = result.coefficients.shape
    assert batch == 1 and layers > 1 and n > 1
    torch.testing.assert_close(result.coefficients.sum(-1), torch.ones(1, layers), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["starter", "full"])
def test_shipped_bases(name: str, analogies: list[lw.Analogy], no_network: None) -> None:
    editor = lw.load() if name == "full" else lw.load(name)
    a, a_prime, b, _ = as_batch(analogies[:3])
    whole = editor.edit(a, a_prime, b, steps=4, seed=7)
    torch.testing.assert_close(whole.coefficients.sum(-1), torch.ones(whole.coefficients.shape[:2]), atol=1e-5, rtol=0)
    for i in range(3):
        alone = editor.edit(a[i], a_prime[i], b[i], steps=4, seed=7)
        torch.testing.assert_close(alone.pictures[0], whole.pictures[i], atol=1e-4, rtol=0)
    assert torch.equal(editor.edit(a, a_prime, b, steps=4, seed=7).pictures, whole.pictures)


def test_seeds(editor: lw.Editor, analogies: list[lw.Analogy]) -> None:
    x = analogies[0]
    first, second = (editor.edit(x.a, x.a_prime, x.b, steps=4, seed=s).pictures for s in (0, 1))
    assert not torch.equal(first, second)


def test_frozen_and_exported_draw_what_the_router_mixes(
    editor: lw.Editor, analogies: list[lw.Analogy], tmp_path: Path
) -> None:
    x = analogies[0]
    c = editor.route(x.a, x.a_prime, x.b)
    context = (x.a, x.a_prime)
    dynamic = editor.generate(x.b, c, context=context, steps=8, seed=0).pictures
    before = {k: v.clone() for k, v in editor.base.transformer.state_dict().items()}
    with editor.freeze(c[0]):
        merged = editor.generate(x.b, c, context=context, steps=8, seed=0).pictures
    torch.testing.assert_close(merged, dynamic, atol=1e-4, rtol=0)
    assert all(torch.equal(v, before[k]) for k, v in editor.base.transformer.state_dict().items())

    path = editor.export_lora(c[0], tmp_path / "edit.safetensors")
    fresh = Base.load(weights_dir() / "base")
    fresh.transformer.load_lora_adapter(str(path))
    generator = torch.Generator().manual_seed(3)
    noisy = torch.randn(1, editor.layout.drawn(), 64, generator=generator)
    with torch.no_grad():
        latents = [editor.autoencoder.to_latent(p[None]) for p in (x.a, x.a_prime, x.b)]
        inputs = (noisy, torch.tensor([0.7]), editor.layout.references(*latents), editor.layout.ids())
        with editor.basis.mixed(c):
            expected = editor.base.velocity(*inputs)
        torch.testing.assert_close(fresh.velocity(*inputs), expected, atol=1e-4, rtol=1e-4)
    assert unpack(expected[:, :16]).shape == (1, 16, 8, 8)


def test_starter_edits_unseen_content(editor: lw.Editor, analogies: list[lw.Analogy]) -> None:
    """Squared error to the reconstruction of b' over that of copying b, pooled over a relation, then a median."""
    a, a_prime, b, b_prime = as_batch(analogies)
    with torch.no_grad():
        b_prime, b_seen = (editor.autoencoder.to_picture(editor.autoencoder.to_latent(x)) for x in (b_prime, b))
    drawn = editor.edit(a, a_prime, b, steps=8, seed=0).pictures
    missed: dict[str, list[tuple[float, float]]] = {}
    for i, x in enumerate(analogies):
        pair = ((drawn[i] - b_prime[i]).pow(2).sum(), (b_seen[i] - b_prime[i]).pow(2).sum())
        missed.setdefault(x.relation, []).append((float(pair[0]), float(pair[1])))
    errors = sorted(sum(m for m, _ in v) / sum(c for _, c in v) for v in missed.values())
    assert len(errors) >= 8
    assert errors[len(errors) // 2] < 0.5, errors


def test_another_relation_another_mixture(editor: lw.Editor, analogies: list[lw.Analogy]) -> None:
    b = analogies[0].b
    c = editor.route([x.a for x in analogies], [x.a_prime for x in analogies], b)
    names = [x.relation for x in analogies]
    distance = (c[:, None] - c[None]).abs().sum(-1).mean(-1)
    same = torch.tensor([[p == q for q in names] for p in names])
    off = ~torch.eye(len(names), dtype=torch.bool)
    assert distance[same & off].mean() < distance[~same].mean()


def test_unknown_relation_or_split() -> None:
    with pytest.raises(lw.InputError, match=r"expected the name of a relation, got"):
        lw.analogies("test", "edit/nothing")
    with pytest.raises(lw.InputError, match=r"expected a split .* got"):
        lw.analogies("holdout", "edit/invert")


def test_analogies_of_the_test_split_repeat() -> None:
    name = splits()["starter"]["seen"][0]
    first, second = (lw.analogies(split="test", relation=name, seed=4, n=3) for _ in range(2))
    assert [x.keys for x in first] == [x.keys for x in second] and first[0].relation == name
    assert all(torch.equal(x.b_prime, y.b_prime) for x, y in zip(first, second, strict=True))
