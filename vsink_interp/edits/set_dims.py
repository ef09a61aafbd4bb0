"""Set coordinates of the residual stream, for instance to ablate massive activations."""

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar, final

import torch
from torch import Tensor
from typing_extensions import override

from ..errors import NotationError
from ..graph import Edit, Layers, Site, Sizes, freeze, settle
from ..tokens import TokenLayout, parse_fixed_group
from .numbers import check_finite


@final
@dataclass(frozen=True)
class SetDims(Edit):
    """Set coordinates of the residual stream entering a layer to a value, at selected tokens.

    Sun et al. (2024), arXiv 2402.17762, set massive activations to zero or to their mean.

    ```python
    clamped = vi.SetDims(lmm.sinks.dims, rows="image", layers="2:")     # sink dimensions, to zero
    run = lmm.run(image, "What is this?", clamped)
    ```

    **Arguments:**

    - `dims`: the coordinates.
    - `value`: what they are set to.
    - `layers`: the layers, counted from 0.
    - `rows`: the tokens.

    **Raises:** `NotationError` if a coordinate is beyond the model's width, or the value is not
    finite.
    """

    hook: ClassVar[str] = "hook_resid_pre"

    dims: tuple[int, ...]
    value: float = 0.0
    _: KW_ONLY
    layers: Layers = ":"
    rows: str = "all"

    def __post_init__(self) -> None:
        settle(self)
        freeze(self, "dims")
        check_finite(self, "value")
        if not self.dims or min(self.dims) < 0:
            raise NotationError(f"dims={self.dims!r}: at least one coordinate, from 0 on")
        parse_fixed_group(self.rows, "the rows of SetDims")

    @override
    def fit(self, sizes: Sizes) -> None:
        if max(self.dims) >= sizes.d_model:
            raise NotationError(f"dims={self.dims!r} lie beyond d_model = {sizes.d_model}")

    @override
    def check(self, layout: TokenLayout, *, generates: bool) -> None:
        layout.check_group(self.rows, generates=generates)

    @override
    def apply(self, value: Tensor, site: Site) -> Tensor:
        changed = value.clone()
        changed[..., list(self.dims)] = self.value
        return torch.where(site.queries(self.rows)[..., None], changed, value)
