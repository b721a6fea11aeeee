"""A training set in the format of Relation252K: folders of picture pairs, one category an edit.

    <root>/<category>/control/<name>.<ext>     a
    <root>/<category>/target/<name>.<ext>      a', the same picture edited
    <root>/<category>/captions.json            {"<name>": "what was done", …}, or
    <root>/<category>/target/<name>.txt        the same beside each picture (or beside its control)

A category is a relation: any two of its pairs are an analogy a : a' :: b : b', in either order, and the caption of the
first pair is its instruction. Whole categories are held out, so that a test asks for edits that no training showed.
Pictures are in any format that Pillow reads, text is UTF-8; names are compared in Unicode's NFC form, folders without
regard to case. Files that file managers and notebooks leave behind are passed over.
"""

from __future__ import annotations

import hashlib
import unicodedata
import warnings
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import InputError
from ..files import read_json, read_text
from ..images import to_rgb

CAPTIONS, SPLITS = "captions.json", "splits.json"
PARTS = ("train", "val", "test")
SIDES = ("control", "target")
# A byte order mark and a space of no width, neither of which str.split takes for white space.
INVISIBLE = {0xFEFF: " ", 0x200B: " "}
LEFT_BEHIND = {"__macosx", "thumbs.db", "desktop.ini", "@eadir"}


@dataclass(frozen=True)
class PicturePair:
    """A picture, the picture after the edit, and the edit in words."""

    category: str
    name: str
    control: Path
    target: Path
    caption: str

    @property
    def key(self) -> str:
        """A name of its own within the whole set."""
        return f"{self.category}/{self.name}"


Relations = Mapping[str, Sequence[PicturePair]]


def read_relations(root: str | Path) -> dict[str, list[PicturePair]]:
    """Every category of a folder and its pairs, both sorted by name; warns of what was skipped, and why.

    Raises:
        InputError: no category, a picture without its counterpart, two pictures of one name, a picture without a
            caption, a text that is not UTF-8, or a category of fewer than two pairs; each with the names it concerns.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"expected a folder of categories, got {str(root)!r}")
    skipped: dict[str, list[str]] = defaultdict(list)
    relations: dict[str, list[PicturePair]] = {}
    for folder in visible(root):
        sides = [x for x in visible(folder) if x.is_dir() and x.name.lower() in SIDES] if folder.is_dir() else []
        name = _nfc(folder.name, root)
        if not sides:
            if folder.is_dir() or is_picture(folder):
                skipped["no control/ and target/"].append(folder.name)
        elif name in relations or len({x.name.lower() for x in sides}) < len(sides):
            raise InputError(f"expected folders of names that differ in more than case or accents in {root}: {name}")
        else:
            relations[name] = _pairs(name, folder, sides, skipped)
    if not relations:
        raise InputError(f"expected folders with control/ and target/ in {root}, found none")
    if skipped:
        reasons = (f"{why}: {len(names)} ({some(names)})" for why, names in skipped.items())
        warnings.warn(f"skipped in {root}: {'; '.join(reasons)}", stacklevel=2)
    return dict(sorted(relations.items()))


def _pairs(category: str, folder: Path, sides: Sequence[Path], skipped: dict[str, list[str]]) -> list[PicturePair]:
    pictures: dict[str, dict[str, Path]] = {side: {} for side in SIDES}
    texts: dict[str, Path] = {}
    for place in sorted(sides, key=lambda x: x.name.lower()):  # control before target, whose texts count
        side = pictures[place.name.lower()]
        for path in visible(place):
            name = _nfc(path.stem, place)
            if path.suffix.lower() == ".txt":
                texts[name] = path
            elif not is_picture(path):
                skipped["not a picture that Pillow reads"].append(f"{folder.name}/{place.name}/{path.name}")
            elif name in side:
                raise InputError(f"expected one picture of a name in {place}, got {side[name].name}, {path.name}")
            else:
                side[name] = path
    control, target = pictures.values()
    if alone := sorted(control.keys() ^ target.keys()):
        there = "control" if alone[0] in control else "target"
        raise InputError(
            f"expected each picture of {folder} in control/ and in target/, got {len(alone)} without a counterpart: "
            f"{some(alone)} ({alone[0]} is in {there}/ alone)"
        )
    if len(control) < 2:
        raise InputError(f"expected two pairs or more in {folder}, so that they make an analogy, got {len(control)}")
    captions = _captions(folder, texts)
    if missing := sorted(control.keys() - captions.keys()):
        raise InputError(
            f"expected a caption of each picture in {folder / CAPTIONS} or in <name>.txt beside it, "
            f"got {len(missing)} without: {some(missing)}"
        )
    for why, names in (
        ("beside control/ and target/", [x.name for x in visible(folder) if x not in sides and x.name != CAPTIONS]),
        ("caption of no picture", sorted(captions.keys() - control.keys())),
    ):
        if names:
            skipped[why] += [f"{folder.name}/{name}" for name in names]
    return [PicturePair(category, name, control[name], target[name], captions[name]) for name in sorted(control)]


def _captions(folder: Path, texts: Mapping[str, Path]) -> dict[str, str]:
    """Captions that are not empty, by name; those of captions.json take precedence."""
    listed = read_json(folder / CAPTIONS) if (folder / CAPTIONS).is_file() else {}
    if not isinstance(listed, dict) or not all(isinstance(x, str) for x in listed.values()):
        raise InputError(f"expected an object of names and captions in {folder / CAPTIONS}, got something else")
    every = {name: read_text(path) for name, path in texts.items()}
    every |= {_nfc(name, folder): text for name, text in listed.items()}
    captions = {name: _nfc(" ".join(text.translate(INVISIBLE).split()), folder) for name, text in every.items()}
    return {name: text for name, text in captions.items() if text}


def check_pictures(relations: Relations) -> dict[str, dict[str, str]]:
    """Reads every picture once, so that a run of days does not stop at a broken one; InputError names those.

    Most formats have no checksum: a byte that has changed may leave another picture, which only its digest tells.

    Returns:
        for each pair its caption and a digest of the bytes of both pictures, by :attr:`PicturePair.key`.
    """
    content, broken = {}, []
    for pair in (pair for pairs in relations.values() for pair in pairs):
        digest = hashlib.sha256()
        for path in (pair.control, pair.target):
            try:
                digest.update(hashlib.sha256(path.read_bytes()).digest())
                to_rgb(path, pair.key)
            except (OSError, InputError) as error:
                reason = str(error.__cause__ or error).split(f"{path}: ")[-1]
                broken.append(f"{path} ({' '.join(reason.split())[:80]})")
        content[pair.key] = {"caption": pair.caption, "pictures": digest.hexdigest()}
    if broken:
        raise InputError(
            f"expected {2 * len(content)} whole pictures, got {len(broken)} that cannot be decoded: {some(broken)}"
        )
    return content


def split_categories(names: Sequence[str]) -> dict[str, list[str]]:
    """Whole categories as train, val and test, ordered by the SHA-256 of ``0:name``: a tenth test, a twentieth val.

    Both are rounded, to one category at least; InputError where they leave none for training.
    """
    ordered = sorted(names, key=lambda name: _digest(0, name))
    test = max(1, round(0.1 * len(names)))
    val = test + max(1, round(0.05 * len(names)))
    if val >= len(names):
        raise InputError(f"expected three categories or more, for train, val and test, got {len(names)}")
    return {"train": sorted(ordered[val:]), "val": sorted(ordered[test:val]), "test": sorted(ordered[:test])}


def read_splits(path: str | Path, names: Sequence[str]) -> dict[str, list[str]]:
    """Reads a split of exactly these categories: JSON with lists train, val and test.

    Raises:
        InputError: no such file, no JSON, another part, or a category that is missing, unknown or on two sides.
    """
    splits = read_json(Path(path))
    lists = splits.values() if isinstance(splits, dict) and set(splits) == set(PARTS) else [None]
    if not all(isinstance(names, list) and all(isinstance(name, str) for name in names) for names in lists):
        raise InputError(f"expected lists of names {', '.join(PARTS)} in {path}, got something else")
    splits = {part: [_nfc(name, Path(path)) for name in splits[part]] for part in PARTS}
    counts = Counter(name for chosen in splits.values() for name in chosen)
    if twice := sorted(name for name, count in counts.items() if count > 1):
        raise InputError(f"expected each category on one side in {path}, got on two: {some(twice)}")
    if differ := sorted(set(counts) ^ set(names)):
        raise InputError(f"expected the {len(names)} categories of the set in {path}, got a difference: {some(differ)}")
    return splits


def sample_analogies(
    relations: Relations, each: int | None = None, seed: int = 0
) -> list[tuple[PicturePair, PicturePair]]:
    """Analogies of all categories, shuffled: a and a' from the first pair, b and b' from the second.

    Args:
        each: how many of a category's n · (n − 1), without repetition; a category that has fewer gives all. None: all.
        seed: the same seed samples the same analogies of a category whatever other categories there are.
    """
    sampled: list[tuple[PicturePair, PicturePair]] = []
    for category, pairs in relations.items():
        every = list(permutations(pairs, 2))
        rng = np.random.default_rng(list(_digest(seed, category)))
        sampled += [every[i] for i in rng.permutation(len(every))[:each]]
    return [sampled[i] for i in np.random.default_rng(seed).permutation(len(sampled))]


def _digest(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}:{name}".encode()).digest()


def is_picture(path: Path) -> bool:
    """Whether it is a file of an ending that Pillow reads."""
    return Image.registered_extensions().get(path.suffix.lower()) in Image.OPEN and path.is_file()


def visible(folder: Path) -> list[Path]:
    """What lies in a folder, sorted, without hidden files and what file managers and notebooks leave behind."""
    return sorted(x for x in folder.iterdir() if x.name[0] != "." and x.name.lower() not in LEFT_BEHIND)


def some(names: Sequence[str], joint: str = ", ") -> str:
    """The first five names of a list, and how many more there are."""
    return joint.join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _nfc(text: str, place: Path) -> str:
    """A name or a caption of ``place`` in Unicode's NFC form; InputError for one that UTF-8 cannot write."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InputError(f"expected names and captions in {place} that UTF-8 can write, got {text!r}") from None
    return unicodedata.normalize("NFC", text)
