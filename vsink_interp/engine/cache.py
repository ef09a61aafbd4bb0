"""The KV cache after tokens were evicted: it holds fewer keys but reports its full length.

Only `update` shows that something is missing: it returns fewer keys. Lengths, masks and positions,
which transformers derives from the cache's length, stay as they were; `AttentionBinding` knows
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
from ..graph import CACHE, CacheEdit
from ..graph.plan import Plan
from .cached_prefix import CACHE_ARGUMENT, CachedPrefix
from .hooked_model import ATTENDING, HookedModel
from .kept_tokens import KeptTokens
from .run_state import RunState


@final
class ShortenedLayer(DynamicLayer):
    """The cache of one layer, shortened after the first pass or resumed from a shortened one.

    **Arguments:**

    - `choose`: returns which tokens stay, on the layer's device; called when the first pass has
        reached the layer.
    - `show`: called in every later pass with the tokens that the cached keys belong to.
    """

    is_croppable = False

    def __init__(
        self, choose: Callable[[torch.device], KeptTokens], show: Callable[[KeptTokens], None]
    ) -> None:
        super().__init__()
        self.choose = choose
        self.show = show
        self.kept: KeptTokens | None = None
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
        self.kept = self.choose(key_states.device)
        self.keys, self.values = self.kept.take(key_states), self.kept.take(value_states)
        return key_states, value_states

    def resume(self, keys: Tensor, values: Tensor, kept: KeptTokens) -> None:
        """Start from keys and values that an earlier run kept."""
        self.lazy_initialization(keys, values)
        self.keys, self.values, self.kept, self.seen = keys, values, kept, kept.length

    @override
    def get_seq_length(self) -> int:
        """The number of tokens seen, dropped ones included."""
        return self.seen


def cached(
    hooked: HookedModel,
    run_state: RunState,
    inputs: Mapping[str, Tensor],
    cached_prefix: CachedPrefix | None,
) -> dict[str, Any]:
    """Extra arguments for `model.generate`: the cache of a run, if it is not a plain one.

    **Raises:** as `shortened`.
    """
    cache = shortened(hooked, run_state, cached_prefix)
    if cache is None:
        return {}
    if cached_prefix is None or cached_prefix.shift is None:
        return {CACHE_ARGUMENT: cache}
    places = (inputs["attention_mask"].cumsum(-1) - 1 + cached_prefix.shift).clamp_min(0)
    return {CACHE_ARGUMENT: cache, "position_ids": places.expand(3, -1, -1)}


def shortened(
    hooked: HookedModel, run_state: RunState, cached_prefix: CachedPrefix | None = None
) -> DynamicCache | None:
    """The cache of a run that drops keys after the prefill or continues a prefix.

    None means that transformers should make its own.

    **Raises:** `CapabilityError` for a layer whose cache is not a plain one, for an attention
    function other than sdpa and eager, and for a plan that drops keys of a prefix.
    """
    cuts = run_state.plan.cuts
    if cached_prefix is None and not cuts:
        return None
    if cached_prefix is not None:
        refuse_cuts(run_state.plan)
    if cached_prefix is not None and not cached_prefix.keys:
        raise CapabilityError(
            "a server made this context, and its cache did not come here: ask with remote=..., or "
            "compress with the model here"
        )
    refuse_odd(hooked, range(hooked.n_layers) if cached_prefix else cuts)
    cache = DynamicCache(config=hooked.config)
    known: dict[tuple[tuple[CacheEdit, ...], torch.device], KeptTokens] = {}
    for layer in range(hooked.n_layers) if cached_prefix else cuts:
        cache.layers[layer] = ShortenedLayer(
            lambda device, layer=layer: _choose(run_state, layer, device, known),
            lambda kept, layer=layer: run_state.shown.__setitem__(layer, kept),
        )
    if cached_prefix is not None:
        _resume(cache, cached_prefix, run_state)
    return cache


def refuse_cuts(plan: Plan) -> None:
    """Refuse a plan that drops keys of a compressed context.

    **Raises:** `CapabilityError` saying what would work.
    """
    if plan.cuts:
        raise CapabilityError(
            f"{plan.graph!r} drops keys after the prefill, but this prompt continues a "
            "compressed context; choose what that context keeps instead"
        )


def refuse_odd(hooked: HookedModel, layers: Iterable[int]) -> None:
    """Refuse layers from whose cache no keys can be dropped.

    **Raises:** `CapabilityError` naming a layer, and what would work.
    """
    cache = DynamicCache(config=hooked.config)
    plain = tuple(
        i
        for i, layer in enumerate(cache.layers)
        if type(layer) is DynamicLayer and hooked.kinds[i] in ATTENDING
    )
    for layer in set(layers) - set(plain):
        crossed = hooked.kinds[layer] == "cross_attention"
        kept = "the keys of images" if crossed else f"its keys in a {_class(cache, layer)}"
        raise CapabilityError(
            f"layer {layer} keeps {kept}, from which "
            + (f"none can be dropped; name other layers, layers={plain}; or " if plain else "")
            + "cut the flow instead, as in Knockout('image -> generated')"
        )
    name = hooked.attention_config._attn_implementation
    if name not in ("sdpa", "eager"):
        raise CapabilityError(
            f"keys are dropped with attention 'sdpa' or 'eager', not {name!r}; load the model with "
            "attn_implementation='sdpa'"
        )


def _class(cache: DynamicCache, layer: int) -> str:
    return type(cache.layers[layer]).__name__


def prefix_of(
    hooked: HookedModel,
    cache: DynamicCache,
    kept: Bool[Tensor, "layer token"],
    inputs: Mapping[str, Tensor],
) -> CachedPrefix:
    """Keys and values of the kept tokens, from the cache of the model's last run (one sample).

    **Arguments:**

    - `inputs`: those of the prompt, beside its ids and their mask.
    """
    length, chosen = kept.shape[1], [KeptTokens(row[None]) for row in kept]
    layers: Any = cache.layers
    pairs = list(zip(chosen, layers, strict=True))
    return CachedPrefix(
        tuple(one.take(layer.keys[:, :, :length]) for one, layer in pairs),
        tuple(one.take(layer.values[:, :, :length]) for one, layer in pairs),
        kept,
        # Kept by the model from its last prompt, and lost with the next.
        int(hooked.hf_model.model.rope_deltas[0]) if _counts_images(hooked) else None,
        inputs,
    )


def _counts_images(hooked: HookedModel) -> bool:
    rope = getattr(hooked.config, "rope_parameters", None) or {}
    return "mrope_section" in rope


def refuse_prefix(hooked: HookedModel, inputs: Mapping[str, Tensor]) -> None:
    """Refuse a model for which continuing from a compressed context has not been verified.

    **Raises:** `CapabilityError` saying what would work.
    """
    refuse_odd(hooked, range(hooked.n_layers))
    name = hooked.family.name
    if _counts_images(hooked) and not hasattr(hooked.hf_model.model, "rope_deltas"):
        what = "positions in a way of its own (mRoPE)"
    elif "token_type_ids" in inputs:
        what = "what may be attended to from the kinds of tokens (token_type_ids)"
    else:
        return
    raise CapabilityError(
        f"{name} computes {what}, for which compressed contexts have not been verified; ask with "
        "the whole prompt in generate"
    )


def _resume(cache: DynamicCache, cached_prefix: CachedPrefix, run_state: RunState) -> None:
    batch = run_state.masks.layout.batch
    for layer, keys, values, kept in zip(
        cache.layers, cached_prefix.keys, cached_prefix.values, cached_prefix.kept, strict=True
    ):
        assert isinstance(layer, ShortenedLayer)  # noqa: S101 (`shortened` made them)
        wide = (batch, -1, -1, -1)
        layer.resume(
            keys.expand(wide),
            values.expand(wide),
            KeptTokens(kept.to(keys.device).expand(batch, -1)),
        )


def _choose(
    run_state: RunState,
    layer: int,
    device: torch.device,
    known: dict[tuple[tuple[CacheEdit, ...], torch.device], KeptTokens],
) -> KeptTokens:
    edits = run_state.plan.cuts[layer]
    if (edits, device) in known:
        return known[edits, device]
    length = run_state.masks.layout.first_pass
    site = run_state.site(CACHE, layer, range(length), length, 0, device)
    # An answer that was read with the prompt stays, whatever the group is called, as in "~image".
    dropped = torch.stack([edit.dropped(site) for edit in edits]).any(0) & site.keys("prompt")
    kept = KeptTokens(site.keys("all") & ~dropped)
    if not any(edit.needs_phi for edit in edits):
        known[edits, device] = kept
    return kept
