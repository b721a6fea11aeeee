"""The plane of the first two principal components of routing vectors: its places as mixtures, and as pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..algebra import Map
from ..errors import InputError

WIDTH, LOW, HIGH = 470, 360, 520  # the plane on the page: its width, and what its height may be
LEFT, TOP = 48, 8  # room beside and above it
MOVED = 1e-5  # a row of coefficients that moved by less did not leave the simplex: routing is in single precision


def onto_simplex(x: Tensor) -> Tensor:
    """The nearest points with coordinates of at least 0 that sum to 1, for the last dimension of x [..., N].

        argmin_c ‖c − x‖²  =  max(x − θ, 0),        θ such that the coordinates sum to 1

    θ is one of N candidates after sorting (Held, Wolfe and Crowder 1974; Duchi et al. 2008). InputError for values
    that are not finite, and where N is 0.
    """
    if x.ndim == 0 or x.shape[-1] == 0 or not torch.isfinite(x).all():
        raise InputError(f"expected finite numbers [..., N] with N at least 1, got shape {list(x.shape)}")
    falling = x.double().sort(dim=-1, descending=True).values
    excess = falling.cumsum(-1) - 1
    # The first always stays; rounding says otherwise for numbers of 1e16.
    kept = (falling * torch.arange(1, x.shape[-1] + 1) > excess).sum(-1, keepdim=True).clamp_min(1)
    return (x.double() - excess.gather(-1, kept - 1) / kept).clamp_min(0).to(x.dtype)


@dataclass(frozen=True)
class Decoded:
    """Places on a map as mixtures."""

    coefficients: Tensor  # [m, layers, N], rows on the simplex
    landed: np.ndarray  # where these lie on the map, [m, 2]: the places themselves where nothing had to be moved
    moved: np.ndarray  # Euclidean distance of the coefficients to what inverse PCA gave, [m]
    rows: np.ndarray  # share of layers whose row inverse PCA had put outside the simplex, [m]


def decode(plane: Map, places: np.ndarray, n_loras: int) -> Decoded:
    """Places [m, 2] on the first two components of a map of routing vectors, back to coefficients.

    Inverse PCA gives ``place @ axes + centre``, whose rows of N sum to 1, since those of all analogies do; but they
    may be negative. So each layer's row is projected onto the simplex.
    """
    places = np.asarray(places, dtype=np.float64)
    if places.ndim != 2 or places.shape[1] != 2 or not np.isfinite(places).all():
        raise InputError(f"expected finite places [m, 2] on the map, got {places.tolist()!r:.80}")
    if len(plane.axes) < 2 or len(plane.centre) % n_loras:
        raise InputError(
            f"expected a map with two components of vectors of layers · {n_loras} coefficients, "
            f"got axes of shape {list(plane.axes.shape)}"
        )
    raw = torch.from_numpy(places @ plane.axes[:2] + plane.centre).unflatten(1, (-1, n_loras))
    coefficients = onto_simplex(raw)
    apart = (coefficients - raw).norm(dim=-1)
    landed = plane.place(coefficients.flatten(1).numpy())[:, :2]
    return Decoded(coefficients.float(), landed, apart.norm(dim=-1).numpy(), (apart > MOVED).double().mean(-1).numpy())


def thin(places: np.ndarray, side: float, order: Sequence[int]) -> list[int]:
    """Which of k squares of this side, centred at places [k, 2], to keep so that none overlap: indices, in ``order``.

    Greedy: a square is kept if it overlaps none that was kept before, so no other could be added.
    """
    kept: list[int] = []
    for i in order:
        if not kept or bool((np.abs(places[kept] - places[i]).max(1) >= side).all()):
            kept.append(int(i))
    return kept


@dataclass(frozen=True)
class View:
    """The part of the plane that is shown, both axes to the same scale, and its size on the page in pixels."""

    x0: float
    x1: float
    y0: float
    y1: float
    width: float
    height: float
    left: float = LEFT
    top: float = TOP

    def to_page(self, places: np.ndarray) -> np.ndarray:
        """Places [m, 2] on the map to pixels from the upper left corner."""
        scale = self.width / (self.x1 - self.x0)
        return (places - [self.x0, self.y1]) * [scale, -scale] + [self.left, self.top]


def view_of(points: np.ndarray) -> View:
    """A view with a margin around points [k, 2], of a fixed width as high as it needs to be, within limits."""
    low, high = points.min(0), points.max(0)
    middle = (low + high) / 2
    # A twelfth on each side; never empty, even for points that all coincide.
    width, height = np.maximum((high - low) * 7 / 6, 1e-6)
    tall = min(max(WIDTH * height / width, LOW), HIGH)
    scale = min(WIDTH / width, tall / height)
    half = np.array([WIDTH, tall]) / scale / 2
    (x0, y0), (x1, y1) = (middle - half).tolist(), (middle + half).tolist()
    return View(x0, x1, y0, y1, WIDTH, tall)
