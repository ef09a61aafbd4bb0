"""Scale keys, as the gate of Choi et al. (arXiv 2604.03316) does for V-sinks and L-sinks."""

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar, final

import torch
from torch import Tensor
from typing_extensions import override

from ..graph import Edges, Edit, Layers, Site, settle
from ..tokens import TokenLayout, grows_by_sinks, parse_group
from .numbers import check_finite


@final
@dataclass(frozen=True)
class ScaleKeys(Edit):
    """Multiply the keys of a group of tokens, and so every row's scores on them.

    softmax(Q (diag(s) K)^T / sqrt(d)), where s is `factor` on the group and 1 elsewhere.

    ```python
    run = lmm.run(image, "What is this?", vi.ScaleKeys("sink", 0.5, layers="2:"))
    ```

    **Arguments:**

    - `group`: the tokens whose keys are scaled.
    - `factor`: what they are multiplied by.
    - `layers`: the layers, counted from 0.

    **Raises:** `NotationError` for a group that cannot be read or a factor that is not finite.
    """

    hook: ClassVar[str] = "attn.hook_rot_k"

    group: str
    factor: float
    _: KW_ONLY
    layers: Layers = ":"

    def __post_init__(self) -> None:
        settle(self)
        check_finite(self, "factor")
        parse_group(self.group)

    @property
    @override
    def needs_phi(self) -> bool:
        return "sink" in parse_group(self.group).words

    @property
    @override
    def needs_new_phi(self) -> bool:
        return grows_by_sinks(self.group)

    @property
    @override
    def acts_on(self) -> tuple[Edges, ...]:
        return (Edges("all", self.group),)

    @override
    def check(self, layout: TokenLayout, *, generates: bool) -> None:
        layout.check_group(self.group, generates=generates)

    @override
    def apply(self, value: Tensor, site: Site) -> Tensor:
        chosen = site.keys(self.group)[:, :, None, None]
        return torch.where(chosen, value * self.factor, value)
