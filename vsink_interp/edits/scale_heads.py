"""Scale the output of attention heads."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from typing_extensions import override

from ..graph import Site, TopHeads
from .heads import chosen_in, heads_at
from .numbers import check_finite
from .row_edit import RowEdit


@final
@dataclass(frozen=True)
class ScaleHeads(RowEdit):
    """Multiply the output of `heads` in selected rows; 0 removes the heads there.

    With heads that rows choose by their attention, `TopHeads`, it acts where the pattern is, which
    weighs the values linearly: the output is multiplied all the same, and so are the entries of
    the pattern, whose rows then sum to `factor`.

    ```python
    run = lmm.run(image, "What is this?", vi.ScaleHeads(0.0, heads=[1], layers=3))  # one head, off
    ```

    **Arguments:**

    - `factor`: what the heads' weighted values are multiplied by.

    **Raises:** `NotationError` for a factor that is not finite.
    """

    factor: float

    @property
    def hook(self) -> str:
        """Where it acts: behind the values, or before them where rows choose their heads."""
        return "attn.hook_pattern" if isinstance(self.heads, TopHeads) else "attn.hook_z"

    def __post_init__(self) -> None:
        RowEdit.__post_init__(self)
        check_finite(self, "factor")

    @override
    def apply(self, value: Tensor, site: Site) -> Tensor:
        if isinstance(self.heads, TopHeads):
            chosen = chosen_in(site, self.heads, value) & site.queries(self.rows)[:, None]
            return torch.where(chosen[..., None], value * self.factor, value)
        heads = heads_at(site, self.heads, value.shape[2])
        acts = site.queries(self.rows)[:, :, None, None] & heads[:, None]
        return torch.where(acts, value * self.factor, value)
