"""What counts as an image."""

import numpy as np
import pytest
from PIL import Image

import vsink_interp as vi
from vsink_interp.model.images import as_image

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def test_arrays_keep_their_pixels():
    for array in (PIXELS, PIXELS.astype(np.int64), PIXELS / 255, (PIXELS / 255).astype(np.float32)):
        image = as_image(array)
        assert image.mode == "RGB"
        assert (np.asarray(image) == PIXELS).all()


def test_files_and_other_modes_become_rgb(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(PIXELS).save(path)
    for source in (path, str(path), Image.open(path)):
        assert (np.asarray(as_image(source)) == PIXELS).all()
    assert as_image(Image.fromarray(PIXELS).convert("L")).mode == "RGB"
    assert as_image(Image.fromarray(PIXELS).convert("RGBA")).mode == "RGB"


def test_a_corrupt_file_is_named(tmp_path):
    good = tmp_path / "good.png"
    Image.fromarray(np.tile(PIXELS, (40, 40, 1))).save(good)
    for name, content in {
        "empty.png": b"",
        "text.jpg": b"no image",
        "cut.png": good.read_bytes()[:200],
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(vi.InputError, match=f"{name}.*cannot be read as an image"):
            as_image(tmp_path / name)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(vi.InputError, match="there is no image at"):
        as_image(tmp_path / "none.png")
    with pytest.raises(vi.InputError, match="cannot be read"):
        as_image(tmp_path)


@pytest.mark.parametrize(
    "array",
    [
        PIXELS[..., 0],
        PIXELS[None],
        PIXELS[..., :2],
        PIXELS / 100,
        PIXELS / 255 - 0.5,
        PIXELS * np.nan,
        PIXELS.astype(np.int64) + 300,
        PIXELS.astype(np.int64) - 300,
        PIXELS[:0],
    ],
    ids=[
        "grey",
        "batch",
        "two channels",
        "above 1",
        "below 0",
        "nan",
        "above 255",
        "negative",
        "empty",
    ],
)
def test_an_array_that_is_no_image_is_refused(array):
    with pytest.raises(vi.InputError):
        as_image(array)
