"""Shards of latents and embeddings against what the pipeline itself computes, and as webdataset reads them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import webdataset
from PIL import Image
from safetensors.torch import load
from test_dataset import folders
from tiny_flux import EMBEDDING, SIDE, TEXT, tiny_clip, tiny_pipeline

from lorweb_mini.errors import InputError
from lorweb_mini.flux.dataset import SPLITS
from lorweb_mini.flux.picture_encoder import PictureEncoder, read_squares
from lorweb_mini.flux.shards import LatentShards, ShardSettings, write_shards

SIZES = {"hats": 3, "blur": 2, "snow": 4, "rain": 3}
TOKENS = 8
SETTINGS = ShardSettings(side=SIDE, text_tokens=TOKENS, each=4, samples=3)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory):
    root = folders(tmp_path_factory.mktemp("set"), SIZES)
    pipeline = tiny_pipeline()
    encoder = PictureEncoder.load(tiny_clip(tmp_path_factory.mktemp("clip")))
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
            assert about["category"] in shards.categories[part] and about["first"] != about["second"]
            a, a_prime, b, b_prime = (
                read_squares(root / about["category"] / side / f"{about[pair]}.png", "x", SIDE)
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


def test_webdataset_streams_the_same(made) -> None:
    *_, shards = made
    files = [str(path) for path in shards.files("train")]
    assert len(files) == -(-shards.count("train") // SETTINGS.samples)
    stream = list(webdataset.WebDataset(files, shardshuffle=False, empty_check=False))
    assert len(stream) == shards.count("train")
    for number, item in enumerate(stream):
        tensors, about = shards.sample("train", number)
        assert json.loads(item["json"]) == about
        streamed = load(item["safetensors"])
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


def test_other_settings_or_pictures_are_refused(made, tmp_path: Path) -> None:
    root, pipeline, encoder, shards = made
    other = ShardSettings(side=2 * SIDE, text_tokens=TOKENS, each=4, samples=3)
    with pytest.raises(InputError, match=r"expected shards of the same settings .* side differ"):
        write_shards(pipeline, encoder, root, shards.folder, other)
    other_split = tmp_path / SPLITS
    swapped = {"train": shards.categories["train"], "val": shards.categories["test"], "test": shards.categories["val"]}
    other_split.write_text(json.dumps(swapped))
    with pytest.raises(InputError, match="splits differ"):
        write_shards(pipeline, encoder, root, shards.folder, SETTINGS, other_split)
    broken = folders(tmp_path / "broken", {"a": 2, "b": 2, "c": 2})
    (broken / "a" / "target" / "00.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match="got 1 that cannot be decoded"):
        write_shards(pipeline, encoder, broken, tmp_path / "out", SETTINGS)


def test_pictures_of_any_size(made, tmp_path: Path) -> None:
    _, pipeline, encoder, _ = made
    root = folders(tmp_path / "set", {"a": 2, "b": 2, "c": 2})
    Image.new("RGB", (50, 20), "red").save(root / "a" / "control" / "00.png")
    shards = write_shards(pipeline, encoder, root, tmp_path / "out", SETTINGS)
    assert all(shards.sample(p, 0)[0]["target"].shape == (16, SIDE // 4, SIDE // 4) for p in ("train", "val", "test"))


def test_missing_files(made, tmp_path: Path) -> None:
    *_, shards = made
    with pytest.raises(InputError, match="expected finished shards"):
        LatentShards(tmp_path)
    for path in shards.folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "train-00000.tar").unlink()
    with pytest.raises(InputError, match=r"got 1 missing: train-00000\.tar"):
        LatentShards(tmp_path)
