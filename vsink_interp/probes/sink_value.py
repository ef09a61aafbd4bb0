"""The sink value phi of every token."""

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar, final

from torch import Tensor
from typing_extensions import override

from ..errors import LayoutError
from ..kernels import sink_value
from ..site import Site
from .rows import RowProbe


@final
@dataclass(frozen=True)
class SinkValue(RowProbe):
    """phi of each token entering a block: `[layer batch query]`.

    Kang et al. (2025), equation (A-3) of our docs: the largest absolute RMS-normalised residual
    over the sink dimensions, between 0 and the square root of d_model.

    **Arguments:**

    - `dims`: the sink dimensions; the model's own by default.
    """

    hook: ClassVar[str] = "hook_resid_pre"
    axes: ClassVar[tuple[str, ...]] = ("batch", "query")

    rows: str = "all"
    _: KW_ONLY
    dims: tuple[int, ...] | None = None

    @property
    @override
    def needs_sinks(self) -> bool:
        return self.dims is None

    @override
    def measure(self, value: Tensor, site: Site) -> Tensor:
        dims = self.dims or site.dims or ()
        if not dims or max(dims) >= value.shape[-1] or min(dims) < 0:
            raise LayoutError(f"sink dimensions {dims} do not fit d_model = {value.shape[-1]}")
        return sink_value(value, dims)
