"""Moving mass, copying and choosing heads, registers: row by row in numpy."""

import numpy as np
import pytest
import torch

from vsink_interp.kernels import copy_head, move_mass, register, top_heads

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


@pytest.mark.parametrize("others", [False, True])
@pytest.mark.parametrize("count", [1, 2])
def test_the_heads_that_give_the_keys_most(count, others):
    pattern, _ = case(torch.float32)
    keys = torch.zeros(B, K, dtype=torch.bool)
    keys[:, TARGET] = True
    pattern[0, :, 1, TARGET] = 0.0  # a row in which no head gives them anything
    pattern[1, 2, 3, TARGET] = torch.nan  # and one in which a head gives what is no number
    got = top_heads(pattern, keys, count, others)
    for b, q in np.ndindex(B, Q):
        mass = [np.nan_to_num(float(pattern[b, h, q, TARGET].sum())) for h in range(H)]
        best = sorted(range(H), key=mass.__getitem__, reverse=True)[:count]
        wanted = [((h in best) != others) and max(mass) > 0 for h in range(H)]
        assert got[b, :, q].tolist() == wanted


def test_few_as_they_are_the_heads_that_give_next_to_nothing_are_chosen():
    pattern, keys = torch.tensor([[[[1e-30, 1.0]], [[0.0, 1.0]]]]), torch.tensor([[True, False]])
    assert top_heads(pattern, keys, 1).flatten().tolist() == [True, False]


@pytest.mark.parametrize("before", [(), (0.3,)])
def test_a_register_is_a_column_of_the_softmax_that_is_left_out(before):
    """Rows that lack nothing of one, and rows of which an earlier column has a share."""
    torch.manual_seed(0)
    scores = torch.randn(B, H, Q, K, dtype=torch.float64)
    columns = [torch.full((B, H, Q, 1), logit, dtype=torch.float64) for logit in before]
    first = torch.softmax(torch.cat([scores, *columns], -1), -1)[..., :K]
    last = torch.full((B, H, Q, 1), 0.8, dtype=torch.float64)
    wanted = torch.softmax(torch.cat([scores, *columns, last], -1), -1)[..., :K]
    got = register(first, torch.logsumexp(scores, -1), 0.8)
    np.testing.assert_allclose(got, wanted, rtol=1e-12)


@pytest.mark.parametrize("factor", [-0.5, 0.0, 1.0, 2.0])
def test_a_row_of_another_sum_lacks_nothing(factor):
    pattern, _ = case(torch.float64)
    total = torch.full((B, H, Q), 1.3, dtype=torch.float64)
    left = np.exp(1.3) / (np.exp(1.3) + np.exp(0.8))
    got = register(pattern * factor, total, 0.8)
    np.testing.assert_allclose(got, pattern.numpy() * factor * left, rtol=1e-12)


def test_named_heads_of_each_row_get_the_pattern_of_another():
    pattern, _ = case(torch.float32)
    heads, rows = torch.rand(B, H, Q) < 0.5, torch.rand(B, Q) < 0.7
    got = copy_head(pattern, 1, heads, rows)
    for b, h, q in np.ndindex(B, H, Q):
        acts = heads[b, h, q] and rows[b, q]
        assert torch.equal(got[b, h, q], pattern[b, 1 if acts else h, q])
