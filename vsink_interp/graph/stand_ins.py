"""Placeholders in saved graphs for nodes that JSON cannot carry: functions, values of a run."""

from dataclasses import dataclass
from typing import final

from torch import Tensor
from typing_extensions import override

from ..errors import CapabilityError
from .extent import Sizes
from .graph import Edit, EditGraph, Node, Probe
from .hook_points import CACHE, HookPoint, find_hook
from .index_notation import Layers
from .site import Site


@final
@dataclass(frozen=True)
class SavedEdit(Edit):
    """An edit of which a saved graph holds the text, the hook point and the layers alone.

    It prints as the edit did, and refuses to run.
    """

    text: str
    hook: str
    layers: Layers

    def __repr__(self) -> str:
        return self.text

    @property
    @override
    def point(self) -> HookPoint:
        return _point(self.hook)

    @override
    def fit(self, sizes: Sizes) -> None:
        raise _refusal(self)

    @override
    def apply(self, value: Tensor, site: Site) -> Tensor:
        raise _refusal(self)


@final
@dataclass(frozen=True)
class SavedProbe(Probe):
    """As `SavedEdit`, for a probe; `run[it]` is the record that the probe left."""

    text: str
    hook: str
    layers: Layers
    axes: tuple[str, ...]

    def __repr__(self) -> str:
        return self.text

    @property
    @override
    def point(self) -> HookPoint:
        return _point(self.hook)

    @override
    def fit(self, sizes: Sizes) -> None:
        raise _refusal(self)

    @override
    def measure(self, value: Tensor, site: Site) -> Tensor:
        raise _refusal(self)


def with_stand_ins(graph: EditGraph) -> EditGraph:
    """The graph with a stand-in for every node that JSON cannot carry."""
    return EditGraph(*(node if _is_portable(node) else _stand_in(node) for node in graph))


def _is_portable(node: Node) -> bool:
    try:
        EditGraph(node).to_json()
    except (CapabilityError, TypeError, ValueError):
        return False
    return True


def _stand_in(node: Node) -> SavedEdit | SavedProbe:
    if isinstance(node, Probe):
        return SavedProbe(repr(node), node.hook, node.layers, tuple(node.axes))
    return SavedEdit(repr(node), node.hook, node.layers)


def _point(hook: str) -> HookPoint:
    return CACHE if hook == CACHE.name else find_hook(hook)


def _refusal(node: SavedEdit | SavedProbe) -> CapabilityError:
    return CapabilityError(
        f"{node!r} was read from a saved run, which cannot carry functions or values: it shows "
        "what ran. Make it anew, and take this one out of the graph"
    )
