"""Keys that leave the cache, on a server: there they stay, and are hidden from every later row.

A row that attends to fewer keys and one whose scores of the others are minus infinity are the same
row. So answers and records are those of a local run; the memory and time that a shorter cache saves
are not, for a server's cache is its own. What a compressed context lacks is hidden likewise.
"""

from dataclasses import dataclass, replace
from typing import ClassVar, final

import torch
from torch import Tensor
from typing_extensions import override

from ..edits import Knockout
from ..engine.cached_prefix import CachedPrefix
from ..engine.row_program import PATTERN, ROT_K, SCORES
from ..errors import CapabilityError
from ..graph import CacheEdit, Edit, Layers, Node, Site
from ..graph.plan import Plan
from ..kernels import cut, edges_between

_NO_NODE = -1
"""The number of what is in no graph."""


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


@final
@dataclass(frozen=True, repr=False, eq=False)
class _Lacking(Edit):
    """What a layer of a compressed context lacks, hidden from the rows of a question."""

    hook: ClassVar[str] = SCORES.name

    kept: Tensor
    layers: Layers = ":"

    @override
    def __repr__(self) -> str:
        return "a compressed context"

    @override
    def apply(self, value: Tensor, site: Site) -> Tensor:
        gone = torch.nn.functional.pad(~self.kept, (0, site.n_keys - len(self.kept)))
        return cut(value, edges_between(gone[None], None))


def hidden(plan: Plan, cached_prefix: CachedPrefix | None = None) -> Plan:
    """A plan in which keys are hidden that would be dropped from the cache, or not be in it.

    **Raises:** `CapabilityError` for nodes to which keys that are gone and keys that are hidden are
    not the same.
    """
    places = dict(plan.places)
    for layer, edits in plan.cuts.items():
        _refuse(plan, layer, repr(edits[0]))
        numbers = (plan.graph.nodes.index(edit) for edit in edits)
        nodes = ((n, _Hidden(edit)) for n, edit in zip(numbers, edits, strict=True))
        here = SCORES.template, layer
        places[here] = (*nodes, *places.get(here, ()))
    for layer, kept in enumerate(cached_prefix.kept if cached_prefix else ()):
        lacking = _Lacking(kept.cpu())
        _refuse(plan, layer, repr(lacking))
        here = SCORES.template, layer
        places[here] = ((_NO_NODE, lacking), *places.get(here, ()))
    return replace(plan, places=places, cuts={})


def _may_show(node: Node) -> bool:
    """Whether it may give a score to a key that has none."""
    cuts = isinstance(node, Knockout) or node.removes is not None or node.keeps_keys
    return isinstance(node, Edit) and not cuts


def _refuse(plan: Plan, layer: int, dropping: str) -> None:
    edits = [node for _, node in plan.at(PATTERN.template, layer) if isinstance(node, Edit)]
    keys = [node for _, node in plan.at(ROT_K.template, layer)]
    scores = [node for _, node in plan.at(SCORES.template, layer) if _may_show(node)]
    for node in (*edits, *keys, *scores):
        raise CapabilityError(
            f"{node!r} cannot run remotely where {dropping} acts, as in layer {layer}: the keys "
            "stay in a server's cache, and it would see them; run it locally"
        )
