"""Which image tokens speak for a word, and which against it."""

from typing import TYPE_CHECKING

import numpy as np

from ..experiments import ImageAttribution
from ..tokens import ImageSpan
from .image_heat import draw_heat, scale_bar
from .style import new_figure

if TYPE_CHECKING:
    import matplotlib.figure

_SIDES = (("for", 1.0, "Greens"), ("against", -1.0, "Purples"))


def image_attribution(found: ImageAttribution) -> "matplotlib.figure.Figure":
    """What each image token adds to a word's logit, over the image; both sides on one scale.

    ```py
    vi.plot.image_attribution(ex.integrated_gradients(lmm, image, prompt))
    ```
    """
    values = found.values[list(found.span.tokens_of())]
    sides = _SIDES if (values < 0).any() else _SIDES[:1]
    figure = new_figure(3.4 * len(sides) + 0.6, 3.7)
    panels = np.atleast_1d(figure.subplots(1, len(sides)))
    top = max(float(np.abs(values).max()), 1e-30)
    for axes, (side, sign, colours) in zip(panels, sides, strict=True):
        span = ImageSpan(found.span.grid, found.span.box)
        draw_heat(axes, found.image, span, (sign * values).clip(0), top, colours)
        total = float((sign * values).clip(0).sum())
        axes.set_title(f"{side} {found.word!r}: {total:.3g}", fontsize=9, loc="left")
        scale_bar(figure, np.array([axes]), colours, 0.0, top)
    figure.suptitle(str(found), fontsize=8, x=0.02, ha="left")
    return figure
