"""Declared controls in JupyterLab: sliders moved by keyboard, menus; the picture changes and comes back."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import expect

from .lab import Notebook, changed, differ, source

INSTRUCTIONS = ["invert the colours", "make it grey", ""]
SAMPLER = f"""
import lorweb_mini as lw
from lorweb_mini.core.editor import load_frozen
from lorweb_mini.widgets.sampler import Sampler

autoencoder, _, base = load_frozen()
question = lw.analogies("test", "edit/invert", n=1)[0]
Sampler(base, autoencoder, question.b, {INSTRUCTIONS}, steps=2)
"""
WALK = """
import lorweb_mini as lw
from lorweb_mini.analysis.ladders import SCALES, ladders
from lorweb_mini.widgets.walk import Walk

walks = {name: ladders(SCALES[name], 1)[0] for name in ("darken: 0.65 → 0.25", "tone: light → dark")}
Walk(lw.load("starter"), walks, steps=2)
"""
RANK = """
import torch
import lorweb_mini as lw
from lorweb_mini.analysis.one_lora import by_direction
from lorweb_mini.core.basis import ADAPTER
from lorweb_mini.core.editor import BasisConfig, Editor, Miniature, load_frozen
from lorweb_mini.widgets.rank_slider import RankSlider

lora = Editor(Miniature(*load_frozen(), BasisConfig(1, 8)))
with torch.no_grad():
    for module in lora.basis.modules:
        module.lora_B[ADAPTER].weight.normal_(0, 0.03)
pairs = {name: lw.analogies("test", name, n=1)[0] for name in ("edit/invert", "edit/grey")}
RankSlider(by_direction(lora, load_frozen()[2]), {name: (x.b, x.b_prime) for name, x in pairs.items()}, steps=2)
"""
CHOICE = """
from lorweb_mini.show.style import figure_of
from lorweb_mini.widgets.controls import Choice


def draw(exponent, colour):
    figure, axes = figure_of(5, 2.5)
    axes.plot([x**exponent for x in range(9)], color=colour)
    return figure


Choice(draw, draw(1, "black"), exponent={"linear": 1, "square": 2}, colour={"blue": "#0072B2", "orange": "#E69F00"})
"""
CELLS = [SAMPLER, WALK, RANK, CHOICE]


def test_sliders_turned_by_keyboard_change_the_picture(notebook: Notebook, screenshots: Path) -> None:
    output, page = notebook.run(notebook.page.locator(".jp-CodeCell").nth(0)), notebook.page
    result, (steps, guidance) = output.locator("figure img[alt='result']"), output.get_by_role("slider").all()
    start = source(result)

    steps.focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    output.get_by_text("The transformer runs 5 times").wait_for()
    assert steps.input_value() == "5"
    more_steps = source(result)
    guidance.focus()
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    output.get_by_text("The transformer runs 10 times").wait_for()
    expect(guidance).to_have_attribute("aria-valuetext", "2.00")
    guided = source(result)
    output.get_by_label("instruction").select_option(label=INSTRUCTIONS[1])
    expect(result).not_to_have_attribute("src", guided)
    grey = source(result)
    output.screenshot(path=screenshots / "sampler.png")
    differ(start, more_steps, guided, grey)
    output.get_by_role("button", name="Back to the start").click()
    expect(result).to_have_attribute("src", start)


def test_a_walk_is_gone_along_by_keyboard(notebook: Notebook, screenshots: Path) -> None:
    output, page = notebook.run(notebook.page.locator(".jp-CodeCell").nth(1)), notebook.page
    result, truth = output.locator("figure img[alt^='the walk at']"), output.locator("figure img[alt^='true b′']")
    slider = output.get_by_role("slider")
    start, known = source(result), source(truth)
    expect(result).to_have_attribute("alt", "the walk at t = 0.50")
    output.get_by_text("is the squared distance of the two true ends").wait_for()
    slider.focus()
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    expect(result).to_have_attribute("alt", "the walk at t = 0.75")
    later, known_later = source(result), source(truth)
    page.keyboard.press("End")
    expect(result).to_have_attribute("alt", "the walk at t = 1.50")
    far = source(result)
    walk, path = output.get_by_role("combobox").all()
    path.select_option(label="pixel")
    expect(result).not_to_have_attribute("src", far)
    mixed = source(result)
    walk.select_option(label="tone: light → dark")
    output.get_by_text("There is no true picture here").wait_for()
    expect(truth).to_have_attribute("alt", "true b′: not known here")
    expect(result).not_to_have_attribute("src", mixed)
    output.screenshot(path=screenshots / "walk.png")
    differ(start, later, far, mixed, source(result))
    differ(known, known_later)
    output.get_by_role("button", name="Back to the start").click()
    expect(result).to_have_attribute("src", start)


def test_rank_and_strength_are_turned_by_keyboard(notebook: Notebook, screenshots: Path) -> None:
    output, page = notebook.run(notebook.page.locator(".jp-CodeCell").nth(2)), notebook.page
    result, (rank, strength) = output.locator("figure img[alt='result']"), output.get_by_role("slider").all()
    start = source(result)
    rank.focus()
    page.keyboard.press("Home")
    output.get_by_text("0 parameters, 0%").wait_for()
    bare = changed(result, start)
    page.keyboard.press("End")
    expect(result).to_have_attribute("src", start)
    strength.focus()
    page.keyboard.press("End")
    doubled = changed(result, start)
    output.screenshot(path=screenshots / "rank_slider.png")
    output.get_by_role("button", name="Back to the whole LoRA").click()
    expect(result).to_have_attribute("src", start)
    output.get_by_role("combobox").select_option(label="edit/grey")
    differ(bare, start, doubled, changed(result, start))


def test_a_choice_is_made_from_menus(notebook: Notebook, screenshots: Path) -> None:
    output = notebook.run(notebook.page.locator(".jp-CodeCell").nth(3))
    plot = output.locator("img.plot")
    start = source(plot)
    output.get_by_label("exponent").select_option(label="square")
    square = changed(plot, start)
    output.get_by_label("colour").select_option(label="orange")
    changed(plot, square)
    output.screenshot(path=screenshots / "choice.png")
