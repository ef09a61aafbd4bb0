"""Attention of the words of an answer, drawn over the picture (Kang et al. 2025, fig. 1)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np
from jaxtyping import Bool, Float
from PIL import ImageEnhance

from ..errors import ResultError
from ..experiments import WordMaps
from ..metrics import FUNCTION_WORDS
from ..pictures import Picture, as_picture
from ..probes import AttentionMaps, SinkValue
from ..results import Run
from ..tokens import ImageSpan
from .style import new_figure

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

BOX: Final = "#56E0FF"
"""Sinks are boxed in this colour, which no value of the heat map has."""


@final
@dataclass(frozen=True, eq=False)
class Heat:
    """Maps over one picture, ready to draw: a row of panels per condition, a column per word."""

    picture: Any
    span: ImageSpan
    words: tuple[str, ...]
    rows: tuple[tuple[str, Float[np.ndarray, "word patch"]], ...]
    sinks: Bool[np.ndarray, " patch"]
    note: str


def overlay(
    source: Run | WordMaps,
    picture: Picture | None = None,
    *,
    words: Sequence[str] | None = None,
    most: int = 8,
    tau: float | None = None,
) -> "matplotlib.figure.Figure":
    """Where each word of an answer looks in the picture, with sinks boxed.

    All panels share one colour scale, whose top is the largest value that is not a sink's, so that
    sinks do not hide the rest; a sink may lie above it.

    **Arguments:**

    - `source`: a run of one prompt that recorded `probes.AttentionMaps`, or what
        `experiments.word_maps` returned: then a second row shows the same words after the edit.
    - `picture`: drawn under the maps of a run, which does not hold its picture.
    - `words`: the words to show; by default the first `most` that are no function words.
    - `tau`: box the image tokens with phi at or above it, in a run that recorded
        `probes.SinkValue`.

    **Raises:** `ResultError` if the run has no maps, or the answer has none of the words.
    """
    heat = _of_run(source, picture, tau) if isinstance(source, Run) else _of_maps(source)
    chosen = _chosen(heat.words, words, most)
    columns, rows = len(chosen), len(heat.rows)
    figure = new_figure(1.35 * columns + 0.9, 1.45 * rows + 0.55)
    panels = figure.subplots(rows, columns, squeeze=False)
    maps = np.stack([values[chosen] for _, values in heat.rows])
    plain = maps[..., ~heat.sinks] if (~heat.sinks).any() else maps
    top = float(plain.max()) or 1.0
    for row, (label, _) in enumerate(heat.rows):
        for column, word in enumerate(chosen):
            axes = panels[row][column]
            draw_map(axes, heat, maps[row, column], top)
            if row == 0:
                axes.set_title(heat.words[word], fontsize=10)
        panels[row][0].set_ylabel(label, fontsize=10)
    heat_bar(figure, panels, top)
    figure.supxlabel(heat.note, fontsize=8.5)
    return figure


def draw_map(
    axes: "matplotlib.axes.Axes", heat: Heat, values: Float[np.ndarray, " patch"], top: float
) -> Any:
    """One map over the picture, sinks boxed."""
    from matplotlib.patches import Rectangle

    rows, columns = heat.span.grid
    left, upper, right, lower = heat.span.box or (0.0, 0.0, float(columns), float(rows))
    extent = (left, right, lower, upper)
    if heat.picture is not None:
        faded = ImageEnhance.Color(heat.picture).enhance(0.25)
        size = heat.picture.size
        axes.imshow(np.asarray(faded), extent=(0, size[0], size[1], 0))
    axes.imshow(
        values.reshape(rows, columns),
        cmap="inferno",
        vmin=0,
        vmax=top,
        alpha=0.72 if heat.picture is not None else 1.0,
        extent=extent,
        interpolation="nearest",
    )
    for patch in np.flatnonzero(heat.sinks):
        row, column = divmod(int(patch), columns)
        width, height = (right - left) / columns, (lower - upper) / rows
        corner = (left + column * width, upper + row * height)
        axes.add_patch(Rectangle(corner, width, height, fill=False, edgecolor=BOX, linewidth=1.6))
    axes.set_xticks([])
    axes.set_yticks([])


def heat_bar(figure: "matplotlib.figure.Figure", panels: np.ndarray, top: float) -> None:
    """The colour scale of the maps."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    scale = ScalarMappable(Normalize(0, top), "inferno")
    bar = figure.colorbar(scale, ax=panels, shrink=0.85, pad=0.01, extend="max")
    bar.set_label("attention to the patch (share)", fontsize=8)
    bar.ax.tick_params(labelsize=7.5)


def heat_of(maps: WordMaps) -> Heat:
    """The maps before and after an edit, ready to draw."""
    return _of_maps(maps)


def _of_maps(maps: WordMaps) -> Heat:
    edits = " | ".join(type(node).__name__ for node in maps.graph) or "no edit"
    note = f"mean over heads, {_layers(maps.layers)}; {_boxed(maps.sinks)}"
    rows = (("before", maps.before), (f"after {edits}", maps.after))
    return Heat(maps.picture, maps.span, maps.words, rows, maps.sinks, note)


def _of_run(run: Run, picture: Picture | None, tau: float | None) -> Heat:
    probe = _recorded(run, AttentionMaps)
    if probe is None or run.tokens.batch != 1:
        raise ResultError(
            "overlay needs a run of one prompt that recorded AttentionMaps: "
            "lmm.generate(image, prompt, probes.AttentionMaps())"
        )
    record = run[probe]
    span = run.tokens.images[0][0]
    known = list(record.labels("query"))
    rows = [row for row in run.answer_rows if row in known]
    labels = [run.words[0][row + 1].strip() for row in rows] if rows else ["all rows"]
    values = record.values[:, 0].float().mean(0)
    values = values[[known.index(row) for row in rows]] if rows else values.mean(0, keepdim=True)
    layers = record.labels("layer")
    sinks = _sinks(run, span, tau, layers)
    note = f"mean over heads, {_layers(layers)}; {_boxed(sinks)}"
    shown = None if picture is None else as_picture(picture)
    maps = ((run.model, values[:, : span.size].numpy()),)
    return Heat(shown, span, tuple(labels), maps, sinks, note)


def _recorded(run: Run, kind: type) -> Any:
    return next((node for node in run.graph if isinstance(node, kind)), None)


def _sinks(
    run: Run, span: ImageSpan, tau: float | None, layers: tuple[int, ...]
) -> Bool[np.ndarray, " patch"]:
    probe = _recorded(run, SinkValue)
    if probe is None or tau is None:
        return np.zeros(span.size, dtype=bool)
    record = run[probe]
    image = run.tokens.mask("image")[0].nonzero().flatten().tolist()[: span.size]
    known, blocks = list(record.labels("query")), list(record.labels("layer"))
    phi = record.values[[blocks.index(layer) for layer in layers if layer in blocks], 0]
    return (phi[:, [known.index(place) for place in image]] >= tau).any(0).numpy()


def _chosen(words: tuple[str, ...], wanted: Sequence[str] | None, most: int) -> list[int]:
    if wanted is not None:
        found = [i for i, word in enumerate(words) if word in wanted]
    else:
        telling = [word.lower() not in FUNCTION_WORDS and word.isalnum() for word in words]
        found = [i for i, good in enumerate(telling) if good][:most]
        found = found or list(range(min(most, len(words))))
    if not found:
        raise ResultError(f"none of {list(wanted or ())} is in the answer: {' '.join(words)}")
    return found


def _layers(layers: tuple[int, ...]) -> str:
    together = tuple(range(layers[0], layers[-1] + 1)) == tuple(layers)
    if len(layers) == 1:
        return f"block {layers[0]}"
    return f"blocks {layers[0]} to {layers[-1]}" if together else f"blocks {layers}"


def _boxed(sinks: Bool[np.ndarray, " patch"]) -> str:
    count = int(sinks.sum())
    return f"{count} visual sinks boxed" if count else "no visual sink here"
