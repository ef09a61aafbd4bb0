"""`LMM`: a Hugging Face multimodal model whose every hook point has a name."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from reprlib import repr as shorten
from typing import Any, final

import torch
from torch import Tensor

from .encoding import Encoding, encode, gather
from .engine import AttentionBinding, Wrapped, execute, inside_trace, read
from .errors import CapabilityError, InputError, LayoutError, NotationError, unknown
from .families import FAMILIES, Family
from .graph import EditGraph, Graphlike, Plan, Sizes, as_graph, plan
from .hooks import parse_hook
from .results import Run
from .sinkdims import SinkDims
from .sinks import SinkReport, find_sink_dims

_ROWS_UNSEEN = "assisted decoding runs rows that no edit has seen"
REFUSED: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "num_beams": ((None, 1), "beam search reorders the cache under the edits"),
    "num_return_sequences": ((None, 1), "give the prompt several times as a batch instead"),
    "guidance_scale": ((None, 1), "it runs the prompt a second time, which no edit has seen"),
    "assistant_model": ((None,), _ROWS_UNSEEN),
    "prompt_lookup_num_tokens": ((None,), _ROWS_UNSEEN),
    "prefill_chunk_size": ((None,), "edits need the prompt in one pass"),
    "cache_implementation": ((None, "dynamic"), "other caches hide how many tokens were seen"),
    "past_key_values": ((None,), "a run starts from the prompt"),
    "use_cache": ((None, True), "generation here always uses the cache"),
}
"""What `model.generate` can do and a run cannot: the values that are fine, and the reason."""


@final
class LMM:
    """A large multimodal model that takes edit graphs.

    **Arguments:**

    - `hf_model`: a transformers model for images and text, on its device, in its precision.
    - `processor`: its processor.
    - `sinks`: its sink dimensions; found by `find_sink_dims` when first needed otherwise.

    **Raises:** `CapabilityError` for a family that is not known.
    """

    def __init__(self, hf_model: Any, processor: Any, *, sinks: SinkDims | None = None) -> None:
        if hf_model.training and _drops(hf_model):
            raise CapabilityError(
                "the model is in training mode and drops activations at random; call "
                "hf_model.eval() first"
            )
        self.wrapped = Wrapped(hf_model, processor, family_of(hf_model))
        self._sinks: SinkDims | None = None
        self._report: SinkReport | None = None
        if sinks is not None:
            self.sinks = sinks

    @classmethod
    def from_pretrained(cls, repo_or_dir: str | Path, **hf_kwargs: Any) -> "LMM":
        """Load a model and its processor as transformers does.

        **Arguments:**

        - `repo_or_dir`: a repository of the Hub, or a folder.
        - `hf_kwargs`: for the model: `dtype`, `device_map`, `attn_implementation`, `revision` ...
        """
        from transformers import AutoModelForImageTextToText, AutoProcessor

        shared = {k: v for k, v in hf_kwargs.items() if k in {"revision", "token", "cache_dir"}}
        processor = AutoProcessor.from_pretrained(repo_or_dir, **shared)
        return cls(
            AutoModelForImageTextToText.from_pretrained(repo_or_dir, **hf_kwargs).eval(), processor
        )

    @classmethod
    def toy(cls) -> "LMM":
        """The small trained LLaVA that comes with the package: offline, a few MB."""
        from .toy import weights_dir

        return cls.from_pretrained(weights_dir)

    @property
    def hf_model(self) -> Any:
        """The transformers model."""
        return self.wrapped.hf_model

    @property
    def processor(self) -> Any:
        """The model's processor."""
        return self.wrapped.processor

    @property
    def nnsight(self) -> Any:
        """nnsight's `TransformersModel`: `edit`, `scan`, `session` and module paths."""
        return self.wrapped.nnsight

    @property
    def name(self) -> str:
        """The repository or folder that the model came from."""
        return Path(self.hf_model.config.name_or_path or type(self.hf_model).__name__).name

    @property
    def n_layers(self) -> int:
        """How many decoder blocks."""
        return self.wrapped.n_layers

    @property
    def n_heads(self) -> int:
        """How many query heads a block has."""
        return self.wrapped.n_heads["head"]

    @property
    def d_model(self) -> int:
        """The width of the residual stream."""
        return self.wrapped.config.hidden_size

    @property
    def sizes(self) -> Sizes:
        """Blocks, heads, key heads and width, as edits check them."""
        return Sizes(self.n_layers, self.n_heads, self.wrapped.n_heads["kv_head"], self.d_model)

    @property
    def hooks(self) -> tuple[str, ...]:
        """The hook points that this model offers, with `{layer}` for the block."""
        return self.wrapped.advertised

    def __repr__(self) -> str:
        return (
            f"LMM({self.name}, family={self.wrapped.family.name}, layers={self.n_layers}, "
            f"heads={self.n_heads}, d_model={self.d_model})"
        )

    @property
    def sinks(self) -> SinkDims:
        """The sink dimensions and tau; found on first use if they were not given.

        **Raises:** `CapabilityError` if the model has none.
        """
        if self._sinks is None:
            self._sinks = self.sink_report.sinks
        return self._sinks

    @sinks.setter
    def sinks(self, sinks: "SinkDims | SinkReport") -> None:
        found = sinks.sinks if isinstance(sinks, SinkReport) else sinks
        if max(found.dims) >= self.d_model:
            raise NotationError(f"sink dimensions {found.dims} lie beyond d_model = {self.d_model}")
        self._sinks = found

    @property
    def sink_report(self) -> SinkReport:
        """The evidence for this model's sink dimensions, found on first use."""
        if self._report is None:
            self._report = find_sink_dims(self)
        return self._report

    def encode(self, image: Any, prompt: Any, *, chat: bool = True) -> Encoding:
        """Encode a question about a picture, or a batch of them.

        **Arguments:**

        - `image`: a PIL image, a path or an array; a list of them for a prompt about several; None
            for text alone. For a batch, one such entry per prompt.
        - `prompt`: the question, put into the model's chat format; a list for a batch. `<image>`
            in it says where a picture goes; they come first otherwise.
        - `chat`: False takes the prompt as it is.

        **Raises:** `InputError` for an empty prompt, an unreadable picture, or pictures and prompts
        that do not match.
        """
        pictures, prompts, batched = gather(image, prompt)
        encoding = encode(
            self.hf_model.config,
            self.processor,
            self.wrapped.family,
            pictures,
            prompts,
            batched=batched,
            chat=chat,
        )
        inputs = {name: value.to(self.wrapped.device) for name, value in encoding.inputs.items()}
        return replace(encoding, inputs=inputs)

    def run(self, image: Any, prompt: Any = None, graph: Graphlike = None) -> Run:
        """One forward pass under a graph.

        **Arguments:**

        - `image`, `prompt`: as `encode` takes them; or an `Encoding` in place of both.
        - `graph`: edits and probes.

        **Returns:** a `Run` with the logits of every prompt token.

        **Raises:** `LayoutError`, `NotationError` or `CapabilityError` before anything runs, if the
        graph does not fit the prompt or the model.
        """
        encoding = self._encoding(image, prompt)
        planned = self._plan(as_graph(graph), encoding, generates=False)
        outcome = execute(
            self.wrapped,
            planned,
            encoding.inputs,
            encoding.tokens,
            self._known_sinks(planned),
            None,
        )
        logits = outcome.output.logits
        ids = encoding.inputs["input_ids"]
        likeliest = self._decode(logits[:, -1].argmax(-1, keepdim=True))
        return self._finish(
            encoding, planned.graph, ids, logits, likeliest, encoding.tokens, outcome.records
        )

    def generate(
        self,
        image: Any,
        prompt: Any = None,
        graph: Graphlike = None,
        *,
        max_new_tokens: int = 128,
        **hf_kwargs: Any,
    ) -> Run:
        """Generate an answer under a graph; greedy unless told otherwise.

        **Arguments:**

        - `image`, `prompt`, `graph`: as `run` takes them.
        - `max_new_tokens`: the longest answer.
        - `hf_kwargs`: for `model.generate`: `do_sample`, `temperature`, `stop_strings` ...

        **Returns:** a `Run` with the logits that predicted each generated token.

        **Raises:** as `run`; `CapabilityError` for beam search and assisted decoding.
        """
        encoding = self._encoding(image, prompt)
        options = self._options(max_new_tokens, hf_kwargs)
        planned = self._plan(as_graph(graph), encoding, generates=True)
        room = encoding.tokens.extend(max_new_tokens)
        outcome = execute(
            self.wrapped, planned, encoding.inputs, room, self._known_sinks(planned), options
        )
        ids, logits = outcome.output.sequences, torch.stack(outcome.output.logits, 1)
        new = ids[:, encoding.tokens.length :]
        layout = encoding.tokens.extend(new.shape[1])
        layout = layout.without(self._after_end(new, layout.length, options))
        return self._finish(
            encoding, planned.graph, ids, logits, self._decode(new), layout, outcome.records
        )

    def trace(self, image: Any, prompt: Any = None, **hf_kwargs: Any) -> Any:
        """Open a plain nnsight trace in which `lmm.hook(name)` reads and writes hook points.

        ```python
        with lmm.trace(image, "What is this?"):
            pattern = lmm.hook("blocks.3.attn.hook_pattern").save()
        ```

        **Arguments:**

        - `image`, `prompt`: as `run` takes them.
        - `hf_kwargs`: for `model.generate`; with `max_new_tokens` the trace generates.
        """
        encoding = self._encoding(image, prompt)
        binding = AttentionBinding(self.wrapped, None)
        call = self.hf_model.generate if "max_new_tokens" in hf_kwargs else self.hf_model

        def driver(**inputs: Any) -> Any:
            with binding.armed():
                return call(**inputs)

        return self.nnsight.trace(**encoding.inputs, **hf_kwargs, fn=driver)

    def hook(self, name: str) -> Tensor:
        """The live value of a hook point, inside a trace; write it in place, as in `[...] = 0`.

        **Raises:** `NotationError` for an unknown name or block, `CapabilityError` for a hook
        point that this model does not offer or that cannot be written in place.
        """
        point, layer = parse_hook(name)
        depth = self.n_layers if point.stack == "blocks" else self.wrapped.n_vision_layers
        if layer is not None and layer >= depth:
            raise NotationError(f"{name!r}: this model has blocks 0 to {depth - 1}")
        self.wrapped.require(point)
        if not inside_trace():
            raise InputError(f"{name!r} has a value only inside `with lmm.trace(image, prompt):`")
        if point.computed:
            return self.wrapped.points[layer or 0][point.name].output  # ty: ignore[invalid-attribute-access]
        tap = self.wrapped.family.tap(point.template, layer)
        if tap.side == "head results":
            raise CapabilityError(
                f"{name!r} is computed on demand, so writing it in place would be lost; use "
                f"Fn({point.name!r}, function) or probes.Activation({point.name!r}) in run()"
            )
        return read(tap, self.wrapped.envoy(tap.module), self.wrapped.n_heads)

    def _encoding(self, image: Any, prompt: Any) -> Encoding:
        if isinstance(image, Encoding):
            if prompt is not None:
                raise InputError("an Encoding already holds its prompt; pass graph=... by name")
            return image
        if prompt is None:
            raise InputError(
                "a prompt is missing: run(image, prompt, graph) or run(encoding, graph=...)"
            )
        return self.encode(image, prompt)

    def _plan(self, graph: EditGraph, encoding: Encoding, *, generates: bool) -> Plan:
        planned = plan(graph, self.n_layers, self.wrapped.n_vision_layers, self.hooks)
        for node in graph:
            node.fit(self.sizes)
            if node.point.stack == "vision_encoder.blocks" or "vision" in node.hook:
                self._require_picture(encoding, repr(node))
            node.check(encoding.tokens, generates=generates)
        return planned

    def _require_picture(self, encoding: Encoding, what: str) -> None:
        if not any(encoding.pictures):
            raise LayoutError(f"{what} acts on the vision side, and this prompt has no picture")

    def _known_sinks(self, planned: Plan) -> SinkDims | None:
        return self.sinks if any(node.needs_sinks for node in planned.graph) else self._sinks

    def _options(self, max_new_tokens: int, hf_kwargs: Mapping[str, Any]) -> dict[str, Any]:
        config = hf_kwargs.get("generation_config") or self.hf_model.generation_config
        for name, (fine, why) in REFUSED.items():
            wanted = hf_kwargs.get(name, getattr(config, name, None))
            if wanted not in fine:
                raise CapabilityError(
                    f"{name}={shorten(wanted)} is not supported, only {fine}: {why}"
                )
        if max_new_tokens < 1:
            raise InputError(f"max_new_tokens is at least 1; got {max_new_tokens}")
        pad = config.pad_token_id
        if pad is None:
            pad = self.processor.tokenizer.pad_token_id
        return {
            **({} if "generation_config" in hf_kwargs else {"do_sample": False}),
            **({"tokenizer": self.processor.tokenizer} if "stop_strings" in hf_kwargs else {}),
            "pad_token_id": pad,
            **hf_kwargs,
            "max_new_tokens": max_new_tokens,
            "return_dict_in_generate": True,
            "output_logits": True,
        }

    def _after_end(self, new: Tensor, length: int, options: Mapping[str, Any]) -> Tensor:
        config = options.get("generation_config") or self.hf_model.generation_config
        end = options.get("eos_token_id", config.eos_token_id)
        found = torch.as_tensor([-1] if end is None else end, device=new.device)
        ends = torch.isin(new, found).int()
        after = (ends.cumsum(-1) - ends) > 0
        if options["pad_token_id"] is not None and options["pad_token_id"] not in found:
            # An answer that a stop string ended goes on with padding.
            other = (new != options["pad_token_id"]).int()
            after |= other.flip(-1).cumsum(-1).flip(-1) == 0
        before = torch.zeros(new.shape[0], length - new.shape[1], dtype=torch.bool)
        return torch.cat([before, after.cpu()], 1)

    def _decode(self, ids: Tensor) -> list[str]:
        return [
            text.strip()
            for text in self.processor.tokenizer.batch_decode(ids, skip_special_tokens=True)
        ]

    def _finish(
        self,
        encoding: Encoding,
        graph: EditGraph,
        ids: Tensor,
        logits: Tensor,
        texts: list[str],
        layout: Any,
        records: Any,
    ) -> Run:
        tokenizer = self.processor.tokenizer
        words = tuple(tuple(tokenizer.batch_decode([[i] for i in row])) for row in ids.tolist())
        text = texts if encoding.batched else texts[0]
        return Run(ids.cpu(), logits.cpu(), text, layout, words, graph, self.name, records)


def _drops(hf_model: Any) -> bool:
    rates = [m.p for m in hf_model.modules() if isinstance(m, torch.nn.Dropout)]
    return any(rates) or bool(getattr(hf_model.config.get_text_config(), "attention_dropout", 0))


def family_of(hf_model: Any) -> Family:
    """The family of a model.

    **Raises:** `CapabilityError` listing the known ones.
    """
    kind = hf_model.config.model_type
    for family in FAMILIES:
        if kind in family.model_types:
            return family
    known = [kind for family in FAMILIES for kind in family.model_types]
    raise CapabilityError(unknown("model type that this version knows", kind, known))
