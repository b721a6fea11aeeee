"""The three layouts, their tokens and ids laid out by hand."""

from __future__ import annotations

import pytest
import torch
from diffusers import FluxKontextPipeline
from torch import Tensor

from lorweb_mini.core.layout import LAYOUTS, Layout, grid, pack
from lorweb_mini.errors import InputError

SIZES = {"b": (16, 16), "tokens": (16, 48), "grid": (64, 64)}


def _triplet(h: int = 8, w: int = 8) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    a, a_prime, b, b_prime = torch.randn(4, 2, 16, h, w)
    return a, a_prime, b, b_prime


def test_there_are_three() -> None:
    assert set(LAYOUTS) == set(SIZES)
    with pytest.raises(InputError, match=r"expected a layout.*got 'rows'"):
        Layout("rows")


@pytest.mark.parametrize("name", LAYOUTS)
def test_numbers_of_tokens(name: str) -> None:
    a, a_prime, b, b_prime = _triplet()
    layout, (drawn, seen) = Layout(name), SIZES[name]
    context = (a, a_prime) if layout.needs_context else (None, None)
    assert layout.drawn() == drawn
    assert layout.target(a, a_prime, b, b_prime).shape == (2, drawn, 64)
    assert layout.references(*context, b).shape == (2, seen, 64)
    assert layout.ids().shape == (drawn + seen, 3)
    assert len({tuple(row) for row in layout.ids().tolist()}) == drawn + seen, "no two tokens share a place"


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("size", [(8, 8), (4, 12)])
def test_result_of_the_target_is_b_prime(name: str, size: tuple[int, int]) -> None:
    a, a_prime, b, b_prime = _triplet(*size)
    layout = Layout(name)
    target = layout.target(a, a_prime, b, b_prime)
    assert target.shape[1] == layout.drawn(*size)
    assert torch.equal(layout.result(target, *size), b_prime)


def test_b_sees_b_alone() -> None:
    _, _, b, _ = _triplet()
    layout = Layout("b")
    assert not layout.needs_context
    assert torch.equal(layout.references(None, None, b), pack(b))
    assert torch.equal(layout.references(b + 1, b + 2, b), pack(b)), "a and a' must not reach the transformer"


def test_tokens_are_b_then_a_then_a_prime() -> None:
    a, a_prime, b, _ = _triplet()
    seen = Layout("tokens").references(a, a_prime, b)
    for k, picture in enumerate((b, a, a_prime)):
        theirs = FluxKontextPipeline._pack_latents(picture, 2, 16, 8, 8)
        assert torch.equal(seen[:, 16 * k : 16 * (k + 1)], theirs)
    first_axis = Layout("tokens").ids()[:, 0]
    assert first_axis.tolist() == [0] * 16 + [1] * 16 + [2] * 16 + [3] * 16


@pytest.mark.parametrize(("name", "rows"), [("b", 4), ("tokens", 4), ("grid", 8)])
def test_each_picture_has_kontext_ids(name: str, rows: int) -> None:
    theirs = FluxKontextPipeline._prepare_latent_image_ids(1, rows, rows, "cpu", torch.float32)
    for k, ids in enumerate(Layout(name).ids().split(rows * rows)):
        expected = theirs.clone()
        expected[:, 0] = k
        assert torch.equal(ids, expected)


def test_grid_is_the_papers() -> None:
    a, a_prime, b, b_prime = _triplet()
    layout = Layout("grid")
    for tokens, corner in (
        (layout.references(a, a_prime, b), b),
        (layout.target(a, a_prime, b, b_prime), b_prime),
    ):
        whole = FluxKontextPipeline._unpack_latents(tokens, 128, 128, 8)
        assert torch.equal(whole[:, :, :8, :8], a) and torch.equal(whole[:, :, :8, 8:], a_prime)
        assert torch.equal(whole[:, :, 8:, :8], b) and torch.equal(whole[:, :, 8:, 8:], corner)
    assert torch.equal(grid(a, a_prime, b, b_prime)[0, 3, 9, 2], b[0, 3, 1, 2])


def test_references_never_hold_b_prime() -> None:
    a, a_prime, b, _ = _triplet()
    for name in LAYOUTS:
        assert "b_prime" not in Layout.references.__annotations__
        assert torch.equal(Layout(name).references(a, a_prime, b), Layout(name).references(a, a_prime, b))


@pytest.mark.parametrize("name", ["tokens", "grid"])
def test_missing_context(name: str) -> None:
    with pytest.raises(InputError, match="expected a context"):
        Layout(name).references(None, None, torch.zeros(1, 16, 8, 8))
