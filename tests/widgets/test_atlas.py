"""The map without a browser: the way from a place back to a mixture, and what every action shows."""

from __future__ import annotations

import base64
import io
import itertools
import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.optimize import brentq, minimize
from tiny_models import pictures, tiny_editor
from torch import Tensor

from lorweb_mini.algebra import Map, pca
from lorweb_mini.analysis.space import routing_vectors
from lorweb_mini.core.editor import Editor
from lorweb_mini.emoji.relations import Analogy, analogies, get_relation
from lorweb_mini.errors import InputError
from lorweb_mini.images import to_pil
from lorweb_mini.widgets.atlas import (
    KINDS,
    SIDE,
    Atlas,
    atlas_figure,
    decode,
    onto_simplex,
    some_of_each_family,
    thin,
    view_of,
)

NAMES = ["edit/hue=120", "edit/grey", "tone/yellow>dark"]
SOURCE = re.compile(r"src='data:image/png;base64,([^']+)'")


def shown(html: str) -> list[np.ndarray]:
    files = (io.BytesIO(base64.b64decode(source)) for source in SOURCE.findall(html))
    return [np.asarray(Image.open(file).convert("RGB"), int) for file in files]


def alike(x: Image.Image, y: Image.Image) -> bool:
    """Two renderers may round to neighbouring grey levels."""
    return bool(np.abs(np.asarray(x, int) - np.asarray(y, int)).max() <= 1)


def press(atlas: Atlas, ask: str, value: object = None) -> None:
    """The message that the page sends."""
    atlas.panel._handle_custom_msg({"ask": ask, "value": value}, [])


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
def items() -> list[Analogy]:
    return analogies("test", NAMES, n=4)


@pytest.fixture(scope="module")
def vectors(editor: Editor, items: list[Analogy]) -> np.ndarray:
    return routing_vectors(editor, items)


@pytest.fixture
def atlas(editor: Editor, items: list[Analogy], vectors: np.ndarray) -> Atlas:
    return Atlas(editor, items, vectors=vectors, steps=1)


# --- the simplex ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "nearest"),
    [
        ([0.2, 0.3, 0.5], [0.2, 0.3, 0.5]),
        ([2.0, 0.0, 0.0], [1.0, 0.0, 0.0]),
        ([0.6, 0.6, -0.2], [0.5, 0.5, 0.0]),
        ([7.0, 7.0, 7.0, 7.0], [0.25, 0.25, 0.25, 0.25]),
        ([0.0, 0.0], [0.5, 0.5]),
        ([-5.0], [1.0]),
        ([1.1, -0.1], [1.0, 0.0]),
        ([1e12, 0.0], [1.0, 0.0]),
    ],
)
def test_known_points_of_the_simplex(x: list[float], nearest: list[float]) -> None:
    assert onto_simplex(torch.tensor(x)).tolist() == pytest.approx(nearest, abs=1e-6)


def _threshold(x: np.ndarray) -> np.ndarray:
    """The θ at which max(x − θ, 0) sums to 1, by looking for a root in place of sorting."""
    theta = brentq(lambda theta: np.maximum(x - theta, 0).sum() - 1, x.min() - 1, x.max())
    return np.maximum(x - theta, 0)


def test_the_projection_against_root_finding() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5, 8, 6)) * rng.choice([0.1, 1, 10], size=(5, 8, 1))
    found = onto_simplex(torch.from_numpy(x))
    assert found.shape == x.shape and (found >= 0).all()
    for index in itertools.product(range(5), range(8)):
        np.testing.assert_allclose(found[index], _threshold(x[index]), atol=1e-9)


def test_the_projection_against_a_solver_that_knows_only_the_constraints() -> None:
    rng = np.random.default_rng(1)
    for x in rng.normal(size=(6, 5)):
        solved = minimize(
            lambda c, x=x: ((c - x) ** 2).sum(),
            np.full(5, 0.2),
            jac=lambda c, x=x: 2 * (c - x),
            bounds=[(0, None)] * 5,
            constraints={"type": "eq", "fun": lambda c: c.sum() - 1},
            method="SLSQP",
            options={"ftol": 1e-14},
        )
        np.testing.assert_allclose(onto_simplex(torch.from_numpy(x)), solved.x, atol=1e-5)


def test_no_point_of_the_simplex_is_nearer() -> None:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(50, 7, generator=generator, dtype=torch.float64)
    nearest = onto_simplex(x)
    others = torch.rand(400, 7, generator=generator, dtype=torch.float64).log().mul(3).softmax(-1)
    apart = (x[:, None] - others).norm(dim=-1).amin(1)
    assert (apart >= (x - nearest).norm(dim=-1)).all()
    torch.testing.assert_close(onto_simplex(nearest), nearest)
    torch.testing.assert_close(onto_simplex(x + 3.5), nearest)
    assert onto_simplex(x.float()).dtype == torch.float32


@pytest.mark.parametrize("x", [torch.tensor(1.0), torch.zeros(3, 0), torch.tensor([0.0, float("nan")])])
def test_what_has_no_projection(x: Tensor) -> None:
    with pytest.raises(InputError, match=r"expected finite numbers .* got"):
        onto_simplex(x)


# --- from the plane to a mixture ------------------------------------------------------------------

N, LAYERS = 4, 3


def plane(k: int = 30) -> tuple[np.ndarray, Map]:
    """Mixtures of 3 layers × 4 that lie in a plane, and their map."""
    rng = np.random.default_rng(3)
    ends = rng.dirichlet(np.ones(N), size=(3, LAYERS)).reshape(3, -1)
    vectors = rng.dirichlet(np.ones(3), size=k) @ ends
    return vectors, pca(vectors)


def test_a_mixture_in_the_plane_comes_back_unmoved() -> None:
    vectors, found = plane()
    decoded = decode(found, found.points, N)
    np.testing.assert_allclose(decoded.coefficients.flatten(1), vectors, atol=1e-6)
    np.testing.assert_allclose(decoded.landed, found.points, atol=1e-8)
    np.testing.assert_allclose(decoded.moved, 0, atol=1e-8)
    assert (decoded.rows == 0).all()


def test_a_place_beyond_is_decoded_as_a_loop_does_it() -> None:
    _, found = plane()
    places = np.array([[0.0, 0.0], [2.0, -1.0], [-0.6, 0.4]])
    decoded = decode(found, places, N)
    assert decoded.coefficients.shape == (3, LAYERS, N) and decoded.coefficients.dtype == torch.float32
    for i, (x, y) in enumerate(places):
        raw = found.centre + x * found.axes[0] + y * found.axes[1]
        rows = [_threshold(raw[layer * N : (layer + 1) * N]) for layer in range(LAYERS)]
        np.testing.assert_allclose(decoded.coefficients[i], rows, atol=1e-6)
        assert decoded.moved[i] == pytest.approx(np.linalg.norm(np.concatenate(rows) - raw), abs=1e-8)
        outside = [raw[layer * N : (layer + 1) * N].min() < -1e-9 for layer in range(LAYERS)]
        assert decoded.rows[i] == pytest.approx(np.mean(outside))
        np.testing.assert_allclose(decoded.landed[i], found.axes[:2] @ (np.concatenate(rows) - found.centre), atol=1e-9)
    assert decoded.moved[0] < 1e-8 and decoded.rows[1] > 0.5


@pytest.mark.parametrize("places", [[0.0, 1.0], [[0.0, 1.0, 2.0]], [[0.0, float("nan")]]])
def test_places_that_are_none(places: list) -> None:
    with pytest.raises(InputError, match="expected finite places"):
        decode(plane()[1], np.array(places), N)


def test_a_map_of_something_else() -> None:
    with pytest.raises(InputError, match="a map with two components"):
        decode(plane()[1], np.zeros((1, 2)), 5)
    with pytest.raises(InputError, match="a map with two components"):
        decode(pca(plane()[0], 1), np.zeros((1, 2)), N)


def test_thinned_squares_do_not_overlap_and_none_could_be_added() -> None:
    places = np.random.default_rng(4).uniform(0, 10, size=(200, 2))
    order = list(range(199, -1, -1))
    kept = thin(places, 1.0, order)
    assert kept[0] == 199 and 20 < len(kept) < 100

    def overlap(i: int, j: int) -> bool:
        return abs(places[i, 0] - places[j, 0]) < 1 and abs(places[i, 1] - places[j, 1]) < 1

    assert not any(overlap(i, j) for i, j in itertools.combinations(kept, 2))
    assert all(any(overlap(i, j) for j in kept) for i in range(200) if i not in kept)
    assert thin(places, 0.0) == list(range(200))


@pytest.mark.parametrize("stretch", [(1, 1), (30, 1), (1, 30), (0, 0)])
def test_the_view_holds_all_points_at_one_scale(stretch: tuple[float, float]) -> None:
    points = np.random.default_rng(5).normal(size=(40, 2)) * stretch
    view = view_of(points)
    page = view.to_page(points)
    assert (page[:, 0] >= view.left).all() and (page[:, 0] <= view.left + view.width).all()
    assert (page[:, 1] >= view.top).all() and (page[:, 1] <= view.top + view.height).all()
    corners = view.to_page(np.array([[view.x0, view.y1], [view.x1, view.y0]]))
    np.testing.assert_allclose(corners, [[view.left, view.top], [view.left + view.width, view.top + view.height]])
    assert view.width / (view.x1 - view.x0) == pytest.approx(view.height / (view.y1 - view.y0))


def test_every_family_has_its_share_of_a_map_of_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = {name: get_relation(name) for name in (*NAMES, "tone/yellow>light", "edit/hue=240")}
    monkeypatch.setattr("lorweb_mini.widgets.atlas.relations", lambda: chosen)
    found = some_of_each_family(each=3)
    count = {family: sum(get_relation(x.relation).family == family for x in found) for family in ("edit/hue", "tone")}
    assert count == {"edit/hue": 3, "tone": 3} and len(found) == 9
    assert {x.relation for x in found} == set(chosen)
    assert all(x.split == "test" for x in found)


# --- the page -------------------------------------------------------------------------------------


def test_it_begins_at_the_mean_mixture(atlas: Atlas, vectors: np.ndarray, items: list[Analogy]) -> None:
    assert atlas.place == (0, 0)
    np.testing.assert_allclose(atlas.coefficients.flatten(), vectors.mean(0), atol=1e-6)
    assert torch.equal(atlas.b, items[0].b)
    assert "nothing had to be moved" in atlas.panel.where
    assert len(atlas.panel.points) == len(items) == atlas.panel.plane.count("data-family")
    assert atlas.panel.card


def test_a_drag_draws_what_the_place_decodes_to(atlas: Atlas, editor: Editor) -> None:
    before = atlas.panel.result
    far = atlas.found.points.max(0) * 400
    press(atlas, "move", far.tolist())
    decoded = decode(atlas.found, far[None], 3)
    assert torch.equal(atlas.coefficients, decoded.coefficients[0])
    expected = editor.generate(atlas.b, decoded.coefficients[0], steps=1).image
    assert alike(atlas.picture, expected)
    np.testing.assert_array_equal(shown(atlas.panel.result)[1], np.asarray(atlas.picture, int))
    assert atlas.panel.result != before
    assert f"moved by {decoded.moved[0]:.3f}" in atlas.panel.where
    assert f"{decoded.rows[0]:.0%} of the layers" in atlas.panel.where
    landed = atlas.view.to_page(decoded.landed)[0]
    assert [atlas.panel.cross["u"], atlas.panel.cross["v"]] == pytest.approx(landed.tolist(), abs=0.06)
    press(atlas, "home")
    assert atlas.panel.result == before


def test_the_hand_may_bring_another_renderer(editor: Editor, items: list[Analogy], vectors: np.ndarray) -> None:
    seen: list[Tensor] = []
    asked: list[Tensor] = []

    def renderer(b: Tensor) -> Callable[[Tensor], Tensor]:
        seen.append(b)
        return lambda coefficients: asked.append(coefficients) or torch.full((3, 64, 64), len(seen) / 4)

    b = pictures(1)[0]
    atlas = Atlas(editor, items, b, vectors, renderer=renderer)
    atlas.move_to(0.01, 0.02)
    assert len(asked) == 2 and torch.equal(asked[1], atlas.coefficients)
    assert (shown(atlas.panel.result)[1] == 159).all()
    atlas.choose(items[3].b)
    assert torch.equal(seen[0], b) and torch.equal(seen[1], items[3].b)
    assert (shown(atlas.panel.result)[1] == 191).all()


def test_a_click_edits_with_the_analogys_own_mixture(atlas: Atlas, editor: Editor, vectors: np.ndarray) -> None:
    press(atlas, "take", 7)
    own = torch.from_numpy(vectors[7]).reshape(-1, 3)
    torch.testing.assert_close(atlas.coefficients, own)
    assert alike(atlas.picture, editor.generate(atlas.b, own, steps=1).image)
    assert atlas.place == pytest.approx(tuple(atlas.found.points[7]))
    departure = vectors[7].astype(float) - vectors.astype(float).mean(0)
    in_plane = atlas.found.axes @ departure
    share = (in_plane**2).sum() / (departure**2).sum()
    assert f"holds {share:.0%} of" in atlas.panel.where


def test_looking_shows_the_four_pictures_and_draws_nothing(atlas: Atlas, items: list[Analogy]) -> None:
    before, place = atlas.panel.result, atlas.place
    press(atlas, "look", 9)
    item = items[9]
    assert "tone: yellow → dark" in atlas.panel.card
    for found, picture in zip(shown(atlas.panel.card), (item.a, item.a_prime, item.b, item.b_prime), strict=True):
        np.testing.assert_array_equal(found, np.asarray(to_pil(picture), int))
    assert atlas.panel.result == before and atlas.place == place


def test_the_card_belongs_to_the_analogy_nearest_to_the_crosshair(atlas: Atlas, items: list[Analogy]) -> None:
    for index in (3, 11):
        atlas.move_to(*(atlas.found.points[index] + 1e-9))
        card = atlas.panel.card
        atlas.look(index)
        assert atlas.panel.card == card and f"data-value='{index}'" in card


def test_another_b_is_edited_from_now_on(atlas: Atlas, editor: Editor, items: list[Analogy]) -> None:
    atlas.take(2)
    mixture, where = atlas.coefficients, atlas.panel.where
    press(atlas, "choose", "6")
    assert torch.equal(atlas.b, items[6].b)
    assert torch.equal(atlas.coefficients, mixture) and atlas.panel.where == where
    assert alike(atlas.picture, editor.generate(items[6].b, mixture, steps=1).image)
    atlas.choose(to_pil(pictures(1)[0]))
    assert (atlas.b - pictures(1)[0]).abs().max() < 0.01


def test_nearest_relations_are_those_whose_mean_is_nearest(atlas: Atlas, items: list[Analogy]) -> None:
    atlas.move_to(*atlas.found.points[5])
    expected = {}
    for name in NAMES:
        own = [atlas.found.points[i] for i, item in enumerate(items) if item.relation == name]
        expected[name] = float(np.linalg.norm(np.mean(own, axis=0) - atlas.found.points[5]))
    assert atlas.nearest_relations() == pytest.approx(dict(sorted(expected.items(), key=lambda pair: pair[1])))
    assert list(atlas.nearest_relations(1)) == [min(expected, key=expected.__getitem__)]


def test_what_lies_on_the_map(atlas: Atlas, editor: Editor, items: list[Analogy], vectors: np.ndarray) -> None:
    truth = shown(atlas.panel.pictures)
    assert 1 <= len(truth) <= len(items)
    assert atlas.panel.chosen["show"] == "truth"
    kinds = {}
    for kind in KINDS:
        press(atlas, "show", kind)
        assert atlas.panel.chosen["show"] == kind
        kinds[kind] = atlas.panel.pictures
    assert kinds["points"] == "" and len(set(kinds.values())) == 4
    assert {len(shown(kinds[kind])) for kind in ("truth", "edited", "chosen")} == {len(truth)}
    # The first that is kept is the first analogy of all.
    mixture = torch.from_numpy(vectors[0]).reshape(-1, 3)
    drawn = editor.generate(items[0].b, mixture, steps=1).image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(shown(kinds["edited"])[0], np.asarray(drawn, int))
    press(atlas, "show", "chosen")
    press(atlas, "choose", 8)
    assert atlas.panel.pictures != kinds["chosen"]


def test_a_family_stands_out_until_it_is_pressed_again(atlas: Atlas) -> None:
    assert atlas.panel.legend.count("<button") == 3
    press(atlas, "highlight", "tone")
    assert atlas.panel.chosen["highlight"] == "tone"
    press(atlas, "highlight", "tone")
    assert atlas.panel.chosen["highlight"] == ""


def test_the_page_hears_that_the_kernel_lives(atlas: Atlas, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[dict] = []
    monkeypatch.setattr(atlas.panel, "send", lambda content, buffers=None: said.append(content))
    for ask, value in (("alive", None), ("move", [0.1, 0.1]), ("look", 1), ("take", 1), ("home", None)):
        press(atlas, ask, value)
    assert [message["answered"] for message in said] == ["alive", "move", "look", "take", "home"]


def test_everything_is_labelled(atlas: Atlas) -> None:
    page = atlas.panel.frame
    for section in re.findall(r"<section[^>]*>", page) + re.findall(r"<div role='toolbar'[^>]*>", page):
        assert "aria-label=" in section
    assert "tabindex='0'" in page and "arrow keys" in page and "running kernel" in page and "role='alert'" in page
    assert "first component" in atlas.panel.plane and "second component" in atlas.panel.plane
    assert all("alt=''" not in tag for tag in re.findall(r"<img[^>]*>", atlas.panel.result + atlas.panel.card))


def test_without_a_kernel_an_atlas_is_shown(atlas: Atlas) -> None:
    bundle, metadata = atlas._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert Image.open(io.BytesIO(base64.b64decode(bundle["image/png"]))).width > 600
    assert len(bundle["image/png"]) < 900_000
    assert "running kernel" in metadata["image/png"]["alt"] == bundle["text/plain"]


def test_the_static_atlas_edits_b_by_every_place(editor: Editor, items: list[Analogy], vectors: np.ndarray) -> None:
    found, b = pca(vectors), pictures(1)[0]
    families = [get_relation(x.relation).family for x in items]
    figure = atlas_figure(editor, found, families, b, columns=4, steps=1, note="a note")
    left, right, corner = figure.axes
    view = view_of(found.points)
    rows = round(4 * view.height / view.width)
    assert len(right.images) == 4 * rows
    first = right.images[0]
    x0, x1, y0, y1 = first.get_extent()
    place = np.array([[(x0 + x1) / 2, (y0 + y1) / 2]])
    expected = editor.generate(b, decode(found, place, 3).coefficients, steps=1).image
    np.testing.assert_array_equal(
        np.asarray(first.get_array()), np.asarray(expected.resize((128, 128), Image.Resampling.LANCZOS))
    )
    cell = (view.x1 - view.x0) / 4
    for image in right.images:
        x0, x1, y0, y1 = image.get_extent()
        middle = np.array([(x0 + x1) / 2, (y0 + y1) / 2])
        close = any(np.abs(point - middle).max() <= cell for point in found.points)
        assert image.get_alpha() == (1.0 if close else 0.3)
    assert left.get_xlim() == right.get_xlim() and "variance" in left.get_xlabel()
    assert "a note" in [text.get_text() for text in figure.texts]
    np.testing.assert_array_equal(np.asarray(corner.images[0].get_array()), np.asarray(to_pil(b)))
    names = [text.get_text() for text in figure.legends[0].texts]
    assert names == ["edit: hue", "edit: grey", "tone"]


# --- what it refuses ------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [{"layout": "tokens"}, {"layout": "tokens", "routed": False}])
def test_an_editor_whose_mixture_does_not_say_what_to_draw(items: list[Analogy], wrong: dict) -> None:
    with pytest.raises(InputError, match="a router and the layout 'b'"):
        Atlas(tiny_editor(**wrong), items)


def test_vectors_and_families_belong_to_items(editor: Editor, items: list[Analogy], vectors: np.ndarray) -> None:
    with pytest.raises(InputError, match="a routing vector for each of 11 items, got 12"):
        Atlas(editor, items[:-1], vectors=vectors)
    with pytest.raises(InputError, match="a family for each of 12 points, got 1"):
        atlas_figure(editor, pca(vectors), ["tone"], items[0].b)
    with pytest.raises(InputError, match="at least 2"):
        Atlas(editor, items[:1])


def test_bad_actions(atlas: Atlas) -> None:
    for call, message in (
        (lambda: atlas.look(12), "from 0 to 11, got 12"),
        (lambda: atlas.take(-1), "from 0 to 11, got -1"),
        (lambda: atlas.move_to(float("nan"), 0), "expected finite places"),
        (lambda: atlas.show("nothing"), "expected one of truth"),
        (lambda: atlas.highlight("moon"), "expected a family on the map"),
        (lambda: atlas.choose(3), "expected a path, PIL picture"),
        (lambda: atlas._answer({"ask": "dance"}), "got 'dance'"),
        (lambda: atlas._answer({"ask": "move", "value": [1]}), "got 'move'"),
    ):
        with pytest.raises(InputError, match=message):
            call()
