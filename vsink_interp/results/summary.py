"""`Summary`: the mean of a group of measurements with its interval, and tables of these."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from jaxtyping import Float

from ..metrics import mean_interval


@final
@dataclass(frozen=True)
class Summary:
    """The mean of one group of measurements.

    **Attributes:**

    - `group`: what the group has in common, as in `{"arm": "visual sinks", "layer": 3}`.
    - `mean`: over cases, of the mean of each.
    - `low`, `high`: the 95 % interval of `mean`: percentile bootstrap over cases; NaN for one case.
    - `cases`: how many cases there are.
    """

    group: Mapping[str, Any]
    mean: float
    low: float
    high: float
    cases: int

    @classmethod
    def of(cls, group: Mapping[str, Any], means: Float[np.ndarray, " case"]) -> "Summary":
        """Of one mean a case; NaN is a case without any."""
        known = means[~np.isnan(means)]
        if not len(known):
            return cls(group, np.nan, np.nan, np.nan, 0)
        return cls(group, float(known.mean()), *mean_interval(known), len(known))

    def __str__(self) -> str:
        """As in `0.912 [0.880, 0.941]`."""
        interval = "" if np.isnan(self.low) else f" [{self.low:.3g}, {self.high:.3g}]"
        return f"{self.mean:.3g}{interval}"


def summary_table(found: Sequence[Summary], by: Sequence[str]) -> str:
    """Means as text, one line each; the last column names the interval and what it is over."""
    most = max((one.cases for one in found), default=0)
    spread = any(not np.isnan(one.low) for one in found)
    head = [*by, f"mean [95 % bootstrap over {most} cases]" if spread else "mean"]
    cells = [[*(str(one.group.get(name, "")) for name in by), str(one)] for one in found]
    widths = [max(len(line[i]) for line in (head, *cells)) for i in range(len(head))]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in (head, *cells)
    )
    return "\n".join(lines)
