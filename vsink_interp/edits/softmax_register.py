"""A register in the softmax: a column that takes attention and gives nothing back."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor
from typing_extensions import override

from ..graph import Site
from ..kernels import register
from .heads import heads_in
from .numbers import check_finite
from .row_edit import RowEdit


@final
@dataclass(frozen=True)
class SoftmaxRegister(RowEdit):
    """Give the softmax of some rows one more column, with a constant score and no value.

    softmax([s, logit]), of which the last entry is thrown away: a row may attend to nothing, as
    with the learned sinks of GPT-OSS, whose score is a weight of the model; their share is read by
    `probes.LearnedSinkMass`. Rows sum to less than one. What a row already lacks of one (learned
    sinks, a register before this one) counts as part of its softmax, so that two registers equal
    two columns. An edit that scales a row down would count as well: write it after the register.

    ```python
    lmm.generate(image, "What is this?", vi.SoftmaxRegister(0.0, layers="2:")).text
    ```

    **Arguments:**

    - `logit`: the score of the column, on the scale of `attn.hook_attn_scores`; a very small one
        takes nothing.

    **Raises:** `NotationError` for a logit that is not finite.
    """

    hook: ClassVar[str] = "attn.hook_pattern"

    logit: float

    def __post_init__(self) -> None:
        RowEdit.__post_init__(self)
        check_finite(self, "logit")

    @property
    @override
    def needs_total(self) -> bool:
        return True

    @override
    def apply(self, value: Tensor, site: Site) -> Tensor:
        new = register(value, site.extras["total"], self.logit)
        acts, heads = site.queries(self.rows)[:, None], heads_in(site, self.heads, value)
        if heads is not None:
            acts = acts & (heads[:, None] if heads.ndim == 1 else heads)
        return torch.where(acts[..., None], new, value)
