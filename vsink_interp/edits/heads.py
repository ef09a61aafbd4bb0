"""Which heads an edit acts on: checked notation shared by the edits of heads."""

import torch
from jaxtyping import Bool
from torch import Tensor

from ..errors import NotationError
from ..graph import Site

Heads = tuple[int, ...] | None
"""Query heads counted from 0; None is all of them."""


def check_heads(heads: Heads, n_heads: int | None = None) -> None:
    """Refuse heads that are no head numbers, or that a layer does not have.

    **Raises:** `NotationError` with the legal numbers.
    """
    if heads is None:
        return
    # True and False are whole numbers to Python.
    if not heads or not all(type(head) is int and head >= 0 for head in heads):
        raise NotationError(f"heads={heads!r}: a tuple of head numbers from 0 on, or None for all")
    if n_heads is not None and max(heads) >= n_heads:
        raise NotationError(f"heads={heads!r}: a layer of this model has heads 0 to {n_heads - 1}")


def heads_at(site: Site, heads: Heads, n_heads: int) -> Bool[Tensor, " head"]:
    """The heads as a mask, made once a run at each layer."""
    return site.once(("heads", heads), lambda whole: head_mask(heads, n_heads, whole.masks.device))


def head_mask(heads: Heads, n_heads: int, device: torch.device) -> Bool[Tensor, " head"]:
    """The heads as a mask."""
    chosen = torch.full((n_heads,), heads is None, device=device)
    if heads is not None:
        chosen[list(heads)] = True
    return chosen
