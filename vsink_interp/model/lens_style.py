"""TransformerLens-style methods of `LMM`: run_with_cache, run_with_hooks, to_str_tokens."""

from collections.abc import Callable, Iterable
from typing import Any

from jaxtyping import Float
from torch import Tensor

from ..edits import Fn
from ..errors import CapabilityError, InputError
from ..graph import EditGraph, Graphlike, as_graph
from .activation_cache import (
    ActivationDict,
    NamesFilter,
    cache_graph,
    chosen,
    entries,
    whole_cache,
)
from .encoding import Encoding, refuse_unplaced
from .lmm_base import LMMBase
from .soundness import refuse_changed

HookFunction = Callable[..., Tensor | None]
"""A function `(value, site)`, or TransformerLens's `(value, hook=...)`."""


class LensStyle(LMMBase):
    """Methods of TransformerLens models that `LMM` has as well."""

    encode: Callable[..., Encoding]
    run: Callable[..., Any]

    def run_with_cache(
        self,
        image: Any,
        prompt: Any = None,
        graph: Graphlike = None,
        names_filter: NamesFilter = None,
    ) -> tuple[Float[Tensor, "batch query vocab"], ActivationDict]:
        """One forward pass: the logits, and the activations under their full names.

        ```python
        logits, cache = lmm.run_with_cache(image, "What is this?")
        cache["blocks.3.attn.hook_pattern"]                       # batch head query key
        _, cache = lmm.run_with_cache(image, "What?", names_filter="blocks.{2-4}.hook_resid_post")
        ```

        **Arguments:**

        - `image`, `prompt`: as `run` takes them.
        - `graph`: edits and probes; edits act before the cache is filled.
        - `names_filter`: a full name, a pattern (`"blocks.*.attn.hook_z"`, `"blocks.{2-5}.*"`),
            several, or a function of the full name. None keeps every hook point but
            `attn.hook_result`, of which a head writes a residual stream of its own.

        **Returns:** logits of every prompt token, and a mapping of names to tensors on the CPU.
        `integrations.run_with_cache` gives a real `transformer_lens.ActivationCache`.

        **Raises:** `CapabilityError` if there is no filter and the cache would take more than
        4 GB, with the filter to write; `NotationError` for an unknown name; else as `run`.
        """
        encoding = self._whole(image, prompt)
        names = whole_cache(self, encoding) if names_filter is None else names_filter
        run = self.run(encoding, graph=as_graph(graph) | cache_graph(self, names))
        return run.logits, ActivationDict(dict(entries(run)))

    def run_with_hooks(
        self,
        image: Any,
        prompt: Any = None,
        fwd_hooks: Iterable[tuple[NamesFilter, HookFunction]] = (),
        graph: Graphlike = None,
    ) -> Float[Tensor, "batch query vocab"]:
        """One forward pass with hook functions, which are not kept afterwards.

        ```python
        def halve(value, hook):
            return value * 0.5

        lmm.run_with_hooks(image, "What is this?", fwd_hooks=[("blocks.3.attn.hook_z", halve)])
        ```

        **Arguments:**

        - `image`, `prompt`: as `run` takes them.
        - `fwd_hooks`: pairs of a name and a function. A name may be a pattern or a function of the
            full name, as in `run_with_cache`. Its return value replaces the value; None keeps
            it.
        - `graph`: further edits and probes; they act first.

        **Returns:** the logits of every prompt token.

        **Raises:** `InputError` without hooks, `NotationError` for an unknown name; else as `run`.
        """
        pairs = list(fwd_hooks)
        if not pairs:
            raise InputError(
                "run_with_hooks needs fwd_hooks=[(name, function)], as in "
                "fwd_hooks=[('blocks.3.attn.hook_pattern', function)]; run takes none"
            )
        hooks = [Fn(name, fn) for which, fn in pairs for name in chosen(self, which)]
        encoding = self._whole(image, prompt)
        return self.run(encoding, graph=as_graph(graph) | EditGraph(*hooks)).logits

    def to_str_tokens(self, prompt: Any) -> list[Any]:
        """The tokens of a text, each as text.

        ```python
        lmm.to_str_tokens("a red circle")
        lmm.to_str_tokens(lmm.encode(image, "What is this?"))    # as the model reads it
        ```

        **Arguments:**

        - `prompt`: a text as it stands, without the chat format, with the first token that the
            tokenizer puts before it; an `Encoding`; ids; or a list of texts.

        **Returns:** a list of texts, or a list of such lists for a batch.
        """
        tokenizer = self.processor.tokenizer
        if isinstance(prompt, Encoding):
            rows = self._texts(prompt.inputs["input_ids"].tolist())
            return rows if prompt.batched else rows[0]
        if isinstance(prompt, Tensor):
            rows = prompt.tolist()
            return self._texts(rows) if prompt.ndim > 1 else self._texts([rows])[0]
        if isinstance(prompt, str):
            return self._texts([tokenizer(prompt)["input_ids"]])[0]
        return [self.to_str_tokens(text) for text in prompt]

    def _texts(self, rows: list[list[int]]) -> list[list[str]]:
        decode = self.processor.tokenizer.batch_decode
        return [list(decode([[i] for i in row])) for row in rows]

    def _encoding(self, image: Any, prompt: Any) -> Encoding:
        if isinstance(image, Encoding):
            if prompt is not None:
                raise InputError("an Encoding already holds its prompt; pass graph=... by name")
            refuse_changed(self, image)
            return image
        if prompt is None:
            raise InputError(
                "a prompt is missing: run(image, prompt, graph) or run(encoding, graph=...)"
            )
        refuse_unplaced(image, prompt, self.hooked.family.marker)
        encoding = self.encode(image, prompt)
        refuse_changed(self, encoding)
        return encoding

    def _whole(self, image: Any, prompt: Any) -> Encoding:
        encoding = self._encoding(image, prompt)
        if encoding.cached_prefix is not None:
            raise CapabilityError(
                "this encoding continues a compressed context; use context.ask(), or pass it to "
                "generate"
            )
        return encoding
