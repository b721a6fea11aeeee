"""The sampler and the walk in JupyterLab: turn their sliders by keyboard, see the picture change and come back."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import expect

from .lab import Notebook, differ, source

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
from lorweb_mini.analysis.walking import SCALES, ladders
from lorweb_mini.widgets.walk import Walk

walks = {name: ladders(SCALES[name], 1)[0] for name in ("darken: 0.65 → 0.25", "tone: light → dark")}
Walk(lw.load("starter"), walks, steps=2)
"""
CELLS = [SAMPLER, WALK]


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
