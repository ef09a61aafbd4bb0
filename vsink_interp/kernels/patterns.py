"""Edits of attention patterns beside VAR: moving mass between groups, copying heads."""

import torch
from torch import Tensor


def move_mass(
    pattern: Tensor, source: Tensor, target: Tensor, rows: Tensor, share: float, heads: Tensor
) -> Tensor:
    """Move ``share`` of each row's attention on ``source`` to ``target``, in proportion.

    ``pattern`` is batch head query key, ``source`` and ``target`` batch key, ``rows`` batch query,
    ``heads`` head. Tokens of both groups count as source. Rows keep their sum; a row that gives
    the target nothing is left as it is.
    """
    target = target & ~source
    columns = torch.stack([source, target], -1)[:, None].to(pattern.dtype)
    given, held = (pattern @ columns).unbind(-1)
    acts = rows[:, None] & heads[:, None] & (held > 0)
    gain = share * given / held.clamp_min(torch.finfo(held.dtype).tiny)
    change = gain[..., None] * target[:, None, None] - share * source[:, None, None].to(gain.dtype)
    return torch.where(acts[..., None], pattern + pattern * change, pattern)


def copy_head(pattern: Tensor, source: int, heads: Tensor, rows: Tensor) -> Tensor:
    """Give the rows of ``heads`` the pattern of head ``source``.

    ``pattern`` is batch head query key, ``heads`` head, ``rows`` batch query.
    """
    acts = (rows[:, None] & heads[:, None])[..., None]
    return torch.where(acts, pattern[:, source : source + 1], pattern)
