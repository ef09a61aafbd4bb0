"""The second pass of contrastive decoding: other inputs, the same answer, its own cache.

```text
generate      hf_model (first pass)         SecondPass                   node of `execute`
   |  forward(ids)    |                          |                            |
   |----------------->| hook before forward      |                            |
   |                  |---- step(ids) ---------->| forward, its own cache,    |
   |                  |                          | nobody sees it but its     |
   |                  |<-------------------------| own edits; keeps .logits   |
   |                  | layers, final norm, head |                            |
   |                  |---- unembed.hook_out -------------------------------->| Contrast.apply
   |                  |                          |---- .logits -------------->| of both logits
   |                  |<------------------------------------------------------|
   |<-----------------| contrasted logits: the next token, for both passes    |
```
"""

from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from threading import get_ident
from typing import Any, TypeAlias, final

from torch import Tensor, nn

from ..graph import TokenMasks
from ..graph.plan import Plan
from ..sinks import SinkDims
from ..tokens import TokenLayout
from .attention import AttentionBinding
from .cache import shortened
from .cached_prefix import CACHE_ARGUMENT
from .hooked_model import HookedModel
from .run_state import RunState


@final
@dataclass(frozen=True, eq=False)
class ContrastInputs:
    """The inputs of a second pass.

    **Attributes:**

    - `inputs`: the prompt, and an answer if the first pass is given one.
    - `layout`: all tokens that the pass may reach, on the CPU.
    - `plan`: the edits that act in it; None for none.
    - `n_rows`: the number of rows of its first step that predict an answer token.
    """

    inputs: Mapping[str, Tensor]
    layout: TokenLayout
    plan: Plan | None
    n_rows: int


Beside: TypeAlias = Callable[[], Mapping[int, ContrastInputs]]
"""Makes the inputs of second passes, by the index of their `Contrast` in the graph."""


@final
class SecondPass:
    """One second pass; it lives as long as its run.

    **Arguments:**

    - `hooked`: the model, before any attention function of ours is active.
    - `beside`: its inputs.
    - `sinks`: the model's sink dimensions, if they are known.

    **Attributes:**

    - `logits`: logits of the latest step, batch query vocab.
    """

    def __init__(self, hooked: HookedModel, beside: ContrastInputs, sinks: SinkDims | None) -> None:
        self.hooked = hooked
        self.beside = beside
        self.logits: Tensor | None = None
        self._carried: dict[str, Any] | None = None
        plan, masks = beside.plan, TokenMasks(beside.layout, hooked.device)
        self.run_state = RunState(plan, masks, sinks) if plan else None
        self.binding = AttentionBinding(hooked, self.run_state)
        self.cache = shortened(hooked, self.run_state) if self.run_state else None

    def step(self, new: Tensor) -> None:
        """Read the prompt, or after it the tokens `new`, and keep the logits."""
        model: Any = self.hooked.hf_model
        if self._carried is None:
            carried = {**self.beside.inputs, "use_cache": True}
            ids = carried.pop("input_ids")
            if self.cache is not None:
                carried[CACHE_ARGUMENT] = self.cache
            carried["position_ids"] = model._prepare_position_ids_for_generation(ids, carried)
            if model._supports_logits_to_keep():
                carried["logits_to_keep"] = self.beside.n_rows
            feed = model.prepare_inputs_for_generation(ids, is_first_iteration=True, **carried)
        else:
            carried = self._carried
            feed = model.prepare_inputs_for_generation(new, **carried)
        with self._aside():
            # Not by calling the model: hooks on it are for the first pass.
            output = model.forward(**feed, return_dict=True)
        self.logits = output.logits
        self._carried = model._update_model_kwargs_for_generation(
            output, carried, is_encoder_decoder=False
        )

    @contextmanager
    def _aside(self) -> Generator[None]:
        """Hide this pass from everything but its own edits, and restore all state afterwards."""
        interleaver, config = self.hooked.nnsight.interleaver, self.binding.config
        armed, interleaving = config._attn_implementation, interleaver.interleaving
        interleaver.interleaving = False
        try:
            with ExitStack() as stack:
                if self.run_state is None:
                    config._attn_implementation = self.binding.base_name
                else:
                    stack.enter_context(self.binding.armed())
                yield
        finally:
            config._attn_implementation = armed
            interleaver.interleaving = interleaving


@contextmanager
def beside_the_first(hooked: HookedModel, passes: Mapping[int, SecondPass]) -> Generator[None]:
    """Take a step of every second pass before each step of the first."""

    thread = get_ident()

    def step(module: nn.Module, args: tuple, kwargs: dict) -> None:
        del module, args
        if get_ident() != thread:
            return  # somebody else's call of the same model
        for second in passes.values():
            second.step(kwargs["input_ids"])

    if not passes:
        yield
        return
    hook = hooked.hf_model.register_forward_pre_hook(step, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()
    for second in passes.values():
        if second.run_state is not None:
            second.run_state.ranges.refuse()
            second.run_state.refuse_blind()
            second.run_state.refuse_lost()
