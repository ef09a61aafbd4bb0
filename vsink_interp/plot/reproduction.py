"""Figures of reproductions: bars, curves, grids, maps, drawn from rows and named in words."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ..reproduction import Entry, Measurements, Summary, find
from ..reproduction.outcomes import telling_scores
from .style import COLOURS, GROUP_COLOURS, MUTED, NAMES, new_figure, tidy

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure
    import matplotlib.lines

CYCLE: Final = (
    COLOURS["image"], COLOURS["sink"], COLOURS["generated"], COLOURS["query"], COLOURS["system"],
    MUTED, "#56B4E9", "#000000",
)  # fmt: skip
FIXED: Final = {
    "visual sinks": COLOURS["sink"],
    "visual sink": COLOURS["sink"],
    "other image tokens": COLOURS["image"],
    "other image token": COLOURS["image"],
    "random image tokens": COLOURS["image"],
    "nothing": MUTED,
    "off": MUTED,
    "chance": MUTED,
    "first token": COLOURS["bos"],
    **GROUP_COLOURS,
}
"""Labels that have one colour in every figure."""
MOST_PANELS: Final = 6
MOST_LINES: Final = 3
"""With more lines the first are thicker, so that one beneath another still shows."""
ACROSS: Final = 3
"""The most panels of bars side by side."""


def reproduction(found: Measurements) -> "matplotlib.figure.Figure":
    """The figure of a reproduction, as its entry says; bands and whiskers are named in it.

    ```py
    vi.plot.reproduction(vi.reproduce("A.fig3b", lmm, quick=True)).savefig("fig3b.png")
    ```
    """
    entry = find(found.name)
    shown = found if entry.drawn is None else entry.drawn(found)
    return _KINDS[entry.figure](entry, shown)


def _bars(entry: Entry, found: Measurements) -> "matplotlib.figure.Figure":
    x, hue, panel = _axes(entry)
    found = telling_scores(found)
    panels = found.labels(panel)[:MOST_PANELS] if panel else (None,)
    parts = [found if label is None else found.where(**{str(panel): label}) for label in panels]
    hues = found.labels(hue) if hue and hue != x else ("",)
    bars = max(len(part.labels(x)) for part in parts)
    across = min(len(parts), ACROSS)
    down = -(-len(parts) // across)
    height = 0.6 + (0.5 + 0.26 * bars * max(1, len(hues))) * down
    figure = new_figure(3.0 + 2.9 * across, height)
    drawn = figure.subplots(down, across, squeeze=False).ravel()
    for axes in drawn[len(parts) :]:
        axes.set_axis_off()
    for number, (label, part) in enumerate(zip(panels, parts, strict=True)):
        axes = drawn[number]
        _bar_panel(axes, part, x, hue if hue != x else None, hues)
        tidy(axes, entry.unit if label is None else str(label), "")
        if number % across:
            axes.set_yticklabels([])
    if hues != ("",):
        drawn[0].legend(
            fontsize=8, frameon=False, loc="lower right", bbox_to_anchor=(1, 1), ncols=3
        )
    return _told(figure, found)


def _bar_panel(
    axes: "matplotlib.axes.Axes",
    part: Measurements,
    x: str,
    hue: str | None,
    hues: Sequence[Any],
) -> None:
    names = part.labels(x)
    width = 0.8 / len(hues)
    for i, label in enumerate(hues):
        # What has no label of the kind, as an answer that nothing is cut from, has one bar.
        kept = [r for r in part.rows if hue is None or r.get(hue, hues[0]) == label]
        some = replace(part, rows=tuple(kept))
        values = {one.group[x]: one for one in some.summary([x])}
        places = [n + 0.4 - width * (i + 0.5) for n in range(len(names))[::-1]]
        bars = [(y, values[name]) for y, name in zip(places, names, strict=True) if name in values]
        means = [one.mean for _, one in bars]
        colours = [_colour(one.group[x], names) for _, one in bars]
        axes.barh(
            [y for y, _ in bars],
            means,
            height=width * 0.9,
            xerr=_whiskers([one for _, one in bars]),
            error_kw={"linewidth": 1, "capsize": 2},
            color=_colour(label, hues) if hue else colours,
            label=str(label) or None,
        )
        for y, one in bars:
            end = one.mean if np.isnan(one.high) else max(one.high, one.mean)
            axes.annotate(
                _number(one.mean), (end, y), (4, 0), textcoords="offset points", va="center",
                fontsize=7.5,
            )  # fmt: skip
    axes.set_yticks(range(len(names))[::-1], [_wrapped(NAMES.get(name, name)) for name in names])
    axes.margins(x=0.18)


def _curves(entry: Entry, found: Measurements) -> "matplotlib.figure.Figure":
    x, hue, panel = _axes(entry)
    panels = found.labels(panel)[:MOST_PANELS] if panel else (None,)
    figure = new_figure(3.2 + 3.4 * len(panels), 3.4)
    drawn = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    hues = found.labels(str(hue))
    thick = np.linspace(*((3.6, 1.2) if len(hues) > MOST_LINES else (1.5, 1.5)), len(hues))
    for axes, label in zip(drawn, panels, strict=True):
        part = found if label is None else found.where(**{str(panel): label})
        for name in part.labels(str(hue)):
            some = part.where(**{str(hue): name})
            line = some.summary([x])
            if line:
                (curve,) = _line(axes, x, line, _said(str(hue), name), _colour(name, hues))
                curve.set_linewidth(thick[hues.index(name)])
            elif len(found.labels(x)) > 1:
                level = some.mean()
                axes.axhline(level, color=_colour(name, hues), linestyle="--", linewidth=1)
                axes.annotate(
                    f"{name} {_number(level)}", (0.01, level), (0, 3), fontsize=8, color=MUTED,
                    xycoords=("axes fraction", "data"), textcoords="offset points",
                )  # fmt: skip
        tidy(axes, x, "", "" if label is None else f"{panel} {label}")
    drawn[0].set_ylabel(entry.unit)
    handles, labels = drawn[0].get_legend_handles_labels()
    across = 5 if max(map(len, labels), default=0) < 12 else 4
    place = "outside upper right"
    figure.legend(handles, labels, fontsize=8, frameon=False, loc=place, ncols=across)
    return _told(figure, found)


def _said(factor: str, label: Any) -> str:
    """A label in a legend: words as they are, numbers with what they number."""
    return NAMES.get(label, label) if isinstance(label, str) else f"{factor} {label:g}"


def _line(
    axes: "matplotlib.axes.Axes", x: str, line: Sequence[Summary], name: str, colour: str
) -> "list[matplotlib.lines.Line2D]":
    line = sorted(line, key=lambda one: one.group[x])
    at = [one.group[x] for one in line]
    marker = "o" if len(line) <= 40 else ""
    means = [one.mean for one in line]
    ends = np.array([(one.low, one.high) for one in line])
    axes.fill_between(at, ends[:, 0], ends[:, 1], color=colour, alpha=0.15, linewidth=0)
    return axes.plot(at, means, color=colour, marker=marker, markersize=4, label=name)


def _grid(entry: Entry, found: Measurements) -> "matplotlib.figure.Figure":
    x, y, _ = _axes(entry)
    scores = telling_scores(found)
    metric = next(m for m in ("f1", "score", "accuracy") if m in scores.labels("metric"))
    part = scores.where(metric=metric, tau="own")
    xs, ys = part.labels(x), part.labels(str(y))
    values = np.array([[part.mean(**{x: a, str(y): b}) for a in xs] for b in ys])
    off = scores.where(arm="off", metric=metric).mean()
    figure = new_figure(1.6 + 1.1 * len(xs), 1.4 + 0.7 * len(ys))
    axes = figure.subplots()
    top = max(float(np.abs(values - off).max()), 1e-3)
    shown = axes.imshow(values - off, cmap="PRGn", vmin=-top, vmax=top, origin="lower")
    for (i, j), value in np.ndenumerate(values):
        axes.text(j, i, f"{value:.3f}", ha="center", va="center", fontsize=8)
    axes.set_xticks(range(len(xs)), [f"{a:g}" for a in xs])
    axes.set_yticks(range(len(ys)), [f"{b:g}" for b in ys])
    tidy(axes, x, str(y), f"{metric}; off {off:.3f}")
    figure.colorbar(shown, ax=axes, label="difference from off", shrink=0.8)
    return _captioned(figure, found, "")


def _maps(entry: Entry, found: Measurements) -> "matplotlib.figure.Figure":
    from matplotlib import colormaps

    column, row, _ = _axes(entry)
    case = found.where(case=0)
    columns = case.labels(column)
    rows = case.labels(row) if row else (None,)
    across = len(columns) if row else min(6, len(columns))
    down = len(rows) if row else -(-len(columns) // across)
    figure = new_figure(1.5 * across + 0.9, 1.65 * down + 0.4)
    panels = figure.subplots(down, across, squeeze=False)
    places = [(r, c) for r in rows for c in columns]
    plain = [r["value"] for r in case.rows if not r.get("sink")] or [r["value"] for r in case.rows]
    top = float(np.nanmax(plain)) or 1.0
    for axes in panels.ravel():
        axes.set_axis_off()
    for axes, (r, c) in zip(panels.ravel(), places, strict=False):
        group = {column: c} | ({row: r} if row else {})
        _map(axes, found, [one for one in case.rows if group.items() <= one.items()], top)
        title = str(c).split(": ")[-1] if row else f"{column} {c}"
        axes.set_title(title if r in (None, rows[0]) else "", fontsize=9)
    for axes, r in zip(panels[:, 0], rows, strict=False):
        if r is not None:
            label = str(r) if isinstance(r, str) else f"{row} {r}"
            axes.annotate(
                label, (-0.06, 0.5), xycoords="axes fraction", rotation=90, va="center",
                ha="right", fontsize=9,
            )  # fmt: skip
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    scale = ScalarMappable(Normalize(0, top), colormaps["YlOrRd"])
    bar = figure.colorbar(scale, ax=panels, shrink=0.8, pad=0.01, extend="max")
    bar.set_label(entry.unit, fontsize=8)
    boxed = any(one.get("sink") for one in case.rows)
    return _captioned(figure, found, "one image" + "; boxed: visual sinks" * boxed)


def _map(
    axes: "matplotlib.axes.Axes", found: Measurements, rows: Sequence[Mapping[str, Any]], top: float
) -> None:
    from matplotlib import colormaps
    from matplotlib.collections import PolyCollection

    image = found.images.get(0)
    if image is not None:
        faded = np.asarray(image.convert("RGB"), dtype=float) / 255
        axes.imshow(0.5 + 0.5 * faded, extent=(0, 1, 1, 0))
        axes.set_aspect(image.height / image.width)
    # One artist for all patches: thousands take matplotlib seconds.
    shares = np.clip([one["value"] / top for one in rows], 0, 1)
    colours = colormaps["YlOrRd"](shares)
    colours[:, 3] = 0.9 * shares**0.6
    patches = [_corners(one) for one in rows]
    sinks = [_corners(one) for one in rows if one.get("sink")]
    axes.add_collection(PolyCollection(patches, facecolors=colours, edgecolors="none"))
    axes.add_collection(
        PolyCollection(sinks, facecolors="none", edgecolors="#0058B0", linewidths=1.1)
    )
    axes.set_xlim(0, 1)
    axes.set_ylim(1, 0)


def _corners(patch: Mapping[str, Any]) -> list[tuple[float, float]]:
    left, top, right, bottom = (patch[side] for side in ("left", "top", "right", "bottom"))
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def _scatter(entry: Entry, found: Measurements) -> "matplotlib.figure.Figure":
    x, hue, _ = _axes(entry)
    figure = new_figure(6.4, 3.6)
    axes = figure.subplots()
    for name in sorted(found.labels(str(hue))):
        rows = found.where(**{str(hue): name}).rows
        axes.scatter(
            [r[x] for r in rows], [r["value"] for r in rows], s=8, alpha=0.4, linewidths=0,
            color=_colour(name, ()), label=f"{name} ({len(rows):,})", rasterized=True,
        )  # fmt: skip
    axes.set_yscale("log")
    tidy(axes, x, entry.unit)
    place = {"loc": "lower right", "bbox_to_anchor": (1, 1), "markerscale": 2}
    axes.legend(fontsize=8.5, frameon=False, ncols=2, **place)
    return _captioned(figure, found, _over(found))


def _spectrum(entry: Entry, found: Measurements) -> "matplotlib.figure.Figure":
    x, panel, _ = _axes(entry)
    layers, tokens = found.labels("layer"), found.labels(str(panel))
    figure = new_figure(3.1 * len(tokens), 1.0 + 1.8 * len(layers))
    panels = figure.subplots(len(layers), len(tokens), sharey=True, squeeze=False)
    for line, layer in zip(panels, layers, strict=True):
        for axes, token in zip(line, tokens, strict=True):
            part = found.where(layer=layer, **{str(panel): token}).summary([x, "sink"])
            colour = _colour(token, ())
            axes.vlines([s.group[x] for s in part], 0, [s.mean for s in part], color=colour)
            for one in part:
                if one.group["sink"]:
                    axes.annotate(
                        str(one.group[x]), (one.group[x], one.mean), (0, 3), ha="center",
                        textcoords="offset points", fontsize=8, color=colour,
                    )  # fmt: skip
            tidy(axes, "dimension" if line is panels[-1] else "", "", f"{token}, layer {layer}")
            axes.margins(y=0.15)
            axes.set_ylim(bottom=0)
        line[0].set_ylabel(entry.unit)
    return _captioned(figure, found, f"mean {_over(found)}; numbers: the sink dimensions")


def _sorted(entry: Entry, found: Measurements) -> "matplotlib.figure.Figure":
    x, y, _ = _axes(entry)
    part = found.where(quantity="ratio")
    both = x, str(y)
    means = {tuple(s.group[n] for n in both): s.mean for s in part.summary(both)}
    rows = found.where(quantity="image-centric").summary(both)
    chosen = {tuple(s.group[n] for n in both): s.mean for s in rows}
    order = sorted(means, key=lambda place: -means[place])
    figure = new_figure(9.6, 3.2)
    left, right = figure.subplots(1, 2, width_ratios=(1.7, 1))
    from matplotlib import colormaps

    colours = [colormaps["Blues"](0.2 + 0.8 * chosen.get(place, 0.0)) for place in order]
    left.bar(range(len(order)), [means[place] for place in order], color=colours, width=0.9)
    tidy(left, "heads, sorted", entry.unit, "darker: image-centric on more rows")
    layers, heads = part.labels(x), sorted(part.labels(str(y)))
    values = np.array([[means.get((a, b), np.nan) for b in heads] for a in layers])
    shown = right.imshow(values, cmap="viridis", vmin=0, vmax=1, aspect="auto", origin="lower")
    step = max(1, -(-len(layers) // 12))
    right.set_yticks(range(0, len(layers), step), [str(at) for at in layers[::step]])
    right.set_xticks(range(0, len(heads), max(1, -(-len(heads) // 12))))
    tidy(right, str(y), x)
    figure.colorbar(shown, ax=right, label="r (mean)")
    return _captioned(figure, found, f"mean over text rows, {_over(found)}")


def _axes(entry: Entry) -> tuple[str, str | None, str | None]:
    x, hue, panel = (*entry.axes, None, None)[:3]
    assert x is not None  # noqa: S101 (every entry with a figure names its x axis)
    return x, hue, panel


def _colour(label: Any, labels: Sequence[Any]) -> str:
    """Its fixed colour, unless an earlier label has it; else one that no other label has."""
    fixed: dict[str, Any] = {}
    for one in [*labels, label]:
        if str(one) in FIXED:
            fixed.setdefault(FIXED[str(one)], one)
    if fixed.get(FIXED.get(str(label), "")) == label:
        return FIXED[str(label)]
    free = [colour for colour in CYCLE if colour not in fixed] or list(CYCLE)
    others = [one for one in labels if one not in fixed.values()]
    return free[others.index(label) % len(free) if label in others else 0]


def _whiskers(found: Sequence[Summary]) -> np.ndarray | None:
    ends = np.array([(one.mean - one.low, one.high - one.mean) for one in found]).T
    return None if ends.size == 0 or np.isnan(ends).all() else np.nan_to_num(ends).clip(0)


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _wrapped(name: Any) -> str:
    words, lines = str(name).split(" "), [""]
    for word in words:
        if len(lines[-1]) + len(word) > 24:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)


def _told(figure: "matplotlib.figure.Figure", found: Measurements) -> "matplotlib.figure.Figure":
    """Say what its whiskers or bands are."""
    benchmark = "arm" in found.factors and "of" in found.factors
    what = "difference from off: 95 % paired bootstrap over images"
    return _captioned(figure, found, what if benchmark else f"95 % bootstrap {_over(found)}")


def _over(found: Measurements) -> str:
    count = len({row["case"] for row in found.rows if "case" in row})
    return f"over {count} case{'s' * (count > 1)}"


def _captioned(
    figure: "matplotlib.figure.Figure", found: Measurements, spread: str
) -> "matplotlib.figure.Figure":
    """Say under the figure what was measured, and what its whiskers or bands are."""
    about = ", ".join(str(found.about[n]) for n in ("model", "data") if found.about.get(n))
    told = " · ".join(part for part in (found.name, about, spread) if part)
    figure.supxlabel(told, fontsize=7.5, color=MUTED)
    return figure


_KINDS: Final[Mapping[str, Callable[[Entry, Measurements], "matplotlib.figure.Figure"]]] = {
    "bars": _bars,
    "curves": _curves,
    "grid": _grid,
    "maps": _maps,
    "scatter": _scatter,
    "spectrum": _spectrum,
    "sorted": _sorted,
}
