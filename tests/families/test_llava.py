"""LLaVA: its form, and where an image token lies in the image."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tests import nodes, tiny
from vsink_interp.families.llava import clip_box, llava_spans


@pytest.mark.parametrize("size", [(42, 42), (126, 63), (63, 126), (90, 84)])
@pytest.mark.parametrize("patch", [0, 2, 4, 7])
def test_the_box_of_a_patch_is_the_square_that_the_processor_cuts(size, patch):
    """A dark rectangle drawn on the box makes that patch of the pixels the darkest."""
    image = Image.new("RGB", size, "white")
    (span,) = llava_spans(tiny.config(), tiny.processor(), [image], {})
    left, top, right, bottom = span.patch_box(patch)
    ImageDraw.Draw(image).rectangle((left, top, right - 1, bottom - 1), fill="black")
    pixels = tiny.processor().image_processor(image, return_tensors="np")["pixel_values"][0]
    squares = np.asarray(pixels).mean(0).reshape(3, 14, 3, 14).mean((1, 3)).flatten()
    assert squares.argmin() == patch
    others = np.delete(squares, patch)
    assert squares[patch] < others.min() - 0.8 * (others.max() - squares[patch])


def test_without_a_crop_the_whole_image_is_covered():
    image = Image.new("RGB", (80, 40))
    assert clip_box({"height": 42, "width": 42}, None, image) == (0, 0, 80, 40)
    assert clip_box({"shortest_edge": 42}, {"height": 42, "width": 42}, image) == (20, 0, 60, 40)


def test_taps_name_modules_of_the_model():
    model = tiny.lmm().hf_model
    family = tiny.lmm().hooked.family
    assert family.tap("blocks.{layer}.attn.hook_q", 2).module == (
        "model.language_model.layers.2.self_attn.q_proj"
    )
    for point in nodes.POINTS:
        if not point.computed:
            model.get_submodule(family.tap(point.template, 0).module)
