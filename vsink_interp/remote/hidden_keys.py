"""Keys that leave the cache, on a server: there they stay, and are hidden from every later row.

A row that attends to fewer keys and one whose scores of the others are minus infinity are the same
row. So answers and records are those of a local run; the memory and time that a shorter cache saves
are not, for a server's cache is its own.
"""

from dataclasses import dataclass, replace
from typing import ClassVar, final

from torch import Tensor
from typing_extensions import override

from ..edits import Knockout
from ..engine.row_program import PATTERN, ROT_K, SCORES
from ..errors import CapabilityError
from ..graph import CacheEdit, Edit, Layers, Node, Site
from ..graph.plan import Plan
from ..kernels import cut, edges_between


@final
@dataclass(frozen=True, repr=False)
class _Hidden(Edit):
    """What `edit` drops, hidden from the rows of generated tokens."""

    hook: ClassVar[str] = SCORES.name

    edit: CacheEdit
    layers: Layers = ":"

    @override
    def __repr__(self) -> str:
        return repr(self.edit)

    @property
    @override
    def needs_phi(self) -> bool:
        return self.edit.needs_phi

    @property
    @override
    def targets(self) -> tuple[str, bool] | None:
        return "generated", False

    @override
    def apply(self, value: Tensor, site: Site) -> Tensor:
        dropped = self.edit.dropped(site) & site.keys("prompt")
        return cut(value, edges_between(dropped, site.rows("generated")))


def hidden(plan: Plan) -> Plan:
    """A plan in which keys are hidden that would be dropped from the cache.

    **Raises:** `CapabilityError` for nodes to which keys that are gone and keys that are hidden are
    not the same.
    """
    places = dict(plan.places)
    for layer, edits in plan.cuts.items():
        _refuse(plan, layer, edits[0])
        numbers = (plan.graph.nodes.index(edit) for edit in edits)
        nodes = ((n, _Hidden(edit)) for n, edit in zip(numbers, edits, strict=True))
        here = SCORES.template, layer
        places[here] = (*nodes, *places.get(here, ()))
    return replace(plan, places=places, cuts={})


def _may_show(node: Node) -> bool:
    """Whether it may give a score to a key that has none."""
    cuts = isinstance(node, Knockout) or node.removes is not None or node.keeps_keys
    return isinstance(node, Edit) and not cuts


def _refuse(plan: Plan, layer: int, dropping: CacheEdit) -> None:
    edits = [node for _, node in plan.at(PATTERN.template, layer) if isinstance(node, Edit)]
    keys = [node for _, node in plan.at(ROT_K.template, layer)]
    scores = [node for _, node in plan.at(SCORES.template, layer) if _may_show(node)]
    for node in (*edits, *keys, *scores):
        raise CapabilityError(
            f"{node!r} cannot run remotely where {dropping!r} acts, as in layer {layer}: the keys "
            "stay in a server's cache, and it would see them; run it locally"
        )
