"""Attention knockout: cut the flow of information between two groups of tokens.

Geva et al. (2023), arXiv 2304.14767, introduced the method. Kaduri et al. (2025), arXiv
2411.17491, write it KO_{img -> gen}: add minus infinity to the scores before the softmax where
a target row meets a source column (equations B-3 and B-4 of docs/papers.md).
"""

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar, final

from torch import Tensor
from typing_extensions import override

from ..errors import NotationError
from ..graph import Edges, Edit, Heads, Layers, Site, Sizes, TopHeads, settle
from ..kernels import cut, cut_tokens, edges_between
from ..tokens import TokenLayout, grows_by_sinks, parse_flow, parse_group
from .heads import check_heads, heads_in, heads_of, refuse_uneven_sinks


@final
@dataclass(frozen=True)
class Knockout(Edit):
    """Stop the target of `flow` from attending to its source.

    The cut is made before the softmax: the other keys of a target row share what the source would
    have got, and every row still sums to one, the share of a learned sink included.

    ```python
    cut = vi.Knockout("image -> generated", "4:")             # from layer 4 on
    heads = vi.Knockout("image[0] -> query", [2, 3], heads=0) # one head of two layers
    lmm.generate(image, "What is this?", cut | heads).text
    ```

    **Arguments:**

    - `flow`: `"source -> target"`, each side a group. `"image -> generated"` leaves the query
        tokens as the only path from the image to the answer. Kaduri et al. count BOS and the system
        prompt among the query tokens: `"image -> prompt & ~image"`. The target decides when it
        acts: rows of `generated` are decode steps, all others are in the prefill.
    - `layers`: the layers to cut, counted from 0. `"12:"` is "from layer 12 on", `max_layer=11` in
        their released code. All layers by default.
    - `first_token`: also cut the last prompt row. It is a *query* row but predicts the first
        generated token. By default it is not cut, as in their code: that token sees the image.
    - `heads`: the query heads that are cut; all by default. `TopHeads` chooses them in every row.

    **Raises:** `NotationError` if the flow, the layers or the heads cannot be read. When run:
    `LayoutError` if the prompt lacks a segment, no row of the target can see the source, or a row
    would lose every key. If the flow contains `sink`, this is only known during the run: a row that
    would lose every key then keeps them all.
    """

    hook: ClassVar[str] = "attn.hook_attn_scores"

    flow: str
    layers: Layers = ":"
    first_token: bool = False
    _: KW_ONLY
    heads: Heads = None

    @classmethod
    def released(cls, flow: str, max_layer: int) -> "Knockout":
        """A knockout with the layer test of Kaduri et al.'s code: `layer > max_layer`, strictly.

        So -1 means every layer, and `max_layer=l - 1` means "from layer l on". Their sweeps write
        `max_layer` = number of layers for no knockout. Here an edit that acts in no layer is
        refused when run; leave it out instead.

        **Raises:** `NotationError` for `max_layer` below -1, or a flow that cannot be read.
        """
        if max_layer < -1:
            raise NotationError(
                f"max_layer={max_layer}: -1 cuts every layer, l cuts all layers after l"
            )
        return cls(flow, f"{max_layer + 1}:")

    def __post_init__(self) -> None:
        settle(self)
        flow = parse_flow(self.flow)
        check_heads(self.heads, by_row=True)
        if self.first_token and "generated" not in flow.target.words:
            raise NotationError(
                f"first_token counts the row that predicts the first generated token as generated, "
                f"and {self.flow!r} does not end in generated"
            )

    @property
    def _of_sinks(self) -> bool:
        """Whether the flow itself depends on sinks."""
        return "sink" in parse_flow(self.flow).words

    @property
    def _chosen_by(self) -> tuple[str, ...]:
        """The group by which rows choose their heads, if they do."""
        return (self.heads.group,) if isinstance(self.heads, TopHeads) else ()

    @property
    @override
    def needs_phi(self) -> bool:
        by_sinks = any("sink" in parse_group(group).words for group in self._chosen_by)
        return self._of_sinks or by_sinks

    @property
    @override
    def needs_new_phi(self) -> bool:
        flow = parse_flow(self.flow)
        groups = (str(flow.source), str(flow.target), *self._chosen_by)
        return any(map(grows_by_sinks, groups))

    @property
    @override
    def removes(self) -> Edges | None:
        if self.needs_phi or self._chosen_by:
            return None
        flow = parse_flow(self.flow)
        return Edges(str(flow.target), str(flow.source), self.first_token, heads_of(self.heads))

    @property
    @override
    def acts_on(self) -> tuple[Edges, ...]:
        target = str(parse_flow(self.flow).target)
        return tuple(Edges(target, group, self.first_token) for group in self._chosen_by)

    @property
    @override
    def keeps_keys(self) -> bool:
        return self._of_sinks

    @override
    def fit(self, sizes: Sizes) -> None:
        check_heads(self.heads, sizes.n_heads, by_row=True)
        refuse_uneven_sinks(self, self.heads, sizes)

    @property
    @override
    def targets(self) -> tuple[str, bool] | None:
        target = parse_flow(self.flow).target
        return None if "sink" in target.words else (str(target), self.first_token)

    @override
    def check(self, layout: TokenLayout, *, generates: bool) -> None:
        layout.check_flow(self.flow, first_token=self.first_token, generates=generates)
        target = parse_flow(self.flow).target
        for group in self._chosen_by:
            layout.check_group(group, generates=generates)
            layout.check_reach(group, target, first_token=self.first_token, generates=generates)

    @override
    def apply(self, value: Tensor, site: Site) -> Tensor:
        flow = parse_flow(self.flow)
        rows = site.rows(str(flow.target), first_token=self.first_token)
        heads = heads_in(site, self.heads, value)
        kernel = cut_tokens if self._of_sinks else cut
        return kernel(value, edges_between(site.keys(str(flow.source)), rows, heads))
