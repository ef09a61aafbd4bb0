"""The codes of segments, and a layout in one line."""

from typing import Any

from .groups import HISTORY, SEGMENTS

PAD = 0
PAST = -2
"""The image of a frame that there is not."""
NAMES = ("pad", *SEGMENTS, HISTORY)
"""What the codes in `TokenLayout.segments` stand for."""
CODE = {name: code for code, name in enumerate(NAMES) if code}
"""The code of each segment in `TokenLayout.segments`; padding is 0."""


def line(layout: Any, sample: int) -> str:
    """One sample of a layout, as in `bos[1] system[34] image[24x24=576] query[12]`."""
    codes, index = layout.segments[sample].tolist(), layout.image_index[sample].tolist()
    runs: list[list] = []
    for key in zip(codes, index, strict=True):
        if runs and runs[-1][0] == key:
            runs[-1][1] += 1
        else:
            runs.append([key, 1])
    parts = [_run(layout.images[sample], code, image, count) for (code, image), count in runs]
    return " ".join(parts if CODE["generated"] in codes else [*parts, "generated[...]"])


def _run(images: Any, code: int, image: int, count: int) -> str:
    if image >= 0:
        span = images[image]
        return f"image[{span}={count}]" if count == span.size else f"image[{count}]"
    return f"{NAMES[code]}[{count}]"
