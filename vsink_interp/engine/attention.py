"""The local attention binding: the model's own attention, plus explicit rows for nodes.

While a run is active, an attention function is registered with transformers, next to a mask
function (without which padding masks vanish silently), and the decoder's configuration names it.
Layers without nodes go straight to the model's own function; in the others only the rows that nodes
ask for are computed explicitly: scores, mask, score edits, softmax, pattern edits, values.
"""

from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import count
from threading import get_ident
from typing import Any, final

import torch
from torch import Tensor, nn
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, eager_mask, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ..errors import CapabilityError
from ..graph.plan import Plan
from .hooked_model import ARMED, ATTENDING, COMPUTED, HookedModel
from .kept_tokens import TokensAtHand, Window
from .layer_nodes import LayerNodes
from .own_attention import attention_function, refuse_untried
from .row_program import Base, RowProgram
from .run_state import RunState

_names = count()
HARMLESS = frozenset(
    "dropout sliding_window is_causal s_aux position_ids cache_position use_cache return_dict "
    "output_attentions output_hidden_states num_items_in_batch cu_seq_lens_q cu_seq_lens_k "
    "max_length_q max_length_k deterministic tokenizer".split()
)
"""What a call of attention may be given besides queries, keys, values, mask and scaling, without
changing more than `RowProgram` computes; arguments of the whole model may be passed on as well."""
READ = (sdpa_mask, eager_mask)
"""What makes masks that the row program reads: None, boolean or additive, batch 1 query key."""


@final
class AttentionBinding:
    """The attention function of one run, in the thread of that run; other threads bypass it.

    **Arguments:**

    - `hooked`: the model.
    - `run_state`: the run's plan and state; None for a plain trace, where only nnsight's own
        reads and writes of the hook points matter.
    """

    def __init__(self, hooked: HookedModel, run_state: RunState | None) -> None:
        self.hooked = hooked
        self.run_state = run_state
        self.config = hooked.attention_config
        self.seen = [0] * hooked.n_layers
        self.base_name = hooked.attention
        self.thread = get_ident()
        self.nodes = _nodes_by_layer(hooked, run_state.plan if run_state else None)
        self._programs: dict[int, RowProgram] = {}
        self._read = HARMLESS | hooked.arguments
        self._inverted: tuple[Tensor, Tensor] | None = None
        self._bases: dict[str, Base] = {}

    @contextmanager
    def armed(self) -> Generator[None]:
        """Register the function, select it in the decoder's configuration, and always undo both."""
        name = f"{ARMED}{next(_names)}"
        before = self.config._attn_implementation
        self._refuse_other_masks()
        refuse_untried(self.hooked.layers, self.base_name, self.hooked.tried_attention)
        try:
            # Globally: some decoders (Doge) look functions up in an interface of their own.
            ALL_ATTENTION_FUNCTIONS.register(name, self)
            # `register`, not item assignment: transformers looks for mask functions among the
            # global ones only, and takes None (no mask at all) for one that it does not find there.
            mask = ALL_MASK_ATTENTION_FUNCTIONS[self.base_name]
            ALL_MASK_ATTENTION_FUNCTIONS.register(name, mask)
            self.config._attn_implementation = name
            with self._watched(name):
                yield
        finally:
            self.config._attn_implementation = before
            ALL_ATTENTION_FUNCTIONS._global_mapping.pop(name, None)
            ALL_MASK_ATTENTION_FUNCTIONS._global_mapping.pop(name, None)

    @contextmanager
    def _watched(self, name: str) -> Generator[None]:
        """Compute sink values of what enters a layer, where no node waits there in the trace.

        A hook of torch costs a tenth of a stop of the trace, of which decoding would make one in
        every layer and step. It sees what the layer sees, edits of earlier layers included.
        """

        def see(layer: int, module: nn.Module, args: tuple, kwargs: dict) -> None:
            del module
            # Neither another thread's call of the model nor the other pass of contrastive decoding.
            if get_ident() == self.thread and self.config._attn_implementation == name:
                assert state is not None  # noqa: S101 (else no layer is watched)
                state.enter(layer, args[0] if args else kwargs["hidden_states"])

        state = self.run_state
        with ExitStack() as stack:
            for layer in state.plan.watched_layers if state else ():
                module = self.hooked.layers[layer]
                hook = module.register_forward_pre_hook(partial(see, layer), with_kwargs=True)
                stack.callback(hook.remove)
            yield

    def _refuse_other_masks(self) -> None:
        names = [*ALL_MASK_ATTENTION_FUNCTIONS]
        known = self.base_name in names and ALL_MASK_ATTENTION_FUNCTIONS[self.base_name] in READ
        if not known:
            raise CapabilityError(
                f"attention {self.base_name!r} is not supported: explicit rows cannot read its "
                "masks; load the model with attn_implementation='sdpa', which picks torch's flash "
                "kernels where they apply, or 'eager'"
            )

    def base(self, module: nn.Module) -> Base:
        """The model's own attention function."""
        home = type(module).__module__
        if home not in self._bases:
            self._bases[home] = attention_function(module, self.base_name)
        return self._bases[home]

    def __call__(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Attention as transformers calls it; the result has shape batch query head d_head."""
        layer: int = module.layer_idx  # ty: ignore[invalid-assignment]
        others = get_ident() != self.thread
        # In cross-attention the keys are of images, to which no node comes.
        if others or self.hooked.kinds[layer] not in ATTENDING:
            return self.base(module)(
                module, query, key, value, attention_mask, scaling=scaling, **kwargs
            )
        kept = self._kept(layer, query.shape[2], key.shape[2])
        narrow = kept.mask(attention_mask, key.shape[2]) if kept else attention_mask
        own = self.base(module)

        def base(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor | None]:
            return own(module, query, key, value, narrow, scaling=scaling, **kwargs)

        awaited = self._awaited(layer)
        if not awaited and not self.nodes[layer].some:
            return base(query, key, value)
        self._refuse_unread(kwargs, attention_mask)
        self._refuse_unsaid_window(layer, kwargs.get("sliding_window"), self.seen[layer])
        program = self._programs.get(layer)
        if program is None or not program.serves(module, attention_mask, kept):
            self._refuse_again(layer, kept)
            mask = kept.whole(attention_mask) if isinstance(kept, Window) else attention_mask
            program = RowProgram(
                hooked=self.hooked,
                module=module,
                run_state=self.run_state,
                nodes=self.nodes[layer],
                points=self.hooked.points[layer] if awaited else {},
                mask=mask,
                hidden=self._hidden(mask),
                scaling=query.shape[-1] ** -0.5 if scaling is None else scaling,
                kept=kept,
                sliding=kwargs.get("sliding_window") is not None,
                residual_scale=self.hooked.residual_scale(layer),
                learned_sinks=kwargs.get("s_aux"),
            )
            if self.run_state is not None:
                self._programs[layer] = program
        return program.attend(query, key, value, base)

    def _refuse_again(self, layer: int, kept: TokensAtHand | None) -> None:
        """Refuse nodes where a layer attends more than once in a pass, over the same keys.

        **Raises:** `CapabilityError` naming the layer.
        """
        slides = self.hooked.kinds[layer] == "sliding_attention"
        if self.run_state is not None and isinstance(kept, Window) and not slides:
            raise CapabilityError(
                f"{type(self.hooked.hf_model).__name__} attends more than once in layer {layer}, "
                "so there is no one pattern of it; hook points outside attention are right"
            )

    def _refuse_unsaid_window(self, layer: int, window: int | None, n_tokens: int) -> None:
        """Refuse explicit rows behind a window that hides keys and that the layer does not say.

        **Raises:** `CapabilityError` naming the layer.
        """
        if window and window < n_tokens and self.hooked.kinds[layer] != "sliding_attention":
            raise CapabilityError(
                f"layer {layer} of {type(self.hooked.hf_model).__name__} sees only {window} tokens "
                f"back, and its configuration calls it {self.hooked.kinds[layer]!r} (layer_types), "
                "so which keys a row sees would be counted wrongly; say 'sliding_attention' there, "
                "or sliding_window=None"
            )

    def _refuse_unread(self, given: Mapping[str, Any], mask: Tensor | None) -> None:
        """Refuse explicit rows where attention is given something that they would leave out.

        **Raises:** `CapabilityError` naming the arguments.
        """
        if given.keys() <= self._read and (mask is not None or given.get("is_causal") is not False):
            return
        unread = [
            name
            for name in sorted(given.keys() - self._read)
            if given[name] is not None and given[name] is not False
        ]
        if mask is None and given.get("is_causal") is False:
            unread.append("is_causal=False")
        if unread:
            raise CapabilityError(
                f"{type(self.hooked.hf_model).__name__} gives its attention {', '.join(unread)}, "
                "which explicit rows do not know, so patterns and edits would be wrong; hook "
                "points outside attention are right"
            )

    def _kept(self, layer: int, n_rows: int, n_keys: int) -> TokensAtHand | None:
        """Which tokens the cached keys belong to, if some have left the cache."""
        # Of a prompt, layers that share the keys of others compute its last row alone (Gemma 4).
        self.seen[layer] = max(self.seen[layer] + n_rows, n_keys)
        if self.run_state is not None and layer in self.run_state.shown:
            return self.run_state.shown[layer]
        gone = self.seen[layer] - n_keys
        return Window(gone) if gone > 0 else None

    def _hidden(self, mask: Tensor | None) -> Tensor | None:
        """The entries that a boolean mask hides, computed once for layers that share the mask."""
        if mask is None or mask.dtype != torch.bool:
            return None
        if self._inverted is None or self._inverted[0] is not mask:
            self._inverted = mask, ~mask
        return self._inverted[1]

    def _awaited(self, layer: int) -> bool:
        if self.run_state is not None:
            return False  # its nodes act here; nothing waits at envoys
        parked = self.hooked.nnsight.interleaver.parked
        return bool(parked) and any(
            f"{envoy.path}.{side}" in parked
            for envoy in self.hooked.points[layer].values()
            for side in ("input", "output")
        )


def _nodes_by_layer(hooked: HookedModel, plan: Plan | None) -> list[LayerNodes]:
    """The nodes inside the attention of each layer; neighbours with the same nodes share them."""
    found: list[LayerNodes] = []
    for layer in range(hooked.n_layers):
        at = {
            point.name: plan.at(point.template, layer)
            if plan and hooked.computes(point, layer)
            else ()
            for point in COMPUTED
        }
        same = found and found[-1].at == at
        found.append(found[-1] if same else LayerNodes.of(at))
    return found
