"""One picture of what the library is for: a scene, its sinks, and the same words after VAR."""

from typing import TYPE_CHECKING

import numpy as np

from ..experiments import WordMaps
from .overlay import draw_map, heat_bar, heat_of, telling
from .style import new_figure

if TYPE_CHECKING:
    import matplotlib.figure


def overview(maps: WordMaps, word: str | None = None) -> "matplotlib.figure.Figure":
    """The picture, the attention of one word with sinks boxed, and the same after the edit.

    **Arguments:**

    - `word`: by default the word whose attention the edit changes most.
    """
    changed = np.abs(maps.after - maps.before).sum(1)
    likely = max(telling(maps.words), key=lambda i: changed[i])
    at = likely if word is None else maps.words.index(word)
    heat = heat_of(maps)
    figure = new_figure(9.6, 3.5)
    panels = figure.subplots(1, 3)
    panels[0].imshow(np.asarray(maps.picture))
    panels[0].set_xticks([])
    panels[0].set_yticks([])
    panels[0].set_title("the picture", fontsize=11)
    values = np.stack([maps.before[at], maps.after[at]])
    plain = values[:, ~maps.sinks]
    top = float(plain.max()) or 1.0
    for axes, row, title in zip(panels[1:], values, ("", " after VAR"), strict=True):
        draw_map(axes, heat, row, top)
        on_sinks = row[maps.sinks].sum() / row.sum()
        axes.set_title(f"attention of '{maps.words[at]}'{title}", fontsize=11)
        axes.set_xlabel(f"{on_sinks:.0%} of it on the sinks", fontsize=9.5)
    panels[0].set_xlabel(_wrapped(maps.answer), fontsize=9.5)
    heat_bar(figure, panels, top)
    figure.supxlabel(heat.note, fontsize=9)
    return figure


def _wrapped(text: str, width: int = 44) -> str:
    from textwrap import fill

    return fill(text, width)
