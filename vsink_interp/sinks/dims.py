"""`SinkDims`: the sink dimensions of a model, and its threshold on phi."""

from dataclasses import KW_ONLY, dataclass
from typing import final

from ..errors import NotationError


@final
@dataclass(frozen=True)
class SinkDims:
    """The sink dimensions and threshold of a model: D_sink and tau.

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
        if not self.dims or min(self.dims) < 0 or self.tau <= 0:
            raise NotationError(
                f"sink dimensions are at least one index from 0 on, with tau above 0; got {self}"
            )
