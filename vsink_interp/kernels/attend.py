"""Explicit attention for selected rows: scores, mask, softmax and weighted values."""

import torch
from torch import Tensor


def attention_scores(query: Tensor, key: Tensor, scaling: float) -> Tensor:
    """Scaled dot products of selected query rows with every key.

    ``query`` is batch head query d_head, ``key`` batch kv_head key d_head; the result is
    batch head query key. Query heads that share a key head are packed into its rows, so keys
    are never repeated.
    """
    batch, heads, rows, width = query.shape
    packed = query.reshape(batch * key.shape[1], -1, width)
    keys = key.flatten(0, 1).transpose(1, 2)
    # beta=0: the first argument lends its shape alone, so that scaling is no operation of its own.
    scores = torch.baddbmm(packed[..., :1], packed, keys, beta=0, alpha=scaling)
    return scores.view(batch, heads, rows, key.shape[2])


def add_mask(scores: Tensor, mask: Tensor | None, positions: Tensor) -> Tensor:
    """Mask scores: set them to -inf where a row may not attend.

    ``scores`` is batch head query key. ``mask`` is what transformers hands to attention, cut to
    these rows: None (causal), boolean (true = may attend) or additive. ``positions`` is query:
    the key index of each row itself. Forbidden scores become -inf, whatever the form.
    """
    if mask is None:
        keys = torch.arange(scores.shape[-1], device=scores.device)
        return scores.masked_fill(keys > positions[:, None], -torch.inf)
    mask = mask[..., : scores.shape[-1]]
    if mask.dtype == torch.bool:
        return scores.masked_fill(~mask, -torch.inf)
    forbidden = mask <= torch.finfo(mask.dtype).min / 2
    return (scores + mask).masked_fill(forbidden, -torch.inf)


def softmax(
    scores: Tensor, mask: "Tensor | None" = None, learned_sinks: "Tensor | None" = None
) -> Tensor:
    """The attention pattern of masked scores, in fp32 (float64 for scores of float64).

    ``scores`` is batch head query key. ``learned_sinks`` is head: a learned score of each head that
    takes part in the softmax and belongs to no key (GPT-OSS); rows then sum to less than one. Where
    ``mask`` lets a row see nothing (padding), the row is zero; any other NaN is left to be seen.
    Edits and probes compute with it before it is rounded to the values' precision in `attend`.
    """
    wide = torch.float64 if scores.dtype == torch.float64 else torch.float32
    if learned_sinks is None:
        pattern = torch.softmax(scores, dim=-1, dtype=wide)
    else:
        column = learned_sinks.to(wide)[:, None, None].expand(*scores.shape[:-1], 1)
        joined = torch.cat([scores.to(wide), column], -1)
        pattern = torch.softmax(joined, dim=-1)[..., :-1].contiguous()
    if mask is None:
        return pattern
    sees = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
    return pattern.masked_fill(~sees.any(-1, keepdim=True), 0.0)


def log_total(scores: Tensor) -> Tensor:
    """The logarithm of the sum of the exponentials of each row's scores, at least in fp32.

    ``scores`` is batch head query key, the result batch head query.
    """
    return torch.logsumexp(scores.to(torch.promote_types(scores.dtype, torch.float32)), -1)


def attend(pattern: Tensor, value: Tensor) -> Tensor:
    """Weigh the values by a pattern, in the values' precision.

    ``pattern`` is batch head query key, ``value`` batch kv_head key d_head; the result is batch
    query head d_head, the layout of `attn.hook_z`.
    """
    batch, heads, rows, keys = pattern.shape
    if pattern.dtype != value.dtype:
        pattern = pattern.to(value.dtype)
    packed = torch.bmm(pattern.reshape(batch * value.shape[1], -1, keys), value.flatten(0, 1))
    return packed.view(batch, heads, rows, value.shape[-1]).transpose(1, 2)
