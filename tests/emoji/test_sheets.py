"""The emoji sheets, against the same thing computed by hand."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from lorweb_mini.emoji.sheets import STYLES, EmojiSet, load_emoji
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
    for emoji, number in ((-1, 0), (len(emojis.emojis), 0), (0, -1), (0, len(STYLES))):
        with pytest.raises(InputError):
            emojis.tensor(emoji, number)
    for background in (1.5, -0.1, float("nan"), (0.1, 0.2)):
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
