"""Values of patches as a heat map over their image, and its colour scale."""

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from PIL import ImageEnhance

from ..tokens import ImageSpan

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure


def extent_of(span: ImageSpan) -> tuple[float, float, float, float]:
    """Where the grid of an image lies in it: left, right, lower, upper, in pixels."""
    rows, columns = span.grid
    left, upper, right, lower = span.box or (0.0, 0.0, float(columns), float(rows))
    return left, right, lower, upper


def draw_heat(
    axes: "matplotlib.axes.Axes",
    image: Any,
    span: ImageSpan,
    values: Float[np.ndarray, " patch"],
    top: float,
    colours: str,
) -> None:
    """Draw values, 0 to `top`, over the faded image; higher values are more opaque.

    **Arguments:**

    - `image`: a PIL image; None draws the values alone.
    - `colours`: the name of a colour map.
    """
    from matplotlib import colormaps

    share = (values.reshape(span.grid) / top).clip(0, 1)
    shown = colormaps[colours](share)
    if image is not None:
        faded = np.asarray(ImageEnhance.Color(image).enhance(0.6), dtype=float) / 255
        width, height = image.size
        axes.imshow(0.45 + 0.55 * faded, extent=(0, width, height, 0))
        shown[..., 3] = 0.9 * share**0.6
    axes.imshow(shown, extent=extent_of(span), interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])


def scale_bar(
    figure: "matplotlib.figure.Figure",
    panels: np.ndarray,
    colours: str,
    least: float,
    top: float,
    label: str = "",
    *,
    beyond: bool = False,
) -> None:
    """The colour scale beside some panels."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    scale = ScalarMappable(Normalize(least, top), colours)
    end = "max" if beyond else "neither"
    bar = figure.colorbar(scale, ax=panels, shrink=0.85, pad=0.01, extend=end)
    bar.set_label(label, fontsize=8)
    bar.ax.tick_params(labelsize=7.5)
