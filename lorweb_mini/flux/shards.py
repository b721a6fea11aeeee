"""What a Flux training reads, computed before it: latents, router queries and prompt embeddings in tar shards.

With these neither T5 nor CLIP nor the autoencoder is in memory while training. A folder of shards holds

    settings.json               what was computed, from what
    splits.json                 which categories are train, val and test
    train-00000.tar, …          samples in webdataset's layout: <key>.safetensors and <key>.json side by side
    prompts-00000.safetensors   embeddings of 64 captions each: "embeds" [64, T, C], "pooled" [64, P]
    index.json                  captions, and where in its shard each sample begins

A sample's tensors are ``target`` and ``condition``, normalised latents [16, 2h, 2w] of the grids [[a, a'], [b, b']] and
[[a, a'], [b, b]], encoded as whole grids as the pipeline encodes them when it draws, and ``query`` [3, D], the router's
embeddings of a, a' and b. Prompt 0 is the empty one.

Anything that reads webdataset shards streams the tar files; :class:`LatentShards` reads any sample in place, one at a
time, so that step s of a training sees the same samples whether or not the run was interrupted before it.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import FluxKontextPipeline
from safetensors import safe_open
from safetensors.torch import load as load_bytes
from safetensors.torch import save, save_file
from torch import Tensor
from tqdm.auto import tqdm

from ..core.layout import grid
from ..errors import InputError
from ..files import write_atomically
from .dataset import (
    PARTS,
    SPLITS,
    FolderAnalogy,
    check_pictures,
    draw_analogies,
    read_relations,
    read_splits,
    split_categories,
    write_splits,
)
from .picture_encoder import PictureEncoder, read_squares

SETTINGS, INDEX = "settings.json", "index.json"
PROMPTS_A_FILE = 64
Item = TypeVar("Item")


@dataclass(frozen=True)
class ShardSettings:
    """What is computed.

    Attributes:
        side: of one picture in pixels; the grid has twice that.
        text_tokens: length T of a prompt; diffusers' own 512 unless drawing uses another.
        each: analogies of a category; None for all n · (n − 1).
        seed: which analogies, in which order.
        samples: in one shard.
    """

    side: int = 512
    text_tokens: int = 512
    each: int | None = 300
    seed: int = 0
    samples: int = 500


def write_shards(
    pipeline: FluxKontextPipeline,
    encoder: PictureEncoder,
    data: str | Path,
    out: str | Path,
    settings: ShardSettings | None = None,
    splits: str | Path | None = None,
    device: str | torch.device = "cpu",
    names: dict[str, str] | None = None,
) -> LatentShards:
    """Computes the shards of a folder of picture pairs; a killed run goes on after its last whole file.

    Args:
        pipeline: Kontext's; its transformer is not used and may be None. Tensors are kept in its dtype.
        encoder: what the router looks through.
        data: see :mod:`~lorweb_mini.flux.dataset`.
        splits: a split file of these categories; by default :func:`~lorweb_mini.flux.dataset.split_categories`.
        names: further settings to keep, such as where pipeline and encoder came from.

    Raises:
        InputError: what the readers of the folder raise, a picture that is broken, or shards of other settings.
    """
    out, settings = Path(out), settings or ShardSettings()
    out.mkdir(parents=True, exist_ok=True)
    relations = read_relations(data)
    parts = read_splits(splits, list(relations)) if splits else split_categories(list(relations))
    check_pictures(relations)
    dtype = str(pipeline.vae.dtype).removeprefix("torch.")
    content = {**vars(settings), "embedding_dim": encoder.embedding_dim, "dtype": dtype, **(names or {})}
    _claim(out, content, parts)
    captions = ["", *sorted({pair.caption for pairs in relations.values() for pair in pairs})]
    _write_prompts(pipeline, captions, out, settings.text_tokens, device)
    prompt_of = {caption: i for i, caption in enumerate(captions)}
    shards: dict[str, dict[str, list]] = {}
    for part in PARTS:
        chosen = draw_analogies({k: relations[k] for k in parts[part]}, settings.each, settings.seed)
        bar = tqdm(total=len(chosen), desc=part, unit="analogy")
        shards[part] = {}
        for number, few in enumerate(_groups(chosen, settings.samples)):
            path = out / f"{part}-{number:05d}.tar"
            if not path.exists():
                _write_shard(path, _samples(few, prompt_of, pipeline, encoder, settings.side, device))
            shards[part][path.name] = _members(path)
            bar.update(len(few))
        bar.close()
    index = {"captions": captions, "categories": parts, "shards": shards}
    write_atomically(out / INDEX, json.dumps(index, ensure_ascii=False).encode())
    return LatentShards(out)


def _claim(out: Path, content: dict[str, Any], parts: dict[str, list[str]]) -> None:
    """Writes settings and split of a new folder; InputError where it holds others."""
    content, split = json.loads(json.dumps(content)), out / SPLITS
    if (out / SETTINGS).exists():
        found = json.loads((out / SETTINGS).read_text(encoding="utf-8"))
        differ = sorted(k for k in found.keys() | content.keys() if found.get(k) != content.get(k))
        if split.exists() and json.loads(split.read_text(encoding="utf-8")) != parts:
            differ.append("splits")
        if differ:
            raise InputError(f"expected shards of the same settings in {out}, got others: {', '.join(differ)} differ")
    write_splits(split, parts)
    write_atomically(out / SETTINGS, json.dumps(content, indent=1).encode())


@torch.no_grad()
def _write_prompts(
    pipeline: FluxKontextPipeline, captions: Sequence[str], out: Path, tokens: int, device: str | torch.device
) -> None:
    for number, few in enumerate(_groups(captions, PROMPTS_A_FILE)):
        path = out / f"prompts-{number:05d}.safetensors"
        if path.exists():
            continue
        # One at a time: what a caption's embedding is must not depend on its neighbours in a batch.
        found = [pipeline.encode_prompt(x, None, device=device, max_sequence_length=tokens)[:2] for x in few]
        embeds, pooled = (torch.cat(list(x)).cpu().contiguous() for x in zip(*found, strict=True))
        part = path.with_name(path.name + ".part")
        save_file({"embeds": embeds, "pooled": pooled}, part)
        os.replace(part, path)


@torch.no_grad()
def _samples(
    analogies: Sequence[FolderAnalogy],
    prompt_of: dict[str, int],
    pipeline: FluxKontextPipeline,
    encoder: PictureEncoder,
    side: int,
    device: str | torch.device,
) -> Iterator[tuple[dict[str, Tensor], dict[str, Any]]]:
    for x in analogies:
        paths = (x.first.control, x.first.target, x.second.control, x.second.target)
        a, a_prime, b, b_prime = (read_squares(path, str(path), side) for path in paths)
        tensors = {
            "target": _latents(pipeline, grid(a, a_prime, b, b_prime), device)[0],
            "condition": _latents(pipeline, grid(a, a_prime, b, b), device)[0],
            "query": encoder(torch.cat([a, a_prime, b])).float(),
        }
        about = {
            "category": x.first.category,
            "first": x.first.name,
            "second": x.second.name,
            "caption": x.first.caption,
            "prompt": prompt_of[x.first.caption],
        }
        yield {k: v.cpu().contiguous() for k, v in tensors.items()}, about


def _latents(pipeline: FluxKontextPipeline, pictures: Tensor, device: str | torch.device) -> Tensor:
    """Pictures in [-1, 1] to normalised latents: the mode of the posterior, as the pipeline's own condition is."""
    vae = pipeline.vae
    mode = vae.encode(pictures.to(device, vae.dtype)).latent_dist.mode()
    return (mode - vae.config.shift_factor) * vae.config.scaling_factor


def _write_shard(path: Path, samples: Iterator[tuple[dict[str, Tensor], dict[str, Any]]]) -> None:
    part = path.with_name(path.name + ".part")
    with tarfile.open(part, "w", format=tarfile.USTAR_FORMAT) as archive:
        for number, (tensors, about) in enumerate(samples):
            for kind, content in (("safetensors", save(tensors)), ("json", json.dumps(about).encode())):
                info = tarfile.TarInfo(f"{number:08d}.{kind}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    os.replace(part, path)


def _groups(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def _members(path: Path) -> list[list[int]]:
    """Offset and size of both members of each sample."""
    with tarfile.open(path) as archive:
        places = [[x.offset_data, x.size] for x in archive.getmembers()]
    return [[*tensors, *about] for tensors, about in zip(places[::2], places[1::2], strict=True)]


class LatentShards:
    """Shards that :func:`write_shards` finished; nothing is in memory but the index.

    Raises:
        InputError: no finished shards, or a file that is missing.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        try:
            self.settings: dict[str, Any] = json.loads((self.folder / SETTINGS).read_text(encoding="utf-8"))
            index = json.loads((self.folder / INDEX).read_text(encoding="utf-8"))
            self.captions: list[str] = index["captions"]
            self.categories: dict[str, list[str]] = index["categories"]
            shards: dict[str, dict[str, list[list[int]]]] = index["shards"]
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"expected finished shards in {folder}, got none: {error!r}") from None
        files = [name for part in shards.values() for name in part]
        files += [self._prompt_file(i).name for i in range(0, len(self.captions), PROMPTS_A_FILE)]
        if gone := [name for name in files if not (self.folder / name).is_file()]:
            raise InputError(
                f"expected {len(files)} shards in {folder}, got {len(gone)} missing: {', '.join(gone[:5])}"
            )
        self._places = {
            part: [(name, place) for name, places in shards.get(part, {}).items() for place in places] for part in PARTS
        }

    def count(self, part: str) -> int:
        """Number of samples of train, val or test."""
        return len(self._places[part])

    def files(self, part: str) -> list[Path]:
        """The tar files of a part, for readers that stream."""
        return [self.folder / name for name in dict.fromkeys(name for name, _ in self._places[part])]

    def sample(self, part: str, number: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors of one sample (see the module), and category, names, caption and prompt number."""
        name, (start, size, about_start, about_size) = self._places[part][number]
        with (self.folder / name).open("rb") as file:
            file.seek(start)
            tensors = load_bytes(file.read(size))
            file.seek(about_start)
            return tensors, json.loads(file.read(about_size))

    def prompt(self, number: int) -> tuple[Tensor, Tensor]:
        """Embeddings of a caption: [T, C] and, pooled, [P]."""
        row = number % PROMPTS_A_FILE
        with safe_open(self._prompt_file(number), framework="pt") as file:
            return file.get_slice("embeds")[row], file.get_slice("pooled")[row]

    def _prompt_file(self, number: int) -> Path:
        return self.folder / f"prompts-{number // PROMPTS_A_FILE:05d}.safetensors"
