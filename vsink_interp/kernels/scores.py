"""Edits of attention scores by size: scaling and shifting what some rows see of some keys."""

import torch
from torch import Tensor


def edges_of(
    scores: Tensor, rows: "Tensor | None", columns: Tensor, heads: "Tensor | None" = None
) -> Tensor:
    """Where an edit acts: batch head query key, true at ``rows`` x ``columns`` of ``heads``.

    ``scores`` is batch head query key, ``rows`` batch query, ``columns`` batch key, ``heads`` head;
    None is all of them. Entries that the mask forbids are false, so that nothing hidden is made
    visible.
    """
    # Half of the least number: an additive mask leaves forbidden scores just above it.
    edges = (scores > torch.finfo(scores.dtype).min / 2) & columns[:, None, None]
    if rows is not None:
        edges = edges & rows[:, None, :, None]
    return edges if heads is None else edges & heads[:, None, None]


def scale_scores(scores: Tensor, edges: Tensor, factor: float) -> Tensor:
    """``factor * score`` on the edges; both are batch head query key."""
    return torch.where(edges, scores * factor, scores)


def raise_scores(scores: Tensor, edges: Tensor, share: float) -> Tensor:
    """``score + share * |score|`` on the edges; both are batch head query key."""
    return torch.where(edges, scores + share * scores.abs(), scores)


def add_scores(scores: Tensor, edges: Tensor, amount: float) -> Tensor:
    """``score + amount`` on the edges; both are batch head query key."""
    return torch.where(edges, scores + amount, scores)
