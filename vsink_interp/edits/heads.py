"""The heads that an edit acts on: their notation, checks and masks."""

import torch
from jaxtyping import Bool
from torch import Tensor

from ..errors import CapabilityError, NotationError
from ..graph import Edit, Heads, HookPoint, Site, Sizes, TopHeads, settled
from ..kernels import top_heads


def check_heads(heads: Heads, n_heads: int | None = None, *, by_row: bool = False) -> None:
    """Refuse heads that are not head numbers, or that a layer does not have.

    **Arguments:**

    - `by_row`: whether heads may be chosen in every row.

    **Raises:** `NotationError` listing the valid numbers.
    """
    if isinstance(heads, str):  # read in full when the model is known: `Node.sized`
        return
    if isinstance(heads, TopHeads):
        _check_top(heads, n_heads, by_row=by_row)
        return
    numbers = heads_of(heads)
    if numbers is None:
        return
    if not numbers or min(numbers) < 0:
        raise NotationError(f"heads={heads!r}: head numbers from 0 on, or None for all")
    if n_heads is not None and max(numbers) >= n_heads:
        raise NotationError(f"heads={heads!r}: a layer of this model has heads 0 to {n_heads - 1}")


def _check_top(heads: TopHeads, n_heads: int | None, *, by_row: bool) -> None:
    if not by_row:
        raise NotationError(
            f"heads={heads!r}: this edit takes heads by their numbers; heads are chosen in every "
            "row by ScaleHeads, ScalePattern, CopyHead, Redistribute, ACT, Knockout, AddScores, "
            "ScaleScores and SoftmaxRegister"
        )
    if n_heads is not None and heads.k >= n_heads:
        raise NotationError(
            f"heads={heads!r}: a layer of this model has {n_heads} heads, so k is 1 to "
            f"{n_heads - 1}"
        )


def refuse_uneven_sinks(edit: Edit, heads: Heads, sizes: Sizes) -> None:
    """Refuse to compare heads by their scores where a learned sink takes a share of each head.

    **Raises:** `CapabilityError` naming the layers.
    """
    found = {*edit.resolved_layers(sizes.n_layers)} & {*sizes.learned_sinks}
    if isinstance(heads, TopHeads) and found:
        raise CapabilityError(
            f"{edit!r}: in layers {sorted(found)} the softmax has a learned sink for each head, so "
            "scores alone do not tell how much attention a head gives; there heads are chosen in "
            "every row by edits of patterns (ScaleHeads, ScalePattern, Redistribute)"
        )


def heads_of(heads: Heads) -> tuple[int, ...] | None:
    """Heads as numbers; None means all, or any that a row may choose.

    **Raises:** `NotationError` for a range written as text, which only a model can resolve.
    """
    if heads is None or isinstance(heads, TopHeads):
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


def heads_in(site: Site, heads: Heads, value: Tensor) -> Bool[Tensor, "..."] | None:
    """The heads that act in each row of scores or a pattern; None for all of them.

    **Returns:** head, or batch head query where rows choose their own.
    """
    if heads is None:
        return None
    if not isinstance(heads, TopHeads):
        return heads_at(site, heads, value.shape[1])
    return chosen_in(site, heads, value)


def chosen_in(site: Site, heads: TopHeads, value: Tensor) -> Bool[Tensor, "batch head query"]:
    """The heads that each row of scores or a pattern chooses."""
    scores = site.hook.name == "attn.hook_attn_scores"
    pattern = torch.softmax(value, -1, dtype=_wide(value)) if scores else value
    return top_heads(pattern, site.keys(heads.group), heads.k, heads.others)


def _wide(value: Tensor) -> torch.dtype:
    return torch.promote_types(value.dtype, torch.float32)


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
