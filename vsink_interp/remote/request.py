"""The remote binding: compile plans, send them in one request, and read the results as runs."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any, final

import nnsight
import torch
from nnsight import TransformersModel
from nnsight.intervention.backends.remote import RemoteBackend
from nnsight.modeling.huggingface import _ID_CACHE
from torch import Tensor

from ..engine.cache import refuse_cuts
from ..engine.cached_prefix import CachedPrefix
from ..engine.contrast_pass import Beside
from ..engine.edges import refuse_inert
from ..engine.execute import Outcome
from ..engine.gradients import refuse_gradients
from ..engine.hooked_model import HookedModel
from ..engine.row_program import PATTERN
from ..engine.run_state import RunState
from ..errors import CapabilityError
from ..graph import EditGraph, TokenMasks
from ..graph.plan import Plan
from ..sinks import SinkDims
from ..tokens import TokenLayout
from .compiler import Compiler
from .hidden_keys import hidden
from .job_inputs import joined, refuse_apart, shows, whole_inputs
from .node_program import Programs, Store
from .source_export import functions
from .untrusted import answering

TASK = "image-text-to-text"
CPU = torch.device("cpu")


@final
class Hosted:
    """A hosted model: its structure without weights, and its key on the server."""

    def __init__(self, repo: str, processor: Any, **hf_kwargs: Any) -> None:
        if Path(repo).is_dir():
            _ID_CACHE.setdefault(repo, repo)  # else nnsight asks the Hub for its true name
        self.nnsight = TransformersModel(
            repo,
            task=TASK,
            processor=processor,
            tokenizer=processor.tokenizer,
            **hf_kwargs,
        )

    @cached_property
    def key(self) -> str:
        """The server's key for the model."""
        return self.nnsight.to_model_key()

    def call(self, path: str) -> str:
        """The operation that calls attention in the source of an attention module.

        **Raises:** `CapabilityError` listing the operations of its source.
        """
        names = self.nnsight.get(path).source.names
        # Assigning the function comes before calling it, and counts as well.
        found = [name for name in names if re.fullmatch(r"attention_interface_\d+", name)]
        if not found:
            raise CapabilityError(
                f"the attention of {self.key} cannot be edited remotely: its source calls no "
                f"attention_interface; it has: {', '.join(names)}"
            )
        return found[-1]


@final
@dataclass(frozen=True, eq=False)
class Request:
    """One run, compiled.

    **Attributes:**

    - `job`: the data that is sent.
    - `sizes`: the bytes that each probe and the logits return.
    - `full`: the probes that return full patterns.
    """

    job: Mapping[str, Any]
    sizes: Mapping[str, int]
    full: tuple[str, ...]


def compile_run(
    hooked: HookedModel,
    hosted: Hosted,
    plan: Plan,
    inputs: Mapping[str, Tensor],
    layout: TokenLayout,
    sinks: SinkDims | None,
    generate: Mapping[str, Any] | None,
    beside: Beside | None = None,
    cached_prefix: CachedPrefix | None = None,
) -> Request:
    """Compile one run; arguments as `execute` takes them.

    **Raises:** `CapabilityError` for a node that cannot run remotely, naming why.
    """
    given = None if generate is None else _sendable(generate)
    refuse_gradients(plan, generates=generate is not None)
    seconds = beside() if beside else {}
    refuse_apart(hooked, seconds, given, inputs["input_ids"])
    plain = {name: value.detach().cpu() for name, value in inputs.items()}
    if cached_prefix is not None:
        refuse_cuts(plan)
        plain = whole_inputs(plain, cached_prefix)
    n_new = given["max_new_tokens"] if given else None
    passes = [plain, *({k: v.cpu() for k, v in one.inputs.items()} for one in seconds.values())]
    masks = TokenMasks(layout, CPU)
    refuse_inert(plan, masks)  # by what keys are dropped, too, of which the hidden plan knows less
    states = [RunState(hidden(plan, cached_prefix), masks, sinks)]
    states += [
        RunState(hidden(one.plan or _nothing(plan)), TokenMasks(one.layout, CPU), sinks)
        for one in seconds.values()
    ]
    store, longest = Store(), max(each["input_ids"].shape[1] for each in passes)
    programs = [
        Programs(
            hooked,
            state,
            n_new,
            store,
            share=(number, len(states)),
            longest=longest,
            skip=cached_prefix.length if cached_prefix else 0,
            beside={n: i for i, n in enumerate(seconds, start=1)} if number == 0 else {},
            shown=sum(map(shows, passes)),
        )
        for number, state in enumerate(states)
    ]
    call = hosted.call(f"{hooked.family.layers}.{hooked.offering(PATTERN)[0]}.self_attn")
    compiler = Compiler(hooked, programs, call, n_new)
    job = compiler.job(joined(hooked, passes) if seconds else plain, given)
    return Request(job, store.sizes, tuple(sorted(store.full)))


def _nothing(plan: Plan) -> Plan:
    """The plan of a second pass without edits of its own."""
    return replace(plan, graph=EditGraph(), places={}, cuts={})


_OURS = ("return_dict_in_generate", "output_logits", "tokenizer")


def _sendable(generate: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in generate.items() if name not in _OURS}
    for name, value in kept.items():
        parts = value if isinstance(value, list | tuple) else [value]
        if name == "stop_strings" or not all(
            isinstance(p, int | float | str | None) for p in parts
        ):
            raise CapabilityError(
                f"{name}={value!r} cannot be sent to a server; numbers, words and lists of them can"
            )
    return kept


SENT_BACK = ("pieces", "blind", "lost", "logits", "ids")
"""The parts of a run's state that are returned."""


def send(hosted: Hosted, requests: Sequence[Request], backend: RemoteBackend) -> None:
    """Send runs as one job, without waiting for it."""
    sent = functions()
    new_state, forward, answers = (sent[name] for name in ("new_state", "forward", "answers"))
    jobs = [{**request.job, "kernels": sent["kernels"]} for request in requests]
    model = hosted.nnsight
    with model.session(backend=backend):
        found = nnsight.save([])
        for job in jobs:
            state = new_state()
            if job["generate"] is None:
                with model.trace(**job["inputs"], use_cache=True):
                    forward(model, job, state)
            else:
                # Bounded: where no decode step stops, an open loop would never end.
                n_new = job["generate"]["max_new_tokens"]
                with model.generate(**job["generate"]) as tracer:
                    with tracer.invoke(**job["inputs"]):
                        for _ in tracer.iter[:n_new]:
                            forward(model, job, state)
                    with tracer.invoke():
                        state["ids"] = answers(job, tracer.result)
            found.append({name: state[name] for name in SENT_BACK})


def read_back(state: Mapping[str, Any]) -> Callable[..., Outcome]:
    """A replacement for `execute` that reads the server's result."""

    def carry_out(
        hooked: HookedModel,
        plan: Plan,
        inputs: Mapping[str, Tensor],
        layout: TokenLayout,
        sinks: SinkDims | None,
        generate: Mapping[str, Any] | None,
        *others: Any,
    ) -> Outcome:
        del hooked, others
        run_state = RunState(plan, TokenMasks(layout, CPU), sinks)
        with answering("the server", "a result of another run"):
            for layer, flag in state["blind"]:
                run_state.see_blind(layer, flag)
            for layer, flag in state["lost"]:
                run_state.see_lost(layer, flag)
            run_state.refuse_blind()
            run_state.refuse_lost()
            for number, layer, first, value in state["pieces"]:
                run_state.pieces.setdefault(number, {}).setdefault(layer, []).append((first, value))
            output = _output(state, inputs["input_ids"], generate)
            return Outcome(output, run_state.records())

    return carry_out


def _output(
    state: Mapping[str, Any], prompt: Tensor, generate: Mapping[str, Any] | None
) -> SimpleNamespace:
    """What the model returned, if it can have come of this prompt.

    **Raises:** `ValueError` if not.
    """
    logits = state["logits"]
    batch, length = prompt.shape
    if generate is None:
        if logits[0].ndim != 3 or logits[0].shape[:2] != prompt.shape:
            raise ValueError(f"logits {tuple(logits[0].shape)} for {tuple(prompt.shape)} tokens")
        return SimpleNamespace(logits=logits[0])
    steps, ids = tuple(step[:, 0] for step in logits), state["ids"]
    new = ids.shape[1] - length
    if not (len(ids) == batch and 0 < new == len(steps) <= generate["max_new_tokens"]):
        raise ValueError(f"{tuple(ids.shape)} ids and {len(steps)} steps")
    if not torch.equal(ids[:, :length], prompt.cpu()):
        raise ValueError("the ids of another prompt")
    if any(step.ndim != 2 or len(step) != batch for step in steps):
        raise ValueError("logits of another batch")
    if ids.min() < 0 or ids[:, length:].max() >= steps[0].shape[-1]:
        raise ValueError("ids beyond the vocabulary")
    return SimpleNamespace(sequences=ids, logits=steps)
