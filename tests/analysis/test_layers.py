"""The layers of one analogy: gates measured on activations, replaced rows, update sizes."""

from __future__ import annotations

import pytest
import torch
from tiny_models import mixtures, pictures, tiny_editor
from torch import Tensor

from lorweb_mini.adapter import adapted_linears
from lorweb_mini.analysis.layers import (
    CHANGES,
    difference,
    layer_changes,
    layer_label,
    perplexity,
    record_gates,
    update_norms,
    variants,
)
from lorweb_mini.core.editor import Editor
from lorweb_mini.errors import InputError
from lorweb_mini.models.base import transformer_of

LAYERS, N = 20, 3


@pytest.fixture(scope="module")
def editor() -> Editor:
    made = tiny_editor()
    # Fresh output and modulation weights are small: without this the picture hardly depends on anything.
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in made.base.parameters():
            if parameter.ndim == 2:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / parameter.shape[1] ** 0.5)
    return made


@pytest.fixture(scope="module")
def triplet() -> Tensor:
    return pictures(3, seed=5)


def test_every_layer_has_a_block_and_a_kind() -> None:
    names = adapted_linears(transformer_of(width=64, double_blocks=2, single_blocks=3))
    labels = [layer_label(name) for name in names]
    assert len(set(labels)) == len(names) == 2 * 14 + 3 * 6
    blocks = list(dict.fromkeys(block for block, _ in labels))
    assert blocks == ["double block 1", "double block 2", "single block 1", "single block 2", "single block 3"]
    assert layer_label("transformer_blocks.1.attn.add_k_proj") == ("double block 2", "key, text")
    assert layer_label("single_transformer_blocks.0.proj_mlp") == ("single block 1", "MLP in")


def test_perplexity_counts_the_loras_that_share_the_work() -> None:
    rows = torch.tensor([[0.25] * 4, [1.0, 0, 0, 0], [0.5, 0.5, 0, 0], [3.0, 3.0, 0, 0]])
    assert perplexity(rows).tolist() == pytest.approx([4, 1, 2, 2])


def test_update_norms_are_those_of_the_full_matrices(editor: Editor) -> None:
    mixture = mixtures(1, editor)[0]
    found = update_norms(editor.basis, mixture)
    for layer in (0, 7, LAYERS - 1):
        A, B = editor.basis.factors(layer)
        update = sum(mixture[layer, n] * B[n] @ A[n] for n in range(N))
        weight = editor.basis.modules[layer].get_base_layer().weight
        assert float(found[layer]) == pytest.approx((update.norm() / weight.norm()).item(), rel=1e-4)


def test_the_gate_is_measured_and_the_same_at_every_step(editor: Editor, triplet: Tensor) -> None:
    record = record_gates(editor, *triplet, steps=3, seed=4)
    assert record.router_calls == 1
    assert record.times == pytest.approx([1, 2 / 3, 1 / 3])
    assert record.gates.shape == record.inputs.shape == (3, LAYERS, N)
    routed = editor.route(*triplet)[0]
    assert torch.equal(record.routed, routed)
    for gate in record.gates:
        torch.testing.assert_close(gate, routed.double(), atol=1e-5, rtol=1e-5)
    assert record.spread.max() < 1e-5
    assert record.input_spread[1:].min() > 1e-4, "what the gate weighs must differ, or sameness means nothing"
    assert torch.equal(record.picture, editor.edit(*triplet, steps=3, seed=4).pictures[0])


def test_the_measure_sees_a_gate_that_depends_on_time(
    editor: Editor, triplet: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A made-up base that turns the first layer's mixture at its second step must be caught."""
    whole = editor.base.velocity
    runs: list[float] = []

    def velocity(noisy: Tensor, t: Tensor, *rest: Tensor, **named: Tensor) -> Tensor:
        runs.append(float(t[0]))
        if len(runs) == 2:
            editor.basis.coefficients = editor.basis.coefficients.clone()
            editor.basis.coefficients[:, 0] += torch.tensor([0.25, -0.25, 0.0])
        return whole(noisy, t, *rest, **named)

    monkeypatch.setattr(editor.base, "velocity", velocity)
    record = record_gates(editor, *triplet, steps=2)
    assert record.spread.tolist() == pytest.approx([0, 0.25], abs=1e-5)
    changed = (record.gates[1] - record.gates[0])[0].tolist()
    assert changed == pytest.approx([0.25, -0.25, 0], abs=1e-5)


def test_recording_leaves_no_hook(editor: Editor, triplet: Tensor) -> None:
    def hooks() -> int:
        modules = [editor.router, *editor.basis.transformer.modules()]
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)

    before = hooks()
    record_gates(editor, *triplet, steps=1)
    with pytest.raises(InputError):
        record_gates(editor, *triplet, steps=0)
    assert hooks() == before


def test_inputs_are_the_size_of_a_x(editor: Editor, triplet: Tensor) -> None:
    """The first layer's input is known: the time embedding through SiLU, the same for every token."""
    record = record_gates(editor, *triplet, steps=1)
    transformer = editor.basis.transformer
    with torch.no_grad():
        embedding = transformer.time_text_embed(torch.tensor([1000.0]), torch.zeros(1, 384))
        plain = torch.nn.functional.silu(embedding) @ editor.basis.factors(0)[0].transpose(1, 2)
    expected = plain[:, 0].pow(2).mean(-1).sqrt()
    torch.testing.assert_close(record.inputs[0, 0], expected.double(), atol=1e-6, rtol=1e-4)


def test_one_row_is_replaced_and_no_other(editor: Editor) -> None:
    mixture, other = mixtures(2, editor)
    before = mixture.clone()
    found = variants(mixture, other, 4)
    assert list(found) == list(CHANGES)
    for kind, row in (("uniform", [1 / 3] * 3), ("other", other[4].tolist()), ("off", [0, 0, 0])):
        assert found[kind][4].tolist() == pytest.approx(row)
        rest = [layer for layer in range(LAYERS) if layer != 4]
        assert torch.equal(found[kind][rest], mixture[rest])
    assert torch.equal(mixture, before)
    whole = variants(mixture, other, None)
    assert torch.equal(whole["other"], other) and not whole["off"].any()


def test_difference_is_in_grey_levels() -> None:
    x = torch.zeros(2, 3, 4, 4)
    y = x.clone()
    y[1] += 2 / 255
    assert difference(x, y).tolist() == pytest.approx([0, 1], abs=1e-5)


def test_layer_changes_against_a_loop(editor: Editor, triplet: Tensor) -> None:
    mixture, other = mixtures(2, editor)
    b = triplet[2]
    found = layer_changes(editor, b, mixture, other, "off", steps=1)
    plain = editor.generate(b, mixture, steps=1).pictures
    for layer in (0, 11, LAYERS - 1):
        changed = mixture.clone()
        changed[layer] = 0
        drawn = editor.generate(b, changed, steps=1).pictures
        expected = 127.5 * float(((drawn - plain) ** 2).mean() ** 0.5)
        assert found[layer] == pytest.approx(expected, rel=1e-3, abs=1e-3)
    assert found.shape == (LAYERS,) and found.max() > 1
    with pytest.raises(InputError, match="expected one of uniform, other, off"):
        layer_changes(editor, b, mixture, other, "on")
