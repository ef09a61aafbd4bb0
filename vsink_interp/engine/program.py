"""A plan as plain data: what each stop of a forward pass does on a server, without this package."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, final

from torch import Tensor

from ..errors import CapabilityError
from ..graph import Edit, Node, Probe
from ..hooks import HookPoint, find_hook, forward_order
from ..site import Site
from .execute import RESID_PRE
from .generic import Constants, DiffersError, merge
from .progress import Progress, overlap
from .record import Recorder, Tape, record
from .rows import PATTERN, ROT_K, ROT_Q, SCORES, Numbered, Z, _blocks as row_blocks
from .wrapped import Wrapped

RESID_POST = "blocks.{layer}.hook_resid_post"
RESID_MID = "blocks.{layer}.hook_resid_mid"
LOGITS = find_hook("unembed.hook_out")
Place = tuple[str, int | None]


@final
@dataclass(frozen=True)
class Pass:
    """One kind of forward pass: the rows that it has, at some numbers of keys.

    **Attributes:**

    - `n_keys`: the numbers of keys at which nodes are recorded, ascending.
    - `n_rows`: how many rows it has; they are the last tokens.
    """

    n_keys: tuple[int, ...]
    n_rows: int

    def rows(self, n_keys: int) -> range:
        """The rows, as tokens."""
        return range(n_keys - self.n_rows, n_keys)


@final
class Compiler:
    """Turns one run's plan into a job: stops, programs and constants.

    **Arguments:**

    - `ops`: the names of the rotary embedding, the cache update and the attention call in the
        source of each block's attention.
    - `n_new`: how many tokens are generated; None for one forward pass.
    """

    def __init__(
        self, wrapped: Wrapped, progress: Progress, ops: Mapping[str, str], n_new: int | None
    ) -> None:
        self.wrapped = wrapped
        self.progress = progress
        self.ops = dict(ops)
        self.n_new = n_new
        self.constants = Constants()
        self.programs: list[dict[str, Any]] = []
        self.sizes: dict[str, int] = {}
        self.full: set[str] = set()
        self._known: dict[str, int] = {}
        self._origins: dict[str, int] = {}
        length = progress.masks.layout.prompt_length if n_new else progress.masks.layout.length
        self.prefill = Pass((length,), length)
        self.decode = Pass(_sample(length, n_new - 1), 1) if n_new and n_new > 1 else None

    def job(self, inputs: Mapping[str, Any], generate: Mapping[str, Any] | None) -> dict[str, Any]:
        """The job: everything that the server needs for this run, but the kernels."""
        stops = [self._stop(place) for place in self._places(generates=generate is not None)]
        real = self.progress.masks.layout.mask("all")
        rows = self.n_new or self.prefill.n_rows
        self.sizes["logits"] = 4 * len(real) * rows * self.wrapped.config.vocab_size
        return {
            "inputs": dict(inputs),
            "generate": None if generate is None else dict(generate),
            "prompt": self.prefill.n_rows,
            "padding": None if bool(real.all()) else real,
            "stops": stops,
            "programs": self.programs,
            "constants": self.constants.tensors,
            "origins": list(self._origins),
            "unembed": {
                "norm": self.wrapped.family.tap("ln_final.hook_out", None).module,
                "head": self.wrapped.family.tap(LOGITS.template, None).module,
                "cap": getattr(self.wrapped.config, "final_logit_softcapping", None),
            },
        }

    def _places(self, *, generates: bool) -> list[Place]:
        plan = self.progress.plan
        places = {
            (ROT_Q.template, layer) if find_hook(template).computed else (template, layer)
            for template, layer in plan.places
        }
        places |= {(RESID_PRE, layer) for layer in plan.phi_layers}
        places |= {(RESID_POST, layer) for template, layer in places if template == RESID_MID}
        places.add((LOGITS.template, None))
        early = generates and encodes_early(self.wrapped)

        def order(place: Place) -> tuple[bool, Any]:
            return not (early and place[0].startswith("vision")), forward_order(*place)

        return sorted(places, key=order)

    def _stop(self, place: Place) -> dict[str, Any]:
        template, layer = place
        if find_hook(template).computed:
            assert layer is not None  # noqa: S101 (they lie in blocks)
            return self._attention(layer)
        return self._tap(find_hook(template), layer)

    def _tap(self, point: HookPoint, layer: int | None) -> dict[str, Any]:
        tap = self.wrapped.family.tap(point.template, layer)
        nodes = self.progress.plan.at(point.template, layer)
        sinks = self.progress.sinks
        plan, enters = self.progress.plan, point.template == RESID_PRE
        phi, new_phi = (
            enters and layer in known for known in (plan.phi_layers, plan.new_phi_layers)
        )
        decodes = self.decode is not None and "decode" in point.phases
        # Where the prompt's sink values are all that is wanted, decode steps need not stop.
        decodes = decodes and (bool(nodes) or new_phi or not enters)
        return {
            "kind": "tap",
            "path": tap.module,
            "side": tap.side,
            "heads": self.wrapped.n_heads[tap.heads] if tap.heads else None,
            "layer": layer,
            "dims": list(sinks.dims) if phi and sinks else [],
            "new_phi": new_phi,
            "logits": point is LOGITS,
            "settles": point.template == RESID_POST,
            "prefill": self._calls(nodes, point, layer, self._head_pass(point)),
            "decode": self._calls(nodes, point, layer, self.decode) if decodes else None,
        }

    def _head_pass(self, point: HookPoint) -> Pass:
        # Generation computes the logits of the last prompt row alone.
        one = point is LOGITS and self.n_new is not None and keeps_last_logits(self.wrapped)
        return Pass(self.prefill.n_keys, 1) if one else self.prefill

    def _attention(self, layer: int) -> dict[str, Any]:
        path = f"{self.wrapped.family.layers}.{layer}.self_attn"
        kind, sight = self.wrapped.kinds[layer], self.progress.masks.layout.sight
        if kind != "full_attention" or sight != "causal":
            raise CapabilityError(
                f"block {layer} cannot be looked into remotely: its mask ({kind}, {sight}) would "
                "have to be read on the server beside the cache, and behind a sandbox that writes "
                "back a copy of it; probe residuals there, or run it locally"
            )
        scaling = self.wrapped.layers[layer].self_attn.scaling
        return {
            "kind": "attention",
            "path": path,
            "layer": layer,
            "ops": self.ops,
            "scaling": float(scaling),
            "prefill": self._explicit(layer, self.prefill),
            "decode": self._explicit(layer, self.decode) if self.decode else None,
        }

    def _explicit(self, layer: int, kind: Pass) -> dict[str, Any]:
        at = {
            p: self.progress.plan.at(p.template, layer) for p in (ROT_Q, ROT_K, SCORES, PATTERN, Z)
        }
        rows = kind.rows(kind.n_keys[0])
        numbered = (*at[SCORES], *at[PATTERN])
        turned = any(isinstance(node, Edit) for _, node in (*at[ROT_Q], *at[ROT_K]))
        edited = (
            rows if turned else self.span([n for _, n in numbered if isinstance(n, Edit)], rows)
        )
        needed = rows if turned else self.span([n for _, n in numbered], rows)
        batch, heads = self.progress.masks.layout.batch, self.wrapped.n_heads["head"]
        whole = any(node.whole for _, node in numbered)
        blocks = [
            self._block(layer, at, kind, block, rows, overlap(block, edited))
            for block in row_blocks(needed, batch * heads * rows.stop, whole)
            if block
        ]
        return {
            "explicit": bool(numbered or at[ROT_Q] or at[ROT_K]),
            "rot_q": self._calls(at[ROT_Q], ROT_Q, layer, kind),
            "rot_k": self._calls(at[ROT_K], ROT_K, layer, kind),
            "blocks": blocks,
            "z": self._calls(at[Z], Z, layer, kind),
        }

    def span(self, nodes: Iterable[Node], rows: range) -> range:
        """The smallest span of rows that holds all that these nodes act on."""
        spans = [span for node in nodes if (span := self.progress.span(node, rows))]
        if not spans:
            return range(rows.start, rows.start)
        return range(min(s.start for s in spans), max(s.stop for s in spans))

    def _block(
        self,
        layer: int,
        at: Mapping[HookPoint, Numbered],
        kind: Pass,
        block: range,
        rows: range,
        keep: range,
    ) -> dict[str, Any]:
        start, stop = block.start - rows.start, block.stop - rows.start
        return {
            "start": start,
            "stop": stop,
            "keep": [keep.start - rows.start, keep.stop - rows.start] if keep else None,
            "values": any(node.needs_values for _, node in (*at[SCORES], *at[PATTERN])),
            "scores": self._calls(at[SCORES], SCORES, layer, kind, (start, stop)),
            "pattern": self._calls(at[PATTERN], PATTERN, layer, kind, (start, stop)),
        }

    def _calls(
        self,
        nodes: Numbered,
        point: HookPoint,
        layer: int | None,
        kind: Pass | None,
        part: tuple[int, int] | None = None,
    ) -> list[dict[str, Any]]:
        assert kind is not None  # noqa: S101 (the caller has looked)
        found = [self._call(number, node, point, layer, kind, part) for number, node in nodes]
        return [call for call in found if call is not None]

    def _call(
        self,
        number: int,
        node: Node,
        point: HookPoint,
        layer: int | None,
        kind: Pass,
        part: tuple[int, int] | None,
    ) -> dict[str, Any] | None:
        """One node at one place: its recording, and the rows that it is given."""
        whole = kind.rows(kind.n_keys[0])
        rows = whole if part is None else range(whole.start + part[0], whole.start + part[1])
        span = rows
        if isinstance(node, Probe) and "query" in point.axes and not node.whole:
            span = overlap(self.progress.span(node, whole), rows)
        if not span:
            return None
        narrow = None
        if span != rows:
            narrow = [point.axes.index("query"), span.start - rows.start, len(span)]
        offset, size = span.start - whole.start, len(span)
        first = span.start if kind is not self.decode else None
        if point is ROT_K:
            first = 0 if kind is not self.decode else None
        return {
            "node": number,
            "edit": isinstance(node, Edit),
            "new_phi": node.needs_new_phi,
            "narrow": narrow,
            "first": first,
            "program": self._program(node, point, layer, kind, offset, size),
        }

    def _program(
        self, node: Node, point: HookPoint, layer: int | None, kind: Pass, offset: int, size: int
    ) -> int:
        tapes: list[Tape] = []
        vision = point.name.startswith("vision") or point.stack == "vision_encoder.blocks"
        for shape_number, n_keys in enumerate(kind.n_keys * 2 if vision else kind.n_keys):
            first = kind.rows(n_keys).start + offset
            rows = range(n_keys) if point is ROT_K else range(first, first + size)
            tapes.append(self._tape(node, point, layer, rows, n_keys, shape_number))
        n_keys = () if vision else kind.n_keys
        try:
            ops = merge([tape.ops for tape in tapes], n_keys, self.constants)
            out = merge([tape.out for tape in tapes], n_keys, self.constants)
            checks = merge([tape.checks for tape in tapes], n_keys, self.constants)
        except DiffersError:
            what = "pictures and patches" if vision else "tokens"
            raise CapabilityError(
                f"{node!r} cannot run remotely: what it does depends on the number of {what} in a "
                "way that cannot be written down before the run; run it locally"
            ) from None
        if isinstance(node, Probe):
            self._weigh(
                node, tapes[-1].size * (max((self.n_new or 1) - 1, 1) if kind is self.decode else 1)
            )
        return self._intern(ops, out, checks)

    def _weigh(self, probe: Probe, size: int) -> None:
        name = repr(probe)
        self.sizes[name] = self.sizes.get(name, 0) + size
        if {"head", "query", "key"} <= set(probe.axes):
            self.full.add(name)

    def _intern(self, ops: list[list[Any]], out: Any, checks: list[list[Any]]) -> int:
        for noted in (*ops, *checks):
            noted[-1] = self._origins.setdefault(noted[-1], len(self._origins))
        key = repr((ops, out, checks))
        if key not in self._known:
            self._known[key] = len(self.programs)
            self.programs.append({"ops": ops, "out": out, "checks": checks})
        return self._known[key]

    def _tape(
        self,
        node: Node,
        point: HookPoint,
        layer: int | None,
        rows: range,
        n_keys: int,
        shape_number: int,
    ) -> Tape:
        """What a node does at these rows, with this many keys."""
        sizes = self._sizes(len(rows), n_keys, shape_number)

        def act(recorder: Recorder) -> Tensor:
            return self._act(node, point, layer, rows, n_keys, sizes, recorder)

        return record(repr(node), act)

    def _act(
        self,
        node: Node,
        point: HookPoint,
        layer: int | None,
        rows: range,
        n_keys: int,
        sizes: Mapping[str, int],
        recorder: Recorder,
    ) -> Tensor:
        """Let a node act on slots."""
        value = recorder.input("value", [sizes[axis] for axis in point.axes])
        phis: list[Tensor] = []
        if layer is not None and node.needs_phi:
            # Where generated tokens do not matter to a node, it is given those of the prompt alone.
            seen = n_keys if node.needs_new_phi else min(n_keys, self.prefill.n_rows)
            phis = [recorder.input("phi", (sizes["batch"], seen))]
        sinks = self.progress.sinks
        site = Site(
            point,
            layer,
            self.progress.masks,
            rows.start,
            len(rows),
            n_keys,
            dims=sinks.dims if sinks else None,
            tau=sinks.tau if sinks else None,
            extras={
                **(_values(recorder, sizes) if node.needs_values else {}),
                **({"unembed": recorder.unembed(sizes["vocab"])} if node.needs_unembed else {}),
            },
            phis=phis,
        )
        act: Callable[..., Any] = node.apply if isinstance(node, Edit) else node.measure  # ty: ignore[missing-attribute]
        result = act(value, site)
        if isinstance(node, Edit) and result.shape != value.shape:
            raise CapabilityError(
                f"{node!r} turned {point.at(layer)} from shape {tuple(value.shape)} into "
                f"{tuple(result.shape)}; an edit keeps the shape {point.axes}"
            )
        return result

    def _sizes(self, n_rows: int, n_keys: int, shape_number: int) -> dict[str, int]:
        config, heads = self.wrapped.config, self.wrapped.n_heads
        d_head = getattr(config, "head_dim", None) or config.hidden_size // heads["head"]
        vision = getattr(self.wrapped.hf_model.config, "vision_config", None)
        return {
            **heads,
            "batch": self.progress.masks.layout.batch,
            "query": n_rows,
            "key": n_keys,
            "d_head": d_head,
            "d_model": config.hidden_size,
            "d_mlp": getattr(config, "intermediate_size", 4 * config.hidden_size),
            "vocab": config.vocab_size,
            "d_vision": getattr(vision, "hidden_size", 16),
            # Not known before the run: two different guesses, of which nothing may depend.
            "picture": 1 + shape_number,
            "patch": 5 + 2 * shape_number,
        }


def encodes_early(wrapped: Wrapped) -> bool:
    """Whether generation encodes the pictures before it embeds the text."""
    return bool(getattr(wrapped.hf_model, "_supports_mm_encoder_outputs", bool)())


def keeps_last_logits(wrapped: Wrapped) -> bool:
    """Whether generation computes the logits of the last prompt row alone."""
    return "logits_to_keep" in inspect.signature(wrapped.hf_model.forward).parameters


def _values(recorder: Recorder, sizes: Mapping[str, int]) -> dict[str, Any]:
    """The values and output weights of attention, for nodes that ask for them."""
    shapes = {
        "value": ("batch", "kv_head", "key", "d_head"),
        "weight": ("head", "d_head", "d_model"),
    }
    return {
        name: recorder.input(f"attention {name}", [sizes[axis] for axis in axes])
        for name, axes in shapes.items()
    }


def _sample(prompt: int, n_steps: int) -> tuple[int, ...]:
    """Numbers of keys that stand for every decode step."""
    last = prompt + n_steps
    picked = {prompt + 1, prompt + 2, prompt + 1 + n_steps // 2, last}
    return tuple(sorted(n for n in picked if n <= last))
