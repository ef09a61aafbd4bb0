"""What probes compute, against explicit loops."""

import numpy as np
import torch

from tests.engine.counting import Counting
from vsink_interp.kernels import (
    attributed,
    contribution,
    group_mass,
    head_result,
    non_sink_ratio,
    output_along,
    output_gram,
    value_along,
    value_norms,
)

B, H, KV, Q, K, D, M = 2, 4, 2, 3, 7, 5, 6


def rows():
    torch.manual_seed(0)
    return torch.softmax(torch.randn(B, H, Q, K, dtype=torch.float64), -1)


def test_group_mass_is_the_sum_over_the_keys_of_each_group():
    pattern, groups = rows(), torch.rand(B, K, 3) < 0.5
    got = group_mass(pattern, groups)
    for b, h, q, g in np.ndindex(B, H, Q, 3):
        want = sum(float(pattern[b, h, q, k]) for k in range(K) if groups[b, k, g])
        np.testing.assert_allclose(got[b, h, q, g], want)


def test_groups_that_divide_the_keys_sum_to_one():
    kind = torch.randint(0, 3, (B, K))
    groups = torch.stack([kind == i for i in range(3)], -1)
    torch.testing.assert_close(group_mass(rows(), groups).sum(-1), torch.ones(B, H, Q).double())


def test_the_non_sink_ratio_by_loop():
    pattern, image = rows(), torch.zeros(B, K, dtype=torch.bool)
    image[:, 1:6] = True
    sink = torch.tensor([[1, 1, 0, 0, 0, 0, 0], [0, 0, 0, 1, 1, 0, 1]]).bool()
    got = non_sink_ratio(pattern, sink, image)
    for b, h, q in np.ndindex(B, H, Q):
        row = pattern[b, h, q].numpy()
        seen, fresh = image[b].numpy(), (image[b] & ~sink[b]).numpy()
        np.testing.assert_allclose(got[b, h, q], row[fresh].sum() / row[seen].sum())
    assert got.min() < 0.95, "no sink took anything"


def test_the_ratio_of_a_row_that_sees_no_image_is_nan():
    nothing = torch.zeros(B, K, dtype=torch.bool)
    assert non_sink_ratio(rows(), nothing, nothing).isnan().all()


def test_contribution_by_loop():
    pattern = rows()
    value, weight = torch.randn(B, KV, K, D).double(), torch.randn(H, D, M).double()
    got = contribution(pattern, value_norms(value, output_gram(weight)))
    assert got.shape == (B, Q, K)
    for b, q, k in np.ndindex(B, Q, K):
        norms = [
            np.linalg.norm(float(pattern[b, h, q, k]) * (value[b, h // 2, k] @ weight[h]).numpy())
            for h in range(H)
        ]
        np.testing.assert_allclose(got[b, q, k], np.mean(norms))


def test_contribution_in_half_precision_is_that_of_the_rounded_numbers():
    pattern = rows().float()
    value, weight = torch.randn(B, KV, K, D).half(), torch.randn(H, D, M).half()
    value[0, 1, 3] = 0
    got = contribution(pattern, value_norms(value, output_gram(weight)))
    shared = value.double().repeat_interleave(H // KV, 1)
    added = torch.einsum("bhqk,bhkd,hdm->bhqkm", pattern.double(), shared, weight.double())
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), added.norm(dim=-1).mean(1), rtol=1e-5, atol=1e-6)


def test_values_that_a_head_writes_nothing_of_have_a_norm_of_about_zero():
    """The square of it comes out a little below zero for some of them."""
    torch.manual_seed(0)
    weight = torch.randn(300, 2, 16)
    weight[:, 1] = 3 * weight[:, 0]
    value = torch.tensor([3.0, -1.0]).expand(1, 1, 1, 2)
    norms = value_norms(value, output_gram(weight))
    assert norms.isfinite().all()
    assert norms.max() < 0.1


def test_contribution_makes_nothing_as_wide_as_the_model_per_key():
    """As wide as a model: 40 keys of 2 heads that write 512 numbers each."""
    gram = output_gram(torch.randn(2, 4, 512))
    with Counting() as made:
        contribution(torch.rand(1, 2, 3, 40), value_norms(torch.randn(1, 1, 40, 4), gram))
    assert 0 < max(made.sizes) <= 2 * 40 * 4


def test_head_results_sum_to_the_projection():
    z, projection = torch.randn(B, Q, H, D).double(), torch.randn(M, H * D).double()
    weight = torch.stack([projection[:, h * D : (h + 1) * D].T for h in range(H)])
    got = head_result(z, weight)
    torch.testing.assert_close(got.sum(2), z.reshape(B, Q, H * D) @ projection.T)
    torch.testing.assert_close(got[:, :, 1], z[:, :, 1] @ weight[1])


def test_what_attention_writes_along_a_direction_by_loop():
    pattern, groups = rows(), torch.rand(B, K, 3) < 0.5
    value, weight = torch.randn(B, KV, K, D), torch.randn(H, D, M)
    direction = torch.randn(M)
    along = value_along(value, output_along(weight, direction))
    got = attributed(pattern, along, groups)
    for b, h, q, g in np.ndindex(B, H, Q, 3):
        want = sum(
            float(pattern[b, h, q, k]) * float(value[b, h // 2, k] @ weight[h] @ direction)
            for k in range(K)
            if groups[b, k, g]
        )
        np.testing.assert_allclose(got[b, h, q, g], want, rtol=1e-4, atol=1e-5)
