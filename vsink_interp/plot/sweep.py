"""Knockout from layer l on (Kaduri et al. 2025, figure 2f)."""

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
    """Object F1 against the first layer in which a flow is cut; band: one standard deviation."""
    figure = new_figure(7.2, 3.5)
    axes = figure.subplots()
    for i, flow in enumerate(found.flows):
        colour, marker = _STYLES[i % len(_STYLES)]
        mean, std = found.mean[i], found.std[i]
        axes.plot(found.layers, mean, color=colour, marker=marker, markersize=5, label=flow)
        if found.f1.shape[-1] > 1:
            low, high = (mean - std).clip(0, 1), (mean + std).clip(0, 1)
            axes.fill_between(found.layers, low, high, color=colour, alpha=0.12, linewidth=0)
    uncut = float(found.baseline.mean())
    axes.axhline(uncut, color=MUTED, linestyle="--", linewidth=1)
    axes.annotate(
        f"uncut {uncut:.2f}", (0, uncut), (2, 3), xycoords=("axes fraction", "data"),
        textcoords="offset points", fontsize=8.5, color=MUTED,
    )  # fmt: skip
    axes.set_xticks(np.array(found.layers))
    axes.set_ylim(-0.02, 1.08)
    tidy(axes, f"first layer cut, l (of {found.n_layers})", f"object F1 against {found.reference}")
    axes.legend(fontsize=8.5, frameon=False, loc="lower right", bbox_to_anchor=(1, 1), ncols=3)
    return figure
