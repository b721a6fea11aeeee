"""Plain LoRA files: the same picture in an unmodified pipeline, through diffusers' own loaders and converters."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import FluxKontextPipeline
from safetensors import safe_open
from safetensors.torch import load_file
from tiny_flux import EMBEDDING, KEYS_DIM, RANK, SIDE, N, drawn_grids, squares, tiny_pipeline, tiny_released
from torch import Tensor

from lorweb_mini.algebra import truncated
from lorweb_mini.core.layout import grid
from lorweb_mini.errors import InputError
from lorweb_mini.flux.checkpoint import ReleasedConfig, kontext_modules, open_released
from lorweb_mini.flux.editor import FluxEditor
from lorweb_mini.flux.lora_file import balanced, single_file, write_plain_lora
from lorweb_mini.flux.picture_encoder import PictureEncoder

STEPS, PROMPT = 2, "paint it"
CONFIG = ReleasedConfig(N, RANK, KEYS_DIM, 3 * EMBEDDING)
ROUNDING = {torch.float32: 2**-22, torch.float16: 2**-11, torch.bfloat16: 2**-8}  # of the norm of ΔW
# Largest difference of a picture in [-1, 1] to the one of the dynamic editor, when the file is rounded to a dtype and
# the pipeline computes in single precision. The bare base is 0.3 and more away.
TOLERANCE = {torch.float32: 2e-5, torch.float16: 5e-3, torch.bfloat16: 4e-2}


def _editor(encoder: PictureEncoder, folder: Path, doubles: int = 1, singles: int = 1) -> FluxEditor:
    pipeline = tiny_pipeline(doubles, singles)
    file = open_released(tiny_released(folder, pipeline.transformer))
    editor = FluxEditor(pipeline, encoder, CONFIG, SIDE)
    file.load_into(editor.basis, editor.router)
    return editor


@pytest.fixture(scope="module")
def editor(encoder: PictureEncoder, tmp_path_factory: pytest.TempPathFactory) -> FluxEditor:
    return _editor(encoder, tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def double_editor(encoder: PictureEncoder, tmp_path_factory: pytest.TempPathFactory) -> FluxEditor:
    """Two double blocks and no single one: diffusers' converter knows single blocks in Flux's full width only."""
    return _editor(encoder, tmp_path_factory.mktemp("weights"), doubles=2, singles=0)


def _triplet() -> list[Tensor]:
    return [squares(1, seed) for seed in range(3)]


def _mixtures(editor: FluxEditor, k: int) -> Tensor:
    return torch.softmax(2 * torch.randn(k, len(editor.basis.layers), N), dim=-1)


def _drawn(pipeline: FluxKontextPipeline) -> Tensor:
    """The quarter that an unmodified pipeline draws, called as somebody would who knows only diffusers."""
    a, a_prime, b = _triplet()
    return drawn_grids(pipeline, (grid(a, a_prime, b, b) + 1) / 2, [PROMPT], STEPS)[:, :, SIDE:, SIDE:]


def _dynamic(editor: FluxEditor, coefficients: Tensor) -> Tensor:
    a, a_prime, b = _triplet()
    return editor.generate(b, coefficients, (a, a_prime), prompt=PROMPT, steps=STEPS).pictures


# --- arithmetic ----------------------------------------------------------------------------------


def test_truncation_states_the_least_possible_error(editor: FluxEditor) -> None:
    layers = editor.basis.folded(_mixtures(editor, 1))
    cut = truncated(layers, 2)
    lost = whole = 0.0
    for name, (low, high) in layers.items():
        full = (high @ low).double()
        least = torch.linalg.svdvals(full)[2:].norm()
        a, b = cut.layers[name]
        assert a.shape[0] == b.shape[1] == 2
        error = (full - (b @ a).double()).norm()
        assert abs(cut.errors[name] - float(error / full.norm())) < 1e-5
        assert abs(error - least) < 1e-4 * full.norm()
        lost, whole = lost + float(error) ** 2, whole + float(full.norm()) ** 2
    assert abs(cut.error - (lost / whole) ** 0.5) < 1e-5 and 0.1 < cut.error < 1
    everything = truncated(layers, 1000)
    assert everything.error < 1e-6
    for name, (low, high) in layers.items():
        a, b = everything.layers[name]
        torch.testing.assert_close(b @ a, high @ low, atol=1e-5, rtol=1e-5)
    nothing = truncated({"x": (torch.zeros(2, 3), torch.zeros(4, 2))}, 1)
    assert nothing.error == nothing.errors["x"] == 0


def test_balance_keeps_small_mixtures_in_half_precision() -> None:
    low, high = torch.randn(6, 40), 1e-6 * torch.randn(50, 6)
    high[:, 2] = 0
    a, b = balanced(low, high)
    assert torch.equal(b @ a, high @ low), "powers of two round nothing"
    exact = (high @ low).double()

    def error(a: Tensor, b: Tensor) -> float:
        return float((b.half().double() @ a.half().double() - exact).norm() / exact.norm())

    assert error(a, b) < 1e-3 < 1e-1 * error(low, high)


# --- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", list(TOLERANCE))
def test_diffusers_file_draws_the_same_picture(editor: FluxEditor, tmp_path: Path, dtype: torch.dtype) -> None:
    c = _mixtures(editor, 1)
    expected = _dynamic(editor, c)
    pipeline = tiny_pipeline()
    bare = _drawn(pipeline)
    path = editor.export_lora(c, tmp_path / "deeper" / "x.safetensors", dtype=dtype)
    state = load_file(path)
    assert all(tensor.dtype == dtype for tensor in state.values())
    for name, (low, high) in editor.basis.folded(c).items():
        a, b = (state[f"transformer.{name}.lora_{letter}.weight"].float() for letter in "AB")
        assert (b @ a - high @ low).norm() < ROUNDING[dtype] * (high @ low).norm()
    pipeline.load_lora_weights(str(path))
    torch.testing.assert_close(_drawn(pipeline), expected, atol=TOLERANCE[dtype], rtol=0)
    assert (bare - expected).abs().max() > 0.3
    pipeline.unload_lora_weights()
    assert torch.equal(_drawn(pipeline), bare)


@pytest.mark.parametrize("dtype", list(TOLERANCE))
def test_single_file_draws_the_same_picture(double_editor: FluxEditor, tmp_path: Path, dtype: torch.dtype) -> None:
    c = _mixtures(double_editor, 1)
    expected = _dynamic(double_editor, c)
    path = double_editor.export_lora(c, tmp_path / "x.safetensors", key_format="single-file", dtype=dtype)
    keys = load_file(path)
    assert keys["lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight"].shape == (3 * N * RANK, 32)
    assert keys["lora_unet_double_blocks_0_img_attn_qkv.lora_up.weight"].shape == (3 * 32, 3 * N * RANK)
    assert keys["lora_unet_double_blocks_1_txt_mlp_2.alpha"] == N * RANK
    assert len(keys) == 3 * 2 * 10
    pipeline = tiny_pipeline(2, 0)
    bare = _drawn(pipeline)
    pipeline.load_lora_weights(str(path))
    torch.testing.assert_close(_drawn(pipeline), expected, atol=TOLERANCE[dtype], rtol=0)
    assert (bare - expected).abs().max() > 0.3


def test_single_file_of_the_whole_of_flux_converts_back_bit_for_bit() -> None:
    """All 494 layers in their full width, at rank 1, so that the tensors stay small."""
    layers = {name: (torch.randn(1, wide), torch.randn(high, 1)) for name, (wide, high) in kontext_modules().items()}
    state = single_file(layers)
    assert len(state) == 3 * (19 * 10 + 38 * 3)
    assert state["lora_unet_single_blocks_37_linear1.lora_up.weight"].shape == (21504, 4)
    names = ["img_mod_lin", "txt_mod_lin", "img_attn_qkv", "txt_attn_qkv", "img_attn_proj", "txt_attn_proj"]
    names += ["img_mlp_0", "img_mlp_2", "txt_mlp_0", "txt_mlp_2"]
    assert {f"lora_unet_double_blocks_18_{name}.alpha" for name in names} <= set(state)
    back = FluxKontextPipeline.lora_state_dict(state)
    assert len(back) == 2 * 494
    for name, (low, high) in layers.items():
        assert torch.equal(back[f"transformer.{name}.lora_A.weight"], low), name
        assert torch.equal(back[f"transformer.{name}.lora_B.weight"], high), name


@pytest.mark.parametrize("key_format", ["diffusers", "single-file"])
def test_truncated_file_says_its_error(double_editor: FluxEditor, tmp_path: Path, key_format: str) -> None:
    c = _mixtures(double_editor, 1)
    full, exact = _dynamic(double_editor, c), double_editor.basis.folded(c)
    errors = []
    for rank in (1, 3, N * RANK):
        path = double_editor.export_lora(c, tmp_path / f"{rank}.safetensors", key_format=key_format, rank=rank)
        pipeline = tiny_pipeline(2, 0)
        pipeline.load_lora_weights(str(path))
        errors.append(float((_drawn(pipeline) - full).abs().mean()))
        with safe_open(path, framework="pt") as file:
            notes = file.metadata()
        assert notes["svd_rank"] == str(rank)
        assert abs(float(notes["svd_relative_error"]) - truncated(exact, rank).error) < 1e-5
    assert errors[0] > errors[2] and errors[2] < 2e-5, errors


def test_analogies_blend_as_adapters(editor: FluxEditor, tmp_path: Path) -> None:
    """A mixture is linear in its coefficients, so weights of adapters are weights of analogies."""
    first, second = _mixtures(editor, 2)
    pipeline = tiny_pipeline()
    for name, c in (("first", first), ("second", second)):
        pipeline.load_lora_weights(str(editor.export_lora(c, tmp_path / f"{name}.safetensors")), adapter_name=name)
    for weights in ([1.0, 0.0], [0.0, 1.0], [0.3, 0.7], [-0.5, 1.2]):
        pipeline.set_adapters(["first", "second"], weights)
        expected = _dynamic(editor, weights[0] * first + weights[1] * second)
        torch.testing.assert_close(_drawn(pipeline), expected, atol=2e-5, rtol=0)
    assert (_dynamic(editor, first) - _dynamic(editor, second)).abs().max() > 0.1


def test_refusals(editor: FluxEditor, tmp_path: Path) -> None:
    layers = editor.basis.folded(_mixtures(editor, 1))
    path = tmp_path / "x.safetensors"
    with pytest.raises(InputError, match="ends in"):
        write_plain_lora(tmp_path / "x.bin", layers)
    with pytest.raises(InputError, match="key format"):
        write_plain_lora(path, layers, "civitai")
    with pytest.raises(InputError, match="dtype"):
        write_plain_lora(path, layers, dtype=torch.float64)
    with pytest.raises(InputError, match="one analogy"):
        editor.basis.folded(_mixtures(editor, 2))
    for rank in (0, 1.5, True):
        with pytest.raises(InputError, match="rank"):
            truncated(layers, rank)
    with pytest.raises(InputError, match="range of"):
        write_plain_lora(path, {"x": (torch.full((1, 2), 1e9), torch.full((2, 1), 1e9))}, dtype=torch.float16)
    for name in ("proj_out", "transformer_blocks.0.other", "transformer_blocks.0"):
        with pytest.raises(InputError, match=f"inside the blocks of a Flux transformer, got '{name}'"):
            write_plain_lora(path, {name: (torch.zeros(1, 2), torch.zeros(2, 1))}, "single-file")
    with pytest.raises(InputError, match=r"all 3 layers .*_img_attn_qkv, got transformer_blocks\.0\.attn\.to_q$"):
        write_plain_lora(
            path, {"transformer_blocks.0.attn.to_q": (torch.zeros(1, 2), torch.zeros(2, 1))}, "single-file"
        )
    assert not list(tmp_path.iterdir())
