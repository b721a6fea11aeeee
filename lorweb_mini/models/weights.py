"""Weight folders: one config.json and one model.safetensors, written in half precision, checked when read."""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from ..errors import InputError, one_line
from ..files import as_path, data_dir, made_folder, read_json, write_atomically

CONFIG, WEIGHTS = "config.json", "model.safetensors"
ALIGNMENT = 64  # bytes, of torch's own allocations in ordinary memory

Module = TypeVar("Module", bound=torch.nn.Module)


def weights_dir() -> Path:
    """The folder of the shipped weights."""
    return data_dir() / "weights"


def save_weights(folder: str | Path, config: dict[str, Any], state: dict[str, Tensor]) -> None:
    """Writes both files; each appears whole or not at all."""
    folder = as_path(folder)
    text = json.dumps(config, indent=1) + "\n"  # before anything is written, since it may fail
    half = {k: (v.half() if v.is_floating_point() else v).contiguous() for k, v in state.items()}
    write_atomically(folder / WEIGHTS, save(half))
    write_atomically(folder / CONFIG, text.encode())


def load_config(folder: str | Path) -> dict[str, Any]:
    """Reads config.json of a weights folder; :class:`InputError` when it is missing or not a JSON object."""
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise InputError(f"expected a weights folder with {CONFIG}, found none in {folder}")
    return read_json(path, ())


def check_config(made: Callable[..., Any], config: Mapping[str, Any], folder: str | Path) -> None:
    """Whether a configuration has what a class takes, and nothing else.

    Args:
        made: the class's ``__init__``, whose annotations say of what kind each value is. Numbers are finite and whole
            numbers at least 0.

    Raises:
        InputError: names are missing or unknown, or a value is of another kind. A default would stand in for it.
    """
    kinds = {name: kind for name, kind in get_type_hints(made).items() if name != "return"}
    for problem, names in (("without", kinds.keys() - config.keys()), ("with unknown", config.keys() - kinds.keys())):
        if names:
            raise InputError(
                f"expected a configuration with {', '.join(kinds)} in {folder}, "
                f"got one {problem} {', '.join(sorted(names))}"
            )
    for name, kind in kinds.items():
        if not _fits(config[name], kind):
            expected = getattr(kind, "__name__", str(kind)) if get_origin(kind) is None else str(kind)
            raise InputError(f"expected {name} as {expected} in {Path(folder) / CONFIG}, got {config[name]!r}")


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value read from JSON is of an annotated kind; lists serve for tuples and sequences."""
    parts = get_args(kind)
    if get_origin(kind) in (Union, UnionType):
        return any(_fits(value, part) for part in parts)
    if get_origin(kind) in (tuple, Sequence):
        items = value if isinstance(value, (list, tuple)) else ()
        length = len(items) if len(parts) == 1 or ... in parts else len(parts)
        return items is value and len(items) == length and all(_fits(item, parts[0]) for item in items)
    if kind in (int, float):
        number = isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)
        return number and (value >= 0 if kind is int else math.isfinite(value))
    return isinstance(value, kind)


def load_weights(folder: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Configuration and tensors (single precision) of a weights folder; InputError for missing or damaged files."""
    config = load_config(folder)
    path = Path(folder) / WEIGHTS
    if not path.is_file():
        raise InputError(f"expected a weights folder with {WEIGHTS}, found none in {folder}")
    return config, {k: (v.float() if v.is_floating_point() else v) for k, v in load_tensors(path).items()}


def load_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file as they are; :class:`InputError` for none, or a damaged or foreign one."""
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"expected a whole safetensors file, got a damaged or foreign one: {path} ({error})") from None
    check_finite(tensors.items(), path)
    return tensors


def check_finite(tensors: Iterable[tuple[str, Tensor]], path: str | Path) -> None:
    """Safetensors has no checksum: a flipped bit may well make a number that is none, and every picture with it."""
    for name, tensor in tensors:
        if not torch.isfinite(tensor).all():
            raise InputError(f"expected finite weights in {path}, got NaN or infinity in {name}")


def save_pretrained(model: Any, folder: str | Path) -> None:
    """diffusers' ``save_pretrained`` in half precision, leaving the model itself as it is."""
    copy.deepcopy(model).half().save_pretrained(made_folder(as_path(folder)))


def load_pretrained(kind: Any, folder: str | Path) -> Any:
    """diffusers' ``from_pretrained`` from a local folder, in single precision, frozen.

    InputError where the folder lacks a file, or one is truncated or of another model.
    """
    # Checked first: a foreign configuration falls back on the class's defaults, for Flux twelve billion parameters.
    config = load_config(folder)
    if (name := config.get("_class_name")) != kind.__name__:
        raise InputError(f"expected the configuration of {kind.__name__} in {folder}, got that of {name}")
    check_config(kind.__init__, {k: v for k, v in config.items() if not k.startswith("_")}, folder)
    expected = f"the weights of {kind.__name__} in {folder}"
    try:
        model, report = kind.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,  # never a pickle, which may run code
            torch_dtype=torch.float32,
            output_loading_info=True,
        )
    except Exception as error:  # diffusers raises many kinds here; all mean that the folder is not what it should be
        raise InputError(f"expected {expected}, got an unreadable folder: {one_line(error)}") from None
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if names := [str(name) for name in report[problem]]:
            some = ", ".join(names[:3])
            raise InputError(f"expected {expected}, got {len(names)} {problem.replace('_', ' ')}, among them {some}")
    check_finite(model.state_dict().items(), folder)
    return aligned(model).eval().requires_grad_(False)


def aligned(module: Module) -> Module:
    """A module whose tensors lie in memory as those of its copies do.

    Tensors read from safetensors lie where the file has them, and matrix products of unaligned numbers differ from
    those of aligned ones in their last bits.
    """
    for tensor in (*module.parameters(), *module.buffers()):
        if type(tensor.data) is Tensor and tensor.device.type == "cpu" and tensor.data_ptr() % ALIGNMENT:
            tensor.data = tensor.data.clone()
    return module


def load_state(module: torch.nn.Module, state: dict[str, Tensor], folder: str | Path) -> None:
    """``module.load_state_dict`` whose complaints are one readable :class:`InputError`."""
    module.float()  # whatever default dtype another library has set
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        kind = type(module).__name__
        raise InputError(f"expected weights of {kind} in {folder}, got others: {one_line(error)}") from None


def fingerprint(weights: str | Path, without: Sequence[str] = ()) -> str:
    """Sixteen hex digits that change with a weights file, or any of a folder.

    Of a folder, its subfolders are left out, and files of the names ``without``.
    """
    path, digest = Path(weights), hashlib.sha256()
    for file in [path] if path.is_file() else sorted(path.glob("*.safetensors")):
        if file.name not in without:
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def latent_fingerprint(autoencoder: str | Path | torch.nn.Module) -> str:
    """As :func:`fingerprint`, of an autoencoder's latents alone: its encoder, scale and shift.

    ``autoencoder`` is a weights folder, or the module itself.
    """
    if isinstance(autoencoder, torch.nn.Module):
        config: Any = autoencoder.config
        state = autoencoder.state_dict()
    else:
        config, files = load_config(autoencoder), sorted(Path(autoencoder).glob("*.safetensors"))
        if len(files) != 1 or not {"scaling_factor", "shift_factor"} <= config.keys():
            raise InputError(f"expected configuration and weights of an autoencoder in {autoencoder}, got others")
        state = load_tensors(files[0])
    digest = hashlib.sha256(repr((config["scaling_factor"], config["shift_factor"])).encode())
    for name in sorted(k for k in state if k.startswith("encoder.")):
        digest.update(state[name].half().contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
