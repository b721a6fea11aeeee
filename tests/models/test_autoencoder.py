"""The autoencoder is a diffusers vae."""

from __future__ import annotations

import json
import math

import pytest
import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_utils import ModelMixin
from tiny_models import pictures

from lorweb_mini.models.autoencoder import MiniAutoencoder, psnr


@pytest.fixture(scope="module")
def autoencoder() -> MiniAutoencoder:
    torch.manual_seed(0)
    model = MiniAutoencoder(scaling_factor=1.6, shift_factor=0.3, latent_noise=0.05).eval().requires_grad_(False)
    # Residual blocks start as the identity; here they should do something.
    for name, parameter in model.named_parameters():
        if name.endswith("conv2.weight"):
            torch.nn.init.normal_(parameter, std=0.05)
    return model


def test_interface_of_a_vae(autoencoder: MiniAutoencoder) -> None:
    assert isinstance(autoencoder, ModelMixin) and isinstance(autoencoder, ConfigMixin)
    x = pictures(2)
    posterior = autoencoder.encode(x).latent_dist
    assert isinstance(posterior, DiagonalGaussianDistribution)
    assert isinstance(autoencoder.encode(x, return_dict=False), tuple)
    assert torch.equal(autoencoder.encode(x, return_dict=False)[0].mode(), posterior.mode())
    z = posterior.mode()
    assert z.shape == (2, 16, 8, 8)
    decoded = autoencoder.decode(z)
    assert isinstance(decoded, DecoderOutput) and decoded.sample.shape == x.shape
    assert torch.equal(autoencoder.decode(z, return_dict=False)[0], decoded.sample)
    assert autoencoder.config.scaling_factor == 1.6 and autoencoder.config.shift_factor == 0.3
    assert autoencoder.config.latent_channels == 16
    assert autoencoder.dtype == torch.float32 and autoencoder.device.type == "cpu"


def test_downsampling_as_the_pipelines_read_it(autoencoder: MiniAutoencoder) -> None:
    assert 2 ** (len(autoencoder.config.block_out_channels) - 1) == 64 // 8


def test_posterior_noise_is_fixed(autoencoder: MiniAutoencoder) -> None:
    posterior = autoencoder.encode(pictures(2)).latent_dist
    torch.testing.assert_close(posterior.std, torch.full_like(posterior.mean, 0.05))
    assert math.isclose(float(posterior.var.mean()), 0.05**2, rel_tol=1e-4)
    samples = torch.stack([posterior.sample(torch.Generator().manual_seed(i)) for i in range(40)])
    assert float((samples - posterior.mean).std()) == pytest.approx(0.05, rel=0.02)


def test_normalised_latents(autoencoder: MiniAutoencoder) -> None:
    x = pictures(3)
    raw = autoencoder.encode(x).latent_dist.mode()
    z = autoencoder.to_latent(x)
    torch.testing.assert_close(z, (raw - 0.3) * 1.6)
    expected = autoencoder.decode(z / 1.6 + 0.3).sample.clamp(-1, 1)
    torch.testing.assert_close(autoencoder.to_picture(z), expected)
    assert autoencoder.to_picture(100 * z).abs().max() <= 1


def test_pictures_are_independent(autoencoder: MiniAutoencoder) -> None:
    x = pictures(3)
    alone = torch.cat([autoencoder.to_latent(x[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(autoencoder.to_latent(x), alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(128, 128), (64, 96)])
def test_other_sizes(autoencoder: MiniAutoencoder, size: tuple[int, int]) -> None:
    z = autoencoder.to_latent(torch.rand(1, 3, *size))
    assert z.shape == (1, 16, size[0] // 8, size[1] // 8)
    assert autoencoder.to_picture(z).shape == (1, 3, *size)


def test_save_and_load_within_half_precision(autoencoder: MiniAutoencoder, tmp_path) -> None:
    autoencoder.save(tmp_path)
    loaded = MiniAutoencoder.load(tmp_path)
    for name, ours in autoencoder.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], ours.half().float()), name
    for name in ("latent_channels", "layers_per_block", "latent_noise", "scaling_factor", "shift_factor"):
        assert loaded.config[name] == autoencoder.config[name], name
    assert tuple(loaded.config["block_out_channels"]) == autoencoder.config["block_out_channels"]
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
    assert autoencoder.dtype == torch.float32, "saving must leave the model as it is"
    x = pictures(2)
    torch.testing.assert_close(loaded.to_latent(x), autoencoder.to_latent(x), atol=1e-2, rtol=1e-2)
    assert json.loads((tmp_path / "config.json").read_text())["_class_name"] == "MiniAutoencoder"


def test_psnr_by_hand() -> None:
    x = pictures(2)
    y = x.clone()
    y[0] += 0.2
    y[1, :, :32] += 0.1
    got = psnr(x, y)
    # Peak to peak 2: 10 log10(4 / mse).
    assert got[0] == pytest.approx(10 * math.log10(4 / 0.04), abs=1e-3)
    assert got[1] == pytest.approx(10 * math.log10(4 / 0.005), abs=1e-3)
