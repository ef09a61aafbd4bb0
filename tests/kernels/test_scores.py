"""Scores that are scaled and shifted stay within the range of their precision."""

import pytest
import torch

from vsink_interp.kernels import add_scores, contrast, raise_scores, scale_scores

KERNELS = {
    "scale": (scale_scores, lambda x, by: x * by),
    "raise": (raise_scores, lambda x, by: x + by * x.abs()),
    "add": (add_scores, lambda x, by: x + by),
}


@pytest.mark.parametrize("name", KERNELS)
def test_what_is_named_changes(name):
    kernel, wanted = KERNELS[name]
    scores, edges = torch.randn(2, 3, 4, 5), torch.rand(2, 1, 4, 5) < 0.5
    torch.testing.assert_close(
        kernel(scores, edges, -1.5), torch.where(edges, wanted(scores, -1.5), scores)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", KERNELS)
def test_large_numbers_end_at_a_quarter_of_the_least_and_at_the_greatest(name, dtype):
    kernel, _ = KERNELS[name]
    scores, edges = torch.tensor([4.0], dtype=dtype), torch.tensor([True])
    kind = torch.finfo(dtype)
    assert kernel(scores, edges, -1e300).item() == kind.min / 4
    assert kernel(scores, edges, 1e300).item() == kind.max


def test_a_token_at_the_bound_of_plausibility_is_plausible():
    """With beta = 1 the bound is the best token itself."""
    logits = torch.tensor([[[2.0, 1.0, 2.0]]])
    got = contrast(logits, torch.zeros(1, 1, 3), 0.5, 1.0)
    assert got.tolist() == [[[3.0, -torch.inf, 3.0]]]
