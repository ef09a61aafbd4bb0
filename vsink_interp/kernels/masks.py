"""Edits of attention scores: knockout and its random control."""

import torch
from torch import Tensor


def edges_between(columns: Tensor, rows: "Tensor | None", heads: "Tensor | None" = None) -> Tensor:
    """The edges from ``columns`` to ``rows`` in ``heads``: batch head query key.

    ``columns`` is batch key, ``rows`` batch query, ``heads`` head, or batch head query where rows
    have heads of their own; None is all of them, and leaves an axis of size 1.
    """
    edges = columns[:, None, None]
    if rows is not None:
        edges = edges & rows[:, None, :, None]
    if heads is None:
        return edges
    return edges & (heads[:, None, None] if heads.ndim == 1 else heads[..., None])


def cut(scores: Tensor, edges: Tensor) -> Tensor:
    """Remove edges: their pattern becomes exactly zero.

    ``scores`` is batch head query key, ``edges`` as `edges_between` gives them. A row that loses
    every key would have no softmax; `TokenLayout.check_flow` refuses it first.
    """
    return scores.masked_fill(edges, -torch.inf)


def cut_tokens(scores: Tensor, edges: Tensor) -> Tensor:
    """Remove edges, except where a row would lose every key.

    Shapes as in `cut`. A row whose remaining keys would all be cut is left as it is: the tokens
    come from what the run finds (sinks), so it cannot be refused beforehand.
    """
    reduced = scores.masked_fill(edges, -torch.inf)
    # Half of the least number: an additive mask leaves forbidden scores just above it.
    alive = (reduced > torch.finfo(scores.dtype).min / 2).any(-1, keepdim=True)
    return torch.where(alive, reduced, scores)


def random_like(chosen: Tensor, pool: Tensor, draw: Tensor) -> Tensor:
    """As many tokens of ``pool`` as ``chosen`` has, per sample, by the order of ``draw``.

    All are batch key; ``draw`` holds one random number per token. The result is a mask.
    """
    order = draw.masked_fill(~pool, 2.0).argsort(-1).argsort(-1)
    return pool & (order < chosen.sum(-1, keepdim=True))
