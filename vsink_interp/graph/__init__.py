"""Edits and probes as values: hook points, the graphs that nodes join into, and their plans."""

from .address import (
    freeze as freeze,
    matching as matching,
    settle as settle,
    short_name as short_name,
    split_hook as split_hook,
)
from .extent import Edges as Edges, Sizes as Sizes
from .graph import (
    CacheEdit as CacheEdit,
    Edit as Edit,
    EditGraph as EditGraph,
    Graphlike as Graphlike,
    Node as Node,
    Probe as Probe,
    TokenOf as TokenOf,
    as_graph as as_graph,
)
from .hook_functions import (
    HookContext as HookContext,
    call as call,
    takes_hook as takes_hook,
)
from .hook_points import (
    CACHE as CACHE,
    HOOKS as HOOKS,
    ORDER as ORDER,
    HookPoint as HookPoint,
    find_hook as find_hook,
    forward_order as forward_order,
    parse_hook as parse_hook,
)
from .index_notation import (
    Heads as Heads,
    Layers as Layers,
    resolve as resolve,
    resolve_layers as resolve_layers,
    settled as settled,
)
from .site import (
    Site as Site,
    TokenMasks as TokenMasks,
)
from .stand_ins import (
    SavedEdit as SavedEdit,
    SavedProbe as SavedProbe,
    with_stand_ins as with_stand_ins,
)
from .top_heads import TopHeads as TopHeads
