"""A layout from a file: whole it is taken, and each part that cannot be is refused by name."""

from dataclasses import replace

import pytest
import torch

import vsink_interp as vi
from tests import tiny
from vsink_interp.tokens.checks import LARGEST, check_layout, tensor_within
from vsink_interp.tokens.segments import NAMES

LAYOUT = tiny.batch("one image", "two images").layout
LAYOUT = replace(LAYOUT, windows=(None, 3), sight="causal")
CODES, PLACES = LAYOUT.segments, LAYOUT.image_index
SPAN = LAYOUT.images[0][0]


def put(tensor, value):
    changed = tensor.clone()
    changed[0, -1] = value
    return changed


WRONG = {
    "segments: codes": [{"segments": put(CODES, -1)}, {"segments": put(CODES, len(NAMES))}],
    "segments: a tensor": [{"segments": CODES.float()}],
    "image_index: a tensor": [
        {"image_index": PLACES[:, 1:]},
        {"image_index": PLACES.float()},
        {"image_index": PLACES[0]},
    ],
    "image_index: a number beyond": [
        {"image_index": put(PLACES, 1)},
        {"image_index": put(PLACES, -2)},
    ],
    "roles: a tensor": [{"roles": LAYOUT.roles.long()}],
    "separators: a tensor": [{"separators": LAYOUT.roles[:, 1:]}],
    "turns: a tensor": [{"turns": PLACES.bool()}],
    "mark w: a tensor": [{"marks": (("w", LAYOUT.roles.long()),)}],
    "prompt_length": [{"prompt_length": n} for n in (0, CODES.shape[1] + 1, True, 2.0)],
    "images: of 1 samples": [{"images": LAYOUT.images[:1]}],
    "images: a grid": [
        {"images": ((replace(SPAN, grid=grid),), LAYOUT.images[1])}
        for grid in ((0, 3), (LARGEST, 2))
    ]
    + [{"images": (LAYOUT.images[0], (SPAN, replace(SPAN, grid=(0, 3))))}],
    "frames: of 1 samples": [{"frames": ((0,),)}],
    "frames: a number beyond": [{"frames": ((n,), (0, 1))} for n in (1, -1, 0.0)]
    + [{"frames": ((0,), (0, 2))}],
    "windows": [{"windows": (n,)} for n in (0, LARGEST + 1, True)],
    "sight": [{"sight": "backwards"}],
}


def test_a_whole_layout_is_taken():
    check_layout(LAYOUT)
    check_layout(replace(LAYOUT, turns=PLACES, separators=LAYOUT.roles, frames=((0,), (0, 1))))
    check_layout(replace(LAYOUT, turns=None, separators=None, prompt_length=1))
    one = replace(SPAN, grid=(1, 1))
    check_layout(replace(LAYOUT, images=((one,), (one, one))))
    check_layout(replace(LAYOUT, segments=put(CODES, len(NAMES) - 1)))
    check_layout(replace(LAYOUT, windows=(LARGEST, 1), marks=(("w", LAYOUT.roles),)))


@pytest.mark.parametrize(
    ("said", "parts"), [(said, parts) for said, all_ in WRONG.items() for parts in all_]
)
def test_a_part_that_does_not_belong_is_named(said, parts):
    wrong = object.__new__(vi.TokenLayout)  # as a file may have it: nothing was checked before
    wrong.__dict__.update(LAYOUT.__dict__, **parts)
    with pytest.raises(vi.LayoutError, match=said):
        check_layout(wrong)


def test_within_two_numbers():
    numbers = torch.tensor([2, 5])
    assert tensor_within(numbers, 2, 5)
    assert tensor_within(numbers[:0], 3, 1)
    assert not tensor_within(numbers, 3, 5)
    assert not tensor_within(numbers, 2, 4)
