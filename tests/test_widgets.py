"""The widgets' logic without a browser: sliders to coefficients, dropped frames, what is shown without a kernel."""

from __future__ import annotations

import asyncio
import base64
import io

import pytest
import torch
from PIL import Image

from lorweb_mini.autoencoder import MiniAutoencoder
from lorweb_mini.base import Base, transformer_of
from lorweb_mini.editor import BasisConfig, Editor
from lorweb_mini.encoder import TinyCLIP
from lorweb_mini.images import InputError
from lorweb_mini.widgets import GAIN_MAX, Latest, Mixer, remix, shares, static, strongest

N = 6


@pytest.fixture(scope="module")
def editor() -> Editor:
    torch.manual_seed(0)
    config = BasisConfig(n_loras=N, rank=2, keys_dim=8)
    made = Editor(MiniAutoencoder(), TinyCLIP(48, 1, 16), Base(transformer_of(64, 1, 1)), config)
    with torch.no_grad():
        for i in range(len(made.basis.layers)):
            high = made.basis.modules[i].lora_B["basis"].weight
            high.copy_(torch.randn_like(high) * 0.3)
    return made


@pytest.fixture
def mixture(editor: Editor) -> torch.Tensor:
    return torch.rand(len(editor.basis.layers), N).softmax(-1)


@pytest.fixture
def b() -> torch.Tensor:
    return torch.rand(3, 64, 64) * 2 - 1


def test_gain_one_is_the_routers_mixture(mixture: torch.Tensor) -> None:
    torch.testing.assert_close(remix(mixture, {0: 1.0, 3: 1.0}), mixture)


def test_remix_against_a_loop(mixture: torch.Tensor) -> None:
    gains = {1: 0.0, 4: 3.5}
    found = remix(mixture, gains)
    for row, mixed in zip(mixture.tolist(), found.tolist(), strict=True):
        turned = [value * gains.get(n, 1.0) for n, value in enumerate(row)]
        assert mixed == pytest.approx([value / sum(turned) for value in turned], abs=1e-6)
    assert (found[:, 1] == 0).all()
    assert (found[:, 4] > mixture[:, 4]).all()
    torch.testing.assert_close(found.sum(-1), torch.ones(len(found)))


def test_remix_takes_batches(mixture: torch.Tensor) -> None:
    batch = torch.stack([mixture, mixture.flip(-1)])
    torch.testing.assert_close(remix(batch, {2: 2.0})[1], remix(mixture.flip(-1), {2: 2.0}))


def test_nothing_left_is_the_bare_base(mixture: torch.Tensor) -> None:
    assert (remix(mixture, dict.fromkeys(range(N), 0.0)) == 0).all()


def test_remix_leaves_its_input_alone(mixture: torch.Tensor) -> None:
    before = mixture.clone()
    remix(mixture, {0: 0.0})
    assert torch.equal(mixture, before)


@pytest.mark.parametrize("gains", [{N: 1.0}, {-1: 1.0}, {0: -0.1}, {0: float("nan")}, {0: float("inf")}])
def test_remix_refuses(mixture: torch.Tensor, gains: dict[int, float]) -> None:
    with pytest.raises(InputError, match=r"expected .* got"):
        remix(mixture, gains)


def test_strongest_are_those_with_the_largest_share() -> None:
    c = torch.tensor([[0.5, 0.1, 0.4], [0.1, 0.2, 0.7]])
    assert strongest(c, 2) == (2, 0)
    assert strongest(c, 9) == (2, 0, 1)
    assert shares(c).tolist() == pytest.approx([0.3, 0.15, 0.55])


def test_late_wishes_are_dropped_and_the_last_one_wins() -> None:
    drawn: list[int] = []

    async def drag() -> Latest[int]:
        latest: Latest[int] = Latest(drawn.append, wait=0.001)
        for value in range(50):
            latest.ask(value)
        await asyncio.sleep(0.05)
        assert drawn == [49]
        for value in range(100, 110):
            latest.ask(value)
        await asyncio.sleep(0.05)
        return latest

    latest = asyncio.run(drag())
    assert drawn == [49, 109]
    assert latest.dropped == 49 + 9


def test_a_slow_drag_is_drawn_on_the_way() -> None:
    drawn: list[int] = []

    async def drag() -> None:
        latest: Latest[int] = Latest(drawn.append, wait=0.001)
        for value in range(3):
            latest.ask(value)
            await asyncio.sleep(0.03)

    asyncio.run(drag())
    assert drawn == [0, 1, 2]


def test_without_an_event_loop_each_wish_is_fulfilled_at_once() -> None:
    drawn: list[int] = []
    latest: Latest[int] = Latest(drawn.append)
    latest.ask(1)
    latest.ask(2)
    assert drawn == [1, 2]


def test_a_slider_changes_the_picture_to_what_generate_draws(
    editor: Editor, b: torch.Tensor, mixture: torch.Tensor
) -> None:
    mixer = Mixer(editor, b, mixture, steps=2)
    assert mixer.loras == strongest(mixture)
    first = mixer._result.value
    lora = mixer.loras[0]
    mixer.sliders[lora].value = GAIN_MAX
    assert mixer._result.value != first
    expected = editor.generate(b, remix(mixture, {lora: GAIN_MAX}), steps=2).image
    assert mixer.picture.tobytes() == expected.tobytes()
    mixer.reset()
    assert mixer._result.value == first


def test_sliders_are_labelled_and_start_at_one(editor: Editor, b: torch.Tensor, mixture: torch.Tensor) -> None:
    mixer = Mixer(editor, b, mixture[None], loras=(5, 2), steps=1)
    assert [slider.description for slider in mixer.sliders.values()] == ["LoRA 5", "LoRA 2"]
    assert mixer.gains == {5: 1.0, 2: 1.0}
    assert "alt='result'" in mixer._result.value


def test_without_a_kernel_a_picture_is_shown(editor: Editor, b: torch.Tensor, mixture: torch.Tensor) -> None:
    bundle = Mixer(editor, b, mixture, steps=1)._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    picture = Image.open(io.BytesIO(base64.b64decode(bundle["image/png"])))
    assert picture.width > 400
    assert len(bundle["image/png"]) < 200_000
    assert "kernel" in bundle["text/plain"]


def test_the_strip_shows_b_and_every_gain(editor: Editor, b: torch.Tensor, mixture: torch.Tensor) -> None:
    figure = static(editor, b, mixture, lora=1, steps=1, gains=(0, 1, 8))
    assert [axis.get_title() for axis in figure.axes] == ["b", "gain 0", "gain 1", "gain 8"]
    assert "kernel" in figure.get_supxlabel()


@pytest.mark.parametrize("loras", [(0, N), (-1,)])
def test_mixer_refuses_loras_that_are_not_there(
    editor: Editor, b: torch.Tensor, mixture: torch.Tensor, loras: tuple[int, ...]
) -> None:
    with pytest.raises(InputError, match="expected LoRAs"):
        Mixer(editor, b, mixture, loras=loras)


def test_mixer_refuses_two_mixtures(editor: Editor, b: torch.Tensor, mixture: torch.Tensor) -> None:
    with pytest.raises(InputError, match="one analogy, got a batch of 2"):
        Mixer(editor, b, torch.stack([mixture, mixture]))
