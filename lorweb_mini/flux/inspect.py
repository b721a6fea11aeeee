"""Measures of a released checkpoint, on the CPU and one layer at a time; neither FLUX nor a GPU is needed."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..algebra import cosines, effective_rank, pca
from ..core.router import Router
from ..errors import InputError
from ..files import made_folder
from ..training.log import routing_statistics
from .checkpoint import ReleasedFile, ReleasedLayer, kontext_modules
from .dataset import is_picture, visible
from .picture_encoder import PictureEncoder, read_triplets


@dataclass(frozen=True)
class Inspection:
    """Measures of the weights, for L layers and N LoRAs of rank r."""

    file: ReleasedFile  # what was measured
    key_norms: np.ndarray  # [L, N]
    key_cosines: np.ndarray  # between a layer's keys, [L, N, N]
    norms: np.ndarray  # Frobenius norms ‖B_n A_n‖, [L, N]
    update_cosines: np.ndarray  # between a layer's updates, [L, N, N]
    lora_ranks: np.ndarray  # effective rank of every single update, 1 to r, [L, N]
    # singular values of the even mixture sum_n B_n A_n / N, largest first, zeros where a layer is narrower: [L, N·r]
    spectra: np.ndarray
    effective_ranks: np.ndarray  # of the even mixture, [L]

    def table(self) -> list[dict[str, Any]]:
        """One row a layer, of plain numbers; the cosines are absolute ones between different LoRAs."""
        other = ~np.eye(self.norms.shape[1], dtype=bool)
        keys, updates = (np.abs(x[:, other]) for x in (self.key_cosines, self.update_cosines))
        if not other.any():  # a single LoRA
            keys = updates = np.zeros((len(self.norms), 1))
        columns = {
            "key_norm": self.key_norms.mean(1),
            "key_cosine_mean": keys.mean(1),
            "key_cosine_max": keys.max(1),
            "norm_mean": self.norms.mean(1),
            "norm_min": self.norms.min(1),
            "norm_max": self.norms.max(1),
            "update_cosine_mean": updates.mean(1),
            "update_cosine_max": updates.max(1),
            "lora_rank_mean": self.lora_ranks.mean(1),
            "mixture_norm": np.linalg.norm(self.spectra, axis=1),
            "mixture_effective_rank": self.effective_ranks,
        }
        return [
            {"layer": name, "in": wide, "out": high, **{k: float(x[i]) for k, x in columns.items()}}
            for i, (name, (wide, high)) in enumerate(self.file.modules.items())
        ]

    def save(self, folder: str | Path) -> list[Path]:
        """Writes layers.csv (the table) and layers.json (the table with norms and spectra of every layer)."""
        written = [Path(folder) / "layers.csv", Path(folder) / "layers.json"]
        made_folder(written[0].parent)
        rows = self.table()
        write_csv(written[0], rows)
        more = zip(rows, self.norms.tolist(), self.spectra.tolist(), strict=True)
        full = [{**row, "norms": norms, "spectrum": spectrum} for row, norms, spectrum in more]
        written[1].write_text(json.dumps({"parameters": self.file.parameters, "layers": full}, indent=1))
        return written

    def __str__(self) -> str:
        """A summary, with layers of one kind taken together."""
        ours, known = self.file.modules.keys(), kontext_modules().keys()
        config = self.file.config
        lines = [
            f"{len(ours)} adapted layers, {len(known & ours)} of the {len(known)} in FLUX.1-Kontext",
            f"N = {config.n_loras} LoRAs of rank {config.rank}; {self.file.parameters:,} parameters",
            f"{'':<44}{'layers':>7}{'‖B_n A_n‖':>11}{'|cos| of':>10}{'|cos| of':>10}{'eff. rank':>11}{'eff. rank':>11}",
            f"{'kind of layer':<44}{'':>7}{'':>11}{'updates':>10}{'keys':>10}{'one LoRA':>11}{'mixture':>11}",
        ]
        columns = ("norm_mean", "update_cosine_mean", "key_cosine_mean", "lora_rank_mean", "mixture_effective_rank")
        kinds: dict[str, list[list[float]]] = {}
        for row in self.table():
            kind = ".".join(x for x in row["layer"].split(".") if not x.isdigit())
            kinds.setdefault(kind, []).append([row[column] for column in columns])
        for kind, rows in kinds.items():
            norm, updates, keys, one, mixture = np.mean(rows, axis=0)
            lines.append(
                f"{kind:<44}{len(rows):>7}{norm:>11.4g}{updates:>10.3f}{keys:>10.3f}{one:>11.2f}{mixture:>11.1f}"
            )
        return "\n".join(lines)


def inspect_released(file: ReleasedFile, progress: bool = False) -> Inspection:
    """Reads a checkpoint layer by layer and measures it; memory is that of one layer and of the result."""
    directions = file.config.n_loras * file.config.rank
    with torch.no_grad():
        layers = [_measured(layer) for layer in tqdm(file, total=len(file.layers), disable=not progress)]
    spectra = [x.pop("spectrum") for x in layers]
    return Inspection(
        file,
        spectra=np.stack([np.pad(x, (0, directions - len(x))) for x in spectra]),
        effective_ranks=np.array([effective_rank(x) for x in spectra]),
        **{name: torch.stack([x[name] for x in layers]).numpy() for name in layers[0]},
    )


def _measured(layer: ReleasedLayer) -> dict[str, Tensor]:
    """Norms, cosines and effective ranks of a layer's updates and keys, and the spectrum of the even mixture."""
    # Not algebra's gram and svd_of_product: two triangles suffice here, in less memory and a third of the time.
    low, high = (x.double() for x in layer.factors())  # [N, r, in], [N, out, r]
    keys, (n, r) = layer.keys.double(), low.shape[:2]
    inner = torch.linalg.qr(low.flatten(0, 1).T, mode="r").R  # [min(N·r, in), N·r]
    outer = torch.linalg.qr(high.permute(1, 0, 2).flatten(1), mode="r").R
    gram = ((inner.T @ inner) * (outer.T @ outer)).view(n, r, n, r).sum((1, 3))
    # r × r again: the singular values of B_n A_n are those of the product of the blocks' own triangles.
    small = [torch.linalg.qr(x.view(len(x), n, r).permute(1, 0, 2), mode="r").R for x in (outer, inner)]
    single = torch.linalg.svdvals(small[0] @ small[1].mT)
    return {
        "key_norms": keys.norm(dim=1),
        "key_cosines": cosines(keys @ keys.T),
        "norms": gram.diagonal().clamp(min=0).sqrt(),
        "update_cosines": cosines(gram),
        "lora_ranks": torch.tensor([effective_rank(x) for x in single], dtype=torch.float32, device="cpu"),
        "spectrum": torch.linalg.svdvals(outer @ inner.T) / n,
    }


def read_analogies(folder: str | Path) -> tuple[list[str], list[list[Tensor]]]:
    """Analogies of a folder: each subfolder holds pictures named ``a``, ``a_prime`` and ``b``.

    Gives names of the subfolders, and for each [a, a', b] as :func:`~.picture_encoder.read_triplets`; InputError
    where there is no subfolder, or one that lacks a picture.
    """
    places = [x for x in visible(Path(folder)) if x.is_dir()] if Path(folder).is_dir() else []
    if not places:
        raise InputError(f"expected a folder of folders with pictures a, a_prime and b, got {str(folder)!r}")
    triplets = []
    for place in places:
        pictures = list(filter(is_picture, visible(place)))
        files = {name: [x for x in pictures if x.stem == name] for name in ("a", "a_prime", "b")}
        for name, paths in files.items():
            if len(paths) != 1:
                raise InputError(f"expected one picture {name} in {place}, got {len(paths)}")
        triplets += read_triplets(*files.values())
    return [x.name for x in places], triplets


@torch.no_grad()
def route_released(file: ReleasedFile, query: Tensor) -> Tensor:
    """Mixing coefficients [k, layers, N] of k queries, one layer of the checkpoint in memory at a time.

    ``query`` holds embeddings of a, a' and b in a row, [k, query_dim]; InputError for those of another width.
    """
    c = file.config
    if query.ndim != 2 or query.shape[1] != c.query_dim:
        raise InputError(f"expected queries [k, {c.query_dim}], got {list(query.shape)}")
    router = Router(1, c.n_loras, c.query_dim // 3, c.keys_dim)
    rows = []
    for layer in file:
        router.keys[0].copy_(layer.keys)
        router.query_projection[0].copy_(layer.projection)
        rows.append(router.logits(query.float()).softmax(dim=-1))
    return torch.cat(rows, dim=1)


def route_pictures(file: ReleasedFile, encoder: PictureEncoder, *triplets: Sequence[Tensor]) -> Tensor:
    """Mixing coefficients [k, layers, N] of analogies; neither FLUX nor a GPU is needed.

    ``triplets`` are each [a, a', b] of one size, [B, 3, H, W] in [-1, 1]; k is the sum of their B. InputError for an
    encoder of another width than the checkpoint's router has.
    """
    encoder.check_width(file.config.query_dim)
    return route_released(file, torch.cat([encoder.query(*x) for x in triplets]))


def routing_table(names: Iterable[str], coefficients: Tensor) -> list[dict[str, Any]]:
    """One row an analogy: its place on the first two principal components of all, and how its mixture is spread.

    ``effective`` is exp of the mean entropy, 1 to N; ``top`` the LoRA with the largest mean coefficient.
    """
    vectors = coefficients.flatten(1).numpy()
    points = pca(vectors, min(2, len(vectors) - 1)).points if len(vectors) > 1 else np.zeros((1, 0))
    rows = []
    for name, point, c in zip(names, points.tolist(), coefficients, strict=True):
        effective = float(np.exp(routing_statistics(c[None])["entropy"]))
        top_mean, top = c.mean(0).max(0)
        place = dict(zip(("pc1", "pc2"), point, strict=False))
        rows.append({"analogy": name, **place, "effective": effective, "top": int(top), "top_mean": float(top_mean)})
    return rows


def write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Writes rows with the keys of the first as columns."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
