"""What a word looks at and what it depends on: attention, gradient, and their product."""

import numpy as np

import vsink_interp as vi
from vsink_interp.plot.image_heat import draw_heat
from vsink_interp.plot.style import new_figure


def draw(lmm):
    """Four panels for one word of an answer."""
    image, prompt = vi.toy.scene(3).image, "what color is the circle?"
    word = lmm.generate(image, prompt, max_new_tokens=1).text.split()[0]
    of = f"logit of '{word}' at last"
    attention = vi.probes.Pattern("last", layers="2:")
    pattern = vi.probes.Gradient("attn.hook_pattern", of=of, layers="2:", rows="last")
    stream = vi.probes.Gradient("hook_resid_pre", of=of, layers=0, rows="image")
    run = lmm.run(image, prompt, attention | pattern | stream)
    read = run.of(attention, "image[0]").values.numpy()
    product = (read * run.of(pattern, "image[0]").values.numpy()).clip(min=0)
    norm = run[stream].values.norm(dim=-1)[0, 0].numpy()
    span = run.layout.images[0][0]
    figure = new_figure(9, 2.7)
    panels = figure.subplots(1, 4)
    panels[0].imshow(image)
    panels[0].set(xticks=[], yticks=[])
    panels[0].set_title(f"{prompt}\n{word}", fontsize=9.5)
    shown = {
        "attention, mean": _over_patches(read, np.mean),
        "length of the gradient\nat the image tokens": norm,
        "gradient x attention": _over_patches(product, np.sum),
    }
    for axes, (name, values) in zip(panels[1:], shown.items(), strict=True):
        draw_heat(axes, image, span, values, float(values.max()), "YlOrRd")
        axes.set_title(name, fontsize=9.5)
    return figure


def _over_patches(values, over):
    return over(values, axis=tuple(range(values.ndim - 1)))
