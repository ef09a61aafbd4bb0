"""What is added to the residual stream without changing its norm."""

import numpy as np
import pytest
import torch

from vsink_interp.kernels import with_norm_of


@pytest.mark.parametrize("size", [100.0, 0.01])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_the_sum_has_the_norm_of_what_was_there(dtype, size):
    torch.manual_seed(0)
    resid, added = (size * torch.randn(2, 3, 8)).to(dtype), size * torch.randn(8)
    exact, more = resid.double().numpy(), added.double().numpy()
    got = with_norm_of(resid, added)
    assert got.dtype == dtype
    near = {torch.float64: 1e-6, torch.float32: 1e-5, torch.float16: 2e-3}[dtype]
    for b, q in np.ndindex(2, 3):
        new = exact[b, q] + more
        want = new * np.linalg.norm(exact[b, q]) / np.linalg.norm(new)
        np.testing.assert_allclose(got[b, q].double(), want, rtol=near, atol=near * size)


def test_the_sum_of_opposites_stays_zero():
    resid = torch.tensor([[[3.0, -4.0]]])
    assert with_norm_of(resid, -resid[0, 0]).flatten().tolist() == [0.0, 0.0]
