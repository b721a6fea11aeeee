"""The walking slider's logic without a browser."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pages import ask, fallback, image, part, press
from tiny_models import pictures, tiny_editor

from lorweb_mini.analysis.ladders import Ladder, Scale
from lorweb_mini.analysis.walking import Truth, walk
from lorweb_mini.core.editor import Editor
from lorweb_mini.errors import InputError
from lorweb_mini.images import to_pil
from lorweb_mini.widgets.walk import FIRST, LAST, PLACES, Walk, look

SCALE = Scale(("any",) * 5)


@pytest.fixture(scope="module")
def editor() -> Editor:
    return tiny_editor()


def ladder(seed: int, scale: Scale = SCALE) -> Ladder:
    drawn = pictures(12, seed)
    return Ladder(scale, "thing", f"{seed}@noto", drawn[0], drawn[1], drawn[2:7], drawn[7:])


@pytest.fixture
def widget(editor: Editor) -> Walk:
    return Walk(editor, {"first": ladder(0), "second": ladder(1)}, steps=1)


def test_the_places_of_the_slider() -> None:
    assert (PLACES[0], PLACES[-1]) == (FIRST, LAST)
    assert {0.0, 0.25, 0.5, 0.75, 1.0} <= set(PLACES)


def test_the_slider_draws_what_the_walk_draws(editor: Editor, widget: Walk) -> None:
    for t, path, name, seed in ((0.5, "coefficients", "first", 0), (1.5, "logits", "second", 1)):
        widget.set(walk=name, path=path, t=t)
        expected = walk(editor, [ladder(seed)], path, [t], steps=1)[0, 0]
        assert widget.picture.tobytes() == to_pil(expected).tobytes()


def test_truth_and_error_where_there_is_a_truth(editor: Editor, widget: Walk) -> None:
    truth = Truth([ladder(0)], PLACES, editor.autoencoder)
    (found,) = look(editor, truth, "coefficients", [0.25], steps=1)
    length = (truth.rungs[0, 0] - truth.rungs[0, -1]).pow(2).sum()
    assert found.error == pytest.approx(float((found.picture - found.truth).pow(2).sum() / length), rel=1e-4)
    press(widget, "set", ["t", 0.25])
    assert f"{found.error:.3f}" in part(widget, "numbers")
    assert np.array_equal(image(widget, "true b′"), np.asarray(to_pil(found.truth), int))
    widget.set(t=0.3)
    assert "not known" in part(widget, "pictures") and "no error" in part(widget, "numbers")
    (beyond,) = look(editor, truth, "coefficients", [-0.5], steps=1)
    assert math.isnan(beyond.error) and bool((beyond.truth == 0.9).all())


def test_back_to_the_start(widget: Walk) -> None:
    start, before = widget.values, part(widget, "pictures")
    widget.set(walk="second", path="pixel", t=-0.35)
    assert tuple(widget.values.values()) == ("second", "pixel", -0.35) and part(widget, "pictures") != before
    assert ask(widget, "reset") == "" and widget.values == start and part(widget, "pictures") == before


def test_controls_are_labelled(widget: Walk) -> None:
    assert [x.label for x in widget.controls.values()] == ["walk", "path", "t"]
    assert "alt='b'" in part(widget, "pictures") and "alt='the walk at t = 0.50'" in part(widget, "pictures")


def test_without_a_kernel_a_strip_is_shown(widget: Walk) -> None:
    fallback(widget, 400, 400_000)
    written = " ".join(text.get_text() for text in widget.fallback().axes[0].texts)
    assert "t = 0.25" in written and "error" in written and "not known" in written and "kernel" in written


def test_logits_are_not_offered_from_nothing(editor: Editor) -> None:
    nothing = ladder(0, Scale(("any",) * 4, nothing=True))
    assert Walk(editor, {"up": nothing}, steps=1).paths == ("coefficients", "example", "latent", "pixel")
    with pytest.raises(InputError, match="path out of"):
        Walk(editor, {"up": nothing}, path="logits")


def test_the_widget_refuses(editor: Editor) -> None:
    with pytest.raises(InputError, match="at least one ladder"):
        Walk(editor, {})
    with pytest.raises(InputError, match="expected t as a number from"):
        Walk(editor, {"first": ladder(0)}, t=2)
    with pytest.raises(InputError, match="path out of"):
        Walk(editor, {"first": ladder(0)}, path="asked")


def test_pictures_are_in_range(widget: Walk) -> None:
    widget.set(path="pixel", t=LAST)
    assert widget.picture.size == (64, 64)
    assert torch.isfinite(walk(widget.editor, [ladder(0)], "latent", [LAST], steps=1)).all()
