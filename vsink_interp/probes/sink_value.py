"""The sink value (phi) of every token."""

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar, final

from torch import Tensor
from typing_extensions import override

from ..errors import NotationError
from ..graph import Site, Sizes, freeze
from ..kernels import sink_value
from .row_probe import RowProbe


@final
@dataclass(frozen=True)
class SinkValue(RowProbe):
    """phi of each token entering a layer: `[layer batch token]`.

    Kang et al. (2025), equation A-3 of docs/papers.md: the largest absolute RMS-normalised residual
    over the sink dimensions, between 0 and the square root of d_model.

    ```python
    phi = vi.probes.SinkValue("image")
    run = lmm.run(image, "What is this?", phi)
    run[phi].at(layer=5).max("token").values, run.sinks(layer=5).topk(3)
    ```

    **Arguments:**

    - `dims`: the sink dimensions; the model's own by default.
    """

    hook: ClassVar[str] = "hook_resid_pre"
    axes: ClassVar[tuple[str, ...]] = ("batch", "token")

    rows: str = "all"
    _: KW_ONLY
    dims: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        freeze(self, "dims")
        RowProbe.__post_init__(self)
        if self.dims is not None and (not self.dims or min(self.dims) < 0):
            raise NotationError(f"dims={self.dims!r}: at least one coordinate, from 0 on, or None")

    @override
    def fit(self, sizes: Sizes) -> None:
        if self.dims is not None and max(self.dims) >= sizes.d_model:
            raise NotationError(f"dims={self.dims!r} lie beyond d_model = {sizes.d_model}")

    @property
    @override
    def needs_sinks(self) -> bool:
        return self.dims is None

    @override
    def measure(self, value: Tensor, site: Site) -> Tensor:
        dims = site.dims if self.dims is None else self.dims
        assert dims is not None  # noqa: S101 (needs_sinks says so)
        return sink_value(value, dims)
