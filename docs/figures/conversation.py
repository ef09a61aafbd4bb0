"""The layout of three prompts: a conversation, two images, and a video."""

import numpy as np

import vsink_interp as vi
from vsink_interp.plot.style import COLOURS, new_figure

INKS = {**COLOURS, "history": "#7b6ca8"}


def draw(lmm):
    """One strip of tokens for each prompt."""
    image, other = vi.toy.scene(3).image, vi.toy.scene(4).image
    talk = [
        {
            "role": "user",
            "content": [{"type": "image"}, {"type": "text", "text": "how many objects?"}],
        },
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "describe the image"},
    ]
    qwen = vi.LMM.tiny("Qwen2-VL")
    clip = vi.Video([image, other, image, other], size=(56**2, 56**2))
    layouts = {
        "a conversation": lmm.encode(image, talk).layout,
        "two images": lmm.encode([image, other], "describe the image").layout,
        "a video of four frames (Qwen2-VL)": qwen.encode(clip, "count").layout,
    }
    figure = new_figure(9, 2.9)
    for axes, (name, layout) in zip(figure.subplots(3, 1), layouts.items(), strict=True):
        _strip(axes, layout)
        axes.set_title(name, fontsize=9.5, loc="left")
    return figure


def _parts(layout):
    parts = {name: layout.mask(name)[0].numpy() for name in ("bos", "system", "history", "query")}
    parts["query"] &= ~parts["history"]
    count = len(layout.images[0])
    for number in range(count):
        parts[f"image[{number}]"] = layout.mask(f"image[{number}]")[0].numpy()
    return parts


def _strip(axes, layout):
    parts = _parts(layout)
    size = len(parts["bos"])
    for name, mask in parts.items():
        edges = np.flatnonzero(np.diff(np.r_[0, mask.astype(int), 0]))
        for start, end in edges.reshape(-1, 2):
            axes.barh(0, end - start, left=start, color=INKS[name.split("[")[0]], edgecolor="white")
            if end - start > size / 16:
                axes.text(
                    (start + end) / 2,
                    0,
                    name,
                    ha="center",
                    va="center",
                    color="white",
                    fontsize=8.5,
                )
    axes.set(xlim=(0, size), ylim=(-0.4, 0.4))
    axes.axis("off")
