"""The browser's logic without a browser: what a search finds, which relations start where, what a button changes."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from pages import ask, fallback, images, part, press
from PIL import Image

from lorweb_mini.emoji.relations import differ, get_relation, relations
from lorweb_mini.emoji.sheets import STYLES, load_emoji
from lorweb_mini.errors import InputError
from lorweb_mini.images import to_pil
from lorweb_mini.show.pictures import picture_rows
from lorweb_mini.widgets.browser import PAGE, Browser, results_html
from lorweb_mini.widgets.search import OTHERS, pairs_of, relations_of, search


def names(found: list[int]) -> list[str]:
    return [load_emoji().emojis[i].name for i in found]


@pytest.fixture
def browser() -> Browser:
    return Browser(query="moon", emoji="woman", style="noto", relation="role/astronaut")


# --- search ---------------------------------------------------------------------------------------


def test_a_name_comes_before_a_keyword() -> None:
    found = names(search("fire"))
    assert found[0] == "fire"
    named = ["fire" in re.split(r"[^a-z]+", name.lower()) for name in found]
    assert 2 < sum(named) < len(named), "some by name, some by keyword alone"
    assert named == sorted(named, reverse=True)


def test_a_keyword_finds_what_the_name_does_not_say() -> None:
    emoji = load_emoji()
    waving = emoji.find("waving hand")
    assert "goodbye" not in emoji.emojis[waving].name
    word = next(k for k in emoji.emojis[waving].keywords if k not in emoji.emojis[waving].name)
    assert waving in search(word)


@pytest.mark.parametrize("query", ["🔥", "1f525", "  FIRE "])
def test_character_key_and_case(query: str) -> None:
    assert names(search(query))[0] == "fire"


def test_accents_do_not_matter() -> None:
    assert any("São Tomé" in name for name in names(search("sao tome")))


def test_every_word_must_be_found_as_a_naive_loop_finds_it() -> None:
    expected = set()
    for position, emoji in enumerate(load_emoji().emojis):
        text = re.split(r"[^a-z0-9]+", f"{emoji.name} {' '.join(emoji.keywords)}".lower())
        if all(any(word.startswith(wanted) for word in text) for wanted in ("hand", "dark")):
            expected.add(position)
    assert set(search("hand dark")) == expected
    assert expected


def test_no_words_find_everything_in_order() -> None:
    assert search(" ") == list(range(len(load_emoji().emojis)))


@pytest.mark.parametrize("query", ["qqq", "…", "fire qqq"])
def test_nothing_found(query: str) -> None:
    assert search(query) == []


def test_an_empty_result_has_a_message_and_no_buttons(browser: Browser) -> None:
    press(browser, "search", "<b>qqq")
    assert "No emoji" in part(browser, "status")
    assert "&lt;b&gt;qqq" in part(browser, "status"), "what was typed must not become HTML"
    assert part(browser, "results") == ""
    press(browser, "search", "fire")
    assert "for “fire”" in part(browser, "status") and "alt='fire'" in part(browser, "results")


# --- relations and pairs --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("emoji", "style"),
    [("woman", "noto"), ("waving hand: dark skin tone", "twemoji"), ("red heart", "openmoji"), ("fire", "fluent_3d")],
)
def test_relations_are_exactly_those_with_a_pair_that_starts_there(emoji: str, style: str) -> None:
    position, column = load_emoji().find(emoji), STYLES.index(style)
    expected = {
        name
        for name, relation in relations().items()
        if (position, column) in set(zip(*relation.all_pairs[:, :2].T.tolist(), strict=True))
    }
    found = relations_of(position, style)
    assert set(found) == expected and len(found) == len(expected)
    assert expected


def test_a_style_that_lacks_the_emoji_has_no_relations() -> None:
    emoji = load_emoji()
    position, column = np.argwhere(~emoji.present)[0]
    assert relations_of(int(position), STYLES[column]) == []


@pytest.mark.parametrize("name", ["tone/yellow>dark", "edit/hue=120", "role/astronaut", "style/noto>twemoji"])
def test_pairs_start_at_the_drawing_and_the_others_elsewhere(name: str) -> None:
    woman = load_emoji().find("woman")
    own, others = pairs_of(name, woman, "noto")
    rows = get_relation(name).all_pairs
    assert sorted(own.tolist()) == sorted(row for row in rows.tolist() if row[:2] == [woman, 0])
    assert 0 < len(others) <= OTHERS
    known = set(map(tuple, rows.tolist()))
    assert all(tuple(row) in known and row[1] == 0 and row[0] != woman for row in others.tolist())
    assert bool(differ(*get_relation(name).pictures(others)).all())
    again = pairs_of(name, woman, "noto")
    assert np.array_equal(others, again[1])


def test_other_concepts_come_first() -> None:
    concepts = [x.concept for x in load_emoji().emojis]
    waving = load_emoji().find("waving hand")
    _, others = pairs_of("tone/yellow>dark", waving, "noto")
    shown = [concepts[i] for i in others[:, 0]]
    assert concepts[waving] not in shown and len(set(shown)) == len(shown) == OTHERS


def test_pairs_that_look_the_same_are_said_to() -> None:
    browser = Browser(emoji="waving hand", style="openmoji_black", relation="tone/yellow>dark")
    assert "look the same" in part(browser, "pairs")
    assert len(images(part(browser, "pairs"))) == 2


# --- the page -------------------------------------------------------------------------------------


def test_a_page_of_results_is_small_and_shows_the_drawings() -> None:
    html = results_html(tuple(search("")), 3, "noto")
    emoji = load_emoji()
    shown = [int(i) for i in re.findall(r"data-ask='emoji' data-value='(\d+)'", html)]
    assert shown == list(range(3 * PAGE, 4 * PAGE)) and PAGE <= 60
    assert len(html) < 300_000
    first = Image.fromarray(images(html)[0].astype(np.uint8))
    style = 0 if emoji.present[shown[0], 0] else int(emoji.present[shown[0]].argmax())
    expected = to_pil(emoji.tensor(shown[0], style)[0]).resize(first.size, Image.Resampling.LANCZOS)
    assert np.array_equal(np.asarray(first), np.asarray(expected))


def test_every_picture_has_a_text_and_every_button_a_name(browser: Browser) -> None:
    page = part(browser, "results") + part(browser, "emoji") + part(browser, "pairs")
    assert all(alt.strip() for alt in re.findall(r"<img alt='([^']*)'", page))
    assert page.count("<img ") == len(re.findall(r"<img alt='", page))
    for inside in re.findall(r"<button[^>]*>(.*?)</button>", page, re.S):
        assert "alt='" in inside or re.sub(r"<[^>]+>", "", inside).strip()


def test_a_click_on_an_emoji_shows_its_drawings_and_relations(browser: Browser) -> None:
    before = part(browser, "emoji")
    heart = load_emoji().find("red heart")
    press(browser, "emoji", str(heart))
    assert part(browser, "emoji") != before
    assert "<h3>red heart</h3>" in part(browser, "emoji")
    drawn = images(part(browser, "emoji"))
    assert len(drawn) == load_emoji().present[heart].sum()
    assert np.array_equal(drawn[0], np.asarray(to_pil(load_emoji().tensor(heart, 0)[0])))
    named = re.findall(r"data-ask='relation' data-value='([^']+)'", part(browser, "emoji"))
    assert sorted(name.replace("&gt;", ">") for name in named) == sorted(relations_of(heart, "noto"))
    assert browser.relation is None, "no heart becomes an astronaut"
    assert "Choose a relation" in part(browser, "pairs")


def test_a_click_on_a_relation_shows_b_and_the_true_answer(browser: Browser) -> None:
    before = part(browser, "pairs")
    press(browser, "relation", "edit/hue=120")
    assert part(browser, "pairs") != before
    assert browser.state["chosen"]["relation"] == "edit/hue=120"
    b = load_emoji().tensor(browser.emoji, 0)
    answer = get_relation("edit/hue=120").apply_edits(b)
    for found, expected in zip(images(part(browser, "pairs")), (b[0], answer[0]), strict=False):
        assert np.array_equal(found, np.asarray(to_pil(expected)))
    assert len(images(part(browser, "pairs"))) == 2 + 2 * OTHERS


def test_a_click_on_a_drawing_changes_the_style_everywhere(browser: Browser) -> None:
    before = {name: part(browser, name) for name in ("results", "emoji", "pairs")}
    press(browser, "style", "twemoji")
    assert browser.style == browser.state["chosen"]["style"] == "twemoji"
    assert all(part(browser, name) != html for name, html in before.items())
    assert browser.relation == "role/astronaut", "it starts at this drawing too"


def test_pages_turn(browser: Browser) -> None:
    press(browser, "search", "face")
    first = part(browser, "results")
    press(browser, "page", "1")
    assert part(browser, "results") != first
    press(browser, "page", "0")
    assert part(browser, "results") == first
    assert "<button data-ask='page' data-value='-1' disabled>" in first


def test_an_emoji_that_the_style_lacks_brings_its_own_style(browser: Browser) -> None:
    emoji = load_emoji()
    lacking = int(np.flatnonzero(~emoji.present[:, 0])[0])
    browser.choose(lacking)
    assert browser.style == emoji.emojis[lacking].styles[0] != "noto"
    assert "not drawn" in part(browser, "emoji")


def test_without_a_kernel_a_picture_is_shown(browser: Browser) -> None:
    fallback(browser, 400, 400_000)


# --- bad input ------------------------------------------------------------------------------------


def test_refusals(browser: Browser) -> None:
    with pytest.raises(InputError, match="expected words"):
        search(3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="expected one of noto"):
        relations_of(0, "crayon")
    with pytest.raises(InputError, match="expected the name of a relation"):
        browser.follow("tone/green>blue")
    with pytest.raises(InputError, match="relation that starts at"):
        browser.follow("moon/+1")
    with pytest.raises(InputError, match="expected one of"):
        browser.turn(99)
    for wrong in (-1, 1.5, True, None, ["woman"]):
        with pytest.raises(InputError, match="expected an emoji as a whole number"):
            browser.choose(wrong)
    before = part(browser, "emoji")
    assert "expected an emoji as a whole number" in ask(browser, "emoji", "-1") and part(browser, "emoji") == before


@pytest.mark.parametrize(("rows", "captions"), [({}, None), ({"one": torch.zeros(2, 3, 64, 64)}, {"one": ["a"]})])
def test_rows_of_pictures_need_their_captions(
    rows: dict[str, torch.Tensor], captions: dict[str, list[str]] | None
) -> None:
    with pytest.raises(InputError, match="caption"):
        picture_rows(rows, captions)
