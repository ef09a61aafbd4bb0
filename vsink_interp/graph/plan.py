"""Planning: a graph sorted into forward order and checked against a model."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, final

from ..errors import CapabilityError, NotationError
from .graph import CacheEdit, EditGraph, Node, Probe
from .hook_points import ORDER, HookPoint, find_hook, forward_order

RESID_PRE: Final = "blocks.{layer}.hook_resid_pre"


@final
@dataclass(frozen=True)
class Plan:
    """A graph in forward order: for every hook point and layer, the nodes that act there.

    `cuts` holds, for every layer, the edits that shorten its KV cache after the prefill.
    """

    graph: EditGraph
    n_layers: int
    n_vision_layers: int
    places: Mapping[tuple[str, int | None], tuple[tuple[int, Node], ...]]
    cuts: Mapping[int, tuple[CacheEdit, ...]] = field(default_factory=dict)

    def at(self, template: str, layer: int | None) -> tuple[tuple[int, Node], ...]:
        """The nodes at one hook point and layer, each with its index in the graph."""
        return self.places.get((template, layer), ())

    def __str__(self) -> str:
        """One line per node: the layers where it acts, and those that it leaves out."""
        lines = [self._line(number, node) for number, node in enumerate(self.graph)]
        return "\n".join(lines) or "empty plan"

    def _line(self, number: int, node: Node) -> str:
        cut = [at for at, nodes in self.cuts.items() if node in nodes]
        acted = [at for (_, at), nodes in self.places.items() if (number, node) in nodes]
        layers = ", ".join(str(at) for at in (*cut, *acted) if at is not None)
        where = f"layers {layers}" if layers else "outside the layers"
        out = node.left_out(self.n_layers)
        left = f"; leaves out {', '.join(map(str, out))}" if out else ""
        return f"{node!r} at {node.point.name}: {where}{left}"

    @property
    def phi_layers(self) -> tuple[int, ...]:
        """Layers in which some node needs the sink values of the tokens."""
        cut = {layer for layer, nodes in self.cuts.items() if any(n.needs_phi for n in nodes)}
        return tuple(sorted(self._decoder_layers(lambda node: node.needs_phi) | cut))

    @property
    def watched_layers(self) -> tuple[int, ...]:
        """Those of `phi_layers` where no node acts on the residual stream that enters them."""
        return tuple(layer for layer in self.phi_layers if not self.at(RESID_PRE, layer))

    @property
    def new_phi_layers(self) -> tuple[int, ...]:
        """Layers in which some node needs the sink values of generated tokens too."""
        return tuple(sorted(self._decoder_layers(lambda node: node.needs_new_phi)))

    def _decoder_layers(self, wanted: Callable[[Node], bool]) -> set[int]:
        return {
            layer
            for (template, layer), nodes in self.places.items()
            if layer is not None
            and any(wanted(node) for _, node in nodes)
            and find_hook(template).stack == "blocks"
        }


def plan(graph: EditGraph, n_layers: int, n_vision_layers: int, advertised: Iterable[str]) -> Plan:
    """Sort a graph into forward order and refuse what the model cannot do.

    **Raises:** `NotationError` for a layer out of range or two different probes with the same repr,
    `CapabilityError` for a hook point that this model does not offer.
    """
    legal = set(advertised)
    _refuse_namesakes(graph)
    found: dict[tuple[str, int | None], list[tuple[int, Node]]] = {}
    cuts: dict[int, tuple[CacheEdit, ...]] = {}
    for number, node in enumerate(graph.nodes):
        point = node.point
        if isinstance(node, CacheEdit):
            cuts |= {
                layer: (*cuts.get(layer, ()), node) for layer in node.resolved_layers(n_layers)
            }
            continue
        if point.template not in legal:
            raise CapabilityError(
                f"{node!r} acts on {point.template!r}, which this model does not offer; it offers: "
                f"{', '.join(sorted(legal, key=ORDER.__getitem__))}"
            )
        for layer in _layers(node, point, n_layers, n_vision_layers):
            found.setdefault((point.template, layer), []).append((number, node))
    ordered = sorted(found, key=lambda place: forward_order(*place))
    places = {key: tuple(found[key]) for key in ordered}
    return Plan(graph, n_layers, n_vision_layers, places, cuts)


def _layers(
    node: Node, point: HookPoint, n_layers: int, n_vision_layers: int
) -> Iterable[int | None]:
    if point.stack is None:
        if node.layers != ":":
            raise NotationError(
                f"{node!r}: {point.name!r} is outside the layers, so layers={node.layers!r} "
                "has no meaning; leave layers at ':'"
            )
        return (None,)
    return node.resolved_layers(n_layers if point.stack == "blocks" else n_vision_layers)


def _refuse_namesakes(graph: EditGraph) -> None:
    """A run stores records by repr, so different probes must print differently."""
    named: dict[str, Node] = {}
    for node in graph:
        other = named.setdefault(repr(node), node)
        if isinstance(node, Probe) and other != node:
            raise NotationError(
                f"two different probes print as {node!r}, so their records could not be told "
                "apart; give their functions different names"
            )
