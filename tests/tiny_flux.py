"""A Kontext pipeline with random weights: components of diffusers' and transformers' own classes, a few units wide."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxKontextPipeline, FluxTransformer2DModel
from PIL import Image
from torch import Tensor
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    SiglipVisionConfig,
    SiglipVisionModel,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from lorweb_mini.flux.checkpoint import modules_of, write_released

N, RANK, KEYS_DIM, EMBEDDING = 3, 2, 8, 16
SIDE = 16  # of a picture; a grid is 32×32 pixels, 4 tokens
TEXT = 32
TOWER = {
    "hidden_size": 32,
    "intermediate_size": 37,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}

torch.set_num_threads(1)


def tiny_transformer(doubles: int = 1, singles: int = 1, seed: int = 0) -> FluxTransformer2DModel:
    """Kontext's own options, 32 wide."""
    torch.manual_seed(seed)
    model = FluxTransformer2DModel(
        num_layers=doubles,
        num_single_layers=singles,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=TEXT,
        pooled_projection_dim=TEXT,
        guidance_embeds=True,
        axes_dims_rope=(4, 6, 6),
    )
    return model.eval().requires_grad_(False)


def tiny_pipeline(doubles: int = 1, singles: int = 1, seed: int = 0) -> FluxKontextPipeline:
    """All parts in single precision; the same seed gives the same weights."""
    transformer = tiny_transformer(doubles, singles, seed)
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=16,
        norm_num_groups=4,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=0.9,
        shift_factor=0.1,
        mid_block_add_attention=False,
    )
    clip = CLIPTextConfig(
        vocab_size=32,
        hidden_size=TEXT,
        intermediate_size=37,
        num_hidden_layers=1,
        num_attention_heads=4,
        max_position_embeddings=16,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    t5 = T5Config(vocab_size=32, d_model=TEXT, d_kv=8, d_ff=37, num_layers=1, num_heads=4)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = {"<|startoftext|>": 0, "<|endoftext|>": 1} | {f"{x}</w>": i + 2 for i, x in enumerate(letters)}
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)] + [(x, -3.0) for x in letters]
    pipeline = FluxKontextPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0),
        vae=vae,
        text_encoder=CLIPTextModel(clip),
        tokenizer=CLIPTokenizer(vocab=words, merges=[], model_max_length=16),
        text_encoder_2=T5EncoderModel(t5),
        tokenizer_2=T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=16),
        transformer=transformer,
    )
    for part in (vae, pipeline.text_encoder, pipeline.text_encoder_2):
        part.eval().requires_grad_(False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def tiny_clip(folder: Path, seed: int = 3) -> Path:
    """A CLIP vision tower with embeddings of 16 numbers and its image processor, saved."""
    torch.manual_seed(seed)
    CLIPVisionModelWithProjection(CLIPVisionConfig(projection_dim=EMBEDDING, **TOWER)).save_pretrained(folder)
    shape = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    return _processor(folder, image_processor_type="CLIPImageProcessor", **shape)


def tiny_siglip(folder: Path, seed: int = 3) -> Path:
    """A SigLIP vision tower with embeddings of 32 numbers, saved in the same way."""
    torch.manual_seed(seed)
    SiglipVisionModel(SiglipVisionConfig(**TOWER)).save_pretrained(folder)
    return _processor(folder, image_processor_type="SiglipImageProcessor", size={"height": 32, "width": 32})


def _processor(folder: Path, **settings: Any) -> Path:
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder


def tiny_tensors(transformer: FluxTransformer2DModel, seed: int = 5) -> dict[str, Tensor]:
    """Random tensors in half precision under the released keys, written out by hand."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, (wide, high) in modules_of(transformer).items():
        shapes = {
            "lora_A": (N, wide, RANK),
            "lora_B": (N, RANK, high),
            "lora_keys": (N, KEYS_DIM),
            "att_lora_to_q.weight": (KEYS_DIM, 3 * EMBEDDING),
        }
        for part, shape in shapes.items():
            scale = 0.3 if part in ("lora_A", "lora_B") else 1.0
            state[f"transformer.{name}.{part}"] = (scale * torch.randn(shape, generator=generator)).half()
    return state


def tiny_released(folder: Path, transformer: FluxTransformer2DModel, seed: int = 5) -> Path:
    """A checkpoint in the released layout with its config.yaml."""
    return write_released(folder / "lorweb.safetensors", tiny_tensors(transformer, seed))


def squares(k: int, seed: int = 0, side: int = SIDE) -> Tensor:
    """Random smooth pictures [k, 3, side, side] in [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(k, 3, 4, 4, generator=generator) * 2 - 1
    return torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear")


def drawn_grids(
    pipeline: FluxKontextPipeline, image: Any, prompts: str | list[str], steps: int, seed: int = 0, side: int = SIDE
) -> Tensor:
    """What an unmodified pipeline makes of grids, called as somebody would who knows only diffusers; in [-1, 1]."""
    count = 1 if isinstance(prompts, str) else len(prompts)
    drawn = pipeline(
        image=image,
        prompt=prompts,
        height=2 * side,
        width=2 * side,
        max_area=4 * side * side,
        _auto_resize=False,
        num_inference_steps=steps,
        guidance_scale=2.5,
        generator=[torch.Generator().manual_seed(seed) for _ in range(count)],
        output_type="pt",
    ).images
    return 2 * drawn - 1


def folders(root: Path, sizes: dict[str, int], side: int = 16, shape: tuple[int, int] | None = None) -> Path:
    """Categories of random pictures; captions in JSON for every other category, beside the pictures for the rest."""
    rng = np.random.default_rng(0)
    for place, (category, count) in enumerate(sizes.items()):
        captions = {}
        for i in range(count):
            for part in ("control", "target"):
                (root / category / part).mkdir(parents=True, exist_ok=True)
                pixels = rng.integers(0, 256, (*(shape or (side, side)), 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / category / part / f"{i:02d}.png")
            captions[f"{i:02d}"] = f"{category} {'abcdefgh'[i % 8]}"
        if place % 2:
            for name, text in captions.items():
                (root / category / "target" / f"{name}.txt").write_text(text + "\n")
        else:
            (root / category / "captions.json").write_text(json.dumps(captions))
    return root
