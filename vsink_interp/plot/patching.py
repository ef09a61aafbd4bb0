"""Activation patching: where activations of one run recover its answer in another."""

from typing import TYPE_CHECKING, Final

import numpy as np

from ..experiments import PatchSweep
from .style import new_figure, tidy

if TYPE_CHECKING:
    import matplotlib.figure

SIGNED: Final = "PRGn"


def patching(found: PatchSweep) -> "matplotlib.figure.Figure":
    """The share of the logit difference that is recovered, by layer and segment."""
    share = found.recovered
    figure = new_figure(max(4.4, 0.62 * len(found.layers) + 2.2), 0.5 * len(found.segments) + 1.5)
    axes = figure.subplots()
    top = max(1.0, float(np.abs(share).max()))
    shown = axes.imshow(share.T, cmap=SIGNED, vmin=-top, vmax=top, aspect="auto")
    if len(found.layers) <= 16:
        for (i, j), value in np.ndenumerate(share):
            colour = "white" if abs(value) > 0.7 * top else "black"
            axes.text(i, j, f"{value:.2f}", ha="center", va="center", fontsize=8, color=colour)
    step = max(1, -(-len(found.layers) // 16))
    axes.set_xticks(range(0, len(found.layers), step), [str(at) for at in found.layers[::step]])
    names = [f"{name} ({n})" for name, n in zip(found.segments, found.sizes, strict=True)]
    axes.set_yticks(range(len(names)), names)
    title = f"{found.token!r} over {found.against!r}: {found.corrupted:.1f} to {found.clean:.1f}"
    tidy(axes, f"layer whose {found.hook} is patched", "", title)
    bar = figure.colorbar(shown, ax=axes, pad=0.02)
    bar.set_label("share recovered", fontsize=8)
    bar.ax.tick_params(labelsize=7.5)
    return figure
