"""The pads' logic without a browser: points to weights, weights to mixtures and pictures, the static field."""

from __future__ import annotations

import html
import json
import math
import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from pages import ask, fallback, grey_levels, image, part, press
from PIL import Image
from tiny_models import mixtures, pictures, tiny_data, tiny_editor

from lorweb_mini.core.editor import Editor
from lorweb_mini.emoji.relations import Analogy
from lorweb_mini.errors import InputError
from lorweb_mini.files import data_dir
from lorweb_mini.images import to_pil
from lorweb_mini.widgets.pads import HEIGHT, SQUARE, STATIC, TRIANGLE, Pads, places, weights_at

SHAPES = {3: TRIANGLE, 4: SQUARE}
both = pytest.mark.parametrize("corners", [3, 4])


@pytest.fixture(scope="module")
def editor() -> Editor:
    return tiny_editor()


def pairs(k: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(x[0], x[1]) for x in pictures(2 * k, seed=3).split(2)]


def inside(corners: int, seed: int) -> tuple[float, float]:
    """A random point of a pad, found without the code under test."""
    rng = random.Random(seed)
    while True:
        x, y = rng.random(), rng.random()
        if corners == 4 or abs(x - 0.5) <= y / 2:
            return x, y


# --- points and weights ---------------------------------------------------------------------------


@both
@pytest.mark.parametrize("seed", range(20))
def test_weights_are_a_mixture_that_lies_at_the_point(corners: int, seed: int) -> None:
    x, y = inside(corners, seed)
    weights = weights_at(x, y, corners)
    assert weights.shape == (corners,) and float(weights.min()) >= 0
    assert float(weights.sum()) == pytest.approx(1)
    assert (weights @ torch.tensor(SHAPES[corners])).tolist() == pytest.approx([x, y], abs=1e-5)


@both
def test_a_corner_is_its_analogy_alone(corners: int) -> None:
    for k, corner in enumerate(SHAPES[corners]):
        assert torch.equal(weights_at(*corner, corners), torch.eye(corners)[k])


def test_barycentric_weights_are_shares_of_the_area() -> None:
    def area(p: tuple[float, float], q: tuple[float, float], r: tuple[float, float]) -> float:
        return abs((q[0] - p[0]) * (r[1] - p[1]) - (r[0] - p[0]) * (q[1] - p[1]))

    point = inside(3, 7)
    across = [[q for q in TRIANGLE if q != corner] for corner in TRIANGLE]
    expected = [area(point, *rest) / area(*TRIANGLE) for rest in across]
    assert weights_at(*point, 3).tolist() == pytest.approx(expected, abs=1e-6)


def test_bilinear_weights_are_interpolation_twice() -> None:
    x, y = inside(4, 7)
    values = torch.rand(4)
    upper, lower = torch.lerp(values[0], values[1], x), torch.lerp(values[2], values[3], x)
    assert float(weights_at(x, y, 4) @ values) == pytest.approx(float(torch.lerp(upper, lower, y)), abs=1e-6)


@pytest.mark.parametrize(
    ("x", "y", "corners"),
    [
        *[(0.1, 0.5, 3), (0.5, 1.01, 3), (0.5, -0.01, 3), (0.9, 0.5, 3)],
        *[(-0.01, 0.5, 4), (1.01, 0.5, 4), (-0.5, -0.5, 4), (1.5, 1.5, 4)],
        *[(math.nan, 0.5, 4), ("a", 0.5, 3), (0.5, 0.5, 2), (0.5, 0.5, 5)],
    ],
)
def test_points_outside_are_refused(x: float, y: float, corners: int) -> None:
    with pytest.raises(InputError, match="expected"):
        weights_at(x, y, corners)


@both
@pytest.mark.parametrize("side", [2, 5])
def test_places_cover_the_pad_evenly(corners: int, side: int) -> None:
    points = np.array(places(corners, side))
    assert len(points) == (side * side if corners == 4 else side * (side + 1) // 2)
    for corner in SHAPES[corners]:
        assert np.abs(points - corner).sum(1).min() < 1e-9
    scaled = points * [1, HEIGHT[corners]]
    distances = np.linalg.norm(scaled[:, None] - scaled[None], axis=-1) + 9 * np.eye(len(points))
    assert distances.min(1) == pytest.approx(1 / (side - 1)), "each has a neighbour at the same distance"


# --- the pad --------------------------------------------------------------------------------------


@both
def test_a_move_draws_the_mixture_of_the_analogies(editor: Editor, corners: int) -> None:
    b = pictures(1)[0]
    pads = Pads(editor, pairs(corners), b, steps=2)
    x, y = inside(corners, 1)
    press(pads, "set", ["point", [x, y]])
    assert pads.state["values"] == {"point": [x, y]}
    mixture = torch.zeros(len(editor.basis.layers), 3)
    for weight, (a, a_prime) in zip(weights_at(x, y, corners).tolist(), pairs(corners), strict=True):
        mixture += weight * editor.route(a, a_prime, b)[0]
    torch.testing.assert_close(pads.mixture, mixture)
    assert grey_levels(image(pads), editor.generate(b, mixture, steps=2).image) <= 1
    assert list(pads.state["bars"].values()) == pytest.approx(weights_at(x, y, corners).tolist(), abs=1e-4)


@both
def test_it_starts_in_the_middle_and_a_corner_is_the_edit_itself(editor: Editor, corners: int) -> None:
    b = pictures(1)[0]
    pads = Pads(editor, pairs(corners), b, steps=1)
    assert list(pads.state["bars"].values()) == pytest.approx([1 / corners] * corners, abs=1e-4)
    pads.move(*SHAPES[corners][-1])
    assert grey_levels(image(pads), editor.edit(*pairs(corners)[-1], b, steps=1).image) <= 1


@both
def test_the_page_has_all_that_pointers_and_screen_readers_need(editor: Editor, corners: int) -> None:
    analogies = [Analogy(*pictures(4, k), f"edit/hue={60 * k}", "test", ("", "", "", "")) for k in range(corners)]
    pads = Pads(editor, analogies, pictures(1)[0], steps=1)
    page = part(pads, "controls") + part(pads, "below")
    for k in range(1, corners + 1):
        assert page.count(f"{k} · edit: hue {60 * (k - 1)}<") == 2, "at the corner and beside its weight"
    assert page.count("alt='a'") == page.count("alt='a′'") == corners
    assert "role='slider' tabindex='0'" in page and "aria-label='mixture of the analogies" in page
    assert "running kernel" in part(pads, "hint")
    (shape,) = (json.loads(html.unescape(x)) for x in re.findall(r"data-shape='([^']*)'", page))
    around, keys = shape["corners"], shape["places"]
    assert shape["labels"] == [corner.label for corner in pads.corners]
    assert sorted(map(tuple, around)) == sorted(SHAPES[corners])
    # Clockwise as seen with y downwards: the page relies on it to tell inside from outside.
    turned = [
        (q[0] - p[0]) * (r[1] - q[1]) - (q[1] - p[1]) * (r[0] - q[0])
        for p, q, r in zip(around, around[1:] + around[:1], around[2:] + around[:2], strict=True)
    ]
    assert min(turned) > 0
    assert [tuple(keys[str(k)]) for k in range(1, corners + 1)] == list(SHAPES[corners])
    assert weights_at(*keys["0"], corners).tolist() == pytest.approx([1 / corners] * corners)


@both
def test_without_a_kernel_a_field_of_pictures_is_shown(editor: Editor, corners: int) -> None:
    fallback(Pads(editor, pairs(corners), pictures(1)[0], steps=1), 400, 700_000)


@both
def test_the_field_shows_what_the_pad_draws_at_each_place(editor: Editor, corners: int) -> None:
    b, c = pictures(1)[0], mixtures(corners, editor)
    pads = Pads(editor, pairs(corners), b, steps=1)
    pads.coefficients = c
    axes = pads.fallback().axes[0]
    points = places(corners, STATIC)
    assert len(axes.images) == len(points) + 1 + 2 * corners
    field = axes.images[: len(points)]
    for one, point in zip(field[::4], points[::4], strict=True):
        mixture = (weights_at(*point, corners)[:, None, None] * c).sum(0)
        expected = editor.generate(b, mixture, steps=1).image.resize((256, 256), Image.Resampling.LANCZOS)
        assert grey_levels(one.get_array(), expected) <= 1
    left, right, bottom, top = zip(*(image.get_extent() for image in axes.images), strict=True)
    assert min(left) > 0 and min(top) > 0, "all on the page"
    assert max(right) < axes.get_xlim()[1] and max(bottom) < axes.get_ylim()[0]
    assert np.array_equal(
        np.asarray(axes.images[len(points)].get_array()),
        np.asarray(to_pil(b).resize((256, 256), Image.Resampling.LANCZOS)),
    ), "b stands beside it"


def test_refusals(editor: Editor) -> None:
    b = pictures(1)[0]
    for count in (2, 5):
        with pytest.raises(InputError, match="expected 3 or 4 analogies"):
            Pads(editor, pairs(count), b)
    with pytest.raises(InputError, match="layout 'b'"):
        Pads(tiny_editor("tokens"), pairs(3), b)
    with pytest.raises(InputError, match="a pair"):
        Pads(editor, [*pairs(2), "fire"], b)  # type: ignore[list-item]
    pads = Pads(editor, pairs(3), b, steps=1)
    point = pads.point
    for change in (["point", [0.1, 0.1]], ["point", 3], ["gain", [0.5, 0.5]]):
        assert "expected" in ask(pads, "set", change)
    assert pads.point == point


# --- the benchmark --------------------------------------------------------------------------------


def test_the_benchmark_has_every_method_and_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import mixer

    real = data_dir()
    data = tiny_data(tmp_path / "data", monkeypatch)
    (data / "emoji" / "emoji.json").unlink()
    (data / "emoji").rmdir()
    for name in ("emoji", "relations.json", "splits.json", "text.json", "text.safetensors"):
        (data / name).symlink_to(real / name)
    mixer.main(["--quick", "--weights", "starter"])
    printed = capsys.readouterr().out
    for name in (*mixer.METHODS, *mixer.PARTS, mixer.TURN, mixer.MOVE):
        rows = [line for line in printed.splitlines() if line.startswith(f"| {name} |")]
        assert rows and all(
            float(cell) > 0 for line in rows for cell in re.findall(r"\d+\.?\d*", line.split("|", 2)[2])
        )


def test_a_quick_benchmark_is_never_saved(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import mixer

    with pytest.raises(SystemExit):
        mixer.main(["--quick", "--save"])
    assert "not saved" in capsys.readouterr().err
