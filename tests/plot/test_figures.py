"""What figures show is what was measured; pyplot is left alone."""

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import vsink_interp as vi
from tests import plain_process
from vsink_interp import experiments as ex, plot
from vsink_interp.plot.style import COLOURS


def opened(figure):
    """The figure as an image, with a bound on how much of it is blank."""
    image = Image.open(io.BytesIO(plot.png(figure))).convert("L")
    assert min(image.size) > 100
    assert (np.asarray(image) < 250).mean() > 0.005
    return image


def boxes(axes):
    from matplotlib.patches import Rectangle

    return [patch for patch in axes.patches if isinstance(patch, Rectangle)]


def test_overlay_boxes_the_sinks(maps):
    figure = plot.overlay(maps, most=3)
    opened(figure)
    assert maps.sinks.any()
    panels = [axes for axes in figure.axes if axes.images]
    assert len(panels) >= 3 * min(3, len(maps.words))
    sink = int(np.flatnonzero(maps.sinks)[0])
    left, top, right, bottom = maps.span.patch_box(sink)
    for axes in panels:
        if not boxes(axes):
            continue
        assert len(boxes(axes)) == maps.sinks.sum()
        assert any(
            (box.get_x(), box.get_y(), box.get_width(), box.get_height())
            == (left, top, right - left, bottom - top)
            for box in boxes(axes)
        )
    assert boxes(panels[0])


def test_overlay_of_a_run(sunk):
    image = vi.toy.scene(0).image
    graph = vi.probes.AttentionMaps(layers="2:") | vi.probes.SinkValue("image", layers="2:")
    run = sunk.generate(image, "describe the image", graph, max_new_tokens=6)
    figure = plot.overlay(run, image, tau=sunk.sinks.tau, most=2)
    opened(figure)
    phi = run[graph.nodes[1]].values
    assert len(boxes(figure.axes[0])) == int((phi >= sunk.sinks.tau).any(0).sum()) > 0
    assert not boxes(plot.overlay(run, image, most=2).axes[0])
    opened(plot.overlay(run))


def test_overlay_of_a_run_names_words_and_not_tokens(sunk):
    """Two tokens of one word share a column: the mean of their rows."""
    image, probe = vi.toy.scene(0).image, vi.probes.AttentionMaps(layers="2:")
    run = sunk.generate(image, "describe the image", probe, max_new_tokens=6)
    (first, second), rest = run.text.split()[:2], run.text.split()[2:]
    joined = replace(run, text=" ".join([first + second, *rest]))
    figure = plot.overlay(joined, image, words=[0])
    assert figure.axes[0].get_title() == first + second
    rows = run.answer_rows[:2]
    maps = run.of(probe, "image").values[:, 0]
    maps = maps[:, run[probe].places("query", rows)].mean((0, 1))
    drawn = figure.axes[0].images[-1].get_array()
    strength = (maps / maps.max()).reshape(run.layout.images[0][0].grid).numpy()
    np.testing.assert_allclose(drawn[..., 3], 0.9 * strength**0.6, atol=0.02)


def test_overlay_of_one_pass_has_one_panel(sunk):
    probe = vi.probes.AttentionMaps(rows="query")
    run = sunk.run(vi.toy.scene(0).image, "what is this?", probe)
    assert sum(bool(axes.images) for axes in plot.overlay(run).axes) == 1


def test_overlay_says_what_is_missing(sunk, maps):
    run = sunk.generate(vi.toy.scene(0).image, "describe the image", max_new_tokens=2)
    with pytest.raises(vi.ResultError, match="AttentionMaps"):
        plot.overlay(run)
    with pytest.raises(vi.ResultError, match="zebra"):
        plot.overlay(maps, words=["zebra"])
    with pytest.raises(vi.ResultError, match="zebra"):
        plot.overlay(maps, words=[0, "zebra"])
    mapped = sunk.run(vi.toy.scene(0).image, "what is this?", vi.probes.AttentionMaps("query"))
    with pytest.raises(vi.ResultError, match="SinkValue"):
        plot.overlay(mapped, tau=sunk.sinks.tau)


def test_what_a_figure_would_leave_aside_is_refused(sunk, maps):
    for given in ({"image": vi.toy.scene(0).image}, {"tau": 5.0}):
        with pytest.raises(vi.InputError, match="leave out image and tau"):
            plot.overlay(maps, **given)
    found = ex.token_strengths(sunk, vi.toy.scene(0).image, "what is this?")
    with pytest.raises(vi.InputError, match="leave values out"):
        plot.token_strengths(found, [1.0] * len(found.words))


def test_spectrum_marks_the_dimensions(sunk):
    found = ex.spectrum(sunk, vi.toy.scene(0).image, "describe the image")
    figure = plot.spectrum(found)
    opened(figure)
    assert len(figure.axes) == len(found.tokens)
    for axes, values in zip(figure.axes, found.values, strict=True):
        tops = {round(float(segment[1][1]), 4) for segment in axes.collections[0].get_segments()}
        assert round(float(values.max()), 4) in tops
        shown = {text.get_text() for text in axes.texts}
        assert {str(dim) for dim in found.dims} <= shown


def test_phi_figures(sunk, cases):
    found = ex.sink_values(sunk, cases)
    opened(plot.phi_histogram(found))
    figure = plot.phi_scatter(found)
    opened(figure)
    drawn = sum(len(points.get_offsets()) for points in figure.axes[0].collections)
    assert drawn == found.image_phi.size
    assert [line.get_xdata()[0] for line in figure.axes[0].lines] == [found.tau]


def test_segment_mass_draws_the_means(sunk, cases):
    ours, theirs = ex.segment_mass(sunk, cases), ex.three_way(sunk, cases)
    figure = plot.segment_mass(ours, theirs)
    opened(figure)
    for axes, shares in zip(figure.axes, (ours, theirs), strict=True):
        drawn = np.stack([line.get_ydata() for line in axes.lines], -1)
        np.testing.assert_allclose(drawn, shares.mean)
        for band, ends in zip(axes.collections, np.moveaxis(shares.interval, 1, 0), strict=True):
            edges = {*band.get_paths()[0].vertices[:, 1].round(6)}
            assert {*ends.ravel().round(6)} <= edges
    assert f"95 % bootstrap over {len(cases)} cases" in figure._supxlabel.get_text()
    colours = {line.get_label().split(" ")[0]: line.get_color() for line in figure.axes[0].lines}
    assert colours["image"] == COLOURS["image"]


def test_knockout_sweep_draws_the_means(sunk, cases):
    found = ex.knockout_sweep(sunk, cases, layers=(0, 4))
    figure = plot.knockout_sweep(found)
    opened(figure)
    for line, mean, flow in zip(figure.axes[0].lines, found.mean, found.flows, strict=False):
        np.testing.assert_allclose(line.get_ydata(), mean)
        assert line.get_label() == flow
    bands = [band.get_paths()[0].vertices[:, 1] for band in figure.axes[0].collections]
    for band, ends in zip(bands, found.interval, strict=True):
        np.testing.assert_allclose(
            [band.min(), band.max()], found.baseline.mean() + np.array([ends.min(), ends.max()])
        )
    written = " ".join(text.get_text() for text in figure.axes[0].texts)
    assert f"95 % paired bootstrap over {len(cases)} cases" in written


def test_heads_are_sorted(sunk, cases):
    figure = plot.heads(ex.image_heads(sunk, cases))
    opened(figure)
    heights = [bar.get_height() for bar in figure.axes[0].patches]
    assert len(heights) == sunk.n_layers * sunk.n_heads
    assert heights == sorted(heights, reverse=True)


def test_the_ratio_of_a_ranking_is_the_line_that_is_drawn(sunk, cases):
    for rho in (0.9, 0.3):
        left = plot.heads(ex.image_heads(sunk, cases, rho=rho)).axes[0]
        assert {*left.lines[0].get_ydata()} == {rho}
        assert f"rho = {rho:g}" in left.get_title()


def test_ablation_and_contributions(sunk, cases):
    hidden = ex.sink_ablation(sunk, cases)
    widths = [bar.get_width() for bar in plot.sink_ablation(hidden).axes[0].patches]
    np.testing.assert_allclose(widths, hidden.f1.mean(1))
    opened(plot.sink_ablation(hidden))
    opened(plot.contributions(ex.contributions(sunk, cases)))


def test_overview(maps):
    figure = plot.overview(maps)
    opened(figure)
    assert figure.axes[1].get_title().startswith("attention of")


def test_notebooks_show_a_figure(maps):
    assert plot.overview(maps)._repr_png_().startswith(b"\x89PNG")


def test_no_pyplot_and_nothing_at_import():
    code = """
import sys
from vsink_interp import plot
assert not {"matplotlib", "circuitsvis"} & set(sys.modules)
plot.style.new_figure(1, 1) if hasattr(plot, "style") else None
plot.png(plot.style.new_figure(1, 1))
assert "matplotlib.pyplot" not in sys.modules
"""
    done = plain_process.run(code)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def located(sunk):
    return ex.localisation(sunk, ex.ObjectMasks.scenes(3), max_new_tokens=40)


def test_localisation_draws_rates_chance_and_peaks(located):
    figure = plot.localisation(located, layer=6)
    opened(figure)
    rates, *images = figure.axes
    for line, rate in zip(rates.lines, located.rate, strict=False):
        np.testing.assert_allclose(line.get_ydata(), rate)
    assert rates.lines[-1].get_ydata()[0] == located.chance
    assert len(images) == 3
    first = [one.words for one in located.located].index(images[1].get_title())
    assert located.located[first].image.tobytes() != located.located[0].image.tobytes()
    drawn = [tuple(line.get_xydata()[0]) for line in images[1].lines]
    assert drawn == [tuple(peak) for peak in located.peaks[:, 6, first]]
    assert len(set(drawn)) == 2
    assert len(images[1].collections) == 2


def test_localisation_may_show_no_image_and_one_group_of_keys(sunk, located):
    opened(plot.localisation(located, objects=()))
    one = ex.localisation(sunk, located.located[:1], keys="image", layers=(3,))
    figure = plot.localisation(one)
    opened(figure)
    assert len(figure.axes) == 2
    with pytest.raises(vi.ResultError, match="no layer 5"):
        plot.localisation(one, layer=5)
    with pytest.raises(vi.ResultError, match="object 1"):
        plot.localisation(one, objects=(1,))
