"""The base's conventions are diffusers' own: packing, ids, and the whole Kontext pipeline."""

from __future__ import annotations

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxKontextPipeline
from tiny_models import pictures, tiny_base, transformer_inputs
from torch import Tensor

from lorweb_mini.core.layout import pack, position_ids, unpack
from lorweb_mini.models.autoencoder import MiniAutoencoder
from lorweb_mini.models.base import Base, noise_for


@pytest.fixture(scope="module")
def base() -> Base:
    return tiny_base()


@pytest.mark.parametrize("shape", [(2, 16, 8, 8), (1, 16, 16, 16), (3, 16, 6, 10)])
def test_pack_and_unpack_are_diffusers(shape: tuple[int, ...]) -> None:
    latent = torch.randn(shape)
    b, c, h, w = shape
    theirs = FluxKontextPipeline._pack_latents(latent, b, c, h, w)
    assert torch.equal(pack(latent), theirs) and theirs.shape == (b, h * w // 4, 4 * c)
    assert torch.equal(unpack(theirs, h, w), latent)
    assert torch.equal(FluxKontextPipeline._unpack_latents(pack(latent), 8 * h, 8 * w, 8), latent)


def test_a_token_holds_two_by_two_latent_pixels() -> None:
    latent = torch.arange(16 * 64).float().reshape(1, 16, 8, 8)
    token = pack(latent)[0, 6]  # second row, third column of a 4×4 grid of tokens
    assert torch.equal(token, latent[0, :, 2:4, 4:6].reshape(-1))


@pytest.mark.parametrize("picture", [0, 1, 3])
def test_position_ids_are_diffusers(picture: int) -> None:
    theirs = FluxKontextPipeline._prepare_latent_image_ids(1, 3, 5, "cpu", torch.float32)
    theirs[..., 0] = picture
    assert torch.equal(position_ids(3, 5, picture), theirs)


def test_noise_depends_on_the_seed_alone() -> None:
    noise = noise_for([3, 8, 3], 16)
    assert noise.shape == (3, 16, 64)
    assert torch.equal(noise[0], noise[2]) and not torch.equal(noise[0], noise[1])
    assert torch.equal(noise_for([8], 16)[0], noise[1])
    assert torch.equal(noise_for([8], 16)[0], torch.randn(16, 64, generator=torch.Generator().manual_seed(8)))


def _euler(base: Base, steps: int, guidance: float = 1.0) -> Tensor:
    """dz = v dt from t = 1 down to 0, the transformer called directly."""
    x = transformer_inputs(2)
    z, zero = x["noisy"].clone(), torch.zeros(2, 384)

    def v(z: Tensor, t: float, text: Tensor) -> Tensor:
        with torch.no_grad():
            return base.transformer(
                hidden_states=torch.cat([z, x["references"]], 1),
                encoder_hidden_states=text.reshape(2, 1, 384),
                pooled_projections=text,
                timestep=torch.full((2,), t),
                img_ids=x["ids"],
                txt_ids=torch.zeros(1, 3),
            ).sample[:, :16]

    for i in range(steps):
        t, after = 1 - i / steps, 1 - (i + 1) / steps
        slope = v(z, t, x["instruction"])
        if guidance != 1:
            slope = v(z, t, zero) + guidance * (slope - v(z, t, zero))
        z = z + (after - t) * slope
    return z


@pytest.mark.parametrize(("steps", "guidance"), [(1, 1.0), (2, 1.0), (7, 1.0), (3, 2.5)])
def test_sampler_is_an_euler_loop(base: Base, steps: int, guidance: float) -> None:
    x = transformer_inputs(2)
    got = base.sample(x["noisy"], x["references"], x["ids"], x["instruction"], steps=steps, guidance=guidance)
    torch.testing.assert_close(got, _euler(base, steps, guidance), atol=1e-5, rtol=1e-5)


def test_sampling_twice_gives_the_same(base: Base) -> None:
    x = transformer_inputs(2)
    first, second = (base.sample(x["noisy"], x["references"], x["ids"], steps=3) for _ in range(2))
    assert torch.equal(first, second)


def test_no_instruction_is_the_zero_vector(base: Base) -> None:
    x = transformer_inputs(2)
    del x["instruction"]
    with torch.no_grad():
        assert torch.equal(base.velocity(**x), base.velocity(**x, instruction=torch.zeros(2, 384)))


def test_velocity_sees_time_reference_and_instruction(base: Base) -> None:
    x = transformer_inputs(2)
    with torch.no_grad():
        whole = base.velocity(**x)
        assert whole.shape == (2, 16, 64)
        for name in ("t", "references", "instruction"):
            assert (base.velocity(**{**x, name: x[name].flip(0)}) - whole).abs().max() > 1e-4, name


def test_diffusers_kontext_pipeline_draws_the_same(base: Base) -> None:
    """Autoencoder, transformer, scheduler, packing and ids all at once, by code that is not ours."""
    autoencoder = MiniAutoencoder(scaling_factor=1.7, shift_factor=-0.2).eval()
    pipeline = FluxKontextPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
        vae=autoencoder,
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        transformer=base.transformer,
    )
    pipeline.set_progress_bar_config(disable=True)
    x, text, seeds = pictures(2), torch.randn(2, 384), [4, 9]
    # The pipeline takes tensors in [0, 1].
    theirs = pipeline(
        image=(x + 1) / 2,
        height=64,
        width=64,
        max_area=64 * 64,
        _auto_resize=False,
        num_inference_steps=3,
        latents=noise_for(seeds, 16),
        prompt_embeds=text[:, None],
        pooled_prompt_embeds=text,
        output_type="pt",
    ).images
    with torch.no_grad():
        ours = autoencoder.to_picture(base.edit(autoencoder.to_latent(x), text, seeds, steps=3))
    torch.testing.assert_close((ours + 1) / 2, theirs, atol=1e-5, rtol=0)
    assert theirs.std() > 1e-3


def test_items_of_a_batch_are_independent(base: Base) -> None:
    latent, text = torch.randn(3, 16, 8, 8), torch.randn(3, 384)
    whole = base.edit(latent, text, [1, 2, 3], steps=2)
    for i in range(3):
        alone = base.edit(latent[i : i + 1], text[i : i + 1], [i + 1], steps=2)
        torch.testing.assert_close(alone[0], whole[i], atol=1e-5, rtol=0)


def test_save_and_load_keep_half_precision(base: Base, tmp_path) -> None:
    base.save(tmp_path)
    loaded = Base.load(tmp_path)
    for name, ours in base.transformer.state_dict().items():
        assert torch.equal(loaded.transformer.state_dict()[name], ours.half().float()), name
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
    assert next(base.parameters()).dtype == torch.float32, "saving must leave the model as it is"
    x = transformer_inputs(2)
    with torch.no_grad():
        torch.testing.assert_close(loaded.velocity(**x), base.velocity(**x), atol=1e-2, rtol=1e-2)
