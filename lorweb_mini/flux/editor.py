"""The same method at its real scale: FLUX.1-Kontext in diffusers' own pipeline, and the released basis.

>>> import lorweb_mini as lw
>>> editor = lw.load_flux(quantize="4bit")           # a CUDA GPU, the model's licence accepted on the hub
>>> editor.edit("a.png", "a_prime.png", "b.png", prompt="", steps=28).image
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from diffusers import FluxKontextPipeline
from torch import Tensor, nn

from ..core.editor import Editor
from ..core.layout import Layout
from ..core.router import Router
from ..errors import InputError, check_options, finite_number
from ..models.weights import aligned
from .checkpoint import ReleasedConfig, released_tensors, write_released
from .lora_file import write_plain_lora
from .picture_encoder import PictureEncoder, check_side, read_picture, read_triplets, scaled_grid

GUIDANCE = 2.5  # an input of Kontext, which was distilled to need no second pass


class Kontext:
    """The backend of the real scale: a Kontext pipeline, and a vision tower for the router.

    The image condition is the grid [[a, a'], [b, b]]. As in the release, a' and b are stretched to a's size, a's aspect
    is kept, and the grid has the nearest size that Kontext knows, see :func:`~.picture_encoder.grid_size`.

    Args:
        pipeline: diffusers' own, on its device (or with offloading).
        side: of one square picture, in pixels, a multiple of 16; Kontext knows grids of 512.
        device: where the pipeline computes.
        small: where encoder and router stay; with offloading the processor, since they are small.
    """

    layout = Layout("grid")
    pair_encoder = None
    steps = 28
    options: tuple[str, ...] = ("prompt", "guidance")
    read = staticmethod(read_picture)

    def __init__(
        self,
        pipeline: FluxKontextPipeline,
        encoder: PictureEncoder,
        config: ReleasedConfig,
        side: int = 512,
        device: str | torch.device = "cpu",
        small: str | torch.device | None = None,
    ) -> None:
        encoder.check_width(config.query_dim)
        self.base, self.config, self.side, self.device = pipeline, config, check_side(side), torch.device(device)
        self.small = torch.device(small or device)
        self.autoencoder, self.encoder = pipeline.vae, encoder.to(self.small)
        for part in (*pipeline.components.values(), self.encoder):
            if isinstance(part, nn.Module):
                aligned(part)
        pipeline.set_progress_bar_config(disable=True)

    def read_triplet(self, a: Any, a_prime: Any, b: Any) -> list[Tensor]:
        triplets = read_triplets(a, a_prime, b)
        if len(sizes := {tuple(triplet[0].shape[-2:]) for triplet in triplets}) > 1:
            listed = ", ".join(f"{width}×{height}" for height, width in sorted(sizes))
            raise InputError(f"expected pictures a of one size in a batch, got {listed}: edit them one by one")
        return [torch.cat(pictures) for pictures in zip(*triplets, strict=True)]

    def encode(self, pictures: Tensor) -> Tensor:
        return pictures

    def embed(self, a: Tensor, a_prime: Tensor, b: Tensor) -> list[Tensor]:
        return list(self.encoder.query(a, a_prime, b).chunk(3, dim=1))

    def draw(
        self,
        a: Tensor | None,
        a_prime: Tensor | None,
        b: Tensor,
        *,
        steps: int,
        seed: int,
        prompt: str | Sequence[str] = "",
        guidance: float = GUIDANCE,
    ) -> Tensor:
        """Runs the pipeline on the grid, to whole grids [B, 3, H, W] in [-1, 1].

        ``prompt`` says what to do, for all or for each: the released model was trained with instructions, and without
        one the pictures alone say it. InputError for another number of prompts than of pictures, or a guidance below 0.
        """
        prompts = [prompt] * len(b) if isinstance(prompt, str) else prompt
        texts = isinstance(prompts, (list, tuple)) and all(isinstance(x, str) for x in prompts)
        if not texts or len(prompts) != len(b):
            raise InputError(f"expected one prompt, or one for each of {len(b)} analogies, got {prompt!r}")
        guidance = finite_number(guidance, "guidance")
        assert a is not None and a_prime is not None
        pixels = scaled_grid(a, a_prime, b, b, self.side)
        height, width = pixels.shape[-2:]
        with torch.device("cpu"):  # whatever default another library has set; the pipeline names its own
            return run_pipeline(self.base, (pixels + 1) / 2, (width, height), steps, seed, guidance, prompt=[*prompts])

    def decode(self, drawn: Tensor) -> Tensor:
        """The bottom-right quarter of a grid, [B, 3, H / 2, W / 2]."""
        height, width = drawn.shape[-2:]
        return drawn[:, :, height // 2 :, width // 2 :]


def run_pipeline(
    pipeline: FluxKontextPipeline,
    image: Tensor,
    size: tuple[int, int],
    steps: int,
    seed: int = 0,
    guidance: float = GUIDANCE,
    **prompts: Any,
) -> Tensor:
    """What Kontext draws from images or their latents at exactly this (width, height): [B, 3, H, W] in [-1, 1]."""
    width, height = size
    drawn = pipeline(
        image=image,
        width=width,
        height=height,
        # Without these two diffusers takes another size, near a million pixels.
        max_area=width * height,
        _auto_resize=False,
        num_inference_steps=steps,
        guidance_scale=guidance,
        # On the processor, so that a seed means the same noise whatever the device.
        generator=[torch.Generator("cpu").manual_seed(seed) for _ in image],
        output_type="pt",
        **prompts,
    ).images
    return drawn.float().cpu() * 2 - 1


class FluxEditor(Editor):
    """:class:`~lorweb_mini.core.editor.Editor` on :class:`Kontext`, whose arguments it takes.

    The basis is added to the transformer of ``pipeline``. ``edit`` and ``generate`` take two options more, ``prompt``
    and ``guidance``, see :meth:`Kontext.draw`.
    """

    backend: Kontext
    router: Router

    def __init__(self, pipeline: FluxKontextPipeline, *arguments: Any, **options: Any) -> None:
        super().__init__(backend := Kontext(pipeline, *arguments, **options))
        self.pipeline, self.side, self.small = pipeline, backend.side, backend.small
        for parameter in self.basis.parameters():
            parameter.data = parameter.data.to(pipeline.dtype)  # a quantised base gives PEFT no dtype to follow
            parameter.requires_grad_(False)
        self.router.eval().requires_grad_(False).to(self.small, torch.float32)

    def save(self, folder: str | Path, **notes: Any) -> None:
        """Writes ``lorweb.safetensors`` in the released layout, and its config.yaml with ``notes``."""
        write_released(Path(folder) / "lorweb.safetensors", released_tensors(self.basis, self.router), notes)

    def freeze(self, coefficients: Tensor) -> AbstractContextManager[Editor]:
        """As :meth:`Editor.freeze`; InputError for a quantised transformer as well, whose weights take no sum."""
        if getattr(self.pipeline.transformer, "is_quantized", False):
            raise InputError(
                "expected a transformer in floating point: quantised weights cannot take a mixture up. "
                "The dynamic form costs little more, and export_lora writes a plain LoRA"
            )
        return super().freeze(coefficients)

    def export_lora(self, coefficients: Tensor, path: str | Path, **options: Any) -> Path:
        """As :meth:`Editor.export_lora`, with the options ``key_format``, ``rank`` and ``dtype`` of
        :func:`~lorweb_mini.flux.lora_file.write_plain_lora`."""
        check_options(options, ("key_format", "rank", "dtype"))
        self.basis.check_adapter()
        return write_plain_lora(path, self.basis.folded(coefficients), **options)
