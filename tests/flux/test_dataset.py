"""Folders of picture pairs: what is read, what is named as skipped, what is refused; splits, analogies, geometry."""

from __future__ import annotations

import hashlib
import json
import os
import unicodedata
import warnings
from collections.abc import Callable
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.pipelines.flux.pipeline_flux_kontext import PREFERRED_KONTEXT_RESOLUTIONS
from PIL import Image
from tiny_flux import folders

from lorweb_mini.errors import InputError
from lorweb_mini.flux.dataset import (
    check_pictures,
    read_relations,
    read_splits,
    sample_analogies,
    split_categories,
)
from lorweb_mini.flux.picture_encoder import fit_pictures, grid_size, resized
from lorweb_mini.images import to_pil


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return folders(tmp_path / "set", {"hats": 3, "blur": 2, "snow": 4})


def keys(root: Path) -> list[str]:
    return [pair.key for pairs in read_relations(root).values() for pair in pairs]


def test_reads_both_kinds_of_captions(root: Path) -> None:
    relations = read_relations(root)
    assert {k: len(v) for k, v in relations.items()} == {"blur": 2, "hats": 3, "snow": 4}
    pair = relations["snow"][2]
    assert (pair.category, pair.name, pair.caption) == ("snow", "02", "snow c")
    assert pair.control == root / "snow" / "control" / "02.png" and pair.target == root / "snow" / "target" / "02.png"
    assert relations["blur"][1].caption == "blur b", "from the text beside the picture"


# --- what is read --------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".jfif", ".tif", ".gif", ".avif", ".JPEG", ".bmp", ".jp2", ".ppm"])
def test_every_format_that_pillow_reads(root: Path, suffix: str) -> None:
    for part in ("control", "target"):
        with Image.open(root / "hats" / part / "01.png") as picture:
            picture.save(root / "hats" / part / f"01{suffix}")
        (root / "hats" / part / "01.png").unlink()
    assert len(check_pictures(read_relations(root))) == 9
    assert read_relations(root)["hats"][1].target.suffix == suffix


@pytest.mark.parametrize("names", [("Control", "Target"), ("CONTROL", "target"), ("control", "TARGET")])
def test_folders_in_any_case(root: Path, names: tuple[str, str]) -> None:
    for old, new in zip(("control", "target"), names, strict=True):
        (root / "snow" / old).rename(root / "snow" / "moved")
        (root / "snow" / "moved").rename(root / "snow" / new)
    assert [pair.name for pair in read_relations(root)["snow"]] == ["00", "01", "02", "03"]


@pytest.mark.parametrize(
    "left",
    [
        "hats/control/._00.png",
        "hats/control/.ipynb_checkpoints/00-checkpoint.png",
        "__MACOSX/hats/control/00.png",
        ".ipynb_checkpoints/control/00.png",
        "snow/target/Thumbs.db",
        "snow/.DS_Store",
        "blur/@eaDir/00.png",
    ],
)
def test_what_other_programs_leave_behind(root: Path, left: str) -> None:
    before = keys(root)
    (root / left).parent.mkdir(parents=True, exist_ok=True)
    (root / left).write_bytes(b"\0\5\26\7")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert keys(root) == before


@pytest.mark.parametrize(
    ("left", "says"),
    [
        ("hats/control/07.heic", r"not a picture that Pillow reads: 1 \(hats/control/07\.heic\)"),
        ("hats/target/07.raw", r"not a picture that Pillow reads: 1 \(hats/target/07\.raw\)"),
        ("hats/target/more/07.png", r"not a picture that Pillow reads: 1 \(hats/target/more\)"),
        ("snow/before/00.png", r"beside control/ and target/: 1 \(snow/before\)"),
        ("snow/04.png", r"beside control/ and target/: 1 \(snow/04\.png\)"),
        ("rain/before/00.png", r"no control/ and target/: 1 \(rain\)"),
        ("00.png", r"no control/ and target/: 1 \(00\.png\)"),
        ("blur/target/07.txt", r"caption of no picture: 1 \(blur/07\)"),
    ],
)
def test_what_is_skipped_is_named(root: Path, left: str, says: str) -> None:
    before = keys(root)
    (root / left).parent.mkdir(parents=True, exist_ok=True)
    (root / left).write_bytes(b"x")
    with pytest.warns(UserWarning, match=says):
        assert keys(root) == before


# --- text ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["blur/target/00.txt", "hats/captions.json"])
@pytest.mark.parametrize(
    ("encoding", "kind"),
    [
        ("cp1252", "cp1252"),
        ("latin-1", "cp1252"),
        ("utf-16", "UTF-16"),
        ("utf-16-le", "UTF-16"),
        ("utf-16-be", "UTF-16"),
    ],
)
def test_other_encodings_are_named(root: Path, place: str, encoding: str, kind: str) -> None:
    text = (root / place).read_text().replace(" a", " à la carte")
    if place.endswith(".json"):
        text = json.dumps(json.loads(text), ensure_ascii=False)
    (root / place).write_bytes(text.encode(encoding))
    with pytest.raises(InputError, match=f"expected UTF-8 text in .*{place.split('/')[-1]}.*{kind}"):
        read_relations(root)


@pytest.mark.parametrize("text", ["\ufeffblur a", "blur\u200b a", "blur \ufeff a\u200b", "\u2003blur\n a "])
def test_what_nobody_sees_is_no_part_of_a_caption(root: Path, text: str) -> None:
    (root / "blur" / "target" / "00.txt").write_text(text)
    (root / "hats" / "captions.json").write_text(json.dumps({f"{i:02d}": text for i in range(3)}))
    relations = read_relations(root)
    assert relations["blur"][0].caption == relations["hats"][2].caption == "blur a"
    (root / "blur" / "target" / "00.txt").write_text("\ufeff\u200b \n")
    with pytest.raises(InputError, match="got 1 without: 00"):
        read_relations(root)


def _unreadable_text(root: Path) -> None:
    (root / "blur" / "target" / "00.txt").unlink()
    (root / "blur" / "target" / "00.txt").mkdir()


def _half_a_character(root: Path) -> None:
    (root / "hats" / "captions.json").write_text('{"00": "\\ud83d", "01": "a", "02": "b"}')


def _foreign_name(root: Path) -> None:
    os.rename(os.fsencode(root / "snow"), os.fsencode(root) + b"/sn\xf6w")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (_unreadable_text, r"expected a text in .*blur/target/00\.txt"),
        (_half_a_character, r"expected names and captions in .*hats that UTF-8 can write, got '\\ud83d'"),
        (_foreign_name, r"expected names and captions in .* that UTF-8 can write, got 'sn\\udcf6w'"),
        (lambda root: (root / "hats" / "captions.json").write_text("[" * 100_000), r"expected JSON in .*hats/captions"),
        (lambda root: (root / "hats" / "captions.json").write_text('{"00": null}'), "object of names and captions"),
    ],
)
def test_texts_that_are_none(root: Path, damage: Callable, says: str) -> None:
    damage(root)
    with pytest.raises(InputError, match=says):
        read_relations(root)


@pytest.mark.parametrize("place", ["blur/target/00.txt", "hats/captions.json", "splits.json"])
def test_a_byte_order_mark_is_no_part_of_the_text(root: Path, place: str) -> None:
    (root / "splits.json").write_text(json.dumps({"train": ["blur", "hats", "snow"], "val": [], "test": []}))
    (root / place).write_bytes((root / place).read_text().encode("utf-8-sig"))
    relations = read_relations(root)
    assert relations["blur"][0].caption == "blur a" and relations["hats"][0].caption == "hats a"
    assert read_splits(root / "splits.json", list(relations))["train"] == ["blur", "hats", "snow"]


def _nfd(text: str) -> str:
    return unicodedata.normalize("NFD", text)


@pytest.mark.parametrize("where", ["target", "text", "listed", "category"])
def test_two_forms_of_a_name_are_one(tmp_path: Path, where: str) -> None:
    root = folders(tmp_path, {"été": 2, "b": 2, "c": 2})
    control, target = (root / "été" / part for part in ("control", "target"))
    for part in (control, target):
        (part / "00.png").rename(part / ("é" if part == control or where != "target" else _nfd("é")).join(("", ".png")))
    caption = "made warm"
    if where == "text":
        (target / f"{_nfd('é')}.txt").write_text(caption)
        listed = {"01": "x"}
    else:
        listed = {_nfd("é") if where == "listed" else "é": caption, "01": "x"}
    (root / "été" / "captions.json").write_text(json.dumps(listed))
    if where == "category":
        (root / "été").rename(root / _nfd("été"))
    relations = read_relations(root)
    assert [(x.name, x.caption) for x in relations["été"]] == [("01", "x"), ("é", caption)]
    (root / "splits.json").write_text(json.dumps({"train": [_nfd("été"), "b"], "val": [], "test": ["c"]}))
    assert read_splits(root / "splits.json", list(relations))["train"] == ["été", "b"]


# --- what is refused -----------------------------------------------------------------------------


def _twin(root: Path) -> None:
    for form in ("é", _nfd("é")):
        (root / "hats" / "target" / f"{form}.png").write_bytes(b"x")


def _twin_category(root: Path) -> None:
    (root / "hats").rename(root / "é")
    (root / "snow").rename(root / _nfd("é"))


def _twin_folder(root: Path) -> None:
    (root / "hats" / "Target").mkdir()


def _lonely(root: Path) -> None:
    (root / "hats" / "target" / "01.png").unlink()


def _twice(root: Path) -> None:
    (root / "hats" / "target" / "01.jpg").write_bytes((root / "hats" / "target" / "01.png").read_bytes())


def _single(root: Path) -> None:
    for part in ("control", "target"):
        (root / "blur" / part / "01.png").unlink()


def _empty(root: Path) -> None:
    for category in ("hats", "blur", "snow"):
        (root / category).rename(root.parent / category)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_lonely, r"hats in control/ and in target/, got 1 without a counterpart: 01 \(01 is in control/ alone\)"),
        (_twice, r"one picture of a name in .*target, got 01\.jpg, 01\.png"),
        (_twin, r"one picture of a name in .*target"),
        (_twin_category, r"names that differ in more than case or accents"),
        (_twin_folder, r"names that differ in more than case or accents"),
        (lambda root: (root / "blur" / "target" / "01.txt").write_text(" \n"), r"a caption .* got 1 without: 01"),
        (lambda root: (root / "snow" / "captions.json").write_text("[1]"), "an object of names and captions"),
        (lambda root: (root / "snow" / "captions.json").write_text('{"00": '), "expected JSON in .*captions.json"),
        (_single, "expected two pairs or more in .*blur.* got 1"),
        (_empty, "expected folders with control/ and target/ in .*, found none"),
    ],
)
def test_what_is_refused(root: Path, damage: Callable, message: str) -> None:
    damage(root)
    with pytest.raises(InputError, match=message):
        read_relations(root)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a folder of categories"):
        read_relations(tmp_path / "none")


def _flipped(raw: bytes) -> bytes:
    return raw[: len(raw) // 2] + bytes(x ^ 0xFF for x in raw[len(raw) // 2 :])


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".avif", ".webp", ".gif", ".tif"])
@pytest.mark.parametrize("damage", [lambda raw: raw[: len(raw) // 2], _flipped, lambda raw: b"", lambda raw: b"text"])
def test_damaged_pictures_are_named(root: Path, suffix: str, damage: Callable) -> None:
    path = root / "snow" / "target" / f"03{suffix}"
    with Image.open(root / "snow" / "target" / "03.png") as picture:
        picture.save(path)
    if suffix != ".png":
        (root / "snow" / "target" / "03.png").unlink()
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    try:
        with Image.open(path) as picture:
            picture.load()
    except Exception:
        with pytest.raises(InputError, match=rf"18 whole pictures, got 1 .*snow/target/03\{suffix}"):
            check_pictures(read_relations(root))
    else:  # a decoder that takes it: then it is another picture, with another digest
        assert path.read_bytes() != whole and len(check_pictures(read_relations(root))) == 9


@pytest.mark.parametrize(
    ("picture", "says"),
    [
        (Image.fromarray(np.full((8, 8), -0.5, np.float32)), "values of mode F outside 0..1"),
        (Image.fromarray(np.full((8, 8), np.nan, np.float32)), "values of mode F outside"),
        (Image.fromarray(np.full((8, 8), 70000, np.int32)), "values of mode I outside 0..65535"),
        (Image.new("1", (9000, 8000)), "at most 64 megapixels; got 9000×8000"),
    ],
)
def test_pictures_that_decode_and_cannot_be_read_are_named(root: Path, picture: Image.Image, says: str) -> None:
    (root / "snow" / "target" / "03.png").unlink()
    picture.save(root / "snow" / "target" / "03.tif")
    with pytest.raises(InputError, match=rf"18 whole pictures, got 1 .*snow/target/03\.tif \(.*{says}"):
        check_pictures(read_relations(root))


def test_broken_pictures_are_named_together(root: Path) -> None:
    (root / "snow" / "target" / "03.png").write_bytes(b"")
    (root / "hats" / "control" / "00.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"expected 18 whole pictures, got 2 .*hats/control/00\.png.*snow/target/03"):
        check_pictures(read_relations(root))


def test_digests_are_those_of_the_bytes(root: Path) -> None:
    found = check_pictures(read_relations(root))
    assert len(found) == 9 and len({x["pictures"] for x in found.values()}) == 9
    raws = [(root / "hats" / part / "02.png").read_bytes() for part in ("control", "target")]
    by_hand = hashlib.sha256(b"".join(hashlib.sha256(raw).digest() for raw in raws)).hexdigest()
    assert found["hats/02"] == {"caption": "hats c", "pictures": by_hand}


# --- splits and analogies ------------------------------------------------------------------------


def test_drawn_analogies(root: Path) -> None:
    relations = read_relations(root)

    def named(drawn: list) -> list[tuple[str, str]]:
        return [(first.key, second.key) for first, second in drawn]

    every = named(sample_analogies(relations))
    by_hand = {(p.key, q.key) for pairs in relations.values() for p, q in permutations(pairs, 2)}
    assert len(every) == 2 + 6 + 12 and set(every) == by_hand
    assert [x.split("/")[0] for x, _ in every] != sorted(x.split("/")[0] for x, _ in every), "shuffled"
    few = named(sample_analogies(relations, each=3))
    assert len(set(few)) == len(few) == 2 + 3 + 3
    assert (
        named(sample_analogies(relations, each=3)) == few and named(sample_analogies(relations, each=3, seed=1)) != few
    )
    alone = named(sample_analogies({"snow": relations["snow"]}, each=3))
    assert set(alone) == {x for x in few if x[0].startswith("snow")}


def test_split_holds_out_whole_categories(tmp_path: Path) -> None:
    names = [f"edit {i}" for i in range(218)]
    splits = split_categories(names)
    assert {k: len(v) for k, v in splits.items()} == {"train": 185, "val": 11, "test": 22}
    assert sorted(x for part in splits.values() for x in part) == sorted(names)
    by_hash = sorted(names, key=lambda x: hashlib.sha256(b"0:" + x.encode()).digest())
    assert splits["test"] == sorted(by_hash[:22]) and splits["val"] == sorted(by_hash[22:33])
    assert split_categories(names[::-1]) == splits
    (tmp_path / "splits.json").write_text(json.dumps(splits))
    assert read_splits(tmp_path / "splits.json", names) == splits


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"train": ["a"], "val": [], "test": []}', "got a difference: b"),
        ('{"train": ["a", "b"], "val": ["b"], "test": []}', "got on two: b"),
        ('{"train": ["a", "b"], "val": []}', "expected lists of names train, val, test"),
        ("[]", "expected lists of names train, val, test"),
        ("null", "expected lists of names train, val, test"),
        ('{"train": "a", "val": ["b"], "test": []}', "expected lists of names train, val, test"),
        ('{"train": null, "val": ["b"], "test": []}', "expected lists of names train, val, test"),
        ('{"train": ["a", 1], "val": ["b"], "test": []}', "expected lists of names train, val, test"),
        ('{"train": ["a", ', "expected JSON in .*splits.json"),
        ("", "expected JSON in .*splits.json"),
        (None, "expected a text in .*splits.json, got No such file"),
    ],
)
def test_wrong_split_files(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "splits.json").write_text(text)
    with pytest.raises(InputError, match=message):
        read_splits(tmp_path / "splits.json", ["a", "b"])


def test_too_few_categories_to_hold_any_out() -> None:
    with pytest.raises(InputError, match="expected three categories or more, for train, val and test, got 2"):
        split_categories(["a", "b"])


# --- geometry ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("width", "height", "side", "grid"),
    [
        (384, 576, 512, (832, 1248)),  # the release's own example: a result of 416×624
        (576, 384, 512, (1248, 832)),
        (512, 512, 512, (1024, 1024)),
        (64, 64, 256, (512, 512)),
        (384, 576, 256, (416, 624)),
        (1920, 1080, 512, (1392, 752)),
        (4000, 2, 512, (1568, 672)),
        (2, 4000, 512, (672, 1568)),
        (16, 16, 16, (32, 32)),
    ],
)
def test_grid_size(width: int, height: int, side: int, grid: tuple[int, int]) -> None:
    assert grid_size(width, height, side) == grid


def test_grids_at_full_side_are_kontexts_own() -> None:
    for w, h in PREFERRED_KONTEXT_RESOLUTIONS:
        assert grid_size(w // 2, h // 2) == (w, h)


@pytest.mark.parametrize("shape", [(24, 36), (36, 24), (30, 30)])
def test_others_are_stretched_to_the_first(shape: tuple[int, int]) -> None:
    a, other = torch.rand(1, 3, *shape) * 2 - 1, torch.rand(1, 3, 20, 50) * 2 - 1
    first, second, third = fit_pictures(a, other, a)
    assert first is a and third is a and second.shape == a.shape
    by_hand = np.asarray(to_pil(other[0]).resize(shape[::-1], Image.Resampling.BICUBIC))
    assert np.array_equal(np.asarray(to_pil(second[0])), by_hand)
    assert resized(other, (50, 20)) is other, "nothing is rounded at the right size"
