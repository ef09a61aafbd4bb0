"""The sink dimensions of a model, with the threshold that tells its sinks apart."""

from dataclasses import KW_ONLY, dataclass
from typing import final

from ..errors import NotationError


@final
@dataclass(frozen=True)
class SinkDims:
    """D_sink and tau of a model.

    **Attributes:**

    - `dims`: the coordinates of the residual stream in which sink tokens are huge.
    - `tau`: the least phi of a sink token.
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
