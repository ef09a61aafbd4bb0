"""Attention calibration (ACT): find sinks by mean attention and give their surplus to others."""

import torch
from torch import Tensor


def calibrate(
    pattern: Tensor,
    bounds: Tensor,
    keep: float,
    rows: "Tensor | None" = None,
    counted: "Tensor | None" = None,
    positions: "Tensor | None" = None,
) -> Tensor:
    """Let the sinks of each head keep the share ``keep``; their rows give the rest to all others.

    Yu et al. (2024), arXiv 2406.15765, as in their released code: a key is a sink of a head if the
    rows from it on give it more than ``bounds`` on average. What sinks lose goes to every
    other key of the row, in proportion to what it has. A row that has nothing but sinks is left as
    it is, and every row keeps its sum.

    The average is over the ``counted`` rows, none by default; a row that is not counted is judged
    by itself.

    ``pattern`` is batch head query key; ``bounds`` batch head key, infinite at keys that are never
    sinks (the first token), and minus infinity throughout a head that is left alone; ``counted``
    and ``rows`` (those that may change, all by default) are batch query; ``positions`` is query,
    the token of each row, and wanted with ``counted``.
    """
    wide = pattern.to(torch.promote_types(pattern.dtype, torch.float32))
    judged = wide
    if counted is not None and positions is not None:
        keys = torch.arange(pattern.shape[-1], device=pattern.device)
        seen = counted[..., None] & (positions[:, None] >= keys)
        sums = (wide * seen[:, None]).sum(2)
        means = sums / seen.sum(1).clamp_min(1)[:, None]
        judged = torch.where(counted[:, None, :, None], means[:, :, None], wide)
    others = wide.masked_fill(judged > bounds[:, :, None], 0.0)
    held = others.sum(-1, keepdim=True)
    gain = wide.sum(-1, keepdim=True) / held
    # What a key has with nothing left to the sinks, and on the way to it the share `keep` back.
    new = torch.lerp(others * gain, wide, keep)
    # 1e-37: a sum divided by less would leave the range of fp32.
    acts = held > 1e-37
    if rows is not None:
        acts = acts & rows[:, None, :, None]
    return torch.where(acts, new, wide).to(pattern.dtype)
