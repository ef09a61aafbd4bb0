"""Localisation over layers: do words attend to their objects? (Kaduri et al. 2025, figures 6, 7)"""

from typing import TYPE_CHECKING

import numpy as np

from ..errors import ResultError
from ..experiments import Localisation
from ..metrics import dilated
from .style import COLOURS, MUTED, layer_ticks, new_figure, tidy

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

_STYLES = {
    "image": (COLOURS["image"], "o", "all image tokens"),
    "image & ~sink": (COLOURS["sink"], "^", "without visual sinks"),
}
_OUTLINE = "#FFFFFF"


def localisation(
    found: Localisation, *, objects: tuple[int, ...] | None = None, layer: int | None = None
) -> "matplotlib.figure.Figure":
    """The hit rate over layers with its interval and chance, and some objects with their peaks.

    In an image, the solid line is the object's mask; peaks inside the dashed line are hits.

    ```py
    found = ex.localisation(lmm, ex.ObjectMasks.scenes(4))
    vi.plot.localisation(found, objects=(0, 1), layer=5)
    ```

    **Arguments:**

    - `objects`: the objects to show, by their index in `found.located`; by default the first of
        each of four images; `()` for none.
    - `layer`: the layer whose peaks are shown; by default the one in which the two groups of keys
        differ most, or the one with the highest rate if there is one group.

    **Raises:** `ResultError` for an object or layer that was not measured.
    """
    shown = _first_of_images(found) if objects is None else objects
    at = _telling_layer(found) if layer is None else layer
    _check(found, shown, at)
    columns = (len(shown) + 1) // 2
    figure = new_figure(5.2 + 1.75 * columns, 3.6)
    grid = figure.add_gridspec(2, 1 + columns, width_ratios=[5.2] + [1.75] * columns)
    _rates(figure.add_subplot(grid[:, 0]), found)
    for i, place in enumerate(shown):
        axes = figure.add_subplot(grid[i // columns, 1 + i % columns])
        _object(axes, found, place, at)
        if i >= len(shown) - columns:
            axes.set_xlabel(f"peaks at layer {at}", fontsize=8.5)
    return figure


def _check(found: Localisation, objects: tuple[int, ...], layer: int) -> None:
    if layer not in found.layers:
        raise ResultError(f"there is no layer {layer} here; measured were {found.layers}")
    for place in objects:
        if not 0 <= place < len(found.located):
            last = len(found.located) - 1
            raise ResultError(f"there is no object {place} here; they are 0 to {last}")


def _first_of_images(found: Localisation, most: int = 4) -> tuple[int, ...]:
    first: dict[bytes, int] = {}
    for place, one in enumerate(found.located):
        first.setdefault(one.image.tobytes(), place)
    return tuple(first.values())[:most]


def _telling_layer(found: Localisation) -> int:
    apart = found.rate.max(0) - found.rate.min(0)
    return found.layers[int(apart.argmax())] if apart.any() else found.best


def _rates(axes: "matplotlib.axes.Axes", found: Localisation) -> None:
    low, high = found.interval
    for i, key in enumerate(found.keys):
        colour, marker, label = _STYLES[key]
        axes.plot(
            found.layers, found.rate[i], color=colour, marker=marker, markersize=4.5, label=label
        )
        axes.fill_between(found.layers, low[i], high[i], color=colour, alpha=0.13, linewidth=0)
    axes.axhline(found.chance, color=MUTED, linestyle="--", linewidth=1)
    axes.annotate(
        f"chance {found.chance:.2f}", (1, found.chance), (-2, -11), textcoords="offset points",
        xycoords=("axes fraction", "data"), ha="right", fontsize=8.5, color=MUTED,
    )  # fmt: skip
    axes.set_ylim(-0.02, 1.04)
    layer_ticks(axes, max(found.layers) + 1)
    tidy(axes, "layer", f"share of {len(found.located)} objects hit")
    axes.text(
        0.99, 0.02, f"bands: 95 % Wilson over {len(found.located)} objects",
        transform=axes.transAxes, ha="right", fontsize=7.5, color=MUTED,
    )  # fmt: skip
    axes.legend(fontsize=8.5, frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)


def _object(axes: "matplotlib.axes.Axes", found: Localisation, place: int, layer: int) -> None:
    """One image, with the outline of an object and the peaks of the words that name it."""
    one = found.located[place]
    axes.imshow(np.asarray(one.image))
    wide = dilated(one.mask, float(found.tolerances[place]))
    for mask, line in ((one.mask, "-"), (wide, "--")):
        if not mask.all():
            axes.contour(mask, levels=[0.5], colors=_OUTLINE, linewidths=1.1, linestyles=line)
    for i, key in enumerate(found.keys):
        x, y = found.peaks[i, found.layers.index(layer), place]
        if x >= 0:
            colour, marker, _ = _STYLES[key]
            axes.plot(x, y, marker, color=colour, markersize=6, markeredgecolor=_OUTLINE)
    axes.set_title(one.words, fontsize=9)
    axes.set_xticks([])
    axes.set_yticks([])
