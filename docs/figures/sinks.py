"""Visual sinks: phi over the image, the spectrum that gives them away, attention and VAR."""

import numpy as np

import vsink_interp as vi
from vsink_interp import experiments as ex
from vsink_interp.plot.image_heat import draw_heat
from vsink_interp.plot.style import COLOURS, MUTED, new_figure, tidy


def draw(lmm):
    """Four panels of one toy scene."""
    image, prompt = vi.toy.scene(10).image, "describe the image"
    maps = ex.word_maps(lmm, image, prompt, graph=vi.VAR(p=0.6, rho=0.5))
    maps = maps.at(maps.most_changed)
    word = int(np.abs(maps.after - maps.before).sum(1).argmax())
    phi = vi.probes.SinkValue()
    run = lmm.run(image, prompt, phi)
    values = run.of(phi, "image").at(layer=maps.layers[0]).values[0].numpy()
    figure = new_figure(10, 2.9)
    panels = figure.subplots(1, 4, width_ratios=(1, 1.3, 1, 1))
    draw_heat(panels[0], image, maps.span, values, float(values.max()), "viridis")
    panels[0].set_title(f"phi of image tokens, layer {maps.layers[0]}", fontsize=10)
    _spectrum(panels[1], ex.spectrum(lmm, image, prompt, layer=maps.layers[0]))
    top = float(maps.before[word].max())
    for axes, heat, name in (
        (panels[2], maps.before, "attention"),
        (panels[3], maps.after, "after VAR"),
    ):
        draw_heat(axes, image, maps.span, heat[word], top, "YlOrRd")
        axes.set_title(f'{name} of "{maps.words[word]}"', fontsize=10)
    for axes in (panels[0], *panels[2:]):
        _box(axes, maps)
    return figure


def _box(axes, maps):
    from matplotlib.patches import Rectangle

    for token in np.flatnonzero(maps.sinks):
        left, top, right, bottom = maps.span.patch_box(int(token))
        place = ((left, top), right - left, bottom - top)
        axes.add_patch(Rectangle(*place, fill=False, edgecolor=COLOURS["image"], linewidth=1.8))


def _spectrum(axes, found):
    inks = {"first token": COLOURS["bos"], "visual sink": COLOURS["sink"]}
    for token, values in zip(found.tokens, found.values, strict=True):
        axes.plot(values, lw=1.2, label=token, color=inks.get(token, MUTED), alpha=0.85)
    tidy(axes, "dimension of the residual stream", "|x| / rms")
    axes.set_title(f"sink dimensions: {', '.join(map(str, found.dims))}", fontsize=10)
    axes.legend(frameon=False, fontsize=8)
