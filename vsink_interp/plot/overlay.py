"""Attention of an answer's words, drawn over the image (Kang et al. 2025, figure 1)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np
import torch
from jaxtyping import Bool, Float

from ..errors import InputError, ResultError
from ..experiments import WordMaps, spoken_words
from ..metrics import content_places
from ..model import ImageInput, as_image
from ..probes import AttentionMaps, SinkValue
from ..results import Recorded, Run
from ..tokens import ImageSpan
from .image_heat import draw_heat, extent_of, scale_bar
from .style import new_figure

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

HEAT: Final = "YlOrRd"
CHANGE: Final = "PRGn"
BOX: Final = "#0058B0"
"""The colour of boxes around sinks, which the heat map never uses."""


@final
@dataclass(frozen=True, eq=False)
class Heat:
    """Maps over one image, ready to draw: a row of panels per condition, a column per word."""

    image: Any
    span: ImageSpan
    words: tuple[str, ...]
    rows: tuple[tuple[str, Float[np.ndarray, "word patch"]], ...]
    sinks: Bool[np.ndarray, " patch"]
    note: str


def overlay(
    source: Run | WordMaps,
    image: ImageInput | None = None,
    *,
    words: Sequence[str | int] | None = None,
    most: int = 8,
    tau: float | None = None,
    number: int | None = None,
) -> "matplotlib.figure.Figure":
    """Attention of each word of an answer over the image, with sinks boxed.

    All panels share one colour scale, which ends at the largest value of a non-sink, so that sinks
    do not hide the rest; sinks may exceed it.

    ```python
    run = lmm.generate(image, "describe the image", vi.probes.AttentionMaps(), max_new_tokens=6)
    vi.plot.overlay(run, image).savefig("words.png")
    ```

    **Arguments:**

    - `source`: a run of one prompt that recorded `probes.AttentionMaps`, or what
        `experiments.word_maps` returned: then more rows show the same words after the edit, and
        what it changed.
    - `image`: drawn under the maps of a run, which does not hold its image.
    - `words`: the words to show, as text or by place (from 0); by default the first `most` that
        are no function words.
    - `tau`: box the image tokens with phi at or above it, in a run that recorded
        `probes.SinkValue`.
    - `number`: which image of the run's prompt, from 0 on; to be said where there are several.

    **Raises:** `ResultError` if the run has no maps, or not the phi that `tau` asks for, or the
    answer lacks one of the words; `InputError` for an image, tau or number beside word maps, which
    hold their own, and for a number that the prompt does not have.
    """
    if isinstance(source, Run):
        heat = _of_run(source, image, tau, number)
    elif (image, tau, number) == (None, None, None):
        heat = heat_of(source)
    else:
        raise InputError(
            "word maps hold their image and their sinks: leave out image and tau, and number"
        )
    chosen = _chosen(heat.words, words, most)
    changed = len(heat.rows) == 2
    columns, rows = len(chosen), len(heat.rows) + changed
    figure = new_figure(max(1.35 * columns, 3.2) + 0.9, 1.45 * rows + 0.55)
    panels = figure.subplots(rows, columns, squeeze=False)
    maps = np.stack([values[chosen] for _, values in heat.rows])
    top = float((maps[..., ~heat.sinks] if (~heat.sinks).any() else maps).max()) or 1.0
    for row, (label, _) in enumerate(heat.rows):
        panels[row][0].set_ylabel(label, fontsize=10)
        for axes, values in zip(panels[row], maps[row], strict=True):
            draw_map(axes, heat, values, top)
    for axes, word in zip(panels[0], chosen, strict=True):
        axes.set_title(heat.words[word], fontsize=10)
    label = "attention to the patch (share)"
    scale_bar(figure, panels[: len(heat.rows)], HEAT, 0.0, top, label, beyond=True)
    if changed:
        panels[2][0].set_ylabel("change", fontsize=10)
        _changes(figure, panels[2], heat, maps[1] - maps[0])
    figure.supxlabel(heat.note, fontsize=8.5)
    return figure


def _changes(
    figure: "matplotlib.figure.Figure",
    panels: np.ndarray,
    heat: Heat,
    change: Float[np.ndarray, "word patch"],
) -> None:
    """A row of panels for the attention that the edit added (green) and removed (purple)."""
    top = float(np.abs(change).max()) or 1.0
    for axes, values in zip(panels, change, strict=True):
        grid = values.reshape(heat.span.grid)
        axes.imshow(grid, cmap=CHANGE, vmin=-top, vmax=top, extent=extent_of(heat.span))
        _box(axes, heat, "#444444")
    scale_bar(figure, panels, CHANGE, -top, top)


def draw_map(
    axes: "matplotlib.axes.Axes", heat: Heat, values: Float[np.ndarray, " patch"], top: float
) -> None:
    """Draw one map over the image, with sinks boxed; higher values are more opaque."""
    draw_heat(axes, heat.image, heat.span, values, top, HEAT)
    _box(axes, heat, BOX)


def _box(axes: "matplotlib.axes.Axes", heat: Heat, colour: str) -> None:
    from matplotlib.patches import Rectangle

    rows, columns = heat.span.grid
    left, right, lower, upper = extent_of(heat.span)
    width, height = (right - left) / columns, (lower - upper) / rows
    for patch in np.flatnonzero(heat.sinks):
        row, column = divmod(int(patch), columns)
        corner = (left + column * width, upper + row * height)
        axes.add_patch(
            Rectangle(corner, width, height, fill=False, edgecolor=colour, linewidth=1.3)
        )
    axes.set_xticks([])
    axes.set_yticks([])


def heat_of(maps: WordMaps) -> Heat:
    """The maps before and after an edit, ready to draw."""
    edits = " | ".join(type(node).__name__ for node in maps.graph) or "no edit"
    shown = list(maps.span.tokens_of())
    note = f"mean over heads, {_layers(maps.layers)}; {_boxed(maps.sinks[shown])}"
    rows = (("before" if maps.graph else "attention", maps.before[:, shown]),)
    if maps.graph:
        rows = (*rows, (f"after {edits}", maps.after[:, shown]))
    return Heat(maps.image, _whole(maps.span), maps.words, rows, maps.sinks[shown], note)


def _whole(span: ImageSpan) -> ImageSpan:
    """The view that shows the whole image; tiles are not drawn."""
    return ImageSpan(span.grid, span.box)


def _of_run(run: Run, image: ImageInput | None, tau: float | None, number: int | None) -> Heat:
    probe = _recorded(run, AttentionMaps)
    if probe is None or run.layout.batch != 1:
        raise ResultError(
            "overlay needs a run of one prompt that recorded AttentionMaps: "
            "lmm.generate(image, prompt, probes.AttentionMaps())"
        )
    record = run[probe]
    number = _number(run, number)
    span = run.layout.images[0][number]
    labels, values = _by_word(run, run.of(record, f"image[{number}]").mean("layer"))
    layers = record.labels("layer")
    drawn = list(span.tokens_of())
    sinks = _sinks(run, number, tau, layers)[drawn]
    told = "" if tau is None else f"; {_boxed(sinks)}"
    note = f"mean over heads, {_layers(layers)}{told}"
    shown = None if image is None else as_image(image)
    maps = ((run.model, values[:, drawn].numpy()),)
    return Heat(shown, _whole(span), labels, maps, sinks, note)


def _by_word(
    run: Run, record: Recorded
) -> tuple[tuple[str, ...], Float[torch.Tensor, "word token"]]:
    """The words of the answer, and of each the mean over the rows that predict its tokens."""
    recorded = set(record.labels("query"))
    words = [
        (word.text, [row for row in (run.answer_rows[at] for at in word.rows) if row in recorded])
        for word in spoken_words(run)
    ]
    kept = [(text, rows) for text, rows in words if rows]
    values = record.values[0]
    if not kept:
        return ("all rows",), values.nanmean(0, keepdim=True)
    means = [values[record.places("query", rows)].nanmean(0) for _, rows in kept]
    return tuple(text for text, _ in kept), torch.stack(means)


def _recorded(run: Run, kind: type) -> Any:
    return next((node for node in run.graph if isinstance(node, kind)), None)


def _number(run: Run, number: int | None) -> int:
    """Which image is drawn: the only one, or one that was said."""
    count = len(run.layout.images[0])
    if number is None and count == 1:
        return 0
    if number is None or not 0 <= number < count:
        raise InputError(
            f"this prompt has {count} images: say which one is drawn, number=0 to {count - 1}"
        )
    return number


def _sinks(
    run: Run, number: int, tau: float | None, layers: tuple[int, ...]
) -> Bool[np.ndarray, " patch"]:
    probe = _recorded(run, SinkValue)
    if tau is None:
        return np.zeros(run.layout.images[0][number].size, dtype=bool)
    if probe is None:
        raise ResultError(f"tau={tau} boxes sinks by phi: record probes.SinkValue() as well")
    phi = run.of(probe, f"image[{number}]")
    shown = [layer for layer in layers if layer in phi.labels("layer")]
    return (phi.taken("layer", shown).values[:, 0] >= tau).any(0).numpy()


def _chosen(words: tuple[str, ...], wanted: Sequence[str | int] | None, most: int) -> list[int]:
    if wanted is not None:
        if lacking := [w for w in wanted if w not in words and w not in range(len(words))]:
            raise ResultError(f"{lacking} of words= is not in the answer: {' '.join(words)}")
        found = [i for i, word in enumerate(words) if word in wanted or i in wanted]
    else:
        found = content_places(words)[:most]
    if not found:
        raise ResultError(f"none of {list(wanted or ())} is in the answer: {' '.join(words)}")
    return found


def _layers(layers: tuple[int, ...]) -> str:
    together = tuple(range(layers[0], layers[-1] + 1)) == tuple(layers)
    if len(layers) == 1:
        return f"layer {layers[0]}"
    return f"layers {layers[0]} to {layers[-1]}" if together else f"layers {layers}"


def _boxed(sinks: Bool[np.ndarray, " patch"]) -> str:
    count = int(sinks.sum())
    return f"{count} visual sink{'s' * (count > 1)} boxed" if count else "no visual sink here"
