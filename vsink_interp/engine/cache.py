"""A KV cache from which tokens were dropped, and that counts as if they were still there.

Only `update` shows that something is missing: it returns fewer keys. Lengths, masks and positions,
which transformers derives from the length of the cache, go on as before; `AttentionBinding` knows
which token each key belongs to.
"""

from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer
from typing_extensions import override

from ..errors import CapabilityError
from ..graph import CacheEdit
from ..hooks import CACHE
from .kept import Kept
from .progress import Progress
from .wrapped import Wrapped


@final
class ShortenedLayer(DynamicLayer):
    """The cache of one block, cut after the first pass.

    **Arguments:**

    - `choose`: says what stays, once the first pass has reached the block.
    - `show`: told, in every later pass, what the keys at hand are.
    """

    is_croppable = False

    def __init__(self, choose: Callable[[], Kept], show: Callable[[Kept], None]) -> None:
        super().__init__()
        self.choose = choose
        self.show = show
        self.kept: Kept | None = None
        self.seen = 0

    @override
    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Add keys and values; return those that attention sees."""
        self.seen += key_states.shape[2]
        if self.kept is not None:
            self.show(self.kept)
            return super().update(key_states, value_states, *args, **kwargs)
        self.lazy_initialization(key_states, value_states)
        self.kept = self.choose()
        self.keys, self.values = self.kept.take(key_states), self.kept.take(value_states)
        return key_states, value_states

    @override
    def get_seq_length(self) -> int:
        """How many tokens went through, dropped ones included."""
        return self.seen


def shortened(wrapped: Wrapped, progress: Progress) -> DynamicCache | None:
    """The cache that a plan asks for: cut after the prefill in some blocks; None if in none.

    **Raises:** `CapabilityError` for a block whose cache is no plain one, or for an attention
    function other than sdpa and eager.
    """
    cuts = progress.plan.cuts
    if not cuts:
        return None
    cache = DynamicCache(config=wrapped.config)
    known: dict[tuple[CacheEdit, ...], Kept] = {}
    for layer, edits in cuts.items():
        _refuse_odd(wrapped, cache, layer)
        cache.layers[layer] = ShortenedLayer(
            lambda layer=layer, edits=edits: _choose(progress, layer, edits, known),
            lambda kept, layer=layer: progress.shown.__setitem__(layer, kept),
        )
    return cache


def _refuse_odd(wrapped: Wrapped, cache: DynamicCache, layer: int) -> None:
    kind = type(cache.layers[layer])
    if kind is not DynamicLayer:
        plain = [
            i for i, one in enumerate(cache.layers) if type(one) in (DynamicLayer, ShortenedLayer)
        ]
        raise CapabilityError(
            f"block {layer} keeps its keys in a {kind.__name__}, from which none can be dropped; "
            + (f"name other blocks, layers={tuple(plain)}; or " if plain else "")
            + "cut the flow instead, as in Knockout('image -> generated')"
        )
    name = wrapped.layers[0].self_attn.config._attn_implementation
    if name not in ("sdpa", "eager"):
        raise CapabilityError(
            f"keys are dropped with attention 'sdpa' or 'eager', not {name!r}; load the model with "
            "attn_implementation='sdpa'"
        )


def _choose(
    progress: Progress,
    layer: int,
    edits: tuple[CacheEdit, ...],
    known: dict[tuple[CacheEdit, ...], Kept],
) -> Kept:
    if edits in known:
        return known[edits]
    length = progress.masks.layout.prompt_length
    site = progress.site(CACHE, layer, range(length), length)
    dropped = torch.stack([edit.dropped(site) for edit in edits]).any(0)
    kept = Kept(site.keys("all") & ~dropped)
    if not any(edit.needs_phi for edit in edits):
        known[edits] = kept
    return kept
