"""Where the drawings come from: eight npm packages, pinned, read straight from their tarballs.

The upstream defects are mended here, so that nothing after this module knows of them.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STYLES = ("noto", "twemoji", "openmoji", "openmoji_black", "fluent_3d", "fluent_flat")
MIN_STYLES = 4

TONES = ("1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff")


@dataclass(frozen=True)
class Package:
    """An npm package at one version; `sha512` of its tarball in hex."""

    name: str
    version: str
    sha512: str

    @property
    def tarball(self) -> str:
        return f"{self.name.lstrip('@').replace('/', '-')}-{self.version}.tgz"


NOTO = Package(
    "@iconify-json/noto",
    "1.2.9",
    "0d08ae5c435bba7e35721f973d2579e47f456962a91d3cb3e3a6082ad49a2980"
    "f87c80c3ccbd6d47a1f89e9fd3dfc8dfad301e237adc285d26a8761e65502e6b",
)
TWEMOJI = Package(
    "@iconify-json/twemoji",
    "1.2.5",
    "b8aa6e204574bfa2b9056dcc8ddca5f972855406db70fc408227cabc432d6685"
    "19079f98898e7368c9b6b8d342c725f301653dc8d2e58f8d5653afe6be000bb3",
)
OPENMOJI = Package(
    "openmoji",
    "17.0.0",
    "1019d8acd19d71dc3e3925e610d78d135c81351bbab4eada4e6a0ec946c99139"
    "af4fff97113a7c4592d2245cc3de5acf73937d0b3b323e7453934569e14688f7",
)
FLUENT_3D = Package(
    "@lobehub/fluent-emoji-3d",
    "1.1.0",
    "5a5ab69554ad4e7afc043a48274a449d328ee0bb83c71a931214ef46d0f50cb4"
    "45d267bba207914232a87a10c75ee549d9069e720979c1106feb4954006de1ee",
)
FLUENT_FLAT = Package(
    "@iconify-json/fluent-emoji-flat",
    "1.2.6",
    "458e3b4603dbe3b7d8522cab03ae2c20e2f4f94534dacdbdb17a4d05b2104415"
    "253e57cd1532949990c4446bb10ecffbc8d196a9062fb9a4983353387d15e553",
)
EMOJIBASE = Package(
    "emojibase-data",
    "17.0.0",
    "62f81be405a81d588757f82ad6aaf96406ab7018a9f81dbbfd92d1b142646e00"
    "0468b959fdfa1ff60f3cd8b4e9984a728413440b49b6484988b658c7b13ca08c",
)
GOOGLE_FLAGS = Package(
    "emoji-datasource-google",
    "16.0.0",
    "6517b17f3b3b315a0b9e6cd998db0ee132a19c0269e43fbe566e8fa54a47fe31"
    "104257a6a7797cf028d9f83a19d9f68cf51e10c5990e3c90a84fc0e53e17d0dc",
)
FOREIGN = Package(
    "@iconify-json/fluent-emoji-high-contrast",
    "1.2.6",
    "7acaa164fa64ac5eec357dcdb0ba21f0a5bae28904aff6f3928ed636714ffaa4"
    "c9180a833c3623a74f76e72c6e8af5f2dc7b55401f318482aedfe36ad5bc97e7",
)
PACKAGES = (NOTO, TWEMOJI, OPENMOJI, FLUENT_3D, FLUENT_FLAT, EMOJIBASE, GOOGLE_FLAGS, FOREIGN)

# The drawing is an SVG document or the bytes of a raster file.
Drawing = str | bytes


def key_of(code_points: str) -> str:
    """Key of an emoji: lowercase hex without leading zeros, joined by "-", variation selectors left out."""
    return "-".join(part.lstrip("0") for part in code_points.lower().split("-") if part != "fe0f")


def fetch(package: Package, folder: Path | None) -> Path:
    """Path of a package's tarball with the pinned sum; without a folder `npm pack` brings it into the cache.

    Raises:
        FileNotFoundError: the folder lacks it, or npm is not installed.
        ValueError: the tarball is not the pinned one.
    """
    if folder is None:
        cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "lorweb-mini" / "npm"
        path = cache / package.tarball
        if not path.exists():
            cache.mkdir(parents=True, exist_ok=True)
            if shutil.which("npm") is None:
                raise FileNotFoundError(f"npm is needed to fetch {package.name}; or give --packages a folder")
            wanted = f"{package.name}@{package.version}"
            subprocess.run(["npm", "pack", wanted, "--pack-destination", str(cache)], check=True, capture_output=True)
    else:
        path = folder / package.tarball
    digest = hashlib.sha512(path.read_bytes()).hexdigest()
    if digest != package.sha512:
        raise ValueError(f"{path}: expected sha512 {package.sha512}; got {digest}")
    return path


def read_members(tarball: Path, wanted: Callable[[str], bool]) -> dict[str, bytes]:
    """The members of a tarball whose path (without the leading "package/") is wanted, in one pass."""
    members = {}
    with tarfile.open(tarball, "r|gz") as archive:
        for member in archive:
            path = member.name.removeprefix("package/")
            if member.isfile() and wanted(path):
                stream = archive.extractfile(member)
                assert stream is not None
                members[path] = stream.read()
    return members


def read_metadata(folder: Path | None) -> dict[str, dict[str, Any]]:
    """CLDR name, keywords, group, tone and gender of every emoji, in Unicode order."""
    names = ("en/data.json", "en/messages.json")
    files = read_members(fetch(EMOJIBASE, folder), lambda path: path in names)
    messages = json.loads(files["en/messages.json"])
    groups = {group["order"]: group["key"] for group in messages["groups"]}
    subgroups = {group["order"]: group["key"] for group in messages["subgroups"]}
    by_key = {}
    for plain in json.loads(files["en/data.json"]):
        for entry in (plain, *plain.get("skins", [])):
            if entry.get("group") is None:
                continue
            tone = entry.get("tone")
            if isinstance(tone, list) and len(set(tone)) == 1:
                tone = tone[0]
            key = key_of(entry["hexcode"])
            by_key[key] = {
                "key": key,
                "char": entry["emoji"],
                "name": entry["label"],
                "group": groups[entry["group"]],
                "subgroup": subgroups[entry["subgroup"]],
                "keywords": entry.get("tags") or plain.get("tags") or [],
                "version": entry["version"],
                "tone": tone,
                "gender": {0: "woman", 1: "man"}.get(entry.get("gender", plain.get("gender"))),
                "order": entry["order"],
            }
    entries = sorted(by_key.values(), key=lambda entry: (entry.pop("order"), entry["key"]))
    return {entry["key"]: entry for entry in entries}


def iconify(
    package: Package, folder: Path | None, crop: tuple[float, float, float, float] | None = None
) -> dict[str, str]:
    """Drawings of an Iconify package by key; `crop` is a view box (left, top, width, height) for square icons."""
    files = read_members(fetch(package, folder), lambda path: path in ("icons.json", "chars.json"))
    table, names = json.loads(files["icons.json"]), json.loads(files["chars.json"])
    drawings = {}
    for code_points, name in names.items():
        icon = table["icons"].get(name)
        if icon is None:
            alias = table["aliases"].get(name, {})
            # An alias that also turns or mirrors its parent would draw something else than its name says.
            if set(alias) - {"parent", "hidden"} or alias.get("parent") not in table["icons"]:
                continue
            icon = table["icons"][alias["parent"]]
        width = icon.get("width", table["width"])
        height = icon.get("height", table["height"])
        square = width == table["width"] and height == table["height"]
        box = crop if crop and square else (icon.get("left", 0), icon.get("top", 0), width, height)
        drawings[key_of(code_points)] = (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="{box[0]} {box[1]} {box[2]} {box[3]}" width="{box[2]}" height="{box[3]}">'
            + icon["body"].replace("currentColor", "#212121")
            + "</svg>"
        )
    return drawings


def openmoji(folder: Path | None) -> tuple[dict[str, str], dict[str, str]]:
    """OpenMoji in colour and in black, by key; the empty margin of its grid (4 of 72 units) is cropped."""
    pattern = re.compile(r"(color|black)/svg/([0-9A-F-]+)\.svg")
    files = read_members(fetch(OPENMOJI, folder), lambda path: pattern.fullmatch(path) is not None)
    drawings: dict[str, dict[str, str]] = {"color": {}, "black": {}}
    for path in sorted(files):
        kind, code_points = pattern.fullmatch(path).groups()  # type: ignore[union-attr]
        svg = files[path].decode("utf-8").replace('viewBox="0 0 72 72"', 'viewBox="4 4 64 64"', 1)
        drawings[kind][key_of(code_points)] = svg
    return drawings["color"], drawings["black"]


def fluent_3d(folder: Path | None, metadata: dict[str, dict[str, Any]], flat: dict[str, str]) -> dict[str, bytes]:
    """Fluent 3D by key, with the defects of version 1.1.0 mended.

    - medium-light and medium tones are swapped everywhere but on couples and the technologist;
    - the tones of the person mountain biking are scrambled: dropped;
    - the deaf man is drawn as the woman and the other way round, in all tones;
    - the pregnant person's dark tone is the medium-dark one again: dropped;
    - its country flags are Noto's drawings: dropped.
    """
    tones = {"1f3fc": "1f3fd", "1f3fd": "1f3fc"}
    genders = {"2640": "2642", "2642": "2640"}
    files = read_members(fetch(FLUENT_3D, folder), lambda path: re.fullmatch(r"assets/.*\.webp", path) is not None)
    drawings = {}
    for path in sorted(files):
        key = key_of(Path(path).stem)
        if key not in metadata:
            continue
        if metadata[key]["subgroup"] != "family" and not key.endswith("-1f4bb"):
            key = "-".join(tones.get(part, part) for part in key.split("-"))
        if key.startswith("1f9cf-"):
            key = "-".join(genders.get(part, part) for part in key.split("-"))
        if key == "1fac4-1f3ff" or re.fullmatch(r"1f6b5-1f3f[b-f]", key):
            continue
        if metadata[key]["group"] == "flags" and key not in flat:
            continue
        drawings[key] = files[path]
    return drawings


def google_flags(folder: Path | None) -> dict[str, bytes]:
    """The flags of Noto, which the Iconify package leaves out: 64×64 PNG by key."""
    pattern = re.compile(r"img/google/64/([0-9a-f-]+)\.png")
    files = read_members(fetch(GOOGLE_FLAGS, folder), lambda path: pattern.fullmatch(path) is not None)
    return {key_of(Path(path).stem): content for path, content in files.items()}


def read_drawings(folder: Path | None) -> tuple[list[dict[str, Any]], dict[str, dict[str, Drawing]]]:
    """Metadata of every emoji that at least four styles draw, in Unicode order, and drawings[style][key]."""
    metadata = read_metadata(folder)
    noto: dict[str, Drawing] = dict(iconify(NOTO, folder))
    for key, content in google_flags(folder).items():
        if metadata.get(key, {}).get("group") == "flags":
            noto.setdefault(key, content)
    flat = iconify(FLUENT_FLAT, folder)
    # The five tones of the person taking bath come in a wrong order.
    flat = {key: svg for key, svg in flat.items() if not key.startswith("1f6c0-")}
    colour, black = openmoji(folder)
    # A unit of margin: Twemoji touches the border of its view box.
    twemoji = iconify(TWEMOJI, folder, crop=(-1, -1, 38, 38))
    drawings: dict[str, dict[str, Drawing]] = {
        "noto": noto,
        "twemoji": dict(twemoji),
        "openmoji": dict(colour),
        "openmoji_black": dict(black),
        "fluent_3d": dict(fluent_3d(folder, metadata, flat)),
        "fluent_flat": dict(flat),
    }
    kept = [entry for key, entry in metadata.items() if sum(key in drawn for drawn in drawings.values()) >= MIN_STYLES]
    return kept, drawings
