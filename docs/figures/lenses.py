"""The logit lens over an image, and where a difference between two images lies."""

import vsink_interp as vi
from vsink_interp import experiments as ex, plot


def draw(lmm):
    """Words over patches after three layers."""
    lens = ex.image_lens(lmm, vi.toy.scene(3).image, "describe the image")
    return plot.image_lens(lens, layers=(1, 4, 6))
