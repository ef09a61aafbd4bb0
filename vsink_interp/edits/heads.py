"""The heads that an edit acts on: their notation, checks and masks."""

import torch
from jaxtyping import Bool
from torch import Tensor

from ..errors import NotationError
from ..graph import Heads, HookPoint, Site, Sizes, settled


def check_heads(heads: Heads, n_heads: int | None = None) -> None:
    """Refuse heads that are not head numbers, or that a layer does not have.

    **Raises:** `NotationError` listing the valid numbers.
    """
    if isinstance(heads, str):  # read in full when the model is known: `Node.sized`
        return
    numbers = heads_of(heads)
    if numbers is None:
        return
    if not numbers or min(numbers) < 0:
        raise NotationError(f"heads={heads!r}: head numbers from 0 on, or None for all")
    if n_heads is not None and max(numbers) >= n_heads:
        raise NotationError(f"heads={heads!r}: a layer of this model has heads 0 to {n_heads - 1}")


def heads_of(heads: Heads) -> tuple[int, ...] | None:
    """Heads as numbers; None means all.

    **Raises:** `NotationError` for a range written as text, which only a model can resolve.
    """
    if heads is None:
        return None
    found = settled(heads, "head")
    if isinstance(found, str):
        raise NotationError(
            f"heads={heads!r} depend on how many heads a model has; run the edit on a model, or "
            "give numbers"
        )
    return (found,) if isinstance(found, int) else found


def heads_at(site: Site, heads: Heads, n_heads: int) -> Bool[Tensor, " head"]:
    """The heads as a mask, computed once per run and layer."""
    return site.once(("heads", heads), lambda whole: head_mask(heads, n_heads, whole.masks.device))


def head_mask(heads: Heads, n_heads: int, device: torch.device) -> Bool[Tensor, " head"]:
    """The heads as a mask."""
    numbers = heads_of(heads)
    chosen = torch.full((n_heads,), numbers is None, device=device)
    if numbers is not None:
        chosen[list(numbers)] = True
    return chosen


def count_heads(point: HookPoint, sizes: Sizes) -> int:
    """How many heads the value of a hook point has: those of queries, or of keys and values."""
    return sizes.n_kv_heads if "kv_head" in point.axes else sizes.n_heads


def heads_along(site: Site, heads: Heads, value: Tensor) -> Bool[Tensor, "..."]:
    """The heads as a mask along the axis that they have in a value."""
    axis = next(i for i, name in enumerate(site.hook.axes) if name in ("head", "kv_head"))
    shape = [1] * value.ndim
    shape[axis] = value.shape[axis]
    return heads_at(site, heads, value.shape[axis]).view(shape)
