"""Activation patching: where activations of one run recover its answer in another."""

from typing import TYPE_CHECKING, Final

import numpy as np

from ..experiments import AttributionSweep, PatchSweep
from .style import new_figure, tidy

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

SIGNED: Final = "PRGn"
MOST: Final = 16
"""The most rows or columns in which every entry is written, and every layer named."""
NAMED: Final = 40
"""The most rows that are named one by one."""


def patching(found: PatchSweep) -> "matplotlib.figure.Figure":
    """The share of the logit difference that is recovered, by layer and place.

    ```py
    clean, corrupted = ((one, "what color is the circle?") for one in (image, other))
    vi.plot.patching(ex.patching(lmm, clean, corrupted, layers=[3, 4]))
    ```
    """
    figure = new_figure(*figure_size(found))
    axes = figure.subplots()
    draw_shares(figure, axes, found, _where(found), "share recovered")
    return figure


def figure_size(found: PatchSweep | AttributionSweep) -> tuple[float, float]:
    """Width and height in inches of a heat map by layer and place."""
    n_layers, n_places = found.recovered.shape
    height = 1.5 + (0.5 * n_places if n_places <= MOST else min(0.16 * n_places + 3, 10))
    return max(4.4, 0.62 * min(n_layers, MOST) + 2.2), height


def draw_shares(
    figure: "matplotlib.figure.Figure",
    axes: "matplotlib.axes.Axes",
    found: PatchSweep | AttributionSweep,
    where: str,
    what: str,
) -> None:
    """Draw shares of a logit difference by layer and place.

    **Arguments:**

    - `where`: what the layers are, below the axis.
    - `what`: what the colours are.
    """
    share = found.recovered
    n_layers, n_places = share.shape
    top = max(1.0, float(np.abs(share).max()))
    drawn = axes.imshow(share.T, cmap=SIGNED, vmin=-top, vmax=top, aspect="auto")
    if n_layers <= MOST and n_places <= MOST:
        for (i, j), value in np.ndenumerate(share):
            colour = "white" if abs(value) > 0.7 * top else "black"
            told = f"{value:.2f}".replace("-0.00", "0.00")
            axes.text(i, j, told, ha="center", va="center", fontsize=8, color=colour)
    step = max(1, -(-n_layers // MOST))
    axes.set_xticks(range(0, n_layers, step), [str(at) for at in found.layers[::step]])
    names, step = _named(found), max(1, -(-n_places // NAMED))
    axes.set_yticks(range(0, n_places, step), names[::step])
    title = f"{found.token!r} over {found.against!r}: {found.corrupted:.1f} to {found.clean:.1f}"
    tidy(axes, where, "" if found.by == "segment" else found.by, title)
    bar = figure.colorbar(drawn, ax=axes, pad=0.02)
    bar.set_label(what, fontsize=8)
    bar.ax.tick_params(labelsize=7.5)


def _named(found: PatchSweep | AttributionSweep) -> list[str]:
    if found.by != "segment":
        return list(found.names)
    return [f"{name} ({n})" for name, n in zip(found.names, found.sizes, strict=True)]


def _where(found: PatchSweep) -> str:
    if found.window == 1:
        return f"layer whose {found.hook} is patched"
    return f"middle of the {found.window} layers whose {found.hook} is patched"
