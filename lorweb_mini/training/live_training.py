"""Watch a basis and its router while they train: the loss, the perplexity of every layer, unseen pictures.

:class:`Watched` stands between a recipe and :func:`~lorweb_mini.training.loop.train` and looks at the editor every few
seconds. A look draws from no generator that the training draws from, so a watched run ends bit for bit where an
unwatched one does. What was seen is a :class:`Film`. It lies beside the training's own state, and a killed run goes on
filming where it goes on learning.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor

from ..emoji.relations import Analogy, as_batch
from ..errors import InputError
from ..files import write_atomically
from .basis import BasisRecipe
from .loop import Recipe
from .state import STATE, read_progress

FILM = "film.safetensors"


@dataclass(frozen=True)
class Film:
    """What was seen of a training of N LoRAs, m looks at k analogies.

    Attributes:
        steps: steps taken before each look, int [m].
        losses: mean loss since the look before, [m]; NaN where no step lies between.
        perplexity: exp of the entropy of one routing, 1 to N, mean over the analogies: [m, layers].
        frames: what the editor drew, uint8 [m, k, 3, 64, 64]; ``pictures`` is the same in [-1, 1].
    """

    steps: Tensor
    losses: Tensor
    perplexity: Tensor
    frames: Tensor

    @property
    def pictures(self) -> Tensor:
        return self.frames.float() / 127.5 - 1

    def before(self, step: int) -> Film:
        """The looks that were taken before a step."""
        return Film(*(tensor[self.steps < step] for tensor in vars(self).values()))

    def followed_by(self, later: Film) -> Film:
        """This film and then another one."""
        return Film(*map(torch.cat, zip(vars(self).values(), vars(later).values(), strict=True)))

    def save(self, folder: str | Path) -> None:
        """Writes the film into a folder, whole or not at all."""
        write_atomically(Path(folder) / FILM, to_bytes({k: v.contiguous() for k, v in vars(self).items()}))


def read_film(folder: str | Path) -> Film:
    """Reads what :meth:`Film.save` wrote; InputError where there is no film, or a damaged one."""
    path = Path(folder) / FILM
    try:
        return Film(**load_file(path))
    except (SafetensorError, OSError, TypeError) as error:
        said = f"expected the film of a watched training, got none or a damaged one: {path} ({error})"
        raise InputError(said) from None


def unfinished(folder: str | Path) -> int:
    """The step at which a killed training in a folder will go on; 0 where there is none to go on with."""
    try:
        return int(read_progress(Path(folder) / STATE)["step"])
    except (InputError, TypeError, ValueError):
        return 0  # of a damaged file the training itself says what is wrong


class Watched(Recipe):
    """A recipe that is looked at before its first step, every few seconds, and when its weights are saved.

    The last look is at the moving average that is saved, all others at the weights in training.

    Args:
        recipe: a basis with a router, in training.
        items: k analogies to look at; better of emoji that no training sees.
        folder: the training's; ``film.safetensors`` goes there after each look.
        every: seconds between looks, from the end of one to the start of the next.
        show: called with the film so far after each look.

    Attributes:
        step: steps taken, those of the killed run included that this one goes on with.
        film: what was seen so far; None before the first look.
        seconds: what looking has cost. A training by the clock pays it out of its minutes.

    Raises:
        InputError: a recipe without a router, or no analogies.
    """

    def __init__(
        self,
        recipe: BasisRecipe,
        items: Sequence[Analogy],
        folder: str | Path,
        every: float = 6.0,
        show: Callable[[Film], None] | None = None,
    ) -> None:
        super().__init__()
        if recipe.router is None or not items:
            router = "none" if recipe.router is None else "one"
            raise InputError(f"expected a recipe with a router and at least one analogy, got {router} and {len(items)}")
        self.recipe, self.folder, self.every, self.show = recipe, Path(folder), every, show
        self.triplets = as_batch(list(items))[:3]
        self.step, self.seconds = unfinished(folder), 0.0
        self.film: Film | None = None
        if self.step and (self.folder / FILM).is_file():
            film = read_film(folder)
            if film.frames.shape[1] == len(items):
                # A kill leaves looks behind that lie after the last checkpoint: these steps are taken again.
                self.film = film.before(self.step)
        self._losses: list[float] = []
        self._last = -math.inf

    def parameter_groups(self) -> list[dict[str, Any]]:
        return self.recipe.parameter_groups()

    def configuration(self) -> dict[str, Any]:
        return self.recipe.configuration()

    def place(self, device: torch.device) -> None:
        self.recipe.place(device)

    def batch(self, rng: np.random.Generator, size: int) -> dict[str, Tensor]:
        return self.recipe.batch(rng, size)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        if time.perf_counter() - self._last >= self.every:
            self.look()
        out = self.recipe(batch)
        self._losses.append(out["loss"].item())
        self.step += 1
        return out

    def save(self, folder: Path) -> None:
        self.look()
        self.recipe.save(folder)

    def look(self) -> None:
        """Draws the analogies with the weights of this moment, and adds that to the film."""
        started = time.perf_counter()
        result = self.recipe.editor.edit(*self.triplets)
        perplexity = torch.special.entr(result.coefficients).sum(-1).exp().mean(0)
        loss = sum(self._losses) / len(self._losses) if self._losses else math.nan
        frames = ((result.pictures + 1) * 127.5).round().byte()
        seen = Film(torch.tensor([self.step]), torch.tensor([loss]), perplexity[None], frames[None])
        self.film = seen if self.film is None else self.film.followed_by(seen)
        self.film.save(self.folder)
        if self.show is not None:
            self.show(self.film)
        self._losses.clear()
        self._last = time.perf_counter()
        self.seconds += self._last - started
