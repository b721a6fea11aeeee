"""The released checkpoint: its layout on disk, read, checked and written.

For every adapted Linear ``<m>`` of diffusers' ``FluxTransformer2DModel`` one safetensors file holds, in half precision,

    transformer.<m>.lora_A                  [N, in, r]
    transformer.<m>.lora_B                  [N, r, out]
    transformer.<m>.lora_keys               [N, d]
    transformer.<m>.att_lora_to_q.weight    [d, query_dim]

with the layer's output y = W x + sum_n c_n (x A_n) B_n, so A_n and B_n are the transposes of ours. A ``config.yaml``
beside it or one folder up says under ``config.process[0].network.network_kwargs`` how they are mixed. ``linear_alpha``
there is ignored, as the released trainer and inference ignore it.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import yaml
from diffusers import FluxTransformer2DModel
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..adapter import adapted_linears
from ..core.basis import Basis
from ..core.router import Router
from ..errors import InputError
from ..files import whole_file, write_atomically
from ..models.weights import check_finite, load_tensors
from .dataset import some

PREFIX = "transformer."
PARTS = A, B, KEYS, PROJECTION = "lora_A", "lora_B", "lora_keys", "att_lora_to_q.weight"
CONFIG_FILE = "config.yaml"
_KEY = re.compile(rf"{re.escape(PREFIX)}(.+)\.({'|'.join(map(re.escape, PARTS))})")
# What is implemented here, and what the released inference expects to be told.
MIXING: dict[str, Any] = {
    "lora_heads": 1,
    "lora_softmax": True,
    "mixing_coeffs_type": "mean",
    "query_projection_type": "linear",
    "external_query": True,
    "query_mode": "cat-aa'b",
}

# Where FLUX.1-Kontext-dev's own transformer/config.json departs from the defaults of the class.
KONTEXT: dict[str, Any] = {"num_layers": 19, "num_single_layers": 38, "guidance_embeds": True}

# Module name to (in, out), in the order of the model.
Modules = Mapping[str, tuple[int, int]]


@dataclass(frozen=True)
class ReleasedConfig:
    """Sizes of a checkpoint (N, r, d, and the width of a query: three embeddings), and its config.yaml's kwargs."""

    n_loras: int
    rank: int
    keys_dim: int
    query_dim: int
    network_kwargs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def encoder(self) -> str | None:
        """Hub name of the router's picture encoder, if config.yaml has it."""
        return self.network_kwargs.get("external_query_model")


# The paper's sizes: 835,051,520 values on all 494 Linears of the blocks.
PAPER = ReleasedConfig(n_loras=32, rank=4, keys_dim=128, query_dim=3 * 768)


@dataclass(frozen=True)
class ReleasedLayer:
    """One layer: A [N, in, r], B [N, r, out], keys [N, d], projection [d, query_dim]."""

    name: str
    A: Tensor
    B: Tensor
    keys: Tensor
    projection: Tensor

    def factors(self) -> tuple[Tensor, Tensor]:
        """A [N, r, in] and B [N, out, r] as :meth:`Basis.factors` has them, in single precision."""
        return self.A.float().transpose(1, 2), self.B.float().transpose(1, 2)


def modules_of(transformer: nn.Module) -> dict[str, tuple[int, int]]:
    """The Linears that a basis adapts, with their widths; the transformer may be on the ``meta`` device."""
    linears = dict(transformer.named_modules())
    return {name: (linears[name].in_features, linears[name].out_features) for name in adapted_linears(transformer)}


@lru_cache(maxsize=1)
def kontext_modules() -> Modules:
    """The 494 Linears of FLUX.1-Kontext's blocks, from its configuration alone."""
    with torch.device("meta"):
        return modules_of(FluxTransformer2DModel(**KONTEXT))


def released_shapes(config: ReleasedConfig, modules: Modules) -> dict[str, tuple[int, ...]]:
    """Every key of a checkpoint of these sizes and its shape, in the order of the model."""
    n, r, d, query = config.n_loras, config.rank, config.keys_dim, config.query_dim
    return {
        f"{PREFIX}{name}.{part}": shape
        for name, (wide, high) in modules.items()
        for part, shape in zip(PARTS, ((n, wide, r), (n, r, high), (n, d), (d, query)), strict=True)
    }


@dataclass(frozen=True)
class ReleasedFile:
    """A checkpoint whose header was checked; iterating reads layer after layer, in the order of ``modules``."""

    path: Path
    config: ReleasedConfig
    modules: Modules

    @property
    def layers(self) -> list[str]:
        """Names of the adapted modules; index l of coefficients [batch, layers, N] is layers[l]."""
        return list(self.modules)

    @property
    def parameters(self) -> int:
        """Number of values in the file."""
        return sum(torch.Size(x).numel() for x in released_shapes(self.config, self.modules).values())

    def layer(self, name: str) -> ReleasedLayer:
        """Reads one layer; InputError for another name, and for NaN or infinity in it."""
        if name not in self.modules:
            raise InputError(f"expected one of the {len(self.modules)} layers of {self.path}, got {name!r}")
        # Opened anew for each layer: a mapped file counts as the process's memory until it is closed.
        with safe_open(self.path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in (f"{PREFIX}{name}.{part}" for part in PARTS)}
        check_finite(tensors.items(), self.path)
        return ReleasedLayer(name, *tensors.values())

    def __iter__(self) -> Iterator[ReleasedLayer]:
        return map(self.layer, self.modules)

    def tensors(self) -> dict[str, Tensor]:
        """All tensors under their own keys, at once; InputError for NaN or infinity in one."""
        return load_tensors(self.path)

    @torch.no_grad()
    def load_into(self, basis: Basis, router: Router) -> None:
        """Copies it to a basis and a router, which then does not standardise its query; InputError for other sizes."""
        c = self.config
        theirs = (c.n_loras, c.rank, c.keys_dim, c.query_dim)
        ours = (basis.n_loras, basis.rank, router.keys.shape[2], router.query_projection.shape[2])
        if ours != theirs or set(basis.layers) != set(self.modules) or len(router.keys) != len(basis.layers):
            raise InputError(
                f"expected a basis and a router with (N, r, d, query width) = {theirs} on the {len(self.modules)} "
                f"layers of {self.path}, got {ours} on {len(basis.layers)}"
            )
        for index, name in enumerate(basis.layers):
            layer = self.layer(name)
            for own, read in zip(basis.factors(index), layer.factors(), strict=True):
                own.copy_(read)
            router.keys[index].copy_(layer.keys)
            router.query_projection[index].copy_(layer.projection)
        router.mean.zero_()
        router.deviation.fill_(1)


def open_released(path: str | Path, modules: Modules | None = None) -> ReleasedFile:
    """Opens a checkpoint and checks every key and every shape, from the header alone; warns without a config.yaml.

    ``path`` is the safetensors file, or a folder with exactly one below it; ``modules`` is what it must adapt
    (:func:`modules_of`), by default whatever it says, if all of it fits together.

    Raises:
        InputError: no such file, a truncated or foreign one, missing or unexpected keys, wrong shapes (each named), or
            a config.yaml that says otherwise or asks for something that is not implemented here.
    """
    file = path = Path(path)
    if path.is_dir():
        files = sorted(x for x in path.rglob("*.safetensors") if not x.name.startswith("."))
        if len(files) != 1:
            names = some([str(x.relative_to(path)) for x in files]) or "none"
            raise InputError(f"expected one .safetensors file in {path}, got {names}; name the file itself")
        file = files[0]
    elif not path.is_file():
        raise InputError(f"expected a checkpoint (a .safetensors file, or a folder with one), got {str(path)!r}")
    config, modules = _checked(file, modules)
    return ReleasedFile(file, replace(config, network_kwargs=_network_kwargs(file, path, config)), modules)


def _checked(file: Path, modules: Modules | None = None) -> tuple[ReleasedConfig, Modules]:
    """Sizes and modules of a file whose keys and shapes are all as those of its first whole layer say."""
    try:
        with safe_open(file, framework="pt") as opened:
            found = {key: tuple(opened.get_slice(key).get_shape()) for key in opened.keys()}
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(
            f"expected a whole safetensors file, got a truncated or foreign one: {file}, {error}"
        ) from None
    names = modules or _names_in(found)
    layers = {name: [found.get(f"{PREFIX}{name}.{part}", ()) for part in PARTS] for name in names}
    whole = [layer for layer in layers.values() if [len(shape) for shape in layer] == [3, 3, 2, 2]]
    if not whole:
        raise InputError(
            f"expected a LoRWeB checkpoint with keys such as {PREFIX}<module>.{A} [N, in, r], "
            f"got {file} with {some([f'{k} {list(x)}' for k, x in found.items()]) or 'no tensors'}"
        )
    _, (n, r, _), _, (d, query) = whole[0]
    config = ReleasedConfig(n, r, d, query)
    if modules is None and layers.keys() == kontext_modules().keys():
        modules = kontext_modules()
    elif modules is None:
        modules = {
            name: (low[1] if len(low) == 3 else 0, high[2] if len(high) == 3 else 0)
            for name, (low, high, _, _) in layers.items()
        }
    expected = released_shapes(config, modules)
    differences = {
        "missing keys": [key for key in expected if key not in found],
        "unexpected keys": [key for key in found if key not in expected],
        "wrong shapes": [
            f"{key}: expected {list(shape)}, found {list(found[key])}"
            for key, shape in expected.items()
            if found.get(key, shape) != shape
        ],
    }
    if problems := [f"{len(x)} {kind}: {some(x, '; ')}" for kind, x in differences.items() if x]:
        sizes = f"N={n}, r={r}, d={d} and queries of {query}"
        raise InputError(f"expected {len(modules)} adapted layers with {sizes} in {file}; {'; '.join(problems)}")
    return config, modules


def _names_in(keys: Iterable[str]) -> list[str]:
    """Names of the layers that keys are of, in the order of Kontext's, others behind them."""
    order = {name: place for place, name in enumerate(kontext_modules())}
    names = {match[1] for key in keys if (match := _KEY.fullmatch(key))}
    return sorted(names, key=lambda name: (order.get(name, len(order)), name))


def released_tensors(basis: Basis, router: Router, dtype: torch.dtype = torch.float16) -> dict[str, Tensor]:
    """A basis and its router under the released keys and in the released shapes.

    InputError for a router of another basis or one that all layers share, and for one that standardises its query or
    does not mix by softmax, which the layout cannot say.
    """
    if bool(router.mean.any()) or bool((router.deviation != 1).any()):
        raise InputError("expected a router with mean 0 and deviation 1, got one that standardises its query")
    if router.mixing != "softmax" or router.temperature != 1:
        raise InputError(
            f"expected a router with softmax at temperature 1, got {router.mixing} at {router.temperature:g}"
        )
    if router.keys.shape[:2] != (len(basis.layers), basis.n_loras):
        raise InputError(
            f"expected a router for {len(basis.layers)} layers and {basis.n_loras} LoRAs, "
            f"got one for {router.keys.shape[0]} and {router.keys.shape[1]}"
        )
    state = {}
    for index, name in enumerate(basis.layers):
        low, high = (x.transpose(1, 2) for x in basis.factors(index))
        for part, tensor in zip(PARTS, (low, high, router.keys[index], router.query_projection[index]), strict=True):
            state[f"{PREFIX}{name}.{part}"] = tensor.detach().to("cpu", dtype).contiguous()
    return state


def write_released(
    path: str | Path, tensors: Mapping[str, Tensor], network_kwargs: Mapping[str, Any] | None = None
) -> Path:
    """Writes the tensors of :func:`released_tensors` or of another checkpoint, bit for bit, and a config.yaml.

    ``network_kwargs`` are kept in config.yaml, but for those that the shapes and the formula determine.

    Raises:
        InputError: a path that does not end in ``.safetensors``, or tensors in another layout; no file is left then.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise InputError(f"expected a path that ends in .safetensors, got {path.name!r}")
    with whole_file(path) as part:
        save_file(dict(tensors), part, metadata={"format": "pt"})
        config, _ = _checked(part)
    kwargs = {"pooling_type": "avg", **(network_kwargs or {}), **_determined(config)}
    network = {"linear": config.rank, "linear_alpha": config.rank, "network_kwargs": kwargs}
    text = yaml.safe_dump({"config": {"process": [{"network": network}]}}, sort_keys=False, allow_unicode=True)
    write_atomically(path.parent / CONFIG_FILE, text.encode())
    return path


def _determined(config: ReleasedConfig) -> dict[str, Any]:
    """What network_kwargs must say of a checkpoint of these sizes."""
    return {"loras_num": config.n_loras, "lora_keys_dim": config.keys_dim, **MIXING}


def _network_kwargs(file: Path, asked: Path, config: ReleasedConfig) -> dict[str, Any]:
    """What config.yaml says, once it agrees with the shapes and with what is implemented; empty without one."""
    network, kwargs, place = _configuration(file, asked)
    if silent := [f"{key}: {value}" for key, value in MIXING.items() if kwargs.get(key) is None]:
        where = f"{place} does not say all" if place else f"no {CONFIG_FILE} beside {file} or one folder up"
        warnings.warn(
            f"{where}. Shapes do not show how the LoRAs are mixed; assumed {', '.join(silent)}. "
            f"A basis that was trained otherwise (tanh, several heads) gives wrong pictures.",
            stacklevel=3,
        )
    said = {"linear": network.get("linear"), **kwargs}
    for name, value in {"linear": config.rank, **_determined(config)}.items():
        # The released command line may leave numbers and truth values as text.
        if said.get(name) not in (None, value) and str(said[name]).lower() != str(value).lower():
            raise InputError(f"expected {name}: {value} in {place}, got {said[name]!r}")
    if not isinstance(encoder := kwargs.get("external_query_model"), (str, type(None))):
        raise InputError(f"expected external_query_model as the name of a model in {place}, got {encoder!r}")
    return kwargs


def _configuration(file: Path, asked: Path) -> tuple[dict[str, Any], dict[str, Any], Path | None]:
    """The network of config.yaml, its network_kwargs, and where it lies: beside, above, or in the folder asked for."""
    for folder in (file.parent, file.absolute().parent.parent, asked):
        if (place := folder / CONFIG_FILE).is_file():
            try:
                network = yaml.safe_load(place.read_text(encoding="utf-8-sig"))["config"]["process"][0]["network"]
                return network, dict(network.get("network_kwargs") or {}), place
            except Exception as error:  # YAML and what it may hold fail in many ways
                if folder == file.parent:  # one folder up it may belong to something else
                    detail = str(error)[:300]
                    raise InputError(f"expected config.process[0].network in {place}, got {detail}") from None
    return {}, {}, None
