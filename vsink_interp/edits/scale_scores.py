"""Scale attention scores, as PAI, ClearSight and AdaptVis do."""

from dataclasses import dataclass
from typing import final

from torch import Tensor
from typing_extensions import override

from ..errors import NotationError
from ..graph import Site
from ..kernels import raise_scores, scale_scores
from .numbers import check_finite
from .row_edit import ScoreEdit


@final
@dataclass(frozen=True)
class ScaleScores(ScoreEdit):
    """Multiply the scores of some rows on a group of keys, before the softmax.

    Every row still sums to one. If a score is negative, multiplying it by more than 1 *lowers* the
    key's attention; `by="size"` adds a share of the score's absolute value instead, which always
    raises it. Scores are clamped to the range of the model's precision.

    ```python
    vi.ScaleScores("image", 1.5, by="size", layers="2:5")
    ```

    **Arguments:**

    - `group`: the keys.
    - `factor`: what scores are multiplied by; with `by="size"`, the share of their absolute value
        that is added.
    - `by`: `"score"` or `"size"`.

    **Raises:** `NotationError` for a group that cannot be read or a number that is not finite. When
    run: `LayoutError` if the prompt lacks a segment.
    """

    factor: float
    by: str = "score"

    def __post_init__(self) -> None:
        ScoreEdit.__post_init__(self)
        check_finite(self, "factor")
        if self.by not in ("score", "size"):
            raise NotationError(f"by={self.by!r} is not one of: score, size")

    @override
    def apply(self, value: Tensor, site: Site) -> Tensor:
        kernel = scale_scores if self.by == "score" else raise_scores
        return kernel(value, self.edges(value, site), self.factor)
