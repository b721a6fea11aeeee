"""The base inside diffusers' own ``FluxKontextPipeline``, unmodified.

>>> pipeline = kontext_pipeline(editor.base, editor.autoencoder)
>>> pipeline(image=picture, num_inference_steps=8, **kontext_inputs(["flip it horizontally"])).images[0]

The pipeline samples with whatever LoRAs its transformer carries: inside ``editor.freeze(c)`` those of a mixture, after
``pipeline.load_lora_weights(path)`` those that ``editor.export_lora`` wrote for a base without a basis.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxKontextPipeline

from ..errors import InputError, check_seed, finite_number
from ..images import SIZE
from .autoencoder import MiniAutoencoder
from .base import Base, noise_for
from .text import vectors_of


def kontext_pipeline(base: Base, autoencoder: MiniAutoencoder) -> FluxKontextPipeline:
    """A pipeline on these very modules: nothing is copied.

    It has no text encoders; :func:`kontext_inputs` gives it sentence vectors instead. It takes opaque RGB pictures, and
    its results are those of ``Base.edit`` for the same noise, up to the rounding of floats.
    """
    scheduler = FlowMatchEulerDiscreteScheduler.from_config(base.scheduler.config)
    no_text = dict.fromkeys(("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
    pipeline = FluxKontextPipeline(scheduler, autoencoder, transformer=base.transformer, **no_text)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def kontext_inputs(
    instructions: Sequence[str], seeds: Sequence[int] | None = None, guidance: float = 1.0
) -> dict[str, Any]:
    """Arguments of a call of the pipeline for 64×64 pictures, all but ``image`` and ``num_inference_steps``.

    Args:
        instructions: one for each of B pictures; the empty text is no instruction.
        seeds: of the starting noise, one for each picture; by default 0 for all.
        guidance: above 1, extrapolates from the prediction without instruction, at twice the cost.

    InputError for other than one seed an instruction, a guidance below 1, or a text that cannot be embedded.
    """
    seeds = [0] * len(instructions) if seeds is None else seeds
    if isinstance(instructions, str) or not len(instructions) or len(seeds) != len(instructions):
        raise InputError(f"expected a list of instructions and one seed for each, got {instructions!r} and {seeds!r}")
    seeds, guidance = [check_seed(seed) for seed in seeds], finite_number(guidance, "guidance", 1)
    text = vectors_of(list(instructions))
    inputs = {
        "prompt_embeds": text[:, None],
        "pooled_prompt_embeds": text,
        "latents": noise_for(seeds, (SIZE // 16) ** 2),  # 8 pixels a latent pixel, 2 latent pixels a token
        "height": SIZE,
        "width": SIZE,
        # Without these two diffusers enlarges everything to about a million pixels.
        "max_area": SIZE * SIZE,
        "_auto_resize": False,
    }
    if guidance > 1:
        nothing = torch.zeros_like(text)
        inputs |= {
            "negative_prompt_embeds": nothing[:, None],
            "negative_pooled_prompt_embeds": nothing,
            "true_cfg_scale": guidance,
        }
    return inputs
