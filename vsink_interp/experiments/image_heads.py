"""Heads ranked by visual non-sink ratio (Kang et al. 2025, figure 4)."""

import torch

from ..graph import resolve_layers
from ..model import LMM, Tick
from ..results import Run
from ..sinks import HeadRanking, head_probes
from ..sinks.image_heads import head_rows, ranked
from ..storage import Log
from .cases import Cases
from .depth import pattern_layers
from .provenance import dependence, with_provenance
from .steps import Arrays, by_batch, joined


@with_provenance
def image_heads(
    lmm: LMM,
    cases: Cases,
    *,
    rho: float = 0.5,
    min_image_mass: float = 0.2,
    log: Log = None,
    tick: Tick | None = None,
) -> HeadRanking:
    """Mean visual non-sink ratio and image mass of every head, over all text rows of all cases.

    Layers without a pattern have no heads to rank.

    ```python
    ex.image_heads(lmm, cases, rho=0.3).top(3)                    # layer, head, ratio
    ```

    **Arguments:**

    - `rho`, `min_image_mass`: the least ratio and the least attention to the image of an
        image-centric head.
    - `log`: a JSONL file to which each batch is written; an interrupted measurement continues.
    - `tick`: called in the place of a progress bar, after every batch.

    **Raises:** `CapabilityError` if the model has no sink dimensions; `ResultError` if `log`
    belongs to another measurement.
    """
    layers = pattern_layers(lmm)
    about = dependence("image_heads", lmm, needs_sinks=True, cases=cases)
    parts = by_batch(lmm, cases, head_probes(layers), _rows, about, log=log, tick=tick)
    ratio, mass = (torch.from_numpy(part) for part in joined(parts))
    chosen = resolve_layers(layers, lmm.n_layers)
    return ranked(ratio, mass, chosen, rho=rho, min_image_mass=min_image_mass)


def _rows(run: Run) -> Arrays:
    ratio, mass = head_rows(run)
    return {"ratio": ratio.numpy(), "mass": mass.numpy()}
