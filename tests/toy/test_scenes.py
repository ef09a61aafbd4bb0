"""Scenes: the same from the same seed, with masks that are what was drawn."""

import numpy as np
import pytest

from vsink_interp.toy import scene
from vsink_interp.toy.language import COLORS, COLUMNS, ROWS
from vsink_interp.toy.scenes import PATCH, SIZE, TRAINING_SEED

SEEDS = range(30)


def test_the_same_seed_draws_the_same_scene():
    for seed in (0, 7, TRAINING_SEED):
        first, second = scene(seed=seed), scene(seed=seed)
        assert np.array_equal(np.asarray(first.image), np.asarray(second.image))
        assert np.array_equal(first.masks, second.masks)
        assert first.objects == second.objects
        assert first.questions == second.questions
    assert scene(0).caption != scene(1).caption


@pytest.mark.parametrize("seed", SEEDS)
def test_masks_are_the_drawn_objects(seed):
    one = scene(seed)
    pixels = np.asarray(one.image).astype(float)
    assert one.masks.shape == (len(one.objects), SIZE, SIZE)
    assert one.masks.sum(0).max() == 1, "objects overlap"
    for thing, mask in zip(one.objects, one.masks, strict=True):
        nearest = {
            name: np.abs(pixels[mask].mean(0) - color).sum() for name, color in COLORS.items()
        }
        assert min(nearest, key=nearest.get) == thing.color
        left, top, right, bottom = thing.box
        assert mask[top:bottom, left:right].sum() == mask.sum()
        assert mask[top, left:right].any() and mask[bottom - 1, left:right].any()
        assert mask[top:bottom, left].any() and mask[top:bottom, right - 1].any()
        rest = np.abs(pixels[top:bottom, left:right] - np.array(COLORS[thing.color])).sum(-1)
        inside = mask[top:bottom, left:right]
        if not inside.all():
            assert rest[inside].mean() < rest[~inside].mean()


@pytest.mark.parametrize("seed", SEEDS)
def test_regions_and_words_of_place(seed):
    for thing in scene(seed).objects:
        x, y = thing.centre
        assert (int(y // (SIZE / 3)), int(x // (SIZE / 3))) == (thing.row, thing.column)
        assert thing.place == f"{ROWS[thing.row]} {COLUMNS[thing.column]}"


def test_patch_masks_pool_the_masks():
    one = scene(3)
    patches = one.patch_masks(SIZE // PATCH)
    for mask, row in zip(one.masks, patches, strict=True):
        for index, hit in enumerate(row):
            y, x = divmod(index, SIZE // PATCH)
            tile = mask[y * PATCH : (y + 1) * PATCH, x * PATCH : (x + 1) * PATCH]
            assert hit == tile.any()
    assert np.array_equal(one.patch_masks((4, 2)).any(1), np.ones(len(one.objects), bool))
    with pytest.raises(ValueError, match="does not divide"):
        one.patch_masks(7)


def test_scenes_are_varied():
    many = [scene(seed) for seed in range(120)]
    assert {len(one.objects) for one in many} == {2, 3, 4, 5}
    assert len({one.background for one in many}) == 6
    assert len({thing.name for one in many for thing in one.objects}) == 40
    covered = np.mean([one.patch_masks(8).any(0).mean() for one in many])
    assert 0.05 < covered < 0.25
