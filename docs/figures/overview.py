"""The figure of the home page: an image, its sinks, two words, and what VAR moves."""

import vsink_interp as vi
from vsink_interp import experiments as ex, plot


def draw(lmm):
    """The scene, of the first sixteen, in which VAR moves the most attention for a word."""
    maps = ex.word_maps(lmm, vi.toy.scene(10).image, "describe the image")
    return plot.overview(maps.at(maps.most_changed))
