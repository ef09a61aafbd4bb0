"""Cutting edges, and drawing the random control."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from vsink_interp.kernels import cut, cut_tokens, edges_between, random_like

B, H, Q, K = 2, 3, 4, 6
CAUSAL = torch.arange(K) <= torch.arange(K - Q, K)[:, None]


def case(seed):
    torch.manual_seed(seed)
    scores = torch.randn(B, H, Q, K).masked_fill(~CAUSAL, -torch.inf)
    return scores, torch.rand(B, Q) < 0.6, torch.rand(B, K) < 0.5


@pytest.mark.parametrize("kernel", [cut, cut_tokens])
@pytest.mark.parametrize("seed", range(5))
def test_exactly_the_named_edges_go(kernel, seed):
    scores, rows, columns = case(seed)
    columns[:, 0] = False  # every row keeps a key
    got = kernel(scores, edges_between(columns, rows))
    removed = 0
    for b, h, q, k in np.ndindex(B, H, Q, K):
        gone = bool(rows[b, q] and columns[b, k])
        assert got[b, h, q, k] == (-torch.inf if gone else scores[b, h, q, k])
        removed += gone
    assert removed > 5


@pytest.mark.parametrize("by_row", [False, True])
@pytest.mark.parametrize("by_head", [False, True])
def test_edges_are_where_column_row_and_head_are_named(by_row, by_head):
    _, rows, columns = case(0)
    heads = torch.tensor([True, False, True])
    found = edges_between(columns, rows if by_row else None, heads if by_head else None)
    for b, h, q, k in np.ndindex(B, H, Q, K):
        wanted = columns[b, k] and (rows[b, q] or not by_row) and (heads[h] or not by_head)
        assert found.expand(B, H, Q, K)[b, h, q, k] == bool(wanted)


def test_rows_have_edges_in_heads_of_their_own():
    _, rows, columns = case(0)
    heads = torch.rand(B, H, Q) < 0.5
    found = edges_between(columns, rows, heads)
    for b, h, q, k in np.ndindex(B, H, Q, K):
        assert found[b, h, q, k] == (columns[b, k] and rows[b, q] and heads[b, h, q])


def test_cut_tokens_leaves_a_row_its_last_resort():
    scores = torch.zeros(1, 1, 2, 3).masked_fill(
        ~torch.tensor([[1, 1, 0], [1, 1, 1]]).bool(), -torch.inf
    )
    columns = torch.tensor([[True, True, False]])
    got = cut_tokens(scores, edges_between(columns, torch.ones(1, 2, dtype=torch.bool)))
    assert (got[0, 0, 0] == scores[0, 0, 0]).all(), "row 0 would have lost every key"
    assert got[0, 0, 1].tolist() == [-torch.inf, -torch.inf, 0.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("score", [-30.0, 0.0, 40.0])
def test_a_key_that_an_additive_mask_forbids_is_no_last_resort(dtype, score):
    """transformers' eager mask forbids with the most negative number, not with -inf."""
    least = torch.tensor(torch.finfo(dtype).min, dtype=dtype)
    forbidden = torch.tensor(score, dtype=dtype) + least
    scores = torch.stack([torch.tensor(score, dtype=dtype), forbidden])[None, None, None]
    only = torch.tensor([[True, False]])
    got = cut_tokens(scores, edges_between(only, torch.ones(1, 1, dtype=torch.bool)))
    assert (got == scores).all(), "the row was sent to a key that the mask forbids"


@settings(max_examples=80, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 12))
def test_the_control_draws_as_many_tokens_from_the_pool(seed, n):
    torch.manual_seed(seed)
    chosen, pool, draw = torch.rand(3, n) < 0.4, torch.rand(3, n) < 0.6, torch.rand(3, n)
    got = random_like(chosen, pool, draw)
    assert not (got & ~pool).any()
    assert (got.sum(-1) == torch.minimum(chosen.sum(-1), pool.sum(-1))).all()
    for b in range(3):
        places = pool[b].nonzero().flatten().tolist()
        first = sorted(places, key=lambda k: float(draw[b, k]))[: int(chosen[b].sum())]
        assert got[b].nonzero().flatten().tolist() == sorted(first)
