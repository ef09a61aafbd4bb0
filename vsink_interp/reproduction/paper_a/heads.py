"""Figure 4: heads by how much of their attention to the image misses its sinks."""

from collections.abc import Iterator

import numpy as np

from ...experiments import Cases, image_heads
from ...model import LMM
from ...model.progress import silent
from ..entry import Entry, Outcome, Setup
from ..measurements import Measurements, Row
from ..over_cases import OverCases
from .sink_attention import one_by_one


def ratios(lmm: LMM, cases: Cases, setup: Setup) -> Iterator[Row]:
    """Visual non-sink ratio and image mass of every head."""
    del setup
    for case, one in one_by_one(cases):
        found = image_heads(lmm, one, tick=silent)
        parts = {"ratio": found.ratio, "image mass": found.mass, "image-centric": found.selected}
        for quantity, values in parts.items():
            for i, layer in enumerate(found.layers):
                for head, value in enumerate(values[i].tolist()):
                    if not np.isnan(value):
                        yield {
                            "case": case, "quantity": quantity, "layer": layer, "head": head,
                            "value": value,
                        }  # fmt: skip


def _spread(found: Measurements) -> Outcome:
    means = [one.mean for one in found.where(quantity="ratio").summary(["layer", "head"])]
    low, high = np.quantile(means, [0.1, 0.9])
    told = f"non-sink ratio of {len(means)} heads: 10 % below {low:.2f}, 10 % above {high:.2f}"
    return Outcome(bool(high - low > 0.2), told)


FIG4 = Entry(
    "A.fig4",
    "heads sorted by visual non-sink ratio",
    "heads differ widely: some look at the image beside its sinks, others at sinks alone",
    measure=OverCases(ratios, quick=8, full=50, at_once=4),
    outcome=_spread,
    figure="sorted",
    axes=("layer", "head", "quantity"),
    unit="visual non-sink ratio r",
    note="Spread: the heads between the 10 % quantiles differ by more than .2.",
)
