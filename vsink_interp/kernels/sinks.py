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
    Kang et al. (2025), equation A-3 of docs/papers.md: no learned gain, no eps. Their code adds
    ``eps=1e-6``. A tensor of ``dims`` on the same device spares a copy to it.
    """
    wide = resid.float()
    if isinstance(dims, Tensor) or len(dims) > 2:
        chosen = dims if isinstance(dims, Tensor) else torch.tensor(dims, device=resid.device)
        held = wide.index_select(-1, chosen)
    else:  # One dimension or two, as most models have: a view, where indexing would copy.
        first, last = min(dims), max(dims)
        if not 0 <= first <= last < resid.shape[-1]:
            raise IndexError(f"sink dimensions {dims} do not lie in 0 to {resid.shape[-1] - 1}")
        held = wide[..., first : last + 1 : max(last - first, 1)]
    peak = torch.linalg.vector_norm(held, torch.inf, -1)
    rms = torch.linalg.vector_norm(wide, dim=-1) * resid.shape[-1] ** -0.5
    return peak / (rms if eps == 0 else (rms.square() + eps).sqrt())
