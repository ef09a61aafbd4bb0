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

    The odds of a key in the group against any other key are multiplied by `exp(amount)`; every row
    still sums to one. Scores are clamped to the range of the model's precision.

    ```python
    toward = vi.AddScores("image", 1.0, layers=[3, 4])        # odds of an image key times e
    lmm.generate(image, "What is this?", toward).text
    ```

    **Arguments:**

    - `group`: the keys.
    - `amount`: what is added to the scores (already scaled by 1/sqrt(d)).

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
