"""What a FLUX training reads, computed before it: latents, router queries and prompt embeddings as Arrow files.

With these neither T5 nor CLIP nor the autoencoder is in memory while training. A folder of shards holds

    settings.json                  what was computed, with what weights
    splits.json                    which categories are train, val and test
    data.json                      caption and digest of every pair that it was computed from
    train-00000.arrow, …           one row an analogy: its tensors and their CRC-32, the latents' size, category, names,
                                   caption, prompt
    prompts-00000.arrow, …         one row a caption: "embeds" [T, C] and "pooled" [P]; prompt 0 is the empty one
    index.json                     the number of rows of every file

The column ``tensors`` is safetensors bytes: ``target`` and ``condition``, normalised latents [16, h, w] of the grids
[[a, a'], [b, b']] and [[a, a'], [b, b]], encoded as whole grids as the pipeline encodes them, and ``query`` [3, D], the
router's embeddings. ``datasets`` streams the files, too: ``load_dataset("arrow", data_files=…, streaming=True)``.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, concatenate_datasets
from diffusers import FluxKontextPipeline
from safetensors.torch import load, save
from torch import Tensor, nn

from ..errors import InputError, whole_number
from ..files import made_folder, read_json, write_atomically
from . import dataset
from .dataset import PARTS, SPLITS, PicturePair, some
from .picture_encoder import PictureEncoder, check_side, fit_pictures, read_picture, scaled_grid

SETTINGS, DATA, INDEX = "settings.json", "data.json", "index.json"
PROMPTS_A_FILE = 64
Row = dict[str, Any]
Analogy = tuple[PicturePair, PicturePair]


@dataclass(frozen=True)
class ShardSettings:
    """What is computed."""

    side: int = 256  # of one square picture in pixels, half of its grid; other aspects keep about that area
    text_tokens: int = 512  # length T of a prompt; diffusers' own 512 unless sampling uses another
    each: int = 300  # analogies of a category; 0 for all n · (n − 1)
    seed: int = 0  # which analogies, in which order
    samples: int = 500  # in one file

    def __post_init__(self) -> None:
        """InputError for numbers that are not whole or too small, and a side that is no multiple of 16."""
        object.__setattr__(self, "side", check_side(self.side))
        for name, least in (("text_tokens", 1), ("each", 0), ("seed", 0), ("samples", 1)):
            # As Python's own numbers, which JSON can write.
            object.__setattr__(self, name, whole_number(getattr(self, name), name, least))


def read_set(
    data: str | Path, splits: str | Path | None = None
) -> tuple[dict[str, list[PicturePair]], dict[str, list[str]]]:
    """The pairs of each category of a folder, and which categories are train, val and test; InputError as there."""
    relations = dataset.read_relations(data)
    names = list(relations)
    return relations, dataset.read_splits(splits, names) if splits else dataset.split_categories(names)


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
        splits: a split file of these categories; by default :func:`~lorweb_mini.flux.dataset.split_categories`.
        names: further settings to keep, such as where pipeline and encoder came from.

    Raises:
        InputError: what the readers of the folder raise, a picture that is broken, or shards of other settings,
            weights, pictures or captions.
    """
    out, settings = Path(out), settings or ShardSettings()
    made_folder(out)
    relations, parts = read_set(data, splits)
    content = {**asdict(settings), **_models_used(pipeline, encoder), **(names or {})}
    _claim(out, {SETTINGS: content, SPLITS: parts, DATA: dataset.check_pictures(relations)})
    captions = sorted({pair.caption for pairs in relations.values() for pair in pairs})
    prompts = {caption: number for number, caption in enumerate(["", *captions])}

    def prompt(caption: str) -> Row:
        # One at a time: what a caption's embedding is must not depend on its neighbours in a batch.
        pair = pipeline.encode_prompt(caption, None, device=device, max_sequence_length=settings.text_tokens)[:2]
        return {"caption": caption, **_packed({"embeds": pair[0][0], "pooled": pair[1][0]})}

    def sample(analogy: Analogy) -> Row:
        first, second = analogy
        tensors = _encoded(pipeline, encoder, analogy, settings.side, device)
        height, width = tensors["target"].shape[1:]
        return {
            "category": first.category,
            "first": first.name,
            "second": second.name,
            "caption": first.caption,
            "prompt": prompts[first.caption],
            "height": height,
            "width": width,
            **_packed(tensors),
        }

    rows = _write(out, "prompts", list(prompts), PROMPTS_A_FILE, prompt)
    for part in PARTS:
        few = {name: relations[name] for name in parts[part]}
        chosen = dataset.sample_analogies(few, settings.each or None, settings.seed)
        rows |= _write(out, part, chosen, settings.samples, sample)
    write_atomically(out / INDEX, json.dumps(rows, indent=1).encode())
    return LatentShards(out)


def _encoded(
    pipeline: FluxKontextPipeline, encoder: PictureEncoder, analogy: Analogy, side: int, device: str | torch.device
) -> dict[str, Tensor]:
    """Tensors of one analogy; latents are the posterior's mode, as the pipeline's condition is."""
    paths = [path for pair in analogy for path in (pair.control, pair.target)]
    a, a_prime, b, b_prime = fit_pictures(*(read_picture(path, str(path)) for path in paths))
    tensors, vae = {"query": encoder.query(a, a_prime, b).view(3, -1)}, pipeline.vae
    for name, corner in (("target", b_prime), ("condition", b)):
        pixels = scaled_grid(a, a_prime, b, corner, side).to(device, vae.dtype)
        latent = vae.encode(pixels).latent_dist.mode()
        tensors[name] = ((latent - vae.config.shift_factor) * vae.config.scaling_factor)[0]
    return tensors


def _packed(tensors: Mapping[str, Tensor]) -> Row:
    content = save({k: v.cpu().contiguous() for k, v in tensors.items()})
    return {"tensors": content, "checksum": zlib.crc32(content)}


def _write(out: Path, stem: str, items: Sequence[Any], size: int, row_of: Callable[[Any], Row]) -> dict[str, int]:
    """Writes the files ``<stem>-<number>.arrow`` that are not there yet, whole or not at all; returns their rows."""
    rows = {}
    for start in range(0, len(items), size):
        path, numbers = out / f"{stem}-{start // size:05d}.arrow", range(start, min(start + size, len(items)))
        rows[path.name] = len(numbers)
        if not path.exists():
            with torch.no_grad():
                Dataset.from_dict({"number": numbers}).map(
                    lambda row: row_of(items[row["number"]]),
                    remove_columns="number",
                    cache_file_name=str(path),
                    writer_batch_size=16,
                    new_fingerprint=path.stem,  # or the models would be hashed
                    desc=f"{path.name}, {numbers.stop:,} of {len(items):,}",
                )
    return rows


def _models_used(pipeline: FluxKontextPipeline, encoder: PictureEncoder) -> dict[str, Any]:
    """Settings that follow from the models, and digests of their weights and configurations."""
    models = {part: getattr(pipeline, part) for part in ("vae", "text_encoder", "text_encoder_2")}
    configurations = {
        part: dict(model.config if part == "vae" else model.config.to_dict()) for part, model in models.items()
    }
    for part in ("tokenizer", "tokenizer_2"):
        tokenizer = getattr(pipeline, part)
        configurations[part] = {"words": sorted(tokenizer.get_vocab().items()), "most": tokenizer.model_max_length}
    configurations["encoder"] = encoder.model.config.to_dict() | {"processor": encoder.processor.to_dict()}
    return {
        "embedding_dim": encoder.embedding_dim,
        "dtype": str(pipeline.vae.dtype).removeprefix("torch."),
        "weights": {part: _digest_of_weights(model) for part, model in {**models, "encoder": encoder}.items()},
        "configurations": {part: _digest_of_settings(config) for part, config in configurations.items()},
    }


def _digest_of_settings(config: Mapping[str, Any]) -> str:
    """A digest of what decides a result, and of neither names nor versions."""
    kept = {k: v for k, v in config.items() if k[0] != "_" and k not in ("transformers_version", "dtype")}
    return hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()


def _digest_of_weights(model: nn.Module) -> str:
    """A digest of names, shapes and every k-th value; weights of another training differ in it."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        few = tensor.flatten()[:: max(1, tensor.numel() // 64)].float().cpu()
        digest.update(f"{name}{list(tensor.shape)}".encode() + few.numpy().tobytes())
    return digest.hexdigest()


def _claim(out: Path, files: Mapping[str, Mapping[str, Any]]) -> None:
    """Writes what a new folder's shards are made from; InputError, with what differs, where it holds others."""
    differ: list[str] = []
    for name, new in files.items():
        if (out / name).exists():
            old = read_json(out / name, ())
            keys = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
            differ += [_difference(key, old.get(key), new.get(key)) for key in keys]
        elif any(out.glob("*.arrow")):
            raise InputError(f"expected {name} beside the shards in {out}, got none")
        else:
            write_atomically(out / name, json.dumps(new, indent=1, ensure_ascii=False).encode())
    if differ:
        raise InputError(
            f"expected shards of the same settings, pictures and captions in {out}, got others: {some(differ)}. "
            f"Choose another folder, or delete this one"
        )


def _difference(key: str, old: Any, new: Any) -> str:
    if isinstance(old, dict) and isinstance(new, dict):
        return f"{' and '.join(name for name in new if old.get(name) != new[name])} of {key}"
    if isinstance(old or new, dict):
        return f"{key} ({'added' if old is None else 'removed'})"
    return f"the split's {key}" if isinstance(new, list) else f"{key} (was {old!r}, is {new!r})"


class LatentShards:
    """Shards that :func:`write_shards` finished, memory-mapped; every file is opened and counted at once.

    ``settings`` and ``categories`` are those of settings.json and splits.json, ``captions`` the text of each prompt;
    ``digest`` is of pictures, captions and split, so that a training does not go on with other data.

    Raises:
        InputError: no finished shards, or a file that is missing or damaged.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not (self.folder / INDEX).is_file():
            raise InputError(f"expected finished shards in {folder}, got none")
        needed = {SETTINGS: ("embedding_dim", "side", "text_tokens"), SPLITS: PARTS, INDEX: ("prompts-00000.arrow",)}
        self.settings, self.categories, rows = (read_json(self.folder / name, keys) for name, keys in needed.items())
        if gone := [name for name in (*rows, DATA) if not (self.folder / name).is_file()]:
            raise InputError(f"expected {len(rows)} shards in {folder}, got {len(gone)} missing: {some(gone)}")
        parts = defaultdict(list)
        for name, count in rows.items():
            parts[name.split("-")[0]].append(_opened(self.folder / name, count))
        self._data = {part: concatenate_datasets(files) for part, files in parts.items()}
        self.captions: list[str] = list(self._data["prompts"]["caption"])
        content = b"".join((self.folder / name).read_bytes() for name in (DATA, SPLITS))
        self.digest = hashlib.sha256(content).hexdigest()

    def count(self, part: str) -> int:
        """Number of samples of train, val or test."""
        return len(self._data.get(part, ()))

    def buckets(self, part: str) -> list[list[int]]:
        """Numbers of the samples that share one size and can stand in one batch."""
        buckets = defaultdict(list)
        if self.count(part):
            sizes = self._data[part].select_columns(["height", "width"])[:]
            for number, size in enumerate(zip(*sizes.values(), strict=True)):
                buckets[size].append(number)
        return list(buckets.values())

    def sample(self, part: str, number: int) -> tuple[dict[str, Tensor], Row]:
        """Tensors of one sample (see the module), and category, names, caption, size and prompt number."""
        row = self._data[part][number]
        content = row.pop("tensors")
        if zlib.crc32(content) != row["checksum"]:
            raise InputError(
                f"expected whole tensors in {part} {number} of {self.folder}, got other bytes than were written"
            )
        return load(content), row

    def prompt(self, number: int) -> tuple[Tensor, Tensor]:
        """Embeddings of a caption: [T, C] and, pooled, [P]."""
        tensors, _ = self.sample("prompts", number)
        return tensors["embeds"], tensors["pooled"]


def _opened(path: Path, count: int) -> Dataset:
    try:
        data = Dataset.from_file(str(path))
    except Exception as error:  # Arrow raises kinds of its own, and built-in ones
        detail = " ".join(str(error).split())[:200]
        raise InputError(f"expected {count} rows in {path}, got a damaged file: {detail}") from None
    if len(data) != count:
        raise InputError(f"expected {count} rows in {path}, got a damaged file: {len(data)} rows")
    return data
