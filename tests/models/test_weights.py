"""Weight folders: what is written is read back, whole or not at all."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import tiny_base, transformer_inputs

from lorweb_mini.errors import InputError
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
