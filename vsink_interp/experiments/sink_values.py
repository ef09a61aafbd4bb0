"""Sink values of all tokens, and attention to image tokens (Kang et al. 2025, figure 3a)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
from jaxtyping import Float, Int, Shaped

from ..graph import Layers
from ..model import LMM, Tick
from ..probes import AttentionMaps, SinkValue
from ..results import Run
from ..results.result import Result
from ..storage import Log
from ..tokens import SEGMENTS
from .cases import Cases
from .depth import chosen_layers, middle_layers
from .provenance import dependence, with_provenance
from .steps import Arrays, by_batch, joined


@final
@dataclass(frozen=True, eq=False, repr=False)
class SinkValues(Result):
    """phi of every token, and the text's attention to each image token.

    **Attributes:**

    - `phi`: of every prompt and generated token entering each layer, 0 to the square root of
        `d_model`.
    - `segment`: the segment of each token, as an index into `tokens.groups.SEGMENTS`.
    - `image_phi`: phi of the image tokens alone, cases concatenated.
    - `attention`: the attention that each image token gets, 0 to 1: mean over heads and over the
        rows of query and generated tokens that can see it; NaN where a window lets none see it.
    - `layers`, `tau`: the layers and the threshold.
    - `cases`, `about`: how many cases there were, and what they were.
    """

    figure: ClassVar[str] = "phi_histogram"
    measured: ClassVar[tuple[str, ...]] = ("phi", "image_phi", "attention")
    columns: ClassVar[Mapping[str, str]] = {"segment": "segment_names"}

    phi: Float[np.ndarray, "layer token"]
    segment: Int[np.ndarray, " token"]
    image_phi: Float[np.ndarray, "layer patch"]
    attention: Float[np.ndarray, "layer patch"]
    layers: tuple[int, ...]
    tau: float
    cases: int
    about: str

    @property
    def segment_names(self) -> Shaped[np.ndarray, " token"]:
        """The segment of each token by name."""
        return np.array(SEGMENTS, object)[self.segment]

    def of(self, segment: str) -> Float[np.ndarray, "layer some"]:
        """phi of the tokens of one segment."""
        return self.phi[:, self.segment == SEGMENTS.index(segment)]

    @property
    def sinks_per_case(self) -> float:
        """The number of visual sinks per case, mean over layers and cases."""
        return float((self.image_phi >= self.tau).sum() / len(self.layers) / self.cases)


@with_provenance
def sink_values(
    lmm: LMM,
    cases: Cases,
    *,
    layers: Layers | None = None,
    log: Log = None,
    tick: Tick | None = None,
) -> SinkValues:
    """phi of every token of all cases, answers included.

    ```python
    ex.sink_values(lmm, cases).plot()                         # the histogram of phi
    ```

    **Arguments:**

    - `layers`: the layers; the middle ones that have a pattern by default.
    - `log`: a JSONL file to which each batch is written; an interrupted measurement continues.
    - `tick`: called in the place of a progress bar, after every batch.

    **Raises:** `CapabilityError` if the model has no sink dimensions; `ResultError` if `log`
    belongs to another measurement.
    """
    chosen = chosen_layers(lmm, layers, middle_layers(lmm.n_layers))
    value, maps = SinkValue(layers=chosen), AttentionMaps(layers=chosen)
    about = dependence("sink_values", lmm, needs_sinks=True, cases=cases, layers=chosen)
    parts = by_batch(
        lmm, cases, value | maps, lambda run: _measure(run, value, maps), about, log=log, tick=tick
    )
    return SinkValues(
        *joined(parts), layers=chosen, tau=lmm.sinks.tau, cases=len(cases), about=cases.about
    )


def _measure(run: Run, value: SinkValue, maps: AttentionMaps) -> Arrays:
    phi = run[value].entries("batch", "token")
    # The last token of an answer, which has no row of its own, is the only one without phi.
    segments = run.layout.segments[run.layout.read] - 1
    image = run.of(value, "image").entries("batch", "token")
    attention = run.of(maps, "image").mean("query").entries("batch", "token")
    return {
        "phi": phi.float().numpy(),
        "segment": segments.numpy(),
        "image_phi": image.float().numpy(),
        "attention": attention.numpy(),
    }
