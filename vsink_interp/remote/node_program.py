"""Record what a node does at one hook point and layer as a program that a server can run."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, final

from torch import Tensor

from ..engine.hooked_model import HookedModel
from ..engine.node_results import refuse_reshaped
from ..engine.row_program import ROT_K
from ..engine.run_state import RunState, overlap
from ..errors import CapabilityError
from ..graph import Edit, HookPoint, Node, Probe, Site
from .decode_template import Constants, DiffersError, merge
from .op_trace import Recorder, Tape, record

_PARTS = ("query", "key")
"""The axes along which a value is cut to what a pass sees, beside that of the samples."""


@final
@dataclass(frozen=True)
class Pass:
    """One kind of forward pass: the rows that nodes see, at several numbers of keys.

    **Attributes:**

    - `n_keys`: the numbers of keys at which nodes are recorded, ascending.
    - `n_rows`: the number of rows; they are the last tokens.
    - `n_given`: the number of rows that the model computes. Those in front are padding, or tokens
        whose rows nodes do not see.
    """

    n_keys: tuple[int, ...]
    n_rows: int
    n_given: int

    def rows(self, n_keys: int) -> range:
        """The rows, as tokens."""
        return range(n_keys - self.n_rows, n_keys)

    @property
    def ahead(self) -> int:
        """The token that the first row of the model would be; below 0, it is padding."""
        return self.n_keys[0] - self.n_given


@final
class Store:
    """The programs of one job, each stored once, with the constants that they share.

    **Attributes:**

    - `made`: the programs; calls refer to them by index.
    - `origins`: the source lines that called torch, by index.
    - `sizes`: the bytes that each probe returns; `Compiler` adds those of the logits.
    - `full`: the probes that return full patterns.
    """

    def __init__(self) -> None:
        self.constants = Constants()
        self.made: list[dict[str, Any]] = []
        self.origins: dict[str, int] = {}
        self.sizes: dict[str, int] = {}
        self.full: set[str] = set()
        self._known: dict[str, int] = {}

    def intern(self, ops: list[list[Any]], out: Any, checks: list[list[Any]]) -> int:
        """The index of a program, which is stored if it is new."""
        for noted in (*ops, *checks):
            noted[-1] = self.origins.setdefault(noted[-1], len(self.origins))
        key = repr((ops, out, checks))
        if key not in self._known:
            self._known[key] = len(self.made)
            self.made.append({"ops": ops, "out": out, "checks": checks})
        return self._known[key]

    def weigh(self, probe: Probe, size: int) -> None:
        """Count the bytes that a probe returns."""
        name = repr(probe)
        self.sizes[name] = self.sizes.get(name, 0) + size
        if {"head", "query", "key"} <= set(probe.axes):
            self.full.add(name)


@final
class Programs:
    """The programs of one sample pass of a job: of the run's own, or of one beside it.

    **Arguments:**

    - `share`: which of the passes of the job it is, and how many there are.
    - `longest`: the number of tokens that the longest of them reads at first.
    - `skip`: the number of tokens whose rows its nodes do not see: an earlier run has read them.
    - `n_new`: the number of tokens to generate; None for one forward pass.
    - `beside`: of `Contrast` nodes, by their number: which pass is theirs.
    - `shown`: how many passes of the job have images; the run's own comes first.

    **Attributes:**

    - `prefill`, `decode`: the kinds of pass; `decode` is None if there is none.
    - `shift`: the padding in front of its tokens, which nodes do not see.
    """

    def __init__(
        self,
        hooked: HookedModel,
        run_state: RunState,
        n_new: int | None,
        store: Store,
        *,
        share: tuple[int, int] = (0, 1),
        longest: int | None = None,
        skip: int = 0,
        beside: Mapping[int, int] | None = None,
        shown: int = 1,
    ) -> None:
        self.hooked = hooked
        self.run_state = run_state
        self.n_new = n_new
        self.store = store
        self.share = share
        self.beside = beside or {}
        self.shown = shown
        length = run_state.masks.layout.first_pass
        longest = longest or length
        self.shift = longest - length
        self.prefill = Pass((length,), length - skip, longest)
        self.decode = Pass(_sample(length, n_new - 1), 1, 1) if n_new and n_new > 1 else None

    def calls(
        self,
        point: HookPoint,
        layer: int | None,
        kind: Pass | None,
        tile: range | None = None,
    ) -> list[dict[str, Any]]:
        """The calls of its nodes at a hook point, in order.

        **Arguments:**

        - `tile`: the rows of the model that the value holds; all by default.

        **Raises:** `CapabilityError` for a node that cannot run remotely, naming why.
        """
        assert kind is not None  # noqa: S101 (the caller has looked)
        nodes = self.run_state.plan.at(point.template, layer)
        found = [self._call(number, node, point, layer, kind, tile) for number, node in nodes]
        return [call for call in found if call is not None]

    def _call(
        self,
        number: int,
        node: Node,
        point: HookPoint,
        layer: int | None,
        kind: Pass,
        tile: range | None,
    ) -> dict[str, Any] | None:
        """One node at one hook point and layer: its program, and the part of a value it gets."""
        whole = kind.rows(kind.n_keys[0])
        tile = tile or range(kind.n_given)
        given = range(tile.start + kind.ahead, tile.stop + kind.ahead)  # as tokens
        rows = span = overlap(whole, given)
        if isinstance(node, Probe) and "query" in point.axes and not node.whole:
            span = overlap(self.run_state.span(node, whole), rows)
        if not span:
            return None
        kept = self.run_state.span(node, span) if node.needs_gradient else span
        first = None if kind is self.decode else 0 if point is ROT_K else kept.start
        return {
            "node": number,
            "edit": isinstance(node, Edit),
            "new_phi": node.needs_new_phi,
            "share": [0, self.shown] if in_vision(point) else list(self.share),
            "shift": self.shift,
            "rows": None if span == given else [span.start - given.start, len(span)],
            "axes": [point.axes.index(axis) if axis in point.axes else None for axis in _PARTS],
            "second": self.beside.get(number),
            "first": first,
            "keep": [kept.start - span.start, len(kept)],
            "program": self._made(node, point, layer, kind, span),
        }

    def targets(self) -> list[dict[str, Any]]:
        """What gradients are of: for each node that takes one, a program of the logits."""
        return [
            {"node": number, "program": self._target(node)}
            for number, node in enumerate(self.run_state.plan.graph)
            if node.needs_gradient
        ]

    def _target(self, node: Any) -> int:
        layout = self.run_state.masks.layout

        def act(recorder: Recorder) -> Tensor:
            shape = layout.batch, self.prefill.n_rows, self.hooked.config.vocab_size
            return node.target(recorder.input("value", shape), layout)

        tape, constants = record(repr(node), act), self.store.constants
        parts = [merge([part], (), constants) for part in (tape.ops, tape.out, tape.checks)]
        return self.store.intern(*parts)

    def _made(
        self, node: Node, point: HookPoint, layer: int | None, kind: Pass, span: range
    ) -> int | None:
        """The index of a node's program; None for a gradient, which follows from the target's."""
        whole = kind.rows(kind.n_keys[0])
        if not node.needs_gradient:
            return self._program(node, point, layer, kind, span.start - whole.start, len(span))
        sizes = {
            **self._sizes(len(span), whole.stop, 0),
            **self._layer_sizes(point, layer),
        }
        assert isinstance(node, Probe)  # noqa: S101 (edits take none)
        # How many images and patches there are is not known before the run.
        self.store.weigh(node, 4 * prod(sizes.get(axis, 2**5) for axis in point.axes))
        return None

    def _program(
        self, node: Node, point: HookPoint, layer: int | None, kind: Pass, offset: int, size: int
    ) -> int:
        tapes: list[Tape] = []
        vision = in_vision(point)
        for shape_number, n_keys in enumerate(kind.n_keys * 2 if vision else kind.n_keys):
            whole = kind.rows(n_keys)
            first = whole.start + offset
            rows = range(n_keys) if point is ROT_K else range(first, first + size)
            tapes.append(self._tape(node, point, layer, rows, whole, shape_number))
        n_keys = () if vision else kind.n_keys
        constants = self.store.constants
        try:
            ops = merge([tape.ops for tape in tapes], n_keys, constants)
            out = merge([tape.out for tape in tapes], n_keys, constants)
            checks = merge([tape.checks for tape in tapes], n_keys, constants)
        except DiffersError:
            what = "images and patches" if vision else "tokens"
            raise CapabilityError(
                f"{node!r} cannot run remotely: what it does depends on the number of {what} in a "
                "way that cannot be written down before the run; run it locally"
            ) from None
        if isinstance(node, Probe):
            n_steps = max((self.n_new or 1) - 1, 1) if kind is self.decode else 1
            self.store.weigh(node, tapes[-1].size * n_steps)
        return self.store.intern(ops, out, checks)

    def _tape(
        self,
        node: Node,
        point: HookPoint,
        layer: int | None,
        rows: range,
        whole: range,
        shape_number: int,
    ) -> Tape:
        """Record a node at these rows of a pass; `whole` are all of the pass's rows."""
        sizes = {
            **self._sizes(len(rows), whole.stop, shape_number),
            **self._layer_sizes(point, layer),
        }
        if "image" in point.axes:
            sizes["image"] = self._fewest(point, layer) + shape_number

        def act(recorder: Recorder) -> Tensor:
            return self._act(node, point, layer, rows, whole, sizes, recorder)

        return record(repr(node), act)

    def _act(
        self,
        node: Node,
        point: HookPoint,
        layer: int | None,
        rows: range,
        whole: range,
        sizes: Mapping[str, int],
        recorder: Recorder,
    ) -> Tensor:
        """Apply a node to slots."""
        n_keys = whole.stop
        value = recorder.input("value", [sizes[axis] for axis in point.axes])
        phis: list[Tensor] = []
        if layer is not None and node.needs_phi:
            # Where generated tokens do not matter to a node, it is given those of the prompt alone.
            seen = n_keys if node.needs_new_phi else min(n_keys, self.prefill.n_keys[0])
            phis = [recorder.input("phi", (sizes["batch"], seen))]
        sinks = self.run_state.sinks
        site = Site(
            point,
            layer,
            self.run_state.masks,
            rows.start,
            len(rows),
            n_keys,
            dims=sinks.dims if sinks else None,
            tau=sinks.tau if sinks else None,
            extras={
                **(_values(recorder, sizes) if node.needs_values else {}),
                **(_total(recorder, sizes) if node.needs_total else {}),
                **({"unembed": recorder.unembed(sizes["vocab"])} if node.needs_unembed else {}),
                **({"second": _second(recorder, sizes)} if node in self._contrasts else {}),
            },
            phis=phis,
            began=whole.start,
        )
        act: Callable[..., Any] = node.apply if isinstance(node, Edit) else node.measure  # ty: ignore[missing-attribute]
        result = act(value, site)
        if isinstance(node, Edit):
            refuse_reshaped(node, site, value, result)
        return result

    @property
    def _contrasts(self) -> tuple[Node, ...]:
        return tuple(self.run_state.plan.graph.nodes[number] for number in self.beside)

    def _sizes(self, n_rows: int, n_keys: int, shape_number: int) -> dict[str, int]:
        config = self.hooked.config
        vision = getattr(self.hooked.hf_model.config, "vision_config", None)
        return {
            "batch": self.run_state.masks.layout.batch,
            "query": n_rows,
            "key": n_keys,
            "d_model": config.hidden_size,
            "vocab": config.vocab_size,
            "d_vision": getattr(vision, "hidden_size", 16),
            # Not known before the run: two different guesses, of which nothing may depend.
            "patch": 5 + 2 * shape_number,
        }

    def _fewest(self, point: HookPoint, layer: int | None) -> int:
        """How many rows images have at least: one each, unless all are in one row of patches."""
        family = self.hooked.family
        if "q d" in (family.tap(point.template, layer).shape, family.projected):
            return 1
        return max(1, sum(map(len, self.run_state.masks.layout.images)))

    def _layer_sizes(self, point: HookPoint, layer: int | None) -> dict[str, int]:
        """The sizes in which layers may differ: those of heads and of the MLP."""
        if layer is None:
            return {}
        sizes = dict(self.hooked.head_sizes[layer]) if point.stack == "blocks" else {}
        if "d_mlp" in point.axes:
            tap = self.hooked.family.tap(f"{point.stack}.{{layer}}.mlp.hook_post", layer)
            down = self.hooked.hf_model.get_submodule(tap.module)
            # Gemma 4's tower wraps its linear maps.
            inner: Any = next(part for part in down.modules() if hasattr(part, "in_features"))
            sizes["d_mlp"] = inner.in_features
        return sizes


def in_vision(point: HookPoint) -> bool:
    """Whether a value is of images, not of the tokens of a prompt."""
    return point.name.startswith("vision") or point.stack == "vision_encoder.blocks"


def _second(recorder: Recorder, sizes: Mapping[str, int]) -> Tensor:
    """The logits of a pass beside the run's own, for `Contrast`."""
    return recorder.input("second", [sizes[axis] for axis in ("batch", "query", "vocab")])


def _values(recorder: Recorder, sizes: Mapping[str, int]) -> dict[str, Any]:
    """The values and output weights of attention, for nodes with `needs_values`."""
    shapes = {
        "value": ("batch", "kv_head", "key", "d_head"),
        "weight": ("head", "d_head", "d_model"),
    }
    return {
        name: recorder.input(f"attention {name}", [sizes[axis] for axis in axes])
        for name, axes in shapes.items()
    }


def _total(recorder: Recorder, sizes: Mapping[str, int]) -> dict[str, Any]:
    """The logarithm of each row's sum of exponentials, for nodes with `needs_total`."""
    shape = [sizes[axis] for axis in ("batch", "head", "query")]
    return {"total": recorder.input("attention total", shape)}


def _sample(prompt: int, n_steps: int) -> tuple[int, ...]:
    """Numbers of keys that represent all decode steps."""
    last = prompt + n_steps
    picked = {prompt + 1, prompt + 2, prompt + 1 + n_steps // 2, last}
    return tuple(sorted(n for n in picked if n <= last))
