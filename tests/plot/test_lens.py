"""Words stand on their patches, bars are what was measured."""

import numpy as np
import pytest

import vsink_interp as vi
from tests.plot.test_figures import boxes, opened
from vsink_interp import experiments as ex, plot


@pytest.fixture(scope="module")
def lens(sunk):
    return ex.image_lens(sunk, vi.toy.scene(3).image, "describe the image")


def test_a_word_is_written_on_its_patch(lens):
    figure = plot.image_lens(lens, layers=[5])
    opened(figure)
    axes = figure.axes[0]
    (common, times), *_ = lens.count(5)
    assert times > 32
    assert repr(common) in axes.get_title()
    assert len(axes.texts) == len(lens.words[5]) - times > 0
    for text in axes.texts:
        column, row = (
            int(x / side * n)
            for x, side, n in zip(
                text.get_position(), lens.image.size, lens.span.grid[::-1], strict=True
            )
        )
        assert text.get_text() == lens.words[5][row * lens.span.grid[1] + column][0]


def test_a_bound_leaves_words_out(lens):
    some = plot.image_lens(lens, layers=[5], least=0.5).axes[0].texts
    every = plot.image_lens(lens, layers=[5]).axes[0].texts
    assert len(some) < len(every)


def test_blocks_that_were_not_read_are_refused(lens):
    with pytest.raises(vi.ResultError, match="read the layers"):
        plot.image_lens(lens, layers=[99])


def test_word_maps_of_the_lens(sunk):
    lens = ex.word_lens(sunk, vi.toy.scene(3).image, "describe the image", ["red", "blue"])
    figure = plot.word_lens(lens)
    opened(figure)
    assert [axes.get_ylabel() for axes in figure.axes[::6]][:2] == ["red", "blue"]


def test_bars_of_an_attribution(sunk):
    parts = ex.logit_attribution(sunk, vi.toy.scene(3).image, "describe the image")
    figure = plot.logit_attribution(parts)
    opened(figure)
    heights = [bars for bars in figure.axes[0].containers if bars.get_label() == "MLP"]
    np.testing.assert_allclose([bar.get_height() for bar in heights[0]], parts.mlp, rtol=1e-5)


def test_sinks_of_both_kinds_are_boxed(sunk):
    found = ex.vision_sinks(sunk, vi.toy.scene(0).image, "describe the image", ratio=1.3)
    figure = plot.vision_sinks(found)
    opened(figure)
    assert len(boxes(figure.axes[0])) == int(found.v_sink.sum() + found.l_sink.sum()) > 1


def test_patching_writes_the_share_that_came_back(sunk):
    asked = "what color is the circle?"
    clean, corrupted = ((vi.toy.scene(seed).image, asked) for seed in (0, 4))
    found = ex.patching(sunk, clean, corrupted, layers=(0, 4))
    figure = plot.patching(found)
    opened(figure)
    written = [text.get_text() for text in figure.axes[0].texts]
    assert written == [f"{round(share, 2) + 0.0:.2f}" for share in found.recovered.ravel()]
