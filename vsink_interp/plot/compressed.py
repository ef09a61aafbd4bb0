"""Accuracy from compressed contexts (Kaduri et al. 2025, figure 5)."""

from typing import TYPE_CHECKING

import numpy as np

from ..experiments import CompressedAnswers
from .style import COLOURS, MUTED, new_figure, tidy

if TYPE_CHECKING:
    import matplotlib.figure

_STYLES = {
    "attention": (COLOURS["image"], "o"),
    "attention-without-sinks": (COLOURS["sink"], "^"),
    "contribution": (COLOURS["generated"], "s"),
    "query-attention": (COLOURS["query"], "D"),
    "norm": (COLOURS["system"], "v"),
    "random": (MUTED, "x"),
}


def compressed_context(found: CompressedAnswers) -> "matplotlib.figure.Figure":
    """Accuracy against the share of image tokens kept; lines: the whole prompt, and no image.

    Dotted curves are of image tokens without the query (strategy `"s"`).

    ```py
    vi.plot.compressed_context(ex.compressed_context(lmm, ex.Quizzes.scenes(20)))
    ```
    """
    figure = new_figure(6.4, 3.5)
    axes = figure.subplots()
    for name, strategy in sorted(found.curves, key=lambda curve: [*_STYLES].index(curve[0])):
        keep, accuracy = found.curve(name, strategy)
        colour, marker = _STYLES[name]
        style, only = ("-", "") if strategy == "qs" else (":", " only")
        axes.plot(
            100 * keep, accuracy, style, color=colour, marker=marker, markersize=5,
            label=name + only,
        )  # fmt: skip
    for score in found.scores[:2]:
        label = f"{score.name} {score.accuracy:.2f} ({score.tokens:.0f} tokens)"
        axes.axhline(score.accuracy, color=MUTED, linestyle="--", linewidth=1)
        axes.annotate(
            label, (0, score.accuracy), (2, 3), xycoords=("axes fraction", "data"),
            textcoords="offset points", fontsize=8.5, color=MUTED,
        )  # fmt: skip
    axes.set_xscale("log")
    ticks = np.unique([100 * s.spec.keep for s in found.scores[2:] if s.spec])
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks], minor=False)
    axes.set_xticks([], minor=True)
    axes.set_ylim(-0.02, 1.08)
    tidy(axes, "image tokens kept in every layer (%)", "accuracy of yes/no answers")
    axes.legend(fontsize=8.5, frameon=False, loc="lower right")
    return figure
