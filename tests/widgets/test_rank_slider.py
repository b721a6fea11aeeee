"""Rank and strength of one LoRA: what the sliders render, and what is shown without a kernel."""

from __future__ import annotations

import pytest
import torch
from pages import fallback, image, part, press
from tiny_models import pictures, tiny_base, tiny_editor
from torch import Tensor

from lorweb_mini.analysis.one_lora import by_direction, energy_kept
from lorweb_mini.core.editor import Editor
from lorweb_mini.errors import InputError
from lorweb_mini.images import to_pil
from lorweb_mini.widgets.rank_slider import RankSlider

RANK = 6


@pytest.fixture(scope="module")
def lora() -> Editor:
    return tiny_editor(n_loras=1, rank=RANK)


@pytest.fixture(scope="module")
def directions(lora: Editor) -> Editor:
    return by_direction(lora, tiny_base())


def _update(editor: Editor, layer: int) -> Tensor:
    """ΔW of a layer, built."""
    low, high = editor.basis.factors(layer)
    return sum(b @ a for a, b in zip(low, high, strict=True)).detach()


@pytest.fixture
def slider(directions: Editor) -> RankSlider:
    first, second, third, fourth = pictures(4)
    return RankSlider(directions, {"one": (first, second), "two": (third, to_pil(fourth))}, steps=2)


def test_the_slider_starts_with_the_whole_lora(slider: RankSlider, lora: Editor) -> None:
    assert slider.values == {"b": "one", "rank": RANK, "strength": 1.0}
    whole = lora.generate(pictures(4)[0], torch.ones(len(lora.basis.layers), 1), steps=2).image
    differences = torch.tensor(list(slider.picture.tobytes())) - torch.tensor(list(whole.tobytes()))
    assert differences.abs().max() <= 2
    assert f"error {slider.error:.2f}" in part(slider, "pictures")


def test_moving_a_control_moves_the_picture_and_back(slider: RankSlider) -> None:
    start, error = slider.picture.tobytes(), slider.error
    for control, value in (("rank", 0), ("rank", 1), ("strength", 2.0), ("b", "1")):
        before = slider.picture.tobytes()
        press(slider, "set", [control, value])
        assert slider.picture.tobytes() == image(slider).astype("uint8").tobytes() != before
        assert f"error {slider.error:.2f}" in part(slider, "pictures")
    assert slider.values["b"] == "two"
    slider.reset()
    slider.set(b="one")
    assert (slider.picture.tobytes(), slider.error) == (start, error)


def test_the_slider_counts_parameters_and_energy(slider: RankSlider, lora: Editor) -> None:
    slider.set(rank=2)
    numbers = 2 * sum(sum(_update(lora, layer).shape) for layer in range(len(lora.basis.layers)))
    assert f"{numbers:,} parameters" in part(slider, "numbers")
    assert f"{energy_kept(slider.editor.basis, 2):.0%}" in part(slider, "numbers")


def test_without_a_kernel_there_is_a_picture(slider: RankSlider) -> None:
    fallback(slider, 300, 400_000)
    figure = slider.fallback()
    written = [text.get_text() for text in figure.axes[0].texts]
    assert [text.split(":")[0] for text in written if text.startswith("rank ")] == [
        f"rank {k}" for k in (0, 1, 2, 4, RANK)
    ]


def test_the_slider_refuses(directions: Editor) -> None:
    with pytest.raises(InputError, match="at least one pair"):
        RankSlider(directions, {})
    with pytest.raises(InputError, match="rank 1, got rank 2"):
        RankSlider(tiny_editor(), {"x": (pictures(1)[0], pictures(1)[0])})
    seeing = by_direction(tiny_editor(n_loras=1, rank=2, layout="tokens", routed=False), tiny_base())
    with pytest.raises(InputError, match="expected the layout b"):
        RankSlider(seeing, {"x": (pictures(1)[0], pictures(1)[0])})
