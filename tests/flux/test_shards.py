"""Shards of latents and embeddings against what the pipeline itself computes, and as ``datasets`` streams them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import load_dataset
from PIL import Image
from safetensors.torch import load
from tiny_flux import EMBEDDING, SIDE, TEXT, folders, tiny_clip, tiny_pipeline

from lorweb_mini.errors import InputError
from lorweb_mini.flux.dataset import SPLITS
from lorweb_mini.flux.picture_encoder import PictureEncoder, grid_size, read_picture
from lorweb_mini.flux.shards import DATA, INDEX, LatentShards, ShardSettings, write_shards
from lorweb_mini.flux.shards import SETTINGS as SETTINGS_FILE

SIZES = {"hats": 3, "blur": 2, "snow": 4, "rain": 3}
TOKENS = 8
SETTINGS = ShardSettings(side=SIDE, text_tokens=TOKENS, each=4, samples=3)


@pytest.fixture(scope="module")
def made(encoder: PictureEncoder, tmp_path_factory: pytest.TempPathFactory):
    root = folders(tmp_path_factory.mktemp("set"), SIZES)
    pipeline = tiny_pipeline()
    shards = write_shards(pipeline, encoder, root, tmp_path_factory.mktemp("shards"), SETTINGS)
    return root, pipeline, encoder, shards


def test_samples_are_what_the_pipeline_computes(made) -> None:
    root, pipeline, encoder, shards = made
    assert {part: shards.count(part) for part in ("train", "val", "test")} == {
        part: sum(min(4, SIZES[x] * (SIZES[x] - 1)) for x in names) for part, names in shards.categories.items()
    }
    for part in ("train", "test"):
        for number in range(shards.count(part)):
            tensors, about = shards.sample(part, number)
            assert (about["height"], about["width"]) == tuple(tensors["target"].shape[1:]) == (SIDE // 4, SIDE // 4)
            assert about["category"] in shards.categories[part] and about["first"] != about["second"]
            a, a_prime, b, b_prime = (
                read_picture(root / about["category"] / side / f"{about[pair]}.png", "x")
                for pair in ("first", "second")
                for side in ("control", "target")
            )
            for name, corner in (("target", b_prime), ("condition", b)):
                whole = torch.cat([torch.cat([a, a_prime], 3), torch.cat([b, corner], 3)], 2)
                size = pipeline.image_processor.preprocess((whole + 1) / 2)
                expected = pipeline._encode_vae_image(size, generator=None)[0]
                torch.testing.assert_close(tensors[name], expected, atol=1e-5, rtol=1e-4)
            for picture, vector in zip((a, a_prime, b), tensors["query"], strict=True):
                torch.testing.assert_close(vector, encoder(picture)[0], atol=1e-5, rtol=1e-4)
            assert tensors["query"].shape == (3, EMBEDDING)
            assert shards.captions[about["prompt"]] == about["caption"] == about["caption"].strip()
            assert about["caption"].startswith(about["category"]), "the caption is that of the first pair"


def test_prompts_are_what_the_pipeline_computes(made) -> None:
    _, pipeline, _, shards = made
    assert shards.captions[0] == "" and len(shards.captions) == len(set(shards.captions)) == 1 + 12
    for number, caption in enumerate(shards.captions):
        embeds, pooled, _ = pipeline.encode_prompt(caption, None, device="cpu", max_sequence_length=TOKENS)
        ours = shards.prompt(number)
        assert ours[0].shape == (TOKENS, TEXT)
        torch.testing.assert_close(ours[0], embeds[0])
        torch.testing.assert_close(ours[1], pooled[0])


def test_datasets_streams_the_same(made) -> None:
    *_, shards = made
    files = sorted(map(str, shards.folder.glob("train-*.arrow")))
    assert len(files) == -(-shards.count("train") // SETTINGS.samples)
    stream = list(load_dataset("arrow", data_files=files, split="train", streaming=True))
    assert len(stream) == shards.count("train")
    for number, item in enumerate(stream):
        tensors, about = shards.sample("train", number)
        streamed = load(item.pop("tensors"))
        assert item == about
        assert streamed.keys() == tensors.keys() and all(torch.equal(streamed[k], v) for k, v in tensors.items())


def test_a_killed_run_goes_on(made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, pipeline, encoder, shards = made
    encode, seen = pipeline.vae.encode, []

    def counted(x):
        seen.append(x)
        if len(seen) == 2 * SETTINGS.samples + 1:
            raise KeyboardInterrupt
        return encode(x)

    with monkeypatch.context() as patch:
        patch.setattr(pipeline.vae, "encode", counted)
        with pytest.raises(KeyboardInterrupt):
            write_shards(pipeline, encoder, root, tmp_path, SETTINGS)
        with pytest.raises(InputError, match="expected finished shards"):
            LatentShards(tmp_path)
        seen.extend([None] * 10000)  # counts on without another interruption
        before = len(seen)
        write_shards(pipeline, encoder, root, tmp_path, SETTINGS)
        total = sum(shards.count(part) for part in ("train", "val", "test"))
        assert len(seen) - before == 2 * (total - SETTINGS.samples), "the finished shard was kept"
    for path in shards.folder.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name
    assert {x.name for x in tmp_path.iterdir()} == {x.name for x in shards.folder.iterdir()}


# --- shards of other data ------------------------------------------------------------------------


@pytest.fixture
def copied(made, tmp_path: Path):
    """A copy of the set and of its finished shards."""
    root, pipeline, encoder, shards = made
    copies = [Path(shutil.copytree(x, tmp_path / name)) for x, name in ((root, "set"), (shards.folder, "shards"))]
    return *copies, pipeline, encoder


def _caption(root: Path) -> None:
    (root / "blur" / "target" / "00.txt").write_text("something else")


def _picture(root: Path) -> None:
    Image.new("RGB", (SIDE, SIDE), "red").save(root / "hats" / "target" / "01.png")


def _both(root: Path) -> None:
    _picture(root)
    captions = json.loads((root / "hats" / "captions.json").read_text()) | {"01": "painted red"}
    (root / "hats" / "captions.json").write_text(json.dumps(captions))


def _swapped(root: Path) -> None:
    one, two = (root / "hats" / "control" / f"{name}.png" for name in ("00", "01"))
    first = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(first)


def _added(root: Path) -> None:
    for part in ("control", "target"):
        shutil.copy(root / "blur" / part / "00.png", root / "blur" / part / "02.png")
    (root / "blur" / "target" / "02.txt").write_text("aa")


def _removed(root: Path) -> None:
    for part in ("control", "target"):
        (root / "snow" / part / "03.png").unlink()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_caption, "caption of blur/00"),
        (_picture, "pictures of hats/01"),
        (_both, "caption and pictures of hats/01"),
        (_swapped, "pictures of hats/00, pictures of hats/01"),
        (_added, r"blur/02 \(added\)"),
        (_removed, r"snow/03 \(removed\)"),
    ],
)
def test_changed_data_are_refused(copied, change: Callable, says: str) -> None:
    root, folder, pipeline, encoder = copied
    write_shards(pipeline, encoder, root, folder, SETTINGS)
    (folder / INDEX).unlink()  # an unfinished run is refused as a finished one is
    change(root)
    with pytest.warns() if change is _removed else _nothing(), pytest.raises(InputError, match=says):
        write_shards(pipeline, encoder, root, folder, SETTINGS)


class _nothing:
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"side": 2 * SIDE}, r"side \(was 16, is 32\)"),
        ({"each": 3}, r"each \(was 4, is 3\)"),
        ({"seed": 1}, r"seed \(was 0, is 1\)"),
        ({"text_tokens": 9}, r"text_tokens \(was 8, is 9\)"),
    ],
)
def test_other_settings_are_refused(copied, change: dict, says: str) -> None:
    root, folder, pipeline, encoder = copied
    with pytest.raises(InputError, match=rf"expected shards of the same settings.*{says}"):
        write_shards(pipeline, encoder, root, folder, replace(SETTINGS, **change))


@pytest.mark.parametrize("part", ["vae", "text_encoder", "text_encoder_2", "encoder"])
def test_other_weights_are_refused(copied, part: str, tmp_path: Path) -> None:
    root, folder, pipeline, encoder = copied
    if part == "encoder":
        encoder = PictureEncoder.load(tiny_clip(tmp_path / "clip", seed=4))
    else:
        pipeline = tiny_pipeline()
        with torch.no_grad():
            next(getattr(pipeline, part).parameters()).add_(0.01)
    with pytest.raises(InputError, match=f"{part} of weights"):
        write_shards(pipeline, encoder, root, folder, SETTINGS)


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("vae", lambda pipeline, encoder: pipeline.vae.register_to_config(scaling_factor=1.7)),
        ("vae", lambda pipeline, encoder: pipeline.vae.register_to_config(shift_factor=0.0)),
        ("tokenizer", lambda pipeline, encoder: setattr(pipeline.tokenizer, "model_max_length", 4)),
        ("tokenizer_2", lambda pipeline, encoder: pipeline.tokenizer_2.add_tokens(["hat"])),
        ("text_encoder", lambda pipeline, encoder: setattr(pipeline.text_encoder.config, "layer_norm_eps", 0.1)),
        ("encoder", lambda pipeline, encoder: setattr(encoder.processor, "image_mean", [0.1, 0.2, 0.3])),
        ("encoder", lambda pipeline, encoder: setattr(encoder.processor, "size", {"shortest_edge": 40})),
    ],
)
def test_other_configurations_are_refused(copied, tmp_path: Path, part: str, change: Callable) -> None:
    """The same weights compute something else under them."""
    root, folder, *_ = copied
    pipeline, encoder = tiny_pipeline(), PictureEncoder.load(tiny_clip(tmp_path / "clip"))
    write_shards(pipeline, encoder, root, folder, SETTINGS)
    change(pipeline, encoder)
    with pytest.raises(InputError, match=f"got others: {part} of configurations"):
        write_shards(pipeline, encoder, root, folder, SETTINGS)


@pytest.mark.parametrize(
    "wrong",
    [
        {"side": 0},
        {"side": -16},
        {"side": 256.0},
        {"text_tokens": 0},
        {"each": -1},
        {"each": None},
        {"seed": -1},
        {"samples": 0},
        {"samples": True},
    ],
    ids=str,
)
def test_settings_that_cannot_be(wrong: dict) -> None:
    with pytest.raises(InputError, match=f"expected {next(iter(wrong))} as a whole number"):
        ShardSettings(**wrong)


def test_a_side_of_no_whole_tokens_is_refused() -> None:
    with pytest.raises(InputError, match="expected side as a multiple of 16 pixels, got 17"):
        ShardSettings(side=17)


def test_settings_in_numbers_of_numpy(copied) -> None:
    """The same shards: their settings are Python's numbers when they are written."""
    root, folder, pipeline, encoder = copied
    given = ShardSettings(np.int64(SIDE), np.int32(TOKENS), np.uint8(4), np.int8(0), np.int64(3))
    assert given == SETTINGS and write_shards(pipeline, encoder, root, folder, given).count("train")


def test_another_split_is_refused(copied, tmp_path: Path) -> None:
    root, folder, pipeline, encoder = copied
    categories = json.loads((folder / SPLITS).read_text())
    swapped = {"train": categories["train"], "val": categories["test"], "test": categories["val"]}
    (tmp_path / "other.json").write_text(json.dumps(swapped))
    with pytest.raises(InputError, match="the split's test, the split's val"):
        write_shards(pipeline, encoder, root, folder, SETTINGS, tmp_path / "other.json")


@pytest.mark.parametrize("name", [DATA, SETTINGS_FILE, SPLITS])
def test_shards_that_do_not_say_what_they_are_of(copied, name: str) -> None:
    root, folder, pipeline, encoder = copied
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=f"expected JSON in .*{name}"):
        write_shards(pipeline, encoder, root, folder, SETTINGS)
    (folder / name).unlink()
    with pytest.raises(InputError, match=f"expected {name} beside the shards"):
        write_shards(pipeline, encoder, root, folder, SETTINGS)


def test_broken_pictures_stop_it_before_anything_is_computed(made, tmp_path: Path) -> None:
    _, pipeline, encoder, _ = made
    broken = folders(tmp_path / "broken", {"a": 2, "b": 2, "c": 2})
    (broken / "a" / "target" / "00.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match="got 1 that cannot be decoded"):
        write_shards(pipeline, encoder, broken, tmp_path / "out", SETTINGS)
    assert not list((tmp_path / "out").iterdir())


# --- damaged files -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["train-00000.arrow", "prompts-00000.arrow", "test-00000.arrow"])
@pytest.mark.parametrize("damage", [lambda raw: raw[: len(raw) // 2], lambda raw: b"", lambda raw: b"text" * 9])
def test_damaged_shards_are_named(copied, name: str, damage: Callable) -> None:
    _, folder, *_ = copied
    (folder / name).write_bytes(damage((folder / name).read_bytes()))
    with pytest.raises(InputError, match=rf"expected \d+ rows in .*{name}, got a damaged file"):
        LatentShards(folder)


@pytest.mark.parametrize("name", ["train-00000.arrow", "prompts-00000.arrow", "val-00000.arrow"])
@pytest.mark.parametrize("share", [0.3, 0.5, 0.7])
def test_a_changed_byte_within_a_tensor_is_found(copied, name: str, share: float) -> None:
    """Arrow has no checksum, and one number too large spoils a training as much as a missing file."""
    _, folder, *_ = copied
    content, part = bytearray((folder / name).read_bytes()), name.split("-")[0]
    shards = LatentShards(folder)
    starts = [content.find(shards._data[part][i]["tensors"]) for i in range(len(shards._data[part]))]
    place = next(x for x in starts if x > 0) + int(share * len(shards._data[part][0]["tensors"]))
    content[place] ^= 64
    (folder / name).write_bytes(content)
    damaged = LatentShards(folder)
    read = damaged.prompt if part == "prompts" else lambda i: damaged.sample(part, i)
    with pytest.raises(
        InputError, match=f"expected whole tensors in {part} 0 of .*, got other bytes than were written"
    ):
        read(0)


@pytest.mark.parametrize("name", [SETTINGS_FILE, SPLITS, INDEX])
@pytest.mark.parametrize("text", ["null", "[]", "{}", '"text"', '{"side": 16}', "[" * 100_000])
def test_json_of_another_shape_is_named(copied, name: str, text: str) -> None:
    _, folder, *_ = copied
    (folder / name).write_text(text)
    with pytest.raises(InputError, match=f"expected .* in .*{name}, got"):
        LatentShards(folder)


@pytest.mark.parametrize("name", [SETTINGS_FILE, SPLITS, INDEX])
def test_half_a_json_file_is_named(copied, name: str) -> None:
    _, folder, *_ = copied
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=f"expected JSON in .*{name}"):
        LatentShards(folder)


def test_missing_files(copied, tmp_path: Path) -> None:
    _, folder, *_ = copied
    with pytest.raises(InputError, match="expected finished shards"):
        LatentShards(tmp_path)
    (folder / "train-00000.arrow").unlink()
    with pytest.raises(InputError, match=r"got 1 missing: train-00000\.arrow"):
        LatentShards(folder)


# --- pictures that are not square ----------------------------------------------------------------


@pytest.mark.parametrize(("width", "height"), [(24, 36), (36, 24), (50, 20), (24, 24)])
def test_pictures_of_any_aspect(made, tmp_path: Path, width: int, height: int) -> None:
    """a' and b of another size are stretched to a's; the whole grid has the release's size."""
    _, pipeline, encoder, _ = made
    root = folders(tmp_path / "set", {"a": 2, "b": 2, "c": 2}, shape=(height, width))
    for category in "abc":
        Image.new("RGB", (40, 10), "red").save(root / category / "target" / "00.png")
    shards = write_shards(pipeline, encoder, root, tmp_path / "out", replace(SETTINGS, side=64))
    wide, high = grid_size(width, height, 64)
    for part in ("train", "val", "test"):
        (bucket,) = shards.buckets(part)
        assert bucket == list(range(shards.count(part)))
        tensors, about = shards.sample(part, 0)
        assert tensors["target"].shape == tensors["condition"].shape == (16, high // 8, wide // 8)
        a, a_prime, b, b_prime = (
            Image.open(root / about["category"] / side / f"{about[pair]}.png").convert("RGB")
            for pair in ("first", "second")
            for side in ("control", "target")
        )
        canvas = Image.new("RGB", (2 * width, 2 * height))
        for picture, place in ((a, (0, 0)), (a_prime, (width, 0)), (b, (0, height)), (b_prime, (width, height))):
            canvas.paste(picture.resize((width, height), Image.Resampling.BICUBIC), place)
        pixels = pipeline.image_processor.preprocess(canvas.resize((wide, high), Image.Resampling.LANCZOS))
        expected = pipeline._encode_vae_image(pixels, generator=None)[0]
        torch.testing.assert_close(tensors["target"], expected, atol=1e-5, rtol=1e-4)
        boxes = [(0, 0, width, width), (width, 0, 2 * width, width), (0, width, width, 2 * height)]
        if width >= 2 * height:  # nothing of b is left in the release's box
            boxes = [(0, 0, width, height), (width, 0, 2 * width, height), (0, height, width, 2 * height)]
        canvas.paste(b.resize((width, height), Image.Resampling.BICUBIC), (width, height))
        for box, vector in zip(boxes, tensors["query"], strict=True):
            with torch.no_grad():
                pixels = encoder.processor(images=[canvas.crop(box)], return_tensors="pt")["pixel_values"]
                wanted = encoder.model(pixel_values=pixels).image_embeds[0]
            torch.testing.assert_close(vector, wanted, atol=1e-5, rtol=1e-4)


def test_sizes_within_a_set_are_buckets(made, tmp_path: Path) -> None:
    _, pipeline, encoder, _ = made
    root = folders(tmp_path / "set", {"a": 2, "b": 2, "c": 2, "d": 2})
    categories = ("a", "b", "c", "d")
    for place, category in enumerate(categories):
        for part in ("control", "target"):
            Image.new("RGB", (24, 36) if place % 2 else (24, 24), "red").save(root / category / part / "00.png")
    shards = write_shards(pipeline, encoder, root, tmp_path / "out", replace(SETTINGS, side=64))
    buckets = shards.buckets("train")
    assert sorted(i for bucket in buckets for i in bucket) == list(range(shards.count("train"))) and len(buckets) == 2
    for bucket in buckets:
        assert len({shards.sample("train", i)[0]["target"].shape for i in bucket}) == 1
