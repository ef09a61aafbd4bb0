"""Attention knockout: cut the flow of information between two groups of tokens.

Geva et al. (2023), arXiv 2304.14767, introduced the method. Kaduri et al. (2025), arXiv
2411.17491, write it KO_{img -> gen}: add minus infinity to the scores before the softmax where
a target row meets a source column (equations (B-3) and (B-4) of our docs).
"""

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor
from typing_extensions import override

from ..errors import NotationError
from ..graph import Edit, freeze
from ..hooks import Layers, check_layers
from ..kernels import cut, cut_tokens
from ..segments import parse_flow
from ..site import Site
from ..tokens import TokenLayout


@final
@dataclass(frozen=True)
class Knockout(Edit):
    """Stop the target of `flow` from attending to its source.

    The cut is made before the softmax, so what a target row would have spent on the source goes
    to its other keys: every row still sums to one.

    **Arguments:**

    - `flow`: `"source -> target"`, each side one or more segments. `"image -> generated"` leaves
        the query tokens as the only road from the image to the answer. Kaduri et al. count BOS
        and the system prompt among the query tokens: write `"image -> prompt & ~image"` for that.
    - `layers`: the blocks to cut, counted from 0. `"12:"` is "from block 12 on", which their
        released code writes `max_layer=11`. All blocks by default.
    - `first_token`: also cut the last prompt row. It is a *query* row, yet it predicts the first
        generated token; left alone, as in their code, that token still sees the image.

    **Raises:** `NotationError` if the flow or the layers cannot be read. When run: `LayoutError`
    if the prompt lacks a segment, no row of the target can see the source, or a row would lose
    every key. Where the flow names sinks that is known during the run only: a row that would lose
    every key then keeps them.
    """

    hook: ClassVar[str] = "attn.hook_attn_scores"

    flow: str
    layers: Layers = ":"
    first_token: bool = False

    def __post_init__(self) -> None:
        freeze(self, "layers")
        flow = parse_flow(self.flow)
        check_layers(self.layers)
        if self.first_token and "generated" not in flow.target.words:
            raise NotationError(
                f"first_token counts the row that predicts the first generated token as generated, "
                f"and {self.flow!r} does not end in generated"
            )

    @property
    @override
    def needs_phi(self) -> bool:
        return "sink" in parse_flow(self.flow).words

    @property
    @override
    def targets(self) -> tuple[str, bool] | None:
        target = parse_flow(self.flow).target
        return None if "sink" in target.words else (str(target), self.first_token)

    @override
    def check(self, tokens: TokenLayout, *, generates: bool) -> None:
        tokens.check_flow(self.flow, first_token=self.first_token, generates=generates)

    @override
    def apply(self, value: Tensor, site: Site) -> Tensor:
        flow = parse_flow(self.flow)
        rows = site.queries(str(flow.target), first_token=self.first_token)
        kernel = cut_tokens if self.needs_phi else cut
        return kernel(value, rows, site.keys(str(flow.source)))
