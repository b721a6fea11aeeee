"""The emoji sheets, against the same thing computed by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lorweb_mini.emoji import distributions, relations
from lorweb_mini.emoji.sheets import FOREIGN, STYLES, EmojiSet, foreign_pictures, load_emoji
from lorweb_mini.errors import InputError
from lorweb_mini.files import data_dir
from lorweb_mini.images import SIZE, read_image


@pytest.fixture(scope="module")
def emojis() -> EmojiSet:
    return load_emoji()


def test_find(emojis: EmojiSet) -> None:
    fire = emojis.index["1f525"]
    for given in ("1f525", "1F525", "🔥", "fire", "Fire", " fire "):
        assert emojis.find(given) == fire
    assert emojis.find("❤️") == emojis.find("❤") == emojis.find("red heart") == emojis.index["2764"]
    for position, emoji in enumerate(emojis.emojis):
        assert emojis.find(emoji.key) == emojis.find(emoji.char) == position
        assert emojis.emojis[emojis.find(emoji.name)].name == emoji.name
        code_points = "-".join(f"{ord(c):x}" for c in emoji.char if c != "\ufe0f")
        assert code_points == emoji.key
    with pytest.raises(InputError, match="no such thing"):
        emojis.find("no such thing")


def test_picture_is_its_cell_of_the_sheet(emojis: EmojiSet) -> None:
    with Image.open(data_dir() / "emoji" / "openmoji_black.webp") as opened:
        sheet = opened.convert("RGBA")
    column = STYLES.index("openmoji_black")
    for position in np.flatnonzero(emojis.present[:, column])[::97]:
        left, top = position % 64 * SIZE, position // 64 * SIZE
        cell = sheet.crop((left, top, left + SIZE, top + SIZE))
        picture = emojis.picture(emojis.emojis[position].key, "openmoji_black")
        assert picture.mode == "RGBA" and picture.tobytes() == cell.tobytes()


def test_the_foreign_sheet_has_test_concepts_in_black(emojis: EmojiSet) -> None:
    pictures = foreign_pictures()
    assert FOREIGN not in STYLES and len(pictures) > 200
    places = [emojis.index[key] for key in pictures]
    assert places == sorted(places) and set(relations.concept_sides()[places]) == {relations.SPLITS.index("test")}
    with Image.open(data_dir() / "emoji" / f"{FOREIGN}.webp") as opened:
        sheet = Image.new("RGBA", opened.size, "white")
        sheet.alpha_composite(opened.convert("RGBA"))
    for i, picture in list(enumerate(pictures.values()))[::29]:
        left, top = i % 64 * SIZE, i // 64 * SIZE
        cell = np.asarray(sheet.convert("RGB").crop((left, top, left + SIZE, top + SIZE))) / 127.5 - 1
        assert picture.permute(1, 2, 0).numpy() == pytest.approx(cell, abs=0.01)
        assert float(picture.std(0).max()) < 0.01, "black and white"
        assert 0.05 < float((picture < 0).float().mean()) < 0.9


def test_tensor_against_the_alpha_formula(emojis: EmojiSet) -> None:
    rng = np.random.default_rng(0)
    cells = np.argwhere(emojis.present)
    cells = cells[rng.choice(len(cells), 12, replace=False)]
    for background in (1.0, 0.0, 0.3, (0.2, 0.9, 0.5)):
        ground = np.broadcast_to(background, 3)
        drawn = emojis.tensor(cells[:, 0], cells[:, 1], background)
        assert drawn.shape == (12, 3, SIZE, SIZE) and drawn.dtype == torch.float32
        for k, (row, column) in enumerate(cells):
            rgba = emojis.rgba[row, column].astype(float) / 255
            for channel in range(3):
                over = rgba[..., channel] * rgba[..., 3] + ground[channel] * (1 - rgba[..., 3])
                assert np.abs(drawn[k, channel].double().numpy() - (2 * over - 1)).max() < 1e-6
    one_style = emojis.tensor(cells[:3, 0] * 0 + emojis.find("fire"), 0)
    assert torch.equal(one_style[0], one_style[2])
    # What a caller sees in the picture is what the tensor shows.
    assert (read_image(emojis.picture("fire")) - one_style[0]).abs().max() <= 2 / 255


def test_absent_style_and_bad_positions_are_refused(emojis: EmojiSet) -> None:
    row, column = np.argwhere(~emojis.present)[0]
    key, style = emojis.emojis[row].key, STYLES[column]
    assert style not in emojis.emojis[row].styles
    with pytest.raises(InputError, match=style):
        emojis.picture(key, style)
    with pytest.raises(InputError, match=f"{style} has no {key}"):
        emojis.tensor(row, column)
    with pytest.raises(InputError, match="noto"):
        emojis.picture("fire", "apple")
    others: list[Any] = [(1.5, 0), (True, 0), (None, 0), ("1", 0), ([], 0), ([[0]], 0), (0, 0.0), ([0, 1], [0] * 3)]
    for emoji, number in ((-1, 0), (len(emojis.emojis), 0), (0, -1), (0, len(STYLES)), *others):
        with pytest.raises(InputError):
            emojis.tensor(emoji, number)
    wrong: list[Any] = [None, 5, b"fire", ["fire"]]
    for name in wrong:
        with pytest.raises(InputError, match="name of an emoji"):
            emojis.find(name)
    for background in (1.5, -0.1, float("nan"), (0.1, 0.2), None, "red"):
        with pytest.raises(InputError, match="background"):
            emojis.tensor(0, 0, background)


def test_presence_agrees_with_the_drawings(emojis: EmojiSet) -> None:
    opaque = emojis.rgba[..., 3].max((2, 3))
    assert np.array_equal(opaque >= 32, emojis.present)
    assert not opaque[~emojis.present].any()
    assert (emojis.present.sum(1) >= 4).all()
    assert not emojis.rgba.flags.writeable and not emojis.present.flags.writeable


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_loading_stays_small(offline_environment: dict[str, str]) -> None:
    # From /proc, not by getrusage: its peak also counts the process that started this one.
    code = (
        "from lorweb_mini.emoji.sheets import load_emoji; emojis = load_emoji();"
        "print(*[line.split()[1] for line in open('/proc/self/status') if line.startswith(('VmRSS', 'VmHWM'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], env=offline_environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    peak, resident = (int(number) / 2**20 for number in done.stdout.split())
    assert resident < 1.0, f"{resident:.2f} GiB stay resident"
    assert peak < 1.5, f"loading took {peak:.2f} GiB"


def _damaged(folder: Path, name: str, content: bytes | None) -> Path:
    """The package's data with one file damaged, or none of its name."""
    (folder / "emoji").mkdir()
    for path in [*data_dir().glob("*.json"), *(data_dir() / "emoji").iterdir()]:
        (folder / path.relative_to(data_dir())).symlink_to(path)
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    return folder


HEAD = (json.dumps({"styles": STYLES})[:-1] + ', "emojis": ').encode()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("emoji.json", b"{}", "an object with styles, emojis"),
        ("emoji.json", b"null", "an object with styles, emojis"),
        ("emoji.json", HEAD + b"[{}]}", "a list of emojis"),
        ("emoji.json", HEAD + b"7}", "a list of emojis"),
        ("emoji.json", b'{"styles": 5, "emojis": []}', "the styles"),
        ("emoji.json", HEAD + b"[", "JSON"),
        ("fluent_flat.webp", b"", "a whole picture"),
        ("openmoji_black.webp", b"RIFF\x10\0\0\0WEBPVP8L", "a whole picture"),
        ("openmoji_black.webp", None, "a whole picture"),
    ],
)
def test_damaged_sheets_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes | None, says: str
) -> None:
    monkeypatch.setenv("LORWEB_DATA", str(_damaged(tmp_path, f"emoji/{name}", content)))
    with pytest.raises(InputError) as caught:
        load_emoji.__wrapped__()
    assert name in str(caught.value) and f"expected {says}" in str(caught.value)


@pytest.mark.parametrize("keys", ["5", '["no-such-emoji"]', '["1f525", "1f525"]', "[[]]"])
def test_a_damaged_list_of_foreign_drawings_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, emojis: EmojiSet, keys: str
) -> None:
    content = f'{{"keys": {keys}}}'.encode()
    monkeypatch.setenv("LORWEB_DATA", str(_damaged(tmp_path, f"emoji/{FOREIGN}.json", content)))
    with pytest.raises(InputError, match=rf"{FOREIGN}\.json: expected keys of emojis"):
        foreign_pictures()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("splits.json", b"[]", "an object with concepts, relations"),
        ("splits.json", b'{"concepts": {}}', "an object with concepts, relations"),
        ("splits.json", b'{"concepts": {}, ', "JSON"),
        ("unseen.json", b"null", "an object with intervals, pairs, relations"),
        ("unseen.json", None, "a text"),
        ("relations.json", b"[]", "an object"),
        ("relations.json", b"{}", "the parts of compose/"),
        ("relations.json", b'{"tone/yellow>dark": {}}', "a relation 'tone/yellow>dark'"),
        ("relations.json", b'{"tone/yellow>dark": {"instructions": [], "pairs": [["x", "y"]]}}', "a relation"),
    ],
)
def test_damaged_tables_are_named(
    emojis: EmojiSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes | None, says: str
) -> None:
    read = {"splits.json": relations.splits, "unseen.json": distributions.unseen, "relations.json": relations.relations}
    relations.splits()
    monkeypatch.setenv("LORWEB_DATA", str(_damaged(tmp_path, name, content)))
    with pytest.raises(InputError) as caught:
        read[name].__wrapped__()
    assert name in str(caught.value) and f"expected {says}" in str(caught.value)
