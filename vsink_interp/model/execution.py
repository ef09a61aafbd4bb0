"""One run from request to result: plan it for the model, execute it, read the outcome."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..edits import Contrast, Knockout
from ..engine import Outcome, turns_of
from ..errors import CapabilityError, InputError, LayoutError
from ..families import layers_read
from ..graph import HOOKS, CacheEdit, Edit, EditGraph, Node, Probe, find_hook
from ..graph.plan import Plan, plan
from ..results import Recorded, Run, counted, split_words
from ..sinks import SinkDims
from ..tokens import TokenLayout
from .contrast_inputs import second_passes
from .encoding import Encoding
from .generation import after_end, options, refuse_endless, watched
from .marking import marked_for
from .soundness import refuse_nan

Executor = Callable[..., Outcome]
"""`engine.execute` or a replacement for it."""


@final
@dataclass(frozen=True, eq=False)
class RunRequest:
    """A requested run: one forward pass, or an answer of at most `n_new` tokens."""

    encoding: Encoding
    graph: EditGraph
    generates: bool = False
    n_new: int | None = None
    hf_kwargs: Mapping[str, Any] = field(default_factory=dict)


def carry_out(
    lmm: Any,
    run_request: RunRequest,
    executor: Executor,
    sinks: SinkDims | None = None,
    *,
    alone: bool = True,
) -> Run:
    """Plan a run, let `executor` execute it, and read the outcome.

    **Arguments:**

    - `lmm`: the model.
    - `sinks`: the sink dimensions, if they are known already.
    - `alone`: whether a pass may go before it, for words of the notation that a run finds.
    """
    if alone:
        run_request = _with_marks(lmm, run_request, executor)
    return (_answer if run_request.generates else _one_pass)(lmm, run_request, executor, sinks)[0]


def with_outcome(lmm: Any, run_request: RunRequest, executor: Executor) -> tuple[Run, Outcome]:
    """A run, and the raw outcome with the model's cache."""
    return _answer(lmm, _with_marks(lmm, run_request, executor), executor, None)


def _with_marks(lmm: Any, run_request: RunRequest, executor: Executor) -> RunRequest:
    """The request with the tokens of words that a pass before it has to find."""

    def run(graph: EditGraph) -> Run:
        return _one_pass(lmm, RunRequest(run_request.encoding, graph), executor, None)[0]

    encoding = marked_for(lmm, run_request.encoding, run_request.graph, run)
    return replace(run_request, encoding=encoding)


def _one_pass(
    lmm: Any, run_request: RunRequest, executor: Executor, sinks: SinkDims | None
) -> tuple[Run, Outcome]:
    encoding = run_request.encoding
    planned = fitted(lmm, run_request.graph, encoding, generates=False)
    outcome = executor(
        lmm.hooked,
        planned,
        encoding.inputs,
        encoding.layout,
        sinks or _sinks_needed(lmm, planned),
        None,
        partial(second_passes, lmm, partial(fitted, lmm), planned, encoding, 0),
    )
    logits = outcome.output.logits
    ids = encoding.inputs["input_ids"]
    # Behind a shorter answer there is padding, whose row predicts nothing.
    places = torch.arange(ids.shape[1])
    last = (places * encoding.layout.mask("all")).argmax(-1).to(logits.device)
    likeliest = logits[torch.arange(len(ids)), last].argmax(-1, keepdim=True)
    return _read(lmm, run_request, ids, logits, likeliest, encoding.layout, outcome), outcome


def _answer(
    lmm: Any, run_request: RunRequest, executor: Executor, sinks: SinkDims | None
) -> tuple[Run, Outcome]:
    encoding = run_request.encoding
    _refuse_ragged(encoding)
    given = options(
        lmm.hf_model, lmm.processor.tokenizer, run_request.n_new, dict(run_request.hf_kwargs)
    )
    refuse_endless(lmm.hf_model, given, encoding.layout.batch)
    given = watched(given)
    n_new = given["max_new_tokens"]
    # The last token is never fed back: one new token means no row of a generated token.
    planned = fitted(lmm, run_request.graph, encoding, generates=n_new > 1)
    outcome = executor(
        lmm.hooked,
        planned,
        encoding.inputs,
        encoding.layout.extend(n_new),
        sinks or _sinks_needed(lmm, planned),
        {**given, "return_dict_in_generate": True, "output_logits": True},
        partial(second_passes, lmm, partial(fitted, lmm), planned, encoding, n_new),
        encoding.cached_prefix,
    )
    ids, logits = outcome.output.sequences, torch.stack(outcome.output.logits, 1)
    new = ids[:, encoding.layout.length :]
    ended = after_end(lmm.hf_model, ids, encoding.layout.length, given)
    before = torch.zeros(len(new), encoding.layout.length, dtype=torch.bool)
    layout = encoding.layout.extend(new.shape[1]).without(torch.cat([before, ended], 1))
    return _read(lmm, run_request, ids, logits, new, layout, outcome), outcome


def _read(
    lmm: Any,
    run_request: RunRequest,
    ids: Int[Tensor, "batch token"],
    logits: Float[Tensor, "batch row vocab"],
    new: Int[Tensor, "batch new"],
    layout: TokenLayout,
    outcome: Outcome,
) -> Run:
    refuse_nan(lmm.hooked, run_request.encoding, run_request.graph, logits)
    decode = lmm.processor.tokenizer.batch_decode
    with turns_of(lmm.processor.tokenizer).hold():
        words = tuple(tuple(decode([[i] for i in row])) for row in ids.tolist())
        texts = [text.strip() for text in decode(new, skip_special_tokens=True)]
    text = texts if run_request.encoding.batched else texts[0]
    with turns_of(lmm.processor.tokenizer).hold():
        records = split_words(_records(outcome, run_request.graph, layout), decode)
    found = lmm.sinks_or_none
    return Run(
        ids.cpu(),
        logits.cpu(),
        text,
        layout,
        words,
        run_request.graph,
        lmm.name,
        records,
        None if found is None else found.tau,
    )


def _records(outcome: Outcome, graph: EditGraph, layout: TokenLayout) -> dict[str, Recorded]:
    """The records, each told which of its entries count: now it is known where answers end."""
    probes = {repr(node): node for node in graph if isinstance(node, Probe)}
    return {
        name: counted(record, probes.get(name) or probes[name.rpartition("#")[0]], layout)
        for name, record in outcome.records.items()
    }


def _refuse_ragged(encoding: Encoding) -> None:
    """Refuse to go on behind the padding of a shorter answer."""
    if not bool(encoding.layout.mask("all")[:, -1].all()):
        lengths = encoding.layout.mask("generated").sum(-1).tolist()
        raise InputError(
            f"the answers to go on from are {lengths} tokens long, and the next token would follow "
            "the padding of the shorter ones; generate from them one by one, or read them with run"
        )


def fitted(lmm: Any, graph: EditGraph, encoding: Encoding, *, generates: bool) -> Plan:
    """Plan a graph for a model and a prompt.

    **Raises:** `CapabilityError`, `NotationError` or `LayoutError` if it does not fit them.
    """
    from .unembedding import token_id  # it is about a model, whose runs this module plans

    token = partial(token_id, lmm.tokenizer, size=lmm.config.get_text_config().vocab_size)
    graph = EditGraph(*(node.sized(lmm.sizes).worded(token) for node in graph))
    if generates and encoding.layout.n_given:
        graph = _over_given(graph)
    for node in graph:
        if node.point in HOOKS:
            lmm.hooked.require(node.point)
    planned = plan(graph, lmm.n_layers, lmm.hooked.n_vision_layers, lmm.hooks)
    for template, layer in planned.places:
        lmm.hooked.require(find_hook(template), layer)
    for node in graph:
        if encoding.cached_prefix is not None:
            _refuse_after(node)
        if node.needs_values and (why := lmm.hooked.gating):
            raise CapabilityError(f"{node!r}: {why}")
        _refuse_unlike_logits(lmm, node)
        _refuse_unread(lmm, node)
        node.fit(lmm.sizes)
        if "vision" in node.point.template and not any(encoding.images):
            raise LayoutError(
                f"{node!r} acts in the vision encoder or projector, and this prompt has no image"
            )
        node.check(encoding.layout, generates=generates)
        _refuse_beyond_windows(lmm, node, encoding.layout, generates=generates)
    if not any(encoding.images):
        _refuse_skipped(lmm, planned)
    return planned


def _refuse_beyond_windows(lmm: Any, node: Node, layout: TokenLayout, *, generates: bool) -> None:
    """Refuse a node whose rows see none of its keys in its own layers, though in others they do."""
    if node.point.stack != "blocks":
        return
    there = layout.of_layers(node.resolved_layers(lmm.n_layers))
    if there is layout:
        return
    for edges in (*node.acts_on, *filter(None, (node.removes,))):
        there.check_reach(
            edges.columns, edges.rows, first_token=edges.first_token, generates=generates
        )


def _refuse_unread(lmm: Any, node: Node) -> None:
    """Refuse what would act in layers of the vision encoder alone whose features are not read."""
    if node.point.stack != "vision_encoder.blocks":
        return
    depth = lmm.hooked.n_vision_layers
    read = layers_read(lmm.hf_model.config, depth)
    acts = isinstance(node, Edit) or node.needs_gradient
    if acts and all(layer >= read for layer in node.resolved_layers(depth)):
        raise CapabilityError(
            f"{node!r} reaches nothing: {lmm.name} reads what layer {read - 1} of its vision "
            f"encoder gives (vision_feature_layer), and no later one; name layers up to {read - 1}"
        )


def _refuse_unlike_logits(lmm: Any, node: Node) -> None:
    """Refuse nodes that need the model's logits where they can have other numbers alone."""
    if node.needs_unembed and (why := lmm.hooked.unlike_logits):
        raise CapabilityError(f"{node!r}: {why}")
    if isinstance(node, Contrast) and lmm.hooked.softcap is not None:
        raise CapabilityError(
            f"{node!r} cannot act here: {lmm.name} caps its logits after the unembedding, so their "
            "contrast would be capped once more"
        )


def _over_given(graph: EditGraph) -> EditGraph:
    """The graph for a prompt with a given answer, which the first pass reads at once.

    Had its tokens been generated, they would not have seen keys that were dropped after the prompt,
    so the flow from these is cut as well.
    """
    nodes: list[Node] = []
    for node in graph:
        if isinstance(node, CacheEdit) and (edges := node.takes):
            nodes.append(Knockout(f"{edges.columns} -> {edges.rows}", node.layers))
        nodes.append(node)
    return EditGraph(*nodes)


def _refuse_skipped(lmm: Any, planned: Plan) -> None:
    """Refuse nodes in layers that the model skips for prompts without an image."""
    kinds = lmm.hooked.kinds
    fine = ",".join(str(at) for at, kind in enumerate(kinds) if kind != "cross_attention")
    for (template, layer), nodes in planned.places.items():
        decoder = find_hook(template).stack == "blocks" and layer is not None
        if decoder and kinds[layer] == "cross_attention":
            raise LayoutError(
                f"{nodes[0][1]!r} acts on layer {layer}, cross-attention, which this model passes "
                f"over without an image; name others, layers={fine!r}"
            )


def _refuse_after(node: Node) -> None:
    """Refuse nodes that cannot act on a question to a compressed context."""
    if node.needs_phi:
        lacks = "needs the sink value of every token, and a compressed context has none"
    elif isinstance(node, Contrast):
        lacks = "needs a second pass over the prompt, and a compressed context has read it already"
    else:
        return
    raise CapabilityError(f"{node!r} {lacks}; ask with the whole prompt in generate")


def _sinks_needed(lmm: Any, planned: Plan) -> SinkDims | None:
    """The sink dimensions, searched for only if a node needs them."""
    return lmm.sinks if any(node.needs_sinks for node in planned.graph) else lmm.sinks_or_none
