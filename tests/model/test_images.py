"""What counts as an image."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.image_utils import load_image

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


GREY = PIXELS[..., 0]
DEEP = np.random.default_rng(1).integers(0, 65536, (5, 7), dtype=np.uint16)


def shown(image):
    return np.asarray(as_image(image))


@pytest.mark.parametrize("turn", range(1, 9))
def test_a_photo_is_turned_as_transformers_turns_it(tmp_path, turn):
    image, exif = Image.fromarray(np.tile(PIXELS, (8, 8, 1))), Image.Exif()
    exif[0x0112] = turn
    image.save(tmp_path / "phone.png", exif=exif)
    wanted = np.asarray(load_image(str(tmp_path / "phone.png")))
    assert (wanted.shape[0] > wanted.shape[1]) == (turn >= 5)
    with Image.open(tmp_path / "phone.png") as opened:
        for source in (tmp_path / "phone.png", opened):
            assert (shown(source) == wanted).all()
            assert (shown(as_image(source)) == wanted).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB", "L"])
def test_what_is_transparent_lies_on_white(tmp_path, mode):
    image = Image.fromarray(np.full((4, 6, 4), (200, 100, 0, 0), np.uint8))
    image.putpixel((1, 1), (10, 20, 30, 255))
    image = image.convert(mode)
    if mode == "P":  # the colour of the first pixel
        image.info["transparency"] = image.getpixel((0, 0))
    image.save(tmp_path / "a.png")
    for source in (image, tmp_path / "a.png"):
        found = shown(source)
        if mode in ("RGBA", "LA", "P"):
            assert (found[0, 0] == 255).all()
            assert (found[1, 1] < 40).all()
        else:
            assert (found == np.asarray(image.convert("RGB"))).all()


def test_16_bits_and_floats_are_scaled_by_their_range(tmp_path):
    wanted = np.round(DEEP.astype(float) * 255 / 65535)
    assert 100 < wanted.mean() < 150
    Image.fromarray(DEEP).save(tmp_path / "deep.png")
    for source in (
        tmp_path / "deep.png",
        Image.fromarray(DEEP),
        Image.fromarray(DEEP.astype(np.int32)),
        DEEP[..., None],
        Image.fromarray((DEEP / 65535).astype(np.float32)),
    ):
        found = shown(source)
        assert found.shape == (5, 7, 3)
        assert np.abs(found - wanted[..., None]).max() <= (isinstance(source, Image.Image))
    assert (shown(tmp_path / "deep.png") == wanted[..., None]).all()
    assert (shown(Image.fromarray(DEEP // 300)) == np.round(DEEP // 300 / 257)[..., None]).all()
    assert not shown(np.zeros((5, 7, 3), np.uint16)).any()


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(GREY.astype(np.int32)),
        PIXELS.astype(np.uint16),
        Image.fromarray(DEEP.astype(np.int32) * 2),
        Image.fromarray(-DEEP.astype(np.int32)),
        Image.fromarray(GREY.astype(np.float32)),
        Image.fromarray(GREY * np.float32(np.nan)),
        PIXELS.astype(complex),
        PIXELS.astype(str),
    ],
)
def test_a_range_that_is_not_sure_is_refused(image):
    with pytest.raises(vi.InputError, match="holds"):
        as_image(image)


def test_bool_arrays_are_black_and_white():
    mask = PIXELS > 127
    assert (shown(mask) == mask * 255).all()
    assert (shown(torch.from_numpy(mask).permute(2, 0, 1)) == mask * 255).all()


@pytest.mark.parametrize("pixels", [PIXELS, PIXELS.transpose(1, 0, 2)])
def test_tensors_and_arrays_with_channels_first(pixels):
    first = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
    floats = first.float() / 255
    for given in (first, first.long(), floats, floats.double(), floats.requires_grad_()):
        assert (shown(given) == pixels).all()
    assert (shown(first.numpy()) == pixels).all()
    assert (shown(torch.from_numpy(pixels.copy())) == pixels).all()
    assert np.abs(shown(floats.bfloat16()) - pixels.astype(int)).max() <= 1


def test_where_both_axes_fit_arrays_have_channels_last_and_tensors_first():
    square = PIXELS[:3, :5]
    square = np.stack([square[:, 0], square[:, 1], square[:, 2]], 1)
    assert square.shape == (3, 3, 3)
    assert (shown(square) == square).all()
    assert (shown(torch.from_numpy(square.copy())) == square.transpose(1, 2, 0)).all()


def test_one_channel_is_grey_and_the_fourth_is_alpha():
    assert (shown(GREY[None]) == GREY[..., None]).all()
    assert (shown(GREY[..., None]) == GREY[..., None]).all()
    clear = np.concatenate([PIXELS, np.zeros_like(PIXELS[..., :1])], -1)
    assert (shown(clear) == 255).all()
    assert (shown(torch.from_numpy(clear).permute(2, 0, 1)) == 255).all()


@pytest.mark.parametrize(
    "image",
    [Image.new("RGB", (0, 5)), Image.new("L", (5, 0)), torch.zeros(3, 0, 5), torch.zeros(0)],
)
def test_an_empty_image_is_refused(image):
    with pytest.raises(vi.InputError, match=r"is empty|got shape"):
        as_image(image)


def test_what_pil_cannot_read_is_named(tmp_path, monkeypatch):
    whole = tmp_path / "whole.png"
    Image.fromarray(np.tile(PIXELS, (40, 40, 1))).save(whole)
    cut = tmp_path / "cut.png"
    cut.write_bytes(whole.read_bytes()[:200])
    with Image.open(cut) as half, pytest.raises(vi.InputError, match="this image cannot be read"):
        as_image(half)
    closed = Image.open(whole)
    closed.close()
    with pytest.raises(vi.InputError, match="this image cannot be read"):
        as_image(closed)
    for pixels in (50_000, 30_000):  # PIL warns of more than these, and refuses twice as many
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pixels)
        with pytest.raises(vi.InputError, match=r"cannot be read as an image.*pixels"):
            as_image(whole)


def test_a_path_that_is_none_is_refused():
    with pytest.raises(vi.InputError, match=r"cannot be read as an image: embedded null"):
        as_image("a\0b.png")
    with pytest.raises(vi.InputError, match="not fetched from the network"):
        as_image("https://example.org/a.png")
