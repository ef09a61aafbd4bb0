"""Attribution patching: the estimate by layer and place, and how well it foretells patches."""

from typing import TYPE_CHECKING

from ..experiments import AttributionSweep
from .patching import draw_shares, figure_size
from .style import new_figure, tidy

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure


def attribution_patching(found: AttributionSweep) -> "matplotlib.figure.Figure":
    """The estimated share of the logit difference, and estimates beside the patches that were run.

    ```py
    vi.plot.attribution_patching(ex.attribution_patching(lmm, clean, corrupted))
    ```
    """
    width, height = figure_size(found)
    figure = new_figure(width + 3.4, max(height, 3.0))
    left, right = figure.subplots(1, 2, width_ratios=(width, 3.0))
    draw_shares(figure, left, found, f"layer of {found.hook}", "share, estimated")
    _draw_check(right, found)
    return figure


def _draw_check(axes: "matplotlib.axes.Axes", found: AttributionSweep) -> None:
    pairs = (found.pairs - found.corrupted) / (found.clean - found.corrupted)
    title = f"{len(pairs)} patches run: r {found.correlation:.2f}"
    if not len(pairs):
        title = "no patch was run: nothing says how good the estimate is"
    else:
        ends = [float(pairs.min()), float(pairs.max())]
        axes.plot(ends, ends, color="0.7", lw=0.8, zorder=0)
        axes.scatter(*pairs.T, s=12, alpha=0.7)
    tidy(axes, "share, estimated", "share recovered by the patch", title)
