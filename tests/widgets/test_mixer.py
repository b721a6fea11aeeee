"""The mixer's logic without a browser: messages to pictures, what is shown without a kernel."""

from __future__ import annotations

import re

import pytest
import torch
from pages import ask, fallback, grey_levels, image, part, press
from tiny_models import tiny_editor

from lorweb_mini.analysis.mixtures import remix, strongest
from lorweb_mini.core.editor import Editor
from lorweb_mini.errors import InputError
from lorweb_mini.widgets.mixer import GAIN_MAX, Mixer

N = 6


@pytest.fixture(scope="module")
def editor() -> Editor:
    return tiny_editor(n_loras=N)


@pytest.fixture
def mixture(editor: Editor) -> torch.Tensor:
    return torch.rand(len(editor.basis.layers), N).softmax(-1)


@pytest.fixture
def b() -> torch.Tensor:
    return torch.rand(3, 64, 64) * 2 - 1


def turn(mixer: Mixer, *changes: tuple[str, object]) -> None:
    """What the page sends."""
    for change in changes:
        press(mixer, "set", list(change))


def test_a_slider_changes_the_picture_to_what_generate_draws(
    editor: Editor, b: torch.Tensor, mixture: torch.Tensor
) -> None:
    mixer = Mixer(editor, b, mixture, steps=2)
    assert mixer.loras == strongest(mixture)
    first = part(mixer, "pictures")
    assert grey_levels(image(mixer), editor.generate(b, mixture, steps=2).image) <= 1
    lora = mixer.loras[0]
    turn(mixer, (str(lora), GAIN_MAX))
    assert part(mixer, "pictures") != first
    expected = editor.generate(b, remix(mixture, {lora: GAIN_MAX}), steps=2).image
    assert grey_levels(image(mixer), expected) <= 1 and grey_levels(mixer.picture, expected) <= 1
    assert mixer.state["values"][str(lora)] == GAIN_MAX
    assert ask(mixer, "reset") == "" and part(mixer, "pictures") == first
    assert mixer.state["values"][str(lora)] == 1


def test_one_layer_alone(editor: Editor, b: torch.Tensor, mixture: torch.Tensor) -> None:
    mixer = Mixer(editor, b, mixture, steps=1)
    turn(mixer, ("2", 3.0), ("layer", "4"), ("2", 0.0), ("1", 2.0))
    assert mixer.layer == 4 and mixer.gains[2] == 0 and mixer.gains[1] == 2
    expected = remix(mixture, {2: 3.0})
    expected[4] = mixture[4] * torch.tensor([1, 2, 0, 1, 1, 1])
    expected[4] /= expected[4].sum()
    torch.testing.assert_close(mixer.mixture, expected)
    assert mixer.state["bars"]["2"] == 0 and mixer.state["bars"]["1"] == pytest.approx(float(expected[4, 1]), abs=1e-3)
    turn(mixer, ("layer", ""))
    assert mixer.layer is None and mixer.gains[2] == 3 and mixer.gains[1] == 1
    torch.testing.assert_close(mixer.mixture, expected)
    assert mixer.state["bars"]["2"] == pytest.approx(float(expected[:, 2].mean()), abs=1e-3)
    mixer.reset()
    torch.testing.assert_close(mixer.mixture, mixture)


def test_methods_do_what_the_page_asks_for(editor: Editor, b: torch.Tensor, mixture: torch.Tensor) -> None:
    byhand, bypage = Mixer(editor, b, mixture, steps=1), Mixer(editor, b, mixture, steps=1)
    byhand.turn(3, 4.0)
    byhand.look_at(7)
    byhand.turn(0, 0.5)
    turn(bypage, ("3", 4.0), ("layer", "7"), ("0", 0.5))
    assert part(byhand, "pictures") == part(bypage, "pictures") and byhand.state == bypage.state
    assert byhand.state["values"]["layer"] == "7"
    byhand.look_at(None)
    assert byhand.state["values"]["layer"] == ""


def test_shares_add_up(editor: Editor, b: torch.Tensor, mixture: torch.Tensor) -> None:
    bars = Mixer(editor, b, mixture, loras=(5, 2), steps=1).state["bars"]
    assert sum(bars[str(n)] for n in range(N)) == pytest.approx(1, abs=1e-3)
    assert bars["others"] == pytest.approx(sum(bars[str(n)] for n in (0, 1, 3, 4)), abs=1e-3)


def test_every_control_is_labelled_and_starts_at_one(editor: Editor, b: torch.Tensor, mixture: torch.Tensor) -> None:
    mixer = Mixer(editor, b, mixture[None], loras=(5, 2), steps=1)
    inputs = re.findall(r"<input type='range' data-set='(\d+)'[^>]* aria-label='([^']+)'", part(mixer, "controls"))
    assert [int(n) for n, _ in inputs] == [5, 2, 0, 1, 3, 4], "all of them, the wanted ones first"
    assert all(label == f"gain of LoRA {n}" for n, label in inputs)
    assert mixer.gains == dict.fromkeys(range(N), 1.0)
    options = re.findall(r"<option value='(\d+)'>([^<]+)", part(mixer, "controls"))
    assert [int(i) for i, _ in options] == list(range(len(editor.basis.layers)))
    assert all(editor.basis.layers[int(i)].endswith(text.split(" · ")[1]) for i, text in options)
    assert "data-ask='reset'" in part(mixer, "controls") and "running kernel" in part(mixer, "hint")
    assert all(name in part(mixer, "pictures") for name in ("alt='b'", "alt='result'"))


def test_without_a_kernel_a_picture_is_shown(editor: Editor, b: torch.Tensor, mixture: torch.Tensor) -> None:
    fallback(Mixer(editor, b, mixture, steps=1), 400, 400_000)


def test_the_strip_shows_b_and_every_gain(editor: Editor, b: torch.Tensor, mixture: torch.Tensor) -> None:
    figure = Mixer(editor, b, mixture, loras=(1,), steps=1).fallback()
    written = [text.get_text() for text in figure.axes[0].texts]
    assert [text for text in written if text == "b" or "gain " in text] == [
        "b",
        *(f"gain {gain}" for gain in (0, 1, 2, 4, 8)),
    ]
    assert "kernel" in written[-1] and len(figure.axes[0].images) == 6 and "LoRA 1 " in written[-1]


@pytest.mark.parametrize("loras", [(0, N), (-1,)])
def test_mixer_refuses_loras_that_are_not_there(
    editor: Editor, b: torch.Tensor, mixture: torch.Tensor, loras: tuple[int, ...]
) -> None:
    with pytest.raises(InputError, match="expected a LoRA"):
        Mixer(editor, b, mixture, loras=loras)


def test_mixer_refuses_two_mixtures(editor: Editor, b: torch.Tensor, mixture: torch.Tensor) -> None:
    with pytest.raises(InputError, match="one analogy, got a batch of 2"):
        Mixer(editor, b, torch.stack([mixture, mixture]))


@pytest.mark.parametrize("change", [("6", 1.0), ("0", -0.5), ("0", 8.5), ("0", float("nan")), ("layer", "999")])
def test_mixer_refuses_what_no_page_would_send(
    editor: Editor, b: torch.Tensor, mixture: torch.Tensor, change: tuple[str, object]
) -> None:
    mixer = Mixer(editor, b, mixture, steps=1)
    assert "expected" in ask(mixer, "set", list(change))
    assert torch.equal(mixer.mixture, mixture)
