"""Steering: add a direction to the residual stream."""

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from ..errors import NotationError
from ..graph import Edit, Layers, Site, Sizes, freeze, settle
from ..kernels import with_norm_of
from ..tokens import TokenLayout, parse_fixed_group
from .numbers import Numbers, Vector, check_finite


@final
@dataclass(frozen=True)
class Steer(Edit):
    """Add `scale` times a direction to the residual stream leaving a layer, at selected tokens.

    ```python
    stream = vi.probes.Activation("hook_resid_post", layers=4)
    with_it, without = (lmm.run(one, "What is this?", stream)[stream] for one in (image, other))
    direction = with_it.values[0, 0, -1] - without.values[0, 0, -1]
    lmm.generate(other, "What is this?", vi.Steer(direction, layers=4, scale=0.5)).text
    ```

    **Arguments:**

    - `direction`: one number per coordinate: a tensor, an array or a sequence.
    - `layers`: the layers, counted from 0.
    - `scale`: the factor of the direction.
    - `rows`: the tokens to steer.
    - `norm`: `"keep"` gives each steered vector back the norm that it had, so that its direction
        alone changes. None leaves the norm as it comes.

    **Raises:** `NotationError` for another `norm`, or if the direction does not fit the width of
    the model, or is not finite.
    """

    hook: ClassVar[str] = "hook_resid_post"

    direction: Vector
    layers: Layers = ":"
    _: KW_ONLY
    scale: float = 1.0
    rows: str = "query generated"
    norm: str | None = None

    def __post_init__(self) -> None:
        settle(self)
        freeze(self, "direction")
        object.__setattr__(self, "direction", Numbers(self.direction))
        check_finite(self, "direction", "scale")
        if self.norm not in (None, "keep"):
            raise NotationError(f"norm={self.norm!r} is not one of: keep, None")
        parse_fixed_group(self.rows, "the rows of an edit")

    @classmethod
    def along(
        cls,
        direction: Float[Tensor, " d_model"],
        layers: Layers = ":",
        *,
        scale: float = 1.0,
        rows: str = "query generated",
    ) -> "Steer":
        """The same, for a tensor."""
        return cls(direction, layers, scale=scale, rows=rows)

    @override
    def fit(self, sizes: Sizes) -> None:
        if len(self.direction) != sizes.d_model:
            raise NotationError(
                f"the direction has {len(self.direction)} coordinates, the model {sizes.d_model}"
            )

    @override
    def check(self, layout: TokenLayout, *, generates: bool) -> None:
        layout.check_group(self.rows, generates=generates)

    @override
    def apply(self, value: Tensor, site: Site) -> Tensor:
        # By identity, because hashing thousands of numbers costs more than it saves.
        added = site.once(("steer", id(self)), lambda _: self._added(value))
        new = value + added if self.norm is None else with_norm_of(value, added)
        return torch.where(site.queries(self.rows)[..., None], new, value)

    def _added(self, like: Tensor) -> Float[Tensor, " d_model"]:
        return self.scale * torch.tensor(self.direction, dtype=like.dtype, device=like.device)
