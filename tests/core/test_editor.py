"""The public editor on tiny random weights."""

from __future__ import annotations

import inspect
import json
import types
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from tiny_models import mixtures, pictures, randomise, tiny_base, tiny_data, tiny_editor, tiny_pair_encoder
from torch import Tensor

import lorweb_mini as lw
from lorweb_mini.core.basis import ADAPTER
from lorweb_mini.core.editor import BasisConfig, Editor, Miniature
from lorweb_mini.core.layout import LAYOUTS
from lorweb_mini.images import to_pil
from lorweb_mini.training import basis


@pytest.fixture(scope="module", params=LAYOUTS)
def editor(request: pytest.FixtureRequest) -> lw.Editor:
    return tiny_editor(request.param)


@pytest.fixture(scope="module")
def simple() -> lw.Editor:
    return tiny_editor("b")


def _triplet(k: int) -> tuple[Tensor, Tensor, Tensor]:
    return pictures(k, 1), pictures(k, 2), pictures(k, 3)


def test_result(editor: lw.Editor) -> None:
    result = editor.edit(*_triplet(2), steps=2, seed=0)
    assert isinstance(result, lw.EditResult)
    assert [x.size for x in result.images] == [(64, 64)] * 2 and {x.mode for x in result.images} == {"RGB"}
    assert result.image is result.images[0]
    assert result.pictures.shape == (2, 3, 64, 64) and result.pictures.abs().max() <= 1
    assert result.coefficients.shape == (2, 20, 3)
    assert not result.pictures.requires_grad and not result.coefficients.requires_grad
    for image, picture in zip(result.images, result.pictures, strict=True):
        by_hand = ((picture + 1) * 127.5).round().permute(1, 2, 0).numpy().astype(np.uint8)
        np.testing.assert_array_equal(np.asarray(image), by_hand)


def test_rows_of_coefficients_sum_to_one(editor: lw.Editor) -> None:
    c = editor.route(*_triplet(3))
    assert c.shape == (3, 20, 3)
    torch.testing.assert_close(c.sum(-1), torch.ones(3, 20), atol=1e-6, rtol=0)


def test_route_from_the_parts(editor: lw.Editor) -> None:
    """Autoencoder, encoder and router called by hand."""
    triplet = _triplet(2)
    with torch.no_grad():
        q = []
        for x in triplet:
            z = (editor.autoencoder.encode(x).latent_dist.mode() - 0.1) * 2.0
            e = editor.encoder.vision(editor.encoder.stem(z)).image_embeds
            q.append(10 * e / e.norm(dim=-1, keepdim=True))
        assert editor.router is not None
        query = (torch.cat(q, -1) - editor.router.mean) / editor.router.deviation
        for layer in range(20):
            scores = query @ editor.router.query_projection[layer].T @ editor.router.keys[layer].T / 8**0.5
            torch.testing.assert_close(editor.route(*triplet)[:, layer], scores.softmax(-1), atol=1e-5, rtol=0)


def test_without_a_router_every_coefficient_is_one() -> None:
    editor = tiny_editor("tokens", routed=False)
    assert editor.router is None
    assert torch.equal(editor.edit(*_triplet(2), steps=1).coefficients, torch.ones(2, 20, 3))


def test_batch_equals_singles(editor: lw.Editor) -> None:
    a, a_prime, b = _triplet(3)
    whole = editor.edit(a, a_prime, b, steps=3, seed=5)
    for i in range(3):
        alone = editor.edit(a[i], a_prime[i], b[i], steps=3, seed=5)
        torch.testing.assert_close(alone.coefficients[0], whole.coefficients[i], atol=1e-5, rtol=0)
        torch.testing.assert_close(alone.pictures[0], whole.pictures[i], atol=1e-5, rtol=0)


def test_lists_and_one_for_all(simple: lw.Editor) -> None:
    a, a_prime, b = _triplet(2)
    batch = simple.edit(list(a), list(a_prime), list(b), steps=1)
    assert torch.equal(batch.pictures, simple.edit(a, a_prime, b, steps=1).pictures)
    shared = simple.edit(a[0], a_prime[0], b, steps=1)
    repeated = simple.edit(a[[0, 0]], a_prime[[0, 0]], b, steps=1)
    torch.testing.assert_close(shared.pictures, repeated.pictures, atol=1e-6, rtol=0)


def test_every_kind_of_picture_gives_the_same(simple: lw.Editor, tmp_path: Path) -> None:
    images = [to_pil(x[0]) for x in _triplet(1)]
    arrays = [np.asarray(x) for x in images]
    expected = simple.edit(*images, steps=1).pictures
    files = [tmp_path / f"{i}.png" for i in range(3)]
    for image, path in zip(images, files, strict=True):
        image.save(path)
    tensors = [torch.from_numpy(x.copy()).permute(2, 0, 1).float() / 127.5 - 1 for x in arrays]
    for given in (arrays, files, [str(x) for x in files], tensors, [x.convert("RGBA") for x in images]):
        torch.testing.assert_close(simple.edit(*given, steps=1).pictures, expected, atol=1e-5, rtol=0)


def test_same_seed_same_picture_other_seed_other_picture(editor: lw.Editor) -> None:
    triplet = _triplet(1)
    first = editor.edit(*triplet, steps=2, seed=3)
    torch.manual_seed(99)  # the global state has no say
    assert torch.equal(editor.edit(*triplet, steps=2, seed=3).pictures, first.pictures)
    other = editor.edit(*triplet, steps=2, seed=4)
    assert not torch.equal(other.pictures, first.pictures)
    assert torch.equal(other.coefficients, first.coefficients), "routing knows no seed"


def test_generate_with_the_routed_coefficients_is_edit(editor: lw.Editor) -> None:
    a, a_prime, b = _triplet(2)
    context = (a, a_prime) if editor.layout.needs_context else None
    c = editor.route(a, a_prime, b)
    drawn = editor.generate(b, c, context=context, steps=2, seed=1)
    torch.testing.assert_close(drawn.pictures, editor.edit(a, a_prime, b, steps=2, seed=1).pictures, atol=1e-6, rtol=0)


def test_generate_broadcasts(simple: lw.Editor) -> None:
    b, c = pictures(2), mixtures(2, simple)
    one_mixture = simple.generate(b, c[0], steps=1)
    assert len(one_mixture.images) == 2 and one_mixture.coefficients.shape == (2, 20, 3)
    one_picture = simple.generate(b[0], c, steps=1)
    assert len(one_picture.images) == 2
    torch.testing.assert_close(one_picture.pictures[0], one_mixture.pictures[0], atol=1e-5, rtol=0)
    assert (one_picture.pictures[0] - one_picture.pictures[1]).abs().max() > 1e-4


def test_coefficients_change_the_picture_and_zero_is_the_base(simple: lw.Editor) -> None:
    b, seed = pictures(2), 6
    c = mixtures(1, simple)
    mixed = simple.generate(b, c, steps=2, seed=seed).pictures
    nothing = simple.generate(b, torch.zeros(20, 3), steps=2, seed=seed).pictures
    base = tiny_base()
    with torch.no_grad():
        z = base.edit(simple.autoencoder.to_latent(b), None, [seed] * 2, steps=2)
        bare = simple.autoencoder.to_picture(z)
    torch.testing.assert_close(nothing, bare, atol=1e-6, rtol=0)
    assert (mixed - nothing).abs().max() > 1e-3


@pytest.mark.parametrize("layout", LAYOUTS)
def test_fresh_basis_draws_what_the_base_draws(layout: str) -> None:
    editor = tiny_editor(layout, zero=True)
    triplet = _triplet(2)
    fresh = editor.edit(*triplet, steps=2).pictures
    with editor.basis.disabled():
        assert torch.equal(editor.edit(*triplet, steps=2).pictures, fresh)


def test_context_reaches_the_transformer_where_the_layout_says_so(editor: lw.Editor) -> None:
    a, a_prime, b = _triplet(1)
    c = mixtures(1, editor)
    first = editor.generate(b, c, context=(a, a_prime), steps=1).pictures
    second = editor.generate(b, c, context=(a_prime, a), steps=1).pictures
    assert torch.equal(first, second) is (not editor.layout.needs_context)


def test_coefficients_depend_on_neither_step_nor_token(editor: lw.Editor) -> None:
    """What every gate lets through is the same diagonal at every step and token; the router is asked once."""
    calls: list[int] = []
    handles = [editor.router.register_forward_hook(lambda *_: calls.append(1))]
    steps, seen = 3, []
    for index, module in enumerate(editor.basis.modules):
        low = module.lora_A[ADAPTER]

        def compare(module, inputs: tuple[Tensor], out: Tensor, index: int = index) -> None:
            ungated = F.linear(inputs[0], module.weight)
            seen.append((index, ungated, out))

        handles.append(low.register_forward_hook(compare))
    try:
        result = editor.edit(*_triplet(2), steps=steps, seed=0)
    finally:
        for handle in handles:
            handle.remove()
    assert calls == [1]
    assert len(seen) == steps * 20
    for index, ungated, out in seen:
        gate = torch.stack([result.coefficients[:, index, n] for n in range(3) for _ in range(2)], -1)
        gate = gate[:, None] if out.ndim == 3 else gate
        torch.testing.assert_close(out, ungated * gate, atol=1e-5, rtol=1e-5)


def test_b_prime_has_no_way_in() -> None:
    for method in (lw.Editor.edit, lw.Editor.route, lw.Editor.coefficients):
        names = list(inspect.signature(method).parameters)
        assert names[1:4] == ["a", "a_prime", "b"] and "b_prime" not in names
    assert "b_prime" not in inspect.signature(lw.Editor.generate).parameters


class _Bank:
    """Stands in for the bank of latents: random ones, ``shift`` added to b' alone."""

    shift = 0.0

    def __init__(self, *_args, **_options) -> None: ...

    def draw(self, rng: np.random.Generator, size: int) -> tuple[Tensor, ...]:
        a, a_prime, b, b_prime = torch.from_numpy(rng.standard_normal((4, size, 16, 8, 8))).float()
        return a, a_prime, b, b_prime + _Bank.shift, torch.zeros(size, dtype=torch.bool)


@pytest.fixture(params=LAYOUTS)
def recipe(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> basis.BasisRecipe:
    monkeypatch.setattr(basis, "LatentBank", _Bank)
    monkeypatch.setattr(_Bank, "shift", 0.0)
    monkeypatch.setattr(basis, "STANDARDISED", 64)
    editor = tiny_editor(request.param)
    made = basis.BasisRecipe(editor.config, [types.SimpleNamespace(name="edit/mirror")], editor=editor)
    made.parameter_groups()
    return made


def test_training_never_shows_b_prime_to_the_router(recipe: basis.BasisRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    routed: list[Tensor] = []
    monkeypatch.setattr(recipe.editor, "coefficients", _recording(recipe.editor.coefficients, routed))
    batches = []
    for shift in (0.0, 3.0):
        monkeypatch.setattr(_Bank, "shift", shift)
        batches.append(recipe.batch(np.random.default_rng(0), 4))
        recipe(batches[-1])
    assert "b_prime" not in batches[0]
    assert not torch.equal(batches[0]["velocity"], batches[1]["velocity"]), "b' is in the target"
    assert torch.equal(routed[0], routed[1])


def _recording(function, into: list[Tensor]):
    def call(*arguments: Tensor) -> Tensor:
        into.append(function(*arguments))
        return into[-1]

    return call


def test_training_loss_is_flow_matching(recipe: basis.BasisRecipe) -> None:
    """v = e − x at z_t = (1 − t) x + t e, over every token that the layout draws."""
    batch = recipe.batch(np.random.default_rng(0), 4)
    t = batch["t"][:, None, None]
    assert ((t > 0) & (t < 1)).all()
    clean = batch["noisy"] - t * batch["velocity"]
    noise = batch["noisy"] + (1 - t) * batch["velocity"]
    torch.testing.assert_close((1 - t) * clean + t * noise, batch["noisy"], atol=1e-5, rtol=0)
    assert abs(float(noise.mean())) < 0.1 and abs(float(noise.std()) - 1) < 0.1
    expected = recipe.editor.layout.target(*recipe.analogies.draw(np.random.default_rng(0), 4)[:4])
    torch.testing.assert_close(clean, expected, atol=1e-4, rtol=0)
    editor = recipe.editor
    with torch.no_grad(), editor.basis.mixed(editor.coefficients(batch["a"], batch["a_prime"], batch["b"])):
        references = editor.layout.references(batch["a"], batch["a_prime"], batch["b"])
        v = editor.base.velocity(batch["noisy"], batch["t"], references, editor.layout.ids())
    torch.testing.assert_close(recipe(batch)["loss"].detach(), ((v - batch["velocity"]) ** 2).mean())


def test_gradients_reach_keys_projections_a_and_b(recipe: basis.BasisRecipe) -> None:
    recipe(recipe.batch(np.random.default_rng(0), 4))["loss"].backward()
    editor = recipe.editor
    assert editor.router is not None
    for parameter in (editor.router.keys, editor.router.query_projection):
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0
    for name, module in zip(editor.basis.layers, editor.basis.modules, strict=True):
        if "context" in name or name.endswith("to_add_out"):
            continue  # feeds text tokens, of which a single-block transformer drops most
        for low_or_high in (module.lora_A[ADAPTER], module.lora_B[ADAPTER]):
            assert low_or_high.weight.grad is not None and low_or_high.weight.grad.abs().sum() > 0, name
    frozen = [*editor.autoencoder.parameters(), *editor.encoder.parameters()]
    frozen += [p for n, p in editor.base.transformer.named_parameters() if "lora_" not in n]
    assert all(p.grad is None and not p.requires_grad for p in frozen)


def test_router_learns_at_a_tenth_of_the_rate(recipe: basis.BasisRecipe) -> None:
    groups = recipe.parameter_groups()
    assert [g["scale"] for g in groups] == [1.0, 0.1]
    trained = {id(p) for g in groups for p in g["params"]}
    wanted = [*recipe.editor.basis.parameters(), *recipe.editor.router.parameters()]
    assert trained == {id(p) for p in wanted} == {id(p) for p in recipe.parameters() if p.requires_grad}


def test_resume_of_a_basis_asks_for_the_same_basis(recipe: basis.BasisRecipe) -> None:
    told = recipe.configuration()
    assert told["basis"]["layout"] == recipe.editor.config.layout and told["relations"] == ["edit/mirror"]


def test_freeze(simple: lw.Editor) -> None:
    b, c = pictures(2), mixtures(1, simple)
    before = {k: v.clone() for k, v in simple.base.transformer.state_dict().items()}
    dynamic = simple.generate(b, c, steps=3, seed=2).pictures
    with simple.freeze(c[0]) as frozen:
        assert frozen is simple
        merged = frozen.generate(b, c, steps=3, seed=2).pictures
    torch.testing.assert_close(merged, dynamic, atol=1e-5, rtol=0)
    assert all(torch.equal(v, before[k]) for k, v in simple.base.transformer.state_dict().items())
    assert torch.equal(simple.generate(b, c, steps=3, seed=2).pictures, dynamic)


def test_exported_lora_draws_the_same_picture(simple: lw.Editor, tmp_path: Path) -> None:
    b, c = pictures(2), mixtures(1, simple)
    path = simple.export_lora(c[0], tmp_path / "edit.safetensors")
    fresh = tiny_base()
    fresh.transformer.load_lora_adapter(str(path))
    with torch.no_grad():
        z = fresh.edit(simple.autoencoder.to_latent(b), None, [2, 2], steps=3)
        drawn = simple.autoencoder.to_picture(z)
    torch.testing.assert_close(drawn, simple.generate(b, c, steps=3, seed=2).pictures, atol=1e-5, rtol=0)


@pytest.mark.parametrize("query", ["difference", "difference+b", "a'", "pair", "cat+pair"])
def test_other_queries(query: str) -> None:
    pair = tiny_pair_encoder() if "pair" in query else None
    parts = tiny_editor()
    config = BasisConfig(3, 2, 8, query=query)
    editor = Editor(Miniature(parts.autoencoder, parts.encoder, tiny_base(), config, pair))
    latents = [parts.autoencoder.to_latent(x) for x in _triplet(2)]
    a, a_prime, b = (parts.encoder(z) for z in latents)
    expected = {
        "difference": [a_prime - a],
        "difference+b": [a_prime - a, b],
        "a'": [a_prime],
        "pair": [],
        "cat+pair": [a, a_prime, b],
    }[query]
    if pair is not None:
        expected.append(pair(*latents[:2]))
    torch.testing.assert_close(torch.cat(editor.embeddings(*latents), 1), torch.cat(expected, 1), atol=1e-5, rtol=0)
    assert editor.route(*_triplet(2)).shape == (2, 20, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"query": "sum"}, "expected query out of"),
        ({"mixing": "relu"}, "expected mixing out of"),
        ({"temperature": 0}, "expected a temperature as a number above 0, got 0"),
        ({"temperature": float("nan")}, "expected a temperature as a number above 0"),
        ({"temperature": "1"}, "expected a temperature as a number above 0"),
        ({"query": ["cat"]}, "expected query out of"),
    ],
)
def test_shapes_that_cannot_be(options: dict, message: str) -> None:
    with pytest.raises(lw.InputError, match=message):
        BasisConfig(**options)


def test_a_shape_in_numpys_numbers_can_be_written() -> None:
    config = BasisConfig(n_loras=np.int64(3), temperature=np.float32(2))
    assert json.loads(json.dumps(asdict(config))) == asdict(BasisConfig(n_loras=3, temperature=2.0))


def test_save_and_load(simple: lw.Editor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_data(tmp_path / "data", monkeypatch)
    loaded = lw.load("starter")
    assert loaded.config == simple.config
    assert not any(p.requires_grad for p in [*loaded.basis.parameters(), *loaded.router.parameters()])
    for ours, theirs in ((simple.basis, loaded.basis), (simple.router, loaded.router)):
        for name, tensor in ours.state_dict().items():
            assert torch.equal(theirs.state_dict()[name], tensor.half().float()), name
    triplet = _triplet(2)
    torch.testing.assert_close(loaded.route(*triplet), simple.route(*triplet), atol=2e-2, rtol=0)
    difference = loaded.edit(*triplet, steps=2).pictures - simple.edit(*triplet, steps=2).pictures
    assert difference.abs().mean() < 1e-2
    # A folder of one's own, on the same frozen parts, exactly.
    loaded.save(tmp_path / "mine", note="kept")
    again = lw.load(tmp_path / "mine")
    assert torch.equal(again.edit(*triplet, steps=2).pictures, loaded.edit(*triplet, steps=2).pictures)
    assert '"note": "kept"' in (tmp_path / "mine" / "config.json").read_text()
    with pytest.raises(lw.InputError, match="expected notes of other names than the configuration's, got frozen, rank"):
        loaded.save(tmp_path / "other", rank=3, frozen="mine", note="kept")
    assert not (tmp_path / "other").exists()


def test_basis_of_other_frozen_weights_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny_data(tmp_path / "data", monkeypatch)
    lw.load("starter")
    tiny_base(seed=8).save(folder / "weights" / "base")
    with pytest.raises(lw.InputError, match=r"expected a basis trained on the frozen weights .* got one trained on"):
        lw.load("starter")


def test_tiny_edit_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_network: None) -> None:
    tiny_data(tmp_path / "data", monkeypatch)
    result = lw.load("starter").edit(Image.new("RGB", (80, 50), "red"), *_triplet(1)[1:], steps=1)
    assert result.image.size == (64, 64)


def test_randomised_weights_do_something() -> None:
    """Guards the other tests here: with B at zero many of them would hold for nothing."""
    editor = tiny_editor(zero=True)
    before = editor.generate(pictures(1), mixtures(1, editor), steps=1).pictures
    randomise(editor)
    assert (editor.generate(pictures(1), mixtures(1, editor), steps=1).pictures - before).abs().max() > 1e-3
