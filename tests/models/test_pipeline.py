"""The shipped base inside diffusers' unmodified Kontext pipeline draws what our own sampler draws."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxKontextPipeline
from PIL import Image
from tiny_models import mixtures, pictures, tiny_base, tiny_editor
from torch import Tensor

import lorweb_mini as lw
from lorweb_mini.core.layout import pack, position_ids, unpack
from lorweb_mini.images import to_pil
from lorweb_mini.models.autoencoder import MiniAutoencoder
from lorweb_mini.models.base import Base, noise_for
from lorweb_mini.models.pipeline import kontext_inputs, kontext_pipeline
from lorweb_mini.models.text import vectors_of
from lorweb_mini.models.weights import weights_dir

STEPS = 4
TOLERANCE = 1e-5  # of a picture in [0, 1]; half a grey level is 2e-3


@pytest.fixture(scope="module")
def autoencoder() -> MiniAutoencoder:
    return MiniAutoencoder.load(weights_dir() / "autoencoder")


@pytest.fixture(scope="module")
def base() -> Base:
    return Base.load(weights_dir() / "base")


@pytest.fixture(scope="module")
def instructions() -> list[str]:
    return [lw.relations()[name].instructions[0] for name in ("edit/grey", "edit/flip_horizontal")]


@pytest.fixture(scope="module")
def emoji() -> list[Image.Image]:
    sheets = lw.load_emoji()
    drawings = [sheets.picture("dog face", "noto"), sheets.picture("red heart", "twemoji")]
    white = Image.new("RGBA", (64, 64), "white")
    return [Image.alpha_composite(white, x.convert("RGBA")).convert("RGB") for x in drawings]


def _tensor(images: list[Image.Image]) -> Tensor:
    """Pictures [B, 3, 64, 64] in [-1, 1]."""
    arrays = np.stack([np.asarray(x) for x in images]).astype(np.float32)
    return torch.from_numpy(arrays).permute(0, 3, 1, 2) / 127.5 - 1


@torch.no_grad()
def _ours(base: Base, autoencoder: MiniAutoencoder, x: Tensor, text: Tensor, seeds: list[int]) -> Tensor:
    """Pictures [B, 3, 64, 64] in [0, 1], as ``Base.edit`` draws them."""
    z = base.edit(autoencoder.to_latent(x), text, seeds, STEPS)
    return (autoencoder.to_picture(z) + 1) / 2


def test_edit_of_an_emoji(base: Base, autoencoder: MiniAutoencoder, instructions: list[str], emoji: list) -> None:
    """The pipeline is put together and called here by hand, as somebody would who knows only diffusers."""
    pipeline = FluxKontextPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=autoencoder,
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        transformer=base.transformer,
    )
    assert not base.transformer.config["guidance_embeds"], "the pipeline's own guidance would be one more input"
    text = vectors_of(instructions[:1])
    theirs = pipeline(
        image=emoji[0],
        prompt_embeds=text[:, None],
        pooled_prompt_embeds=text,
        latents=noise_for([5], 16),
        height=64,
        width=64,
        max_area=64 * 64,
        _auto_resize=False,
        num_inference_steps=STEPS,
        sigmas=[1 - i / STEPS for i in range(STEPS)],
        output_type="pt",
    ).images
    x = _tensor(emoji[:1])
    torch.testing.assert_close(theirs, _ours(base, autoencoder, x, text, [5]), atol=TOLERANCE, rtol=0)
    assert (theirs - (x + 1) / 2).abs().mean() > 0.01, "an edit that does nothing would prove nothing"


def test_batch_of_two_as_tensors_and_as_pil(
    base: Base, autoencoder: MiniAutoencoder, instructions: list[str], emoji: list
) -> None:
    pipeline = kontext_pipeline(base, autoencoder)
    x, seeds = _tensor(emoji), [3, 8]
    expected = _ours(base, autoencoder, x, vectors_of(instructions), seeds)
    inputs = kontext_inputs(instructions, seeds) | {"num_inference_steps": STEPS}
    theirs = pipeline(image=(x + 1) / 2, output_type="pt", **inputs).images
    torch.testing.assert_close(theirs, expected, atol=TOLERANCE, rtol=0)
    drawn = pipeline(image=emoji, **inputs).images
    assert [type(x) for x in drawn] == [Image.Image] * 2
    for image, tensor in zip(drawn, expected, strict=True):
        assert image.size == (64, 64) and image.mode == "RGB"
        difference = np.asarray(image).astype(int) - np.asarray(to_pil(2 * tensor - 1))
        # The two round 127.5 (x + 1) and 255 x, which floats may put on two sides of a half.
        assert abs(difference).max() <= 1 and (difference != 0).mean() < 0.01


@pytest.mark.parametrize("guidance", [1.5, 3.0])
def test_guidance(
    base: Base, autoencoder: MiniAutoencoder, instructions: list[str], emoji: list, guidance: float
) -> None:
    """Diffusers' true classifier-free guidance against an empty instruction is that of ``Base.sample``."""
    x, text, seeds = _tensor(emoji), vectors_of(instructions), [0, 0]
    theirs = kontext_pipeline(base, autoencoder)(
        image=(x + 1) / 2,
        num_inference_steps=STEPS,
        output_type="pt",
        **kontext_inputs(instructions, guidance=guidance),
    ).images
    ids = torch.cat([position_ids(4, 4, 0), position_ids(4, 4, 1)])
    with torch.no_grad():
        references = pack(autoencoder.to_latent(x))
        tokens = base.sample(noise_for(seeds, 16), references, ids, text, STEPS, guidance)
        ours = (autoencoder.to_picture(unpack(tokens)) + 1) / 2
    torch.testing.assert_close(theirs, ours, atol=TOLERANCE, rtol=0)
    assert (ours - _ours(base, autoencoder, x, text, seeds)).abs().max() > 100 * TOLERANCE


def test_no_instruction(base: Base, autoencoder: MiniAutoencoder, emoji: list) -> None:
    x = _tensor(emoji)
    theirs = kontext_pipeline(base, autoencoder)(
        image=(x + 1) / 2, num_inference_steps=STEPS, output_type="pt", **kontext_inputs(["", ""], [1, 2])
    ).images
    expected = _ours(base, autoencoder, x, torch.zeros(2, 384), [1, 2])
    torch.testing.assert_close(theirs, expected, atol=TOLERANCE, rtol=0)


def test_pipeline_draws_mixtures_and_exported_loras(tmp_path: Path) -> None:
    """A mixture of the basis merged into the transformer, and as the LoRA file that ``export_lora`` writes."""
    editor, b = tiny_editor("b"), pictures(2)
    c = 5 * mixtures(1, editor)
    expected = (editor.generate(b, c, steps=STEPS, seed=6).pictures + 1) / 2
    call = {"image": (b + 1) / 2, "num_inference_steps": STEPS, "output_type": "pt"}
    call |= kontext_inputs(["", ""], [6, 6])
    with editor.freeze(c[0]):
        merged = kontext_pipeline(editor.base, editor.autoencoder)(**call).images
    torch.testing.assert_close(merged, expected, atol=TOLERANCE, rtol=0)
    pipeline = kontext_pipeline(tiny_base(), editor.autoencoder)
    bare = pipeline(**call).images
    pipeline.load_lora_weights(str(editor.export_lora(c[0], tmp_path / "edit.safetensors")))
    torch.testing.assert_close(pipeline(**call).images, expected, atol=TOLERANCE, rtol=0)
    assert (bare - expected).abs().max() > 500 * TOLERANCE
    pipeline.unload_lora_weights()
    torch.testing.assert_close(pipeline(**call).images, bare, atol=TOLERANCE, rtol=0)


def test_saved_pipeline_opens_again(tmp_path: Path) -> None:
    """``save_pretrained`` and ``from_pretrained`` of diffusers, which finds our autoencoder by its module."""
    base, autoencoder = tiny_base(), MiniAutoencoder(scaling_factor=1.7, shift_factor=-0.2).eval()
    kontext_pipeline(base, autoencoder).save_pretrained(tmp_path)
    text = dict.fromkeys(("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"))
    again = FluxKontextPipeline.from_pretrained(tmp_path, local_files_only=True, **text)
    assert isinstance(again.vae, MiniAutoencoder)
    x = pictures(1)
    drawn = again(image=(x + 1) / 2, num_inference_steps=STEPS, output_type="pt", **kontext_inputs([""], [4])).images
    expected = _ours(base, autoencoder, x, torch.zeros(1, 384), [4])
    torch.testing.assert_close(drawn, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"instructions": "grey"},
        {"instructions": []},
        {"instructions": ["", ""], "seeds": [1]},
        {"instructions": [""], "guidance": 0.5},
        {"instructions": [""], "guidance": float("nan")},
        {"instructions": [""], "guidance": float("inf")},
        {"instructions": [""], "guidance": "2"},
        {"instructions": [""], "seeds": ["one"]},
        {"instructions": [""], "seeds": [-1]},
    ],
)
def test_wrong_inputs_are_refused(wrong: dict) -> None:
    with pytest.raises(lw.InputError, match="expected"):
        kontext_inputs(**wrong)
