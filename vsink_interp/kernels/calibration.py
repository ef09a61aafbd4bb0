"""Attention calibration: sinks by mean attention, and their surplus given to the other tokens."""

import torch
from torch import Tensor


def calibrate(
    pattern: Tensor,
    counted: Tensor,
    positions: Tensor,
    spared: Tensor,
    rows: Tensor,
    heads: Tensor,
    threshold: float,
    keep: float,
) -> Tensor:
    """Let the sinks of each head keep the share ``keep``; their rows give the rest to all others.

    Yu et al. (2024), arXiv 2406.15765, as in their released code: a key is a sink of a head if the
    rows that can see it give it more than ``threshold`` on average; ``spared`` keys (the first
    token) never are. What sinks lose goes to every other key of the row, in proportion to what it
    has. A row that has nothing but sinks is left as it is, and every row keeps its sum.

    The average is over the ``counted`` rows; a row that is not counted is judged by itself.

    ``pattern`` is batch head query key, ``counted`` and ``rows`` (those that may change) batch
    query, ``positions`` query (the token of each row), ``spared`` batch key, ``heads`` head.
    """
    wide = pattern.to(torch.promote_types(pattern.dtype, torch.float32))
    keys = torch.arange(pattern.shape[-1], device=pattern.device)
    seen = counted[..., None] & (positions[:, None] >= keys)
    sums = (wide * counted[:, None, :, None]).sum(2)
    means = sums / seen.sum(1).clamp_min(1)[:, None]
    judged = torch.where(counted[:, None, :, None], means[:, :, None], wide)
    sink = (judged > threshold) & ~spared[:, None, None]
    given, held = (wide * sink).sum(-1), (wide * ~sink).sum(-1)
    gain = 1 + (1 - keep) * given / held.clamp_min(torch.finfo(held.dtype).tiny)
    new = wide * torch.where(sink, keep, gain[..., None])
    acts = rows[:, None] & heads[:, None] & (held > 0)
    return torch.where(acts[..., None], new, wide).to(pattern.dtype)
