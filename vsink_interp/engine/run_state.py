"""The state of one run: token masks, sink values, and what probes have recorded so far."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, final

import torch
from torch import Tensor

from ..errors import CapabilityError, LayoutError
from ..graph import Edges, Edit, HookPoint, Node, Probe, Site, TokenMasks
from ..graph.plan import Plan
from ..kernels import sink_value
from ..results import Recorded, join
from ..sinks import SinkDims
from ..tokens import parse_group
from .edges import all_lose, blind_message, keys_left, refuse_inert, refuse_joint
from .gradients import Watched, backward, watched
from .kept_tokens import KeptTokens
from .linear_map import Asked
from .node_results import checked_record, checked_value, note
from .value_ranges import ValueRanges, range_of

Pieces = dict[int | None, list[tuple[int, Tensor]]]
Numbered = tuple[tuple[int, Node], ...]
"""Nodes, each with its index in the graph."""
ASYNC = 2**20
"""Records with fewer elements than this are copied through page-locked memory."""


@final
class RunState:
    """The state of one run, which lives as long as the run.

    `shown` holds, for layers with a shortened cache, the tokens of the cached keys.

    **Raises:** `LayoutError` if edits are known beforehand to leave a row no key, or to change
        nothing.
    """

    def __init__(self, plan: Plan, masks: TokenMasks, sinks: SinkDims | None) -> None:
        refuse_joint(plan, masks)
        refuse_inert(plan, masks)
        self.plan = plan
        self.masks = masks
        self.sinks = sinks
        self.shown: dict[int, KeptTokens] = {}
        self.pieces: dict[int, Pieces] = {}
        self.watched: list[Watched] = []
        self.asked: Asked = {}
        self.ranges = ValueRanges()
        self._masks = {masks.device: masks}
        self._dims: dict[torch.device, tuple[int, ...] | Tensor] = {}
        self._phis: dict[int | None, list[Tensor]] = {}
        self._new_phi = frozenset(plan.new_phi_layers)
        self._constants: dict[tuple[int | None, torch.device], dict[Any, Tensor]] = {}
        self._left: dict[tuple[Edges, ...], tuple[range, ...] | None] = {}
        self._spans: dict[tuple[tuple[str, bool], range], range] = {}
        self._spanned: tuple[Numbered, range, tuple[range, range]] | None = None
        self._sites: dict[tuple[int | None, int | None, torch.device], Site] = {}
        self._real = masks.held(parse_group("all"))[1]
        self._blind: list[tuple[int, Tensor]] = []
        self._lost: list[tuple[int, Tensor]] = []

    def masks_on(self, device: torch.device) -> TokenMasks:
        """The masks on a device: the layers of a model may be spread over several."""
        if device not in self._masks:
            self._masks[device] = TokenMasks(self.masks.layout, device)
        return self._masks[device]

    def site(
        self,
        point: HookPoint,
        layer: int | None,
        rows: range,
        n_keys: int,
        began: int,
        device: torch.device,
        extras: Mapping[str, Any] | None = None,
        number: int | None = None,
    ) -> Site:
        """The site of a hook point at these rows of a pass that began with token `began`.

        **Arguments:**

        - `device`: that of the value at hand.
        - `number`: the number of the node that acts there, None for several at once.
        """
        known = self._sites.get((number, layer, device))
        if known is None or known.hook is not point:
            sinks = self.sinks
            known = self._sites[number, layer, device] = Site(
                point,
                layer,
                self.masks_on(device),
                rows.start,
                len(rows),
                n_keys,
                dims=sinks.dims if sinks else None,
                tau=sinks.tau if sinks else None,
                phis=self._phis.setdefault(layer, []),
                constants=self._constants.setdefault((layer, device), {}),
                number=number,
            )
        return known.over(rows.start, len(rows), n_keys, began, extras or {})

    def see_resid(self, layer: int, resid: Tensor) -> None:
        """Compute and store the sink values of the tokens that enter a layer."""
        self._phis.setdefault(layer, []).append(sink_value(resid, self._dims_on(resid.device)))

    def enter(self, layer: int, resid: Tensor) -> None:
        """Take in what enters a layer in one pass: sink values, as far as some node wants them."""
        if layer in self._new_phi or not self._phis.get(layer):
            self.see_resid(layer, resid)

    def _dims_on(self, device: torch.device) -> tuple[int, ...] | Tensor:
        assert self.sinks is not None  # noqa: S101 (the caller plans for it)
        if device not in self._dims:
            dims = self.sinks.dims
            self._dims[device] = dims if len(dims) <= 2 else torch.tensor(dims, device=device)
        return self._dims[device]

    def span(self, node: Node, rows: range) -> range:
        """The smallest span of these rows that holds all rows of a node, in every sample."""
        if node.targets is None:
            return rows
        key = node.targets, rows
        if key not in self._spans:
            self._spans[key] = self._span(*node.targets, rows)
        return self._spans[key]

    def _span(self, group: str, first_token: bool, rows: range) -> range:
        some = self.masks.held(parse_group(group), first_token)[0]
        places = [row for row in rows if some[row]]
        return range(places[0], places[-1] + 1) if places else range(rows.start, rows.start)

    def spans(self, numbered: Numbered, rows: range) -> tuple[range, range]:
        """The smallest spans of these rows with all rows of these nodes, and of their edits."""
        last = self._spanned  # in one pass, layers with the same nodes ask one after another
        if last is None or last[0] is not numbered or last[1] != rows:
            found = [(node, span) for _, node in numbered if (span := self.span(node, rows))]
            edits = [span for node, span in found if isinstance(node, Edit)]
            joined = _joined([span for _, span in found], rows), _joined(edits, rows)
            last = self._spanned = (numbered, rows, joined)
        return last[2]

    def keys_left(
        self, removed: tuple[Edges, ...], rows: range, n_keys: int
    ) -> tuple[range, ...] | None:
        """The keys that all of these rows keep, in every head and sample; None if they differ."""
        if removed not in self._left:
            self._left[removed] = keys_left(self.masks, removed)
        spans = self._left[removed]
        if spans is None or not all_lose(self.masks, removed, rows):
            return None
        return tuple(range(s.start, min(s.stop, n_keys)) for s in spans if s.start < n_keys)

    def pads(self, rows: range) -> bool:
        """Whether padding of some sample is among these rows."""
        return not all(self._real[rows.start : rows.stop])

    def visit(
        self,
        number: int,
        node: Node,
        value: Tensor,
        point: HookPoint,
        layer: int | None,
        rows: range,
        whole: range,
        extras: Mapping[str, Any] | None = None,
    ) -> Tensor:
        """Apply one node to a value of these rows; the value that the model continues with.

        **Arguments:**

        - `whole`: all rows of this pass; `rows` may be a tile of them.

        **Raises:** `CapabilityError` if an edit changes the shape, or a record has other axes than
        its probe declares.
        """
        n_keys = value.shape[point.axes.index("key")] if "key" in point.axes else whole.stop
        if isinstance(node, Edit):
            site = self.site(point, layer, rows, n_keys, whole.start, value.device, extras, number)
            before = range_of(value) if node.is_foreign else None
            try:
                new = node.apply(value, site)
            except Exception as error:
                note(error, node, site)
                raise
            new = checked_value(node, value, new, site)
            if before is not None:
                self.ranges.see(node, site, before, new)
            return new
        assert isinstance(node, Probe)  # noqa: S101 (a node is one or the other)
        narrow = "query" in point.axes and not node.whole and not node.needs_gradient
        span = overlap(self.span(node, whole), rows) if narrow else rows
        if span and span != rows:
            value_here = value.narrow(point.axes.index("query"), span.start - rows.start, len(span))
        else:
            value_here = value
        if span:
            site = self.site(point, layer, span, n_keys, whole.start, value.device, extras, number)
            if node.needs_gradient:
                seen, value = watched(number, node, site, value)
                self.watched.append(seen)
                return value
            before = value._version
            try:
                measured = node.measure(value_here, site)
            except Exception as error:
                note(error, node, site)
                raise
            if value._version != before:
                raise CapabilityError(
                    f"{node!r} wrote into {point.at(layer)}, and a probe changes nothing: let it "
                    "clone the value first, or make it an edit"
                )
            self._keep(number, site, checked_record(node, value_here, measured, site))
        return value

    def see_blind(self, layer: int, blind: Tensor) -> None:
        """Note which rows of a layer edits left without keys, without waiting for the device."""
        self._blind.append((layer, blind.any()))

    def refuse_blind(self) -> None:
        """Refuse a run in which edits together left a row no key to attend to.

        **Raises:** `LayoutError` naming the layers.
        """
        if layers := _flagged(self._blind):
            raise LayoutError(blind_message(self.plan, layers))

    def see_lost(self, layer: int, lost: Tensor) -> None:
        """Note whether edits gave attention to keys that were dropped from the cache of a layer."""
        self._lost.append((layer, lost.any()))

    def refuse_lost(self) -> None:
        """Refuse a run in which edits gave attention to dropped keys.

        **Raises:** `CapabilityError` naming the layers and saying what would work.
        """
        if found := _flagged(self._lost):
            raise CapabilityError(
                f"the edits of {self.plan.graph!r} give attention to keys that have left the cache "
                f"of layers {found}; leave those entries at 0, or cut the flow instead of the "
                "cache, as in Knockout('image -> generated')"
            )

    def _keep(self, number: int, site: Site, measured: Tensor) -> None:
        """Keep what a probe measured."""
        layers = self.pieces.setdefault(number, {})
        # A short record is fetched without waiting for it; `records` waits once for all of them.
        kept = measured.detach().to("cpu", copy=True, non_blocking=measured.numel() < ASYNC)
        layers.setdefault(site.layer, []).append((site.first_row, kept))

    def take_gradients(self, logits: Tensor) -> None:
        """Go back from the logits, and keep the gradients at all watched values."""
        for seen, grad in backward(self.watched, logits):
            rows = range(seen.site.first_row, seen.site.first_row + seen.site.n_rows)
            span = self.span(seen.node, rows)
            site = replace(seen.site, first_row=span.start, n_rows=len(span))
            if "query" in site.hook.axes:
                axis = site.hook.axes.index("query")
                self._keep(seen.number, site, grad.narrow(axis, span.start - rows.start, len(span)))
            else:
                self._keep(seen.number, site, grad)

    def records(self) -> dict[str, Recorded]:
        """The record of every probe, by its repr.

        A probe placed both before and after an edit of its hook point has several: `repr#1`,
        `repr#2`.
        """
        for device in self._masks:
            _wait(device)
        nodes = self.plan.graph.nodes
        turns: dict[str, dict[int, Recorded]] = {}
        for number in sorted(self.pieces):
            node = nodes[number]
            assert isinstance(node, Probe)  # noqa: S101 (only probes are kept)
            # How many edits came before it at its hook point tells its occurrences apart.
            turn = sum(isinstance(n, Edit) and n.hook == node.hook for n in nodes[:number])
            turns.setdefault(repr(node), {})[turn] = join(node, self.pieces[number])
        return {
            name if len(found) == 1 else f"{name}#{i}": record
            for name, found in turns.items()
            for i, record in enumerate(found.values(), start=1)
        }


def _flagged(seen: list[tuple[int, Tensor]]) -> list[int]:
    """The layers whose flag is set, read from the device at once."""
    home = seen[0][1].device if seen else None
    flags = torch.stack([flag.to(home) for _, flag in seen]).tolist() if seen else []
    return sorted({layer for (layer, _), flag in zip(seen, flags, strict=True) if flag})


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def overlap(left: range, right: range) -> range:
    """The rows that two spans share."""
    return range(max(left.start, right.start), min(left.stop, right.stop))


def _joined(spans: Sequence[range], rows: range) -> range:
    if not spans:
        return range(rows.start, rows.start)
    return range(min(s.start for s in spans), max(s.stop for s in spans))
