"""A watched training: the same weights as an unwatched one, and a film that tells what was there."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import pictures, tiny_editor
from torch import Tensor

from lorweb_mini.core.editor import Editor
from lorweb_mini.emoji.relations import Analogy
from lorweb_mini.errors import InputError
from lorweb_mini.show.figures import film_figure
from lorweb_mini.training.config import TrainingConfig
from lorweb_mini.training.flow import training_sample
from lorweb_mini.training.live_training import FILM, Film, Watched, read_film, unfinished
from lorweb_mini.training.loop import Recipe, torch_generator, train
from lorweb_mini.training.state import STATE

N, STEPS, ALWAYS = 3, 6, 0.0
CONFIG = TrainingConfig(
    steps=STEPS, batch_size=2, learning_rate=3e-2, warmup_steps=2, ema_decay=0.9, log_every=1, checkpoint_minutes=1e-9
)


class Tiny(Recipe):
    """A basis and a router that learn random latents; the same at every call."""

    def __init__(self, routed: bool = True, stop_at: int | None = None) -> None:
        super().__init__()
        self.editor = tiny_editor(layout="b" if routed else "tokens", n_loras=N, routed=routed)
        self.router, self.transformer = self.editor.router, self.editor.base.transformer
        self.stop_at, self.drawn = stop_at, 0
        self.losses: list[float] = []

    def parameter_groups(self) -> list[dict[str, Any]]:
        for parameter in self.editor.basis.parameters():
            parameter.requires_grad_(True)
        return [{"params": self.editor.basis.parameters()}, {"params": list(self.router.parameters()), "scale": 0.1}]

    def configuration(self) -> dict[str, Any]:
        return {"problem": "tiny"}

    def batch(self, rng: np.random.Generator, size: int) -> dict[str, Tensor]:
        if self.drawn == self.stop_at:
            raise KeyboardInterrupt
        self.drawn += 1
        a, a_prime, b, b_prime = torch.randn(4, size, 16, 8, 8, generator=torch_generator(rng))
        return {
            "a": a,
            "a_prime": a_prime,
            "b": b,
            **training_sample(rng, self.editor.layout.target(a, a_prime, b, b_prime)),
        }

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        editor, b = self.editor, batch["b"]
        with editor.basis.mixed(editor.coefficients(batch["a"], batch["a_prime"], b)):
            references = editor.layout.references(None, None, b)
            v = editor.base.velocity(batch["noisy"], batch["t"], references, editor.layout.ids())
        loss = (v - batch["velocity"]).pow(2).mean()
        self.losses.append(loss.item())
        return {"loss": loss}

    def save(self, folder: Path) -> None:
        self.editor.save(folder)


def _items(k: int = 2) -> list[Analogy]:
    four = [pictures(k, seed) for seed in range(4)]
    return [Analogy(*(x[i] for x in four), "edit/grey", "test", ("", "", "", "")) for i in range(k)]


def _weights(editor: Editor) -> list[Tensor]:
    return [p.detach().clone() for p in [*editor.basis.parameters(), *editor.router.parameters()]]


def _by_hand(editor: Editor, items: list[Analogy]) -> tuple[list[float], Tensor]:
    """Perplexity of each layer, one number at a time, and the frames."""
    routings = [editor.route(x.a, x.a_prime, x.b)[0].double().numpy() for x in items]
    layers = [np.mean([math.exp(-sum(c * math.log(c) for c in routing[i])) for routing in routings])
              for i in range(len(editor.basis.layers))]  # fmt: skip
    drawn = torch.cat([editor.edit(x.a, x.a_prime, x.b).pictures for x in items])
    return layers, drawn


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """An unwatched run."""
    recipe = Tiny()
    train(recipe, CONFIG, tmp_path_factory.mktemp("plain"))
    return recipe


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Watched:
    """The same run, looked at before every step."""
    folder = tmp_path_factory.mktemp("whole")
    watched = Watched(Tiny(), _items(), folder, every=ALWAYS)
    train(watched, CONFIG, folder)
    return watched


def test_looking_changes_nothing(plain: Tiny, whole: Watched) -> None:
    assert whole.recipe.losses == plain.losses
    assert all(torch.equal(x, y) for x, y in zip(_weights(whole.recipe.editor), _weights(plain.editor), strict=True))


def test_a_look_before_every_step_and_at_the_end(plain: Tiny, whole: Watched) -> None:
    film = whole.film
    assert film.steps.tolist() == list(range(STEPS + 1))
    assert math.isnan(film.losses[0])
    np.testing.assert_allclose(film.losses[1:], plain.losses, rtol=1e-5)
    assert film.frames.shape == (STEPS + 1, 2, 3, 64, 64) and film.frames.dtype == torch.uint8
    assert whole.step == STEPS and whole.seconds > 0


def test_what_the_first_and_the_last_look_saw(whole: Watched) -> None:
    """The untrained editor at first, the average that is saved at last."""
    for look, editor in ((0, Tiny().editor), (-1, whole.recipe.editor)):
        layers, drawn = _by_hand(editor, _items())
        np.testing.assert_allclose(whole.film.perplexity[look], layers, rtol=1e-4)
        assert (whole.film.pictures[look] - drawn).abs().max() <= 1 / 127.5
    assert (whole.film.frames[0] != whole.film.frames[-1]).any()


def test_few_looks_gather_the_losses_between(plain: Tiny, tmp_path: Path) -> None:
    shown: list[int] = []
    watched = Watched(Tiny(), _items(), tmp_path, every=1e9, show=lambda film: shown.append(len(film.steps)))
    train(watched, CONFIG, tmp_path)
    assert watched.film.steps.tolist() == [0, STEPS] and shown == [1, 2]
    assert float(watched.film.losses[1]) == pytest.approx(np.mean(plain.losses), rel=1e-5)


def test_a_killed_run_goes_on_filming(whole: Watched, tmp_path: Path) -> None:
    assert unfinished(tmp_path) == 0
    with pytest.raises(KeyboardInterrupt):
        train(Watched(Tiny(stop_at=4), _items(), tmp_path, every=ALWAYS), CONFIG, tmp_path)
    assert unfinished(tmp_path) == 4
    seen = read_film(tmp_path)
    assert seen.steps.tolist() == [0, 1, 2, 3]
    # Looks beyond the checkpoint, as a kill leaves them.
    seen.followed_by(Film(seen.steps[-2:] + 2, *(x[-2:] for x in list(vars(seen).values())[1:]))).save(tmp_path)

    resumed = Watched(Tiny(), _items(), tmp_path, every=ALWAYS)
    assert resumed.step == 4
    train(resumed, CONFIG, tmp_path)
    assert unfinished(tmp_path) == 0 and not (tmp_path / STATE).exists()
    film = read_film(tmp_path)
    assert film.steps.tolist() == list(range(STEPS + 1))
    assert torch.equal(film.perplexity, whole.film.perplexity)
    assert torch.equal(film.frames, whole.film.frames)
    assert all(
        torch.equal(x, y) for x, y in zip(_weights(resumed.recipe.editor), _weights(whole.recipe.editor), strict=True)
    )


def test_a_film_of_other_analogies_is_begun_anew(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(Watched(Tiny(stop_at=3), _items(), tmp_path, every=ALWAYS), CONFIG, tmp_path)
    watched = Watched(Tiny(), _items(3), tmp_path, every=ALWAYS)
    train(watched, CONFIG, tmp_path)
    assert watched.film.steps.tolist() == [3, 4, 5, 6]
    assert watched.film.frames.shape[1] == 3


@pytest.mark.parametrize("content", [None, b"", b"no film"], ids=["none", "empty", "foreign"])
def test_no_film(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / FILM).write_bytes(content)
    with pytest.raises(InputError, match=r"expected the film of a watched training, got none or a damaged one"):
        read_film(tmp_path)


def test_a_damaged_state_is_left_to_the_training(tmp_path: Path) -> None:
    (tmp_path / STATE).write_bytes(b"no state")
    watched = Watched(Tiny(), _items(), tmp_path)
    assert watched.step == 0
    with pytest.raises(InputError, match="damaged file"):
        train(watched, CONFIG, tmp_path)


def test_a_training_in_bf16_is_looked_at_in_single_precision(tmp_path: Path) -> None:
    watched = Watched(Tiny(), _items(), tmp_path, every=ALWAYS)
    train(watched, replace(CONFIG, precision="bf16"), tmp_path)
    film = read_film(tmp_path)
    assert film.frames.dtype == torch.uint8 and film.perplexity.dtype == torch.float32
    assert film.steps.tolist() == list(range(STEPS + 1))


def test_what_cannot_be_watched(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a recipe with a router and at least one analogy, got none and 2"):
        Watched(Tiny(routed=False), _items(), tmp_path)
    with pytest.raises(InputError, match="got one and 0"):
        Watched(Tiny(), [], tmp_path)


def test_the_figure_shows_the_last_look(whole: Watched) -> None:
    items = _items()
    figure = film_figure(whole.film, items, N)
    left, middle, right, _ = figure.axes
    np.testing.assert_allclose(left.lines[0].get_ydata(), whole.film.losses[1:])
    np.testing.assert_allclose(middle.collections[0].get_array().T, whole.film.perplexity, rtol=1e-6)
    now = right.images[0].get_array()[64:128, :128]
    expected = torch.cat(list(whole.film.frames[-1]), 2).permute(1, 2, 0)
    assert np.abs(now.astype(int) - expected.numpy().astype(int)).max() <= 1
    assert "6 steps" in right.get_title(loc="left")
    assert film_figure(whole.film.before(1), items, N).axes[0].lines[0].get_xdata().size == 0


def test_a_figure_of_nothing(whole: Watched) -> None:
    with pytest.raises(InputError, match="expected a film of 2 analogies with at least one look, got 0 looks at 2"):
        film_figure(whole.film.before(0), _items(), N)
    with pytest.raises(InputError, match="expected a film of 3 analogies"):
        film_figure(whole.film, _items(3), N)
