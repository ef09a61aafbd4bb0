"""phi against numpy, from equation (A-3)."""

import numpy as np
import pytest
import torch

from vsink_interp.kernels import normalised, sink_value


def resid(dtype=torch.float32):
    torch.manual_seed(0)
    x = torch.randn(2, 5, 16) * 3
    x[0, 0, [3, 11]] = torch.tensor([-80.0, 20.0])
    return x.to(dtype)


@pytest.mark.parametrize("eps", [0.0, 1e-6, 1.0])
@pytest.mark.parametrize(
    "dims", [(3,), (0,), (15,), (11, 3), (0, 15), (5, 4), [0, 5, 15], torch.tensor([11, 0])]
)
def test_phi_is_the_largest_normalised_sink_dimension(dims, eps):
    x = resid().double().numpy()
    scale = np.sqrt((x**2).mean(-1, keepdims=True) + eps)
    want = np.abs(x / scale)[..., list(dims)].max(-1)
    np.testing.assert_allclose(sink_value(resid(), dims, eps), want, rtol=2e-6)


def test_phi_takes_the_absolute_value_and_lies_below_the_root_of_the_width():
    phi = sink_value(resid(), (3, 11))
    assert phi[0, 0] > 3.5
    assert (phi <= 16**0.5).all()


@pytest.mark.parametrize("dims", [(16,), (3, 16), (-1, 3), (1, 3, 16), torch.tensor([3, 16])])
def test_dimensions_that_are_not_there_are_refused(dims):
    with pytest.raises((IndexError, RuntimeError)):
        sink_value(resid(), dims)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_phi_of_half_precision_is_computed_in_fp32(dtype):
    x = resid(dtype) * 100  # the square of 8000 overflows fp16
    got = sink_value(x, (3, 11))
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, sink_value(x.float(), (3, 11)))
    assert torch.isfinite(got).all()


def test_normalised_rows_have_unit_mean_square():
    torch.testing.assert_close(normalised(resid()).square().mean(-1), torch.ones(2, 5))


def test_phi_agrees_with_normalised():
    want = normalised(resid(), 1e-3)[..., [3, 11]].abs().amax(-1)
    torch.testing.assert_close(sink_value(resid(), (3, 11), 1e-3), want)
