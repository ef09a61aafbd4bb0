"""Knockout from layer l on, or in a window of layers (Kaduri et al. 2025, figure 2f)."""

from typing import TYPE_CHECKING

import numpy as np

from ..experiments import KnockoutSweep
from .style import COLOURS, MUTED, new_figure, tidy

if TYPE_CHECKING:
    import matplotlib.figure

_STYLES = (
    (COLOURS["generated"], "o"),
    (COLOURS["query"], "s"),
    (COLOURS["image"], "^"),
    (COLOURS["system"], "D"),
)


def knockout_sweep(found: KnockoutSweep) -> "matplotlib.figure.Figure":
    """Object F1 against the first layer in which a flow is cut.

    Band: the 95 % interval of the change over the same cases (paired bootstrap), laid at the uncut
    mean; where it holds the dashed line, the cut is not shown to change anything.

    ```py
    sweep = ex.knockout_sweep(lmm, cases, flows=["image -> generated"])
    vi.plot.knockout_sweep(sweep).savefig("sweep.png")
    ```
    """
    figure = new_figure(7.2, 3.5)
    axes, uncut = figure.subplots(), float(found.baseline.mean())
    for i, flow in enumerate(found.flows):
        colour, marker = _STYLES[i % len(_STYLES)]
        means = found.mean[i]
        axes.plot(found.layers, means, color=colour, marker=marker, markersize=5, label=flow)
        if len(found.baseline) > 1:
            low, high = uncut + found.interval[i].T
            axes.fill_between(found.layers, low, high, color=colour, alpha=0.12, linewidth=0)
    axes.axhline(uncut, color=MUTED, linestyle="--", linewidth=1)
    axes.annotate(
        f"uncut {uncut:.2f}", (0, uncut), (2, 3), xycoords=("axes fraction", "data"),
        textcoords="offset points", fontsize=8.5, color=MUTED,
    )  # fmt: skip
    axes.set_xticks(np.array(found.layers))
    axes.set_ylim(-0.02, 1.08)
    what = "from l on" if found.window is None else f"l to l + {found.window - 1}"
    tidy(
        axes,
        f"first layer cut, l (of {found.n_layers}; {what})",
        f"object F1 against {found.reference}",
    )
    if len(found.baseline) > 1:
        axes.text(
            0.99, 0.02, f"bands: 95 % paired bootstrap over {len(found.baseline)} cases",
            transform=axes.transAxes, ha="right", fontsize=7.5, color=MUTED,
        )  # fmt: skip
    axes.legend(fontsize=8.5, frameon=False, loc="lower right", bbox_to_anchor=(1, 1), ncols=3)
    return figure
