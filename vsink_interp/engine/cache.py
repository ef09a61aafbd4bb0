"""A KV cache from which tokens were dropped, and that counts as if they were still there.

Only `update` shows that something is missing: it returns fewer keys. Lengths, masks and positions,
which transformers derives from the length of the cache, go on as before; `AttentionBinding` knows
which token each key belongs to.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, final

import torch
from jaxtyping import Bool
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer
from typing_extensions import override

from ..errors import CapabilityError
from ..graph import CacheEdit
from ..hooks import CACHE
from ..past import Past
from .kept import Kept
from .progress import Progress
from .wrapped import ATTENDING, Wrapped


@final
class ShortenedLayer(DynamicLayer):
    """The cache of one block, cut after the first pass, or begun with what was cut before.

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

    def resume(self, keys: Tensor, values: Tensor, kept: Kept) -> None:
        """Begin with keys and values that were kept."""
        self.lazy_initialization(keys, values)
        self.keys, self.values, self.kept, self.seen = keys, values, kept, kept.length

    @override
    def get_seq_length(self) -> int:
        """How many tokens went through, dropped ones included."""
        return self.seen


def cached(
    wrapped: Wrapped, progress: Progress, inputs: Mapping[str, Tensor], past: Past | None
) -> dict[str, Any]:
    """What `model.generate` is given beside the inputs: the cache of a run, if it is not plain.

    **Raises:** as `shortened`.
    """
    cache = shortened(wrapped, progress, past)
    if cache is None:
        return {}
    if past is None or past.shift is None:
        return {"past_key_values": cache}
    places = (inputs["attention_mask"].cumsum(-1) - 1 + past.shift).clamp_min(0)
    return {"past_key_values": cache, "position_ids": places.expand(3, -1, -1)}


def shortened(
    wrapped: Wrapped, progress: Progress, past: Past | None = None
) -> DynamicCache | None:
    """The cache of a run: cut after the prefill where the plan says so, or begun with a past.

    None leaves it to transformers.

    **Raises:** `CapabilityError` for a block whose cache is no plain one, for an attention function
    other than sdpa and eager, and for a plan that would cut a past once more.
    """
    cuts = progress.plan.cuts
    if past is None and not cuts:
        return None
    if past is not None and cuts:
        raise CapabilityError(
            f"{progress.plan.graph!r} drops keys after the prompt is read, and this prompt goes on "
            "from a context that was read before; choose what that context keeps instead"
        )
    refuse_odd(wrapped, range(wrapped.n_layers) if past else cuts)
    cache = DynamicCache(config=wrapped.config)
    known: dict[tuple[CacheEdit, ...], Kept] = {}
    for layer in range(wrapped.n_layers) if past else cuts:
        cache.layers[layer] = ShortenedLayer(
            lambda layer=layer: _choose(progress, layer, known),
            lambda kept, layer=layer: progress.shown.__setitem__(layer, kept),
        )
    if past is not None:
        _resume(cache, past, progress)
    return cache


def refuse_odd(wrapped: Wrapped, layers: Iterable[int]) -> None:
    """Refuse blocks from whose cache no keys can be taken.

    **Raises:** `CapabilityError` naming a block, and what would work.
    """
    cache = DynamicCache(config=wrapped.config)
    plain = tuple(
        i
        for i, layer in enumerate(cache.layers)
        if type(layer) is DynamicLayer and wrapped.kinds[i] in ATTENDING
    )
    for layer in set(layers) - set(plain):
        crossed = wrapped.kinds[layer] == "cross_attention"
        kept = "the keys of pictures" if crossed else f"its keys in a {_class(cache, layer)}"
        raise CapabilityError(
            f"block {layer} keeps {kept}, from which "
            + (f"none can be dropped; name other blocks, layers={plain}; or " if plain else "")
            + "cut the flow instead, as in Knockout('image -> generated')"
        )
    name = wrapped.attention_config._attn_implementation
    if name not in ("sdpa", "eager"):
        raise CapabilityError(
            f"keys are dropped with attention 'sdpa' or 'eager', not {name!r}; load the model with "
            "attn_implementation='sdpa'"
        )


def _class(cache: DynamicCache, layer: int) -> str:
    return type(cache.layers[layer]).__name__


def past_of(wrapped: Wrapped, cache: DynamicCache, kept: Bool[Tensor, "layer token"]) -> Past:
    """Keys and values of the kept tokens, from the cache of the model's last run, of one sample."""
    length, chosen = kept.shape[1], [Kept(row[None]) for row in kept]
    layers: Any = cache.layers
    pairs = list(zip(chosen, layers, strict=True))
    return Past(
        tuple(one.take(layer.keys[:, :, :length]) for one, layer in pairs),
        tuple(one.take(layer.values[:, :, :length]) for one, layer in pairs),
        kept,
        # Kept by the model from its last prompt, and lost with the next.
        int(wrapped.hf_model.model.rope_deltas[0]) if _counts_pictures(wrapped) else None,
    )


def _counts_pictures(wrapped: Wrapped) -> bool:
    rope = getattr(wrapped.config, "rope_parameters", None) or {}
    return "mrope_section" in rope


def refuse_past(wrapped: Wrapped, inputs: Mapping[str, Tensor]) -> None:
    """Refuse a model whose context a question cannot go on from, as far as was verified.

    **Raises:** `CapabilityError` with what would work.
    """
    refuse_odd(wrapped, range(wrapped.n_layers))
    name = wrapped.family.name
    if _counts_pictures(wrapped) and not hasattr(wrapped.hf_model.model, "rope_deltas"):
        what = "positions in a way of its own (mRoPE)"
    elif "token_type_ids" in inputs:
        what = "what may be attended to from the kinds of tokens (token_type_ids)"
    else:
        return
    raise CapabilityError(
        f"{name} computes {what}, and asking a context of it has not been verified; ask the whole "
        "prompt anew with generate"
    )


def _resume(cache: DynamicCache, past: Past, progress: Progress) -> None:
    batch, device = progress.masks.layout.batch, progress.masks.device
    for layer, keys, values, kept in zip(
        cache.layers, past.keys, past.values, past.kept, strict=True
    ):
        assert isinstance(layer, ShortenedLayer)  # noqa: S101 (`shortened` made them)
        wide = (batch, -1, -1, -1)
        layer.resume(
            keys.expand(wide), values.expand(wide), Kept(kept.to(device).expand(batch, -1))
        )


def _choose(progress: Progress, layer: int, known: dict[tuple[CacheEdit, ...], Kept]) -> Kept:
    edits = progress.plan.cuts[layer]
    if edits in known:
        return known[edits]
    length = progress.masks.layout.prompt_length
    site = progress.site(CACHE, layer, range(length), length, 0)
    dropped = torch.stack([edit.dropped(site) for edit in edits]).any(0)
    kept = Kept(site.keys("all") & ~dropped)
    if not any(edit.needs_phi for edit in edits):
        known[edits] = kept
    return kept
