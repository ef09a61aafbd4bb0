"""Direct logit attribution: what each component of the model writes along a direction."""

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from ..errors import NotationError
from ..graph import Layers, Probe, Site, Sizes, freeze
from ..kernels import attributed, output_along, value_along
from ..tokens import SEGMENTS
from .row_probe import GroupProbe, RowProbe, grown_with_values

RESIDUAL = (
    "hook_embed hook_resid_pre hook_resid_mid hook_resid_post hook_attn_out hook_mlp_out"
).split()


def _check_direction(node: Probe, direction: tuple[float, ...], sizes: Sizes) -> None:
    if len(direction) != sizes.d_model:
        raise NotationError(
            f"{type(node).__name__}: the direction has {len(direction)} coordinates, the model "
            f"{sizes.d_model}"
        )


@final
@dataclass(frozen=True)
class LogitAttribution(GroupProbe):
    """What each head writes along a direction, split by the segment of the keys:
    `[layer batch head query segment]`.

    The sum over keys k of a segment of `A[q, k] v[k] W_O . d`. With a token's direction,
    `vi.readout(lmm).direction(token)`, and divided by the scale of the final norm at that row, it
    is the head's part of the token's logit (direct logit attribution, Elhage et al. 2021; the norm
    is held fixed). `experiments.logit_attribution` does this and adds the other parts. A bias of
    the output projection belongs to no key and is left out.

    **Arguments:**

    - `direction`: one number per coordinate; `LogitAttribution.along` takes a tensor.
    - `groups`: the groups of keys; the five segments by default.

    **Raises:** `NotationError` if the direction does not fit the width of the model.
    """

    _: KW_ONLY
    direction: tuple[float, ...]

    def __post_init__(self) -> None:
        GroupProbe.__post_init__(self)
        freeze(self, "direction")

    @classmethod
    def along(
        cls,
        direction: Float[Tensor, " d_model"],
        rows: str = "query generated",
        layers: Layers = ":",
        *,
        groups: tuple[str, ...] = SEGMENTS,
    ) -> "LogitAttribution":
        """The probe for a direction given as a tensor."""
        return cls(rows, layers, direction=tuple(direction.float().tolist()), groups=groups)

    @property
    @override
    def needs_values(self) -> bool:
        return True

    @override
    def fit(self, sizes: Sizes) -> None:
        _check_direction(self, self.direction, sizes)

    @override
    def measure(self, value: Tensor, site: Site) -> Tensor:
        toward = site.once((self, "toward"), self._toward)
        along = grown_with_values(site, (self, "along"), lambda v: value_along(v, toward))
        if self.needs_new_phi:
            return attributed(value, along, self.columns(site))
        return attributed(value, along, site.once(self, self.columns)[:, : site.n_keys])

    def _toward(self, whole: Site) -> Float[Tensor, "head d_head"]:
        weight = whole.extras["weight"]
        return output_along(weight, torch.tensor(self.direction, device=weight.device))


@final
@dataclass(frozen=True)
class Projection(RowProbe):
    """The dot product of a residual vector with a direction: `[layer batch query]`, in fp32.

    **Arguments:**

    - `hook`: the residual stream or what a component adds to it, such as `"hook_mlp_out"`.
    - `direction`: one number per coordinate; `Projection.along` takes a tensor.

    **Raises:** `NotationError` if the direction does not fit the width of the model, or the hook
    point holds no residual vectors.
    """

    axes: ClassVar[tuple[str, ...]] = ("batch", "query")

    _: KW_ONLY
    hook: str
    direction: tuple[float, ...]

    def __post_init__(self) -> None:
        RowProbe.__post_init__(self)
        freeze(self, "direction")
        if self.hook not in RESIDUAL:
            raise NotationError(f"hook={self.hook!r} is not one of: {', '.join(RESIDUAL)}")

    @classmethod
    def along(
        cls,
        direction: Float[Tensor, " d_model"],
        hook: str,
        rows: str = "query generated",
        layers: Layers = ":",
    ) -> "Projection":
        """The probe for a direction given as a tensor."""
        return cls(rows, layers, hook=hook, direction=tuple(direction.float().tolist()))

    @override
    def fit(self, sizes: Sizes) -> None:
        _check_direction(self, self.direction, sizes)

    @override
    def measure(self, value: Tensor, site: Site) -> Tensor:
        direction = site.once(self, lambda _: torch.tensor(self.direction, device=value.device))
        return value.float() @ direction
