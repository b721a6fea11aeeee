"""The real scale in miniature: diffusers' own Kontext pipeline with random weights, loaded from disk."""

from __future__ import annotations

import copy
import inspect
import json
import math
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from diffusers import FluxKontextPipeline, PipelineQuantizationConfig
from huggingface_hub.errors import GatedRepoError
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_flux import (
    SIDE,
    TEXT,
    N,
    drawn_grids,
    squares,
    tiny_clip,
    tiny_pipeline,
    tiny_released,
    tiny_siglip,
    tiny_tensors,
    tiny_transformer,
)
from torch import Tensor
from transformers import CLIPVisionModelWithProjection, SiglipVisionModel
from transformers.utils import logging

from lorweb_mini.commands.flux import main
from lorweb_mini.core.editor import Miniature
from lorweb_mini.errors import InputError
from lorweb_mini.flux import estimate as memory
from lorweb_mini.flux import load as flux
from lorweb_mini.flux.checkpoint import ReleasedConfig, modules_of
from lorweb_mini.flux.editor import FluxEditor, Kontext
from lorweb_mini.flux.load import load_flux
from lorweb_mini.flux.picture_encoder import PictureEncoder, grid_size
from lorweb_mini.images import read_images, to_pil

STEPS = 2
LAYERS = 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """base, weights and clip, saved as a user would have them."""
    folder = tmp_path_factory.mktemp("flux")
    pipeline = tiny_pipeline()
    pipeline.save_pretrained(folder / "base")
    tiny_released(folder / "weights", pipeline.transformer)
    tiny_clip(folder / "clip")
    tiny_siglip(folder / "siglip")
    return folder


def _load(folder: Path, **options) -> FluxEditor:
    options = {"device": "cpu", "dtype": torch.float32, "encoder": folder / "clip", "side": SIDE} | options
    return load_flux(folder / "base", folder / "weights", **options)


@pytest.fixture(scope="module")
def editor(folder: Path) -> FluxEditor:
    return _load(folder)


def _triplet(k: int = 1, seed: int = 0) -> list[Tensor]:
    return [squares(k, seed + i) for i in range(3)]


def _merged(coefficients: Tensor) -> FluxKontextPipeline:
    """An unmodified pipeline whose weights are W + sum_n c_n (A_n B_n)ᵀ, one product after the other."""
    pipeline = tiny_pipeline()
    tensors = tiny_tensors(pipeline.transformer)
    names = [key.removeprefix("transformer.").removesuffix(".lora_A") for key in tensors if key.endswith(".lora_A")]
    for name, row in zip(names, coefficients, strict=True):
        low, high = (tensors[f"transformer.{name}.lora_{letter}"].float() for letter in "AB")
        for n in range(N):
            pipeline.transformer.get_submodule(name).weight.data += row[n] * (low[n] @ high[n]).T
    return pipeline


def _by_hand(pipeline: FluxKontextPipeline, triplet: list[Tensor], prompt: str, seed: int) -> Tensor:
    """The bottom-right quarter of what a pipeline makes of the grid [[a, a'], [b, b]], pasted as a PIL picture."""
    a, a_prime, b = (to_pil(x[0]) for x in triplet)
    canvas = Image.new("RGB", (2 * SIDE, 2 * SIDE))
    for picture, place in ((a, (0, 0)), (a_prime, (SIDE, 0)), (b, (0, SIDE)), (b, (SIDE, SIDE))):
        canvas.paste(picture, place)
    return drawn_grids(pipeline, canvas, prompt, STEPS, seed)[0, :, SIDE:, SIDE:]


# --- editing -------------------------------------------------------------------------------------


def test_edit_is_the_plain_pipeline_with_merged_weights(editor: FluxEditor) -> None:
    triplet = [2 * (to_pil_tensor(x) / 255) - 1 for x in _triplet()]
    result = editor.edit(*triplet, prompt="red hat", steps=STEPS, seed=7)
    expected = _by_hand(_merged(result.coefficients[0]), triplet, "red hat", 7)
    torch.testing.assert_close(result.pictures[0], expected, atol=1e-4, rtol=0)
    assert (_by_hand(tiny_pipeline(), triplet, "red hat", 7) - expected).abs().max() > 0.3
    assert result.image.size == (SIDE, SIDE) and result.pictures.shape == (1, 3, SIDE, SIDE)
    difference = np.asarray(result.image).astype(int) - np.asarray(to_pil(result.pictures[0]))
    assert not difference.any()


def to_pil_tensor(x: Tensor) -> Tensor:
    """Whole grey levels [1, 3, H, W], so that a picture survives the way through PIL unchanged."""
    return torch.from_numpy(np.array(to_pil(x[0]))).permute(2, 0, 1).float()[None]


def test_route_is_the_formula_on_clip_embeddings(editor: FluxEditor, folder: Path) -> None:
    """CLIP called by hand on pictures preprocessed by hand, then Python's own sums."""
    a, a_prime, b = (squares(1, seed, side=32) for seed in range(3))
    big = FluxEditor(tiny_pipeline(), editor.encoder, editor.config, side=32)
    big.router.load_state_dict(editor.router.state_dict())
    got = big.route(a, a_prime, b)
    assert got.shape == (1, LAYERS, N)
    torch.testing.assert_close(got.sum(-1), torch.ones(1, LAYERS))
    clip = CLIPVisionModelWithProjection.from_pretrained(folder / "clip").eval()
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
    deviation = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
    query: list[float] = []
    for x in (a, a_prime, b):
        pixels = (to_pil_tensor(x)[0] / 255 - mean) / deviation
        with torch.no_grad():
            query += clip(pixel_values=pixels[None]).image_embeds[0].tolist()
    tensors = tiny_tensors(tiny_pipeline().transformer)
    for index in (0, 7, 19):
        name = f"transformer.{big.basis.layers[index]}"
        projection = tensors[f"{name}.att_lora_to_q.weight"].tolist()
        projected = [sum(p * x for p, x in zip(row, query, strict=True)) for row in projection]
        keys = tensors[f"{name}.lora_keys"].tolist()
        powers = [
            math.exp(sum(p * k for p, k in zip(projected, key, strict=True)) / math.sqrt(len(key))) for key in keys
        ]
        torch.testing.assert_close(got[0, index], torch.tensor(powers) / sum(powers), atol=1e-4, rtol=1e-3)
    assert (got[0, 0] - got[0, 1]).abs().max() > 1e-3


def test_batch_of_different_analogies_equals_singles(editor: FluxEditor) -> None:
    a, a_prime, b = _triplet(3)
    prompts = ["one", "two", ""]
    batch = editor.edit(a, a_prime, b, prompt=prompts, steps=STEPS, seed=3)
    for i in range(3):
        single = editor.edit(a[i], a_prime[i], b[i], prompt=prompts[i], steps=STEPS, seed=3)
        torch.testing.assert_close(batch.pictures[i], single.pictures[0], atol=2e-5, rtol=0)
        torch.testing.assert_close(batch.coefficients[i], single.coefficients[0], atol=1e-5, rtol=0)
    assert (batch.coefficients[0] - batch.coefficients[1]).abs().max() > 0.05
    same_mixture = editor.generate(b, batch.coefficients[0], (a, a_prime), prompt=prompts, steps=STEPS, seed=3)
    torch.testing.assert_close(same_mixture.pictures[0], batch.pictures[0], atol=2e-5, rtol=0)
    assert (same_mixture.pictures[1] - batch.pictures[1]).abs().max() > 1e-2, "each sample has its own mixture"


def test_generate_at_the_routed_place_is_edit(editor: FluxEditor) -> None:
    a, a_prime, b = _triplet(2)
    c = editor.route(a, a_prime, b)
    edited = editor.edit(a, a_prime, b, steps=STEPS, seed=1)
    torch.testing.assert_close(edited.coefficients, c, atol=1e-6, rtol=0)
    drawn = editor.generate(b, c, context=(a, a_prime), steps=STEPS, seed=1)
    torch.testing.assert_close(drawn.pictures, edited.pictures, atol=1e-6, rtol=0)
    one = editor.generate(b[0], c, context=(a[0], a_prime[0]), steps=STEPS, seed=1)
    torch.testing.assert_close(one.pictures[0], edited.pictures[0], atol=2e-5, rtol=0)
    assert len(one.images) == 2 and (one.pictures[0] - one.pictures[1]).abs().max() > 1e-2
    other = editor.generate(b, c, context=(a, a_prime), steps=STEPS, seed=2)
    assert (other.pictures - edited.pictures).abs().max() > 1e-2


def test_frozen_is_dynamic_and_leaves_no_trace(editor: FluxEditor) -> None:
    a, a_prime, b = _triplet()
    before = {k: v.clone() for k, v in editor.pipeline.transformer.state_dict().items()}
    dynamic = editor.edit(a, a_prime, b, steps=STEPS)
    with editor.freeze(dynamic.coefficients[0]) as frozen:
        # Whatever other coefficients are asked for now is without effect.
        got = frozen.generate(b, torch.randn(LAYERS, N), context=(a, a_prime), steps=STEPS)
    torch.testing.assert_close(got.pictures, dynamic.pictures, atol=2e-5, rtol=0)
    after = editor.pipeline.transformer.state_dict()
    assert all(torch.equal(v, after[k]) for k, v in before.items())
    assert torch.equal(editor.edit(a, a_prime, b, steps=STEPS).pictures, dynamic.pictures)
    with pytest.raises(RuntimeError, match="stop"), editor.freeze(dynamic.coefficients[0]):
        raise RuntimeError("stop")
    assert all(torch.equal(v, editor.pipeline.transformer.state_dict()[k]) for k, v in before.items())


def test_results_inside_freeze_name_what_drew_them(editor: FluxEditor) -> None:
    a, a_prime, b = _triplet(2)
    c = torch.randn(LAYERS, N)
    with editor.freeze(c):
        for result in (
            editor.edit(a, a_prime, b, steps=1),
            editor.generate(b, torch.randn(2, LAYERS, N), context=(a, a_prime), steps=1),
        ):
            assert torch.equal(result.coefficients, c.expand(2, -1, -1))
        with pytest.raises(InputError, match="does not nest"), editor.freeze(c):
            pass


@pytest.mark.parametrize(
    "change",
    [
        lambda pipeline: pipeline.unload_lora_weights(),
        lambda pipeline: pipeline.fuse_lora(),
        lambda pipeline: pipeline.set_adapters("basis", 0.5),
        lambda pipeline: pipeline.disable_lora(),
    ],
)
def test_changes_by_other_tools_are_found(editor: FluxEditor, change: Callable) -> None:
    changed = FluxEditor(tiny_pipeline(), editor.encoder, editor.config, side=SIDE)
    change(changed.pipeline)
    for call in (lambda: changed.edit(*_triplet(), steps=1), lambda: changed.freeze(torch.ones(LAYERS, N))):
        with pytest.raises(InputError, match="alone, active, not merged and at scale 1"):
            call()


def test_threads_draw_what_one_after_the_other_draws(editor: FluxEditor) -> None:
    triplets = [_triplet(seed=seed) for seed in range(4)]
    in_a_row = [editor.edit(*x, steps=1).pictures for x in triplets]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(lambda x: editor.edit(*x, steps=1).pictures, triplets))
    assert all(torch.equal(one, other) for one, other in zip(together, in_a_row, strict=True))


def test_a_copy_draws_the_same(editor: FluxEditor) -> None:
    expected = editor.edit(*_triplet(2), steps=STEPS)
    for other in (copy.deepcopy(editor), copy.deepcopy([editor])[0], pickle.loads(pickle.dumps(editor))):
        drawn = other.edit(*_triplet(2), steps=STEPS)
        assert torch.equal(drawn.pictures, expected.pictures) and torch.equal(drawn.coefficients, expected.coefficients)


def test_saved_in_the_released_layout(editor: FluxEditor, folder: Path, tmp_path: Path) -> None:
    editor.save(tmp_path)
    again = load_flux(
        folder / "base", tmp_path, device="cpu", dtype=torch.float32, encoder=folder / "clip", side=SIDE
    )  # fmt: skip
    triplet = _triplet()
    assert torch.equal(again.edit(*triplet, steps=1).pictures, editor.edit(*triplet, steps=1).pictures)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("device", [None, "meta"])
def test_default_dtype_and_device_change_nothing(
    editor: FluxEditor, dtype: torch.dtype, device: str | None, folder: Path
) -> None:
    triplet = _triplet()
    expected = editor.edit(*triplet, steps=1)
    torch.set_default_dtype(dtype)
    torch.set_default_device(device)
    try:
        result = _load(folder).edit(*triplet, steps=1)
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)
    torch.testing.assert_close(result.coefficients, expected.coefficients, atol=1e-6, rtol=0)
    torch.testing.assert_close(result.pictures, expected.pictures, atol=1e-4, rtol=0)


# Largest difference of a picture in [-1, 1], of frozen and of plain to dynamic, all three computed in half precision.
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 0.015), (torch.bfloat16, 0.1)])
def test_half_precision(editor: FluxEditor, folder: Path, tmp_path: Path, dtype: torch.dtype, tolerance: float) -> None:
    half = _load(folder, dtype=dtype)
    assert half.pipeline.dtype == dtype and all(p.dtype == dtype for p in half.basis.parameters())
    triplet = _triplet()
    exact = editor.edit(*triplet, steps=STEPS)
    dynamic = half.edit(*triplet, steps=STEPS)
    # Encoder and router stay in single precision.
    torch.testing.assert_close(dynamic.coefficients, exact.coefficients, atol=1e-6, rtol=0)
    with half.freeze(dynamic.coefficients):
        frozen = half.edit(*triplet, steps=STEPS)
    assert half.basis.modules[0].get_base_layer().weight.dtype == dtype
    plain = FluxKontextPipeline.from_pretrained(folder / "base", dtype=dtype)
    plain.set_progress_bar_config(disable=True)
    plain.load_lora_weights(str(half.export_lora(dynamic.coefficients, tmp_path / "x.safetensors", dtype=dtype)))
    drawn = _by_hand(plain, triplet, "", 0)
    for name, pictures in (("frozen", frozen.pictures[0]), ("plain", drawn)):
        difference = (pictures - dynamic.pictures[0]).abs().max()
        assert difference < tolerance, (name, float(difference))
    with half.basis.disabled():
        bare = half.edit(*triplet, steps=STEPS)
    assert (bare.pictures - dynamic.pictures).abs().max() > 3 * tolerance


@pytest.mark.parametrize(("width", "height"), [(48, 32), (32, 48), (96, 32), (33, 47)])
def test_pictures_that_are_not_square_keep_the_aspect_of_a(
    editor: FluxEditor, monkeypatch: pytest.MonkeyPatch, width: int, height: int
) -> None:
    """As the release: a' and b are stretched to a's size, the grid is scaled to Kontext's nearest resolution."""
    seen: dict[str, Any] = {}
    original = editor.backend.base.__class__.__call__

    def watched(self, **options: Any) -> Any:
        seen.update(options)
        return original(self, **options)

    monkeypatch.setattr(editor.backend.base.__class__, "__call__", watched)
    a = Image.new("RGB", (width, height), "red")
    b = Image.new("RGB", (20, 20), "blue")
    result = editor.edit(a, a, b, steps=1)
    wide, high = grid_size(width, height, editor.side)
    assert (seen["width"], seen["height"]) == (wide, high) and tuple(seen["image"].shape[-2:]) == (high, wide)
    assert result.image.size == (wide // 2, high // 2)
    grid = seen["image"][0]
    # Below left b, stretched and not padded: no white anywhere.
    assert grid[2, -1, 0] > 0.99 and grid[0, -1, 0] < 0.01 and grid[0, 0, 0] > 0.99 and grid[2, 0, 0] < 0.01
    with pytest.raises(InputError, match="one size"):
        editor.edit([a, Image.new("RGB", (40, 40))], a, b)


def test_pictures_of_every_kind(editor: FluxEditor, tmp_path: Path) -> None:
    picture = Image.new("RGBA", (30, 20), (255, 0, 0, 128))
    picture.save(tmp_path / "x.png")
    array = np.array(picture.convert("RGB"))
    read = read_images([tmp_path / "x.png", str(tmp_path / "x.png"), picture], "a", 48)
    assert read.shape == (3, 3, 48, 48) and torch.equal(read[0], read[1]) and torch.equal(read[0], read[2])
    assert torch.equal(read[0, :, 0], torch.ones(3, 48)), "padded with white above"
    torch.testing.assert_close(read[0, :, 24, 24], torch.tensor([1.0, 0.0, 0.0]), atol=0.01, rtol=0)
    assert read_images(array, "a", 16).shape == (1, 3, 16, 16)
    x = squares(2, side=16)
    assert torch.equal(read_images(x, "a", 16), x)
    assert read_images(x[0], "a", 32).shape == (1, 3, 32, 32)
    assert [x.shape for x in editor.backend.read_triplet(picture, [picture] * 3, array)] == [(3, 3, 20, 30)] * 3
    for wrong, says in (
        ([], "at least one"),
        (None, "got None"),
        (3 * x, r"in \[-1, 1\]"),
        (x[0, 0], "tensor"),
        (np.zeros((2, 2, 7)), "array"),
        (tmp_path / "nothing.png", "readable"),
        (tmp_path, "readable"),
    ):
        with pytest.raises(InputError, match=says):
            read_images(wrong, "a", 16)
    (tmp_path / "cut.png").write_bytes((tmp_path / "x.png").read_bytes()[:60])
    with pytest.raises(InputError, match="a"):
        editor.route(tmp_path / "cut.png", picture, picture)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda e, x: e.edit(*x, steps=0), "steps"),
        (lambda e, x: e.edit(*x, steps=True), "steps"),
        (lambda e, x: e.edit(*x, seed=-1), "seed"),
        (lambda e, x: e.edit(*x, prompt=["a", "b"]), "prompt"),
        (lambda e, x: e.edit(*x, prompt=[3]), "prompt"),
        (lambda e, x: e.edit(*x, prompt=None), "one prompt, or one for each of 1 analogies, got None"),
        (lambda e, x: e.edit(*x, prompt=7), "one prompt"),
        (lambda e, x: e.edit(*x, prompt={"add": 1}), "one prompt"),
        (lambda e, x: e.edit(*x, guidance="2"), "guidance as a number of at least 0, got '2'"),
        (lambda e, x: e.edit(*x, guidance=None), "guidance"),
        (lambda e, x: e.edit(*x, guidance=-1), "guidance"),
        (lambda e, x: e.edit(*x, guidance=math.nan), "guidance"),
        (lambda e, x: e.edit(*x, guidance=True), "guidance"),
        (lambda e, x: e.edit(*x, promt="a"), "expected options out of steps, seed, prompt, guidance, got promt"),
        (lambda e, x: e.edit(*x, output_type="pil", width=64), "got output_type, width"),
        (lambda e, x: e.generate(x[2], torch.ones(LAYERS, N), x[:2], negative_prompt="a"), "got negative_prompt"),
        (
            lambda e, x: e.export_lora(torch.ones(LAYERS, N), "x.safetensors", format="diffusers"),
            "key_format, rank, dt",
        ),
        (lambda e, x: e.edit([x[0]] * 2, [x[1]] * 3, x[2]), "got 2, 3, 1"),
        (lambda e, x: e.generate(x[2], torch.ones(LAYERS, N)), "context"),
        (lambda e, x: e.generate(x[2], torch.ones(LAYERS, N + 1), x[:2]), "20 layers, 3 LoRAs"),
        (lambda e, x: e.generate([x[2]] * 2, torch.ones(3, LAYERS, N), x[:2]), "got 3 and 2"),
        (lambda e, x: e.freeze(torch.ones(2, LAYERS, N)).__enter__(), "one analogy"),
    ],
)
def test_bad_input(editor: FluxEditor, call: Callable, says: str) -> None:
    with pytest.raises(InputError, match=says):
        call(editor, [to_pil(x[0]) for x in _triplet()])
    assert editor.basis.coefficients is None


@pytest.mark.parametrize("backend", [Kontext, Miniature])
def test_options_are_those_that_the_backend_draws_with(backend: type) -> None:
    parameters = inspect.signature(backend.draw).parameters.values()
    named = [x.name for x in parameters if x.kind is x.KEYWORD_ONLY]
    assert named == ["steps", "seed", *backend.options]


# --- loading -------------------------------------------------------------------------------------


def test_loads_what_the_checkpoint_holds(editor: FluxEditor, folder: Path) -> None:
    stored = load_file(folder / "weights" / "lorweb.safetensors")
    name = editor.basis.layers[-1]
    for n in range(N):
        assert torch.equal(editor.basis.factors(LAYERS - 1)[1][n].T, stored[f"transformer.{name}.lora_B"][n].float())
    assert torch.equal(editor.router.keys[-1], stored[f"transformer.{name}.lora_keys"].float())
    assert not any(p.requires_grad for p in editor.basis.parameters())
    assert editor.layout.needs_context


def test_siglip_looks_too(folder: Path) -> None:
    eye = PictureEncoder.load(folder / "siglip")
    x = squares(2, side=32)
    model = SiglipVisionModel.from_pretrained(folder / "siglip").eval()
    with torch.no_grad():
        grey = torch.stack([to_pil_tensor(item[None])[0] for item in x]) / 255
        expected = model(pixel_values=grey * 2 - 1).pooler_output
    torch.testing.assert_close(eye(x), expected, atol=1e-5, rtol=1e-4)
    with pytest.raises(InputError, match="embeddings of 16 numbers"):
        _load(folder, encoder=folder / "siglip")
    with pytest.raises(InputError, match="CLIP or SigLIP"):
        PictureEncoder.load(folder / "base" / "text_encoder_2")
    with pytest.raises(InputError, match="CLIP or SigLIP"):
        PictureEncoder.load("nobody/nothing")


def test_no_gpu(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=r"expected a CUDA GPU .* found none .* inspect"):
        _load(folder, device="cuda")
    with pytest.raises(InputError, match="expected a device that torch knows"):
        _load(folder, device="tpu")


def test_too_little_memory_is_told_before_anything_is_loaded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda device: 0.5)
    monkeypatch.setattr(FluxKontextPipeline, "from_pretrained", lambda *_, **__: pytest.fail("weights were read"))
    with pytest.raises(InputError, match=r"found 0\.5.*(?s:.*)offload=True(?s:.*)transformer at work"):
        _load(folder)
    monkeypatch.undo()
    monkeypatch.setattr(memory, "available", lambda device: 0.0)
    assert _load(folder, check_memory=False).side == SIDE


def test_gated_model_without_a_token(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_, **__):
        raise GatedRepoError(
            "403", response=httpx.Response(403, request=httpx.Request("GET", "https://huggingface.co"))
        )

    monkeypatch.setattr(flux, "hf_hub_download", refuse)
    monkeypatch.setattr(flux, "snapshot_download", refuse)
    for names in ((flux.BASE, folder / "weights"), (folder / "base", flux.WEIGHTS)):
        with pytest.raises(InputError, match=r"licence has to be accepted.*https://huggingface\.co/.*hf auth login"):
            load_flux(*names, device="cpu")


def test_names_that_are_nothing(folder: Path) -> None:
    for names in (("nobody/nothing", folder / "weights"), (folder / "base", "nobody/nothing"), ("a b c", "x")):
        with pytest.raises(InputError, match="expected a local folder or a model of the hub"):
            load_flux(*names, device="cpu")
    with pytest.raises(InputError, match="expected a FluxKontextPipeline"):
        load_flux(folder / "clip", folder / "weights", device="cpu")
    with pytest.raises(InputError, match="expected one"):
        load_flux(folder / "base", folder / "base", device="cpu")
    with pytest.raises(InputError, match="multiple of 16"):
        _load(folder, side=24)


def test_quantisation_is_diffusers_own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    real = metadata.version
    monkeypatch.setattr(metadata, "version", absent)
    custom = PipelineQuantizationConfig(
        "bitsandbytes_8bit", {"load_in_8bit": True}, components_to_quantize=["transformer"]
    )
    for quantize in ("4bit", "8bit", custom):
        with pytest.raises(InputError, match="pip install bitsandbytes"):
            _load(folder, quantize=quantize)
    monkeypatch.setattr(metadata, "version", lambda name: "1.0" if name == "bitsandbytes" else real(name))
    for quantize in ("4bit", "8bit"):
        found, parts = flux.quantisation(quantize, torch.bfloat16)
        assert isinstance(found, PipelineQuantizationConfig) and found.quant_backend == f"bitsandbytes_{quantize}"
        assert found.components_to_quantize == ["transformer", "text_encoder_2"] == list(parts)
        assert found.quant_kwargs[f"load_in_{quantize}"] is True and set(parts.values()) == {quantize}
    assert flux.quantisation(custom, torch.bfloat16) == (custom, {"transformer": "8bit"})
    seen = {}

    def load(*_, **kwargs) -> FluxKontextPipeline:
        seen.update(kwargs)
        return tiny_pipeline()

    monkeypatch.setattr(FluxKontextPipeline, "from_pretrained", load)
    _load(folder, quantize="4bit")
    assert seen["quantization_config"].quant_kwargs["bnb_4bit_compute_dtype"] == torch.float32
    with pytest.raises(InputError, match="expected quantize"):
        _load(folder, quantize="2bit")


def test_quantised_weights_are_not_merged(folder: Path) -> None:
    editor = _load(folder)
    editor.pipeline.transformer.is_quantized = True
    with pytest.raises(InputError, match="floating point"), editor.freeze(torch.ones(LAYERS, N)):
        pass


def test_offloading_leaves_encoder_and_router_on_the_processor(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(FluxKontextPipeline, "enable_model_cpu_offload", lambda self, device: asked.append(device))
    monkeypatch.setattr(FluxKontextPipeline, "to", lambda *_, **__: pytest.fail("moved as a whole"))
    editor = _load(folder, offload=True)
    assert asked == [torch.device("cpu")] and editor.small == torch.device("cpu")


# --- memory --------------------------------------------------------------------------------------


def test_estimate_counts_what_is_loaded(folder: Path, editor: FluxEditor) -> None:
    need = memory.estimate(memory.models_of(folder / "base"), editor.config, torch.float32, side=SIDE)
    parts = {name: getattr(editor.pipeline, name) for name in memory.MODELS}
    assert need.weights.keys() - {"router and encoder"} == parts.keys()
    for name, part in parts.items():
        found = sum(p.numel() * p.element_size() for p in part.parameters()) / memory.GIB
        assert need.weights[name] == pytest.approx(found, rel=1e-6), name
    both = memory.estimate(memory.models_of(folder / "base"), editor.config, torch.float32, side=SIDE, batch=2)
    assert both.activations["transformer"] == 2 * need.activations["transformer"]


def _kontext_configuration(folder: Path) -> Path:
    """The configuration files of FLUX.1-Kontext-dev, as far as sizes depend on them; no weights."""
    files = {
        "model_index.json": {
            "_class_name": "FluxKontextPipeline",
            "transformer": ["diffusers", "FluxTransformer2DModel"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "text_encoder_2": ["transformers", "T5EncoderModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        },
        "transformer/config.json": {"_class_name": "FluxTransformer2DModel", "guidance_embeds": True},
        "text_encoder/config.json": {
            "model_type": "clip_text_model",
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
        },
        "text_encoder_2/config.json": {
            "model_type": "t5",
            "vocab_size": 32128,
            "d_model": 4096,
            "d_kv": 64,
            "d_ff": 10240,
            "num_layers": 24,
            "num_heads": 64,
            "feed_forward_proj": "gated-gelu",
        },
        "vae/config.json": {
            "_class_name": "AutoencoderKL",
            "block_out_channels": [128, 256, 512, 512],
            "down_block_types": ["DownEncoderBlock2D"] * 4,
            "up_block_types": ["UpDecoderBlock2D"] * 4,
            "latent_channels": 16,
            "layers_per_block": 2,
            "use_quant_conv": False,
            "use_post_quant_conv": False,
        },
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    return folder


def test_estimate_for_the_real_kontext(tmp_path: Path) -> None:
    """Parameter counts as published: 11.9 billion, T5-XXL's encoder 4.76, CLIP's 0.123 and the autoencoder's 0.084."""
    models = memory.models_of(_kontext_configuration(tmp_path))
    counts = {name: sum(p.numel() for p in model.parameters()) / 1e9 for name, model in models.items()}
    published = {"transformer": 11.90, "text_encoder": 0.123, "text_encoder_2": 4.76, "vae": 0.084}
    assert counts == pytest.approx(published, rel=0.01)
    assert all(p.device.type == "meta" for model in models.values() for p in model.parameters())
    built_in = memory.kontext_models()
    assert {name: sum(p.numel() for p in model.parameters()) / 1e9 for name, model in built_in.items()} == counts
    config = ReleasedConfig(32, 4, 128, 2304)
    assert memory.estimate(built_in, config) == memory.estimate(models, config)
    plain = memory.estimate(models, config)
    billions = 2 * (sum(published.values()) + 0.687) + 4 * (0.148 + 0.304)
    assert sum(plain.weights.values()) == pytest.approx(billions * 1e9 / 2**30, rel=0.01)
    small = memory.estimate(models, config, quantised=dict.fromkeys(flux.QUANTISED_PARTS, "4bit"))
    offloaded = memory.estimate(models, config, offload=True)
    eight = memory.estimate(models, config, quantised=dict.fromkeys(flux.QUANTISED_PARTS, "8bit"))
    assert small.device < eight.device < offloaded.device < plain.device
    assert offloaded.host == pytest.approx(sum(plain.weights.values()))
    assert str(plain).splitlines()[-1] == f"on the device     {plain.device:7.2f} GiB"
    with pytest.raises(InputError, match="ordinary memory for offloading"):
        memory.require(
            memory.MemoryEstimate(dict.fromkeys(map(str, range(100_000)), 0.05), {}, True), torch.device("cpu")
        )


def test_operations_are_those_of_the_matrices() -> None:
    """Counted by hand: 2 · in · out for each token that a Linear sees, and 4 T² width for attention."""
    transformer = tiny_transformer(2, 3)
    with torch.device("meta"):
        copied = type(transformer).from_config(transformer.config)
    text, image, inner = 7, 2 * 4, 32
    found, total = memory.forward_flops(copied, side=SIDE, text_tokens=text), 0
    for name, (wide, high) in modules_of(transformer).items():
        tokens = image if name.startswith("transformer_blocks") else text + image
        if "norm" in name:
            tokens = 1
        elif "add" in name or "ff_context" in name:
            tokens = text
        total += 2 * tokens * wide * high
    total += (2 + 3) * 4 * (text + image) ** 2 * inner
    outside = 2 * (image * 64 * inner + text * TEXT * inner + image * inner * 64)  # in, text in, out
    outside += 2 * (2 * (256 * inner + inner * inner) + TEXT * inner + inner * inner)  # time, guidance, pooled text
    outside += 2 * inner * 2 * inner  # the last modulation
    assert found == total + outside


# --- commands ------------------------------------------------------------------------------------


def test_edit_command(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, x in zip(("a", "a_prime", "b"), _triplet(), strict=True):
        to_pil(x[0]).save(tmp_path / f"{name}.png")
    pictures = [str(tmp_path / f"{name}.png") for name in ("a", "a_prime", "b")]
    options = ["--base", str(folder / "base"), "--weights", str(folder / "weights"), "--encoder", str(folder / "clip")]
    options += ["--device", "cpu", "--dtype", "float32", "--side", str(SIDE), "--steps", str(STEPS)]
    out = tmp_path / "deeper" / "b_prime.png"
    main(["edit", *pictures, "--out", str(out), "--prompt", "hat", *options])
    expected = _load(folder).edit(*pictures, prompt="hat", steps=STEPS).image
    assert not (np.asarray(Image.open(out)).astype(int) - np.asarray(expected)).any()
    with pytest.raises(SystemExit) as ended:
        main(["edit", *pictures, *options, "--side", "17"])
    assert ended.value.code == 2 and "error: expected side" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setattr(flux, "load_flux", lambda *_, **__: pytest.fail("weights were read"))
        patch.setattr(flux, "downloaded", lambda *_: pytest.fail("weights were read"))
        both = {"--side": "17", "--out": "b.prime"}
        alone = {"edit": {"--steps": "0", "--seed": "-1", "--guidance": "nan"}, "export": {"--rank": "0"}}
        for command, option, value in ((c, k, v) for c, more in alone.items() for k, v in (both | more).items()):
            with pytest.raises(SystemExit):
                main([command, *pictures, option, value])
            assert (value if option == "--out" else option[2:]) in capsys.readouterr().err
        with pytest.raises(SystemExit):
            main(["export", *pictures[:2], str(tmp_path / "none.png")])
        assert "none.png" in capsys.readouterr().err
    asked = {}
    monkeypatch.setattr(FluxEditor, "edit", lambda self, *_, **options: asked.update(options) or result)
    result = SimpleNamespace(image=Image.new("RGB", (2, 2)))
    with pytest.warns(UserWarning, match="no --prompt"):
        main(["edit", *pictures, "--out", str(out), "--guidance", "4", *options])
    assert asked == {"prompt": "", "steps": STEPS, "seed": 0, "guidance": 4.0}


@pytest.mark.parametrize(
    ("command", "option", "name", "says"),
    [
        *[("edit", "--out", x, "expected a picture file to write") for x in ("b.xbm", "b.wmf", "b.psd", "b")],
        ("edit", "--out", "folder.png", "expected a file to write"),
        ("edit", "--out", "locked/b.png", "expected a folder to write to, got locked"),
        ("edit", "--out", "a.png/b.png", "where a file is in the way"),
        ("export", "--grid", "grid.msp", "expected a picture file to write"),
        ("export", "--grid", "folder.png", "expected a file to write"),
        ("export", "--out", "folder.safetensors", "expected a file to write"),
        ("export", "--out", "locked/x.safetensors", "expected a folder to write to, got locked"),
    ],
)
def test_places_that_take_no_file_are_told_before_anything_is_loaded(
    locked_folders: None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    option: str,
    name: str,
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for suffix in (".png", ".safetensors"):
        (tmp_path / f"folder{suffix}").mkdir()
    to_pil(squares(1)[0]).save("a.png")
    monkeypatch.setattr(flux, "load_flux", lambda *_, **__: pytest.fail("weights were read"))
    monkeypatch.setattr(flux, "downloaded", lambda *_: pytest.fail("weights were read"))
    with pytest.raises(SystemExit):
        main([command, "a.png", "a.png", "a.png", option, name])
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("key_format", ["diffusers", "single-file"])
def test_export_command_needs_no_flux(folder: Path, tmp_path: Path, editor: FluxEditor, key_format: str) -> None:
    pictures = []
    for name, x in zip(("a", "a_prime", "b"), [squares(1, seed, side=512) for seed in range(3)], strict=True):
        to_pil(x[0]).save(tmp_path / f"{name}.png")
        pictures.append(tmp_path / f"{name}.png")
    out = tmp_path / "analogy.safetensors"
    weights = ["--weights", str(folder / "weights"), "--encoder", str(folder / "clip"), "--dtype", "float32"]
    main(["export", *map(str, pictures), "--out", str(out), "--format", key_format, *weights])
    big = FluxEditor(tiny_pipeline(), editor.encoder, editor.config, side=512)
    big.basis.load_state_dict(editor.basis.state_dict())
    big.router.load_state_dict(editor.router.state_dict())
    expected = load_file(big.export_lora(big.route(*pictures), tmp_path / "editor.safetensors", key_format=key_format))
    got = load_file(out)
    assert got.keys() == expected.keys()
    for name, tensor in got.items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("sizes", [[(24, 36)] * 3, [(36, 24), (30, 30), (10, 40)], [(30, 30), (50, 20), (24, 36)]])
def test_exported_grid_is_the_released_one(folder: Path, tmp_path: Path, sizes: list[tuple[int, int]]) -> None:
    """[[a, a'], [b, b]] with a' and b stretched to a's size, then scaled as a whole."""
    colours, pictures = ("red", "green", "blue"), []
    for colour, size in zip(colours, sizes, strict=True):
        pictures.append(tmp_path / f"{colour}.png")
        Image.linear_gradient("L").resize(size).convert("RGB").save(pictures[-1])
    out = tmp_path / "deeper" / "grid.png"
    weights = ["--weights", str(folder / "weights"), "--encoder", str(folder / "clip"), "--side", "64"]
    main(["export", *map(str, pictures), "--out", str(tmp_path / "x.safetensors"), "--grid", str(out), *weights])
    width, height = sizes[0]
    a, a_prime, b = (Image.open(x).resize((width, height), Image.Resampling.BICUBIC) for x in pictures)
    canvas = Image.new("RGB", (2 * width, 2 * height))
    for picture, place in ((a, (0, 0)), (a_prime, (width, 0)), (b, (0, height)), (b, (width, height))):
        canvas.paste(picture, place)
    expected = canvas.resize(grid_size(width, height, 64), Image.Resampling.LANCZOS)
    assert np.array_equal(np.asarray(Image.open(out)), np.asarray(expected))


def test_loading_an_encoder_is_quiet(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    """The released CLIP's file has a text tower, too, whose keys transformers would list as unexpected."""
    state = load_file(folder / "clip" / "model.safetensors")
    shutil.copytree(folder / "clip", tmp_path / "clip")
    save_file(
        {**state, "text_model.x.weight": torch.zeros(3)}, tmp_path / "clip" / "model.safetensors", {"format": "pt"}
    )
    before = logging.get_verbosity()
    capfd.readouterr()
    PictureEncoder.load(tmp_path / "clip")
    said = capfd.readouterr()
    assert "UNEXPECTED" not in said.err + said.out and logging.get_verbosity() == before


def test_package_offers_load_flux_and_imports_it_late() -> None:
    code = (
        "import sys, lorweb_mini as lw; assert 'lorweb_mini.flux' not in sys.modules; "
        "assert callable(lw.load_flux); assert 'lorweb_mini.flux' in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
