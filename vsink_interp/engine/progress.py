"""What a run knows while it runs: tokens, sink values, and what the probes recorded."""

from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor

from ..errors import CapabilityError
from ..graph import Edit, Node, Plan, Probe
from ..hooks import HookPoint
from ..kernels import sink_value
from ..results import Recorded, join
from ..sinkdims import SinkDims
from ..site import Site, TokenMasks, parsed_group

Pieces = dict[int | None, list[tuple[int, Tensor]]]


@final
class Progress:
    """The state of one run; it dies with the run."""

    def __init__(self, plan: Plan, masks: TokenMasks, sinks: SinkDims | None) -> None:
        self.plan = plan
        self.masks = masks
        self.sinks = sinks
        self.phi: dict[int, Tensor] = {}
        self.pieces: dict[int, Pieces] = {}
        self._spans: dict[tuple[tuple[str, bool], range], range] = {}

    def site(
        self,
        point: HookPoint,
        layer: int | None,
        rows: range,
        n_keys: int,
        extras: Mapping[str, Any] | None = None,
    ) -> Site:
        """The site of a hook point at these rows."""
        sinks = self.sinks
        return Site(
            point,
            layer,
            self.masks,
            rows.start,
            len(rows),
            n_keys,
            phi=None if layer is None else self.phi.get(layer),
            dims=sinks.dims if sinks else None,
            tau=sinks.tau if sinks else None,
            extras=extras or {},
        )

    def see_resid(self, layer: int, resid: Tensor) -> None:
        """Keep the sink value of the tokens that enter a block."""
        assert self.sinks is not None  # noqa: S101 (the caller plans for it)
        phi = sink_value(resid, self.sinks.dims)
        known = self.phi.get(layer)
        self.phi[layer] = phi if known is None else torch.cat([known, phi], -1)

    def span(self, node: Node, rows: range) -> range:
        """The smallest span of these rows that holds all a node acts on, in every sample."""
        if node.targets is None:
            return rows
        known = (node.targets, rows)
        if known not in self._spans:
            self._spans[known] = self._find_span(*node.targets, rows)
        return self._spans[known]

    def _find_span(self, group: str, first_token: bool, rows: range) -> range:
        mask = self.masks.host(parsed_group(group), first_token)[:, rows.start : rows.stop].any(0)
        places = mask.nonzero().flatten().tolist()
        if not places:
            return range(rows.start, rows.start)
        return range(rows.start + places[0], rows.start + places[-1] + 1)

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
        """Let one node act on a value of these rows, and return what the model goes on with.

        **Arguments:**

        - `whole`: all rows of this pass, of which `rows` may be a block.

        **Raises:** `CapabilityError` if an edit changes the shape.
        """
        if isinstance(node, Edit):
            site = self.site(point, layer, rows, whole.stop, extras)
            return _checked(node, value, node.apply(value, site), site)
        assert isinstance(node, Probe)  # noqa: S101 (a node is one or the other)
        narrow = "query" in point.axes and not node.whole
        span = overlap(self.span(node, whole), rows) if narrow else rows
        if span and narrow:
            value_here = value.narrow(point.axes.index("query"), span.start - rows.start, len(span))
        else:
            value_here = value
        if span:
            site = self.site(point, layer, span, whole.stop, extras)
            self._keep(number, site, node.measure(value_here, site))
        return value

    def _keep(self, number: int, site: Site, measured: Tensor) -> None:
        """Keep what a probe measured."""
        blocks = self.pieces.setdefault(number, {})
        kept = measured.detach().to("cpu", copy=True)
        blocks.setdefault(site.layer, []).append((site.first_row, kept))

    def records(self) -> dict[str, Recorded]:
        """The record of every probe, by its repr."""
        nodes = self.plan.graph.nodes
        found = {}
        for number in sorted(self.pieces):
            node = nodes[number]
            assert isinstance(node, Probe)  # noqa: S101 (only probes are kept)
            found[repr(node)] = join(node, self.pieces[number])
        return found


def overlap(left: range, right: range) -> range:
    """The rows that two spans share."""
    return range(max(left.start, right.start), min(left.stop, right.stop))


def _checked(node: Edit, old: Tensor, new: Tensor, site: Site) -> Tensor:
    if new.shape != old.shape:
        raise CapabilityError(
            f"{node!r} turned {site.hook.at(site.layer)} from shape {tuple(old.shape)} into "
            f"{tuple(new.shape)}; an edit keeps the shape {site.hook.axes}"
        )
    return new
