"""InternVL 2.5, 3 and 3.5 in transformers' own classes: tiles, then a thumbnail of it all."""

from collections.abc import Mapping
from typing import Any

from PIL.Image import Image

from ..tokens import ImageSpan, View
from .form import STREAM_LAYER, Family, Tap, tiled, whole_image

WHY = "it is scaled after its module, so no module holds what it adds"


def canvas_spans(
    config: Any, processor: Any, images: list[Image], inputs: Mapping[str, Any]
) -> tuple[ImageSpan, ...]:
    """Per image its tiles in raster order, and a thumbnail last if there is more than one."""
    del inputs
    side = round(processor.image_seq_length**0.5)
    return tile_spans(side, processor.image_processor, config.vision_config.image_size[0], images)


def tile_spans(side: int, settings: Any, tile: int, images: list[Image]) -> tuple[ImageSpan, ...]:
    """Per image its tiles in raster order, and all of it last if there is more than one.

    **Arguments:**

    - `side`: how many rows and columns of tokens a tile becomes.
    - `settings`: the image processor.
    - `tile`: how many pixels wide and high a tile is.
    """
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas

    found = []
    for image in images:
        whole = View((side, side), whole_image(image))
        columns, rows = get_optimal_tiled_canvas(
            (image.height, image.width), (tile, tile), settings.min_patches, settings.max_patches
        )
        tiles = tiled(image, rows, columns, side)
        several = len(tiles) > 1
        found.append(ImageSpan.of((*tiles, *[whole] * several), len(tiles) * several))
    return tuple(found)


def tiny() -> tuple[Any, Any]:
    """A tiny InternVL."""
    from transformers import InternVLConfig, InternVLProcessor
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

    from .processing import without_video
    from .tiny import TEXT, VISION, fill, tokenizer

    named = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    words = tokenizer(*named.values(), bos=False, **named)
    images = fill(GotOcr2ImageProcessorPil, size={"height": 56, "width": 56}, max_patches=4)
    processor = without_video(InternVLProcessor)(images, words, image_seq_length=4)
    config = fill(
        InternVLConfig,
        text_config={**TEXT, "vocab_size": len(words), "model_type": "qwen2"},
        vision_config={**VISION, "image_size": (56, 56), "patch_size": (14, 14)},
        image_token_id=words.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
        tie_word_embeddings=False,
    )
    return config, processor


INTERNVL = Family(
    name="InternVL",
    model_types=("internvl",),
    decoder="model.language_model",
    vision_layers="model.vision_tower.encoder.layer",
    vision_taps={**STREAM_LAYER, "mlp.hook_post": Tap("mlp.fc2", "input")},
    refused={
        "vision_encoder.blocks.{layer}.hook_attn_out": WHY,
        "vision_encoder.blocks.{layer}.hook_mlp_out": WHY,
    },
    projector="model.multi_modal_projector",
    spans=canvas_spans,
    marker="<IMG_CONTEXT>",
    suffix="</img>",
    template="<|im_start|>user\n{content}<|im_end|>\n<|im_start|>assistant\n",
    role_markers=("<|im_start|>user\n", "<|im_end|>\n", "<|im_start|>assistant\n"),
    tiny=tiny,
)
