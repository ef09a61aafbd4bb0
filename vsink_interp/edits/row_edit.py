"""Base of edits of selected attention rows: a group of rows, layers and heads."""

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

from jaxtyping import Bool
from torch import Tensor
from typing_extensions import override

from ..graph import Edges, Edit, Heads, Layers, Site, Sizes, settle
from ..kernels import edges_between, visible_edges
from ..tokens import TokenLayout, grows_by_sinks, parse_fixed_group, parse_group
from .heads import check_heads, heads_at, heads_of


@dataclass(frozen=True)
class RowEdit(Edit):
    """An edit of selected query rows of attention.

    **Arguments:**

    - `layers`: the layers, counted from 0.
    - `rows`: the group of tokens whose query rows are changed.
    - `heads`: the query heads that are changed; all by default.
    """

    _: KW_ONLY
    layers: Layers = ":"
    rows: str = "query generated"
    heads: Heads = None

    def __post_init__(self) -> None:
        settle(self)
        check_heads(self.heads)
        parse_fixed_group(self.rows, "the rows of an edit")

    @property
    @override
    def targets(self) -> tuple[str, bool] | None:
        return self.rows, False

    @property
    def key_groups(self) -> tuple[str, ...]:
        """The groups of keys that it uses; a row that sees no key of one of them is unchanged."""
        return ()

    @property
    @override
    def acts_on(self) -> tuple[Edges, ...]:
        heads = heads_of(self.heads)
        return tuple(Edges(self.rows, group, heads=heads) for group in self.key_groups)

    @property
    @override
    def needs_phi(self) -> bool:
        return any("sink" in parse_group(group).words for group in self.key_groups)

    @property
    @override
    def needs_new_phi(self) -> bool:
        return any(grows_by_sinks(group) for group in self.key_groups)

    @override
    def fit(self, sizes: Sizes) -> None:
        check_heads(self.heads, sizes.n_heads)

    @override
    def check(self, layout: TokenLayout, *, generates: bool) -> None:
        layout.check_group(self.rows, generates=generates)
        for group in self.key_groups:
            layout.check_group(group, generates=generates)
            layout.check_reach(group, self.rows, generates=generates)


@dataclass(frozen=True)
class ScoreEdit(RowEdit):
    """An edit of the scores of selected rows on a group of keys, before the softmax.

    **Arguments:**

    - `group`: the keys.
    """

    hook: ClassVar[str] = "attn.hook_attn_scores"

    group: str

    def __post_init__(self) -> None:
        RowEdit.__post_init__(self)
        parse_group(self.group)

    @property
    @override
    def key_groups(self) -> tuple[str, ...]:
        return (self.group,)

    @property
    @override
    def keeps_keys(self) -> bool:
        return True

    def edges(self, scores: Tensor, site: Site) -> Bool[Tensor, "batch head query key"]:
        """The entries to change; never where the mask hides a key."""
        heads = None if self.heads is None else heads_at(site, self.heads, scores.shape[1])
        edges = edges_between(site.keys(self.group), site.rows(self.rows), heads)
        return visible_edges(scores, edges)
