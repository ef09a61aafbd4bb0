"""Scale the output of attention heads."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor
from typing_extensions import override

from ..graph import Site
from .heads import heads_at
from .numbers import check_finite
from .row_edit import RowEdit


@final
@dataclass(frozen=True)
class ScaleHeads(RowEdit):
    """Multiply the output of `heads` in selected rows; 0 removes the heads there.

    ```python
    run = lmm.run(image, "What is this?", vi.ScaleHeads(0.0, heads=[1], layers=3))  # one head, off
    ```

    **Arguments:**

    - `factor`: what the heads' weighted values are multiplied by.

    **Raises:** `NotationError` for a factor that is not finite.
    """

    hook: ClassVar[str] = "attn.hook_z"

    factor: float

    def __post_init__(self) -> None:
        RowEdit.__post_init__(self)
        check_finite(self, "factor")

    @override
    def apply(self, value: Tensor, site: Site) -> Tensor:
        heads = heads_at(site, self.heads, value.shape[2])
        acts = site.queries(self.rows)[:, :, None, None] & heads[:, None]
        return torch.where(acts, value * self.factor, value)
