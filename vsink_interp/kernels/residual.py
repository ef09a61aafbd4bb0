"""Edits of the residual stream."""

import torch
from torch import Tensor


def with_norm_of(resid: Tensor, added: Tensor) -> Tensor:
    """``resid + added``, scaled back to the norm of ``resid``; the sum of opposites stays zero.

    ``resid`` is batch query d_model, ``added`` d_model. Norms are computed in fp32.
    """
    wide = resid.to(torch.promote_types(resid.dtype, torch.float32))
    new = wide + added.to(wide.dtype)
    norm, other = (torch.linalg.vector_norm(x, dim=-1, keepdim=True) for x in (wide, new))
    return (new * (norm / other.clamp_min(1e-30))).to(resid.dtype)
