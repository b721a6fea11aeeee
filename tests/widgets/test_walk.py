"""The walking slider's logic without a browser."""

from __future__ import annotations

import base64
import io

import pytest
import torch
from PIL import Image
from tiny_models import pictures, tiny_editor

from lorweb_mini.analysis.walking import Ladder, Scale, Truth, walk
from lorweb_mini.core.editor import Editor
from lorweb_mini.errors import InputError
from lorweb_mini.images import to_pil
from lorweb_mini.widgets.walk import FIRST, LAST, PLACES, Walk, look, static

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
        widget.choice.value, widget.path.value, widget.t.value = name, path, t
        expected = walk(editor, [ladder(seed)], path, [t], steps=1)[0, 0]
        assert widget.picture.tobytes() == to_pil(expected).tobytes()


def test_truth_and_error_where_there_is_a_truth(editor: Editor, widget: Walk) -> None:
    truth = Truth([ladder(0)], PLACES, editor.autoencoder)
    (found,) = look(editor, truth, "coefficients", [0.25], steps=1)
    assert found.truth is not None and found.error is not None
    length = (truth.rungs[0, 0] - truth.rungs[0, -1]).pow(2).sum()
    assert found.error == pytest.approx(float((found.picture - found.truth).pow(2).sum() / length), rel=1e-4)
    widget.t.value = 0.25
    assert f"{found.error:.3f}" in widget._error.value and "true b" in widget._truth.value
    widget.t.value = 0.3
    assert "not known" in widget._truth.value and "no error" in widget._error.value
    (beyond,) = look(editor, truth, "coefficients", [-0.5], steps=1)
    assert beyond.truth is None and beyond.error is None


def test_back_to_the_start(widget: Walk) -> None:
    start, before = widget.wish, widget._result.value
    widget.choice.value, widget.path.value, widget.t.value = "second", "pixel", -0.35
    assert widget.wish == ("second", "pixel", -0.35) and widget._result.value != before
    widget.reset()
    assert widget.wish == start and widget._result.value == before


def test_controls_are_labelled(widget: Walk) -> None:
    assert [x.description for x in (widget.choice, widget.path, widget.t)] == ["walk", "path", "t"]
    assert "alt='b'" in widget._b.value and "alt='the walk at t = 0.50'" in widget._result.value


def test_without_a_kernel_a_strip_is_shown(editor: Editor, widget: Walk) -> None:
    bundle, metadata = widget._repr_mimebundle_()
    assert (
        "application/vnd.jupyter.widget-view+json" in bundle
        and "running kernel" in metadata["image/png"]["alt"] == bundle["text/plain"]
    )
    picture = Image.open(io.BytesIO(base64.b64decode(bundle["image/png"])))
    assert picture.width > 400 and len(bundle["image/png"]) < 400_000
    strip = static(editor, "first", Truth([ladder(0)], (0.0, 0.1), editor.autoencoder), ts=(0.0, 0.1), steps=1)
    written = " ".join(text.get_text() for text in strip.axes[0].texts)
    assert "t = 0.1" in written and "not known" in written and "kernel" in written


def test_logits_are_not_offered_from_nothing(editor: Editor) -> None:
    nothing = ladder(0, Scale(("any",) * 4, nothing=True))
    assert Walk(editor, {"up": nothing}, steps=1).paths == ("coefficients", "example", "latent", "pixel")
    with pytest.raises(InputError, match="a path out of"):
        Walk(editor, {"up": nothing}, path="logits")


def test_the_widget_refuses(editor: Editor) -> None:
    with pytest.raises(InputError, match="at least one ladder"):
        Walk(editor, {})
    with pytest.raises(InputError, match="expected t from"):
        Walk(editor, {"first": ladder(0)}, t=2)
    with pytest.raises(InputError, match="a path out of"):
        Walk(editor, {"first": ladder(0)}, path="asked")


def test_pictures_are_in_range(widget: Walk) -> None:
    widget.path.value, widget.t.value = "pixel", LAST
    assert widget.picture.size == (64, 64)
    assert torch.isfinite(walk(widget.editor, [ladder(0)], "latent", [LAST], steps=1)).all()
