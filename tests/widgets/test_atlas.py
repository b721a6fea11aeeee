"""The map without a browser: the way from a place back to a mixture, and what every action shows."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from pages import fallback, grey_levels, images, part, press, with_large_weights
from PIL import Image
from tiny_models import pictures, tiny_editor

from lorweb_mini.analysis.plane import decode
from lorweb_mini.analysis.space import routing_vectors
from lorweb_mini.core.editor import Editor
from lorweb_mini.emoji.relations import Analogy, analogies, get_relation
from lorweb_mini.errors import InputError
from lorweb_mini.images import to_pil
from lorweb_mini.widgets.atlas import KINDS, SIDE, Atlas, some_of_each_family

NAMES = ["edit/hue=120", "edit/grey", "tone/yellow>dark"]


@pytest.fixture(scope="module")
def editor() -> Editor:
    made = tiny_editor()
    with_large_weights(made.base)
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
    assert "nothing had to be moved" in part(atlas, "where")
    assert len(items) == part(atlas, "plane").count("data-family")
    assert part(atlas, "card")


def test_a_drag_draws_what_the_place_decodes_to(atlas: Atlas, editor: Editor) -> None:
    before = part(atlas, "result")
    far = atlas.map.points.max(0) * 400
    press(atlas, "move", far.tolist())
    decoded = decode(atlas.map, far[None], 3)
    assert torch.equal(atlas.coefficients, decoded.coefficients[0])
    expected = editor.generate(atlas.b, decoded.coefficients[0], steps=1).image
    assert grey_levels(atlas.picture, expected) <= 1
    np.testing.assert_array_equal(images(part(atlas, "result"))[1], np.asarray(atlas.picture, int))
    assert part(atlas, "result") != before
    assert f"moved by {decoded.moved[0]:.3f}" in part(atlas, "where")
    assert f"{decoded.rows[0]:.0%} of the layers" in part(atlas, "where")
    landed = atlas.view.to_page(decoded.landed)[0]
    assert [atlas.state["cross"]["u"], atlas.state["cross"]["v"]] == pytest.approx(landed.tolist(), abs=0.06)
    press(atlas, "home")
    assert part(atlas, "result") == before


def test_a_click_edits_with_the_analogys_own_mixture(atlas: Atlas, editor: Editor, vectors: np.ndarray) -> None:
    press(atlas, "take", 7)
    own = torch.from_numpy(vectors[7]).reshape(-1, 3)
    torch.testing.assert_close(atlas.coefficients, own)
    assert grey_levels(atlas.picture, editor.generate(atlas.b, own, steps=1).image) <= 1
    assert atlas.place == pytest.approx(tuple(atlas.map.points[7]))
    departure = vectors[7].astype(float) - vectors.astype(float).mean(0)
    in_plane = atlas.map.axes @ departure
    share = (in_plane**2).sum() / (departure**2).sum()
    assert f"holds {share:.0%} of" in part(atlas, "where")


def test_looking_shows_the_four_pictures_and_draws_nothing(atlas: Atlas, items: list[Analogy]) -> None:
    before, place = part(atlas, "result"), atlas.place
    press(atlas, "look", 9)
    item = items[9]
    assert "tone: yellow → dark" in part(atlas, "card")
    for found, picture in zip(images(part(atlas, "card")), (item.a, item.a_prime, item.b, item.b_prime), strict=True):
        np.testing.assert_array_equal(found, np.asarray(to_pil(picture), int))
    assert part(atlas, "result") == before and atlas.place == place


def test_the_card_belongs_to_the_analogy_nearest_to_the_crosshair(atlas: Atlas, items: list[Analogy]) -> None:
    for index in (3, 11):
        atlas.move_to(*(atlas.map.points[index] + 1e-9))
        card = part(atlas, "card")
        atlas.look(index)
        assert part(atlas, "card") == card and f"data-value='{index}'" in card


def test_another_b_is_edited_from_now_on(atlas: Atlas, editor: Editor, items: list[Analogy]) -> None:
    atlas.take(2)
    mixture, where = atlas.coefficients, part(atlas, "where")
    press(atlas, "choose", "6")
    assert torch.equal(atlas.b, items[6].b)
    assert torch.equal(atlas.coefficients, mixture) and part(atlas, "where") == where
    assert grey_levels(atlas.picture, editor.generate(items[6].b, mixture, steps=1).image) <= 1
    atlas.choose(to_pil(pictures(1)[0]))
    assert (atlas.b - pictures(1)[0]).abs().max() < 0.01


def test_nearest_relations_are_those_whose_mean_is_nearest(atlas: Atlas, items: list[Analogy]) -> None:
    atlas.move_to(*atlas.map.points[5])
    expected = {}
    for name in NAMES:
        own = [atlas.map.points[i] for i, item in enumerate(items) if item.relation == name]
        expected[name] = float(np.linalg.norm(np.mean(own, axis=0) - atlas.map.points[5]))
    assert atlas.nearest_relations() == pytest.approx(dict(sorted(expected.items(), key=lambda pair: pair[1])))
    assert list(atlas.nearest_relations(1)) == [min(expected, key=expected.__getitem__)]


def test_what_lies_on_the_map(atlas: Atlas, editor: Editor, items: list[Analogy], vectors: np.ndarray) -> None:
    truth = images(part(atlas, "pictures"))
    assert 1 <= len(truth) <= len(items)
    assert atlas.state["chosen"]["show"] == "truth"
    kinds = {}
    for kind in KINDS:
        press(atlas, "show", kind)
        assert atlas.state["chosen"]["show"] == kind
        kinds[kind] = part(atlas, "pictures")
    assert kinds["points"] == "" and len(set(kinds.values())) == 4
    assert {len(images(kinds[kind])) for kind in ("truth", "edited", "chosen")} == {len(truth)}
    # The first that is kept is the first analogy of all.
    mixture = torch.from_numpy(vectors[0]).reshape(-1, 3)
    drawn = editor.generate(items[0].b, mixture, steps=1).image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(images(kinds["edited"])[0], np.asarray(drawn, int))
    press(atlas, "show", "chosen")
    press(atlas, "choose", 8)
    assert part(atlas, "pictures") != kinds["chosen"]


def test_a_family_stands_out_until_it_is_pressed_again(atlas: Atlas) -> None:
    assert part(atlas, "legend").count("<button") == 3
    press(atlas, "highlight", "tone")
    assert atlas.state["chosen"]["highlight"] == "tone"
    press(atlas, "highlight", "tone")
    assert atlas.state["chosen"]["highlight"] == ""


def test_everything_is_labelled(atlas: Atlas) -> None:
    page = atlas.frame
    for section in re.findall(r"<section[^>]*>", page) + re.findall(r'<div role="toolbar"[^>]*>', page):
        assert "aria-label=" in section
    assert 'tabindex="0"' in page and "arrow keys" in page and "running kernel" in page
    assert "first component" in part(atlas, "plane") and "second component" in part(atlas, "plane")
    assert all("alt=''" not in tag for tag in re.findall(r"<img[^>]*>", part(atlas, "result") + part(atlas, "card")))


def test_without_a_kernel_an_atlas_is_shown(atlas: Atlas) -> None:
    fallback(atlas, 600, 1_200_000)


def test_the_static_atlas_edits_b_by_every_place(atlas: Atlas, editor: Editor) -> None:
    atlas.choose(pictures(1)[0])
    plane, view = atlas.map, atlas.view
    figure = atlas.fallback(columns=4)
    left, right, corner = figure.axes
    rows = round(4 * view.height / view.width)
    assert len(right.images) == 4 * rows
    first = right.images[0]
    x0, x1, y0, y1 = first.get_extent()
    place = np.array([[(x0 + x1) / 2, (y0 + y1) / 2]])
    # In a batch of as many places, as the atlas draws them: sums of another batch may round to another grey level.
    batch = decode(plane, np.repeat(place, len(right.images), 0), 3).coefficients
    expected = to_pil(editor.generate(atlas.b.expand(len(batch), -1, -1, -1), batch, steps=1).pictures[0])
    np.testing.assert_array_equal(
        np.asarray(first.get_array()), np.asarray(expected.resize((128, 128), Image.Resampling.LANCZOS))
    )
    cell = (view.x1 - view.x0) / 4
    for image in right.images:
        x0, x1, y0, y1 = image.get_extent()
        middle = np.array([(x0 + x1) / 2, (y0 + y1) / 2])
        close = any(np.abs(point - middle).max() <= cell for point in plane.points)
        assert image.get_alpha() == (1.0 if close else 0.3)
    assert left.get_xlim() == right.get_xlim() and "variance" in left.get_xlabel()
    assert any("running kernel" in text.get_text() for text in figure.texts)
    np.testing.assert_array_equal(np.asarray(corner.images[0].get_array()), np.asarray(to_pil(atlas.b)))
    names = [text.get_text() for text in figure.legends[0].texts]
    assert names == ["edit: hue", "edit: grey", "tone"]


# --- what it refuses ------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [{"layout": "tokens"}, {"layout": "tokens", "routed": False}])
def test_an_editor_whose_mixture_does_not_say_what_to_draw(items: list[Analogy], wrong: dict) -> None:
    with pytest.raises(InputError, match="a router and the layout 'b'"):
        Atlas(tiny_editor(**wrong), items)


def test_vectors_belong_to_items(editor: Editor, items: list[Analogy], vectors: np.ndarray) -> None:
    with pytest.raises(InputError, match="a routing vector for each of 11 items, got 12"):
        Atlas(editor, items[:-1], vectors=vectors)
    with pytest.raises(InputError, match="at least 2"):
        Atlas(editor, items[:1])


def test_bad_actions(atlas: Atlas) -> None:
    for call, message in (
        (lambda: atlas.look(12), "from 0 to 11, got 12"),
        (lambda: atlas.take(-1), "from 0 to 11, got -1"),
        (lambda: atlas.take(True), "from 0 to 11, got True"),
        (lambda: atlas.look(1.5), "from 0 to 11, got 1.5"),
        (lambda: atlas.move_to(float("nan"), 0), "expected finite places"),
        (lambda: atlas.show("nothing"), "expected one of truth"),
        (lambda: atlas.highlight("moon"), "expected a family on the map"),
        (lambda: atlas.choose(3), "expected a path, PIL picture"),
    ):
        with pytest.raises(InputError, match=message):
            call()
