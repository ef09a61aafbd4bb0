"""Edits of attention patterns other than VAR: moving mass between groups, copying heads."""

import torch
from torch import Tensor


def move_mass(
    pattern: Tensor,
    terms: Tensor,
    share: float,
    rows: "Tensor | None" = None,
    least: "Tensor | float" = 1e-37,
) -> Tensor:
    """Move ``share`` of each row's attention on a source to a target, in proportion.

    ``pattern`` is batch head query key, of any precision; ``terms`` is batch 2 key: one at the keys
    of the source, and at those of the target, which are no keys of the source; ``rows`` is batch
    query: the rows that may change, all by default. Rows keep their sum; a row that gives the
    target at most ``least`` is left as it is. ``least`` may be head 1, and infinite for heads to
    leave alone; a share divided by less than 1e-37 would leave the range of fp32.
    """
    half = pattern.dtype in (torch.bfloat16, torch.float16)
    wide = pattern.float() if half else pattern
    flat = wide.flatten(1, 2)
    terms = terms.to(flat.dtype)
    sums = (flat @ terms.transpose(1, 2)).view(*pattern.shape[:3], 2)
    left = sums[..., 1] <= least
    if rows is not None:
        left = left | ~rows[:, None]
    gain = (sums[..., 0] / sums[..., 1]).flatten(1)[..., None]
    # Per unit of attention and of ``share``: what a source loses, less what a target gains.
    loss = torch.addcmul(terms[:, :1], gain, terms[:, 1:], value=-1)
    loss = loss.masked_fill(left.flatten(1)[..., None], 0.0)
    return torch.addcmul(flat, flat, loss, value=-share).view_as(pattern).to(pattern.dtype)


def copy_head(pattern: Tensor, source: int, heads: Tensor, rows: Tensor) -> Tensor:
    """Give the rows of ``heads`` the pattern of head ``source``.

    ``pattern`` is batch head query key, ``heads`` head, ``rows`` batch query.
    """
    acts = (rows[:, None] & heads[:, None])[..., None]
    return torch.where(acts, pattern[:, source : source + 1], pattern)
