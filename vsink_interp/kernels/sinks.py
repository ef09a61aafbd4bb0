"""The sink-dimension value phi of Kang et al. (2025)."""

import torch
from torch import Tensor


def normalised(resid: Tensor, eps: float = 0.0) -> Tensor:
    """RMS-normalise without the learned gain: ``x / sqrt(mean(x^2) + eps)``, in fp32.

    ``resid`` is batch token d_model.
    """
    wide = resid.float()
    return wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)


def sink_value(
    resid: Tensor, dims: "tuple[int, ...] | list[int] | Tensor", eps: float = 0.0
) -> Tensor:
    """phi: the largest absolute RMS-normalised residual over the sink dimensions.

    ``resid`` is batch token d_model, entering the layer; the result is batch token, in fp32.
    Kang et al. (2025), equation (A-3) of our docs: no learned gain, no eps. Their code adds
    ``eps=1e-6``.
    """
    wide = resid.float()
    scale = torch.rsqrt(wide.pow(2).mean(-1) + eps)
    return wide[..., list(dims)].abs().amax(-1) * scale
