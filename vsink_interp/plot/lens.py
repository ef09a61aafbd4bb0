"""Words over patches (the logit lens), and the parts of a logit."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from ..errors import ResultError
from ..experiments import ImageLens, LogitParts, WordLens
from ..tokens import ImageSpan
from .image_heat import draw_heat, extent_of, scale_bar
from .style import GROUP_COLOURS, MUTED, NAMES, new_figure, tidy

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

HEAT: Final = "YlGnBu"
SIGNED: Final = "PRGn"


def image_lens(
    lens: ImageLens, *, layers: Sequence[int] | None = None, least: float = 0.0
) -> "matplotlib.figure.Figure":
    """The most likely word of each patch, one panel per layer, darker for higher probability.

    A word that leads in more than half of the patches is given in the title, and they are blank.

    ```python
    vi.plot.image_lens(ex.image_lens(lmm, image, prompt, layers=[2, 5]), layers=[5], least=0.1)
    ```

    **Arguments:**

    - `layers`: the layers to show; at most four evenly spread ones by default.
    - `least`: leave out words below this probability, 0 to 1.

    **Raises:** `ResultError` for a layer that was not recorded.
    """
    shown = _shown(lens.layers, layers, 4)
    rows, columns = lens.span.grid
    side = max(3.2, 0.44 * columns)
    figure = new_figure(side * len(shown) + 0.9, side * rows / columns + 0.8)
    panels = figure.subplots(1, len(shown), squeeze=False)[0]
    for axes, layer in zip(panels, shown, strict=True):
        place = lens.layers.index(layer)
        likely = lens.probability[place, :, 0]
        words = [ranked[0] for ranked in lens.words[place]]
        (common, times), *_ = lens.count(layer)
        blank = common if times > len(words) / 2 else None
        drawn = np.array([word != blank for word in words]) & (likely >= least)
        draw_heat(axes, lens.image, lens.span, np.where(drawn, likely, 0.0), 1.0, HEAT)
        for patch in np.flatnonzero(drawn):
            _write(axes, lens.span, int(patch), words[patch], float(likely[patch]), side)
        told = "" if blank is None else f"; {times} of {len(words)} patches: {blank!r}"
        axes.set_title(f"after layer {layer}{told}", fontsize=9)
    scale_bar(figure, panels, HEAT, 0.0, 1.0, "probability of the word")
    return figure


def word_lens(lens: WordLens, *, layers: Sequence[int] | None = None) -> "matplotlib.figure.Figure":
    """The probability of each word over patches: a row per word, a column per layer.

    ```python
    vi.plot.word_lens(ex.word_lens(lmm, image, prompt, ["red", "blue"], layers=[3, 5]))
    ```

    **Raises:** `ResultError` for a layer that was not recorded.
    """
    shown = _shown(lens.layers, layers, 6)
    figure = new_figure(1.7 * len(shown) + 1.0, 1.75 * len(lens.words) + 0.3)
    panels = figure.subplots(len(lens.words), len(shown), squeeze=False)
    top = float(lens.probability.max()) or 1.0
    for row, word in enumerate(lens.words):
        panels[row][0].set_ylabel(word, fontsize=10)
        for axes, layer in zip(panels[row], shown, strict=True):
            share = lens.probability[row, lens.layers.index(layer)]
            draw_heat(axes, lens.image, lens.span, share, top, HEAT)
            if row == 0:
                axes.set_title(f"after layer {layer}", fontsize=9)
    scale_bar(figure, panels, HEAT, 0.0, top, "probability of the word")
    return figure


def logit_attribution(parts: LogitParts) -> "matplotlib.figure.Figure":
    """The parts of a logit: by layer and segment on the left, by head on the right.

    ```python
    parts = ex.logit_attribution(lmm, image, "what color is the circle?", "white")
    vi.plot.logit_attribution(parts)
    ```
    """
    figure = new_figure(10.5, 3.6)
    left, right = figure.subplots(1, 2, width_ratios=(1.5, 1))
    _bars(left, parts)
    top = float(np.abs(parts.head_total).max()) or 1.0
    shown = right.imshow(parts.head_total.T, cmap=SIGNED, vmin=-top, vmax=top, aspect="auto")
    figure.colorbar(shown, ax=right, pad=0.02).set_label("logits", fontsize=8)
    right.set_xticks(range(0, len(parts.mlp), max(1, -(-len(parts.mlp) // 12))))
    n_heads = parts.head_total.shape[1]
    right.set_yticks(range(0, n_heads, max(1, -(-n_heads // 12))))
    tidy(right, "layer", "head", "each head, from all keys")
    return figure


def _bars(axes: "matplotlib.axes.Axes", parts: LogitParts) -> None:
    layers = np.arange(len(parts.mlp))
    series = [
        (NAMES.get(name, name), GROUP_COLOURS.get(name), parts.heads[..., i].sum(1))
        for i, name in enumerate(parts.segments)
        if np.abs(parts.heads[..., i]).sum() > 0
    ]
    bases = np.zeros((2, len(layers)))
    for name, colour, values in series:
        base = np.where(values >= 0, bases[0], bases[1])
        axes.bar(layers - 0.2, values, 0.38, bottom=base, color=colour, label=f"from {name}")
        bases += np.stack([values.clip(min=0), values.clip(max=0)])
    axes.bar(layers + 0.2, parts.mlp, 0.38, color=MUTED, label="MLP")
    axes.axhline(0, color="black", linewidth=0.6)
    axes.set_xticks(layers[:: max(1, -(-len(layers) // 12))])
    against = f" over {parts.against!r}" if parts.against else ""
    title = f"logit of {parts.token!r}{against}: {parts.logit:.1f}"
    tidy(axes, "layer", "added (logits)", title)
    axes.legend(fontsize=7.5, frameon=False)


def _shown(known: tuple[int, ...], wanted: Sequence[int] | None, most: int) -> list[int]:
    if wanted is None:
        places = np.linspace(0, len(known) - 1, min(most, len(known))).round().astype(int)
        return [known[int(place)] for place in places]
    if not wanted or not set(wanted) <= set(known):
        raise ResultError(f"layers={wanted!r}: this lens read the layers {known}")
    return list(wanted)


def _write(
    axes: "matplotlib.axes.Axes", span: ImageSpan, patch: int, word: str, share: float, side: float
) -> None:
    rows, columns = span.grid
    left, right, lower, upper = extent_of(span)
    row, column = divmod(patch, columns)
    x = left + (column + 0.5) * (right - left) / columns
    y = upper + (row + 0.5) * (lower - upper) / rows
    size = min(9.0, 110 * side / columns / max(len(word), 4))
    colour = "white" if share > 0.55 else "black"
    axes.text(x, y, word, ha="center", va="center", fontsize=size, color=colour, clip_on=True)
