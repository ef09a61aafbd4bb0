"""Which heads an edit acts on: checked notation shared by the edits of heads."""

import torch
from jaxtyping import Bool
from torch import Tensor

from ..errors import NotationError
from ..graph import Heads, Site, settled


def check_heads(heads: Heads, n_heads: int | None = None) -> None:
    """Refuse heads that are no head numbers, or that a layer does not have.

    **Raises:** `NotationError` with the legal numbers.
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
    """Heads as numbers; None is all of them.

    **Raises:** `NotationError` for text, whose numbers the model decides.
    """
    if heads is None:
        return None
    found = settled(heads, "head")
    if isinstance(found, str):
        raise NotationError(
            f"heads={heads!r} are counted in a model: run it there, or name numbers"
        )
    return (found,) if isinstance(found, int) else found


def heads_at(site: Site, heads: Heads, n_heads: int) -> Bool[Tensor, " head"]:
    """The heads as a mask, made once a run at each layer."""
    return site.once(("heads", heads), lambda whole: head_mask(heads, n_heads, whole.masks.device))


def head_mask(heads: Heads, n_heads: int, device: torch.device) -> Bool[Tensor, " head"]:
    """The heads as a mask."""
    numbers = heads_of(heads)
    chosen = torch.full((n_heads,), numbers is None, device=device)
    if numbers is not None:
        chosen[list(numbers)] = True
    return chosen
