"""Record what a node does at one hook point and layer as a program that a server can run."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, final

from torch import Tensor

from ..engine.hooked_model import HookedModel
from ..engine.node_results import refuse_reshaped
from ..engine.row_program import ROT_K
from ..engine.run_state import Numbered, RunState, overlap
from ..errors import CapabilityError
from ..graph import Edit, HookPoint, Node, Probe, Site
from .decode_template import Constants, DiffersError, merge
from .op_trace import Recorder, Tape, record


@final
@dataclass(frozen=True)
class Pass:
    """One kind of forward pass: its rows, at several numbers of keys.

    **Attributes:**

    - `n_keys`: the numbers of keys at which nodes are recorded, ascending.
    - `n_rows`: the number of rows; they are the last tokens.
    """

    n_keys: tuple[int, ...]
    n_rows: int

    def rows(self, n_keys: int) -> range:
        """The rows, as tokens."""
        return range(n_keys - self.n_rows, n_keys)


@final
class Programs:
    """The programs of one run, each stored once, with the constants that they share.

    **Arguments:**

    - `n_new`: the number of tokens to generate; None for one forward pass.

    **Attributes:**

    - `prefill`, `decode`: the kinds of pass; `decode` is None if there is none.
    - `made`: the programs; calls refer to them by index.
    - `origins`: the source lines that called torch, by index.
    - `sizes`: the bytes that each probe returns; `Compiler` adds those of the logits.
    - `full`: the probes that return full patterns.
    """

    def __init__(self, hooked: HookedModel, run_state: RunState, n_new: int | None) -> None:
        self.hooked = hooked
        self.run_state = run_state
        self.n_new = n_new
        self.constants = Constants()
        self.made: list[dict[str, Any]] = []
        self.origins: dict[str, int] = {}
        self.sizes: dict[str, int] = {}
        self.full: set[str] = set()
        self._known: dict[str, int] = {}
        length = run_state.masks.layout.first_pass
        self.prefill = Pass((length,), length)
        self.decode = Pass(_sample(length, n_new - 1), 1) if n_new and n_new > 1 else None

    def calls(
        self,
        nodes: Numbered,
        point: HookPoint,
        layer: int | None,
        kind: Pass | None,
        part: tuple[int, int] | None = None,
    ) -> list[dict[str, Any]]:
        """The calls of these nodes at a hook point, in order; `part` limits the rows.

        **Raises:** `CapabilityError` for a node that cannot run remotely, naming why.
        """
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
        """One node at one hook point and layer: its program, and the rows that it gets."""
        whole = kind.rows(kind.n_keys[0])
        rows = whole if part is None else range(whole.start + part[0], whole.start + part[1])
        span = rows
        if isinstance(node, Probe) and "query" in point.axes and not node.whole:
            span = overlap(self.run_state.span(node, whole), rows)
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
            whole = kind.rows(n_keys)
            first = whole.start + offset
            rows = range(n_keys) if point is ROT_K else range(first, first + size)
            tapes.append(self._tape(node, point, layer, rows, whole, shape_number))
        n_keys = () if vision else kind.n_keys
        try:
            ops = merge([tape.ops for tape in tapes], n_keys, self.constants)
            out = merge([tape.out for tape in tapes], n_keys, self.constants)
            checks = merge([tape.checks for tape in tapes], n_keys, self.constants)
        except DiffersError:
            what = "images and patches" if vision else "tokens"
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
            noted[-1] = self.origins.setdefault(noted[-1], len(self.origins))
        key = repr((ops, out, checks))
        if key not in self._known:
            self._known[key] = len(self.made)
            self.made.append({"ops": ops, "out": out, "checks": checks})
        return self._known[key]

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
            seen = n_keys if node.needs_new_phi else min(n_keys, self.prefill.n_rows)
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
            },
            phis=phis,
            began=whole.start,
        )
        act: Callable[..., Any] = node.apply if isinstance(node, Edit) else node.measure  # ty: ignore[missing-attribute]
        result = act(value, site)
        if isinstance(node, Edit):
            refuse_reshaped(node, site, value, result)
        return result

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
            "image": 1 + shape_number,
            "patch": 5 + 2 * shape_number,
        }

    def _layer_sizes(self, point: HookPoint, layer: int | None) -> dict[str, int]:
        """The sizes in which decoder layers may differ: those of heads and of the MLP."""
        if layer is None or point.stack != "blocks":
            return {}
        sizes = dict(self.hooked.head_sizes[layer])
        if "d_mlp" in point.axes:
            tap = self.hooked.family.tap("blocks.{layer}.mlp.hook_post", layer)
            down: Any = self.hooked.hf_model.get_submodule(tap.module)
            sizes["d_mlp"] = down.in_features
        return sizes


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
