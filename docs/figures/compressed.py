"""A compressed context: which image tokens the layers keep, and what is still answered."""

import vsink_interp as vi
from vsink_interp.plot.image_heat import draw_heat
from vsink_interp.plot.style import new_figure

KEEPS = (0.05, 0.1, 0.2)
QUESTION = "what color is the circle?"


def draw(lmm):
    """The image, and for three sizes the share of layers that keep a patch."""
    image, prompt = vi.toy.scene(20005).image, "describe the image"
    encoding = lmm.encode(image, prompt)
    span = encoding.layout.images[0][0]
    specs = [vi.CompressedContext(keep=keep) for keep in KEEPS]
    figure = new_figure(9, 2.9)
    panels = figure.subplots(1, 1 + len(KEEPS))
    panels[0].imshow(image)
    panels[0].set(xticks=[], yticks=[])
    panels[0].set_title(f'"{QUESTION}"', fontsize=9.5)
    panels[0].set_xlabel(
        f"whole prompt, 72 tokens:\n{lmm.generate(image, QUESTION).text}", fontsize=9.5
    )
    for axes, keep, context in zip(
        panels[1:], KEEPS, lmm.compress(encoding, None, specs), strict=True
    ):
        share = context.kept_patches.float().mean(0).numpy()
        draw_heat(axes, image, span, share, 1.0, "YlOrRd")
        axes.set_title(f"{keep:.0%} of the image tokens kept", fontsize=9.5)
        axes.set_xlabel(
            f"{context.tokens_kept.total:g} tokens:\n{context.ask(QUESTION).text}", fontsize=9.5
        )
    return figure
