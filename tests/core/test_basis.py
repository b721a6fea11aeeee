"""The gate against the formula it stands for: a loop, an einsum, a plain LoRA, a merge, an export."""

from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from diffusers import FluxTransformer2DModel
from peft import LoraConfig
from tiny_models import mixtures, randomise, tiny_base, tiny_editor, transformer_inputs
from torch import Tensor, nn

from lorweb_mini.adapter import LAYERS, adapted_linears
from lorweb_mini.core.basis import ADAPTER, Basis
from lorweb_mini.core.editor import Editor
from lorweb_mini.errors import InputError
from lorweb_mini.models.base import Base

N, RANK, BATCH = 3, 2, 3


def _blocks(basis: Basis) -> dict[str, tuple[list[Tensor], list[Tensor]]]:
    """Layer name to [A_1 … A_N] (r×in) and [B_1 … B_N] (out×r), cut out of the saved tensors by hand."""
    state, found = basis.state_dict(), {}
    for name in basis.layers:
        low, high = state[f"{name}.lora_A.weight"], state[f"{name}.lora_B.weight"]
        r = basis.rank
        found[name] = (
            [low[n * r : (n + 1) * r] for n in range(basis.n_loras)],
            [high[:, n * r : (n + 1) * r] for n in range(basis.n_loras)],
        )
    return found


def _loop(x: Tensor, c: Tensor, low: list[Tensor], high: list[Tensor]) -> Tensor:
    """sum_n c_n B_n A_n x, one sample, one token and one adapter at a time."""
    out = torch.zeros(*x.shape[:-1], high[0].shape[0])
    for sample in range(len(x)):
        for token in range(x.shape[1]) if x.ndim == 3 else [None]:
            at = sample if token is None else (sample, token)
            for n in range(len(low)):
                out[at] += c[sample, n] * (high[n] @ (low[n] @ x[at]))
    return out


def _einsum(x: Tensor, c: Tensor, low: list[Tensor], high: list[Tensor]) -> Tensor:
    """The released form: A [N, in, r], B [N, r, out], products mixed."""
    a, b = torch.stack([w.T for w in low]), torch.stack([w.T for w in high])
    if x.ndim == 2:
        return torch.einsum("bi,nir,nro,bn->bo", x, a, b, c)
    return torch.einsum("bti,nir,nro,bn->bto", x, a, b, c)


def _with_hooks(plain: FluxTransformer2DModel, basis: Basis, c: Tensor, formula: Callable) -> FluxTransformer2DModel:
    """A copy of the bare transformer whose every adapted Linear adds the mixture by ``formula``."""
    reference, blocks = copy.deepcopy(plain), _blocks(basis)
    modules = dict(reference.named_modules())
    for index, name in enumerate(basis.layers):

        def add(module: nn.Module, inputs: tuple, out: Tensor, index: int = index, name: str = name) -> Tensor:
            return out + formula(inputs[0], c[:, index], *blocks[name])

        modules[name].register_forward_hook(add)
    return reference


@pytest.fixture
def plain() -> FluxTransformer2DModel:
    return tiny_base().transformer


@pytest.fixture
def basis(plain: FluxTransformer2DModel) -> Basis:
    made = Basis(copy.deepcopy(plain), N, RANK)
    randomise(made)
    return made


def _velocity(transformer: FluxTransformer2DModel, k: int = BATCH) -> Tensor:
    with torch.no_grad():
        return Base(transformer).velocity(**transformer_inputs(k))


def _dynamic(basis: Basis, c: Tensor, k: int = BATCH) -> Tensor:
    with basis.mixed(c):
        return _velocity(basis.transformer, k)


def test_adapts_every_linear_of_the_blocks_and_no_other(plain: FluxTransformer2DModel) -> None:
    inside = {
        f"{part}.{name}"
        for part in ("transformer_blocks", "single_transformer_blocks")
        for name, module in getattr(plain, part).named_modules()
        if type(module) is nn.Linear
    }
    found = adapted_linears(plain)
    assert set(found) == inside and len(found) == len(inside) == 20
    assert any("norm1.linear" in name for name in found), "modulation belongs to the paper's choice"
    assert "x_embedder" not in found and "proj_out" not in found


def test_the_sets_of_layers_are_what_their_names_say(plain: FluxTransformer2DModel) -> None:
    every = adapted_linears(plain)
    found = {name: adapted_linears(plain, name) for name in LAYERS}
    attention = ("to_q", "to_k", "to_v", "to_out", "to_add_out", "add_q_proj", "add_k_proj", "add_v_proj")
    assert found["all"] == every
    assert found["attention"] == [name for name in every if set(name.split(".")) & set(attention)]
    assert found["all but modulation"] == [name for name in every if "norm" not in name]
    assert found["double blocks"] + found["single blocks"] == every
    assert all(name.startswith("single_") for name in found["single blocks"]) and len(found["double blocks"]) == 14


def test_an_unknown_set_of_layers_is_refused(plain: FluxTransformer2DModel) -> None:
    with pytest.raises(InputError, match=r"expected layers out of .*'attention'.*, got 'some'"):
        Basis(copy.deepcopy(plain), N, RANK, "some")


@pytest.mark.parametrize("adapted", list(LAYERS))
def test_a_basis_on_some_layers_gates_these_alone(plain: FluxTransformer2DModel, adapted: str) -> None:
    basis = Basis(copy.deepcopy(plain), N, RANK, adapted)
    assert basis.layers == adapted_linears(plain, adapted)
    with_lora = {name for name, module in basis.transformer.named_modules() if hasattr(module, "lora_A")}
    assert with_lora == set(basis.layers)
    assert basis.check(torch.ones(1, len(basis.layers), N)).shape == (1, len(basis.layers), N)


@pytest.mark.parametrize("formula", [_loop, _einsum])
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("transformer_blocks.0.attn.to_q", (BATCH, 5, 64)),
        ("transformer_blocks.0.ff.net.2", (BATCH, 5, 256)),
        ("single_transformer_blocks.0.proj_out", (BATCH, 5, 320)),
        ("transformer_blocks.0.norm1.linear", (BATCH, 64)),
    ],
)
def test_one_layer(
    basis: Basis, plain: FluxTransformer2DModel, formula: Callable, name: str, shape: tuple[int, ...]
) -> None:
    index, x, c = basis.layers.index(name), torch.randn(shape), mixtures(BATCH, basis)
    bare = plain.get_submodule(name)(x)
    expected = bare + formula(x, c[:, index], *_blocks(basis)[name])
    with basis.mixed(c):
        got = basis.transformer.get_submodule(name)(x)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    assert (got - bare).abs().max() > 1e-2


@pytest.mark.parametrize("formula", [_loop, _einsum])
def test_whole_transformer(basis: Basis, plain: FluxTransformer2DModel, formula: Callable) -> None:
    c = mixtures(BATCH, basis)
    expected = _velocity(_with_hooks(plain, basis, c, formula))
    got = _dynamic(basis, c)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    assert (got - _velocity(plain)).abs().max() > 1e-2


def test_negative_and_large_coefficients(basis: Basis, plain: FluxTransformer2DModel) -> None:
    c = torch.randn(BATCH, len(basis.layers), N)
    expected = _velocity(_with_hooks(plain, basis, c, _einsum))
    torch.testing.assert_close(_dynamic(basis, c), expected, atol=1e-5, rtol=1e-4)


def test_each_sample_has_its_own_mixture(basis: Basis) -> None:
    c = mixtures(2, basis)
    first = _dynamic(basis, c, 2)
    second = _dynamic(basis, torch.stack([c[0], c[0]]), 2)
    torch.testing.assert_close(first[0], second[0], atol=1e-6, rtol=0)
    assert (first[1] - second[1]).abs().max() > 1e-3


def test_one_lora_is_a_plain_peft_lora(plain: FluxTransformer2DModel) -> None:
    basis = Basis(copy.deepcopy(plain), 1, 4)
    randomise(basis)
    peft = copy.deepcopy(plain)
    peft.add_adapter(LoraConfig(r=4, lora_alpha=4, target_modules=adapted_linears(plain)), "plain")
    modules = dict(peft.named_modules())
    for name in basis.layers:
        low, high = _blocks(basis)[name]
        modules[name].lora_A["plain"].weight.data.copy_(low[0])
        modules[name].lora_B["plain"].weight.data.copy_(high[0])
    got = _dynamic(basis, torch.ones(BATCH, len(basis.layers), 1))
    torch.testing.assert_close(got, _velocity(peft), atol=1e-6, rtol=1e-6)
    assert (got - _velocity(plain)).abs().max() > 1e-2


def test_without_coefficients_it_is_the_base_bit_for_bit(basis: Basis, plain: FluxTransformer2DModel) -> None:
    assert torch.equal(_velocity(basis.transformer), _velocity(plain))
    with basis.mixed(mixtures(BATCH, basis)), basis.mixed(None):
        assert torch.equal(_velocity(basis.transformer), _velocity(plain))


def test_coefficients_set_outside_of_a_context_hold_everywhere(basis: Basis) -> None:
    c = mixtures(BATCH, basis)
    expected = _dynamic(basis, c)
    basis.coefficients = c
    with ThreadPoolExecutor(1) as pool:
        assert torch.equal(pool.submit(_velocity, basis.transformer).result(), expected)
    with basis.mixed(mixtures(BATCH, basis, seed=7)), ThreadPoolExecutor(1) as pool:
        assert torch.equal(pool.submit(_velocity, basis.transformer).result(), expected), "a context is of its thread"
        assert not torch.equal(_velocity(basis.transformer), expected)
    basis.coefficients = None
    assert not torch.equal(_velocity(basis.transformer), expected)


def test_zero_b_is_the_base_bit_for_bit(plain: FluxTransformer2DModel) -> None:
    basis = Basis(copy.deepcopy(plain), N, RANK)
    assert torch.equal(_dynamic(basis, mixtures(BATCH, basis)), _velocity(plain))


def test_disabled_is_the_base_bit_for_bit(basis: Basis, plain: FluxTransformer2DModel) -> None:
    with basis.disabled():
        assert torch.equal(_dynamic(basis, mixtures(BATCH, basis)), _velocity(plain))
    assert not torch.equal(_dynamic(basis, mixtures(BATCH, basis)), _velocity(plain))


def test_frozen_equals_dynamic_and_leaves_no_trace(basis: Basis, plain: FluxTransformer2DModel) -> None:
    c = mixtures(1, basis)
    before = {k: v.clone() for k, v in basis.transformer.state_dict().items()}
    expected = _dynamic(basis, c.expand(BATCH, -1, -1))
    with basis.frozen(c[0]):
        # Any other coefficients are without effect now.
        got = _dynamic(basis, mixtures(BATCH, basis, seed=5))
        merged = basis.transformer.get_submodule(basis.layers[0]).get_base_layer().weight.clone()
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)
    low, high = _blocks(basis)[basis.layers[0]]
    by_hand = sum(c[0, 0, n] * high[n] @ low[n] for n in range(N))
    torch.testing.assert_close(merged, plain.get_submodule(basis.layers[0]).weight + by_hand, atol=1e-6, rtol=1e-5)
    after = basis.transformer.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(v, after[k]) for k, v in before.items())
    assert torch.equal(_dynamic(basis, c.expand(BATCH, -1, -1)), expected)


def test_frozen_restores_after_an_error(basis: Basis) -> None:
    before = {k: v.clone() for k, v in basis.transformer.state_dict().items()}
    with pytest.raises(RuntimeError, match="stop"), basis.frozen(mixtures(1, basis)):
        raise RuntimeError("stop")
    assert all(torch.equal(v, before[k]) for k, v in basis.transformer.state_dict().items())


@pytest.mark.parametrize("trainable", [True, False])
def test_contexts_keep_what_is_trainable(basis: Basis, trainable: bool) -> None:
    for parameter in basis.parameters():
        parameter.requires_grad_(trainable)
    with basis.frozen(mixtures(1, basis)), basis.disabled():
        pass
    assert all(p.requires_grad is trainable for p in basis.parameters())


def test_disabled_inside_frozen_keeps_it_merged(basis: Basis) -> None:
    with basis.frozen(mixtures(1, basis)):
        merged = _velocity(basis.transformer)
        with basis.disabled():
            pass
        assert torch.equal(_velocity(basis.transformer), merged)


def test_exported_lora_in_diffusers_own_loader(tmp_path) -> None:
    editor: Editor = tiny_editor()
    c = mixtures(1, editor)
    path = editor.export_lora(c[0], tmp_path / "deeper" / "mirror.safetensors")
    fresh = tiny_base().transformer
    bare = _velocity(fresh)
    fresh.load_lora_adapter(str(path))
    got = _velocity(fresh)
    torch.testing.assert_close(got, _dynamic(editor.basis, c.expand(BATCH, -1, -1)), atol=1e-5, rtol=0)
    assert (got - bare).abs().max() > 1e-2


def test_folded_lora_holds_the_sum_of_products(basis: Basis) -> None:
    c = torch.randn(len(basis.layers), N)
    for index, (name, (low, high)) in enumerate(basis.folded(c).items()):
        a, b = _blocks(basis)[name]
        expected = sum(c[index, n] * b[n] @ a[n] for n in range(N))
        torch.testing.assert_close(high @ low, expected, atol=1e-5, rtol=1e-5)
        assert low.shape[0] == high.shape[1] == N * RANK


def test_factors_are_the_single_loras(basis: Basis) -> None:
    for index, name in enumerate(basis.layers):
        low, high = basis.factors(index)
        a, b = _blocks(basis)[name]
        assert torch.equal(low, torch.stack(a)) and torch.equal(high, torch.stack(b))


def test_gradients_reach_coefficients_a_and_b_and_not_the_base(basis: Basis) -> None:
    c = mixtures(BATCH, basis).requires_grad_()
    with basis.mixed(c):
        Base(basis.transformer).velocity(**transformer_inputs(BATCH)).pow(2).sum().backward()
    assert c.grad is not None
    for index, name in enumerate(basis.layers):
        module = basis.modules[index]
        a, b = module.lora_A[ADAPTER].weight, module.lora_B[ADAPTER].weight
        # The last block drops its text tokens, and with one block all that feeds them only.
        dead = "context" in name or name.endswith("to_add_out")
        used = {"A": a.grad, "B": b.grad, "c": c.grad[:, index]}
        if not dead:
            assert all(g is not None and g.abs().sum() > 0 for g in used.values()), name
    frozen = [p for n, p in basis.transformer.named_parameters() if "lora_" not in n]
    assert frozen and all(p.grad is None for p in frozen)


def test_coefficient_gradient_is_a_finite_difference(basis: Basis) -> None:
    basis.transformer.double()
    inputs = {k: v.double() if k != "ids" else v for k, v in transformer_inputs(1).items()}
    c = mixtures(1, basis).double().requires_grad_()

    def loss(c: Tensor) -> Tensor:
        with basis.mixed(c):
            return Base(basis.transformer).velocity(**inputs).pow(2).sum()

    loss(c).backward()
    assert c.grad is not None
    for layer, n in ((2, 0), (10, 1), (19, 2)):
        step = torch.zeros_like(c)
        step[0, layer, n] = 1e-4
        with torch.no_grad():
            slope = (loss(c + step) - loss(c - step)) / 2e-4
        torch.testing.assert_close(slope, c.grad[0, layer, n], rtol=1e-3, atol=1e-5)


def test_state_round_trip(basis: Basis, plain: FluxTransformer2DModel) -> None:
    other = Basis(copy.deepcopy(plain), N, RANK)
    other.load_state_dict({k: v.clone() for k, v in basis.state_dict().items()})
    c = mixtures(BATCH, basis)
    assert torch.equal(_dynamic(other, c), _dynamic(basis, c))
