"""Attention to sinks, and what they contribute (Kang et al. 2025, figure 3c)."""

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..graph import Layers, as_graph
from ..model import LMM
from ..probes import AttentionMaps, Contribution, SinkValue
from ..results import Run
from .answers import runs
from .cases import Cases
from .depth import chosen_layers, middle_layers
from .result import Result


@final
@dataclass(frozen=True, eq=False, repr=False)
class Contributions(Result):
    """Mean attention and contribution of an image token, over layers and text rows.

    **Attributes:**

    - `attention`: mean over heads, 0 to 1; of visual sinks, then of the other image tokens.
    - `norm`: the norm of what the token adds to the residual stream of a row, mean over heads.
    - `sinks`: the number of visual sinks over layers and cases; if it is 0, the first entries are
        NaN.
    - `layers`, `about`: the layers, and a description of the cases.
    """

    figure: ClassVar[str] = "contributions"

    attention: Float[np.ndarray, "2"]
    norm: Float[np.ndarray, "2"]
    sinks: int
    layers: tuple[int, ...]
    about: str


def contributions(
    lmm: LMM,
    cases: Cases,
    *,
    layers: Layers | None = None,
) -> Contributions:
    """Compare attention and contribution of visual sinks with those of other image tokens.

    ```python
    found = ex.contributions(lmm, cases)
    found.attention, found.norm                     # of sinks, and of other image tokens
    ```

    **Arguments:**

    - `layers`: the layers; the middle ones that have a pattern by default.

    **Raises:** `CapabilityError` if the model has no sink dimensions, or gates its heads.
    """
    chosen = chosen_layers(lmm, layers, middle_layers(lmm.n_layers))
    probes = Contribution(layers=chosen), AttentionMaps(layers=chosen), SinkValue(layers=chosen)
    parts = [_measure(run, *probes, lmm.sinks.tau) for run in runs(lmm, cases, as_graph(probes))]
    attention, norm, sink = (torch.cat(part) for part in zip(*parts, strict=True))
    return Contributions(
        _split(attention, sink), _split(norm, sink), int(sink.sum()), chosen, cases.about
    )


def _measure(
    run: Run, norm: Contribution, maps: AttentionMaps, value: SinkValue, tau: float
) -> tuple[Tensor, ...]:
    """Of each image token what text rows get of it, two ways, and whether it is a sink."""
    received = (run.of(probe, "image").mean("query") for probe in (maps, norm))
    attention, added = (record.entries("batch", "token").flatten() for record in received)
    phi = run.of(value, "image").entries("batch", "token")
    return attention, added, (phi >= tau).flatten()


def _split(values: Tensor, sink: Tensor) -> Float[np.ndarray, "2"]:
    # NaN is a token that no text row can see, in a layer with a window.
    return torch.stack([values[sink].nanmean(), values[~sink].nanmean()]).numpy()
