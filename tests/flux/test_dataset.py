"""Folders of picture pairs: what is read, which analogies follow, what is held out, and what is refused."""

from __future__ import annotations

import hashlib
import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lorweb_mini.errors import InputError
from lorweb_mini.flux.dataset import (
    check_pictures,
    draw_analogies,
    ordered_pairs,
    read_relations,
    read_splits,
    split_categories,
    write_splits,
)


def folders(root: Path, sizes: dict[str, int], side: int = 16) -> Path:
    """Categories of random pictures; captions in JSON for every other category, beside the pictures for the rest."""
    rng = np.random.default_rng(0)
    for place, (category, count) in enumerate(sizes.items()):
        captions = {}
        for i in range(count):
            for part in ("control", "target"):
                (root / category / part).mkdir(parents=True, exist_ok=True)
                pixels = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / category / part / f"{i:02d}.png")
            captions[f"{i:02d}"] = f"{category} {'abcdefgh'[i % 8]}"
        if place % 2:
            for name, text in captions.items():
                (root / category / "target" / f"{name}.txt").write_text(text + "\n")
        else:
            (root / category / "captions.json").write_text(json.dumps(captions))
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return folders(tmp_path / "set", {"hats": 3, "blur": 2, "snow": 4})


def test_reads_both_kinds_of_captions(root: Path) -> None:
    relations = read_relations(root)
    assert {k: len(v) for k, v in relations.items()} == {"blur": 2, "hats": 3, "snow": 4}
    pair = relations["snow"][2]
    assert (pair.category, pair.name, pair.caption) == ("snow", "02", "snow c")
    assert pair.control == root / "snow" / "control" / "02.png" and pair.target == root / "snow" / "target" / "02.png"
    assert relations["blur"][1].caption == "blur b", "from the text beside the picture"
    assert check_pictures(relations) == 18


def test_all_ordered_pairs_of_pairs(root: Path) -> None:
    pairs = read_relations(root)["snow"]
    found = [(x.first.name, x.second.name) for x in ordered_pairs(pairs)]
    expected = [(i, j) for i, j in product(["00", "01", "02", "03"], repeat=2) if i != j]
    assert sorted(found) == expected and len(found) == 12


def test_drawn_analogies(root: Path) -> None:
    relations = read_relations(root)
    every = draw_analogies(relations)
    by_hand = {x.key for pairs in relations.values() for x in ordered_pairs(pairs)}
    assert len(every) == 2 + 6 + 12 and {x.key for x in every} == by_hand
    assert [x.first.category for x in every] != sorted(x.first.category for x in every), "shuffled"
    few = draw_analogies(relations, each=3)
    assert len({x.key for x in few}) == len(few) == 2 + 3 + 3
    assert draw_analogies(relations, each=3) == few and draw_analogies(relations, each=3, seed=1) != few
    alone = draw_analogies({"snow": relations["snow"]}, each=3)
    assert {x.key for x in alone} == {x.key for x in few if x.first.category == "snow"}


def test_split_holds_out_whole_categories(tmp_path: Path) -> None:
    names = [f"edit {i}" for i in range(218)]
    splits = split_categories(names)
    assert {k: len(v) for k, v in splits.items()} == {"train": 185, "val": 11, "test": 22}
    assert sorted(x for part in splits.values() for x in part) == sorted(names)
    by_hash = sorted(names, key=lambda x: hashlib.sha256(b"0:" + x.encode()).digest())
    assert splits["test"] == sorted(by_hash[:22]) and splits["val"] == sorted(by_hash[22:33])
    assert split_categories(names[::-1]) == splits and split_categories(names, seed=1) != splits
    write_splits(tmp_path / "splits.json", splits)
    assert read_splits(tmp_path / "splits.json", names) == splits


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"train": ["a"], "val": [], "test": []}, "got a difference: b"),
        ({"train": ["a", "b"], "val": ["b"], "test": []}, "got on two: b"),
        ({"train": ["a", "b"], "val": []}, "expected the parts train, val, test"),
        (None, "expected a split as JSON"),
    ],
)
def test_wrong_split_files(tmp_path: Path, splits: dict | None, message: str) -> None:
    if splits is not None:
        (tmp_path / "splits.json").write_text(json.dumps(splits))
    with pytest.raises(InputError, match=message):
        read_splits(tmp_path / "splits.json", ["a", "b"])


@pytest.mark.parametrize(("names", "shares"), [(["a", "b"], (0.5, 0.5)), (["a", "b", "c"], (-0.1, 0.1))])
def test_impossible_shares(names: list[str], shares: tuple[float, float]) -> None:
    with pytest.raises(InputError, match="expected shares that leave categories for training"):
        split_categories(names, *shares)


def _lonely(root: Path) -> None:
    (root / "hats" / "target" / "01.png").unlink()


def _twice(root: Path) -> None:
    (root / "hats" / "target" / "01.jpg").write_bytes((root / "hats" / "target" / "01.png").read_bytes())


def _uncaptioned(root: Path) -> None:
    (root / "blur" / "target" / "01.txt").write_text(" \n")


def _foreign_captions(root: Path) -> None:
    (root / "snow" / "captions.json").write_text("[1]")


def _cut_captions(root: Path) -> None:
    (root / "snow" / "captions.json").write_text('{"00": ')


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
        (_uncaptioned, r"expected a caption .* got 1 without: 01"),
        (_foreign_captions, "expected an object of names and captions"),
        (_cut_captions, "expected JSON in .*captions.json"),
        (_single, "expected two pairs or more in .*blur.* got 1"),
        (_empty, "expected folders with control/ and target/ in .*, found none"),
    ],
)
def test_what_is_refused(root: Path, damage, message: str) -> None:
    damage(root)
    with pytest.raises(InputError, match=message):
        read_relations(root)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a folder of categories"):
        read_relations(tmp_path / "none")


def test_broken_pictures_are_found_together(root: Path) -> None:
    whole = (root / "snow" / "target" / "03.png").read_bytes()
    (root / "snow" / "target" / "03.png").write_bytes(whole[: len(whole) // 2])
    (root / "hats" / "control" / "00.png").write_bytes(b"no picture")
    relations = read_relations(root)
    with pytest.raises(InputError, match=r"expected 18 whole pictures, got 2 .*hats/control/00\.png.*snow/target/03"):
        check_pictures(relations)
