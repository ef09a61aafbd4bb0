"""Heads ranked by visual non-sink ratio (Kang et al. 2025, figure 4)."""

from typing import TYPE_CHECKING, Final

import numpy as np

from ..sinks import HeadRanking
from .style import MUTED, new_figure, tidy

if TYPE_CHECKING:
    import matplotlib.figure

SHOWN: Final = 0.25


def heads(found: HeadRanking) -> "matplotlib.figure.Figure":
    """Every head by its visual non-sink ratio: sorted, and as a map of layers and heads.

    The dashed line is the ratio that the ranking was made with.

    ```python
    vi.plot.heads(vi.rank_heads(lmm.generate(image, prompt, vi.HEAD_PROBES, max_new_tokens=3)))
    ```
    """
    from matplotlib import colormaps

    figure = new_figure(9.8, 3.1)
    left, right = figure.subplots(1, 2, width_ratios=(1.7, 1))
    ratio = found.ratio.numpy()
    order = np.argsort(-np.nan_to_num(ratio.ravel(), nan=-1))
    selected = found.selected.numpy().ravel()[order]
    colours = colormaps["Blues"](0.2 + 0.8 * selected)
    left.bar(np.arange(len(order)), np.nan_to_num(ratio.ravel()[order]), color=colours, width=0.9)
    left.axhline(found.rho, color="black", linestyle="--", linewidth=1)
    left.set_ylim(0, 1.02)
    tidy(left, "heads, sorted", "visual non-sink ratio r (mean)")
    title = "darker: image-centric more often"
    left.set_title(
        f"{title} (at most {selected.max():.0%}); dashed: rho = {found.rho:g}", fontsize=8.5
    )
    shown = right.imshow(ratio, cmap="viridis", vmin=0, vmax=1, aspect="auto", origin="lower")
    for layer, head in zip(*np.nonzero(found.selected.numpy() >= SHOWN), strict=True):
        right.plot(head, layer, marker="o", markersize=4, color="white", markeredgecolor=MUTED)
    rows = range(0, ratio.shape[0], max(1, -(-ratio.shape[0] // 12)))
    right.set_yticks(rows, [str(found.layers[row]) for row in rows])
    right.set_xticks(range(0, ratio.shape[1], max(1, -(-ratio.shape[1] // 12))))
    tidy(right, "head", "layer")
    right.set_title(f"dot: on {SHOWN:.0%} of rows or more", fontsize=8.5, loc="left")
    figure.colorbar(shown, ax=right, label="r (mean)")
    return figure
