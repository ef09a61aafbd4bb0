"""Shift attention scores by a constant."""

from dataclasses import dataclass
from typing import final

from torch import Tensor
from typing_extensions import override

from ..graph import Site
from ..kernels import add_scores
from .numbers import check_finite
from .row_edit import ScoreEdit


@final
@dataclass(frozen=True)
class AddScores(ScoreEdit):
    """Add a constant to the scores of some rows on a group of keys, before the softmax.

    The odds of a key in the group against any other grow by the exponential of `amount`, and every
    row still sums to one. Scores stay in the range of the model's precision: an amount beyond it
    makes those of the group equal, where the bound is reached.

    **Arguments:**

    - `group`: the keys.
    - `amount`: what is added, in units of the scaled score.

    **Raises:** `NotationError` for a group that cannot be read or a number that is not finite. When
    run: `LayoutError` if the prompt lacks a segment.
    """

    amount: float

    def __post_init__(self) -> None:
        ScoreEdit.__post_init__(self)
        check_finite(self, "amount")

    @override
    def apply(self, value: Tensor, site: Site) -> Tensor:
        return add_scores(value, self.edges(value, site), self.amount)
