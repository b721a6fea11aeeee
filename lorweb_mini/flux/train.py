"""Training a basis and its router on FLUX.1-Kontext, by the one loop of :mod:`~lorweb_mini.training.loop`.

The loss is flow matching over the whole grid: with x the latents of [[a, a'], [b, b']], e noise and
z_t = (1 − t) x + t e, the transformer sees z_t beside the condition [[a, a'], [b, b]] and predicts e − x. logit(t) is
normal with deviation 1; its mean is the shift of the pipeline's own schedule at this number of tokens, so that
training spends its samples where drawing spends its steps.

Only basis and router are trained, in single precision, on a frozen base in whatever precision it was loaded. Latents,
queries and prompts come from :mod:`~lorweb_mini.flux.shards`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import FluxKontextPipeline, FluxTransformer2DModel
from diffusers.pipelines.flux.pipeline_flux_kontext import calculate_shift
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.basis import Basis
from ..core.layout import pack, position_ids
from ..core.router import Router
from ..errors import InputError, finite_number, whole_number
from ..files import write_atomically
from ..images import to_pil
from ..training.config import TrainingConfig
from ..training.flow import flow_sample, random_times
from ..training.log import routing_statistics
from ..training.loop import Recipe, torch_generator
from .checkpoint import ReleasedFile, modules_of, open_released, released_tensors, write_released
from .editor import run_pipeline
from .shards import LatentShards

WEIGHTS = "lorweb.safetensors"
# The paper's own setting: a constant rate, ten thousand steps of six, and no moving average.
TRAINING = TrainingConfig(
    steps=10_000,
    batch_size=6,
    learning_rate=1e-3,
    warmup_steps=0,
    final_fraction=1.0,
    betas=(0.9, 0.99),
    weight_decay=0.05,
    ema_decay=None,
    checkpoint_minutes=30,
    log_every=1,
)


@dataclass(frozen=True)
class FluxConfig:
    """What is trained."""

    n_loras: int = 32  # size N of the basis
    rank: int = 4  # rank r of its LoRAs
    keys_dim: int = 128  # length d of the router's keys
    caption_dropout: float = 0.05  # share of the samples that get the empty prompt
    # what the guidance-distilled transformer is told while it learns; 1 is the conditional velocity itself
    guidance: float = 1.0
    sample_every: int = 500  # steps between sample grids; 0 draws none
    sample_count: int = 4  # analogies in a sample grid, half of seen and half of unseen relations; at least 2
    sampling_steps: int = 28  # Euler steps of a sample

    def __post_init__(self) -> None:
        """InputError for numbers that are not whole or too small, or a share outside [0, 1]."""
        least = {"n_loras": 1, "rank": 1, "keys_dim": 1, "sample_every": 0, "sample_count": 2, "sampling_steps": 1}
        for name, number in least.items():
            object.__setattr__(self, name, whole_number(getattr(self, name), name, number))
        finite_number(self.caption_dropout, "caption_dropout", most=1)
        finite_number(self.guidance, "guidance")


def start_of(path: str | Path, config: FluxConfig, shards: LatentShards, transformer: nn.Module) -> ReleasedFile:
    """A checkpoint that a training starts from; InputError for one of other sizes or of another transformer.

    The transformer may be on the ``meta`` device, so that this is known before one is loaded.
    """
    file = open_released(path, modules_of(transformer))
    found = (file.config.n_loras, file.config.rank, file.config.keys_dim, file.config.query_dim)
    asked = (config.n_loras, config.rank, config.keys_dim, 3 * shards.settings["embedding_dim"])
    if found != asked:
        raise InputError(f"expected weights with (N, r, d, query width) = {asked} to start from, got {found} in {path}")
    return file


class FluxRecipe(Recipe):
    """Basis and router on a frozen transformer.

    Args:
        pipeline: Kontext's; the basis is added to its transformer, and everything else is frozen. It draws the sample
            grids; its text encoders may be None.
        shards: their ``train`` part is learnt, and a few of ``val`` are drawn.
        accumulate: forward passes that share a step's batch.
        checkpointing: keeps only the blocks' inputs for the backward pass and computes the rest again.

    Raises:
        InputError: shards without a train sample, or whose latents or prompts do not fit the transformer; an
            ``accumulate`` below 1.
    """

    def __init__(
        self,
        pipeline: FluxKontextPipeline,
        shards: LatentShards,
        config: FluxConfig | None = None,
        accumulate: int = 1,
        checkpointing: bool = True,
    ) -> None:
        super().__init__()
        self.pipeline, self.shards, self.config = pipeline, shards, config or FluxConfig()
        self.accumulate = whole_number(accumulate, "accumulate")
        self.transformer: FluxTransformer2DModel = pipeline.transformer.requires_grad_(False).eval()
        self._check_fit()
        self.basis = Basis(self.transformer, self.config.n_loras, self.config.rank)
        for parameter in self.basis.parameters():
            parameter.data = parameter.data.float()
            parameter.requires_grad_(True)
        for index, module in enumerate(self.basis.modules):
            # The release's start: U(±1/√(in·r)) for every A_n; PEFT's own does not know of r.
            low, _ = self.basis.factors(index)
            bound = (low.shape[2] * self.config.rank) ** -0.5
            nn.init.uniform_(low, -bound, bound)
            # Autocast brings the LoRAs to the base's precision; PEFT would bring every input to theirs.
            module.cast_input_dtype_enabled = self.transformer.dtype == torch.float32
        width = shards.settings["embedding_dim"]
        self.router = Router(len(self.basis.layers), self.config.n_loras, width, self.config.keys_dim)
        if checkpointing:
            self.transformer.enable_gradient_checkpointing()
        self.bucket_of = {number: bucket for bucket in shards.buckets("train") for number in bucket}

    def _check_fit(self) -> None:
        if not self.shards.count("train"):
            raise InputError(f"expected train samples in {self.shards.folder}, got none")
        tensors, about = self.shards.sample("train", 0)
        embeds, pooled = self.shards.prompt(about["prompt"])
        config = self.transformer.config
        given = (4 * tensors["target"].shape[0], embeds.shape[1], pooled.shape[0])
        needed = (config["in_channels"], config["joint_attention_dim"], config["pooled_projection_dim"])
        if given != needed:
            raise InputError(
                f"expected latents and prompts for a transformer of (channels, prompt, pooled) = {needed}, "
                f"got {given} in {self.shards.folder}"
            )

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": self.basis.parameters()}, {"params": list(self.router.parameters())}]

    def configuration(self) -> dict[str, Any]:
        shards = {**self.shards.settings, "data": self.shards.digest}
        return {"flux": asdict(self.config), "shards": shards, "layers": len(self.basis.layers)}

    def shard_units(self) -> list[nn.Module]:
        inner = self.transformer
        return [*inner.transformer_blocks, *inner.single_transformer_blocks, inner, self.router]

    def batch(self, rng: np.random.Generator, size: int) -> dict[str, Tensor]:
        # A batch is of one size: that of a sample drawn from all, so that each sample is as likely as any other.
        bucket = self.bucket_of[int(rng.integers(self.shards.count("train")))]
        chosen = [bucket[i] for i in rng.integers(len(bucket), size=size)]
        dropped = rng.random(size) < self.config.caption_dropout
        samples = self._read([("train", i) for i in chosen], dropped.tolist())
        generator = torch_generator(rng)
        # The mean of logit(t): the shift that the pipeline's schedule has for a picture of so many tokens.
        names = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
        schedule = [self.pipeline.scheduler.config[name] for name in names]
        t = random_times(size, generator, calculate_shift(samples["target"][0, 0].numel() // 4, *schedule))
        return {**samples, **flow_sample(samples["target"].float(), t, generator)}

    def _read(self, places: Sequence[tuple[str, int]], dropped: Sequence[bool]) -> dict[str, Tensor]:
        """Samples and prompts: latents [B, 16, 2h, 2w], query [B, 3, D], embeds [B, T, C], pooled [B, P]."""
        samples = []
        for place, empty in zip(places, dropped, strict=True):
            tensors, about = self.shards.sample(*place)
            embeds, pooled = self.shards.prompt(0 if empty else about["prompt"])
            samples.append({**tensors, "embeds": embeds, "pooled": pooled})
        return {k: torch.stack([x[k] for x in samples]) for k in samples[0]}

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        noisy, t = batch["noisy"], batch["t"]
        half, coefficients = self.transformer.dtype, self.coefficients(batch["query"])
        rows, columns = (edge // 2 for edge in noisy.shape[2:])
        # Not within basis.mixed: checkpointed blocks compute once more in the backward pass, after this returns.
        self.basis.coefficients = coefficients
        with self._precision(noisy.device):
            ids = [position_ids(rows, columns, k) for k in range(2)]
            v = self.transformer(
                hidden_states=torch.cat([pack(noisy), pack(batch["condition"].float())], dim=1).to(half),
                encoder_hidden_states=batch["embeds"].to(half),
                pooled_projections=batch["pooled"].to(half),
                timestep=t,
                guidance=torch.full_like(t, self.config.guidance) if self.transformer.config.guidance_embeds else None,
                img_ids=torch.cat(ids).to(noisy.device),
                txt_ids=t.new_zeros(batch["embeds"].shape[1], 3),
                return_dict=False,
            )[0][:, : rows * columns]
        loss = (v.float() - pack(batch["velocity"])).pow(2).mean()
        statistics = routing_statistics(coefficients.detach())
        return {"loss": loss, **{k: loss.new_tensor(x) for k, x in statistics.items()}}

    def coefficients(self, query: Tensor) -> Tensor:
        """Embeddings [B, 3, D] to coefficients [B, layers, N]."""
        return self.router(*query.unbind(1))

    def observe(self, step: int, folder: Path, is_main: bool) -> None:
        every = self.config.sample_every
        if not every or step % every:
            return
        drawn = self.draw()
        if is_main:
            (folder / "samples").mkdir(exist_ok=True)
            to_pil(drawn).save(folder / "samples" / f"{step:06d}.png")

    def sampled(self) -> list[tuple[str, int]]:
        """The analogies of the sample grids: as many of train as of val, fewer where there are not so many."""
        half = self.config.sample_count // 2
        return [(part, i) for part in ("train", "val") for i in range(min(half, self.shards.count(part)))]

    @torch.no_grad()
    def draw(self) -> Tensor:
        """What the basis draws now, one grid [[a, a'], [b, b']] beside another, in [-1, 1]: [3, H, W].

        Lower grids are filled up with white. Every process must call it together where the parameters are sharded.
        """
        half, device = self.transformer.dtype, self.router.keys.device
        self.pipeline.vae.to(device)
        self.pipeline.set_progress_bar_config(disable=True)
        grids = []
        for place in self.sampled():
            x = {k: v.to(device) for k, v in self._read([place], [False]).items()}
            height, width = (8 * edge for edge in x["target"].shape[2:])
            drawing: dict[str, Any] = {"size": (width, height), "steps": self.config.sampling_steps}
            drawing |= {"prompt_embeds": x["embeds"].to(half), "pooled_prompt_embeds": x["pooled"].to(half)}
            with self.basis.mixed(self.coefficients(x["query"])), self._precision(device):
                grids.append(run_pipeline(self.pipeline, x["condition"].to(half), **drawing))
        tallest = max(x.shape[-2] for x in grids)
        return torch.cat([F.pad(x, (0, 0, 0, tallest - x.shape[-2]), value=1.0) for x in grids], dim=-1)[0]

    def _precision(self, device: torch.device) -> Any:
        half = self.transformer.dtype
        return torch.autocast(device.type, half, enabled=half != torch.float32)

    def save(self, folder: Path) -> None:
        """Writes the released layout, ``lorweb.safetensors`` and ``config.yaml``, and the split beside it."""
        encoder = self.shards.settings.get("encoder")
        kwargs = {"external_query_model": encoder} if encoder else {}
        write_released(folder / WEIGHTS, released_tensors(self.basis, self.router), kwargs)
        text = json.dumps({**self.configuration(), "categories": self.shards.categories}, indent=1, ensure_ascii=False)
        write_atomically(folder / "trained.json", (text + "\n").encode())

    def start_from(self, folder: Path) -> None:
        open_released(folder).load_into(self.basis, self.router)
