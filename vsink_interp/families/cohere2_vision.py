"""Cohere2 Vision (Command A Vision): tiles, then the whole image, each ending in a line break;
attention and MLP side by side in every decoder layer.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from PIL.Image import Image

from ..tokens import ImageSpan, View
from .aya_vision import AYA_VISION
from .form import Family, tiled, whole_image

IMAGE = "<|IMG_PATCH|>"
TOKENS = {
    "image_token": IMAGE,
    "boi_token": "<|START_OF_IMG|>",
    "eoi_token": "<|END_OF_IMG|>",
    "img_line_break_token": "<|IMG_LINE_BREAK|>",
}


def canvas(size: tuple[int, int], tile: int, most: int) -> tuple[int, int]:
    """Columns and rows of the tiles of an image, as its image processor chooses them.

    The grid that enlarges the image least while it fits in, or else the one that shrinks it least;
    of equal ones that with the fewest tiles, then the narrowest. It is stated here because the
    official function cannot be imported without torchvision.

    **Arguments:**

    - `size`: height and width of the image.
    - `tile`: how many pixels wide and high a tile is.
    - `most`: the greatest number of tiles.
    """
    sides = range(1, most + 1)
    grids = [(columns, rows) for columns in sides for rows in sides if columns * rows <= most]
    grids.sort(key=lambda grid: grid[0] * grid[1])
    height, width = size

    def scale(grid: tuple[int, int]) -> float:
        return min(grid[0] * tile / width, grid[1] * tile / height)

    holding = [grid for grid in grids if scale(grid) >= 1]
    return min(holding, key=scale) if holding else max(grids, key=scale)


def broken_spans(
    config: Any, processor: Any, images: list[Image], inputs: Mapping[str, Any]
) -> tuple[ImageSpan, ...]:
    """Per image its tiles in raster order, and the whole image last if there is more than one."""
    del config, inputs
    side, settings = int(processor.patch_size), processor.image_processor
    found = []
    for image in images:
        whole = View((side, side), whole_image(image))
        tiles: tuple[View, ...] = (whole,)
        if settings.crop_to_patches:
            size = (image.height, image.width)
            columns, rows = canvas(size, settings.size["height"], settings.max_patches)
            tiles = tiled(image, rows, columns, side)
        several = len(tiles) > 1
        found.append(ImageSpan.of((*tiles, *[whole] * several), len(tiles) * several))
    return tuple(found)


def image_processor() -> Any:
    """The class of its image processor without torchvision: InternVL's with other tiles."""
    from transformers.image_utils import SizeDict
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

    class Cohere2VisionImageProcessorPil(GotOcr2ImageProcessorPil):
        size = {"height": 512, "width": 512}  # noqa: RUF012 (as its base has it)
        crop_to_patches = True
        patch_size = 16

        def crop_image_to_patches(  # ty: ignore[incompatible-method-override]  # no thumbnail to choose
            self, image: Any, min_patches: int, max_patches: int, patch_size: Any, resample: Any
        ) -> list[Any]:
            del min_patches  # the official one looks at the greatest number alone
            side = patch_size.height
            columns, rows = canvas(image.shape[-2:], side, max_patches)
            size = SizeDict(height=side * rows, width=side * columns)
            board = self.resize(image, size, resample=resample)
            tiles = [
                board[..., y : y + side, x : x + side]
                for y in range(0, side * rows, side)
                for x in range(0, side * columns, side)
            ]
            whole = [self.resize(image, patch_size, resample=resample)] if len(tiles) > 1 else []
            return [*tiles, *whole]

    return Cohere2VisionImageProcessorPil


def tiny() -> tuple[Any, Any]:
    """A tiny Cohere2 Vision with windows of eight tokens in every other layer."""
    from transformers import Cohere2VisionConfig, Cohere2VisionProcessor

    from .aya_vision import CHATBOT, END, TURN, USER
    from .tiny import TEXT, VISION, fill, tokenizer

    words = tokenizer(*TOKENS.values(), TURN, USER, CHATBOT, END, bos=True, **TOKENS)
    images = fill(image_processor(), size={"height": 56, "width": 56}, max_patches=4, patch_size=2)
    processor = fill(Cohere2VisionProcessor, images, words)
    kinds = ["sliding_attention", "full_attention"] * 2
    text = {**TEXT, "vocab_size": len(words), "layer_types": kinds, "sliding_window": 8}
    tower = {"image_size": 56, "patch_size": 14, "vision_use_head": False}
    config = fill(
        Cohere2VisionConfig,
        text_config={**text, "model_type": "cohere2"},
        vision_config={**VISION, **tower, "model_type": "siglip_vision_model"},
        image_token_id=words.image_token_id,
        alignment_intermediate_size=64,
        tie_word_embeddings=False,
    )
    return config, processor


COHERE2_VISION: Family = replace(
    AYA_VISION,
    name="Cohere2 Vision",
    model_types=("cohere2_vision",),
    spans=broken_spans,
    marker=IMAGE,
    suffix="<|IMG_LINE_BREAK|><|END_OF_IMG|>",
    tiny=tiny,
)
