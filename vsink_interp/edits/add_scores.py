"""Shift attention scores by a constant."""

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor
from typing_extensions import override

from ..kernels import add_scores, edges_of
from ..segments import parse_group
from ..site import Site
from .rows import RowEdit


@final
@dataclass(frozen=True)
class AddScores(RowEdit):
    """Add a constant to the scores of some rows on a group of keys, before the softmax.

    The odds of a key in the group against any other grow by the exponential of `amount`, and every
    row still sums to one.

    **Arguments:**

    - `group`: the keys.
    - `amount`: what is added, in units of the scaled score.

    **Raises:** `NotationError` for a group that cannot be read. When run: `LayoutError` if the
    prompt lacks a segment.
    """

    hook: ClassVar[str] = "attn.hook_attn_scores"

    group: str
    amount: float

    def __post_init__(self) -> None:
        RowEdit.__post_init__(self)
        parse_group(self.group)

    @property
    @override
    def key_groups(self) -> tuple[str, ...]:
        return (self.group,)

    @override
    def apply(self, value: Tensor, site: Site) -> Tensor:
        edges = edges_of(value, site.queries(self.rows), site.keys(self.group), self.heads)
        return add_scores(value, edges, self.amount)
