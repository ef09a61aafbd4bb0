"""V-sinks and L-sinks of an image: their positions, norms and attention."""

from typing import TYPE_CHECKING, Final

import numpy as np

from ..experiments import VisionSinks
from .style import COLOURS, MUTED, new_figure, tidy

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

KINDS: Final = {
    "V-sink": COLOURS["system"],
    "L-sink": COLOURS["sink"],
    "L-sink that comes from a V-sink": COLOURS["generated"],
}


def vision_sinks(found: VisionSinks) -> "matplotlib.figure.Figure":
    """The image with its sinks boxed, and norm in the encoder against attention.

    ```python
    vi.plot.vision_sinks(ex.vision_sinks(lmm, image, prompt))
    ```
    """
    figure = new_figure(8.6, 3.9)
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.25))
    kinds = {
        "V-sink": found.v_sink,
        "L-sink": found.l_sink & ~found.from_vision,
        "L-sink that comes from a V-sink": found.from_vision,
    }
    _boxes(left, found, kinds)
    attention = found.inner_attention
    plain = ~(found.v_sink | found.l_sink)
    right.scatter(found.norm[plain], attention[plain], s=12, color=MUTED, label="other patches")
    for (name, chosen), width in zip(kinds.items(), (46, 20, 20), strict=True):
        if chosen.any():
            label = f"{name} ({int(chosen.sum())})"
            right.scatter(
                found.norm[chosen], attention[chosen], s=width, color=KINDS[name], label=label
            )
    right.axvline(found.threshold, color="black", linewidth=0.8, linestyle=":")
    right.set_yscale("log")
    tidy(right, "norm leaving the vision encoder", "attention from the text (share)")
    right.legend(fontsize=7.5, frameon=False)
    return figure


def _boxes(axes: "matplotlib.axes.Axes", found: VisionSinks, kinds: dict[str, np.ndarray]) -> None:
    from matplotlib.patches import Rectangle

    axes.imshow(np.asarray(found.image))
    for inset, (name, chosen) in enumerate(kinds.items()):
        for token in np.flatnonzero(chosen):
            if found.span.box is None or found.span.places[int(token)] is None:
                continue
            x0, y0, x1, y1 = found.span.patch_box(int(token))
            gap = 0.08 * inset * (x1 - x0)
            corner, size = (x0 + gap, y0 + gap), (x1 - x0 - 2 * gap, y1 - y0 - 2 * gap)
            axes.add_patch(Rectangle(corner, *size, fill=False, edgecolor=KINDS[name], linewidth=2))
    axes.set_xticks([])
    axes.set_yticks([])
