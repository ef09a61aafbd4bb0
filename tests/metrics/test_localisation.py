"""Upsampling against torch, distances and dilation by brute force, intervals by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

import vsink_interp as vi
from vsink_interp import ImageSpan, View
from vsink_interp.metrics import Canvas, axis_weights, chance, dilated, distance_to, wilson
from vsink_interp.metrics.localisation import Z_95

seeds = st.integers(0, 2**32 - 1)
sides = st.integers(1, 17)


def brute_distance(mask, x, y):
    places = [(column, row) for row, column in np.argwhere(mask)]
    return min((math.dist((x, y), place) for place in places), default=math.inf)


def nearest_by_boxes(span, views, values, size):
    """Densities pixel by pixel, from the boxes of single tokens."""
    laid, seen = np.zeros(size[::-1]), np.zeros(size[::-1], bool)
    for token, place in enumerate(span.places):
        if place is None or place[0] not in views:
            continue
        left, top, right, bottom = span.patch_box(token)
        for y in range(size[1]):
            for x in range(size[0]):
                if left <= x + 0.5 < right and top <= y + 0.5 < bottom:
                    laid[y, x] += values[token] / ((right - left) * (bottom - top))
                    seen[y, x] = True
    return laid, seen


@settings(deadline=None)
@given(seeds, sides, sides)
def test_one_view_over_the_whole_image_is_torch_s_interpolation(seed, rows, columns):
    rng = np.random.default_rng(seed)
    size = tuple(int(s) for s in rng.integers(1, 60, 2))
    span = ImageSpan((rows, columns), (0.0, 0.0, float(size[0]), float(size[1])))
    values = rng.random(rows * columns)
    theirs = torch.nn.functional.interpolate(
        torch.from_numpy(values).reshape(1, 1, rows, columns),
        size[::-1],
        mode="bilinear",
        align_corners=False,
    )[0, 0]
    canvas = Canvas(span, size)
    np.testing.assert_allclose(canvas.lay(values), theirs, rtol=1e-6, atol=1e-9)
    assert canvas.seen.all()


@pytest.mark.parametrize("size", [(30, 21), (64, 64), (11, 50)])
def test_nearest_gives_every_pixel_its_patch(size):
    span = ImageSpan((4, 3), (-1.0, 2.0, size[0] - 2.0, size[1] + 1.0))
    values = np.random.default_rng(0).random(12)
    canvas = Canvas(span, size, "nearest")
    laid, seen = nearest_by_boxes(span, {0}, values, size)
    np.testing.assert_allclose(canvas.lay(values), laid * canvas.token_side**2)
    np.testing.assert_array_equal(canvas.seen, seen)
    assert not seen.all()


@pytest.mark.parametrize("upsample", ["bilinear", "nearest"])
def test_what_was_cropped_away_is_not_seen_and_has_no_peak(upsample):
    span = ImageSpan((3, 3), (7.0, 0.0, 63.0, 56.0))
    canvas = Canvas(span, (70, 56), upsample)
    expected = np.zeros((56, 70), bool)
    expected[:, 7:63] = True
    np.testing.assert_array_equal(canvas.seen, expected)
    assert canvas.lay(np.ones(9))[~expected].sum() == 0
    np.testing.assert_allclose(canvas.lay(np.ones(9))[expected], 1)
    # The first patch covers x from 7 to 25.7 and y from 0 to 18.7: its middle is (16.3, 9.3).
    x, y = canvas.peak(np.eye(9)[0])
    assert abs(x + 0.5 - 16.33) < 1
    assert abs(y + 0.5 - 9.33) < 1


@pytest.mark.parametrize("upsample", ["bilinear", "nearest"])
@given(seed=seeds)
@settings(deadline=None, max_examples=30)
def test_on_one_view_the_peak_is_the_middle_of_the_strongest_patch(upsample, seed):
    values = np.random.default_rng(seed).random(64)
    if upsample == "bilinear":  # no pixel lies in the middle of a patch: near ties may turn over
        values[values.argmax()] += 0.5
    span = ImageSpan((8, 8), (0.0, 0.0, 64.0, 64.0))
    row, column = divmod(int(values.argmax()), 8)
    x, y = Canvas(span, (64, 64), upsample).peak(values)
    assert abs(x + 0.5 - (8 * column + 4)) <= 0.5
    assert abs(y + 0.5 - (8 * row + 4)) <= 0.5


def test_equal_attention_has_no_peak():
    canvas = Canvas(ImageSpan((3, 3), (0.0, 0.0, 9.0, 9.0)), (9, 9))
    assert canvas.peak(np.full(9, 0.3)) is None
    assert canvas.peak(np.zeros(9)) is None
    assert canvas.peak(np.eye(9)[4]) == (4, 4)


def tiled():
    """A whole view of 2 x 2, then joined tiles of 4 x 4 whose box reaches into padding."""
    whole = View((2, 2), (0.0, 0.0, 24.0, 20.0))
    return ImageSpan.of((whole, View((4, 4), (0.0, -2.0, 24.0, 22.0), newline=True)))


def test_views_are_laid_over_one_another_as_densities():
    span, values = tiled(), np.random.default_rng(0).random(24)
    for views, numbers in (("all", {0, 1}), ("whole", {0})):
        canvas = Canvas(span, (24, 20), "nearest", views)
        laid, seen = nearest_by_boxes(span, numbers, values, (24, 20))
        np.testing.assert_allclose(canvas.lay(values), laid * canvas.token_side**2, rtol=1e-9)
        np.testing.assert_array_equal(canvas.seen, seen)
    assert canvas.token_side == pytest.approx(math.sqrt(12 * 10))


def test_the_tiles_can_decide_where_the_peak_is():
    span, values = tiled(), np.zeros(24)
    values[0] = 0.2  # the whole view's first patch
    values[4 + 5 * 3 + 3] = 0.1  # the last patch of the tiles: less attention on far less space
    assert Canvas(span, (24, 20), views="whole").peak(values)[0] < 12
    assert Canvas(span, (24, 20), views="all").peak(values)[0] > 12
    newline = np.zeros(24)
    newline[4 + 4] = 1.0  # ends the first row of tiles: no patch, so it lies nowhere
    assert Canvas(span, (24, 20)).peak(newline) is None


def test_a_place_that_is_not_known_is_refused():
    with pytest.raises(vi.LayoutError, match="not known"):
        Canvas(ImageSpan((2, 2)), (10, 10))
    half = ImageSpan.of((View((2, 2), (0.0, 0.0, 10.0, 10.0)), View((2, 2))))
    assert Canvas(half, (10, 10), views="whole").seen.all()
    with pytest.raises(vi.LayoutError, match="view 1"):
        Canvas(half, (10, 10), views="all")


masks = st.tuples(seeds, sides, sides, st.sampled_from([0.02, 0.2, 0.7]))


def drawn(seed, height, width, share):
    mask = np.random.default_rng(seed).random((height, width)) < share
    mask[seed % height, seed % width] = True
    return mask


@settings(deadline=None)
@given(masks, st.floats(0, 25), st.floats(0, 25))
def test_dilation_and_distance_by_brute_force(drawing, one, other):
    mask = drawn(*drawing)
    height, width = mask.shape
    least, most = sorted((one, other))
    for tolerance in (least, most, 1.0, math.sqrt(2), math.sqrt(13)):
        expected = [
            [brute_distance(mask, x, y) <= tolerance for x in range(width)] for y in range(height)
        ]
        np.testing.assert_array_equal(dilated(mask, tolerance), expected)
    y, x = height - 1, 0
    assert distance_to(mask, (x, y)) == pytest.approx(brute_distance(mask, x, y))
    assert (dilated(mask, least) <= dilated(mask, most)).all()
    seen = np.ones_like(mask)
    assert 0 < chance(mask, seen, least) <= chance(mask, seen, most) <= 1


def test_no_peak_is_infinitely_far():
    assert distance_to(np.ones((2, 2), bool), None) == math.inf
    assert distance_to(np.eye(3, dtype=bool), (0, 0)) == 0


def test_chance_is_the_hit_rate_of_random_pixels():
    mask, seen = np.zeros((40, 60), bool), np.zeros((40, 60), bool)
    mask[10:14, 20:26] = True
    seen[:, 10:50] = True
    rng = np.random.default_rng(0)
    points = [(int(rng.integers(10, 50)), int(rng.integers(0, 40))) for _ in range(4000)]
    hit = np.mean([distance_to(mask, point) <= 5 for point in points])
    assert chance(mask, seen, 5) == pytest.approx(hit, abs=0.02)
    assert hit > 0.1


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (3, 10), (10, 10), (73, 231)])
def test_wilson_s_bounds_are_where_the_normal_test_rejects(hits, n):
    """By definition: the shares p with (hits / n - p)^2 = z^2 p (1 - p) / n."""
    low, high = wilson(np.array([float(hits)]), n)
    for bound in (float(low[0]), float(high[0])):
        miss = (hits / n - bound) ** 2 - Z_95**2 * bound * (1 - bound) / n
        assert miss == pytest.approx(0, abs=1e-12)
    assert 0 <= low[0] < high[0] <= 1
    assert math.erf(Z_95 / math.sqrt(2)) == pytest.approx(0.95)


def test_weights_of_an_axis_sum_to_one_inside():
    for upsample in ("bilinear", "nearest"):
        weights = axis_weights(10, 2.0, 8.0, 3, upsample)
        np.testing.assert_allclose(weights.sum(1), [0, 0, 1, 1, 1, 1, 1, 1, 0, 0])


def test_unknown_words_are_refused():
    span = ImageSpan((2, 2), (0.0, 0.0, 4.0, 4.0))
    for wrong, words in (
        ({"upsample": "bicubic"}, "bilinear, nearest"),
        ({"views": "tiles"}, "all, whole"),
    ):
        with pytest.raises(vi.NotationError, match=words):
            Canvas(span, (4, 4), **wrong)
