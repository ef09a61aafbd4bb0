"""A knockout: the pattern of text rows with and without it, and a sweep over layers."""

import numpy as np

import vsink_interp as vi
from vsink_interp import experiments as ex
from vsink_interp.plot.style import COLOURS, new_figure, tidy

FLOWS = {
    "image -> generated": COLOURS["generated"],
    "image -> query": COLOURS["query"],
    "image -> query generated": COLOURS["sink"],
}
LAYER = 4


def draw(lmm):
    """Two patterns, and object F1 against the layer from which the flow is cut."""
    image, prompt = vi.toy.scene(3).image, "describe the image"
    figure = new_figure(10, 3.2)
    panels = figure.subplots(1, 3, width_ratios=(1.25, 1.25, 1))
    pattern = vi.probes.Pattern("query generated", layers=LAYER)
    plain = lmm.generate(image, prompt, pattern, max_new_tokens=12)
    answered = lmm.encode(image, prompt).with_answer(plain)
    cut = lmm.run(answered, graph=vi.Knockout("image -> query generated", LAYER) | pattern)
    for axes, run, name in (
        (panels[0], plain, "no edit"),
        (panels[1], cut, "image -> query generated cut"),
    ):
        _pattern(axes, run, pattern)
        axes.set_title(name, fontsize=10, loc="left")
    _sweep(panels[2], lmm)
    return figure


def _pattern(axes, run, pattern):
    values = run[pattern].mean("head").values[0, 0].numpy()
    axes.imshow(np.sqrt(values), aspect="auto", cmap="YlOrRd", interpolation="nearest", vmax=0.8)
    keys = {name: np.flatnonzero(run.layout.mask(name)[0].numpy()) for name in ("image", "query")}
    for start in (keys["image"][0], keys["query"][0], keys["query"][-1] + 1):
        axes.axvline(start - 0.5, color="black", lw=0.6)
    axes.set_xticks(
        [keys["image"].mean(), keys["query"].mean() + 3], ["image keys", "text"], fontsize=8.5
    )
    axes.set_yticks([])
    axes.tick_params(length=0)
    axes.set_ylabel(f"text rows, layer {LAYER}", fontsize=8.5)


def _sweep(axes, lmm):
    layers = range(lmm.n_layers)
    found = ex.knockout_sweep(lmm, ex.Cases.scenes(12), flows=tuple(FLOWS), layers=layers)
    for flow, mean in zip(found.flows, found.mean, strict=True):
        axes.plot(found.layers, mean, marker="o", ms=3.5, label=flow, color=FLOWS[str(flow)])
    tidy(axes, "cut from layer ... on", "object F1", "12 toy scenes")
    axes.set_ylim(-0.03, 1.03)
    axes.figure.legend(loc="outside lower right", ncols=3, frameon=False, fontsize=8.5)
