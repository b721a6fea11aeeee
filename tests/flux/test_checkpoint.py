"""The released layout: its parameter count, its formula, its bits, and what is said when something differs."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from diffusers import FluxTransformer2DModel
from safetensors.torch import load_file, save_file
from tiny_flux import EMBEDDING, KEYS_DIM, RANK, TEXT, N, tiny_released, tiny_tensors, tiny_transformer
from torch import Tensor, nn

from lorweb_mini.core.basis import Basis
from lorweb_mini.core.router import Router
from lorweb_mini.errors import InputError
from lorweb_mini.flux.checkpoint import (
    KONTEXT,
    kontext_modules,
    modules_of,
    open_released,
    released_tensors,
    write_released,
)

CARD = 835_051_520  # trainable parameters, as the model card of the released weights says
QUERY = 3 * EMBEDDING


@pytest.fixture
def transformer() -> FluxTransformer2DModel:
    return tiny_transformer()


@pytest.fixture
def tensors(transformer: FluxTransformer2DModel) -> dict[str, Tensor]:
    return tiny_tensors(transformer)


def _loaded(transformer: FluxTransformer2DModel, path: Path) -> tuple[Basis, Router]:
    """A basis on a copy of the transformer, and a router, both read from a checkpoint."""
    basis = Basis(copy.deepcopy(transformer), N, RANK)
    router = Router(len(basis.layers), N, EMBEDDING, KEYS_DIM)
    open_released(path, modules_of(transformer)).load_into(basis, router)
    return basis, router


def test_kontext_has_exactly_the_parameters_of_the_model_card() -> None:
    """Counted on the real model's own modules, which the meta device gives shapes and no storage."""
    with torch.device("meta"):
        transformer = FluxTransformer2DModel(**KONTEXT).requires_grad_(False)
        basis = Basis(transformer, n_loras=32, rank=4)
        router = Router(len(basis.layers), n_loras=32, embedding_dim=768, keys_dim=128)
    trainable = [*(p for p in transformer.parameters() if p.requires_grad), *router.parameters()]
    assert sum(p.numel() for p in trainable) == CARD
    assert len(basis.layers) == 494 and basis.layers == list(kontext_modules())
    assert {p.device.type for p in trainable} == {"meta"}
    assert router.query_projection.shape[1:] == (128, 2304)


# --- the formula ---------------------------------------------------------------------------------


def _naive_coefficients(tensors: dict[str, Tensor], name: str, query: Tensor) -> list[list[float]]:
    """softmax over n of (P q) · k_n / sqrt(d), with Python's own sums."""
    keys = tensors[f"transformer.{name}.lora_keys"].tolist()
    projection = tensors[f"transformer.{name}.att_lora_to_q.weight"].tolist()
    rows = []
    for q in query.tolist():
        projected = [sum(p * x for p, x in zip(row, q, strict=True)) for row in projection]
        logits = [sum(p * k for p, k in zip(projected, key, strict=True)) / math.sqrt(len(key)) for key in keys]
        exponentials = [math.exp(x - max(logits)) for x in logits]
        rows.append([x / sum(exponentials) for x in exponentials])
    return rows


def _naive_update(tensors: dict[str, Tensor], name: str, x: Tensor, c: list[list[float]]) -> Tensor:
    """sum_n c_n (x A_n) B_n, one sample and one LoRA at a time."""
    low, high = (tensors[f"transformer.{name}.lora_{letter}"].float() for letter in "AB")
    out = torch.zeros(*x.shape[:-1], high.shape[-1])
    for sample in range(len(x)):
        for n in range(len(low)):
            out[sample] += c[sample][n] * ((x[sample] @ low[n]) @ high[n])
    return out


def _inputs(k: int) -> dict[str, Tensor]:
    """Arguments of the transformer for k samples of 4 image and 3 text tokens."""
    return {
        "hidden_states": torch.randn(k, 4, 64),
        "encoder_hidden_states": torch.randn(k, 3, TEXT),
        "pooled_projections": torch.randn(k, TEXT),
        "timestep": torch.rand(k),
        "guidance": torch.full((k,), 2.5),
        "img_ids": torch.randint(4, (4, 3)).float(),
        "txt_ids": torch.zeros(3, 3),
    }


def _embeddings(k: int) -> list[Tensor]:
    return [torch.randn(k, EMBEDDING) for _ in range(3)]


def test_every_layer_computes_the_released_formula(
    transformer: FluxTransformer2DModel, tensors: dict[str, Tensor], tmp_path: Path
) -> None:
    basis, router = _loaded(transformer, tiny_released(tmp_path, transformer))
    embeddings = _embeddings(2)
    coefficients = router(*embeddings)
    for index, name in enumerate(basis.layers):
        naive = _naive_coefficients(tensors, name, torch.cat(embeddings, dim=1))
        torch.testing.assert_close(coefficients[:, index], torch.tensor(naive), atol=1e-5, rtol=1e-5)
        plain = transformer.get_submodule(name)
        x = torch.randn(2, 5, plain.in_features)
        with basis.mixed(coefficients), torch.no_grad():
            got = basis.transformer.get_submodule(name)(x)
        update = _naive_update(tensors, name, x, naive)
        torch.testing.assert_close(got, plain(x) + update, atol=1e-4, rtol=1e-5)
        assert update.abs().max() > 0.1, "a mixture that does nothing would prove nothing"


def test_whole_transformer_computes_the_released_formula(
    transformer: FluxTransformer2DModel, tensors: dict[str, Tensor], tmp_path: Path
) -> None:
    basis, router = _loaded(transformer, tiny_released(tmp_path, transformer))
    embeddings, inputs = _embeddings(2), _inputs(2)
    query = torch.cat(embeddings, dim=1)
    reference, modules = copy.deepcopy(transformer), dict(transformer.named_modules())
    for name in basis.layers:
        naive = _naive_coefficients(tensors, name, query)

        def add(module: nn.Module, args: tuple, out: Tensor, name: str = name, c: list = naive) -> Tensor:
            return out + _naive_update(tensors, name, args[0], c)

        reference.get_submodule(name).register_forward_hook(add)
        assert isinstance(modules[name], nn.Linear)
    with basis.mixed(router(*embeddings)), torch.no_grad():
        got = basis.transformer(**inputs).sample
    with torch.no_grad():
        expected, bare = reference(**inputs).sample, transformer(**inputs).sample
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)
    assert (got - bare).abs().max() > 0.1


# --- bits ----------------------------------------------------------------------------------------


def test_round_trip_keeps_every_bit(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    kwargs = {"external_query_model": "some/clip", "pooling_type": "none"}
    first = write_released(tmp_path / "one" / "weights.safetensors", tensors, kwargs)
    file = open_released(first)
    config, read = file.config, file.tensors()
    second = write_released(tmp_path / "two" / "weights.safetensors", read, config.network_kwargs)
    again, twice = open_released(second).config, open_released(second).tensors()
    assert list(read) == list(twice) and set(read) == set(tensors)
    for name, tensor in tensors.items():
        assert twice[name].dtype == torch.float16 and torch.equal(twice[name], tensor)
    assert again == config and config.encoder == "some/clip" and config.network_kwargs["pooling_type"] == "none"
    assert (config.n_loras, config.rank, config.keys_dim, config.query_dim) == (N, RANK, KEYS_DIM, QUERY)
    assert first.read_bytes() == second.read_bytes()


def test_basis_and_router_go_out_and_come_back(
    transformer: FluxTransformer2DModel, tensors: dict[str, Tensor], tmp_path: Path
) -> None:
    basis, router = _loaded(transformer, tiny_released(tmp_path, transformer))
    written = released_tensors(basis, router)
    assert written.keys() == tensors.keys() and all(torch.equal(written[k], v) for k, v in tensors.items())
    low, high = basis.factors(4)
    name = basis.layers[4]
    for n in range(N):
        torch.testing.assert_close(low[n], tensors[f"transformer.{name}.lora_A"][n].T.float(), atol=0, rtol=0)
        torch.testing.assert_close(high[n], tensors[f"transformer.{name}.lora_B"][n].T.float(), atol=0, rtol=0)
    router.mean += 1
    with pytest.raises(InputError, match="standardises"):
        released_tensors(basis, router)
    for options in ({"mixing": "tanh"}, {"temperature": 2.0}):
        with pytest.raises(InputError, match="softmax at temperature 1"):
            released_tensors(basis, Router(len(basis.layers), N, EMBEDDING, KEYS_DIM, **options))


def test_layers_stream_one_at_a_time(transformer: FluxTransformer2DModel, tmp_path: Path) -> None:
    path = tiny_released(tmp_path, transformer)
    file, whole = open_released(path, modules_of(transformer)), load_file(path)
    assert file.layers == list(modules_of(transformer)) and file.parameters == sum(x.numel() for x in whole.values())
    for layer in file:
        assert torch.equal(layer.A, whole[f"transformer.{layer.name}.lora_A"])
        assert torch.equal(layer.projection, whole[f"transformer.{layer.name}.att_lora_to_q.weight"])
        low, high = layer.factors()
        assert low.shape[:2] == (N, RANK) and high.shape[::2] == (N, RANK)
    with pytest.raises(InputError, match="20 layers"):
        file.layer("proj_out")


def test_blocks_are_in_the_order_of_the_model(tmp_path: Path) -> None:
    """Without an architecture the file's own names decide: block 2 before block 10, double blocks first."""
    names = [f"{kind}.{i}.attn.to_q" for kind in ("single_transformer_blocks", "transformer_blocks") for i in range(12)]
    state = {}
    for name in names:
        state[f"transformer.{name}.lora_A"] = torch.zeros(2, 4, 1)
        state[f"transformer.{name}.lora_B"] = torch.zeros(2, 1, 4)
        state[f"transformer.{name}.lora_keys"] = torch.zeros(2, 3)
        state[f"transformer.{name}.att_lora_to_q.weight"] = torch.zeros(3, 6)
    found = open_released(write_released(tmp_path / "x.safetensors", state))
    assert found.layers == names[12:] + names[:12]


# --- what differs --------------------------------------------------------------------------------

LAYER = "transformer.transformer_blocks.0.attn.to_q"


def _missing(state: dict[str, Tensor]) -> None:
    del state[f"{LAYER}.lora_keys"]


def _unexpected(state: dict[str, Tensor]) -> None:
    state["transformer.x_embedder.lora_A"] = torch.zeros(N, 64, RANK)


def _transposed(state: dict[str, Tensor]) -> None:
    state[f"{LAYER}.lora_A"] = state[f"{LAYER}.lora_A"].transpose(1, 2).contiguous()


def _other_rank(state: dict[str, Tensor]) -> None:
    state[f"{LAYER}.lora_A"] = torch.zeros(N, 32, RANK + 1)


def _other_width(state: dict[str, Tensor]) -> None:
    state[f"{LAYER}.lora_B"] = torch.zeros(N, RANK, 33)


def _whole_layer(state: dict[str, Tensor]) -> None:
    for key in [key for key in state if key.startswith(f"{LAYER}.")]:
        del state[key]


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (_missing, [f"1 missing keys: {LAYER}.lora_keys"]),
        (_unexpected, ["1 unexpected keys: transformer.x_embedder.lora_A"]),
        (_transposed, [f"{LAYER}.lora_A: expected [3, 32, 2], found [3, 2, 32]"]),
        (_other_rank, [f"{LAYER}.lora_A: expected [3, 32, 2], found [3, 32, 3]"]),
        (_other_width, [f"{LAYER}.lora_B: expected [3, 2, 32], found [3, 2, 33]"]),
        (_whole_layer, ["4 missing keys", f"{LAYER}.lora_B"]),
        (lambda state: (_missing(state), _unexpected(state), _other_rank(state)), ["missing", "unexpected", "shapes"]),
    ],
)
def test_says_exactly_what_differs(
    transformer: FluxTransformer2DModel,
    tensors: dict[str, Tensor],
    tmp_path: Path,
    spoil: Callable,
    says: list[str],
) -> None:
    spoil(tensors)
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(InputError) as raised:
        open_released(tmp_path / "x.safetensors", modules_of(transformer))
    assert all(part in str(raised.value) for part in says), str(raised.value)
    assert len(str(raised.value)) < 1500


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("part", ["lora_A", "lora_keys"])
def test_numbers_that_are_none_are_named(
    transformer: FluxTransformer2DModel, tensors: dict[str, Tensor], tmp_path: Path, part: str, value: float
) -> None:
    tensors[f"{LAYER}.{part}"][1, 0] = value
    file = open_released(write_released(tmp_path / "x.safetensors", tensors))
    basis, router = Basis(copy.deepcopy(transformer), N, RANK), Router(20, N, EMBEDDING, KEYS_DIM)
    for read in (file.tensors, lambda: list(file), lambda: file.load_into(basis, router)):
        with pytest.raises(InputError, match=rf"finite weights in .*x\.safetensors, got NaN .* in {LAYER}\.{part}"):
            read()


def test_basis_of_another_size_is_refused(transformer: FluxTransformer2DModel, tmp_path: Path) -> None:
    file = open_released(tiny_released(tmp_path, transformer))
    basis = Basis(copy.deepcopy(transformer), N + 1, RANK)
    with pytest.raises(InputError, match=r"\(3, 2, 8, 48\) on the 20 layers .* got \(4, 2, 8, 48\)"):
        file.load_into(basis, Router(20, N + 1, EMBEDDING, KEYS_DIM))


def test_files_that_are_none(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a checkpoint"):
        open_released(tmp_path / "nothing.safetensors")
    with pytest.raises(InputError, match="got none"):
        open_released(tmp_path)
    save_file({"x": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    with pytest.raises(InputError, match="expected a LoRWeB checkpoint"):
        open_released(tmp_path)
    whole = write_released(tmp_path / "whole.safetensors", tensors)
    with pytest.raises(InputError, match="expected one"):
        open_released(tmp_path)
    whole.write_bytes(whole.read_bytes()[:-100])
    with pytest.raises(InputError, match="truncated"):
        open_released(whole)
    with pytest.raises(InputError, match="expected a LoRWeB checkpoint"):
        write_released(tmp_path / "new.safetensors", {"x": torch.zeros(2)})
    assert sorted(x.name for x in tmp_path.iterdir()) == ["config.yaml", "foreign.safetensors", "whole.safetensors"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"loras_num": 4}, "loras_num: 3"),
        ({"lora_softmax": False}, "lora_softmax: True"),
        ({"lora_heads": 2}, "lora_heads: 1"),
        ({"mixing_coeffs_type": "sum"}, "mixing_coeffs_type: mean"),
        ({"query_projection_type": "none"}, "query_projection_type: linear"),
        ({"external_query": False}, "external_query: True"),
        ({"query_mode": "ca'-ca"}, "query_mode: cat-aa'b"),
    ],
)
def test_configuration_that_says_otherwise(tensors: dict[str, Tensor], tmp_path: Path, change: dict, says: str) -> None:
    path = write_released(tmp_path / "x.safetensors", tensors)
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    network = config["config"]["process"][0]["network"]
    network["network_kwargs"] |= {key: str(value).lower() for key, value in network["network_kwargs"].items()}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    open_released(path)  # numbers and truth values as text, as a command line leaves them
    network["network_kwargs"] |= change
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(InputError, match=says):
        open_released(path)


@pytest.mark.parametrize(
    "text", ["config: [", "config: {process: []}", "[]", "config: {process: [{network: 3}]}", "[" * 20_000]
)
def test_configuration_that_is_none(tensors: dict[str, Tensor], tmp_path: Path, text: str) -> None:
    path = write_released(tmp_path / "x.safetensors", tensors)
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(InputError, match=r"config\.process"):
        open_released(path)


@pytest.mark.parametrize("where", [".", "..", "../.."])
def test_configuration_beside_and_above(tensors: dict[str, Tensor], tmp_path: Path, where: str) -> None:
    """Beside the file, one folder up as the release has it, or in the folder that was asked for."""
    path = write_released(tmp_path / "run" / "weights" / "x.safetensors", tensors)
    network = {"network": {"network_kwargs": {"external_query_model": "clip"}}}
    (path.parent / "config.yaml").unlink()
    (path.parent / where / "config.yaml").write_text(yaml.safe_dump({"config": {"process": [network]}}))
    assert open_released(tmp_path if where == "../.." else path).config.encoder == "clip"


@pytest.mark.parametrize("foreign", [None, "[]", "name: something else", "config: {process: []}"])
def test_without_configuration_it_says_what_it_assumes(
    tensors: dict[str, Tensor], tmp_path: Path, foreign: str | None
) -> None:
    """None at all, or one folder up a file of that name which belongs to something else."""
    path = write_released(tmp_path / "inner" / "x.safetensors", tensors)
    (tmp_path / "inner" / "config.yaml").unlink()
    if foreign is not None:
        (tmp_path / "config.yaml").write_text(foreign)
    with pytest.warns(UserWarning, match=r"no config\.yaml .* assumed lora_heads: 1, lora_softmax: True.*tanh"):
        assert open_released(path).config.network_kwargs == {}


@pytest.mark.parametrize(
    ("kwargs", "assumed", "known"),
    [
        (None, ["lora_heads: 1", "lora_softmax: True", "query_mode: cat-aa'b"], []),
        ({}, ["lora_heads: 1", "lora_softmax: True"], []),
        ({"external_query_model": "clip", "lora_heads": 1}, ["lora_softmax: True"], ["lora_heads"]),
        ({"lora_softmax": "true", "lora_heads": None}, ["lora_heads: 1"], ["lora_softmax"]),
    ],
)
def test_what_a_configuration_leaves_out_is_said(
    tensors: dict[str, Tensor], tmp_path: Path, kwargs: dict | None, assumed: list[str], known: list[str]
) -> None:
    path = write_released(tmp_path / "x.safetensors", tensors)
    network = {"network": {"linear": RANK, "network_kwargs": kwargs}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"config": {"process": [network]}}))
    with pytest.warns(UserWarning, match=r"config\.yaml does not say all.*tanh") as caught:
        open_released(path)
    said = str(caught[0].message)
    assert all(x in said for x in assumed) and not any(x in said for x in known)


@pytest.mark.parametrize(
    "change",
    [{"lora_heads": 1.0}, {"lora_softmax": 1}, {"lora_heads": "1"}, {"loras_num": float(N)}, {"lora_keys_dim": "8"}],
)
def test_numbers_of_any_kind_agree(tensors: dict[str, Tensor], tmp_path: Path, change: dict) -> None:
    path = write_released(tmp_path / "x.safetensors", tensors, {"external_query_model": "clip"})
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    config["config"]["process"][0]["network"]["network_kwargs"] |= change
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_released(path).config.encoder == "clip"
    config["config"]["process"][0]["network"]["network_kwargs"]["external_query_model"] = 5
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(InputError, match="external_query_model as the name of a model"):
        open_released(path)


@pytest.mark.parametrize("alpha", [1, RANK, 16, "4", None])
def test_alpha_is_ignored_as_in_the_release(tensors: dict[str, Tensor], tmp_path: Path, alpha: object) -> None:
    path = write_released(tmp_path / "x.safetensors", tensors)
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    config["config"]["process"][0]["network"]["linear_alpha"] = alpha
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert torch.equal(open_released(path).layer("transformer_blocks.0.attn.to_q").A, tensors[f"{LAYER}.lora_A"])


def test_written_configuration_has_what_the_released_inference_reads(
    tensors: dict[str, Tensor], tmp_path: Path
) -> None:
    write_released(tmp_path / "x.safetensors", tensors, {"external_query_model": "clip", "lora_heads": 4})
    kwargs = yaml.safe_load((tmp_path / "config.yaml").read_text())["config"]["process"][0]["network"]["network_kwargs"]
    assert kwargs == {
        "loras_num": N,
        "lora_keys_dim": KEYS_DIM,
        "lora_heads": 1,
        "lora_softmax": True,
        "mixing_coeffs_type": "mean",
        "pooling_type": "avg",
        "query_projection_type": "linear",
        "external_query": True,
        "query_mode": "cat-aa'b",
        "external_query_model": "clip",
    }
