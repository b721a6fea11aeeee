"""A training set in the format of Relation252K: folders of picture pairs, one category an edit.

    <root>/<category>/control/<name>.<ext>     a
    <root>/<category>/target/<name>.<ext>      a', the same picture edited
    <root>/<category>/captions.json            {"<name>": "what was done", …}, or
    <root>/<category>/target/<name>.txt        the same beside each picture (or beside its control)

A category is a relation: any two of its pairs are an analogy a : a' :: b : b', in either order, and the caption of the
first pair is its instruction. Whole categories are held out, so that a test asks for edits that no training showed.
Nothing is decoded until it is asked for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from ..errors import InputError

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
CAPTIONS, SPLITS = "captions.json", "splits.json"
PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class PicturePair:
    """One pair: a picture, the picture after the edit, and the edit in words."""

    category: str
    name: str
    control: Path
    target: Path
    caption: str


@dataclass(frozen=True)
class FolderAnalogy:
    """a, a' from ``first`` and b, b' from ``second``, two pairs of one category."""

    first: PicturePair
    second: PicturePair

    @property
    def key(self) -> str:
        """A name of its own within the whole set."""
        return f"{self.first.category}/{self.first.name}/{self.second.name}"


def read_relations(root: str | Path) -> dict[str, list[PicturePair]]:
    """Every category of a folder and its pairs, both sorted by name.

    Raises:
        InputError: no category, a picture without its counterpart, two pictures of one name, a picture without a
            caption, or a category of fewer than two pairs; every kind with the first of the names it concerns.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"expected a folder of categories, got {str(root)!r}")
    folders = sorted(x for x in root.iterdir() if (x / "control").is_dir() or (x / "target").is_dir())
    if not folders:
        raise InputError(f"expected folders with control/ and target/ in {root}, found none")
    return {folder.name: _pairs(folder) for folder in folders}


def _pairs(folder: Path) -> list[PicturePair]:
    control, target = (_pictures(folder / part) for part in ("control", "target"))
    if alone := sorted(control.keys() ^ target.keys()):
        there = "control" if alone[0] in control else "target"
        raise InputError(
            f"expected each picture of {folder} in control/ and in target/, got {len(alone)} without a counterpart: "
            f"{_some(alone)} ({alone[0]} is in {there}/ alone)"
        )
    if len(control) < 2:
        raise InputError(f"expected two pairs or more in {folder}, so that they make an analogy, got {len(control)}")
    captions = _captions(folder, sorted(control))
    return [PicturePair(folder.name, name, control[name], target[name], captions[name]) for name in sorted(control)]


def _pictures(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.suffix.lower() in EXTENSIONS:
            if path.stem in found:
                raise InputError(
                    f"expected one picture of a name in {folder}, got {found[path.stem].name}, {path.name}"
                )
            found[path.stem] = path
    return found


def _captions(folder: Path, names: Sequence[str]) -> dict[str, str]:
    listed: dict[str, str] = {}
    if (folder / CAPTIONS).is_file():
        try:
            listed = json.loads((folder / CAPTIONS).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"expected JSON in {folder / CAPTIONS}, got something else: {error}") from None
        if not isinstance(listed, dict) or not all(isinstance(x, str) for x in listed.values()):
            raise InputError(f"expected an object of names and captions in {folder / CAPTIONS}, got something else")
    found, missing = {}, []
    for name in names:
        beside = [folder / part / f"{name}.txt" for part in ("target", "control")]
        text = listed.get(name) or next((x.read_text(encoding="utf-8") for x in beside if x.is_file()), "")
        if text.strip():
            found[name] = " ".join(text.split())
        else:
            missing.append(name)
    if missing:
        raise InputError(
            f"expected a caption of each picture in {folder / CAPTIONS} or in <name>.txt beside it, "
            f"got {len(missing)} without: {_some(missing)}"
        )
    return found


def check_pictures(relations: Mapping[str, Sequence[PicturePair]]) -> int:
    """Decodes every picture once and returns their number; a run of days does not stop at a broken one then.

    Raises:
        InputError: pictures that cannot be decoded, how many and the first five.
    """
    count, broken = 0, []
    for pair in (pair for pairs in relations.values() for pair in pairs):
        for path in (pair.control, pair.target):
            count += 1
            try:
                with Image.open(path) as picture:
                    picture.load()
            except (OSError, ValueError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
                broken.append(f"{path} ({' '.join(str(error).split())[:80]})")
    if broken:
        raise InputError(f"expected {count} whole pictures, got {len(broken)} that cannot be decoded: {_some(broken)}")
    return count


def split_categories(names: Sequence[str], val: float = 0.05, test: float = 0.1, seed: int = 0) -> dict[str, list[str]]:
    """Whole categories as train, val and test.

    Categories are ordered by the SHA-256 of ``seed:name``; the first share is test, the next val. It follows from the
    names alone, so whoever holds the same categories has the same split on any machine.

    Args:
        val, test: shares in [0, 1), rounded to whole categories, at least one each where the share is not 0.

    Raises:
        InputError: shares that leave no category for training, or a name twice.
    """
    if len(set(names)) != len(names):
        raise InputError("expected names of categories that differ, got one twice")
    ordered = sorted(names, key=lambda x: hashlib.sha256(f"{seed}:{x}".encode()).hexdigest())
    first, second = (max(1, round(share * len(names))) if share else 0 for share in (test, val))
    if min(val, test) < 0 or first + second >= len(names):
        raise InputError(
            f"expected shares that leave categories for training, got val={val}, test={test} of {len(names)}"
        )
    parts = (ordered[first + second :], ordered[first : first + second], ordered[:first])
    return {part: sorted(chosen) for part, chosen in zip(PARTS, parts, strict=True)}


def write_splits(path: str | Path, splits: Mapping[str, Sequence[str]]) -> None:
    """Writes a split as JSON, to be published with whatever was trained on it."""
    Path(path).write_text(json.dumps(splits, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_splits(path: str | Path, names: Sequence[str]) -> dict[str, list[str]]:
    """Reads a split of exactly these categories.

    Raises:
        InputError: no such file, no JSON, another part than train, val and test, or a category that is missing,
            unknown or on two sides.
    """
    try:
        splits = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"expected a split as JSON in {path}, got none: {error}") from None
    if not isinstance(splits, dict) or set(splits) != set(PARTS):
        raise InputError(f"expected the parts {', '.join(PARTS)} in {path}, got something else")
    listed = [name for part in PARTS for name in splits[part]]
    if twice := sorted({name for name in listed if listed.count(name) > 1}):
        raise InputError(f"expected each category on one side in {path}, got on two: {_some(twice)}")
    if differ := sorted(set(listed) ^ set(names)):
        raise InputError(
            f"expected the {len(names)} categories of the set in {path}, got a difference: {_some(differ)}"
        )
    return {part: list(splits[part]) for part in PARTS}


def ordered_pairs(pairs: Sequence[PicturePair]) -> Iterator[FolderAnalogy]:
    """All n · (n − 1) analogies of a category: every pair of pairs, in both orders."""
    return (FolderAnalogy(first, second) for first, second in permutations(pairs, 2))


def draw_analogies(
    relations: Mapping[str, Sequence[PicturePair]], each: int | None = None, seed: int = 0
) -> list[FolderAnalogy]:
    """Analogies of all categories, shuffled.

    Args:
        each: how many of a category, drawn without repetition, so that large categories do not outweigh small ones;
            a category that has fewer gives all. None: all of all.
        seed: the same seed draws the same analogies of a category whatever other categories there are.
    """
    found: list[FolderAnalogy] = []
    for category, pairs in relations.items():
        every = len(pairs) * (len(pairs) - 1)
        digest = hashlib.sha256(f"{seed}:{category}".encode()).digest()
        chosen = np.random.default_rng(list(digest)).permutation(every)[: every if each is None else each]
        for number in chosen:
            first, rest = divmod(int(number), len(pairs) - 1)
            found.append(FolderAnalogy(pairs[first], pairs[rest + (rest >= first)]))
    return [found[i] for i in np.random.default_rng(seed).permutation(len(found))]


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
