"""Explicit attention against plain torch with repeated keys."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from vsink_interp.kernels import add_mask, attend, attention_scores, softmax

B, Q, K, D = 2, 5, 9, 8


def tensors(heads, kv_heads, dtype=torch.float64):
    torch.manual_seed(0)
    query = torch.randn(B, heads, Q, D, dtype=dtype)
    return query, *torch.randn(2, B, kv_heads, K, D, dtype=dtype)


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (4, 1), (6, 2)])
def test_scores_share_keys_among_query_heads(heads, kv_heads):
    query, key, _ = tensors(heads, kv_heads)
    repeated = key.repeat_interleave(heads // kv_heads, 1)
    want = torch.einsum("bhqd,bhkd->bhqk", query, repeated) * 0.3
    torch.testing.assert_close(attention_scores(query, key, 0.3), want)


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (4, 1), (6, 2)])
def test_attend_shares_values_among_query_heads(heads, kv_heads):
    _, _, value = tensors(heads, kv_heads)
    pattern = torch.rand(B, heads, Q, K, dtype=torch.float64)
    repeated = value.repeat_interleave(heads // kv_heads, 1)
    want = torch.einsum("bhqk,bhkd->bqhd", pattern, repeated)
    torch.testing.assert_close(attend(pattern, value), want)


def whole(query, key, value, mask, positions):
    scores = add_mask(attention_scores(query, key, D**-0.5), mask, positions)
    return attend(softmax(scores, mask).to(value.dtype), value)


@pytest.mark.parametrize("form", ["none", "boolean", "additive"])
def test_the_chain_equals_torchs_attention(form):
    query, key, value = tensors(4, 2, torch.float32)
    positions = torch.arange(K - Q, K)
    allowed = (torch.arange(K) <= positions[:, None])[None, None].repeat(B, 1, 1, 1)
    if form != "none":
        allowed[1, :, :, :3] = False  # padding of the second sample
    mask = {
        "none": None,
        "boolean": allowed,
        "additive": torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(torch.float).min),
    }[form]
    keys, values = (x.repeat_interleave(2, 1) for x in (key, value))
    want = scaled_dot_product_attention(query, keys, values, attn_mask=allowed).transpose(1, 2)
    torch.testing.assert_close(whole(query, key, value, mask, positions), want)


def test_a_mask_wider_than_the_keys_is_cut_to_them():
    scores = torch.zeros(1, 1, 1, 3)
    wide = torch.tensor([[[[True, False, True, False, False]]]])
    assert add_mask(scores, wide, torch.tensor([2])).isinf().tolist() == [[[[False, True, False]]]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_an_additive_mask_forbids_wholly_and_else_is_added(dtype):
    """transformers forbids with the most negative number, to which a position bias may be added."""
    least = torch.finfo(dtype).min
    mask = torch.tensor([[[[0.0, -3.0, least, least * 0.75]]]], dtype=dtype)
    scores = add_mask(torch.full((1, 1, 1, 4), 2.0, dtype=dtype), mask, torch.tensor([3]))
    assert scores.tolist() == [[[[2.0, -1.0, -torch.inf, -torch.inf]]]]


@pytest.mark.parametrize("additive", [False, True])
def test_a_row_that_padding_blinds_is_zero_and_only_that_one(additive):
    mask = torch.tensor([[[[False, False], [True, False]]]])
    if additive:
        mask = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float).min)
    scores = add_mask(torch.zeros(1, 1, 2, 2), mask, torch.arange(2))
    assert softmax(scores, mask).tolist() == [[[[0.0, 0.0], [1.0, 0.0]]]]


def test_a_row_that_an_edit_blinds_is_nan_not_zero():
    """Nothing hides a wrong cut."""
    scores = torch.full((1, 1, 1, 2), -torch.inf)
    assert softmax(scores).isnan().all()
    assert softmax(scores, torch.ones(1, 1, 1, 2, dtype=torch.bool)).isnan().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_softmax_is_taken_in_fp32_and_stays_there(dtype):
    scores = (torch.randn(1, 2, 3, 400, generator=torch.Generator().manual_seed(0)) * 4).to(dtype)
    want = torch.softmax(scores.double(), -1)
    got = softmax(scores)
    assert got.dtype == torch.float32
    assert (got.double() - want).abs().max() <= 4 * torch.finfo(torch.float32).eps * want.max()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_learned_sink_is_one_more_column_that_is_not_shown(dtype):
    scores = torch.randn(B, 2, Q, K, generator=torch.Generator().manual_seed(0)).to(dtype)
    sinks = torch.tensor([2.0, -1.0])
    powers = scores.double().exp()
    want = powers / (powers.sum(-1, keepdim=True) + sinks.double().exp()[:, None, None])
    got = softmax(scores, learned_sinks=sinks)
    assert got.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(got, want.to(got.dtype))
    assert softmax(scores).dtype == got.dtype
