"""Images from PIL images, paths, arrays or tensors."""

import struct
from collections.abc import Iterable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image, ImageOps

from ..errors import InputError

ImageInput: TypeAlias = Image.Image | str | Path | np.ndarray | torch.Tensor
"""A PIL image, a path, or an array or tensor of 1, 3 or 4 channels.

Arrays have their channels last and tensors first, unless that axis has another length and the other
fits. They hold 0 to 255, 0 to 1 as floats, 0 to 65535 as uint16, or bool.
"""

UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    struct.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
"""What PIL raises of files that are damaged, too large to be meant, or no images."""

VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v")
CHANNELS = (1, 3, 4)
DEEP = ("I", "F")
"""Beginnings of PIL's modes of more than 8 bits a channel."""


def as_image(image: ImageInput) -> Image.Image:
    """Convert any image to an RGB image, as transformers would show it to the model.

    It is turned as its EXIF data say, as by transformers' `load_image`, and what is transparent is
    laid onto white, as by transformers' image processors. More than 8 bits are scaled to 8.

    **Raises:** `InputError` if it is not an image, is empty, or its file cannot be read.
    """
    if isinstance(image, np.ndarray | torch.Tensor):
        return _from_array(image)
    if isinstance(image, Image.Image):
        return _readable(image, "this image")
    if not isinstance(image, str | Path):
        raise InputError(
            "an image is a PIL image, a path, an array [height width 3] or a tensor "
            f"[3 height width]; got {type(image).__name__}"
        )
    if str(image).startswith(("http://", "https://")):
        raise InputError(
            f"{str(image)!r}: images are not fetched from the network; download it, or pass what "
            "transformers.image_utils.load_image returns"
        )
    if Path(image).suffix.lower() in VIDEOS:
        raise InputError(
            f"{str(image)!r} is a video, and files of videos are not decoded here; give frames "
            "that you sampled, vi.Video([image, image, ...])"
        )
    try:
        with Image.open(image) as opened:
            return _readable(opened, repr(str(image)))
    except FileNotFoundError as error:
        raise InputError(f"there is no image at {str(image)!r}") from error
    except InputError:
        raise
    except UNREADABLE as error:
        raise InputError(f"{str(image)!r} cannot be read as an image: {error}") from error


def _readable(image: Image.Image, name: str) -> Image.Image:
    if not all(image.size):
        raise InputError(f"{name} is empty: its size is {image.width} x {image.height}")
    try:
        return _in_rgb(ImageOps.exif_transpose(image))
    except InputError:
        raise
    except UNREADABLE as error:
        raise InputError(f"{name} cannot be read as an image: {error}") from error


def _in_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(DEEP):
        pixels = np.asarray(image)
        sure = image.mode.startswith("I;16")
        return Image.fromarray(_in_8_bits(pixels, deep=True, sure=sure)).convert("RGB")
    if "A" not in image.getbands() and image.info.get("transparency") is None:
        return image.convert("RGB")
    above = image.convert("RGBA")
    white = Image.new("RGBA", above.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, above).convert("RGB")


def as_images(entry: Any) -> list[Image.Image]:
    """The images of one prompt, given as an image, a list of images, or None."""
    if entry is None:
        return []
    many = entry if isinstance(entry, list | tuple) else [entry]
    return [as_image(image) for image in many]


def digest(cases: Iterable[tuple[Sequence[Image.Image], object]]) -> str:
    """A short name for images and what is asked about them, the same in every process."""
    found = sha256()
    for images, asked in cases:
        found.update(str(asked).encode())
        for image in images:
            found.update(repr((image.mode, image.size)).encode() + image.tobytes())
    return found.hexdigest()[:16]


def _from_array(given: Any) -> Image.Image:
    tensor = isinstance(given, torch.Tensor)
    array = _as_numpy(given) if tensor else given
    axes = [0, -1] if tensor else [-1, 0]
    place = next((a for a in axes if array.ndim == 3 and array.shape[a] in CHANNELS), None)
    if place is None or not array.size:
        raise InputError(
            "an image array is [height width channels], a tensor [channels height width], with 1, "
            f"3 or 4 channels; got shape {tuple(array.shape)}"
        )
    pixels = _in_8_bits(np.moveaxis(array, place, -1), deep=array.dtype == np.uint16)
    return _in_rgb(Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels))


def _as_numpy(tensor: torch.Tensor) -> np.ndarray:
    here = tensor.detach().cpu()
    return (here.float() if here.is_floating_point() else here).numpy()


def _in_8_bits(array: np.ndarray, *, deep: bool, sure: bool = False) -> np.ndarray:
    """Pixels as uint8.

    **Arguments:**

    - `deep`: whether whole numbers are of 16 bits.
    - `sure`: whether that is known of dark ones too, which may be of 8 bits in a wide type.
    """
    if array.dtype == bool:
        return array.astype(np.uint8) * 255
    if array.dtype.kind not in "iuf":
        raise InputError(f"an image array holds numbers; got {array.dtype}")
    low, high = array.min(), array.max()
    if np.issubdtype(array.dtype, np.floating):
        if not (low >= 0 and high <= 1):  # neither holds of NaN
            raise InputError(
                f"an image of floats holds 0 to 1; got {low:.4g} to {high:.4g}. Undo a "
                "normalisation, or divide by the range"
            )
        return (array * 255).round().astype(np.uint8)
    most = 65535 if deep else 255
    if low < 0 or high > most:
        raise InputError(f"an image of whole numbers holds 0 to {most}; got {low} to {high}")
    if deep and not sure and 0 < high <= 255:
        raise InputError(
            f"an image of 16 bits that holds 0 to {high}: take .astype(numpy.uint8) if these are 8 "
            "bits, or multiply them by 257 if it is as dark as that"
        )
    return (np.rint(array / 257) if deep else array).astype(np.uint8)
