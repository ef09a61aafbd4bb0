"""Moving mass and copying heads, row by row in numpy."""

import numpy as np
import pytest
import torch

from vsink_interp.kernels import copy_head, move_mass

B, H, Q, K = 2, 3, 4, 7
SOURCE, TARGET = [0, 3], [1, 4, 5]


def case(dtype):
    torch.manual_seed(0)
    pattern = torch.softmax(torch.randn(B, H, Q, K, dtype=torch.float64) * 2, -1)
    terms = torch.zeros(B, 2, K)
    terms[:, 0, SOURCE] = terms[:, 1, TARGET] = 1
    return pattern.to(dtype), terms


def moved(row, share, least):
    given, held = row[SOURCE].sum(), row[TARGET].sum()
    new = row.copy()
    if held > least:
        new[SOURCE] = (1 - share) * row[SOURCE]
        new[TARGET] = row[TARGET] * (1 + share * given / held)
    return new


@pytest.mark.parametrize("by_row", [False, True])
@pytest.mark.parametrize(
    ("dtype", "near"),
    [
        (torch.float64, 1e-14),
        (torch.float32, 5e-7),
        (torch.bfloat16, 2**-8),
        (torch.float16, 2**-11),
    ],
)
def test_a_share_of_the_source_goes_to_the_target_in_proportion(dtype, near, by_row):
    """In half precision, what it comes to in fp32 is rounded once."""
    pattern, terms = case(dtype)
    rows = torch.tensor([[True, False, True, True], [False, True, True, False]])
    bounds = torch.tensor([[0.3], [torch.inf], [0.0]])
    got = move_mass(pattern, terms, 0.4, rows if by_row else None, bounds)
    assert got.dtype == dtype
    acts = 0
    for b, h, q in np.ndindex(B, H, Q):
        row = pattern[b, h, q].double().numpy()
        least = np.inf if by_row and not rows[b, q] else float(bounds[h, 0])
        wanted = moved(row, 0.4, least)
        np.testing.assert_allclose(got[b, h, q].double(), wanted, rtol=near * 1.01, atol=1e-16)
        acts += bool((wanted != row).any())
    assert 3 < acts < B * H * Q - 3


@pytest.mark.parametrize(("held", "acts"), [(0.0, False), (1e-38, False), (1e-36, True)])
def test_a_target_that_has_next_to_nothing_is_not_divided_by(held, acts):
    """Below 1e-37 the quotient would leave the range of fp32."""
    row = torch.tensor([0.5, held, 0.5])[None, None, None]
    terms = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]])
    got = move_mass(row, terms, 0.5)
    assert got.isfinite().all()
    assert torch.equal(got, row) != acts
    if acts:
        assert got.flatten().tolist() == pytest.approx([0.25, 0.25, 0.5])


def test_a_row_that_gives_the_target_the_least_is_left():
    row = torch.tensor([0.5, 0.25, 0.25])[None, None, None]
    terms = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]])
    assert torch.equal(move_mass(row, terms, 0.5, least=0.25), row)
    assert not torch.equal(move_mass(row, terms, 0.5, least=0.249), row)


def test_named_rows_of_named_heads_get_the_pattern_of_another():
    pattern, _ = case(torch.float32)
    heads, rows = torch.tensor([True, False, True]), torch.tensor([[True, False] * 2, [False] * 4])
    got = copy_head(pattern, 1, heads, rows)
    for b, h, q in np.ndindex(B, H, Q):
        acts = heads[h] and rows[b, q]
        assert torch.equal(got[b, h, q], pattern[b, 1 if acts else h, q])
