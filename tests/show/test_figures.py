"""Figures hold what they should, stay small, and show nothing."""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib.pyplot
import numpy as np
import pytest
import torch
from known_analogies import Lossless, random_analogies
from matplotlib.figure import Figure
from PIL import Image

from lorweb_mini import analysis
from lorweb_mini.algebra import pca
from lorweb_mini.analysis.evaluation import evaluate
from lorweb_mini.analysis.scores import Evaluation
from lorweb_mini.emoji.relations import as_batch
from lorweb_mini.errors import InputError
from lorweb_mini.show import figures, pictures, style

LOG = [
    {"step": s, "seconds": 3.0 * s, "samples": 32 * s, "loss": 1 / s, "entropy": 1.5, "usage": 2.0, "variation": 0.4}
    for s in range(1, 9)
]


@pytest.fixture(autouse=True)
def nothing_is_shown(monkeypatch: pytest.MonkeyPatch):
    def show(*args, **kwargs):
        raise AssertionError("a figure function called show")

    monkeypatch.setattr(matplotlib.pyplot, "show", show)
    yield
    assert not matplotlib.pyplot.get_fignums()


def texts(figure: Figure) -> list[str]:
    found = [t.get_text() for t in figure.findobj(lambda x: hasattr(x, "get_text"))]
    return [t for t in found if t]


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    methods = {"copy b": lambda items: as_batch(items)[2], "LoRWeB": lambda items: as_batch(items)[3] * 0.9}
    return evaluate(methods, random_analogies(), Lossless(), retrieval_limit=0, resamples=50)


def test_triplets_show_every_picture_with_its_name(tmp_path: Path) -> None:
    items = [x for part in random_analogies().values() for x in part][:5]
    results = torch.stack([x.b_prime for x in items])
    figure = pictures.triplets(items, {"one LoRA": results, "LoRWeB": results}, title="Title", errors=[0.5] * 5)
    assert len(figure.axes[0].images) == 5 * 6
    found = texts(figure)
    for name in ("a", "a′", "b", "one LoRA", "LoRWeB", "true b′", "Title", "error 0.50"):
        assert name in found
    path = style.save(figure, tmp_path / "triplets.png")
    # Random pixels are the worst case for PNG.
    assert path.stat().st_size <= style.MAX_BYTES
    with pytest.raises(InputError, match="results for 5"):
        pictures.triplets(items, results[:3])


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("tone/yellow>dark", "tone: yellow → dark"),
        ("edit/darken=0.25", "edit: darken 0.25"),
        ("edit/screen=27.7556", "edit: screen 27.8"),
        ("edit/duotone=280,80", "edit: duotone 280,80"),
        ("edit/mix=0.0031,0.9,0.5,0.25,0,0,1,0,0", "edit: mix 0.0031,0.9,0.5,…"),
        ("compose/edit/hue=90.1234+edit/flip_vertical", "edit: hue 90.1 + flip vertical"),
    ],
)
def test_labels_are_short(name: str, label: str) -> None:
    assert pictures.relation_label(name) == label


def test_a_picture_is_drawn_as_it_is(tmp_path: Path) -> None:
    items = random_analogies()["one"][:1]
    red = torch.tensor([1.0, -1.0, -1.0])[:, None, None].expand(1, 3, 64, 64)
    figure = pictures.triplets(items, red)
    x0, x1, y1, y0 = figure.axes[0].images[3].get_extent()
    x, y = (x0 + x1) / 2 / figure.get_size_inches()[0], 1 - (y0 + y1) / 2 / figure.get_size_inches()[1]
    picture = Image.open(style.save(figure, tmp_path / "one.png")).convert("RGB")
    assert picture.getpixel((int(x * picture.width), int((1 - y) * picture.height))) == (255, 0, 0)


def test_map_names_each_family_once_with_its_own_look() -> None:
    families = [f"edit/kind_{i}" for i in range(20) for _ in range(3)] + ["compose", "compose", "tone"]
    found = pca(np.random.default_rng(0).normal(size=(63, 12)))
    unseen = [name == "edit/kind_3" or i == 60 for i, name in enumerate(families)]
    figure = figures.pca_map(found, families, unseen)
    named = [text.get_text() for text in figure.legends[0].get_texts()]
    single = [f"kind {i}" + " (unseen)" * (i == 3) for i in range(20)]
    assert sorted(named) == sorted([*single, "tone", "two edits", "two edits (unseen)"])
    points = figure.axes[0].collections
    assert sum(len(part.get_offsets()) for part in points) == 63
    hollow = [len(part.get_offsets()) for part in points if not len(part.get_facecolor())]
    assert hollow == [1, 3], "of the compositions, then of the third kind"
    assert len(figures.pca_map(found, families).legends[0].get_texts()) == 22
    looks = figures.appearance([str(i) for i in range(64)])
    assert len(set(looks.values())) == 64
    axes = figure.axes[0]
    assert "variance" in axes.get_xlabel() and axes.get_ylabel() and axes.get_title("left")
    with pytest.raises(InputError, match="a family and a flag for each point"):
        figures.pca_map(found, families[:-1], unseen)
    with pytest.raises(InputError, match="a family and a flag for each point"):
        figures.pca_map(found, families, unseen[:-1])


def test_curves_are_labelled_and_refuse_what_they_lack() -> None:
    for figure in (figures.routing_curves(LOG, 16), figures.training_curves(LOG, 16)):
        for axes in figure.axes:
            assert axes.get_xlabel() and axes.get_ylabel() and axes.get_title("left")
    unrouted = [{k: v for k, v in row.items() if k not in ("entropy", "usage", "variation")} for row in LOG]
    assert isinstance(figures.training_curves(unrouted, 1), Figure)
    with pytest.raises(InputError, match="entropy"):
        figures.routing_curves(unrouted, 1)
    with pytest.raises(InputError, match="at least one row"):
        figures.training_curves([], 16)


@pytest.mark.parametrize("measure", ["error", "preserved_error", "retrieval"])
def test_error_bars_show_every_method(evaluation: Evaluation, measure: str, tmp_path: Path) -> None:
    figure = figures.error_bars(evaluation, measure)
    found = texts(figure)
    assert "LoRWeB" in found and "copy b" in found and any("interval" in t for t in found)
    assert style.save(figure, tmp_path / "bars.png").stat().st_size < style.MAX_BYTES


def test_palette_holds_no_red_and_green_pair() -> None:
    def hue(colour: str) -> float:
        return float(matplotlib.colors.rgb_to_hsv(matplotlib.colors.to_rgb(colour))[0] * 360)

    strong = [c for c in style.COLOURS if matplotlib.colors.rgb_to_hsv(matplotlib.colors.to_rgb(c))[1] > 0.2]
    assert not [c for c in strong if 75 < hue(c) < 170]


@pytest.mark.parametrize(
    "module", ["bootstrap", "evaluation", "ladders", "methods", "one_lora", "order", "probes", "space", "walking"]
)
def test_measuring_needs_no_plotting(module: str) -> None:
    source = (Path(analysis.__file__).parent / f"{module}.py").read_text(encoding="utf-8")
    assert not re.search(r"^\s*(import|from) (matplotlib|plotly|ipywidgets|anywidget)", source, re.MULTILINE)
