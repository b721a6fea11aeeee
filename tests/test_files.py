"""Damaged and foreign files are named in one clear error; folders and consoles of any kind serve."""

from __future__ import annotations

import io
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save

from lorweb_mini.emoji import latents
from lorweb_mini.emoji.latents import encoded
from lorweb_mini.emoji.sheets import load_emoji
from lorweb_mini.errors import InputError
from lorweb_mini.files import (
    cache_dir,
    read_json,
    read_text,
    tolerant_console,
    whole_file,
    writable_folder,
    write_atomically,
)
from lorweb_mini.models.autoencoder import MiniAutoencoder


@pytest.mark.parametrize(
    "content", [b"", b'{"a": 1', b"[1, 2", b"\xff\xfe{\x00}\x00", b'{"\xe9t\xe9": 1}', b"null extra"]
)
def test_half_and_foreign_json_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "splits.json").write_bytes(content)
    with pytest.raises(InputError, match=r"expected .*splits\.json"):
        read_json(tmp_path / "splits.json")


def test_missing_json_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.json"):
        read_json(tmp_path / "none.json")


@pytest.mark.parametrize("text", ["plain", "\ufeffafter a mark", "‖ – été"])
def test_text_in_utf8_with_or_without_a_mark(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.txt").write_text(text, encoding="utf-8")
    assert read_text(tmp_path / "x.txt") == text.lstrip("\ufeff")


@pytest.mark.parametrize("name", ["HOME", "USERPROFILE"])
def test_cache_without_a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.setenv("LORWEB_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path


@pytest.mark.parametrize("damage", ["cut", "empty", "foreign", "fewer", "another type", "another tensor"])
def test_damaged_cache_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    monkeypatch.setenv("LORWEB_CACHE", str(tmp_path))
    autoencoder = MiniAutoencoder().eval().requires_grad_(False)
    shown = np.array([[0, 0], [1, 0]])
    first = encoded(autoencoder, "few", shown, lambda x: x)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    tensors = {
        "fewer": {"latents": first[:1]},
        "another type": {"latents": first.float()},
        "another tensor": {"x": first},
    }
    damaged = {"cut": whole[: len(whole) // 2], "empty": b"", "foreign": b"PNG" * 100}
    path.write_bytes(damaged.get(damage) if damage in damaged else save(tensors[damage]))
    assert torch.equal(encoded(autoencoder, "few", shown, lambda x: x), first)
    assert path.read_bytes() == whole


@pytest.mark.parametrize("change", ["a pixel", "the order", "the autoencoder", "the edit's name"])
def test_a_cache_follows_what_it_is_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    """Positions alone do not say which pictures they are: a rebuilt sheet may have others there."""
    monkeypatch.setenv("LORWEB_CACHE", str(tmp_path))
    autoencoder = MiniAutoencoder().eval().requires_grad_(False)
    shown = np.array([[0, 0], [1, 0], [2, 0]])
    first = encoded(autoencoder, "few", shown, lambda x: x)
    data, name, edit = load_emoji(), "few", lambda x: x
    rgba = data.rgba.copy() if change in ("a pixel", "the order") else data.rgba
    if change == "a pixel":
        rgba[2, 0, 30, 30] = 255 - rgba[2, 0, 30, 30]
    elif change == "the order":
        rgba[[0, 1]] = rgba[[1, 0]]
    elif change == "the autoencoder":
        autoencoder.register_to_config(scaling_factor=3.0)
    else:
        name, edit = "few, inverted", lambda x: -x
    monkeypatch.setattr(latents, "load_emoji", lambda: replace(data, rgba=rgba))
    again = encoded(autoencoder, name, shown, edit)
    expected = autoencoder.to_latent(edit(replace(data, rgba=rgba).tensor(shown[:, 0], shown[:, 1]))).half()
    assert torch.equal(again, expected) and not torch.equal(again, first)
    assert torch.equal(encoded(autoencoder, name, shown, edit), again) and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("one", "other"), [("hue=60", "hue=-60"), ("fade=0.5", "fade=0-5"), ("Hue", "hUe"), ("été", "à")]
)
def test_edits_whose_names_look_alike_have_caches_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one: str, other: str
) -> None:
    monkeypatch.setenv("LORWEB_CACHE", str(tmp_path))
    autoencoder, shown = MiniAutoencoder().eval().requires_grad_(False), np.array([[0, 0]])
    first = encoded(autoencoder, one, shown, lambda x: x)
    assert not torch.equal(encoded(autoencoder, other, shown, lambda x: -x), first)
    assert torch.equal(encoded(autoencoder, one, shown, lambda x: 0 * x), first), "its own is read"


@pytest.mark.parametrize("place", ["a file", "below a file", "/proc/none"])
def test_without_a_cache_that_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    (tmp_path / "file").write_text("mine")
    where = {"a file": tmp_path / "file", "below a file": tmp_path / "file" / "cache"}.get(place, Path(place))
    monkeypatch.setenv("LORWEB_CACHE", str(where))
    with pytest.warns(UserWarning, match="LORWEB_CACHE"):
        latents = encoded(MiniAutoencoder().eval().requires_grad_(False), "few", np.array([[0, 0]]), lambda x: x)
    assert latents.shape == (1, 16, 8, 8) and (tmp_path / "file").read_text() == "mine"


def test_one_file_written_by_several_threads(tmp_path: Path) -> None:
    """Each writes it whole, and the last one stays."""
    contents = [bytes([i]) * 10**6 for i in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda content: write_atomically(tmp_path / "x", content), contents * 4))
    assert (tmp_path / "x").read_bytes() in contents and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError, MemoryError])
def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path, error: type[BaseException]) -> None:
    write_atomically(tmp_path / "x", b"old")
    with pytest.raises(error), whole_file(tmp_path / "x") as part:
        part.write_bytes(b"half of the n")
        raise error
    assert [x.name for x in tmp_path.iterdir()] == ["x"] and (tmp_path / "x").read_bytes() == b"old"


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "cp932", "utf-8"])
def test_consoles_that_lack_characters(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    said, console = "‖result − b′‖² – done", io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", console)
    tolerant_console()
    print(said, flush=True)
    shown = console.buffer.getvalue().decode(encoding).strip()
    assert "result" in shown and "done" in shown and (shown == said) is (encoding == "utf-8")


def test_a_folder_to_write_to_is_tried(tmp_path: Path, locked_folders: None) -> None:
    assert writable_folder(tmp_path / "new") == tmp_path / "new" and not list((tmp_path / "new").iterdir())
    (tmp_path / "file").write_text("")
    for wrong in (tmp_path / "locked", tmp_path / ("x" * 300), tmp_path / "file" / "new"):
        with pytest.raises(InputError, match="expected a folder"):
            writable_folder(wrong)
