"""Low-rank products against the matrices that they never build."""

from __future__ import annotations

import pytest
import torch

from lorweb_mini.algebra import fold, gram, svd_of_product, truncated
from lorweb_mini.errors import InputError


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_fold_is_the_sum_of_products(dtype: torch.dtype) -> None:
    low, high, c = torch.randn(4, 2, 7).to(dtype), torch.randn(4, 9, 2).to(dtype), torch.randn(4)
    a, b = fold(low, high, c)
    assert a.shape == (8, 7) and b.shape == (9, 8)
    assert a.dtype == b.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    expected = sum(c[n].double() * high[n].double() @ low[n].double() for n in range(4))
    torch.testing.assert_close((b @ a).double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("out", "inner", "width"), [(40, 5, 30), (7, 7, 90), (12, 1, 12), (9, 8, 5), (4, 6, 7)])
def test_svd_of_product_is_that_of_the_built_product(out: int, inner: int, width: int) -> None:
    high, low = torch.randn(out, inner).double(), torch.randn(inner, width).double()
    u, s, v = svd_of_product(high, low)
    k = min(out, inner, width)
    torch.testing.assert_close(s, torch.linalg.svdvals(high @ low)[:k])
    torch.testing.assert_close(u * s @ v.T, high @ low)
    for orthonormal in (u, v):
        torch.testing.assert_close(orthonormal.T @ orthonormal, torch.eye(k).double())


def test_svd_of_a_product_of_lower_rank() -> None:
    high, low = torch.randn(20, 4), torch.randn(4, 10)
    high[:, 2] = high[:, 0] - high[:, 1]
    high[:, 3] = 0
    u, s, v = svd_of_product(high, low)
    assert (s[2:] < 1e-4 * s[0]).all()
    torch.testing.assert_close(u * s @ v.T, high @ low, atol=1e-4, rtol=1e-4)


def test_gram_holds_the_inner_products_of_the_updates() -> None:
    low, high = torch.randn(3, 2, 6), torch.randn(3, 5, 2)
    updates = (high.double() @ low.double()).flatten(1)
    torch.testing.assert_close(gram(low, high), updates @ updates.T)


@pytest.mark.parametrize("rank", [0, -1, 1.5, True, None])
def test_truncation_refuses(rank: object) -> None:
    with pytest.raises(InputError, match="expected a rank as a whole number of at least 1"):
        truncated({"layer": (torch.ones(2, 3), torch.ones(4, 2))}, rank)  # type: ignore[arg-type]
