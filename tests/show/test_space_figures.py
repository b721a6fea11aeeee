"""The figures of the learned space."""

from __future__ import annotations

import base64
import json

import numpy as np
import plotly.graph_objects as go
import pytest
import torch
from matplotlib.figure import Figure

from lorweb_mini.algebra import cosines, gram, pca
from lorweb_mini.analysis.bootstrap import Estimate
from lorweb_mini.analysis.order import CIRCLE, LINE, Order
from lorweb_mini.errors import InputError
from lorweb_mini.show import space

LOOKS = {"one": ("#0072B2", "o"), "two": ("#E69F00", "s"), "none of these": ("#222222", "X")}
LABELS = np.array(["two", "one", "two", "two"] * 10)
POINTS = np.random.default_rng(0).normal(size=(40, 5)) * [5, 4, 3, 2, 1]


def texts(figure: Figure) -> list[str]:
    return [t.get_text() for t in figure.findobj(lambda x: hasattr(x, "get_text")) if t.get_text()]


def points_of(axes) -> int:
    return sum(len(x.get_offsets()) for x in axes.collections)


def test_a_table_in_markdown() -> None:
    assert space.table(("name", "value"), [("x", 1.5), ("y", 2)]) == (
        "| name | value |\n|:--|--:|\n| x | 1.5 |\n| y | 2 |"
    )
    assert space.table(("name", "value"), [], left=2) == "| name | value |\n|:--|:--|"
    with pytest.raises(InputError, match=r"expected rows of 2 cells, got \[1, 2\]"):
        space.table(("name", "value"), [("x", 1), ("y",)])


def test_the_most_frequent_label_lies_below() -> None:
    assert space.in_layers(LABELS, LOOKS) == [("two", "#E69F00", "s"), ("one", "#0072B2", "o")]
    with pytest.raises(InputError, match=r"none for \['two'\]"):
        space.in_layers(LABELS, {"one": LOOKS["one"]})


def test_pictures_stand_where_their_points_are() -> None:
    asked: list[int] = []

    def picture(i: int) -> torch.Tensor:
        asked.append(i)
        return torch.zeros(3, 8, 16)

    figure = space.picture_map(pca(POINTS), LABELS, LOOKS, picture)
    left, right = figure.axes
    assert points_of(left) == 40 and len(right.images) == len(asked) == len(set(asked)) > 10
    points = pca(POINTS).points
    width, height = (np.quantile(points, 0.998, axis=0) - np.quantile(points, 0.002, axis=0)) / space.GRID
    for i, image in zip(asked, right.images, strict=True):
        x0, x1, y0, y1 = image.get_extent()
        assert x0 - 0.05 * width <= points[i, 0] <= x1 + 0.05 * width
        assert y0 - 0.05 * height <= points[i, 1] <= y1 + 0.05 * height
    with pytest.raises(InputError, match="a label for each of 40 points, got 39"):
        space.picture_map(pca(POINTS), LABELS[1:], LOOKS, picture)


def test_variances_and_their_sums() -> None:
    figure = space.scree(np.array([4.0, 3.0, 2.0, 1.0]), np.array([2.5, 2.5]), shown=3)
    left, right = figure.axes
    assert [line.get_ydata().tolist() for line in left.lines] == [[4, 3, 2], [2.5, 2.5]]
    assert right.lines[0].get_ydata() == pytest.approx([0.4, 0.7, 0.9])
    assert "2 components: 70%" in texts(figure) and "3 components: 90%" in texts(figure)
    with pytest.raises(InputError, match="at least three components, got 2"):
        space.scree(np.ones(2), np.ones(2))


def test_each_colouring_and_each_turn_shows_all_points() -> None:
    other = np.repeat(["one", "two"], 20)
    figure = space.colouring_maps(POINTS, {"first": (LABELS, LOOKS), "second": (other, LOOKS)})
    assert [axes.get_title("left") for axes in figure.axes] == ["first", "second"]
    assert [points_of(axes) for axes in figure.axes] == [40, 40]
    figure = space.turned_maps(POINTS, LABELS, LOOKS, (0, 45))
    assert [axes.azim for axes in figure.axes] == [0, 45]
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["two", "one"]


def test_live_maps_have_a_still_beside_them() -> None:
    said = np.array([f"point {i}" for i in range(40)])
    other = np.repeat(["one", "two"], 20)
    live = space.live_map(POINTS, {"first": (LABELS, LOOKS), "second": (other, LOOKS)}, said)
    figure = go.Figure(live)  # refuses what plotly.js does not know
    assert [len(trace.x) for trace in figure.data] == [30, 10, 20, 20]
    assert [trace.visible for trace in figure.data] == [True, True, False, False]
    second = figure.layout.updatemenus[0].buttons[1]
    assert second.label == "second" and list(second.args[0]["visible"]) == [False, False, True, True]
    assert list(figure.data[1].text) == said[LABELS == "one"].tolist()
    solid = space.live_space(POINTS, LABELS, LOOKS, said)
    figure = go.Figure(solid)
    assert figure.data[0].z == pytest.approx(POINTS[LABELS == "two", 2], abs=1e-3)
    assert figure.layout.scene.zaxis.title.text == "third"
    bundle = space.live_or_still(solid, space.colouring_maps(POINTS, {"first": (LABELS, LOOKS)}))
    assert json.loads(json.dumps(bundle["application/vnd.plotly.v1+json"])) == solid
    assert base64.b64decode(bundle["image/png"]).startswith(b"\x89PNG")


def test_layers_stand_in_the_table_of_kinds_and_blocks() -> None:
    places = [("first", "query"), ("first", "query, text"), ("first", "key"), ("second", "query")]
    figure = space.layer_tables({"x": np.array([0.1, 0.2, 0.3, 0.4])}, places, "share")
    cells = np.ma.filled(figure.axes[0].images[0].get_array(), np.nan)
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["query", "key", "query, text"]
    assert np.array_equal(cells, [[0.1, 0.4], [0.3, np.nan], [0.2, np.nan]], equal_nan=True)
    with pytest.raises(InputError, match="values of 4 layers"):
        space.layer_tables({"x": np.ones(3)}, places, "share")


def test_components_of_several_clouds() -> None:
    figure = space.component_maps({"x": POINTS, "y": POINTS[:, ::-1]}, LABELS, LOOKS)
    assert [axes.get_title("left") for axes in figure.axes] == ["x", "y"]
    assert figure.axes[0].get_xlabel() == f"first component ({pca(POINTS).explained[0]:.0%})"


def test_loras_stand_in_their_order_with_dots() -> None:
    values = np.array([[0.1, 0.2, 0.7], [0.3, 0.3, 0.4]])
    figure = space.lora_table(values, ["x", "y"], np.array([2, 0, 1]), "use", "coefficient")
    assert figure.axes[0].images[0].get_array().tolist() == [[0.7, 0.1, 0.2], [0.4, 0.3, 0.3]]
    assert figure.axes[0].images[0].get_clim()[0] == 0
    signed = space.lora_table(values - 0.3, ["x", "y"], np.array([2, 0, 1]), "loss", "error", values > 0.5)
    low, high = signed.axes[0].images[0].get_clim()
    assert low == -high
    assert signed.axes[0].collections[0].get_offsets().tolist() == [[0, 0]]
    with pytest.raises(InputError, match=r"expected values \[1, 3\], got \[2, 3\]"):
        space.lora_table(values, ["x"], np.arange(3), "use", "coefficient")


def test_cosines_and_angles() -> None:
    A, B = torch.randn(2, 4, 2, 6, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    table = cosines(gram(A, B.mT))
    figure = space.cosine_tables({"x": table, "y": -table})
    assert np.allclose(np.diag(figure.axes[0].images[0].get_array()), 0)
    layers = torch.stack([table, table / 2])
    pairs = table[*np.triu_indices(4, 1)].numpy()
    figure = space.update_angles(layers, 0.1, np.arange(6), 1, "second")
    assert sum(bar.get_height() for bar in figure.axes[1].patches[:60]) == 12
    assert np.allclose(figure.axes[2].collections[0].get_offsets(), np.stack([np.arange(6), pairs / 2], 1))
    with pytest.raises(InputError, match=r"correlations of 6 pairs, got \[5\]"):
        space.update_angles(layers, 0.1, np.arange(5), 1, "second")


def test_spectra_start_at_one() -> None:
    values = {"x": torch.tensor([4.0, 2.0]), "y": torch.tensor([2.0, 2.0])}
    effective = {"x": np.array([1.5, 1.8]), "y": np.array([2.0, 2.0])}
    figure = space.ranks(values, effective, [0, 6], 2, "here")
    assert [line.get_ydata().tolist() for line in figure.axes[0].lines] == [[1, 0.5], [1, 1]]
    assert figure.axes[1].lines[0].get_xdata().tolist() == [0, 6]
    with pytest.raises(InputError, match=r"ranks of \['x', 'y'\] in 3 layers"):
        space.ranks(values, effective, [0, 6, 12], 2, "here")


def test_ordered_sets_are_joined_in_order() -> None:
    angles = np.arange(6) / 6
    positions = {f"level {i}": float(x) for i, x in enumerate(angles)}
    labels = np.repeat(list(positions), 5)
    ring = np.stack([np.cos(2 * np.pi * angles), np.sin(2 * np.pi * angles), 0 * angles], 1).repeat(5, 0)
    order = [Order(shape, 6, 30, Estimate(x, 0, 1), 0.01, Estimate(x, 0, 1), 0.01, 1.0)
             for shape, x in ((LINE, 0.3), (CIRCLE, 0.9))]  # fmt: skip
    sets = {"ring": (ring, labels, positions), "line": (ring, labels, positions)}
    figure = space.order_maps(sets, {"ring": order, "line": order[:1]}, columns=3)
    first, second, empty = figure.axes
    assert len(first.lines[0].get_xdata()) == 7 and len(second.lines[0].get_xdata()) == 6 and not empty.axison
    assert points_of(first) == 36
    assert first.get_xlabel() == "circle: held out 0.90, Mantel 0.90"
    assert second.get_xlabel() == "line: held out 0.30, Mantel 0.30"
    shared = space.order_maps({"x": (ring, labels, dict.fromkeys(positions, 0.0) | {"level 5": 1.0})}, {"x": order[:1]})
    assert not shared.axes[0].lines, "levels at the same position are not joined"
    with pytest.raises(InputError, match="tests of each set of levels"):
        space.order_maps(sets, {"ring": order})
