"""Figures about sinks: spectrum, phi, attention, ablation (Kang et al. 2025, fig. 2 and 3)."""

from typing import TYPE_CHECKING, Any

import numpy as np

from ..experiments import Contributions, SinkAblation, SinkValues, Spectrum
from .style import COLOURS, MUTED, NAMES, bootstrap, new_figure, tidy

if TYPE_CHECKING:
    import matplotlib.figure

_TOKEN_COLOURS = {
    "first token": COLOURS["bos"],
    "visual sink": COLOURS["sink"],
    "other image token": COLOURS["image"],
}


def spectrum(found: Spectrum) -> "matplotlib.figure.Figure":
    """The absolute RMS-normalised residual by dimension, sink dimensions marked (fig. 2).

    ```python
    vi.plot.spectrum(ex.spectrum(lmm, image, prompt, layer=3))
    ```
    """
    count = len(found.tokens)
    figure = new_figure(3.1 * count, 2.6)
    panels = figure.subplots(1, count, sharey=True, squeeze=False)[0]
    for axes, label, position, values in zip(
        panels, found.tokens, found.positions, found.values, strict=True
    ):
        colour = _TOKEN_COLOURS[label]
        axes.vlines(np.arange(len(values)), 0, values, color=colour, linewidth=1.1)
        for dim in found.dims:
            axes.annotate(
                str(dim), (dim, values[dim]), (0, 4), textcoords="offset points", ha="center",
                fontsize=8, color=colour,
            )  # fmt: skip
        axes.axhline(found.tau, color=MUTED, linestyle="--", linewidth=0.9)
        tidy(axes, "dimension", "", f"{label} (position {position})")
        axes.margins(y=0.12)
    panels[0].set_ylabel("|x| / rms(x)")
    panels[-1].annotate(
        f"tau = {found.tau:.2f}", (1, found.tau), (-2, 3), xycoords=("axes fraction", "data"),
        textcoords="offset points", ha="right", fontsize=8, color=MUTED,
    )  # fmt: skip
    return figure


def phi_histogram(found: SinkValues) -> "matplotlib.figure.Figure":
    """How phi is distributed, by kind of token, with the threshold (fig. 3a, x axis).

    ```python
    found = ex.sink_values(lmm, cases, layers=[3])
    vi.plot.phi_histogram(found), vi.plot.phi_scatter(found)
    ```
    """
    figure = new_figure(7.2, 2.9)
    axes = figure.subplots()
    groups = ("image", "query", "generated", "system", "bos")
    values = [found.of(name).ravel() for name in groups]
    kept = [(name, v) for name, v in zip(groups, values, strict=True) if v.size]
    top = max(float(v.max()) for _, v in kept)
    bins = np.linspace(0, top * 1.02, 61)
    for name, found_values in kept:
        shape: dict[str, Any] = {"bins": list(bins), "color": COLOURS[name]}
        axes.hist(found_values, histtype="stepfilled", alpha=0.25, **shape)
        axes.hist(found_values, histtype="step", label=NAMES.get(name, name), **shape)
    axes.set_yscale("log")
    axes.axvline(found.tau, color="black", linestyle="--", linewidth=1.1)
    axes.annotate(
        f"tau = {found.tau:.2f}", (found.tau, 1), (4, -10), xycoords=("data", "axes fraction"),
        textcoords="offset points", fontsize=9,
    )  # fmt: skip
    tidy(axes, "sink value phi", "tokens x layers (log)")
    axes.legend(
        fontsize=8, frameon=False, ncols=len(kept), loc="lower right", bbox_to_anchor=(1, 1)
    )
    return figure


def phi_scatter(found: SinkValues) -> "matplotlib.figure.Figure":
    """phi of image tokens against the attention that they get (fig. 3a).

    ```py
    vi.plot.phi_scatter(ex.sink_values(lmm, cases, layers=[3]))
    ```
    """
    figure = new_figure(6.4, 3.6)
    axes = figure.subplots()
    phi, attention = found.image_phi.ravel(), found.attention.ravel()
    sink = phi >= found.tau
    for mask, name in ((~sink, "image & ~sink"), (sink, "sink & image")):
        colour = COLOURS["sink" if name.startswith("sink") else "image"]
        label = f"{NAMES[name]} ({int(mask.sum()):,})"
        # Drawn as pixels: tens of thousands of points would swell a vector file.
        axes.scatter(
            phi[mask], attention[mask], s=7, alpha=0.35, color=colour, linewidths=0, label=label,
            rasterized=True,
        )  # fmt: skip
    axes.set_yscale("log")
    axes.axvline(found.tau, color="black", linestyle="--", linewidth=1.1)
    tidy(axes, "sink value phi of the image token", "attention it gets (share, log)")
    axes.legend(
        fontsize=8.5,
        frameon=False,
        markerscale=2,
        loc="lower right",
        bbox_to_anchor=(1, 1),
        ncols=2,
    )
    return figure


def sink_ablation(found: SinkAblation) -> "matplotlib.figure.Figure":
    """Object F1 with nothing, sinks, or as many random image tokens hidden (fig. 3b).

    ```py
    vi.plot.sink_ablation(ex.sink_ablation(lmm, cases))
    ```
    """
    figure = new_figure(6.4, 2.5)
    axes = figure.subplots()
    mean, ends = found.mean, found.interval
    whiskers = np.nan_to_num(np.abs(ends - mean[:, None])).T
    colours = [MUTED, COLOURS["sink"], COLOURS["image"], COLOURS["image"]]
    place = np.arange(len(found.arms))[::-1]
    axes.barh(place, mean, xerr=whiskers, color=colours[: len(mean)], height=0.62)
    for y, value, above in zip(place, mean, whiskers[1], strict=True):
        axes.annotate(
            f"{value:.3f}", (value + above, y), (5, 0), textcoords="offset points", va="center",
            fontsize=8.5,
        )  # fmt: skip
    axes.set_yticks(place, found.arms)
    axes.set_xlim(0, 1.12)
    draws = f"{found.draws} draw{'s' * (found.draws > 1)} a case"
    spread = f"{bootstrap(found.f1.shape[1])}, {draws}".lstrip(", ")
    if found.left_out:
        spread += f"; {len(found.left_out)} left out: more sinks than other image tokens"
    tidy(axes, f"object F1 against {found.reference}\n{spread}", "")
    axes.set_ylabel("hidden from the text", fontsize=9)
    return figure


def contributions(found: Contributions) -> "matplotlib.figure.Figure":
    """Attention to, and contribution of, visual sinks and other image tokens (fig. 3c).

    ```py
    vi.plot.contributions(ex.contributions(lmm, cases))
    ```
    """
    figure = new_figure(6.4, 2.3)
    panels = figure.subplots(1, 2)
    titles = ("attention per token (share)", "contribution per token (norm)")
    for axes, values, title in zip(panels, (found.attention, found.norm), titles, strict=True):
        bars = axes.bar(
            ["visual sinks", "other image\ntokens"],
            np.nan_to_num(values),
            color=[COLOURS["sink"], COLOURS["image"]],
            width=0.6,
        )
        axes.bar_label(bars, [f"{v:.3g}" for v in values], fontsize=8.5, padding=2)
        tidy(axes, "", "", title)
        axes.margins(y=0.2)
    return figure
