"""Check that the parts of a layout that was loaded from a file belong together."""

from typing import get_args

import torch

from ..errors import LayoutError
from .layout import TokenLayout
from .segments import NAMES
from .sight import Sight

LARGEST = 2**24
"""More patches than an image of any model has."""


def check_layout(layout: TokenLayout) -> None:
    """Refuse a layout whose parts do not belong together.

    **Raises:** `LayoutError` naming the field.
    """
    shape, integers = layout.segments.shape, (torch.int64, torch.int32, torch.int16, torch.int8)
    separators = layout.roles if layout.separators is None else layout.separators
    turns = layout.image_index if layout.turns is None else layout.turns
    for name, tensor, dtypes in (
        ("segments", layout.segments, integers),
        ("image_index", layout.image_index, integers),
        ("roles", layout.roles, (torch.bool,)),
        ("separators", separators, (torch.bool,)),
        ("turns", turns, integers),
        *((f"mark {word}", mask, (torch.bool,)) for word, mask in layout.marks),
    ):
        if tensor.ndim != 2 or tensor.shape != shape or tensor.dtype not in dtypes:
            raise LayoutError(
                f"{name}: a tensor {tuple(tensor.shape)} of {tensor.dtype}, where segments are "
                f"{tuple(shape)}"
            )
    if not tensor_within(layout.segments, 0, len(NAMES) - 1):
        raise LayoutError(f"segments: codes are 0 to {len(NAMES) - 1}")
    length = layout.prompt_length
    if not isinstance(length, int) or isinstance(length, bool) or not 1 <= length <= shape[1]:
        raise LayoutError(f"prompt_length: {length!r}, of {shape[1]} tokens")
    _check_images(layout)
    _check_windows(layout.windows)
    if layout.sight not in get_args(Sight):
        raise LayoutError(f"sight: {layout.sight!r} is none of {', '.join(get_args(Sight))}")


def _check_images(layout: TokenLayout) -> None:
    shape = layout.segments.shape
    if len(layout.images) != shape[0]:
        raise LayoutError(f"images: of {len(layout.images)} samples, where there are {shape[0]}")
    for row, images in zip(layout.image_index, layout.images, strict=True):
        if not tensor_within(row, -1, len(images) - 1):
            raise LayoutError(
                f"image_index: a number beyond the {len(images)} images of its prompt"
            )
        if any(not 0 < span.size <= LARGEST for span in images):
            raise LayoutError("images: a grid without patches, or with more than an image has")
    if layout.frames and len(layout.frames) != shape[0]:
        raise LayoutError(f"frames: of {len(layout.frames)} samples, where there are {shape[0]}")
    for frames, images in zip(layout.frames, layout.images, strict=False):
        if any(type(frame) is not int or not 0 <= frame < len(images) for frame in frames):
            raise LayoutError(f"frames: a number beyond the {len(images)} images of its prompt")


def _check_windows(windows: tuple[int | None, ...]) -> None:
    for window in windows:
        if window is not None and (type(window) is not int or not 0 < window <= LARGEST):
            raise LayoutError(f"windows: {window!r} is neither a number of tokens nor None")


def tensor_within(tensor: torch.Tensor, least: int, most: int) -> bool:
    """Whether all numbers lie between two; so it is where there are none."""
    return not tensor.numel() or bool(tensor.min() >= least and tensor.max() <= most)
