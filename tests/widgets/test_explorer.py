"""The explorer's logic without a browser: what is asked, how it is judged, what every control changes and refuses."""

from __future__ import annotations

import functools
import io
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from pages import SOURCE, ask, fallback, images, part, press
from PIL import Image
from tiny_models import pictures, tiny_editor
from torch import Tensor

from lorweb_mini.core.editor import Editor
from lorweb_mini.emoji.relations import Analogy, analogies, get_relation, relations
from lorweb_mini.emoji.sheets import STYLES, load_emoji
from lorweb_mini.errors import InputError
from lorweb_mini.images import read_image, to_pil
from lorweb_mini.widgets import explorer as module
from lorweb_mini.widgets.browser import PAGE
from lorweb_mini.widgets.explorer import Explorer
from lorweb_mini.widgets.explorer_html import heat_map, mixture_html, neighbours_html, static
from lorweb_mini.widgets.questions import (
    NAMES,
    Slot,
    drawn,
    known_relations,
    nearest,
    paint,
    read_upload,
    relation_means,
    slots_of,
    solve,
    true_answers,
)

FEW = ["edit/hue=120", "tone/yellow>dark", "style/noto>twemoji"]
SORTS = [*FEW, "role/astronaut", "compose/gender/man>woman+tone/yellow>dark", "compose/edit/invert+edit/blur=4"]


@pytest.fixture(scope="module")
def editor() -> Editor:
    return tiny_editor()


@pytest.fixture
def explorer(editor: Editor) -> Explorer:
    made = Explorer(editor, relations=FEW)
    made.set(steps=1)
    return made


def one(relation: str) -> Analogy:
    return next(x for split in ("test", "val", "train") for x in analogies(split, relation, n=1))


def file_of(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def shown(explorer: Explorer) -> dict[str, str]:
    """The pictures on the page by name: their HTML."""
    page = part(explorer, "slots") + part(explorer, "answer")
    return {x[1]: x[0] for x in re.finditer(r"data-shown='(\w+)'.*?</(?:button|figure)>", page, re.S)}


def pixels(explorer: Explorer, name: str) -> np.ndarray:
    return images(shown(explorer)[name])[0]


# --- what is asked --------------------------------------------------------------------------------


@pytest.mark.parametrize("relation", SORTS)
def test_slots_know_where_the_pictures_of_an_analogy_come_from(relation: str) -> None:
    item = one(relation)
    slots = slots_of(item)
    assert list(slots) == list(NAMES)
    for name, picture in (("a", item.a), ("a_prime", item.a_prime), ("b", item.b)):
        slot = slots[name]
        assert torch.equal(slot.picture, picture)
        assert slot.drawing is not None
        again = load_emoji().tensor(*slot.drawing)
        assert torch.equal(get_relation(relation).apply_edits(again)[0] if slot.edits else again[0], picture)
    assert slots["a"].edits == slots["b"].edits == ()


def test_the_relations_of_a_pair_are_those_that_a_naive_search_finds() -> None:
    asked = {name: slots_of(one(name)) for name in SORTS}
    expected: dict[str, list[str]] = {name: [] for name in SORTS}
    for other, relation in relations().items():
        rows = {tuple(row) for row in relation.all_pairs.tolist()}
        for name, slots in asked.items():
            pair = (*(slots["a"].drawing or ()), *(slots["a_prime"].drawing or ()))
            if pair in rows and relation.edits == slots["a_prime"].edits:
                expected[name].append(other)
    for name, slots in asked.items():
        assert name in expected[name]
        assert known_relations(slots["a"], slots["a_prime"]) == expected[name]


def test_a_pair_may_belong_to_two_relations() -> None:
    row = next(
        row
        for row in get_relation("rotate/180deg").all_pairs.tolist()
        if row in get_relation("hand/up>down").all_pairs.tolist()
    )
    found = known_relations(drawn(*row[:2]), drawn(*row[2:]))
    assert {"rotate/180deg", "hand/up>down"} <= set(found)


def test_pictures_of_ones_own_and_edited_beginnings_are_of_no_relation() -> None:
    slots = slots_of(one("edit/hue=120"))
    own = Slot(slots["a"].picture, "mine")
    assert known_relations(own, slots["a_prime"]) == known_relations(slots["a"], own) == []
    assert known_relations(slots["a_prime"], slots["a"]) == []
    assert true_answers(["edit/hue=120"], own) == true_answers(["edit/hue=120"], slots["a_prime"]) == []
    same = drawn(*slots["a"].drawing)
    assert known_relations(same, same) == []


@pytest.mark.parametrize("relation", SORTS)
def test_the_true_answer_is_the_analogys(relation: str) -> None:
    item = one(relation)
    ((name, picture),) = true_answers([relation], slots_of(item)["b"])
    assert name == relation and torch.equal(picture, item.b_prime)


def test_answers_that_look_like_b_or_like_each_other_are_left_out() -> None:
    waving = load_emoji().find("waving hand")
    assert true_answers(["tone/yellow>dark"], drawn(waving, STYLES.index("openmoji_black"))) == []
    assert len(true_answers(["tone/yellow>dark"] * 3, drawn(waving, 0))) == 1
    assert true_answers(["tone/yellow>dark"], drawn(load_emoji().find("fire"), 0)) == []


def test_several_true_answers_are_all_found() -> None:
    rows = get_relation("size/large>small").all_pairs
    starts, counts = np.unique(rows[:, :2], axis=0, return_counts=True)
    first = starts[counts.argmax()]
    assert counts.max() > 1
    expected = rows[(rows[:, :2] == first).all(1)]
    found = true_answers(["size/large>small"], drawn(*first.tolist()))
    assert 1 < len(found) <= len(expected)
    known = load_emoji().tensor(expected[:, 2], expected[:, 3])
    assert all(any(torch.equal(picture, x) for x in known) for _, picture in found)


# --- uploads and strokes --------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_an_upload_is_read_as_the_picture_itself(form: str) -> None:
    content = file_of(to_pil(pictures(1)[0]).resize((300, 200)), form)
    assert torch.equal(read_upload(content, "b"), read_image(Image.open(io.BytesIO(content)), "b"))


def test_transparency_falls_on_white() -> None:
    content = file_of(Image.new("RGBA", (10, 10), (255, 0, 0, 0)))
    assert bool((read_upload(content, "b") == 1).all())


@functools.cache
def broken_files() -> dict[str, bytes]:
    whole = file_of(to_pil(pictures(1)[0]))
    return {
        "empty": b"",
        "text": b"no picture, just words",
        "cut": whole[: len(whole) // 2],
        "damaged": whole[:200] + bytes(300) + whole[500:],
        "head": whole[:8],
        "huge": file_of(Image.new("1", (9000, 9000))),
        "bomb": file_of(Image.new("1", (14000, 14000))),
    }


BROKEN = list(broken_files())


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_is_refused_in_words(kind: str) -> None:
    with pytest.raises(InputError, match=r"^a′: expected .*; got") as caught:
        read_upload(broken_files()[kind], "a′")
    assert len(str(caught.value)) < 200


def test_a_dot_is_a_disc_of_the_pens_colour() -> None:
    before = pictures(1)[0]
    kept = before.clone()
    after = paint(before, [[20.0, 30.0]], "#D55E00", 12)
    assert torch.equal(before, kept)
    y, x = torch.meshgrid(torch.arange(64) + 0.5, torch.arange(64) + 0.5, indexing="ij")
    distance = ((x - 20) ** 2 + (y - 30) ** 2).sqrt()
    ink = torch.tensor([0xD5, 0x5E, 0x00]).view(3, 1, 1) / 127.5 - 1
    inside, outside = distance < 4.8, distance > 7.2
    torch.testing.assert_close(after[:, inside], ink.flatten(1).expand(3, int(inside.sum())))
    assert torch.equal(after[:, outside], before[:, outside])
    covered = paint(torch.ones(3, 64, 64), [[20, 30]], "#000000", 12)[0].sub(1).div(-2).sum()
    assert float(covered) == pytest.approx(math.pi * 36, rel=0.12)


def test_a_stroke_covers_its_way_and_a_point_outside_is_harmless() -> None:
    white = torch.ones(3, 64, 64)
    line = paint(white, [[8, 8], [8, 56], [56, 56]], "#000000", 4)
    assert bool((line[:, 8:56, 8] == -1).all() and (line[:, 56, 8:56] == -1).all())
    assert bool((line[:, :50, 14:] == 1).all())
    through = paint(white, [[32, 32], [1e9, 32]], "#000000", 4)
    assert bool((through[:, 32, 33:] == -1).all() and (through[:, :, :28] == 1).all())


@pytest.mark.parametrize(
    ("points", "colour", "size"),
    [
        ([], "#000000", 3),
        ([[1, 2, 3]], "#000000", 3),
        ([[1, float("nan")]], "#000000", 3),
        ([["1", 2]], "#000000", 3),
        ([1, 2], "#000000", 3),
        ([[1, 2]] * 10_001, "#000000", 3),
        ([[1, 2]], "black", 3),
        ([[1, 2]], 0, 3),
        ([[1, 2]], "#000000", 0),
        ([[1, 2]], "#000000", 25),
        ([[1, 2]], "#000000", True),
    ],
)
def test_strokes_that_are_refused(points: Any, colour: Any, size: Any) -> None:
    with pytest.raises(InputError, match=r"expected .* got"):
        paint(torch.ones(3, 64, 64), points, colour, size)


# --- what is answered -----------------------------------------------------------------------------


def by_hand(editor: Editor, result: Tensor, b: Tensor, b_prime: Tensor) -> float:
    """Normalised error, written out."""
    with torch.no_grad():
        b, b_prime = (editor.autoencoder.to_picture(editor.autoencoder.to_latent(x[None]))[0] for x in (b, b_prime))
    return float((result - b_prime).pow(2).sum() / (b - b_prime).pow(2).sum())


@pytest.mark.parametrize("relation", SORTS)
def test_an_answer_is_the_editors_and_is_judged_against_the_truth(editor: Editor, relation: str) -> None:
    item = one(relation)
    found = solve(editor, slots_of(item), steps=2, seed=3)
    result = editor.edit(item.a, item.a_prime, item.b, steps=2, seed=3)
    assert torch.equal(found.picture, result.pictures[0])
    assert torch.equal(found.coefficients, result.coefficients[0])
    assert relation in found.names and found.relation in found.names
    assert found.truth is not None
    assert found.error == pytest.approx(by_hand(editor, found.picture, item.b, found.truth), rel=1e-4)
    if found.truths == 1:
        assert torch.equal(found.truth, item.b_prime)


def test_of_several_truths_the_nearest_counts(editor: Editor) -> None:
    rows = get_relation("size/large>small").all_pairs
    starts, counts = np.unique(rows[:, :2], axis=0, return_counts=True)
    b = drawn(*starts[counts.argmax()].tolist())
    slots = {"a": drawn(*rows[0, :2].tolist()), "a_prime": drawn(*rows[0, 2:].tolist()), "b": b}
    found = solve(editor, slots, steps=1)
    truths = [picture for _, picture in true_answers(found.names, b)]
    errors = [by_hand(editor, found.picture, b.picture, x) for x in truths]
    assert found.truths == len(truths) > 1
    assert found.error == pytest.approx(min(errors), rel=1e-4)
    assert torch.equal(found.truth, truths[int(np.argmin(errors))])


def test_without_a_known_truth_there_is_no_error(editor: Editor) -> None:
    slots = slots_of(one("edit/hue=120"))
    for changed in ({"a": Slot(slots["a"].picture, "mine")}, {"b": Slot(slots["b"].picture, "mine")}):
        found = solve(editor, {**slots, **changed}, steps=1)
        assert found.truth is None and found.relation is None and math.isnan(found.error)


def test_means_against_a_loop(editor: Editor) -> None:
    found = relation_means(editor, FEW, n=3, seed=4)
    assert list(found) == FEW
    for name, mean in found.items():
        items = analogies("train", name, seed=4, n=3)
        rows = [editor.route(x.a, x.a_prime, x.b).flatten() for x in items]
        assert mean.shape == (len(editor.basis.layers) * editor.config.n_loras,)
        np.testing.assert_allclose(mean, (sum(rows) / len(rows)).numpy(), atol=1e-6)


def test_a_relation_without_train_pairs_has_no_mean(editor: Editor) -> None:
    lacking = [name for name, relation in relations().items() if len(relation.pairs("train")) < 2]
    assert relation_means(editor, lacking[:2]) == {}
    assert list(relation_means(editor, [*lacking[:2], FEW[0]], n=2)) == [FEW[0]]
    with pytest.raises(InputError, match="name of a relation"):
        relation_means(editor, ["tone/green>blue"])


def test_nearest_is_by_angle_whatever_the_length() -> None:
    means = {"east": np.array([5.0, 0.0]), "north": np.array([0.0, 0.1]), "north-east": np.array([1.0, 1.0])}
    vector = np.array([math.cos(0.3), math.sin(0.3)]) * 7
    found = nearest(vector, means, 2)
    assert [name for name, _ in found] == ["east", "north-east"]
    assert [cosine for _, cosine in found] == pytest.approx([math.cos(0.3), math.cos(math.pi / 4 - 0.3)])
    assert len(nearest(vector, means)) == 3 and nearest(vector, {}) == []


# --- what is shown --------------------------------------------------------------------------------


def test_the_heat_map_has_a_pixel_a_coefficient_and_rises_in_brightness() -> None:
    coefficients = torch.rand(7, 5)
    found = np.asarray(heat_map(coefficients)).astype(float)
    assert found.shape == (7, 5, 3)
    brightness = found @ np.array([0.299, 0.587, 0.114])
    order = coefficients.flatten().argsort().numpy()
    assert (np.diff(brightness.flatten()[order]) > -2).all()
    assert np.unravel_index(brightness.argmax(), (7, 5)) == np.unravel_index(int(coefficients.argmax()), (7, 5))


def test_bars_are_as_high_as_the_shares() -> None:
    coefficients = torch.tensor([[0.5, 0.1, 0.4], [0.1, 0.2, 0.7]])
    html = mixture_html(coefficients)
    heights = [float(x) for x in re.findall(r"height:([\d.]+)%", html)]
    assert heights == pytest.approx([100 * 0.3 / 0.55, 100 * 0.15 / 0.55, 100], abs=0.06)
    assert "LoRA 2 (55%), LoRA 0 (30%), LoRA 1 (15%)" in html
    assert "largest 0.70, of LoRA 2 in layer 1" in html


def test_the_pairs_own_relation_is_marked_among_the_neighbours() -> None:
    html = neighbours_html([("edit/hue=120", 0.9123), ("tone/yellow>dark", 0.5)], ["tone/yellow>dark"])
    first, second = re.findall(r"<tr.*?</tr>", html)
    assert "edit: hue 120" in first and "0.912" in first and "✓" not in first and "width:91.2%" in first
    assert "yellow → dark" in second and "✓" in second


def test_the_page_names_every_control_and_asks_for_a_kernel() -> None:
    explorer = Explorer(tiny_editor(), relations=FEW)
    html = explorer.frame
    assert "running kernel" in html and "a\n        mouse, a finger or a stylus" in html
    for tag in re.findall(r"<(?:input|select)\b[^>]*>", html):
        before = html[: html.index(tag)]
        assert "aria-label" in tag or before.rfind("<label") > before.rfind("</label>"), tag
    for attributes, inside in re.findall(r"<button([^>]*)>(.*?)</button>", html, re.S):
        assert "aria-label" in attributes or re.sub(r"<[^>]+>", "", inside).strip()
    for attributes in re.findall(r'<(?:div|canvas|section)([^>]*role="(?:tablist|toolbar|img)[^>]*)>', html):
        assert "aria-label" in attributes
    assert part(explorer, "relations").count("<option") == 1 + len(relations())
    assert html.count("data-pen=") == 10


# --- the page's controls --------------------------------------------------------------------------


def test_it_begins_with_an_analogy_whose_truth_is_known(explorer: Explorer) -> None:
    assert list(explorer.slots) == list(NAMES)
    assert explorer.answer.truth is not None and explorer.answer.error > 0
    assert list(shown(explorer)) == [*NAMES, "result", "truth"]
    for name, slot in explorer.slots.items():
        assert np.array_equal(pixels(explorer, name), np.asarray(to_pil(slot.picture)))
    assert np.array_equal(pixels(explorer, "result"), np.asarray(to_pil(explorer.answer.picture)))
    assert np.array_equal(pixels(explorer, "truth"), np.asarray(to_pil(explorer.answer.truth)))
    assert f"error {explorer.answer.error:.2f}" in shown(explorer)["result"]
    assert "yellow → dark" in part(explorer, "title")


def test_it_begins_with_pictures_that_are_given(editor: Editor) -> None:
    a, a_prime, b = pictures(3)
    explorer = Explorer(editor, a, to_pil(a_prime), b.add(1).div(2).permute(1, 2, 0).numpy(), relations=FEW)
    assert torch.equal(explorer.slots["a"].picture, a)
    assert np.array_equal(pixels(explorer, "b"), np.asarray(to_pil(b)))
    assert explorer.answer.truth is None and "truth" not in shown(explorer)
    assert "no true b′" in part(explorer, "title")
    expected = editor.edit(*(explorer.slots[name].picture for name in NAMES))
    assert torch.equal(explorer.answer.picture, expected.pictures[0])
    partly = Explorer(editor, b=b, relations=FEW)
    assert torch.equal(partly.slots["b"].picture, b) and partly.slots["a"].drawing is not None


def changes(explorer: Explorer, action: Callable[[], None]) -> set[str]:
    """Which of the pictures on the page an action changes."""
    before = shown(explorer)
    action()
    now = shown(explorer)
    return {x for x in (*NAMES, "result") if SOURCE.findall(now[x]) != SOURCE.findall(before[x])}


@pytest.mark.parametrize("slot", NAMES)
def test_choosing_an_emoji_changes_its_slot_and_the_result(explorer: Explorer, slot: str) -> None:
    fire = load_emoji().find("fire")
    press(explorer, "select", slot)
    found = changes(explorer, lambda: press(explorer, "emoji", str(fire)))
    assert {slot, "result"} <= found and not found & (set(NAMES) - {slot})
    assert explorer.slots[slot].drawing == (fire, STYLES.index(explorer.style))
    assert "<small>fire\n" in shown(explorer)[slot] and "aria-selected='true'" in shown(explorer)[slot]


def test_choosing_by_name_style_or_position(explorer: Explorer) -> None:
    data = load_emoji()
    explorer.choose("a", "🔥", "twemoji")
    assert explorer.slots["a"].drawing == (data.find("fire"), STYLES.index("twemoji"))
    lacking = int(np.flatnonzero(~data.present[:, 0])[0])
    explorer.choose("a", lacking, "noto")
    assert explorer.slots["a"].drawing == (lacking, int(data.present[lacking].argmax()))


def test_a_truth_appears_when_the_three_fit_together(explorer: Explorer) -> None:
    explorer.choose("a", "woman", "noto")
    explorer.choose("a_prime", "woman astronaut", "noto")
    explorer.choose("b", "fire", "noto")
    assert "does not start at this b" in part(explorer, "title") and "truth" not in shown(explorer)
    explorer.choose("b", "man", "noto")
    assert explorer.answer.relation == "role/astronaut"
    expected = load_emoji().tensor(load_emoji().find("man astronaut"), 0)[0]
    assert torch.equal(explorer.answer.truth, expected)
    assert "role: astronaut" in shown(explorer)["truth"]


def test_a_style_is_that_of_the_results_and_of_the_selected_picture(explorer: Explorer) -> None:
    explorer.choose("b", "woman", "noto")
    explorer.select("b")
    before = part(explorer, "results")
    press(explorer, "style", "twemoji")
    assert explorer.slots["b"].drawing == (load_emoji().find("woman"), STYLES.index("twemoji"))
    assert part(explorer, "results") != before
    assert explorer.state["chosen"] == {"emoji": str(load_emoji().find("woman")), "style": "twemoji"}


def test_a_style_that_lacks_the_picture_leaves_it(explorer: Explorer) -> None:
    data = load_emoji()
    lacking, column = (int(x) for x in np.argwhere(~data.present)[0])
    explorer.choose("b", lacking)
    before = explorer.slots
    assert "expected a style that has" in ask(explorer, "style", STYLES[column])
    assert explorer.slots is before and explorer.style == STYLES[column]


def test_a_random_analogy_of_a_relation_is_new_each_time_and_the_same_in_each_explorer(editor: Editor) -> None:
    first, second = (Explorer(editor, relations=FEW) for _ in range(2))
    seen = []
    for explorer in (first, second):
        press(explorer, "set", ["relation", "edit/hue=120"])
        for _ in range(3):
            press(explorer, "random")
            assert "edit/hue=120" in explorer.answer.names and explorer.answer.truth is not None
            seen.append(tuple(slot.drawing for slot in explorer.slots.values()))
            assert explorer.style == STYLES[seen[-1][2][1]]
    assert seen[:3] == seen[3:] and len(set(seen)) == 3


def test_a_random_analogy_of_any_relation_knows_its_truth(explorer: Explorer) -> None:
    found = set()
    for _ in range(4):
        press(explorer, "random")
        found.add(explorer.answer.names)
        assert explorer.answer.truth is not None
    assert len(found) > 1


def test_taking_an_analogy_shows_exactly_it(explorer: Explorer) -> None:
    item = one("role/astronaut")
    explorer.take(item)
    assert torch.equal(explorer.slots["b"].picture, item.b) and torch.equal(explorer.answer.truth, item.b_prime)


def test_an_upload_replaces_one_picture(explorer: Explorer) -> None:
    image = to_pil(pictures(1)[0])
    content = file_of(image)
    found = changes(explorer, lambda: press(explorer, "upload", {"slot": "a_prime"}, content[:100], content[100:]))
    assert "a_prime" in found and not found & {"a", "b"}
    assert np.array_equal(pixels(explorer, "a_prime"), np.asarray(image))
    assert "truth" not in shown(explorer)


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_upload_leaves_everything_and_says_why(explorer: Explorer, kind: str) -> None:
    slots, answer, said = explorer.slots, explorer.answer, []
    changed = changes(explorer, lambda: said.append(ask(explorer, "upload", {"slot": "a"}, broken_files()[kind])))
    assert changed == set() and explorer.slots is slots and explorer.answer is answer
    assert said[0].startswith("Nothing was changed: a: expected")


def test_a_stroke_in_parts_is_undone_at_once(explorer: Explorer) -> None:
    start = explorer.slots
    pen = {"slot": "b", "colour": "#0072B2", "size": 6}
    press(explorer, "stroke", pen | {"points": [[10, 10], [20, 20]], "continued": False})
    first = explorer.slots["b"].picture
    press(explorer, "stroke", pen | {"points": [[20, 20], [50, 20]], "continued": True})
    assert torch.equal(first, paint(start["b"].picture, [[10, 10], [20, 20]], "#0072B2", 6))
    assert torch.equal(explorer.slots["b"].picture, paint(first, [[20, 20], [50, 20]], "#0072B2", 6))
    assert explorer.answer.truth is None and "No artist drew this b" in part(explorer, "title")
    press(explorer, "stroke", pen | {"points": [[5, 60]]})
    press(explorer, "undo")
    press(explorer, "undo")
    assert explorer.slots is start and explorer.answer.truth is not None
    # The fixture's analogy was there from the start.
    assert "change of the pictures to take back" in ask(explorer, "undo") and explorer.slots is start


def test_clear_leaves_white(explorer: Explorer) -> None:
    press(explorer, "select", "a")
    press(explorer, "clear")
    assert (pixels(explorer, "a") == 255).all()
    press(explorer, "undo")
    assert (pixels(explorer, "a") != 255).any()


def test_swaps_exchange_two_pictures(explorer: Explorer) -> None:
    before = explorer.slots
    press(explorer, "swap")
    assert explorer.slots["a"] is before["a_prime"] and explorer.slots["a_prime"] is before["a"]
    assert "tone/dark>yellow" not in relations() and explorer.answer.truth is None
    explorer.swap("a_prime", "b")
    assert explorer.slots["b"] is before["a"]


def test_the_result_becomes_the_next_b(explorer: Explorer) -> None:
    picture = explorer.answer.picture
    press(explorer, "use_result")
    assert torch.equal(explorer.slots["b"].picture, picture)
    expected = explorer.editor.edit(*(explorer.slots[name].picture for name in NAMES), steps=1).pictures[0]
    assert torch.equal(explorer.answer.picture, expected)


def test_steps_and_seed_are_those_of_the_editor(explorer: Explorer) -> None:
    press(explorer, "set", ["steps", "3"])
    press(explorer, "set", ["seed", "11"])
    expected = explorer.editor.edit(*(explorer.slots[name].picture for name in NAMES), steps=3, seed=11)
    assert torch.equal(explorer.answer.picture, expected.pictures[0])
    assert explorer.state["values"] == {"steps": 3, "seed": 11, "relation": ""}
    assert "from 1 to 32" in ask(explorer, "set", ["steps", "0"])
    for change in (["steps", "0"], ["steps", "33"], ["steps", "2.5"], ["seed", "-1"], ["seed", ""]):
        assert "Nothing was changed: expected" in ask(explorer, "set", change)
        assert (explorer.steps, explorer.seed) == (3, 11)


def test_search_and_pages(explorer: Explorer) -> None:
    press(explorer, "search", "fire")
    assert "for “fire”" in part(explorer, "status") and "alt='fire'" in part(explorer, "results")
    press(explorer, "search", "")
    press(explorer, "page", "1")
    numbers = [int(x) for x in re.findall(r"data-ask='emoji' data-value='(\d+)'", part(explorer, "results"))]
    assert numbers == list(range(PAGE, 2 * PAGE))
    press(explorer, "search", "qqq")
    assert "No emoji" in part(explorer, "status") and part(explorer, "results") == ""


def test_selecting_marks_the_emoji_of_that_picture(explorer: Explorer) -> None:
    explorer.choose("a", "fire")
    explorer.select("a")
    assert explorer.state["selected"] == "a" and explorer.state["chosen"]["emoji"] == str(load_emoji().find("fire"))
    explorer.upload("a", file_of(to_pil(pictures(1)[0])))
    assert explorer.state["chosen"]["emoji"] == ""


# --- the nearest relations ------------------------------------------------------------------------


def test_nearest_relations_are_computed_once(explorer: Explorer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "0 of 3" in part(explorer, "neighbours")
    means = relation_means(explorer.editor, FEW)
    asked: list[Any] = []
    real = module.relation_means
    monkeypatch.setattr(module, "relation_means", lambda editor, names: asked.extend(names) or real(editor, names))
    vector = explorer.answer.coefficients.flatten().numpy()
    assert explorer.nearest() == nearest(vector, means)
    assert asked == FEW and "<table" in part(explorer, "neighbours")
    before = part(explorer, "neighbours")
    explorer.choose("b", "fire")
    assert asked == FEW and part(explorer, "neighbours") != before
    assert explorer.nearest(1) == explorer.nearest()[:1]


def test_means_are_taken_little_by_little_while_the_page_is_shown(
    explorer: Explorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SLICE", 1)
    seen = []
    while explorer.state["more"]:  # as the page does when it rests
        press(explorer, "prepare")
        seen.append(part(explorer, "neighbours"))
    press(explorer, "prepare")  # a second view of the same page
    assert ["1 of 3" in seen[0], "2 of 3" in seen[1], "<table" in seen[2]] == [True] * 3 and len(seen) == 3
    expected = nearest(explorer.answer.coefficients.flatten().numpy(), relation_means(explorer.editor, FEW))
    assert [name for name, _ in explorer.nearest()] == [name for name, _ in expected]
    assert [x for _, x in explorer.nearest()] == pytest.approx([x for _, x in expected], abs=1e-5)


def test_without_a_router_there_is_no_neighbour() -> None:
    explorer = Explorer(tiny_editor("tokens", routed=False), relations=FEW)
    assert explorer.nearest() == [] and "Without a router" in part(explorer, "neighbours")
    assert not explorer.state["more"] and explorer.answer.truth is not None


# --- without a kernel -----------------------------------------------------------------------------


def test_without_a_kernel_a_picture_is_shown(explorer: Explorer) -> None:
    fallback(explorer, 400, 400_000)


def test_the_fallback_has_what_the_page_has(explorer: Explorer) -> None:
    explorer.nearest()
    figure = static(explorer.slots, explorer.answer, explorer.nearest())
    words = [text.get_text() for text in figure.axes[0].texts]
    assert {"a", "a′", "b", "b′", "true b′", ":", "::"} <= set(words)
    assert len(figure.axes[0].images) == 5 and len(figure.axes) == 4
    bars, heat, near = figure.axes[1:]
    share = explorer.answer.coefficients.mean(0)
    assert [patch.get_height() for patch in bars.patches] == pytest.approx(share.tolist())
    assert heat.images[0].get_array().shape == (*explorer.answer.coefficients.shape, 3)
    assert [patch.get_width() for patch in near.patches] == pytest.approx([x for _, x in explorer.nearest()])
    explorer.upload("b", file_of(to_pil(pictures(1)[0])))
    assert len(static(explorer.slots, explorer.answer).axes[0].images) == 4
    assert len(static(explorer.slots, explorer.answer).axes) == 3


# --- bad input ------------------------------------------------------------------------------------


def test_refusals(explorer: Explorer) -> None:
    before = explorer.slots
    for action in (
        lambda: explorer.choose("c", "fire"),
        lambda: explorer.choose("a", "no such emoji"),
        lambda: explorer.choose("a", -1),
        lambda: explorer.choose("a", "fire", "crayon"),
        lambda: explorer.draw_as("crayon", "a"),
        lambda: explorer.select("c"),
        lambda: explorer.swap("a", "c"),
        lambda: explorer.clear("c"),
        lambda: explorer.upload("c", file_of(to_pil(pictures(1)[0]))),
        lambda: explorer.stroke("c", [[1, 1]], "#000000", 2),
        lambda: explorer.random("tone/green>blue"),
        lambda: explorer.turn(999),
        lambda: explorer.set(steps=True),
    ):
        with pytest.raises(InputError, match=r"expected .*got"):
            action()
    assert explorer.slots is before


def test_bad_beginnings(editor: Editor) -> None:
    with pytest.raises(InputError, match=r"^a_prime: expected"):
        Explorer(editor, a_prime=3)
    with pytest.raises(InputError, match="name of a relation"):
        Explorer(editor, relations=["tone/green>blue"])
