"""The microscope without a browser: gates measured on activations, replaced rows, what every button shows."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from pages import fallback, images, part, press, with_large_weights
from tiny_models import mixtures, pictures, tiny_editor
from torch import Tensor

from lorweb_mini.analysis.layers import CHANGES, difference, layer_changes, layer_label, perplexity
from lorweb_mini.core.editor import Editor
from lorweb_mini.errors import InputError
from lorweb_mini.images import to_pil
from lorweb_mini.widgets.microscope import Microscope
from lorweb_mini.widgets.microscope_html import bars_figure, gate_strip, heat_html

LAYERS, N = 20, 3


@pytest.fixture(scope="module")
def editor() -> Editor:
    made = tiny_editor()
    with_large_weights(made.base)
    return made


@pytest.fixture(scope="module")
def triplet() -> Tensor:
    return pictures(3, seed=5)


@pytest.fixture
def scope(editor: Editor, triplet: Tensor) -> Microscope:
    return Microscope(editor, *triplet, steps=2)


# --- the page -------------------------------------------------------------------------------------


def test_it_begins_at_the_layer_that_the_picture_needs_most(scope: Microscope, editor: Editor, triplet: Tensor) -> None:
    routed = editor.route(*triplet)[0]
    assert torch.equal(scope.coefficients, routed)
    torch.testing.assert_close(scope.other, editor.route(triplet[1], triplet[0], triplet[2])[0])
    expected = layer_changes(editor, triplet[2], routed, scope.other, "off", steps=2)
    np.testing.assert_allclose(scope.profile, expected, rtol=1e-3)
    assert scope.layer == int(expected.argmax())
    assert scope.state["chosen"] == {"layer": str(scope.layer), "sweep": "off"}


def test_a_layer_shows_its_picture_with_the_mixture_replaced(
    scope: Microscope, editor: Editor, triplet: Tensor
) -> None:
    press(scope, "layer", "7")
    assert scope.state["chosen"]["layer"] == "7"
    plain = editor.generate(triplet[2], scope.coefficients, steps=2).pictures[0]
    torch.testing.assert_close(scope.drawn["routed"], plain, atol=1e-4, rtol=1e-3)
    changed = scope.coefficients.clone()
    changed[7] = 1 / 3
    drawn = editor.generate(triplet[2], changed, steps=2).pictures[0]
    torch.testing.assert_close(scope.drawn["uniform"], drawn, atol=1e-4, rtol=1e-3)
    assert scope.changes["uniform"] == pytest.approx(
        127.5 * float((drawn - plain).pow(2).mean().sqrt()), rel=1e-3, abs=1e-3
    )
    page = part(scope, "layer")
    assert f"<h3>{': '.join(layer_label(editor.basis.layers[7]))}</h3>" in page
    for kind in CHANGES:
        assert f"<b>{scope.changes[kind]:.1f}</b>" in page and f"all layers: {scope.whole[kind]:.1f}" in page
    assert f"perplexity {float(perplexity(scope.coefficients)[7]):.1f} of 3" in page
    shown = images(page)
    assert len(shown) == 1 + 5
    np.testing.assert_array_equal(shown[2], np.asarray(to_pil(scope.drawn["routed"])))


def test_the_whole_mixture_replaced_is_the_yardstick(scope: Microscope, editor: Editor, triplet: Tensor) -> None:
    plain = editor.generate(triplet[2], scope.coefficients, steps=2).pictures
    bare = editor.generate(triplet[2], torch.zeros(LAYERS, N), steps=2).pictures
    assert scope.whole["off"] == pytest.approx(float(difference(bare, plain)), rel=1e-3, abs=1e-3)


def test_the_other_analogy_may_be_chosen(editor: Editor, triplet: Tensor) -> None:
    pair = pictures(2, seed=8)
    scope = Microscope(editor, *triplet, other=(pair[0], pair[1]), steps=1)
    torch.testing.assert_close(scope.other, editor.route(pair[0], pair[1], triplet[2])[0])


def test_a_sweep_puts_a_bar_beside_every_layer(scope: Microscope, editor: Editor, triplet: Tensor) -> None:
    before = part(scope, "heat")
    press(scope, "sweep", "other")
    expected = layer_changes(editor, triplet[2], scope.coefficients, scope.other, "other", steps=2)
    assert part(scope, "heat") != before and part(scope, "heat").count("<i>") == LAYERS
    assert f"changes the picture by {expected[3]:.2f}" in part(scope, "heat")
    assert "<b style='width:100.0%'>" in part(scope, "heat")
    press(scope, "layer", "2")
    assert scope.state["chosen"] == {"layer": "2", "sweep": "other"}


def test_the_heat_map_has_a_labelled_row_for_every_layer(editor: Editor) -> None:
    mixture = mixtures(1, editor)[0]
    html = heat_html(mixture, [layer_label(x) for x in editor.basis.layers], np.arange(LAYERS) / 4, "uniform")
    options = re.findall(r"<button role='option'[^>]*aria-label='([^']*)'", html)
    assert len(options) == LAYERS and html.count("role='group'") == 2
    assert html.count("<div") == html.count("</div>")
    assert options[5] == (
        f"{', '.join(layer_label(editor.basis.layers[5]))}; perplexity {float(perplexity(mixture)[5]):.1f}; "
        f"LoRA {int(mixture[5].argmax())} leads; all LoRAs alike: changes the picture by 1.25"
    )
    row = images(html)[5]
    assert row.shape == (1, N, 3)
    assert row[0].sum(-1).argmax() == int(mixture[5].argmax()), "brighter is more"


def test_the_strip_says_what_was_counted(scope: Microscope) -> None:
    text = part(scope, "gates")
    assert "router ran once" in text and "ran 2 times" in text and "the gate was the same" in text
    figure = gate_strip(scope.record)
    assert [axes.get_xlabel() for axes in figure.axes[:2]] == ["the first", "same"]
    for step in range(2):
        np.testing.assert_allclose(figure.axes[step].images[0].get_array(), scope.record.gates[step])
    other = scope.record.gates.clone()
    other[1, 0, 0] += 0.25
    assert "0.25 off" in [axes.get_xlabel() for axes in gate_strip(replace(scope.record, gates=other)).axes]


def test_without_a_kernel_a_picture_is_shown(scope: Microscope) -> None:
    fallback(scope, 700, 900_000)


def test_the_figure_shows_everything(scope: Microscope) -> None:
    figure = scope.fallback()
    heat = figure.axes[0]
    np.testing.assert_allclose(heat.images[0].get_array(), scope.coefficients)
    assert len(heat.get_yticklabels()) == LAYERS
    assert [patch.get_width() for patch in figure.axes[1].patches[:LAYERS]] == pytest.approx(scope.profile.tolist())
    titles = [axes.get_title("center") for axes in figure.axes]
    assert ["b", "as routed", *CHANGES.values()] == [title for title in titles if title and "step" not in title]
    assert "running kernel" in figure.get_supxlabel()
    bars = bars_figure(scope.coefficients[3], scope.other[3]).axes[0]
    assert [patch.get_height() for patch in bars.patches] == pytest.approx(scope.coefficients[3].tolist())


def test_a_context_is_handed_on_where_the_transformer_sees_it(triplet: Tensor) -> None:
    editor = tiny_editor("tokens")
    scope = Microscope(editor, *triplet, steps=1)
    plain = editor.edit(*triplet, steps=1).pictures[0]
    torch.testing.assert_close(scope.drawn["routed"], plain, atol=1e-4, rtol=1e-3)


def test_what_it_refuses(scope: Microscope, triplet: Tensor) -> None:
    chosen = scope.layer
    for layer in (-1, LAYERS, 1.5, True, None):
        with pytest.raises(InputError, match=f"from 0 to {LAYERS - 1}, got {layer}"):
            scope.choose(layer)
    assert scope.layer == chosen
    with pytest.raises(InputError, match="expected one of uniform"):
        scope.sweep("on")
    with pytest.raises(InputError, match="expected an editor with a router"):
        Microscope(tiny_editor("tokens", routed=False), *triplet)
