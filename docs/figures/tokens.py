"""The tokens of a prompt by segment, and which entries of the pattern three flows select."""

import numpy as np

import vsink_interp as vi
from vsink_interp.plot.style import COLOURS, new_figure

FLOWS = ("image -> query", "image -> query generated", "sink & image -> generated")
SEGMENTS = ("bos", "system", "image", "query", "generated")


def draw(lmm):
    """Above, the sequence; below, rows against keys, the selected entries coloured."""
    phi = vi.probes.SinkValue()
    run = lmm.generate(vi.toy.scene(3).image, "describe the image", phi, max_new_tokens=10)
    masks = {name: run.layout.mask(name)[0].numpy() for name in SEGMENTS}
    sinks = np.zeros(len(masks["bos"]), bool)
    sinks[[found.token for found in run.sinks(layer=4).topk(8)]] = True
    figure = new_figure(9, 4.0)
    grid = figure.add_gridspec(2, 3, height_ratios=(1, 5.5))
    _strip(figure.add_subplot(grid[0, :]), masks)
    for place, flow in enumerate(FLOWS):
        axes = figure.add_subplot(grid[1, place])
        _matrix(axes, masks, sinks, flow)
    return figure


def _bounds(masks):
    return {name: (np.flatnonzero(m)[0], np.flatnonzero(m)[-1] + 1) for name, m in masks.items()}


def _strip(axes, masks):
    for name, (start, end) in _bounds(masks).items():
        axes.barh(0, end - start, left=start, color=COLOURS[name], edgecolor="white")
        for token in range(start + 1, end):
            axes.axvline(token, color="white", lw=0.4)
        label = f"{name}[{end - start}]"
        raised = {"bos": 0.62, "system": 1.02}.get(name)
        axes.text(
            (start + end) / 2, raised or 0, label, ha="center", va="center", fontsize=9,
            color="black" if raised else "white",
        )  # fmt: skip
    axes.set(xlim=(0, len(masks["bos"])), ylim=(-0.42, 1.15))
    axes.axis("off")


def _matrix(axes, masks, sinks, flow):
    size = len(sinks)
    source, target = flow.split(" -> ")
    keys = masks["image"] & sinks if "sink" in source else masks[source]
    rows = np.any([masks[word] for word in target.split()], 0)
    causal = np.tri(size, dtype=bool)
    shown = np.where(causal, 0.93, 1.0)[..., None].repeat(3, -1)
    rgb = [int(COLOURS["sink" if "sink" in source else "image"][i : i + 2], 16) for i in (1, 3, 5)]
    shown[causal & rows[:, None] & keys] = np.array(rgb) / 255
    axes.imshow(shown, interpolation="nearest")
    for name, (start, end) in _bounds(masks).items():
        axes.barh(
            size + 3, end - start, left=start - 0.5, height=5, color=COLOURS[name], align="edge"
        )
        axes.bar(-9, end - start, bottom=start - 0.5, width=5, color=COLOURS[name], align="edge")
        axes.axhline(start - 0.5, color="white", lw=0.8)
        axes.axvline(start - 0.5, color="white", lw=0.8)
    axes.set(xlim=(-9.5, size), ylim=(size + 8.5, -1), xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    axes.set_title(f'"{flow}"', fontsize=9.5, family="monospace")
    axes.set_xlabel("keys: what is read", fontsize=8.5)
    axes.set_ylabel("rows: who reads", fontsize=8.5)
