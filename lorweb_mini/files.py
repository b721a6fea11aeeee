"""Where the data files lie, and writing files so that they appear whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from .errors import InputError


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


def write_atomically(path: Path, content: bytes) -> None:
    """Writes beside the target and renames, so that a kill leaves the old file or the new one, never half of one."""
    part = path.with_name(path.name + ".part")
    part.write_bytes(content)
    os.replace(part, path)
