"""LLaVA-NeXT (1.6): a base view of the image, then tiles of it joined into one larger grid."""

from collections.abc import Mapping
from math import ceil
from typing import Any

from PIL.Image import Image

from ..tokens import Box, ImageSpan, View
from .form import Family, whole_image


def padded_canvas(
    image: Image, pinpoints: Any, tile: int, side: int
) -> tuple[tuple[int, int], Box]:
    """The grid of the joined tiles after padding is cut off, and what it covers of the image.

    The image is resized into the best of the resolutions, centred, and cut into tiles; rows or
    columns of patches that hold nothing but padding are dropped.
    """
    from transformers.image_processing_utils import select_best_resolution

    width, height = image.size
    best = select_best_resolution((height, width), pinpoints)
    scale = min(best[1] / width, best[0] / height)
    new_width = min(ceil(width * scale), best[1])
    new_height = min(ceil(height * scale), best[0])
    rows, columns = best[0] // tile * side, best[1] // tile * side
    spare_rows = spare_columns = 0
    if width / height > columns / rows:
        spare_rows = (rows - int(round(height * (columns / width), 7))) // 2
    else:
        spare_columns = (columns - int(round(width * (rows / height), 7))) // 2
    patch = tile / side
    top, left = (best[0] - new_height) // 2, (best[1] - new_width) // 2
    across, down = width / new_width, height / new_height
    box = (
        (spare_columns * patch - left) * across,
        (spare_rows * patch - top) * down,
        ((columns - spare_columns) * patch - left) * across,
        ((rows - spare_rows) * patch - top) * down,
    )
    return (rows - 2 * spare_rows, columns - 2 * spare_columns), box


def next_spans(
    config: Any, processor: Any, images: list[Image], inputs: Mapping[str, Any]
) -> tuple[ImageSpan, ...]:
    """Per image the base view, then the joined tiles, each row of which ends in a newline."""
    del processor, inputs
    tile, patch = config.vision_config.image_size, config.vision_config.patch_size
    side = tile // patch
    found = []
    for image in images:
        base = View((side, side), whole_image(image))
        grid, box = padded_canvas(image, config.image_grid_pinpoints, tile, side)
        found.append(ImageSpan.of((base, View(grid, box, newline=True))))
    return tuple(found)


def tiny() -> tuple[Any, Any]:
    """A tiny LLaVA-NeXT with a Mistral decoder."""
    from transformers import CLIPVisionConfig, LlavaNextConfig, LlavaNextProcessor, MistralConfig
    from transformers.models.llava_next.image_processing_pil_llava_next import (
        LlavaNextImageProcessorPil,
    )

    from .tiny import TEXT, VISION, fill, tokenizer

    pinpoints = [[42, 84], [84, 42], [84, 84]]
    words = tokenizer("<image>", image_token="<image>")
    images = fill(
        LlavaNextImageProcessorPil,
        size={"shortest_edge": 42},
        crop_size={"height": 42, "width": 42},
        image_grid_pinpoints=pinpoints,
    )
    processor = fill(
        LlavaNextProcessor,
        images,
        words,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    text = fill(MistralConfig, **{**TEXT, "vocab_size": len(words), "sliding_window": None})
    vision = fill(CLIPVisionConfig, **VISION, image_size=42, patch_size=14, projection_dim=32)
    config = fill(
        LlavaNextConfig,
        text_config=text,
        vision_config=vision,
        image_token_id=4,
        image_grid_pinpoints=pinpoints,
        vision_feature_layer=-1,
        tie_word_embeddings=False,
    )
    return config, processor


LLAVA_NEXT = Family(
    name="LLaVA-NeXT",
    model_types=("llava_next",),
    decoder="model.language_model",
    vision_layers="model.vision_tower.encoder.layers",
    projector="model.multi_modal_projector",
    spans=next_spans,
    template="USER: {content} ASSISTANT:",
    role_markers=("USER:", "ASSISTANT:", "[INST]", "[/INST]"),
    tiny=tiny,
)
