"""Attention of generated tokens by segment, layer by layer (Kaduri et al. 2025, figure 1)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
import torch
from jaxtyping import Float

from ..graph import Layers, resolve_layers
from ..metrics import pooled_interval
from ..model import LMM, Tick
from ..probes import SegmentMass
from ..probes.mass import THREE_WAY
from ..results import Run
from ..results.result import Result
from ..storage import Log
from ..tokens import SEGMENTS
from .cases import Cases
from .depth import pattern_layers
from .provenance import dependence, with_provenance
from .steps import Arrays, by_batch, joined

SINK_AWARE = ("bos", "system", "sink & image", "image & ~sink", "query", "generated")
"""The segments, with the image divided into visual sinks and other image tokens."""


@final
@dataclass(frozen=True, eq=False, repr=False)
class SegmentShares(Result):
    """The share of a generated token's attention that each group of tokens gets.

    **Attributes:**

    - `mean`, `std`: over all pairs of a case and a token of its answer, of the mean over heads;
        0 to 1. The means sum to 1 if the groups partition the tokens.
    - `interval`: the 95 % interval of `mean`, its low and its high end: percentile bootstrap over
        cases; NaN for a single case.
    - `count`: the share of the visible tokens that belong to the group, 0 to 1, as a mean over
        layers (some may see a window of tokens alone).
    - `groups`: the groups of keys.
    - `layers`: the layers.
    - `pairs`, `cases`: the number of pairs, and of cases.
    - `about`: a description of the cases.
    """

    figure: ClassVar[str] = "segment_mass"
    measured: ClassVar[tuple[str, ...]] = ("mean", "std", "count")
    axis_labels: ClassVar[Mapping[str, str]] = {"segment": "groups"}

    mean: Float[np.ndarray, "layer segment"]
    std: Float[np.ndarray, "layer segment"]
    interval: Float[np.ndarray, "layer segment end=2"]
    count: Float[np.ndarray, " segment"]
    groups: tuple[str, ...]
    layers: tuple[int, ...]
    pairs: int
    cases: int
    about: str


@with_provenance
def segment_mass(
    lmm: LMM,
    cases: Cases,
    *,
    groups: tuple[str, ...] = SEGMENTS,
    layers: Layers | None = None,
    log: Log = None,
    tick: Tick | None = None,
) -> SegmentShares:
    """Relative attention of the rows that predict the answer, equation B-5 of docs/papers.md.

    ```python
    ex.segment_mass(lmm, cases).mean                          # by layer and segment
    ```

    **Arguments:**

    - `groups`: a split of all tokens: the five segments, `THREE_WAY` (Kaduri et al.'s: image,
        everything else of the prompt, generated), or `SINK_AWARE`.
    - `layers`: the layers; all that have a pattern by default.
    - `log`: a JSONL file to which each batch is written; an interrupted measurement continues.
    - `tick`: called in the place of a progress bar, after every batch.

    **Raises:** `ResultError` if `log` belongs to another measurement.
    """
    probe = SegmentMass(groups=groups, layers=pattern_layers(lmm) if layers is None else layers)
    about = dependence(
        "segment_mass",
        lmm,
        needs_sinks=probe.needs_sinks,
        cases=cases,
        groups=groups,
        layers=probe.layers,
    )
    parts = by_batch(lmm, cases, probe, lambda run: _pairs(run, probe), about, log=log, tick=tick)
    shares, counts, tokens = joined(parts, axis=1)
    by_case = np.split(shares, np.cumsum(tokens[0])[:-1], axis=1)
    sums = np.stack([one.sum(1, dtype=float) for one in by_case], -1)
    return SegmentShares(
        shares.mean(1),
        shares.std(1),
        pooled_interval(sums, tokens[0].astype(float)),
        counts[0].mean(0),
        groups,
        resolve_layers(probe.layers, lmm.n_layers),
        shares.shape[1],
        len(cases),
        cases.about,
    )


@with_provenance
def three_way(
    lmm: LMM, cases: Cases, *, log: Log = None, tick: Tick | None = None
) -> SegmentShares:
    """`segment_mass` in the split of the paper, in which BOS and system count as query tokens.

    ```python
    found = ex.three_way(lmm, cases)
    dict(zip(found.groups, found.mean.mean(0)))                   # image, prompt, generated
    ```
    """
    return segment_mass(lmm, cases, groups=THREE_WAY, log=log, tick=tick)


def _pairs(run: Run, probe: SegmentMass) -> Arrays:
    """Per layer and (sample, token) the shares, and of the visible tokens; the tokens of each."""
    keep, layout, record = run.answered, run.layout, run.answering(probe)
    # A row that cannot see a group gives it 0: the shares of each row sum to 1.
    values = record.values.float().mean(2)
    windows = [layout.windows[at] if layout.windows else None for at in record.labels("layer")]
    seen = {window: layout.visible(run.answer_rows, window)[keep] for window in {*windows}}
    total = torch.stack([seen[window].sum(-1) for window in windows])
    counts = [torch.full(total.shape, torch.nan) for _ in probe.groups]
    for number, group in enumerate(probe.groups):
        if "sink" not in group:
            of_group = layout.mask(group)[:, None].expand(-1, keep.shape[1], -1)[keep]
            found = torch.stack([(seen[window] & of_group).sum(-1) for window in windows])
            counts[number] = found / total
    shares, counted = values[:, keep], torch.stack(counts, -1).mean(0)
    tokens = keep.sum(1)[None].numpy()
    return {"shares": shares.numpy(), "counts": counted[None].numpy(), "tokens": tokens}
