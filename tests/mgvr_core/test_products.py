"""Inner products: a pair's bits are its own, whatever else is multiplied beside it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from drawn import normal
from hypothesis import given, settings
from hypothesis import strategies as st

from mgvr_core.products import product

pytestmark = pytest.mark.usefixtures("one_thread")


@settings(deadline=None, max_examples=150)
@given(
    B=st.integers(1, 3),
    n=st.integers(1, 70),
    N=st.integers(1, 90),
    D=st.integers(8, 512) | st.sampled_from([64, 128, 512]),
    seed=st.integers(0, 999),
    data=st.data(),
)
def test_the_bits_of_a_pair_do_not_depend_on_what_is_beside_it(
    B: int, n: int, N: int, D: int, seed: int, data: st.DataObject
) -> None:
    random = np.random.default_rng(seed)
    rows, columns = normal(random, B, n, D), normal(random, B, N, D)
    whole = product(rows, columns)
    assert whole.shape == (B, n, N)
    rows_of = np.sort(random.choice(n, data.draw(st.integers(1, n)), replace=False))
    columns_of = np.sort(random.choice(N, data.draw(st.integers(1, N)), replace=False))
    b = data.draw(st.integers(0, B - 1))
    part = product(rows[b : b + 1, rows_of], columns[b : b + 1, columns_of])
    assert torch.equal(part[0], whole[b][rows_of][:, columns_of])


@settings(deadline=None, max_examples=50)
@given(n=st.integers(1, 40), N=st.integers(1, 40), D=st.integers(8, 512), seed=st.integers(0, 999))
def test_it_is_the_inner_product(n: int, N: int, D: int, seed: int) -> None:
    """Within the rounding of a sum of D products: D 2^-24 times that of their magnitudes."""
    random = np.random.default_rng(seed)
    rows, columns = normal(random, 2, n, D), normal(random, 2, N, D)
    exact = torch.einsum("bnd,bmd->bnm", rows.double(), columns.double())
    size = torch.einsum("bnd,bmd->bnm", rows.double().abs(), columns.double().abs())
    assert ((product(rows, columns).double() - exact).abs() <= D * 2.0**-24 * size).all()


def test_nothing_meets_nothing() -> None:
    assert product(torch.ones(0, 3, 8), torch.ones(0, 2, 8)).shape == (0, 3, 2)
