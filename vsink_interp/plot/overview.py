"""The overview figure of the README: a scene, attention of two words, and one of them after VAR."""

from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np

from ..experiments import WordMaps
from .overlay import content_places, draw_map, heat_of
from .style import new_figure

if TYPE_CHECKING:
    import matplotlib.figure


def overview(maps: WordMaps) -> "matplotlib.figure.Figure":
    """The image; where the first word looks; the word that the edit changes most, before and
    after. Sinks are boxed. Of an image cut into tiles, the view of all of it is drawn, while shares
    and the word that changes most are of all its tokens.

    ```python
    maps = ex.word_maps(lmm, image, prompt, max_new_tokens=4)
    vi.plot.overview(maps)
    ```
    """
    words, heat = content_places(maps.words), heat_of(maps)
    changed = np.abs(maps.after - maps.before).sum(1)
    most = max(words, key=lambda i: changed[i])
    name = maps.words[most]
    shown = [
        (f"attention of '{maps.words[words[0]]}'", maps.before[words[0]]),
        (f"attention of '{name}'", maps.before[most]),
        (f"'{name}' {heat.rows[1][0]}", maps.after[most]),
    ]
    whole = list(maps.span.tokens_of())
    figure = new_figure(11.2, 3.8)
    figure.set_layout_engine("compressed")
    panels = figure.subplots(1, 1 + len(shown))
    panels[0].imshow(np.asarray(maps.image))
    panels[0].set_xticks([])
    panels[0].set_yticks([])
    panels[0].set_title("the image", fontsize=10.5)
    panels[0].set_xlabel(fill(maps.answer, 36), fontsize=9)
    highest = [row[whole].max() for _, row in shown]
    tops = [highest[0], *2 * [max(highest[1:])]]
    for axes, top, (title, row) in zip(panels[1:], tops, shown, strict=True):
        draw_map(axes, heat, row[whole], float(top) or 1.0)
        axes.set_title(title, fontsize=10.5)
        share = row[maps.sinks].sum() / max(float(row.sum()), 1e-12)
        axes.set_xlabel(f"{share:.0%} of the attention to the image\ngoes to its sinks", fontsize=9)
    figure.supxlabel(f"{heat.note}; each word on its own scale", fontsize=8.5)
    return figure
