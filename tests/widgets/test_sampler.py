"""The sampler without a browser: what is recorded, what the sliders draw, what is shown without a kernel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pages import fallback, part, press, with_large_weights
from PIL import Image
from tiny_models import pictures, tiny_base
from torch import Tensor

from lorweb_mini.core.layout import pack, position_ids, unpack
from lorweb_mini.errors import InputError
from lorweb_mini.images import to_pil
from lorweb_mini.models.autoencoder import MiniAutoencoder
from lorweb_mini.models.base import Base, noise_for
from lorweb_mini.models.text import vectors_of
from lorweb_mini.widgets import sampler as module
from lorweb_mini.widgets.sampler import NO_INSTRUCTION, Sampler, draw, strip, trajectory

INVERT, OTHER = "invert the colours", "make it grey"


@pytest.fixture(scope="module")
def base() -> Base:
    made = tiny_base()
    with_large_weights(made)
    return made


@pytest.fixture(scope="module")
def autoencoder() -> MiniAutoencoder:
    torch.manual_seed(1)
    return MiniAutoencoder(scaling_factor=2.0, shift_factor=0.1).eval().requires_grad_(False)


@pytest.fixture
def b() -> Tensor:
    return pictures(1)[0]


@pytest.fixture
def latent(autoencoder: MiniAutoencoder, b: Tensor) -> Tensor:
    return autoencoder.to_latent(b[None])[0]


def _by_hand(base: Base, latent: Tensor, vector: Tensor | None, steps: int, guidance: float) -> list[Tensor]:
    """States and estimates of Euler's method, written out: z, x̂, z, x̂, …, z."""
    ids = torch.cat([position_ids(4, 4, 0), position_ids(4, 4, 1)])
    z, reference, found = noise_for([7], 16), pack(latent[None]), []
    for i in range(steps):
        t = torch.full((1,), 1 - i / steps)
        with torch.no_grad():
            v = base.velocity(z, t, reference, ids, None if vector is None else vector[None])
            if guidance != 1 and vector is not None:
                empty = base.velocity(z, t, reference, ids)
                v = (1 - guidance) * empty + guidance * v
        found += [unpack(z)[0], unpack(z - t * v)[0]]
        z = z - v / steps
    return [*found, unpack(z)[0]]


@pytest.mark.parametrize(("steps", "guidance"), [(1, 1.0), (4, 1.0), (3, 2.5)])
def test_a_trajectory_is_eulers_method(base: Base, latent: Tensor, steps: int, guidance: float) -> None:
    vector = vectors_of([INVERT])[0]
    path = trajectory(base, latent, vector, seed=7, steps=steps, guidance=guidance)
    expected = _by_hand(base, latent, vector, steps, guidance)
    assert path.times.tolist() == pytest.approx([1 - i / steps for i in range(steps + 1)])
    assert path.states.shape == (steps + 1, 16, 8, 8) and path.estimates.shape == (steps, 16, 8, 8)
    torch.testing.assert_close(path.states, torch.stack(expected[0::2]), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(path.estimates, torch.stack(expected[1::2]), atol=1e-3, rtol=1e-3)


def test_a_trajectory_ends_where_edit_ends_and_leaves_no_hook(base: Base, latent: Tensor) -> None:
    vector = vectors_of([INVERT])[0]
    path = trajectory(base, latent, vector, seed=2, steps=3)
    with torch.no_grad():
        assert torch.equal(path.states[-1], base.edit(latent[None], vector[None], [2], 3)[0])
    torch.testing.assert_close(path.estimates[-1], path.states[-1], atol=1e-4, rtol=1e-4)
    assert not base.transformer._forward_pre_hooks


def test_without_an_instruction_guidance_changes_nothing(base: Base, latent: Tensor) -> None:
    plain, guided = (trajectory(base, latent, None, steps=2, guidance=g) for g in (1.0, 3.0))
    assert torch.equal(plain.states, guided.states)


def test_the_same_seed_gives_the_same_picture(base: Base, autoencoder: MiniAutoencoder, b: Tensor) -> None:
    first, again, another = (draw(base, autoencoder, b, INVERT, steps=2, seed=s) for s in (5, 5, 6))
    assert first.shape == (3, 64, 64)
    assert torch.equal(first, again)
    assert (first - another).abs().mean() > 1e-3


def test_guidance_one_is_none(base: Base, autoencoder: MiniAutoencoder, b: Tensor, latent: Tensor) -> None:
    drawn = draw(base, autoencoder, b, INVERT, steps=3, guidance=1.0, seed=7)
    plain = _by_hand(base, latent, vectors_of([INVERT])[0], 3, 1.0)[-1]
    torch.testing.assert_close(drawn, autoencoder.to_picture(plain[None])[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("change", [{"steps": 3}, {"guidance": 3.0}, {"instruction": OTHER}])
def test_every_control_changes_the_picture(
    base: Base, autoencoder: MiniAutoencoder, b: Tensor, change: dict[str, Any]
) -> None:
    plain = {"instruction": INVERT, "steps": 2, "guidance": 1.0}
    first, second = (draw(base, autoencoder, b, **options) for options in (plain, plain | change))
    assert (first - second).abs().mean() > 1e-3


@pytest.mark.parametrize(
    ("steps", "guidance", "instruction", "runs"),
    [(4, 1.0, INVERT, 4), (4, 1.5, INVERT, 8), (4, 1.5, "", 4), (1, 1, "", 1)],
)
def test_how_often_the_transformer_runs_is_said(
    base: Base, autoencoder: MiniAutoencoder, b: Tensor, steps: int, guidance: float, instruction: str, runs: int
) -> None:
    sampler = Sampler(base, autoencoder, b, [instruction], steps=steps, guidance=guidance)
    assert f"runs <b>{runs}</b> time{'s' if runs > 1 else ''} for" in part(sampler, "numbers")


def test_a_slider_changes_the_picture_to_what_draw_draws(base: Base, autoencoder: MiniAutoencoder, b: Tensor) -> None:
    sampler = Sampler(base, autoencoder, b, [INVERT, OTHER, ""], steps=2)
    assert sampler.values == {"instruction": INVERT, "steps": 2, "guidance": 1.0}
    first = part(sampler, "pictures")
    press(sampler, "set", ["steps", 5])
    assert part(sampler, "pictures") != first
    assert sampler.picture.tobytes() == to_pil(draw(base, autoencoder, b, INVERT, steps=5)).tobytes()
    sampler.set(guidance=2.0)
    press(sampler, "set", ["instruction", "1"])
    assert sampler.picture.tobytes() == to_pil(draw(base, autoencoder, b, OTHER, 5, 2.0)).tobytes()
    assert "<b>10</b> times" in part(sampler, "numbers")
    sampler.reset()
    assert part(sampler, "pictures") == first


def test_controls_are_labelled(base: Base, autoencoder: MiniAutoencoder, b: Tensor) -> None:
    sampler = Sampler(base, autoencoder, b, ["", INVERT], steps=1, guidance=2.0)
    assert [x.label for x in sampler.controls.values()] == ["instruction", "steps", "guidance"]
    assert f"<option value='0'>{NO_INSTRUCTION}</option><option value='1'>{INVERT}</option>" in part(
        sampler, "controls"
    )
    assert "alt='result'" in part(sampler, "pictures")
    assert "<b>1</b> time " in part(sampler, "numbers")


def test_without_a_kernel_a_picture_is_shown(base: Base, autoencoder: MiniAutoencoder, b: Tensor) -> None:
    fallback(Sampler(base, autoencoder, b, [INVERT], steps=1), 400, 900_000)


def test_the_table_shows_b_and_every_setting(
    base: Base, autoencoder: MiniAutoencoder, b: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STEPS_SHOWN", (1, 3))
    monkeypatch.setattr(module, "GUIDANCE_SHOWN", (1.0, 2.0))
    figure = Sampler(base, autoencoder, b, [INVERT], steps=1).fallback()
    (axes,) = figure.axes
    written = [text.get_text() for text in axes.texts if text.get_text()]
    assert written[:-1] == ["b", "1 step", "3 steps", "guidance 1", "guidance 2"]
    assert INVERT in written[-1] and "kernel" in written[-1]
    assert len(axes.images) == 1 + 4
    expected = to_pil(draw(base, autoencoder, b, INVERT, steps=3, guidance=2))
    shown = np.asarray(axes.images[-1].get_array())
    assert np.array_equal(shown, np.asarray(expected.resize((256, 256), Image.Resampling.LANCZOS)))


def test_the_strip_shows_every_state_and_estimate(
    base: Base, autoencoder: MiniAutoencoder, b: Tensor, latent: Tensor
) -> None:
    path = trajectory(base, latent, None, steps=3)
    figure = strip(autoencoder, path, b, b.flip(2), title="a title")
    (axes,) = figure.axes
    assert len(axes.images) == 2 + 4 + 3
    written = [text.get_text() for text in axes.texts]
    for text in ("a title", "b", "true b′", "t = 1", "t = 0.333", "the result", "seen from 0.667"):
        assert text in written
    assert len(strip(autoencoder, path, b).axes[0].images) == 1 + 4 + 3


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"steps": 17},
        {"steps": 2.0},
        {"steps": True},
        {"guidance": 0.5},
        {"guidance": 4.5},
        {"guidance": float("nan")},
        {"guidance": "2"},
        {"seed": -1},
        {"seed": 0.5},
    ],
)
def test_bad_arguments(
    base: Base, autoencoder: MiniAutoencoder, b: Tensor, latent: Tensor, wrong: dict[str, Any]
) -> None:
    for call in (
        lambda: draw(base, autoencoder, b, INVERT, **wrong),
        lambda: trajectory(base, latent, None, **wrong),
        lambda: Sampler(base, autoencoder, b, [INVERT], **wrong),
    ):
        with pytest.raises(InputError, match=r"expected .* got"):
            call()


@pytest.mark.parametrize("instructions", [[], INVERT])
def test_a_sampler_needs_a_list_of_instructions(
    base: Base, autoencoder: MiniAutoencoder, b: Tensor, instructions: Any
) -> None:
    with pytest.raises(InputError, match="at least one instruction"):
        Sampler(base, autoencoder, b, instructions)


def test_a_trajectory_is_of_one_picture(base: Base, latent: Tensor) -> None:
    with pytest.raises(InputError, match="one picture"):
        trajectory(base, latent[None], None)
