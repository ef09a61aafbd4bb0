"""Attention of generated tokens by segment, layer by layer (Kaduri et al. 2025, figure 1)."""

from typing import TYPE_CHECKING

import numpy as np

from ..experiments import SegmentShares
from .style import GROUP_COLOURS, MUTED, NAMES, bootstrap, layer_ticks, new_figure, tidy

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure


def segment_mass(*found: SegmentShares) -> "matplotlib.figure.Figure":
    """The share of attention to each group of tokens over layers, one panel per split.

    Lines are means over pairs of image and answer token, bands the 95 % interval:
    a bootstrap over cases.

    ```py
    vi.plot.segment_mass(ex.segment_mass(lmm, cases), ex.three_way(lmm, cases))
    ```
    """
    figure = new_figure(4.9 * len(found), 3.2)
    panels = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
    for axes, shares in zip(panels, found, strict=True):
        _panel(axes, shares)
        tidy(axes, "layer", "")
        layer_ticks(axes, max(shares.layers) + 1)
    panels[0].set_ylabel("share of attention (mean over heads)")
    spread = bootstrap(found[0].cases, "bands")
    told = f"means over {found[0].pairs:,} answer tokens"
    figure.supxlabel(f"{told}; {spread}" if spread else told, fontsize=7.5, color=MUTED)
    return figure


def _panel(axes: "matplotlib.axes.Axes", shares: SegmentShares) -> None:
    for i, group in enumerate(shares.groups):
        colour = GROUP_COLOURS.get(group, MUTED)
        part = "" if np.isnan(shares.count[i]) else f" ({shares.count[i]:.0%} of tokens)"
        axes.plot(
            shares.layers,
            shares.mean[:, i],
            color=colour,
            marker="o",
            markersize=3,
            label=NAMES.get(group, group) + part,
        )
        low, high = shares.interval[:, i].T
        axes.fill_between(shares.layers, low, high, color=colour, alpha=0.25, linewidth=0)
    axes.set_ylim(0, 1)
    axes.legend(fontsize=7.5, frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
