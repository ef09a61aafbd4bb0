"""Edits of attention patterns other than VAR: moving mass between groups, copying heads,
registers; and the heads that attend most to a group, as edits choose them row by row.
"""

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

    ``pattern`` is batch head query key, ``heads`` head, or batch head query where rows have heads
    of their own, ``rows`` batch query.
    """
    acts = (rows[:, None] & (heads[:, None] if heads.ndim == 1 else heads))[..., None]
    return torch.where(acts, pattern[:, source : source + 1], pattern)


def top_heads(pattern: Tensor, keys: Tensor, count: int, others: bool = False) -> Tensor:
    """The ``count`` heads that give ``keys`` the most attention in each row: batch head query.

    With ``others`` it is all the others. No head is chosen for a row in which none gives them any.
    ``pattern`` is batch head query key, ``keys`` batch key.
    """
    wide = pattern.to(torch.promote_types(pattern.dtype, torch.float32))
    mass = (wide @ keys.to(wide.dtype)[:, None, :, None])[..., 0].nan_to_num(nan=0.0)
    best = mass.topk(count, dim=1).indices
    chosen = torch.zeros_like(mass).scatter(1, best, 1.0) > 0
    if others:
        chosen = ~chosen
    return chosen & (mass > 0).any(1, keepdim=True)


def register(pattern: Tensor, total: Tensor, logit: float) -> Tensor:
    """The pattern with one more column of score ``logit`` in the softmax, which is left out again.

    ``pattern`` is batch head query key; ``total`` is batch head query: the logarithm of the sum of
    the exponentials of the row's scores. A row of sum r has the denominator exp(total) / r, for
    what it lacks of one is what columns before this one have taken; a row of another sum than 0 to
    1 lacks nothing.
    """
    sums = torch.nn.functional.threshold(pattern.to(total.dtype).sum(-1), 0.0, 1.0)
    left = torch.sigmoid(total - logit - sums.clamp(max=1.0).log())
    return (pattern * left[..., None]).to(pattern.dtype)
