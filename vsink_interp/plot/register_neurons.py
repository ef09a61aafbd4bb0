"""Neurons of the vision encoder that are active at outlier patches."""

from typing import TYPE_CHECKING

import numpy as np

from ..experiments import RegisterNeurons
from .style import COLOURS, MUTED, new_figure, tidy

if TYPE_CHECKING:
    import matplotlib.figure

MOST = 24


def register_neurons(found: RegisterNeurons) -> "matplotlib.figure.Figure":
    """Mean activation of the first neurons at outlier patches, and at the others.

    ```python
    vi.plot.register_neurons(ex.register_neurons(lmm, [image], norm=10.0))
    ```
    """
    shown = slice(0, MOST)
    names = found.names[shown]
    figure = new_figure(max(4.5, 0.42 * len(names) + 1.6), 3.2)
    axes = figure.subplots()
    places = np.arange(len(names))
    axes.bar(
        places - 0.2, found.at_outliers[shown], 0.4, color=COLOURS["sink"], label="at outliers"
    )
    axes.bar(places + 0.2, found.elsewhere[shown], 0.4, color=MUTED, label="other patches")
    axes.set_xticks(places, names, rotation=60, fontsize=8)
    tidy(axes, "neuron of a layer of the vision encoder", "mean activation")
    axes.legend(fontsize=8, frameon=False)
    some = int((found.n_outliers > 0).sum())
    views = f"{some} of {len(found.n_outliers)} views of images"
    title = f"{found.n_outliers.sum():.0f} outlier patches in {views}"
    axes.set_title(title, fontsize=9, loc="left")
    return figure
