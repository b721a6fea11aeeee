"""Where the data files lie, and writing files so that they appear whole or not at all."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from .errors import InputError


def cache_dir() -> Path:
    """Where encoded pictures are kept: ``LORWEB_CACHE``, or a folder of the user's cache."""
    override = os.environ.get("LORWEB_CACHE")
    return Path(override) if override else Path.home() / ".cache" / "lorweb_mini"


def data_dir() -> Path:
    """Folder of the data files: $LORWEB_DATA, else `data` in the installed package, else beside the checkout's package.

    Raises:
        InputError: none of them holds `emoji/emoji.json`.
    """
    here = Path(__file__).resolve().parent
    override = os.environ.get("LORWEB_DATA")
    candidates = [Path(override)] if override else [here / "data", here.parent / "data"]
    for folder in candidates:
        if (folder / "emoji" / "emoji.json").is_file():
            return folder
    raise InputError(f"expected emoji/emoji.json in {' or '.join(map(str, candidates))}; found none")


def as_path(value: Any) -> Path:
    """A path from text or a path; InputError for anything else."""
    if not isinstance(value, (str, os.PathLike)):
        raise InputError(f"expected a path, got {value!r}")
    return Path(os.fsdecode(value))  # os.scandir of a folder in bytes gives paths of bytes


def safetensors_path(value: Any) -> Path:
    """A path for a file of tensors; InputError for another ending."""
    if (path := as_path(value)).suffix != ".safetensors":
        raise InputError(f"expected a path that ends in .safetensors, got {path.name!r}")
    return path


def made_folder(folder: Path) -> Path:
    """A folder, made where it is not there; InputError where a file is in its place or in that of one above it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise InputError(f"expected a folder, or a place for one, got {folder}, where a file is in the way") from None
    except OSError as error:
        raise InputError(f"expected a folder, or a place for one, got {folder}: {error.strerror or error}") from None
    return folder


def writable_folder(folder: Path) -> Path:
    """As :func:`made_folder`, and tried: InputError before a long computation where nothing can be written to it."""
    try:
        with TemporaryFile(dir=made_folder(folder)):
            return folder
    except OSError as error:
        raise InputError(f"expected a folder to write to, got {folder}: {error.strerror or error}") from None


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Gives a path beside the target to write to, which becomes the target at the end: a kill leaves the old file or
    the new one, never half of one. Its name is this thread's own, since others may write the same target.

    InputError where the target is a folder, or a file is in the place of its folder.
    """
    made_folder(path.parent)
    if path.is_dir():
        raise InputError(f"expected a file to write, got the folder {path}")
    part = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all, see :func:`whole_file`."""
    with whole_file(path) as part:
        part.write_bytes(content)


def read_text(path: Path) -> str:
    """A UTF-8 text without its byte order mark; InputError, with the file's name, where there is none."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InputError(f"expected a text in {path}, got {error.strerror or error}") from None
    kind = "UTF-16" if b"\0" in raw or raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "cp1252 or another 8-bit encoding"
    try:
        if b"\0" not in raw:
            return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        pass
    raise InputError(f"expected UTF-8 text in {path}, got what looks like {kind}: save it as UTF-8")


def read_json(path: Path, keys: Iterable[str] | None = None) -> Any:
    """What a JSON file holds.

    Raises:
        InputError: no such file or half of one, or, where ``keys`` are asked for, no object with all of them; the
            message names the file.
    """
    text = read_text(path)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"expected JSON in {path}, got something else: {error}") from None
    if keys is not None and not (isinstance(content, dict) and set(keys) <= content.keys()):
        names = ", ".join(keys)
        raise InputError(f"expected an object{names and f' with {names}'} in {path}, got something else")
    return content


def tolerant_console() -> None:
    """Lets the console show a question mark for what its encoding lacks, in place of an error."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
