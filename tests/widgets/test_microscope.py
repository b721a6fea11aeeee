"""The microscope without a browser: gates measured on activations, replaced rows, what every button shows."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import mixtures, pictures, tiny_editor
from torch import Tensor

from lorweb_mini.core.basis import adapted_linears
from lorweb_mini.core.editor import Editor
from lorweb_mini.errors import InputError
from lorweb_mini.images import to_pil
from lorweb_mini.models.base import transformer_of
from lorweb_mini.widgets.microscope import (
    CHANGES,
    Microscope,
    bars_figure,
    difference,
    gate_strip,
    heat_html,
    layer_changes,
    layer_label,
    microscope_figure,
    perplexity,
    record_gates,
    update_norms,
    variants,
)

SOURCE = re.compile(r"src='data:image/png;base64,([^']+)'")
LAYERS, N = 20, 3


def press(scope: Microscope, ask: str, value: object = "") -> None:
    """The message that the page sends when a button is pressed."""
    scope.panel._handle_custom_msg({"ask": ask, "value": str(value)}, [])


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


@pytest.fixture
def scope(editor: Editor, triplet: Tensor) -> Microscope:
    return Microscope(editor, *triplet, steps=2)


# --- measures -------------------------------------------------------------------------------------


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
    assert "0.25 off" in [axes.get_xlabel() for axes in gate_strip(record).axes]


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


# --- the page -------------------------------------------------------------------------------------


def test_it_begins_at_the_layer_that_the_picture_needs_most(scope: Microscope, editor: Editor, triplet: Tensor) -> None:
    routed = editor.route(*triplet)[0]
    assert torch.equal(scope.coefficients, routed)
    torch.testing.assert_close(scope.other, editor.route(triplet[1], triplet[0], triplet[2])[0])
    expected = layer_changes(editor, triplet[2], routed, scope.other, "off", steps=2)
    np.testing.assert_allclose(scope.profile, expected, rtol=1e-3)
    assert scope.layer == int(expected.argmax())
    assert scope.panel.chosen == {"layer": str(scope.layer), "sweep": "off"}


def test_a_layer_shows_its_picture_with_the_mixture_replaced(
    scope: Microscope, editor: Editor, triplet: Tensor
) -> None:
    press(scope, "layer", 7)
    assert scope.panel.chosen["layer"] == "7"
    plain = editor.generate(triplet[2], scope.coefficients, steps=2).pictures[0]
    torch.testing.assert_close(scope.drawn["routed"], plain, atol=1e-4, rtol=1e-3)
    changed = scope.coefficients.clone()
    changed[7] = 1 / 3
    drawn = editor.generate(triplet[2], changed, steps=2).pictures[0]
    torch.testing.assert_close(scope.drawn["uniform"], drawn, atol=1e-4, rtol=1e-3)
    assert scope.changes["uniform"] == pytest.approx(
        127.5 * float((drawn - plain).pow(2).mean().sqrt()), rel=1e-3, abs=1e-3
    )
    page = scope.panel.layer
    assert f"<h3>{': '.join(layer_label(editor.basis.layers[7]))}</h3>" in page
    for kind in CHANGES:
        assert f"<b>{scope.changes[kind]:.1f}</b>" in page and f"all layers: {scope.whole[kind]:.1f}" in page
    assert f"perplexity {float(perplexity(scope.coefficients)[7]):.1f} of 3" in page
    sources = SOURCE.findall(page)
    assert len(sources) == 1 + 5
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(sources[2]))).convert("RGB"))
    np.testing.assert_array_equal(shown, np.asarray(to_pil(scope.drawn["routed"])))


def test_the_whole_mixture_replaced_is_the_yardstick(scope: Microscope, editor: Editor, triplet: Tensor) -> None:
    plain = editor.generate(triplet[2], scope.coefficients, steps=2).pictures
    bare = editor.generate(triplet[2], torch.zeros(LAYERS, N), steps=2).pictures
    assert scope.whole["off"] == pytest.approx(float(difference(bare, plain)), rel=1e-3, abs=1e-3)


def test_the_other_analogy_may_be_chosen(editor: Editor, triplet: Tensor) -> None:
    pair = pictures(2, seed=8)
    scope = Microscope(editor, *triplet, other=(pair[0], pair[1]), steps=1)
    torch.testing.assert_close(scope.other, editor.route(pair[0], pair[1], triplet[2])[0])


def test_a_sweep_puts_a_bar_beside_every_layer(scope: Microscope, editor: Editor, triplet: Tensor) -> None:
    before = scope.panel.heat
    press(scope, "sweep", "other")
    expected = layer_changes(editor, triplet[2], scope.coefficients, scope.other, "other", steps=2)
    assert scope.panel.heat != before and scope.panel.heat.count("<i>") == LAYERS
    assert f"changes the picture by {expected[3]:.2f}" in scope.panel.heat
    assert "<b style='width:100.0%'>" in scope.panel.heat
    press(scope, "layer", 2)
    assert scope.panel.chosen == {"layer": "2", "sweep": "other"}


def test_the_heat_map_has_a_labelled_row_for_every_layer(editor: Editor) -> None:
    mixture = mixtures(1, editor)[0]
    html = heat_html(mixture, editor.basis.layers, np.arange(LAYERS) / 4, "uniform")
    options = re.findall(r"<button role='option'[^>]*aria-label='([^']*)'", html)
    assert len(options) == LAYERS and html.count("role='group'") == 2
    assert html.count("<div") == html.count("</div>")
    assert options[5] == (
        f"{', '.join(layer_label(editor.basis.layers[5]))}; perplexity {float(perplexity(mixture)[5]):.1f}; "
        f"LoRA {int(mixture[5].argmax())} leads; all LoRAs alike: changes the picture by 1.25"
    )
    row = np.asarray(Image.open(io.BytesIO(base64.b64decode(SOURCE.findall(html)[5]))))
    assert row.shape == (1, N, 3)
    assert row[0].astype(int).sum(-1).argmax() == int(mixture[5].argmax()), "brighter is more"


def test_the_strip_says_what_was_counted(scope: Microscope) -> None:
    text = scope.panel.gates
    assert "asked once" in text and "ran 2 times" in text and "the gate was the same" in text
    figure = gate_strip(scope.record)
    assert [axes.get_xlabel() for axes in figure.axes[:2]] == ["the first", "same"]
    for step in range(2):
        np.testing.assert_allclose(figure.axes[step].images[0].get_array(), scope.record.gates[step])


def test_the_page_hears_that_the_kernel_lives(scope: Microscope, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[dict] = []
    monkeypatch.setattr(scope.panel, "send", lambda content, buffers=None: said.append(content))
    press(scope, "alive")
    press(scope, "layer", 3)
    press(scope, "sweep", "uniform")
    assert [message["answered"] for message in said] == ["alive", "layer", "sweep"]


def test_without_a_kernel_a_picture_is_shown(scope: Microscope) -> None:
    bundle, metadata = scope._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert Image.open(io.BytesIO(base64.b64decode(bundle["image/png"]))).width > 700
    assert len(bundle["image/png"]) < 600_000
    assert "running kernel" in metadata["image/png"]["alt"] == bundle["text/plain"]


def test_the_figure_shows_everything(scope: Microscope) -> None:
    figure = microscope_figure(scope, "a note")
    heat = figure.axes[0]
    np.testing.assert_allclose(heat.images[0].get_array(), scope.coefficients)
    assert len(heat.get_yticklabels()) == LAYERS
    assert [patch.get_width() for patch in figure.axes[1].patches[:LAYERS]] == pytest.approx(scope.profile.tolist())
    titles = [axes.get_title("center") for axes in figure.axes]
    assert ["b", "as routed", *CHANGES.values()] == [title for title in titles if title and "step" not in title]
    assert figure.get_supxlabel() == "a note"
    bars = bars_figure(scope.coefficients[3], scope.other[3]).axes[0]
    assert [patch.get_height() for patch in bars.patches] == pytest.approx(scope.coefficients[3].tolist())


def test_a_context_is_handed_on_where_the_transformer_sees_it(triplet: Tensor) -> None:
    editor = tiny_editor("tokens")
    scope = Microscope(editor, *triplet, steps=1)
    plain = editor.edit(*triplet, steps=1).pictures[0]
    torch.testing.assert_close(scope.drawn["routed"], plain, atol=1e-4, rtol=1e-3)


def test_what_it_refuses(scope: Microscope, triplet: Tensor) -> None:
    for layer in (-1, LAYERS):
        with pytest.raises(InputError, match=f"from 0 to {LAYERS - 1}, got {layer}"):
            scope.choose(layer)
    with pytest.raises(InputError, match="expected one of uniform"):
        scope.sweep("on")
    with pytest.raises(InputError, match="got 'dance'"):
        scope._answer({"ask": "dance"})
    with pytest.raises(InputError, match="expected an editor with a router"):
        Microscope(tiny_editor("tokens", routed=False), *triplet)
