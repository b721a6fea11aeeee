"""Weight folders: what is written is read back, whole or not at all."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import tiny_base, tiny_data, transformer_inputs
from torch import Tensor

from lorweb_mini.core.editor import LATER, load
from lorweb_mini.errors import InputError
from lorweb_mini.models.autoencoder import MiniAutoencoder
from lorweb_mini.models.base import Base
from lorweb_mini.models.pair_encoder import PairEncoder
from lorweb_mini.models.tiny_clip import TinyCLIP
from lorweb_mini.models.weights import fingerprint, load_weights, save_pretrained, save_weights


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    return {"w": torch.randn(5, 7), "b": torch.randn(7), "count": torch.tensor([3, 70000])}


def test_round_trip_in_half_precision(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    save_weights(tmp_path / "new" / "folder", {"width": 7, "name": "é"}, state)
    config, read = load_weights(tmp_path / "new" / "folder")
    assert config == {"width": 7, "name": "é"}
    assert read.keys() == state.keys()
    assert torch.equal(read["w"], state["w"].half().float()) and read["w"].dtype == torch.float32
    assert torch.equal(read["count"], state["count"]), "whole numbers stay whole"
    stored = load_file(tmp_path / "new" / "folder" / "model.safetensors")
    assert stored["w"].dtype == torch.float16
    torch.testing.assert_close(read["w"], state["w"], rtol=2**-10, atol=1e-7)
    assert state["w"].dtype == torch.float32


def test_views_are_saved(tmp_path: Path) -> None:
    whole = torch.randn(4, 6)
    save_weights(tmp_path, {}, {"first": whole[:2], "transposed": whole.T})
    assert torch.equal(load_weights(tmp_path)[1]["transposed"], whole.T.half().float())


def test_nothing_half_written_stays(tmp_path: Path, state: dict[str, torch.Tensor], monkeypatch) -> None:
    save_weights(tmp_path, {"width": 1}, state)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def fails(path: Path, _content: bytes) -> None:
        with path.open("wb") as file:
            file.write(b"half of a file")
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_bytes", fails)
    with pytest.raises(OSError, match="disk full"):
        save_weights(tmp_path, {"width": 2}, state)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.suffix != ".part"} == before


def test_notes_that_are_no_json_leave_the_folder(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    save_weights(tmp_path, {"width": 1}, state)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(TypeError):
        save_weights(tmp_path, {"width": object()}, {k: v + 1 for k, v in state.items()})
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_encoder_round_trip(tmp_path: Path) -> None:
    encoder = TinyCLIP(width=48, layers=1, embedding_dim=16).eval()
    encoder.save(tmp_path)
    loaded = TinyCLIP.load(tmp_path)
    assert loaded.config == encoder.config and loaded.embedding_dim == 16
    latent = torch.randn(3, 16, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(loaded(latent), encoder(latent), atol=2e-2, rtol=0)
        assert torch.equal(loaded(latent), TinyCLIP.load(tmp_path)(latent))
        torch.testing.assert_close(loaded(latent).norm(dim=-1), torch.full((3,), 10.0))
        sentence = torch.randn(3, 384)
        units = (
            loaded.identity_embedding(latent),
            loaded.name_embedding(sentence),
            loaded.pair_embedding(latent, latent.flip(0)),
            loaded.request_embedding(sentence),
        )
        for unit in units:
            torch.testing.assert_close(unit.norm(dim=-1), torch.ones(3))
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())


def test_fingerprint_follows_the_weights_alone(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    save_weights(tmp_path, {"width": 1}, state)
    first = fingerprint(tmp_path)
    assert len(first) == 16 and int(first, 16) >= 0
    save_weights(tmp_path, {"width": 2}, state)
    (tmp_path / "log.csv").write_text("step\n")
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "x.safetensors").write_bytes(b"other")
    assert fingerprint(tmp_path) == first
    state["w"][0, 0] += 0.1
    save_weights(tmp_path, {"width": 1}, state)
    assert fingerprint(tmp_path) != first


def test_diffusers_folder_is_half_and_safetensors(tmp_path: Path) -> None:
    base = tiny_base()
    save_pretrained(base.transformer, tmp_path)
    assert {p.suffix for p in tmp_path.iterdir()} == {".json", ".safetensors"}
    (path,) = tmp_path.glob("*.safetensors")
    assert {t.dtype for t in load_file(path).values()} == {torch.float16}
    assert json.loads((tmp_path / "config.json").read_text())["num_attention_heads"] == 1


def test_foreign_class_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"_class_name": "AutoencoderKL"}')
    with pytest.raises(InputError, match=r"expected the configuration of FluxTransformer2DModel.*AutoencoderKL"):
        type(tiny_base()).load(tmp_path)


def test_weights_of_a_file_draw_what_their_copy_draws(tmp_path: Path) -> None:
    """In single precision nothing is converted, and the tensors would lie where the file has them."""
    base = tiny_base()
    base.transformer.save_pretrained(tmp_path)
    (path,) = tmp_path.glob("*.safetensors")
    assert any(tensor.data_ptr() % 64 for tensor in load_file(path).values())
    loaded = type(base).load(tmp_path)
    assert not any(tensor.data_ptr() % 64 for tensor in loaded.state_dict().values())
    with torch.no_grad():
        expected = base.velocity(**transformer_inputs(2))
        assert torch.equal(loaded.velocity(**transformer_inputs(2)), expected)
        assert torch.equal(copy.deepcopy(loaded).velocity(**transformer_inputs(2)), expected)


# --- damaged folders ------------------------------------------------------------------------------

PARTS: dict[str, Callable[[Path], Any]] = {
    "starter": load,
    "base": Base.load,
    "autoencoder": MiniAutoencoder.load,
    "encoder": TinyCLIP.load,
    "pair_encoder": PairEncoder.load,
}
NOTES = {"relations", "_diffusers_version"}  # of a training or a library; nothing reads them
NONE_OF_THE_KIND = (None, "text", "", {}, [], [None], [[1]], float("nan"), -7)
SPOILT: dict[str, Callable[[dict[str, Tensor], str], Any]] = {
    "missing": lambda state, name: state.pop(name),
    "one number": lambda state, name: state.update({name: state[name].flatten()[:1].clone()}),
    "another axis": lambda state, name: state.update({name: state[name][None].clone()}),
    "empty": lambda state, name: state.update({name: torch.zeros(0)}),
    "NaN": lambda state, name: state[name].view(-1)[-1:].fill_(torch.nan),
    "infinite": lambda state, name: state[name].view(-1)[:1].fill_(-torch.inf),
    "unknown": lambda state, name: state.update({f"{name}.more": torch.zeros(2)}),
}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        return tiny_data(tmp_path_factory.mktemp("template") / "data", patch)


@pytest.fixture
def data(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder to spoil."""
    monkeypatch.setenv("LORWEB_DATA", str(tmp_path / "data"))
    return Path(shutil.copytree(template, tmp_path / "data")) / "weights"


def _refused(part: str, folder: Path, damage: str) -> None:
    try:
        PARTS[part](folder)
    except InputError as error:
        assert "expected" in str(error) and str(folder) in str(error) and len(str(error)) < 1000, (damage, error)
    else:
        pytest.fail(f"read with {damage}")


def _is_of_the_kind(value: Any, kept: Any) -> bool:
    """Of what is tried: a scale may be below 0, out_channels none, and a list of names empty."""
    return (value == -7 and isinstance(kept, float)) or value == kept or (value == [] and kept == ["tone/yellow>dark"])


@pytest.mark.parametrize("part", PARTS)
def test_a_damaged_configuration_is_named(data: Path, part: str) -> None:
    """Each entry missing or of another kind, and one that nobody knows."""
    path = data / part / "config.json"
    config = json.loads(path.read_text())
    needed = [name for name in config if part != "starter" or name not in LATER]
    damaged = {f"no {name}": {k: v for k, v in config.items() if k != name} for name in needed}
    damaged |= {
        f"{name}: {value!r}": config | {name: value}
        for name, kept in config.items()
        for value in NONE_OF_THE_KIND
        if not _is_of_the_kind(value, kept)
    }
    damaged = {damage: changed for damage, changed in damaged.items() if not any(name in damage for name in NOTES)}
    if part != "starter":
        damaged["an unknown name"] = config | {"heads": 4}
    assert len(damaged) > 8 * len(config) - 20
    for damage, changed in damaged.items():
        path.write_text(json.dumps(changed))
        _refused(part, data / part, damage)
    path.write_text(json.dumps(config))
    PARTS[part](data / part)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("damage", SPOILT)
def test_damaged_tensors_are_named(data: Path, part: str, damage: str) -> None:
    """Of the first, the middle and the last tensor."""
    (path,) = (data / part).glob("*.safetensors")
    names = sorted(load_file(path))
    for name in (names[0], names[len(names) // 2], names[-1]):
        state = load_file(path)
        whole = path.read_bytes()
        SPOILT[damage](state, name)
        save_file(state, path, {"format": "pt"})
        _refused(part, data / part, f"{name} {damage}")
        path.write_bytes(whole)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("kept", [0, 4, 20, 0.5, 0.999])
def test_truncated_weights_are_named(data: Path, part: str, kept: float) -> None:
    (path,) = (data / part).glob("*.safetensors")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole)) if 0 < kept < 1 else int(kept)])
    _refused(part, data / part, f"{kept} of it")


@pytest.mark.parametrize("sizes", [{"n_loras": 10**9}, {"rank": 10**9}, {"keys_dim": 10**9}], ids=str)
def test_sizes_are_compared_before_memory_is_taken(data: Path, sizes: dict[str, int]) -> None:
    path = data / "starter" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | sizes))
    _refused("starter", data / "starter", str(sizes))


def test_no_pickle_is_opened(data: Path) -> None:
    """diffusers would fall back on one, and a pickle may run code."""
    (path,) = (data / "base").glob("*.safetensors")
    torch.save(load_file(path), path.with_suffix(".bin"))
    path.unlink()
    _refused("base", data / "base", "a pickle alone")


def test_fingerprint_of_a_file_and_of_a_folder_without_some(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    alone = fingerprint(tmp_path)
    (tmp_path / "state.safetensors").write_bytes(b"a state")
    assert fingerprint(tmp_path, without=("state.safetensors",)) == alone != fingerprint(tmp_path)
    assert fingerprint(tmp_path / "model.safetensors") == alone
