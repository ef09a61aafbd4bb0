"""Base of edits of selected attention rows: a group of rows, layers and heads."""

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

from jaxtyping import Bool
from torch import Tensor
from typing_extensions import override

from ..graph import Edges, Edit, Heads, Layers, Site, Sizes, TopHeads, settle
from ..kernels import edges_between, visible_edges
from ..tokens import TokenLayout, grows_by_sinks, parse_fixed_group, parse_group
from .heads import check_heads, heads_in, heads_of, refuse_uneven_sinks


@dataclass(frozen=True)
class RowEdit(Edit):
    """An edit of selected query rows of attention.

    **Arguments:**

    - `layers`: the layers, counted from 0.
    - `rows`: the group of tokens whose query rows are changed.
    - `heads`: the query heads that are changed; all by default. `TopHeads` chooses them in every
        row.
    """

    _: KW_ONLY
    layers: Layers = ":"
    rows: str = "query generated"
    heads: Heads = None

    def __post_init__(self) -> None:
        settle(self)
        check_heads(self.heads, by_row=True)
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
    def _read_groups(self) -> tuple[str, ...]:
        """Those, and the one by which heads are chosen."""
        heads = self.heads
        return (*self.key_groups, heads.group) if isinstance(heads, TopHeads) else self.key_groups

    @property
    @override
    def acts_on(self) -> tuple[Edges, ...]:
        heads = heads_of(self.heads)
        return tuple(Edges(self.rows, group, heads=heads) for group in self._read_groups)

    @property
    @override
    def needs_phi(self) -> bool:
        return any("sink" in parse_group(group).words for group in self._read_groups)

    @property
    @override
    def needs_new_phi(self) -> bool:
        return any(grows_by_sinks(group) for group in self._read_groups)

    @override
    def fit(self, sizes: Sizes) -> None:
        check_heads(self.heads, sizes.n_heads, by_row=True)

    @override
    def check(self, layout: TokenLayout, *, generates: bool) -> None:
        layout.check_group(self.rows, generates=generates)
        for group in self._read_groups:
            layout.check_group(group, generates=generates)
            layout.check_reach(group, self.rows, generates=generates)


@dataclass(frozen=True)
class GroupEdit(RowEdit):
    """An edit of what selected rows have at a group of keys.

    **Arguments:**

    - `group`: the keys.
    """

    group: str

    def __post_init__(self) -> None:
        RowEdit.__post_init__(self)
        parse_group(self.group)

    @property
    @override
    def key_groups(self) -> tuple[str, ...]:
        return (self.group,)

    def chosen(self, value: Tensor, site: Site) -> Bool[Tensor, "#batch #head #query key"]:
        """The entries of scores or a pattern that lie in these rows, keys and heads."""
        heads = heads_in(site, self.heads, value)
        return edges_between(site.keys(self.group), site.rows(self.rows), heads)


@dataclass(frozen=True)
class ScoreEdit(GroupEdit):
    """An edit of the scores of selected rows on a group of keys, before the softmax.

    **Arguments:** as of `GroupEdit`.
    """

    hook: ClassVar[str] = "attn.hook_attn_scores"

    @override
    def fit(self, sizes: Sizes) -> None:
        check_heads(self.heads, sizes.n_heads, by_row=True)
        refuse_uneven_sinks(self, self.heads, sizes)

    @property
    @override
    def keeps_keys(self) -> bool:
        return True

    def edges(self, scores: Tensor, site: Site) -> Bool[Tensor, "batch head query key"]:
        """The entries to change; never where the mask hides a key."""
        return visible_edges(scores, self.chosen(scores, site))
