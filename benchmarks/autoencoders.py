"""What else the autoencoder could have been: other shapes and losses, trained equally long, on concepts not trained on.

    .venv/bin/python -m benchmarks.autoencoders            # twenty minutes; --save writes results/autoencoders.md
    .venv/bin/python -m benchmarks.autoencoders --quick    # a few steps each: shows that it works

Equally long is by the clock, since time is what a learner has; so a slower network takes fewer steps. The drawings are
those of the ``val`` concepts: a choice between alternatives must not look at ``test``.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from benchmarks.model_card import drawings, psnr_of
from lorweb_mini.commands.train import DEFAULTS
from lorweb_mini.emoji.sheets import STYLES
from lorweb_mini.models.autoencoder import MiniAutoencoder
from lorweb_mini.training.autoencoder import AutoencoderRecipe
from lorweb_mini.training.config import TrainingConfig
from lorweb_mini.training.loop import train

from .timing import conditions, markdown, write

SHIPPED = "as shipped: 64 and 128 channels"


class FullResolution(nn.Module):
    """diffusers' own ``AutoencoderKL``, f = 8 and 16 channels, as narrow as pays at full resolution on a CPU."""

    def __init__(self) -> None:
        super().__init__()
        kl = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(16, 32, 64, 128),
            latent_channels=16,
            norm_num_groups=8,
            use_quant_conv=False,
            use_post_quant_conv=False,
        )
        # The mean is the first half of the encoder's output; the variance is fixed, as in ours.
        self.encoder = nn.Sequential(kl.encoder, FirstHalf())
        self.decoder = kl.decoder
        self.config = {"latent_noise": MiniAutoencoder().config["latent_noise"]}


class FirstHalf(nn.Module):
    """The first half of the channels, [B, 2C, h, w] to [B, C, h, w]."""

    def forward(self, x: Tensor) -> Tensor:
        return x.chunk(2, dim=1)[0]


class Alternative(AutoencoderRecipe):
    """The recipe of the shipped one, around any network with an ``encoder`` and a ``decoder``; writes no weights."""

    def save(self, folder: Path) -> None:
        """Nothing: the network is measured where it is."""


class SquareAlone(Alternative):
    """The mean squared error alone, which is what PSNR measures: no edges, no absolute error."""

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        x = batch["x"].contiguous(memory_format=torch.channels_last)
        latent = self.autoencoder.encoder(x)
        noisy = latent + self.autoencoder.config["latent_noise"] * batch["noise"]
        square = (self.autoencoder.decoder(noisy) - x).pow(2).mean()
        return {"loss": square + 1e-4 * latent.pow(2).mean()}


def shaped(middle: int, deep: int, **options: float) -> Callable[[], Alternative]:
    """Makes the recipe of a :class:`MiniAutoencoder` of another shape."""
    return lambda: Alternative(MiniAutoencoder(block_out_channels=(3, 12, middle, deep), **options))


ALTERNATIVES: dict[str, Callable[[], Alternative]] = {
    SHIPPED: Alternative,
    "half as wide": shaped(32, 64),
    "1.5 times as wide": shaped(96, 192),
    "two blocks a resolution": shaped(64, 128, layers_per_block=2),
    "latents without noise": shaped(64, 128, latent_noise=0.0),
    "squared error alone": SquareAlone,
    "diffusers' `AutoencoderKL`, 16 to 128 channels": lambda: Alternative(FullResolution()),
}


def measured(autoencoder: nn.Module, shown: np.ndarray) -> dict[str, float]:
    """Mean PSNR in dB of drawings [P, 2], by style, and the mean of the styles."""
    values = psnr_of(shown, lambda x, _: (autoencoder.decoder(autoencoder.encoder(x)).clamp(-1, 1), x))
    by_style = {style: float(values[shown[:, 1] == i].mean()) for i, style in enumerate(STYLES)}
    return by_style | {"mean": mean(by_style.values())}


def trained(alternative: Callable[[], Alternative], config: TrainingConfig) -> tuple[Alternative, float]:
    """A trained recipe, freshly initialised from the configuration's seed, and its samples in thousands."""
    torch.manual_seed(config.seed)
    recipe = alternative()
    with tempfile.TemporaryDirectory() as folder:
        summary = train(recipe, config, folder)
    return recipe.eval(), summary["samples"] / 1000


def spread(values: Sequence[float]) -> str:
    """The mean over seeds with the lowest and the highest."""
    return f"{mean(values):.2f} ({min(values):.2f}–{max(values):.2f})"


def table(results: dict[str, list[dict[str, float]]]) -> str:
    """Markdown, an alternative a row, of what :func:`main` measured: one dictionary a seed."""
    head = ["trained", "parameters", "thousand samples", "openmoji black", "mean of the six", "minus shipped"]
    reference = [one["mean"] for one in results[SHIPPED]]
    rows = []
    for name, seeds in results.items():
        columns = {key: [one[key] for one in seeds] for key in seeds[0]}
        gain = [one - shipped for one, shipped in zip(columns["mean"], reference, strict=True)]
        rows.append(
            [
                name,
                f"{columns['parameters'][0] / 1e6:.2f} M",
                f"{mean(columns['samples']):.1f}",
                spread(columns["openmoji_black"]),
                spread(columns["mean"]),
                spread(gain),
            ]
        )
    return markdown(head, rows)


def main(arguments: list[str] | None = None) -> None:
    """Parses the command line, trains and prints."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.autoencoders", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.5, help="of training, for each alternative and seed")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--quick", action="store_true", help="two steps, one seed, few drawings")
    parser.add_argument("--save", action="store_true", help="keep the table in results/")
    options = parser.parse_args(arguments)
    if options.quick and options.save:
        parser.error("a quick run is not saved")
    torch.set_num_threads(options.threads)
    config = replace(DEFAULTS["autoencoder"], minutes=options.minutes)
    if options.quick:
        config = replace(config, minutes=None, steps=2, batch_size=8)
    shown = drawings("val")[:: 40 if options.quick else 1]
    results: dict[str, list[dict[str, float]]] = {name: [] for name in ALTERNATIVES}
    for seed in range(1 if options.quick else options.seeds):
        for name, alternative in ALTERNATIVES.items():
            recipe, samples = trained(alternative, replace(config, seed=seed))
            parameters = sum(p.numel() for p in recipe.autoencoder.parameters())
            scores = measured(recipe.autoencoder, shown)
            results[name].append(scores | {"samples": samples, "parameters": parameters})
            print(f"seed {seed}, {name}: {scores['mean']:.2f} dB", flush=True)
    length = "2 steps" if options.quick else f"{options.minutes:g} minutes"
    text = (
        f"PSNR in dB on {len(shown):,} drawings of concepts not trained on, each alternative trained for {length}; "
        f"mean over seeds (lowest–highest of {len(results[SHIPPED])}).\n\n{table(results)}\n\n{conditions()}."
    )
    print("\n" + text)
    if options.save:
        write("autoencoders", text)


if __name__ == "__main__":
    main()
