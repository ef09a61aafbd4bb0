"""Edits of attention scores: scale or shift the scores of selected rows on selected keys."""

import torch
from torch import Tensor


def visible_edges(scores: Tensor, edges: Tensor) -> Tensor:
    """The edges that the mask allows, both batch head query key: nothing hidden is made visible."""
    # Half of the least number: an additive mask leaves forbidden scores just above it.
    return (scores > torch.finfo(scores.dtype).min / 2) & edges


def scale_scores(scores: Tensor, edges: Tensor, factor: float) -> Tensor:
    """``factor * score`` on the edges; both are batch head query key.

    Results are clamped to the range of the dtype, so that a large factor makes no row NaN: from a
    quarter of its least number, which stays clear of what a mask writes, to its greatest. Scores
    that end at one bound are alike. A factor beyond fp32 counts as its greatest number.
    """
    kind = torch.finfo(scores.dtype)
    most = torch.finfo(torch.promote_types(scores.dtype, torch.float32)).max
    new = scores * min(max(factor, -most), most)
    return torch.where(edges, new.clamp_(kind.min / 4, kind.max), scores)


def raise_scores(scores: Tensor, edges: Tensor, share: float) -> Tensor:
    """``score + share * |score|`` on the edges; both are batch head query key.

    Clamped as in `scale_scores`.
    """
    kind = torch.finfo(scores.dtype)
    most = torch.finfo(torch.promote_types(scores.dtype, torch.float32)).max
    new = scores + min(max(share, -most), most) * scores.abs()
    return torch.where(edges, new.clamp_(kind.min / 4, kind.max), scores)


def add_scores(scores: Tensor, edges: Tensor, amount: float) -> Tensor:
    """``score + amount`` on the edges; both are batch head query key.

    Clamped as in `scale_scores`.
    """
    kind = torch.finfo(scores.dtype)
    return torch.where(edges, (scores + amount).clamp_(kind.min / 4, kind.max), scores)
