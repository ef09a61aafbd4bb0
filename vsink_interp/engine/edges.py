"""Attention edges that edits remove, as far as known before the run: checks, and remaining keys.

For example, `Knockout("image -> query", "4:")` beside `ScaleScores("image", 0.5, rows="query",
layers="6:")`, on a prompt of BOS, 9 image and 3 query tokens:

- `refuse_joint` looks at what the cuts of each layer take together. The query rows lose 9 keys and
  keep BOS and the query, so no row is blind. With `Knockout("bos query -> query")` beside it they
  would lose all, and the run is refused before it starts.
- `refuse_inert` looks at each edit that acts on known edges: scaling acts on 3 x 9 edges, and in
  each of its layers (6 and later) the knockout takes all 27, so it would change nothing. It is
  refused; with `layers="2:"` it acts in layers 2 and 3, and is not.
- `keys_left` says which keys the rows keep, BOS and query as two spans, so that the row program can
  gather these 4 keys instead of masking 9.
"""

from collections.abc import Iterable, Sequence
from itertools import groupby

import torch
from jaxtyping import Bool
from torch import Tensor

from ..errors import LayoutError
from ..graph import CacheEdit, Edges, Edit, Node, TokenMasks, find_hook
from ..graph.plan import Plan
from ..tokens import TokenLayout, parse_group

MOST_SPANS = 4
"""Remaining keys in more pieces than this are not gathered."""
_LINE = ("attn.hook_attn_scores", "attn.hook_pattern")
"""The hook points at which attention edges are edited, in forward order."""


def removed_by(nodes: Iterable[Node]) -> tuple[Edges, ...] | None:
    """The edges that these nodes remove, if removing edges is all they do."""
    found = [node.removes for node in nodes]
    known = tuple(edges for edges in found if edges is not None)
    return known if len(known) == len(found) else None


def may_blind(nodes: Sequence[Node]) -> bool:
    """Whether these nodes may leave a row without keys, which only the run can tell."""
    later = False
    for node in nodes:
        later = later or node.removes is None
        if later and not node.keeps_keys:
            return True
    return False


def refuse_joint(plan: Plan, masks: TokenMasks) -> None:
    """Refuse cuts that together leave a row no key to attend to.

    **Raises:** `LayoutError` naming the layers.
    """
    scores = find_hook("attn.hook_attn_scores").template
    known: dict[tuple[Edges, ...], bool] = {}
    blind = []
    for layer in range(plan.n_layers):
        cuts = tuple(node.removes for _, node in plan.at(scores, layer) if node.removes)
        if cuts not in known:
            known[cuts] = any(_blinds(masks, joint) for joint in _by_head(cuts))
        if known[cuts]:
            blind.append(layer)
    if blind:
        raise LayoutError(blind_message(plan, blind))


def blind_message(plan: Plan, layers: list[int]) -> str:
    """The message for layers in which edits leave rows no key."""
    return (
        f"the edits of {plan.graph!r} together leave rows of layers {layers} nothing to attend to; "
        "take a segment out of one source, for instance bos"
    )


def refuse_inert(plan: Plan, masks: TokenMasks) -> None:
    """Refuse edits that only act on edges that other edits remove in all of their layers.

    **Raises:** `LayoutError` naming the edit and those that remove its edges.
    """
    for number, node in enumerate(plan.graph):
        if not node.acts_on:
            continue
        layers = node.resolved_layers(plan.n_layers)
        cuts = list(dict.fromkeys(_cutting(plan, layer, number) for layer in layers))
        for edges in node.acts_on:
            if all(_all_taken(masks, edges, each) for each in cuts):
                raise LayoutError(_inert_message(node, edges, dict.fromkeys(sum(cuts, ()))))


def _cutting(plan: Plan, layer: int, number: int) -> tuple[Node, ...]:
    """The nodes that remove edges of a layer before a node acts, or after it without being seen."""
    line = [at for hook in _LINE for at in plan.at(find_hook(hook).template, layer)]
    places = [i for i, (other, _) in enumerate(line) if other == number]
    place = places[0] if places else len(line)
    found: list[Node] = [cut for cut in plan.cuts.get(layer, ()) if cut.takes]
    for _, other in reversed(line[:place]):
        if other.removes:
            found.append(other)
        elif isinstance(other, Edit) and not other.keeps_keys:
            break  # it may have written over what was cut before it
    for _, other in line[place + 1 :]:
        if other.removes:
            found.append(other)
        elif not other.keeps_keys:
            break  # it may read what is cut after it
    return tuple(found)


def _inert_message(node: Node, edges: Edges, cuts: Iterable[Node]) -> str:
    return (
        f"{node!r} changes nothing together with {' | '.join(map(repr, cuts))}: in all "
        f"of its layers, its rows {edges.rows!r} attend to no key of {edges.columns!r}; leave one "
        "out, name keys or rows that are not cut, or act in other layers"
    )


def _all_taken(masks: TokenMasks, edges: Edges, cuts: tuple[Node, ...]) -> bool:
    """Whether these cuts of a layer are known to remove all of these edges."""
    taken = tuple(_taken(cut) for cut in cuts)
    named = {head for cut in taken for head in cut.heads or ()}
    # None is a head that no cut names.
    heads = {None, *named} if edges.heads is None else set(edges.heads)
    return bool(taken) and all(
        not _left(masks, edges, [t for t in taken if t.heads is None or head in t.heads], sink)
        for head in heads
        for sink in (False, True)
    )


def _taken(cut: Node) -> Edges:
    found = cut.takes if isinstance(cut, CacheEdit) else cut.removes
    assert found is not None  # noqa: S101 (the caller looks)
    return found


def _left(masks: TokenMasks, edges: Edges, cuts: list[Edges], sink: bool) -> bool:
    """Whether some edge is left, if every token is a sink, or none is.

    Membership in a group depends on no other token, so these two cases suffice.
    """
    rows, columns = masks.host(parse_group(edges.rows)), _columns(masks, edges.columns, sink)
    if not cuts:
        return bool((rows & masks.layout.reached(columns)).any())
    met = torch.stack([masks.host(parse_group(cut.rows), cut.first_token) for cut in cuts])
    lost = torch.stack([_columns(masks, cut.columns, sink) for cut in cuts])
    # Rows that the same cuts meet lose the same keys, so they are looked at together.
    for kind in torch.unique(met.flatten(1).T, dim=0):
        alike = rows & (met == kind[:, None, None]).all(0)
        if (alike & masks.layout.reached(columns & ~lost[kind].any(0))).any():
            return True
    return False


def _columns(masks: TokenMasks, group: str, sink: bool) -> Bool[Tensor, "batch token"]:
    parsed = parse_group(group)
    if "sink" not in parsed.words:
        return masks.host(parsed)
    return masks.layout.mask(parsed, sink=torch.full_like(masks.layout.roles, sink))


def _by_head(cuts: tuple[Edges, ...]) -> set[tuple[Edges, ...]]:
    """The sets of cuts that occur together in some head."""
    named = {head for cut in cuts for head in cut.heads or ()}
    everywhere = tuple(cut for cut in cuts if cut.heads is None)
    return {everywhere} | {
        tuple(cut for cut in cuts if cut.heads is None or head in cut.heads) for head in named
    }


def _blinds(masks: TokenMasks, cuts: tuple[Edges, ...]) -> bool:
    """Whether some row keeps no key if one head makes all these cuts."""
    if not cuts:
        return False
    rows = torch.stack([masks.host(parse_group(cut.rows), cut.first_token) for cut in cuts])
    columns = torch.stack([masks.host(parse_group(cut.columns)) for cut in cuts])
    # Rows that the same cuts meet lose the same keys, so they are looked at together.
    kinds = torch.unique(rows.flatten(1).T, dim=0)
    return any(_kind_blinds(kind, rows, columns, masks.layout) for kind in kinds if kind.any())


def _kind_blinds(
    kind: Bool[Tensor, " cut"],
    rows: Bool[Tensor, "cut batch token"],
    columns: Bool[Tensor, "cut batch token"],
    layout: TokenLayout,
) -> bool:
    real = layout.mask("all")
    met = (rows == kind[:, None, None]).all(0) & real
    return bool((met & ~layout.reached(real & ~columns[kind].any(0))).any())


def keys_left(masks: TokenMasks, removed: tuple[Edges, ...]) -> tuple[range, ...] | None:
    """The keys that these rows keep without these edges, as a few spans over the whole layout.

    None if heads or samples keep different keys, or there are too many spans.
    """
    lost = [False] * masks.layout.length
    for edges in removed:
        some, every = masks.held(parse_group(edges.columns))
        if edges.heads is not None or some != every:
            return None
        lost = [a or b for a, b in zip(lost, some, strict=True)]
    spans = []
    for gone, places in groupby(range(len(lost)), lost.__getitem__):
        if not gone:
            found = list(places)
            spans.append(range(found[0], found[-1] + 1))
    return tuple(spans) if len(spans) <= MOST_SPANS else None


def all_lose(masks: TokenMasks, removed: tuple[Edges, ...], rows: range) -> bool:
    """Whether each of these rows loses all these edges, in every sample."""
    return all(
        all(masks.held(parse_group(edges.rows), edges.first_token)[1][rows.start : rows.stop])
        for edges in removed
    )
