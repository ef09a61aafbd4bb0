"""`LMM`: a Hugging Face multimodal model whose every hook point has a name."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, final, overload

from torch import Tensor

from ..engine import AttentionBinding, TakingTurns, live, turns_of
from ..errors import InputError, NotationError
from ..families import Family
from ..graph import Graphlike, as_graph
from ..results import Run
from ..sinks import SinkDims, SinkReport, find_sink_dims
from .backends import AsJob, Where
from .batching import in_batches
from .compressed_context import Context, describe
from .compression import CompressedContext
from .encoding import Encoding, encode, gather
from .execution import RunRequest, carry_out
from .generation import called, closing, seeded
from .lens_style import LensStyle
from .session import Job, Session
from .soundness import made_by


@final
class LMM(LensStyle):
    """A large multimodal model (LMM) on which edit graphs run.

    **Arguments:**

    - `hf_model`: a transformers model for images and text, on its device, in its precision.
    - `processor`: its processor.
    - `sinks`: its sink dimensions; by default, the first graph that needs them runs
        `find_sink_dims`, which takes about six forward passes.
    - `family`: the form of its family, if it is not in `vsink_interp.families`.
    - `check`: try every hook point on a tiny random model of the same classes, which takes about
        a second, once per process; hook points that fail are not offered. `capabilities` tries
        them on this model itself.

    **Attributes:**

    - `name`: the model's name in runs and reports; by default the last part of its repository.

    The layout of a model of no known family is inferred if its parts have the usual names. Such a
    model prints as `inferred`, and offers only hook points that pass `capabilities`, whatever
    `check` is.

    **Raises:** `CapabilityError` for a model whose layout cannot be inferred, naming the missing
    part; or if a run without edits differs from plain transformers.
    """

    def __init__(
        self,
        hf_model: Any,
        processor: Any = None,
        *,
        sinks: SinkDims | None = None,
        family: Family | None = None,
        check: bool = True,
    ) -> None:
        self._sinks: SinkDims | None = None
        self._report: SinkReport | None = None
        super().__init__(hf_model, processor, family=family, check=check)
        if sinks is not None:
            self.sinks = sinks

    @property
    def sinks(self) -> SinkDims:
        """The sink dimensions and tau; searched for on first use if they were not given.

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
    def sinks_or_none(self) -> SinkDims | None:
        """The sink dimensions, if they were given or have been found; else None."""
        return self._sinks

    @property
    def sink_report(self) -> SinkReport:
        """The evidence for this model's sink dimensions, computed on first use."""
        if self._report is None:
            self._report = find_sink_dims(self)
        return self._report

    def encode(self, image: Any, prompt: Any, *, chat: bool = True) -> Encoding:
        """Encode a question about an image, or a batch of them.

        **Arguments:**

        - `image`: a PIL image, a path, an array, a tensor or a `Video`; a list of them for a prompt
            about several; None for text alone. For a batch, one such entry per prompt.
        - `prompt`: the question, put into the model's chat format; a list for a batch. `<image>`
            in it says where an image goes; they come first otherwise. Or a conversation, a list
            of messages `{"role": ..., "content": ...}`, the groups `turn[0]`, `turn[1]` ...: what
            was said before the user's last is `history`, images aside, and `image` fills the
            places that bring no image of their own.
        - `chat`: False uses the prompt as it is, without the chat format.

        **Raises:** `InputError` for an empty prompt, an unreadable image, or images and prompts
        that do not match.
        """
        images, prompts, batched = gather(image, prompt)
        with turns_of(self.processor.tokenizer).hold():
            encoding = encode(
                self.hf_model.config,
                self.processor,
                self.hooked.family,
                images,
                prompts,
                batched=batched,
                chat=chat,
            )
        pad, ends = closing(self.hf_model.generation_config, self.processor.tokenizer)
        maker = made_by(self.hf_model.config, self.processor, self.hooked.family)
        inputs = self.hooked.here(encoding.inputs)
        return replace(encoding, inputs=inputs, pad=pad, ends=ends, made_by=maker)

    @overload
    def run(
        self,
        image: Any,
        prompt: Any = ...,
        graph: Graphlike = ...,
        *,
        remote: AsJob,
        allow_large: bool = ...,
    ) -> Job: ...

    @overload
    def run(
        self,
        image: Any,
        prompt: Any = ...,
        graph: Graphlike = ...,
        *,
        batch_size: int | None = ...,
        remote: Where = ...,
        allow_large: bool = ...,
    ) -> Run: ...

    def run(
        self,
        image: Any,
        prompt: Any = None,
        graph: Graphlike = None,
        *,
        batch_size: int | None = None,
        remote: Where | AsJob = None,
        allow_large: bool = False,
    ) -> Run | Job:
        """One forward pass under a graph.

        **Arguments:**

        - `image`, `prompt`: as for `encode`; or an `Encoding` instead of both.
        - `graph`: edits and probes.
        - `batch_size`: the most prompts of a list that are run at once; the run that comes back
            holds all of them. Where a shorter sample has no row, logits and records are NaN.
        - `remote`: run on an NDIF server: True, an address, or a `Server`; `"job"` sends the run
            without waiting, and `Server(address).job` does so to another server.
        - `allow_large`: fetch large results and full patterns from the server too.

        **Returns:** a `Run` with the logits of every prompt token; for a job a `Job`, whose
        `collect` gives a list of this one run.

        **Raises:** `LayoutError`, `NotationError` or `CapabilityError` before anything runs, if the
        graph does not fit the prompt or the model, or cannot run remotely; `RemoteError` if the
        server refuses or fails, `UnreachableError` if it does not answer; `InputError` for
        `allow_large` without a server.
        """
        if batch_size is not None:
            how = {"remote": remote, "allow_large": allow_large}
            return in_batches(self, self.run, (image, prompt, graph), batch_size, how)
        if server := self.backend.later(remote):
            session = self.session(server, allow_large=allow_large)
            session.run(self._whole(image, prompt), graph=graph)
            return session.submit()
        run_request = RunRequest(self._whole(image, prompt), as_graph(graph))
        return carry_out(self, run_request, self.backend.executor(remote, allow_large=allow_large))

    def session(self, remote: Where = None, *, allow_large: bool = False) -> Session:
        """Collect several runs, and send them to a server as one request.

        **Arguments:**

        - `remote`, `allow_large`: as for `run`; by default, the server that the model was opened
            with, or the one in nnsight's configuration.

        **Raises:** `InputError` without a server.
        """
        server = self.backend.server(remote)
        if remote is None:
            server = server or self.backend.server(True)
        if server is None:
            raise InputError("a session is for a server: session(remote=True), or an address")
        return Session(self, server, self.backend.hosted, allow_large=allow_large)

    @overload
    def generate(
        self,
        image: Any,
        prompt: Any = ...,
        graph: Graphlike = ...,
        *,
        max_new_tokens: int | None = ...,
        seed: int | None = ...,
        remote: AsJob,
        allow_large: bool = ...,
        **hf_kwargs: Any,
    ) -> Job: ...

    @overload
    def generate(
        self,
        image: Any,
        prompt: Any = ...,
        graph: Graphlike = ...,
        *,
        max_new_tokens: int | None = ...,
        seed: int | None = ...,
        batch_size: int | None = ...,
        remote: Where = ...,
        allow_large: bool = ...,
        **hf_kwargs: Any,
    ) -> Run: ...

    def generate(
        self,
        image: Any,
        prompt: Any = None,
        graph: Graphlike = None,
        *,
        max_new_tokens: int | None = None,
        seed: int | None = None,
        batch_size: int | None = None,
        remote: Where | AsJob = None,
        allow_large: bool = False,
        **hf_kwargs: Any,
    ) -> Run | Job:
        """Generate an answer under a graph; greedy by default.

        **Arguments:**

        - `image`, `prompt`, `graph`: as `run` takes them.
        - `max_new_tokens`: the longest answer; that of a `generation_config` given along, else 128.
        - `seed`: of sampling, with `do_sample=True`: gives the answer of `torch.manual_seed(seed)`
            before the call, and leaves torch's random numbers as they were. Not on a server.
        - `batch_size`, `remote`, `allow_large`: as `run` takes them.
        - `hf_kwargs`: for `model.generate`: `do_sample`, `temperature`, `stop_strings`, `streamer`,
            `eos_token_id` ...

        **Returns:** a `Run` with the logits that predicted each generated token; or a `Job`, as
        `run`.

        **Raises:** as `run`; `CapabilityError` for beam search, assisted decoding and caches other
        than the dynamic one; `InputError` for a seed without sampling.
        """
        if batch_size is not None:
            how = {"remote": remote, "allow_large": allow_large, **hf_kwargs}
            how["max_new_tokens"] = max_new_tokens
            with seeded(seed, self.hooked, hf_kwargs):
                return in_batches(self, self.generate, (image, prompt, graph), batch_size, how)
        encoding, later = self._encoding(image, prompt), self.backend.later(remote)
        self.backend.refuse_seed(seed, remote)
        if later:
            session = self.session(later, allow_large=allow_large)
            session.generate(encoding, graph=graph, max_new_tokens=max_new_tokens, **hf_kwargs)
            return session.submit()
        run_request = RunRequest(encoding, as_graph(graph), True, max_new_tokens, hf_kwargs)
        executor = self.backend.executor(remote, allow_large=allow_large)
        if seed is None:
            return carry_out(self, run_request, executor)
        with self.alone(), seeded(seed, self.hooked, hf_kwargs):
            return carry_out(self, run_request, executor)

    @overload
    def compress(
        self,
        image: Any,
        prompt: Any,
        spec: CompressedContext | None = ...,
        graph: Graphlike = ...,
        *,
        max_new_tokens: int | None = ...,
        seed: int | None = ...,
        remote: Where = ...,
        allow_large: bool = ...,
        **hf_kwargs: Any,
    ) -> Context: ...

    @overload
    def compress(
        self,
        image: Any,
        prompt: Any,
        spec: Sequence[CompressedContext],
        graph: Graphlike = ...,
        *,
        max_new_tokens: int | None = ...,
        seed: int | None = ...,
        remote: Where = ...,
        allow_large: bool = ...,
        **hf_kwargs: Any,
    ) -> tuple[Context, ...]: ...

    def compress(
        self,
        image: Any,
        prompt: Any,
        spec: CompressedContext | Sequence[CompressedContext] | None = None,
        graph: Graphlike = None,
        *,
        max_new_tokens: int | None = None,
        seed: int | None = None,
        remote: Where = None,
        allow_large: bool = False,
        **hf_kwargs: Any,
    ) -> Context | tuple[Context, ...]:
        """Describe an image, and keep the image tokens that the description attended to most.

        ```python
        context = lmm.compress(image, "describe the image", vi.CompressedContext(keep=0.05))
        print(context.tokens_kept, context.ask("is there a red circle?").text)
        ```

        **Arguments:**

        - `image`, `prompt`: as `run` takes them, one sample.
        - `spec`: what to keep; `CompressedContext()` by default. Several share one description and
            return a tuple of contexts.
        - `graph`: edits and probes for the description.
        - `max_new_tokens`, `seed`, `hf_kwargs`: for the description, as for `generate`; the
            released code uses 300 tokens.
        - `remote`, `allow_large`: as `run` takes them. A server keeps no cache: a question is sent
            behind the whole prompt, and what the context lacks is hidden from it.

        **Returns:** a `Context` to ask questions of.

        **Raises:** as `generate`; `InputError` for a batch or a given answer; `CapabilityError` for
        a model whose cache or positions cannot be continued.
        """
        encoding = self._whole(image, prompt)
        several = isinstance(spec, Sequence)
        specs = list(spec) if several else [spec or CompressedContext()]
        run_request = RunRequest(encoding, as_graph(graph), True, max_new_tokens, hf_kwargs)
        self.backend.refuse_seed(seed, remote)
        executor = self.backend.executor(remote, allow_large=allow_large)
        # Some models keep state of their last prompt that its context needs.
        with self.alone(), seeded(seed, self.hooked, hf_kwargs):
            contexts = describe(self, run_request, specs, executor)
        return contexts if several else contexts[0]

    def trace(self, image: Any, prompt: Any = None, **hf_kwargs: Any) -> Any:
        """Open a plain nnsight trace in which `lmm.hook(name)` reads and writes hook points.

        ```python
        with lmm.trace(image, "What is this?"):
            pattern = lmm.hook("blocks.3.attn.hook_pattern").save()
        ```

        **Arguments:**

        - `image`, `prompt`: as `run` takes them.
        - `hf_kwargs`: passed to the model; with `max_new_tokens` the trace generates, greedily by
            default, and they are passed to `model.generate`.

        **Raises:** `CapabilityError` for beam search and assisted decoding, and for a model that
        runs on a server; `InputError` for generation options without `max_new_tokens`.
        """
        self.backend.require_here("a trace of your own", "open one on lmm.nnsight with remote=True")
        encoding = self._whole(image, prompt)
        call, hf_kwargs = called(self.hf_model, self.processor.tokenizer, hf_kwargs)

        def driver(**inputs: Any) -> Any:
            with AttentionBinding(self.hooked, None).armed():
                return call(**{**inputs, **self.hooked.here(encoding.inputs)})

        backend = TakingTurns(self.hooked.turns)
        return self.nnsight.trace(**encoding.inputs, **hf_kwargs, fn=driver, backend=backend)

    def hook(self, name: str) -> Tensor:
        """The live value of a hook point, inside a trace; write it in place, as in `[...] = 0`.

        **Raises:** `NotationError` for an unknown name or layer, `CapabilityError` for a hook
        point that this model does not offer or that cannot be written in place.
        """
        return live(self.hooked, name)
