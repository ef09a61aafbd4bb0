"""Scale attention after the softmax, without making rows sum to one again."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor
from typing_extensions import override

from ..graph import Site
from .numbers import check_finite
from .row_edit import GroupEdit


@final
@dataclass(frozen=True)
class ScalePattern(GroupEdit):
    """Multiply the attention of some rows to a group of keys, after the softmax.

    Nothing is given to other keys in return: with a factor below 1 a row sums to less than one,
    and less is added to the residual stream. `ScalePattern(group, math.exp(c))` is a score raised
    by c over the old denominator; `AddScores(group, c)` is the same with the new one, so that rows
    sum to one. To give what is taken to other keys, use `Redistribute`.

    ```python
    vi.ScalePattern("image", 1.2, layers="2:")                # more of the image, less of nothing
    vi.ScalePattern("sink", 0.0)                              # sinks add nothing to any row
    ```

    **Arguments:**

    - `group`: the keys.
    - `factor`: what their attention is multiplied by.

    **Raises:** `NotationError` for a group that cannot be read or a factor that is not finite. When
    run: `LayoutError` if the prompt lacks a segment.
    """

    hook: ClassVar[str] = "attn.hook_pattern"

    factor: float

    def __post_init__(self) -> None:
        GroupEdit.__post_init__(self)
        check_finite(self, "factor")

    @override
    def apply(self, value: Tensor, site: Site) -> Tensor:
        return torch.where(self.chosen(value, site), value * self.factor, value)
