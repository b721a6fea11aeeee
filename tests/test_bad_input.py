"""Whatever is wrong with an input, the answer is one exception that says what was expected and what came."""

from __future__ import annotations

import json
import os
import shutil
import struct
import types
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save, save_file
from tiny_models import pictures, tiny_data, tiny_editor

import lorweb_mini as lw
from lorweb_mini.images import to_pil
from lorweb_mini.models.autoencoder import MiniAutoencoder
from lorweb_mini.models.base import Base
from lorweb_mini.models.pair_encoder import PairEncoder
from lorweb_mini.models.text import cached_vectors
from lorweb_mini.models.tiny_clip import TinyCLIP

GOOD = pictures(1)[0]
TWO, THREE = pictures(2), pictures(3)
C = torch.full((20, 3), 1 / 3)
# Of no type: what a caller passes who reads no annotations.
WORD: Any = "4"
NOTHING: Any = None


def _png(path: Path, width: int, height: int) -> Path:
    """A picture file whose header claims a size; its few bytes of data are beside the point."""
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"\0" * 64)),
        (b"IEND", b""),
    ]
    body = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(body))
    return path


def _cut(path: Path, kind: str) -> Path:
    noise = np.random.default_rng(0).integers(0, 256, (80, 80, 3)).astype(np.uint8)
    Image.fromarray(noise).save(path, kind)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def _written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


class _InBytes(os.PathLike):
    """As an entry of ``os.scandir(b"...")``."""

    def __init__(self, path: Path) -> None:
        self.path = os.fsencode(path)

    def __fspath__(self) -> bytes:
        return self.path


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def _cut_weights(path: Path, keep: float = 0.5) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])


def _configured(folder: Path, **changes: Any) -> Path:
    config = json.loads((folder / "config.json").read_text()) | changes
    config = {k: v for k, v in config.items() if v is not ...}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def _state(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> Path:
    path = folder / "model.safetensors"
    state = load_file(path)
    change(state)
    save_file(state, path)
    return folder


# Pictures, given as b of Editor.edit; a function makes them from a scratch folder.
PICTURES: dict[str, Any] = {
    "none": None,
    "a number": 3,
    "an object": object(),
    "bytes": b"\x89PNG",
    "empty list": [],
    "list with none": [GOOD, None],
    "no such file": lambda t: t / "missing.png",
    "no such file as text": lambda t: str(t / "missing.png"),
    "a folder": lambda t: t,
    "empty file": lambda t: _written(t / "empty.png", b""),
    "text file": lambda t: _written(t / "notes.txt", b"not a picture at all"),
    "text named png": lambda t: _written(t / "text.png", b"not a picture at all"),
    "svg": lambda t: _written(t / "x.svg", b'<svg xmlns="http://www.w3.org/2000/svg"/>'),
    "header alone": lambda t: _written(t / "header.png", b"\x89PNG\r\n\x1a\n"),
    "truncated png": lambda t: _cut(t / "half.png", "PNG"),
    "truncated jpeg": lambda t: _cut(t / "half.jpg", "JPEG"),
    "truncated webp": lambda t: _cut(t / "half.webp", "WEBP"),
    "truncated gif": lambda t: _cut(t / "half.gif", "GIF"),
    "file of 64.008 megapixels": lambda t: _png(t / "big.png", 8001, 8000),
    "bomb file": lambda t: _png(t / "bomb.png", 60000, 60000),
    "array of 64.008 megapixels": np.broadcast_to(np.uint8(0), (8001, 8000, 3)),
    "tensor of 64.008 megapixels": torch.zeros(1).expand(3, 8001, 8000),
    "array with a mask": np.ma.masked_greater(np.full((8, 8, 3), 0.5), 0.4),
    "array of no pixels": np.zeros((0, 10, 3), np.uint8),
    "tensor of no pixels": torch.zeros(3, 0, 10),
    "array with nan": np.full((8, 8, 3), np.nan),
    "array with infinity": np.full((8, 8, 3), np.inf),
    "float array to 255": np.full((8, 8, 3), 255.0),
    "float array below 0": np.full((8, 8, 3), -0.5),
    "integer array": np.zeros((8, 8, 3), np.int64),
    "complex array": np.zeros((8, 8, 3), complex),
    "array of objects": np.array([[object()] * 4] * 4),
    "array of one axis": np.zeros(8, np.uint8),
    "array of four axes": np.zeros((2, 8, 8, 3), np.uint8),
    "array of two channels": np.zeros((8, 8, 2), np.uint8),
    "tensor with nan": torch.full((3, 64, 64), float("nan")),
    "tensor with infinity": torch.full((3, 64, 64), float("-inf")),
    "tensor to 255": torch.full((3, 64, 64), 255.0),
    "tensor slightly out of range": torch.full((3, 64, 64), -1.1),
    "byte tensor": torch.zeros(3, 64, 64, dtype=torch.uint8),
    "tensor with channels last": torch.zeros(64, 64, 3),
    "tensor of one channel": torch.zeros(1, 64, 64),
    "tensor of two axes": torch.zeros(64, 64),
    "tensor of five axes": torch.zeros(1, 1, 3, 64, 64),
    "nested tensor": torch.nested.nested_tensor([GOOD[0], GOOD[1, :9], GOOD[2]], layout=torch.jagged),
    "nested batch": torch.nested.nested_tensor([GOOD, GOOD[:, :9]]),
    "no such file as bytes": lambda t: _InBytes(t / "missing.png"),
    "batch of no pictures": torch.zeros(0, 3, 64, 64),
    "batch with nan in one": torch.stack([GOOD, torch.full((3, 64, 64), float("nan"))]),
}

# Everything else: calls of the public API with a namespace of editors, folders and damaged copies.
CALLS: dict[str, Callable[[Any], Any]] = {
    "edit: missing a": lambda s: s.editor.edit(None, GOOD, GOOD),
    "edit: missing a'": lambda s: s.editor.edit(GOOD, None, GOOD),
    "edit: missing b": lambda s: s.editor.edit(GOOD, GOOD, None),
    "edit: lists of 2, 3 and 2": lambda s: s.editor.edit(TWO, THREE, TWO),
    "edit: lists of 2, 2 and 3": lambda s: s.editor.edit(list(TWO), list(TWO), list(THREE)),
    "edit: no steps": lambda s: s.editor.edit(GOOD, GOOD, GOOD, steps=0),
    "edit: half a step": lambda s: s.editor.edit(GOOD, GOOD, GOOD, steps=2.5),
    "edit: steps of text": lambda s: s.editor.edit(GOOD, GOOD, GOOD, steps=WORD),
    "edit: steps of True": lambda s: s.editor.edit(GOOD, GOOD, GOOD, steps=True),
    "edit: seed of text": lambda s: s.editor.edit(GOOD, GOOD, GOOD, seed="one"),
    "edit: seed of None": lambda s: s.editor.edit(GOOD, GOOD, GOOD, seed=None),
    "edit: seed below 0": lambda s: s.editor.edit(GOOD, GOOD, GOOD, seed=-1),
    "edit: seed beyond 64 bits": lambda s: s.editor.edit(GOOD, GOOD, GOOD, seed=2**64),
    "edit: a prompt": lambda s: s.editor.edit(GOOD, GOOD, GOOD, prompt="add a hat"),
    "edit: a misspelt option": lambda s: s.editor.edit(GOOD, GOOD, GOOD, step=2),
    "edit: the name of an inner argument": lambda s: s.editor.edit(GOOD, GOOD, GOOD, coefficients=C),
    "generate: a guidance": lambda s: s.editor.generate(GOOD, C, guidance=2.0),
    "generate: two unknown options": lambda s: s.editor.generate(GOOD, C, noise=1, b_prime=GOOD),
    "route: missing a'": lambda s: s.editor.route(GOOD, None, GOOD),
    "route: lists of 3, 1 and 2": lambda s: s.editor.route(THREE, GOOD, TWO),
    "route: not a picture": lambda s: s.editor.route(GOOD, 7, GOOD),
    "generate: missing b": lambda s: s.editor.generate(None, C),
    "generate: coefficients of None": lambda s: s.editor.generate(GOOD, None),
    "generate: coefficients as a list": lambda s: s.editor.generate(GOOD, C.tolist()),
    "generate: coefficients as an array": lambda s: s.editor.generate(GOOD, C.numpy()),
    "generate: too many LoRAs": lambda s: s.editor.generate(GOOD, torch.ones(20, 4)),
    "generate: too few layers": lambda s: s.editor.generate(GOOD, torch.ones(19, 3)),
    "generate: one row": lambda s: s.editor.generate(GOOD, torch.ones(3)),
    "generate: four axes": lambda s: s.editor.generate(GOOD, torch.ones(1, 1, 20, 3)),
    "generate: transposed": lambda s: s.editor.generate(GOOD, C.T),
    "generate: empty batch": lambda s: s.editor.generate(GOOD, torch.ones(0, 20, 3)),
    "generate: nan": lambda s: s.editor.generate(GOOD, C * float("nan")),
    "generate: infinity": lambda s: s.editor.generate(GOOD, C * float("inf")),
    "generate: doubles that no float holds": lambda s: s.editor.generate(GOOD, C.double() * 1e300),
    "generate: larger than the transformer can bear": lambda s: s.editor.generate(GOOD, C * 1e30, steps=1),
    "generate: complex": lambda s: s.editor.generate(GOOD, C.to(torch.complex64)),
    "generate: sparse": lambda s: s.editor.generate(GOOD, C.to_sparse()),
    "generate: meta": lambda s: s.editor.generate(GOOD, C.to("meta")),
    "generate: quantised": lambda s: s.editor.generate(GOOD, torch.quantize_per_tensor(C, 0.1, 0, torch.qint8)),
    "generate: 2 mixtures for 3 pictures": lambda s: s.editor.generate(THREE, C.expand(2, 20, 3)),
    "generate: no steps": lambda s: s.editor.generate(GOOD, C, steps=0),
    "generate: seed below 0": lambda s: s.editor.generate(GOOD, C, seed=-1),
    "generate: missing context": lambda s: s.seeing.generate(GOOD, C),
    "generate: context of one": lambda s: s.seeing.generate(GOOD, C, context=(GOOD,)),
    "generate: context of a number": lambda s: s.seeing.generate(GOOD, C, context=5),
    "generate: context without a'": lambda s: s.seeing.generate(GOOD, C, context=(GOOD, None)),
    "generate: context of other length": lambda s: s.seeing.generate(TWO, C, context=(THREE, THREE)),
    "freeze: two mixtures": lambda s: s.editor.freeze(C.expand(2, 20, 3)).__enter__(),
    "freeze: wrong shape": lambda s: s.editor.freeze(torch.ones(20, 4)).__enter__(),
    "freeze: none": lambda s: s.editor.freeze(None).__enter__(),
    "export: two mixtures": lambda s: s.editor.export_lora(C.expand(2, 20, 3), s.scratch / "x.safetensors"),
    "export: wrong shape": lambda s: s.editor.export_lora(torch.ones(3), s.scratch / "x.safetensors"),
    "export: nan": lambda s: s.editor.export_lora(C * float("nan"), s.scratch / "x.safetensors"),
    "export: no path": lambda s: s.editor.export_lora(C, NOTHING),
    "export: a number": lambda s: s.editor.export_lora(C, 5),
    "save: no path": lambda s: s.editor.save(NOTHING),
    "export: a folder": lambda s: s.editor.export_lora(C, _folder(s.scratch / "x.safetensors")),
    "export: below a file": lambda s: s.editor.export_lora(C, _written(s.scratch / "x", b"") / "x.safetensors"),
    "save: a file": lambda s: s.editor.save(_written(s.scratch / "x.png", b"")),
    "save: below a file": lambda s: s.editor.save(_written(s.scratch / "x.png", b"") / "x"),
    "save: the autoencoder in a file": lambda s: s.editor.autoencoder.save(_written(s.scratch / "x.png", b"")),
    "export: other suffix": lambda s: s.editor.export_lora(C, s.scratch / "x.bin"),
    "analogies: seed below 0": lambda s: lw.analogies(seed=-1),
    "analogies: seed of text": lambda s: lw.analogies(seed=WORD),
    "analogies: seed of None": lambda s: lw.analogies(seed=NOTHING),
    "analogies: half of one": lambda s: lw.analogies(n=0.5),
    "analogies: fewer than none": lambda s: lw.analogies(n=-1),
    "analogies: relation of a number": lambda s: lw.analogies(relation=5),
    "analogies: relations with None": lambda s: lw.analogies(relation=[NOTHING]),
    "analogies: relation of bytes": lambda s: lw.analogies(relation=b"edit/invert"),
    "config: routed of text": lambda s: lw.BasisConfig(routed=WORD),
    "config: shared of a number": lambda s: lw.BasisConfig(shared=1),
    "config: unknown layout": lambda s: lw.BasisConfig(layout="rows"),
    "config: no LoRAs": lambda s: lw.BasisConfig(n_loras=0),
    "config: rank of text": lambda s: lw.BasisConfig(rank=WORD),
    "config: no router and no context": lambda s: lw.BasisConfig(routed=False, layout="b"),
    "load: unknown name": lambda s: lw.load("biggest"),
    "load: a name that no system allows": lambda s: lw.load("x" * 5000),
    "load: none": lambda s: lw.load(NOTHING),
    "load: not shipped": lambda s: lw.load("full"),
    "load: a file": lambda s: lw.load(s.starter / "config.json"),
    "load: empty folder": lambda s: lw.load(s.scratch),
    "load: no config": lambda s: ((s.starter / "config.json").unlink(), lw.load(s.starter)),
    "load: config is no JSON": lambda s: (_written(s.starter / "config.json", b"{half"), lw.load(s.starter)),
    "load: config is binary": lambda s: (_written(s.starter / "config.json", b"\xff\xfe\x00"), lw.load(s.starter)),
    "load: config is a list": lambda s: (_written(s.starter / "config.json", b"[1, 2]"), lw.load(s.starter)),
    "load: config without rank": lambda s: lw.load(_configured(s.starter, rank=...)),
    "load: config of another layout": lambda s: lw.load(_configured(s.starter, layout="rows")),
    "load: config with rank of text": lambda s: lw.load(_configured(s.starter, rank="two")),
    "load: config of more LoRAs": lambda s: lw.load(_configured(s.starter, n_loras=4)),
    "load: config of other keys": lambda s: lw.load(_configured(s.starter, keys_dim=9)),
    "load: other frozen weights": lambda s: lw.load(_configured(s.starter, frozen="0-0-0")),
    "load: no weights": lambda s: ((s.starter / "model.safetensors").unlink(), lw.load(s.starter)),
    "load: truncated weights": lambda s: (_cut_weights(s.starter / "model.safetensors"), lw.load(s.starter)),
    "load: truncated header": lambda s: (_cut_weights(s.starter / "model.safetensors", 0.001), lw.load(s.starter)),
    "load: empty weights": lambda s: (_written(s.starter / "model.safetensors", b""), lw.load(s.starter)),
    "load: weights are a picture": lambda s: (
        shutil.copy(_png(s.scratch / "x.png", 9, 9), s.starter / "model.safetensors"),
        lw.load(s.starter),
    ),
    "load: weights of another model": lambda s: (
        shutil.copy(s.weights / "encoder" / "model.safetensors", s.starter / "model.safetensors"),
        lw.load(s.starter),
    ),
    "load: weights without one layer": lambda s: lw.load(_state(s.starter, lambda x: x.pop(sorted(x)[0]))),
    "load: weights without keys": lambda s: lw.load(_state(s.starter, lambda x: x.pop("router.keys"))),
    "load: folder of another part": lambda s: lw.load(s.weights / "encoder"),
    "load: frozen base missing": lambda s: (shutil.rmtree(s.weights / "base"), lw.load("starter")),
    "load: frozen encoder truncated": lambda s: (
        _cut_weights(s.weights / "encoder" / "model.safetensors"),
        lw.load("starter"),
    ),
    "base: empty folder": lambda s: Base.load(s.scratch),
    "base: no such folder": lambda s: Base.load(s.scratch / "none"),
    "base: truncated": lambda s: (
        _cut_weights(s.weights / "base" / "diffusion_pytorch_model.safetensors"),
        Base.load(s.weights / "base"),
    ),
    "base: no weights": lambda s: (
        (s.weights / "base" / "diffusion_pytorch_model.safetensors").unlink(),
        Base.load(s.weights / "base"),
    ),
    "base: weights of the autoencoder": lambda s: (
        shutil.copy(
            s.weights / "autoencoder" / "diffusion_pytorch_model.safetensors",
            s.weights / "base" / "diffusion_pytorch_model.safetensors",
        ),
        Base.load(s.weights / "base"),
    ),
    "base: another width": lambda s: Base.load(_configured(s.weights / "base", num_attention_heads=2)),
    "base: folder of the autoencoder": lambda s: Base.load(s.weights / "autoencoder"),
    "base: folder of the encoder": lambda s: Base.load(s.weights / "encoder"),
    "autoencoder: folder of the base": lambda s: MiniAutoencoder.load(s.weights / "base"),
    "autoencoder: truncated": lambda s: (
        _cut_weights(s.weights / "autoencoder" / "diffusion_pytorch_model.safetensors"),
        MiniAutoencoder.load(s.weights / "autoencoder"),
    ),
    "encoder: folder of the autoencoder": lambda s: TinyCLIP.load(
        _as_weights(s.weights / "autoencoder"),
    ),
    "encoder: folder of the starter": lambda s: TinyCLIP.load(s.starter),
    "encoder: another width": lambda s: TinyCLIP.load(_configured(s.weights / "encoder", width=96)),
    "load: damaged header of the autoencoder": lambda s: (
        _changed(s.weights / "autoencoder" / "diffusion_pytorch_model.safetensors", 20),
        lw.load("starter"),
    ),
    "load: autoencoder without its scale": lambda s: (
        _configured(s.weights / "autoencoder", scaling_factor=...),
        lw.load("starter"),
    ),
    "load: autoencoder without weights": lambda s: (
        (s.weights / "autoencoder" / "diffusion_pytorch_model.safetensors").unlink(),
        lw.load("starter"),
    ),
    "load: query of a list": lambda s: lw.load(_configured(s.starter, query=["cat"])),
    "load: temperature of text": lambda s: lw.load(_configured(s.starter, temperature="1")),
    "load: config nested too deeply": lambda s: (
        _written(s.starter / "config.json", b"[" * 100_000),
        lw.load(s.starter),
    ),
    "load: config is a folder": lambda s: (
        (s.starter / "config.json").rename(s.starter / "old.json"),
        (s.starter / "config.json").mkdir(),
        lw.load(s.starter),
    ),
    "load: damaged header": lambda s: (_changed(s.starter / "model.safetensors", 9), lw.load(s.starter)),
    "encoder: layers of nothing": lambda s: TinyCLIP.load(_configured(s.weights / "encoder", layers=None)),
    "encoder: half a width": lambda s: TinyCLIP.load(_configured(s.weights / "encoder", width=47.5)),
    "encoder: embeddings of a list": lambda s: TinyCLIP.load(_configured(s.weights / "encoder", embedding_dim=[16])),
    "encoder: pairs with layers of text": lambda s: PairEncoder.load(
        _configured(s.weights / "pair_encoder", layers="two")
    ),
    "base: heads of text": lambda s: Base.load(_configured(s.weights / "base", num_attention_heads="1")),
    "texts: no vectors": lambda s: _texts(s, b""),
    "texts: vectors of other texts": lambda s: _texts(s, save({"vectors": torch.zeros(2, 384)})),
    "texts: narrower vectors": lambda s: _texts(s, save({"vectors": torch.zeros(1, 96)})),
    "texts: another tensor": lambda s: _texts(s, save({"weights": torch.zeros(1, 384)})),
    "texts: an object": lambda s: _texts(s, save({"vectors": torch.zeros(1, 384)}), {"flip": 0}),
    "encoder: width of text": lambda s: TinyCLIP.load(_configured(s.weights / "encoder", width="48")),
}


def _as_weights(folder: Path) -> Path:
    (folder / "diffusion_pytorch_model.safetensors").rename(folder / "model.safetensors")
    return folder


def _changed(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 255
    path.write_bytes(content)


def _texts(scene: Any, vectors: bytes, texts: Any = ("flip",)) -> None:
    folder = scene.weights.parent
    (folder / "text.json").write_text(json.dumps(texts))
    (folder / "text.safetensors").write_bytes(vectors)
    cached_vectors.__wrapped__()  # the cache of this process holds the whole file


def _edits_b(picture: Any) -> Callable[[Any], Any]:
    def call(scene: Any) -> Any:
        given = picture(scene.scratch) if callable(picture) else picture
        return scene.editor.edit(GOOD, GOOD, given, steps=1)

    return call


DAMAGING = ("load", "base", "autoencoder", "encoder", "texts")  # their calls need a copy of the data folder to break

TABLE = {f"picture: {name}": _edits_b(x) for name, x in PICTURES.items()} | CALLS


@pytest.fixture(scope="module")
def editors() -> dict[str, lw.Editor]:
    return {"editor": tiny_editor("b"), "seeing": tiny_editor("tokens")}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("template") / "data"
    with pytest.MonkeyPatch.context() as patch:
        return tiny_data(folder, patch)


@pytest.fixture
def scene(
    editors: dict[str, lw.Editor],
    template: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> types.SimpleNamespace:
    data, scratch = template, tmp_path / "scratch"
    scratch.mkdir()
    if request.node.name.startswith(tuple(f"test_bad_input[{part}:" for part in DAMAGING)):
        data = Path(shutil.copytree(template, tmp_path / "data"))
    monkeypatch.setenv("LORWEB_DATA", str(data))
    weights = data / "weights"
    return types.SimpleNamespace(**editors, scratch=scratch, weights=weights, starter=weights / "starter")


@pytest.mark.parametrize("call", [pytest.param(call, id=name) for name, call in TABLE.items()])
def test_bad_input(scene: types.SimpleNamespace, call: Callable[[Any], Any]) -> None:
    with pytest.raises(lw.InputError) as caught:
        call(scene)
    message = str(caught.value)
    assert type(caught.value) is lw.InputError
    assert "expected" in message and ("got" in message or "found" in message), message
    assert len(message) < 1000, "a message is read by a person"


def test_the_undamaged_inputs_are_fine(scene: types.SimpleNamespace) -> None:
    """Otherwise the table above might pass for a reason of its own."""
    assert lw.load("starter").edit(GOOD, GOOD, GOOD, steps=1).image.size == (64, 64)
    assert isinstance(TinyCLIP.load(scene.weights / "encoder"), TinyCLIP)
    assert isinstance(MiniAutoencoder.load(scene.weights / "autoencoder"), MiniAutoencoder)
    assert isinstance(Base.load(scene.weights / "base"), Base)
    with scene.editor.freeze(C):
        pass
    assert scene.seeing.generate(GOOD, C, context=(GOOD, GOOD), steps=1).image.size == (64, 64)
    assert scene.editor.export_lora(C, _InBytes(scene.scratch / "x.safetensors")).is_file()
    to_pil(GOOD).save(picture := scene.scratch / "x.png")
    assert torch.equal(*(scene.editor.route(x, GOOD, GOOD) for x in (picture, _InBytes(picture))))
