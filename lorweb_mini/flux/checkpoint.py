"""The released checkpoint: its layout on disk, read, checked and written.

For every adapted Linear ``<m>`` of diffusers' ``FluxTransformer2DModel`` one safetensors file holds, in half precision,

    transformer.<m>.lora_A                  [N, in, r]
    transformer.<m>.lora_B                  [N, r, out]
    transformer.<m>.lora_keys               [N, d]
    transformer.<m>.att_lora_to_q.weight    [d, query_dim]

with the layer's output y = W x + sum_n c_n (x A_n) B_n, so A_n and B_n are the transposes of ours. A ``config.yaml``
beside it says under ``config.process[0].network.network_kwargs`` how they are mixed. Nothing is read before its shape
is known, and layers can be read one at a time.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import yaml
from diffusers import FluxTransformer2DModel
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..core.basis import Basis, adapted_linears
from ..core.router import Router
from ..errors import InputError

PREFIX = "transformer."
A, B, KEYS, PROJECTION = "lora_A", "lora_B", "lora_keys", "att_lora_to_q.weight"
QUERY_MODE = "cat-aa'b"
CONFIG_FILE = "config.yaml"
_KEY = re.compile(rf"{re.escape(PREFIX)}(.+)\.({A}|{B}|{KEYS}|{re.escape(PROJECTION)})")

# FLUX.1-Kontext-dev's own transformer/config.json, where it departs from the defaults of the class.
KONTEXT: dict[str, Any] = {"num_layers": 19, "num_single_layers": 38, "guidance_embeds": True}

# Module name to (in, out), in the order of the model.
Modules = Mapping[str, tuple[int, int]]


@dataclass(frozen=True)
class ReleasedConfig:
    """Sizes of a checkpoint, and what its config.yaml says.

    Attributes:
        n_loras, rank, keys_dim, query_dim: N, r, d, and the width of a query (three embeddings in a row).
        network_kwargs: as in config.yaml; empty without one.
    """

    n_loras: int
    rank: int
    keys_dim: int
    query_dim: int
    network_kwargs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def encoder(self) -> str | None:
        """What the router looks through, if config.yaml names it."""
        return self.network_kwargs.get("external_query_model")


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
    c = config
    return {
        f"{PREFIX}{name}.{part}": shape
        for name, (wide, high) in modules.items()
        for part, shape in (
            (A, (c.n_loras, wide, c.rank)),
            (B, (c.n_loras, c.rank, high)),
            (KEYS, (c.n_loras, c.keys_dim)),
            (PROJECTION, (c.keys_dim, c.query_dim)),
        )
    }


class ReleasedFile:
    """A checkpoint whose header is read and checked; its tensors are read when asked for.

    Attributes:
        path: the safetensors file.
        config: its sizes.
        modules: module name to (in, out); its order is that of ``layers``.
    """

    def __init__(self, path: Path, config: ReleasedConfig, modules: Modules) -> None:
        self.path, self.config, self.modules = path, config, modules

    @property
    def layers(self) -> list[str]:
        """Names of the adapted modules; index l of coefficients [batch, layers, N] is layers[l]."""
        return list(self.modules)

    @property
    def parameters(self) -> int:
        """Number of values in the file."""
        c = self.config
        one = c.n_loras * c.keys_dim + c.keys_dim * c.query_dim
        return sum(c.n_loras * c.rank * (wide + high) + one for wide, high in self.modules.values())

    def layer(self, name: str) -> ReleasedLayer:
        """Reads one layer; InputError for another name."""
        if name not in self.modules:
            raise InputError(f"expected one of the {len(self.modules)} layers of {self.path}, got {name!r}")
        # Opened anew for each layer: a mapped file counts as the process's memory until it is let go.
        with safe_open(self.path, framework="pt") as file:
            parts = [file.get_tensor(f"{PREFIX}{name}.{part}") for part in (A, B, KEYS, PROJECTION)]
            return ReleasedLayer(name, *parts)

    def __iter__(self) -> Iterator[ReleasedLayer]:
        """All layers in order, each read when its turn comes."""
        return (self.layer(name) for name in self.modules)

    def tensors(self) -> dict[str, Tensor]:
        """All tensors under their own keys, at once."""
        with safe_open(self.path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}

    def load_into(self, basis: Basis, router: Router) -> None:
        """Copies the checkpoint into a basis and a router of its sizes, layer by layer.

        The router's mean 0 and deviation 1 are set: the released query is not standardised.

        Raises:
            InputError: other layers or sizes.
        """
        ours = (basis.n_loras, basis.rank, router.keys.shape[2], router.query_projection.shape[2])
        c = self.config
        theirs = (c.n_loras, c.rank, c.keys_dim, c.query_dim)
        if ours != theirs or set(basis.layers) != set(self.modules) or len(router.keys) != len(basis.layers):
            raise InputError(
                f"expected a basis and a router with (N, r, d, query width) = {theirs} on the {len(self.modules)} "
                f"layers of {self.path}, got {ours} on {len(basis.layers)}"
            )
        with torch.no_grad():
            for index, name in enumerate(basis.layers):
                layer = self.layer(name)
                low, high = basis.factors(index)
                low.copy_(layer.A.transpose(1, 2))
                high.copy_(layer.B.transpose(1, 2))
                router.keys[index].copy_(layer.keys)
                router.query_projection[index].copy_(layer.projection)
            router.mean.zero_()
            router.deviation.fill_(1)


def open_released(path: str | Path, modules: Modules | None = None) -> ReleasedFile:
    """Opens a checkpoint and checks every key and every shape, from the header alone.

    Args:
        path: the safetensors file, or a folder with exactly one below it.
        modules: what it must adapt (:func:`modules_of`, :func:`kontext_modules`); by default whatever it says, provided
            that all of it fits together.

    Raises:
        InputError: no such file, a truncated or foreign one, missing or unexpected keys, wrong shapes (each named, with
            what was expected and found), or a config.yaml that says otherwise or asks for something that is not
            implemented here.
    """
    file, folders = _find(Path(path))
    config, modules = _checked(file, modules)
    return ReleasedFile(file, _with_kwargs(config, folders), modules)


def _checked(file: Path, modules: Modules | None) -> tuple[ReleasedConfig, Modules]:
    """Sizes and modules of a file whose every key and shape is as it must be."""
    shapes = _shapes(file)
    foreign = [key for key in shapes if _KEY.fullmatch(key) is None]
    names = list(dict.fromkeys(match[1] for key in shapes if (match := _KEY.fullmatch(key))))
    if not names:
        raise InputError(
            f"expected a LoRWeB checkpoint with keys such as {PREFIX}<module>.{A}, "
            f"got {file} with {_some(foreign) if foreign else 'no tensors'}"
        )
    if modules is None:
        kontext = kontext_modules()
        modules = kontext if set(names) == set(kontext) else _modules_in(shapes, sorted(names, key=_place))
    config = _sizes(shapes, modules, file)
    expected = released_shapes(config, modules)
    problems = []
    if missing := [key for key in expected if key not in shapes]:
        problems.append(f"{len(missing)} missing keys: {_some(missing)}")
    if unexpected := [key for key in shapes if key not in expected]:
        problems.append(f"{len(unexpected)} unexpected keys: {_some(unexpected)}")
    wrong = [
        f"{key}: expected {list(shape)}, found {list(shapes[key])}"
        for key, shape in expected.items()
        if key in shapes and shapes[key] != shape
    ]
    if wrong:
        problems.append(f"{len(wrong)} wrong shapes: {_some(wrong, '; ')}")
    if problems:
        raise InputError(
            f"expected {len(modules)} adapted layers with N={config.n_loras}, r={config.rank}, d={config.keys_dim} and "
            f"queries of {config.query_dim} in {file}; {'; '.join(problems)}"
        )
    return config, modules


def read_released(path: str | Path, modules: Modules | None = None) -> tuple[ReleasedConfig, dict[str, Tensor]]:
    """Sizes and all tensors of a checkpoint, checked; see :func:`open_released`."""
    file = open_released(path, modules)
    return file.config, file.tensors()


def released_tensors(basis: Basis, router: Router, dtype: torch.dtype = torch.float16) -> dict[str, Tensor]:
    """A basis and its router under the released keys and in the released shapes.

    Raises:
        InputError: a router that standardises its query, which this layout cannot say, or one of another basis.
    """
    if bool(router.mean.any()) or bool((router.deviation != 1).any()):
        raise InputError("expected a router with mean 0 and deviation 1, got one that standardises its query")
    if router.keys.shape[:2] != (len(basis.layers), basis.n_loras):
        raise InputError(
            f"expected a router for {len(basis.layers)} layers and {basis.n_loras} LoRAs, "
            f"got one for {router.keys.shape[0]} and {router.keys.shape[1]}"
        )
    state = {}
    for index, name in enumerate(basis.layers):
        low, high = basis.factors(index)
        parts = {
            A: low.transpose(1, 2),
            B: high.transpose(1, 2),
            KEYS: router.keys[index],
            PROJECTION: router.query_projection[index],
        }
        for part, tensor in parts.items():
            state[f"{PREFIX}{name}.{part}"] = tensor.detach().to("cpu", dtype).contiguous()
    return state


def write_released(
    path: str | Path, tensors: Mapping[str, Tensor], network_kwargs: Mapping[str, Any] | None = None
) -> Path:
    """Writes a checkpoint of :func:`released_tensors` or :func:`read_released`, bit for bit, and its config.yaml.

    ``network_kwargs`` are kept in config.yaml, but for those that the shapes and the formula determine.

    Raises:
        InputError: a path that does not end in ``.safetensors``, or tensors in another layout; no file is left then.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise InputError(f"expected a path that ends in .safetensors, got {path.name!r}")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        save_file(dict(tensors), part, metadata={"format": "pt"})
        config, _ = _checked(part, None)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    kwargs = {
        **(network_kwargs or {}),
        "loras_num": config.n_loras,
        "lora_keys_dim": config.keys_dim,
        "lora_heads": 1,
        "lora_softmax": True,
        "query_mode": QUERY_MODE,
    }
    network = {"linear": config.rank, "linear_alpha": config.rank, "network_kwargs": kwargs}
    text = yaml.safe_dump({"config": {"process": [{"network": network}]}}, sort_keys=False)
    (path.parent / CONFIG_FILE).write_text(text, encoding="utf-8")
    return path


def _find(path: Path) -> tuple[Path, list[Path]]:
    """The weights file, and the folders where its config.yaml may lie."""
    if path.is_dir():
        found = sorted(path.rglob("*.safetensors"))
        if len(found) != 1:
            names = _some([str(x.relative_to(path)) for x in found]) if found else "none"
            raise InputError(f"expected one .safetensors file in {path}, got {names}; name the file itself")
        return found[0], [found[0].parent, path]
    if not path.is_file():
        raise InputError(f"expected a checkpoint (a .safetensors file, or a folder with one), got {str(path)!r}")
    return path, [path.parent]


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(
            f"expected a whole safetensors file, got a truncated or foreign one: {path} ({error})"
        ) from None


def _modules_in(shapes: Mapping[str, tuple[int, ...]], names: list[str]) -> dict[str, tuple[int, int]]:
    """Widths that a checkpoint itself claims; 0 where the tensor that would say is missing or of another kind."""
    found = {}
    for name in names:
        low, high = (shapes.get(f"{PREFIX}{name}.{part}", ()) for part in (A, B))
        found[name] = (low[1] if len(low) == 3 else 0, high[2] if len(high) == 3 else 0)
    return found


def _sizes(shapes: Mapping[str, tuple[int, ...]], modules: Modules, path: Path) -> ReleasedConfig:
    """N, r, d and the width of a query, as most layers have them, so that one wrong layer is the one complained of."""
    votes: dict[str, list[int]] = {"N": [], "r": [], "d": [], "query": []}
    for name in modules:
        low, projection = (shapes.get(f"{PREFIX}{name}.{part}", ()) for part in (A, PROJECTION))
        if len(low) == 3:
            votes["N"].append(low[0])
            votes["r"].append(low[2])
        if len(projection) == 2:
            votes["d"].append(projection[0])
            votes["query"].append(projection[1])
    if not all(votes.values()):
        raise InputError(
            f"expected {PREFIX}<module>.{A} [N, in, r] and .{PROJECTION} [d, query] for modules such as "
            f"{next(iter(modules))}, got none of the right kind in {path}: {_some(list(shapes))}"
        )
    most = {name: max(set(found), key=found.count) for name, found in votes.items()}
    return ReleasedConfig(most["N"], most["r"], most["d"], most["query"])


def _with_kwargs(config: ReleasedConfig, folders: list[Path]) -> ReleasedConfig:
    """Adds what config.yaml says, once it agrees with the shapes and with what is implemented."""
    path = next((folder / CONFIG_FILE for folder in folders if (folder / CONFIG_FILE).is_file()), None)
    if path is None:
        return config
    try:
        network = yaml.safe_load(path.read_text(encoding="utf-8"))["config"]["process"][0]["network"]
        kwargs = dict(network.get("network_kwargs") or {})
    except (yaml.YAMLError, OSError, UnicodeDecodeError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"expected config.process[0].network in {path}, got something else: {error!r}") from None
    said = {
        "network.linear": (network.get("linear"), config.rank),
        "network.linear_alpha": (network.get("linear_alpha"), config.rank),  # the factor α / r is 1
        "loras_num": (kwargs.get("loras_num"), config.n_loras),
        "lora_keys_dim": (kwargs.get("lora_keys_dim"), config.keys_dim),
        "lora_heads": (kwargs.get("lora_heads"), 1),
        "lora_softmax": (kwargs.get("lora_softmax"), True),
        "query_mode": (kwargs.get("query_mode"), QUERY_MODE),
    }
    for name, (found, needed) in said.items():
        # The released command line may leave numbers and truth values as text.
        if found is not None and str(found).lower() != str(needed).lower():
            raise InputError(f"expected {name}: {needed} in {path}, got {found!r}")
    return ReleasedConfig(config.n_loras, config.rank, config.keys_dim, config.query_dim, kwargs)


def _place(name: str) -> tuple[str | int, ...]:
    """Sorts modules as a Flux model has them: double blocks first, block 2 before block 10, norm1 before attn."""
    kind, block, inside = (*name.split(".", 2), "", "")[:3]
    if not block.isdigit():
        return (2, 0, 0, name)
    known = [x.removeprefix(f"{kind}.0.") for x in kontext_modules() if x.startswith(f"{kind}.0.")]
    return (kind.startswith("single_"), int(block), known.index(inside) if inside in known else len(known), name)


def _some(names: list[str], joint: str = ", ") -> str:
    """The first five of a list, and how many more there are."""
    more = f"{joint}and {len(names) - 5} more" if len(names) > 5 else ""
    return joint.join(names[:5]) + more
