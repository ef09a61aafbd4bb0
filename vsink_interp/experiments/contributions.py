"""Attention to sinks, and what they contribute (Kang et al. 2025, figure 3c)."""

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..graph import Layers
from ..model import LMM, Tick
from ..probes import AttentionMaps, Contribution, SinkValue
from ..results import Run
from ..results.result import Result
from ..storage import Log
from .cases import Cases
from .depth import chosen_layers, middle_layers
from .provenance import dependence, with_provenance
from .steps import Arrays, by_batch, joined


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
    kinds: ClassVar[tuple[str, ...]] = ("visual sinks", "other image tokens")

    attention: Float[np.ndarray, "kind=2"]
    norm: Float[np.ndarray, "kind=2"]
    sinks: int
    layers: tuple[int, ...]
    about: str


@with_provenance
def contributions(
    lmm: LMM,
    cases: Cases,
    *,
    layers: Layers | None = None,
    log: Log = None,
    tick: Tick | None = None,
) -> Contributions:
    """Compare attention and contribution of visual sinks with those of other image tokens.

    ```python
    found = ex.contributions(lmm, cases)
    found.attention, found.norm                     # of sinks, and of other image tokens
    ```

    **Arguments:**

    - `layers`: the layers; the middle ones that have a pattern by default.
    - `log`: a JSONL file to which each batch is written; an interrupted measurement continues.
    - `tick`: called in the place of a progress bar, after every batch.

    **Raises:** `CapabilityError` if the model has no sink dimensions, or gates its heads;
    `ResultError` if `log` belongs to another measurement.
    """
    chosen = chosen_layers(lmm, layers, middle_layers(lmm.n_layers))
    probes = Contribution(layers=chosen), AttentionMaps(layers=chosen), SinkValue(layers=chosen)
    tau = lmm.sinks.tau
    about = dependence("contributions", lmm, needs_sinks=True, cases=cases, layers=chosen)
    parts = by_batch(
        lmm, cases, probes, lambda run: _measure(run, *probes, tau), about, log=log, tick=tick
    )
    attention, norm, sink = (torch.from_numpy(part) for part in joined(parts))
    return Contributions(
        _split(attention, sink), _split(norm, sink), int(sink.sum()), chosen, cases.about
    )


def _measure(
    run: Run, norm: Contribution, maps: AttentionMaps, value: SinkValue, tau: float
) -> Arrays:
    """Of each image token what text rows get of it, two ways, and whether it is a sink."""
    received = (run.of(probe, "image").mean("query") for probe in (maps, norm))
    attention, added = (record.entries("batch", "token").flatten() for record in received)
    phi = run.of(value, "image").entries("batch", "token")
    found = {"attention": attention, "norm": added, "sink": (phi >= tau).flatten()}
    return {name: one.numpy() for name, one in found.items()}


def _split(values: Tensor, sink: Tensor) -> Float[np.ndarray, "kind=2"]:
    # NaN is a token that no text row can see, in a layer with a window.
    return torch.stack([values[sink].nanmean(), values[~sink].nanmean()]).numpy()
