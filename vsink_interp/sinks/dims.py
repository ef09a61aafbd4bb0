"""`SinkDims`: the sink dimensions of a model, and its threshold on phi."""

from dataclasses import KW_ONLY, dataclass
from math import inf
from typing import final

from ..errors import NotationError


@final
@dataclass(frozen=True)
class SinkDims:
    """The sink dimensions and threshold of a model: D_sink and tau.

    ```py
    lmm.sinks = vi.SinkDims((1415, 2533), tau=20.0)           # LLaVA-1.5-7B (Kang et al. 2025)
    ```

    **Attributes:**

    - `dims`: the coordinates of the residual stream in which sink tokens have very large values.
    - `tau`: the lowest phi of a sink token.
    - `source`: where they come from.
    """

    dims: tuple[int, ...]
    tau: float
    _: KW_ONLY
    source: str = "given"

    def __post_init__(self) -> None:
        whole = all(isinstance(dim, int) and not isinstance(dim, bool) for dim in self.dims)
        if not self.dims or not whole or min(self.dims) < 0 or not 0 < self.tau < inf:
            raise NotationError(
                "sink dimensions are at least one index, a whole number from 0 on, with a finite "
                f"tau above 0; got {self}"
            )
