"""The plane of two principal components: the projection onto the simplex, and the way from a place to a mixture."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import brentq, minimize
from torch import Tensor

from lorweb_mini.algebra import Map, pca
from lorweb_mini.analysis.plane import decode, onto_simplex, thin, view_of
from lorweb_mini.errors import InputError

# --- the simplex ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "nearest"),
    [
        ([0.2, 0.3, 0.5], [0.2, 0.3, 0.5]),
        ([2.0, 0.0, 0.0], [1.0, 0.0, 0.0]),
        ([0.6, 0.6, -0.2], [0.5, 0.5, 0.0]),
        ([7.0, 7.0, 7.0, 7.0], [0.25, 0.25, 0.25, 0.25]),
        ([0.0, 0.0], [0.5, 0.5]),
        ([-5.0], [1.0]),
        ([1.1, -0.1], [1.0, 0.0]),
        ([1e12, 0.0], [1.0, 0.0]),
    ],
)
def test_known_points_of_the_simplex(x: list[float], nearest: list[float]) -> None:
    assert onto_simplex(torch.tensor(x)).tolist() == pytest.approx(nearest, abs=1e-6)


def _threshold(x: np.ndarray) -> np.ndarray:
    """The θ at which max(x − θ, 0) sums to 1, by looking for a root in place of sorting."""
    theta = brentq(lambda theta: np.maximum(x - theta, 0).sum() - 1, x.min() - 1, x.max())
    return np.maximum(x - theta, 0)


def test_the_projection_against_root_finding() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5, 8, 6)) * rng.choice([0.1, 1, 10], size=(5, 8, 1))
    found = onto_simplex(torch.from_numpy(x))
    assert found.shape == x.shape and (found >= 0).all()
    for index in itertools.product(range(5), range(8)):
        np.testing.assert_allclose(found[index], _threshold(x[index]), atol=1e-9)


def test_the_projection_against_a_solver_that_knows_only_the_constraints() -> None:
    rng = np.random.default_rng(1)
    for x in rng.normal(size=(6, 5)):
        solved = minimize(
            lambda c, x=x: ((c - x) ** 2).sum(),
            np.full(5, 0.2),
            jac=lambda c, x=x: 2 * (c - x),
            bounds=[(0, None)] * 5,
            constraints={"type": "eq", "fun": lambda c: c.sum() - 1},
            method="SLSQP",
            options={"ftol": 1e-14},
        )
        np.testing.assert_allclose(onto_simplex(torch.from_numpy(x)), solved.x, atol=1e-5)


def test_no_point_of_the_simplex_is_nearer() -> None:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(50, 7, generator=generator, dtype=torch.float64)
    nearest = onto_simplex(x)
    others = torch.rand(400, 7, generator=generator, dtype=torch.float64).log().mul(3).softmax(-1)
    apart = (x[:, None] - others).norm(dim=-1).amin(1)
    assert (apart >= (x - nearest).norm(dim=-1)).all()
    torch.testing.assert_close(onto_simplex(nearest), nearest)
    torch.testing.assert_close(onto_simplex(x + 3.5), nearest)
    assert onto_simplex(x.float()).dtype == torch.float32


@pytest.mark.parametrize("x", [torch.tensor(1.0), torch.zeros(3, 0), torch.tensor([0.0, float("nan")])])
def test_what_has_no_projection(x: Tensor) -> None:
    with pytest.raises(InputError, match=r"expected finite numbers .* got"):
        onto_simplex(x)


# --- from the plane to a mixture ------------------------------------------------------------------

N, LAYERS = 4, 3


def plane(k: int = 30) -> tuple[np.ndarray, Map]:
    """Mixtures of 3 layers × 4 that lie in a plane, and their map."""
    rng = np.random.default_rng(3)
    ends = rng.dirichlet(np.ones(N), size=(3, LAYERS)).reshape(3, -1)
    vectors = rng.dirichlet(np.ones(3), size=k) @ ends
    return vectors, pca(vectors)


def test_a_mixture_in_the_plane_comes_back_unmoved() -> None:
    vectors, found = plane()
    decoded = decode(found, found.points, N)
    np.testing.assert_allclose(decoded.coefficients.flatten(1), vectors, atol=1e-6)
    np.testing.assert_allclose(decoded.landed, found.points, atol=1e-8)
    np.testing.assert_allclose(decoded.moved, 0, atol=1e-8)
    assert (decoded.rows == 0).all()


def test_a_place_beyond_is_decoded_as_a_loop_does_it() -> None:
    _, found = plane()
    places = np.array([[0.0, 0.0], [2.0, -1.0], [-0.6, 0.4]])
    decoded = decode(found, places, N)
    assert decoded.coefficients.shape == (3, LAYERS, N) and decoded.coefficients.dtype == torch.float32
    for i, (x, y) in enumerate(places):
        raw = found.centre + x * found.axes[0] + y * found.axes[1]
        rows = [_threshold(raw[layer * N : (layer + 1) * N]) for layer in range(LAYERS)]
        np.testing.assert_allclose(decoded.coefficients[i], rows, atol=1e-6)
        assert decoded.moved[i] == pytest.approx(np.linalg.norm(np.concatenate(rows) - raw), abs=1e-8)
        outside = [raw[layer * N : (layer + 1) * N].min() < -1e-9 for layer in range(LAYERS)]
        assert decoded.rows[i] == pytest.approx(np.mean(outside))
        np.testing.assert_allclose(decoded.landed[i], found.axes[:2] @ (np.concatenate(rows) - found.centre), atol=1e-9)
    assert decoded.moved[0] < 1e-8 and decoded.rows[1] > 0.5


@pytest.mark.parametrize("places", [[0.0, 1.0], [[0.0, 1.0, 2.0]], [[0.0, float("nan")]]])
def test_places_that_are_none(places: list) -> None:
    with pytest.raises(InputError, match="expected finite places"):
        decode(plane()[1], np.array(places), N)


def test_a_map_of_something_else() -> None:
    with pytest.raises(InputError, match="a map with two components"):
        decode(plane()[1], np.zeros((1, 2)), 5)
    with pytest.raises(InputError, match="a map with two components"):
        decode(pca(plane()[0], 1), np.zeros((1, 2)), N)


def test_thinned_squares_do_not_overlap_and_none_could_be_added() -> None:
    places = np.random.default_rng(4).uniform(0, 10, size=(200, 2))
    order = list(range(199, -1, -1))
    kept = thin(places, 1.0, order)
    assert kept[0] == 199 and 20 < len(kept) < 100

    def overlap(i: int, j: int) -> bool:
        return abs(places[i, 0] - places[j, 0]) < 1 and abs(places[i, 1] - places[j, 1]) < 1

    assert not any(overlap(i, j) for i, j in itertools.combinations(kept, 2))
    assert all(any(overlap(i, j) for j in kept) for i in range(200) if i not in kept)
    assert thin(places, 0.0, range(200)) == list(range(200))


@pytest.mark.parametrize("stretch", [(1, 1), (30, 1), (1, 30), (0, 0)])
def test_the_view_holds_all_points_at_one_scale(stretch: tuple[float, float]) -> None:
    points = np.random.default_rng(5).normal(size=(40, 2)) * stretch
    view = view_of(points)
    page = view.to_page(points)
    assert (page[:, 0] >= view.left).all() and (page[:, 0] <= view.left + view.width).all()
    assert (page[:, 1] >= view.top).all() and (page[:, 1] <= view.top + view.height).all()
    corners = view.to_page(np.array([[view.x0, view.y1], [view.x1, view.y0]]))
    np.testing.assert_allclose(corners, [[view.left, view.top], [view.left + view.width, view.top + view.height]])
    assert view.width / (view.x1 - view.x0) == pytest.approx(view.height / (view.y1 - view.y0))
