"""Edits and probes as values: the hook points they name, the graph that joins them, its plan."""

from .graph import (
    CacheEdit as CacheEdit,
    Edges as Edges,
    Edit as Edit,
    EditGraph as EditGraph,
    Graphlike as Graphlike,
    Node as Node,
    Probe as Probe,
    Sizes as Sizes,
    as_graph as as_graph,
    freeze as freeze,
)
from .hook_points import (
    CACHE as CACHE,
    HOOKS as HOOKS,
    ORDER as ORDER,
    HookPoint as HookPoint,
    Layers as Layers,
    check_layers as check_layers,
    find_hook as find_hook,
    forward_order as forward_order,
    parse_hook as parse_hook,
    resolve_layers as resolve_layers,
)
from .site import (
    Site as Site,
    TokenMasks as TokenMasks,
    parsed_flow as parsed_flow,
    parsed_group as parsed_group,
)
