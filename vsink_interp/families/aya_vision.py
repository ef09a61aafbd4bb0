"""Aya Vision: tiles with words before each, then the whole image; attention and MLP side by side
in every decoder layer.
"""

from collections.abc import Mapping
from typing import Any

from PIL.Image import Image

from ..tokens import ImageSpan
from .form import Family
from .internvl import tile_spans

MARKS = ("<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_PATCH|>", "<|IMG_LINE_BREAK|>")
TURN = "<|START_OF_TURN_TOKEN|>"
USER, CHATBOT, END = "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|END_OF_TURN_TOKEN|>"


def captioned_spans(
    config: Any, processor: Any, images: list[Image], inputs: Mapping[str, Any]
) -> tuple[ImageSpan, ...]:
    """Per image its tiles in raster order, and the whole image last if there is more than one."""
    del inputs
    side = processor.img_size // processor.patch_size
    return tile_spans(side, processor.image_processor, config.vision_config.image_size, images)


def tiny() -> tuple[Any, Any]:
    """A tiny Aya Vision with windows of eight tokens in every other layer."""
    from transformers import AyaVisionConfig, AyaVisionProcessor
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

    from .tiny import TEXT, VISION, fill, tokenizer

    tiles = [f"TILE_{tile}" for tile in range(1, 5)]
    words = tokenizer("<image>", *MARKS, TURN, USER, CHATBOT, END, "TILE_GLOBAL", *tiles, "TILE")
    images = fill(GotOcr2ImageProcessorPil, size={"height": 56, "width": 56}, max_patches=4)
    processor = fill(
        AyaVisionProcessor, images, words, patch_size=14, img_size=56, downsample_factor=2
    )
    kinds = ["sliding_attention", "full_attention"] * 2
    text = {**TEXT, "vocab_size": len(words), "layer_types": kinds, "sliding_window": 8}
    tower = {"image_size": 56, "patch_size": 14, "vision_use_head": False}
    config = fill(
        AyaVisionConfig,
        text_config={**text, "model_type": "cohere2"},
        vision_config={**VISION, **tower, "model_type": "siglip_vision_model"},
        image_token_index=words.convert_tokens_to_ids("<|IMG_PATCH|>"),
        tie_word_embeddings=False,
    )
    return config, processor


AYA_VISION = Family(
    name="Aya Vision",
    model_types=("aya_vision",),
    decoder="model.language_model",
    vision_layers="model.vision_tower.encoder.layers",
    projector="model.multi_modal_projector",
    merged="squares",
    mapped="b i j d",
    spans=captioned_spans,
    suffix="<|END_OF_IMG|>",
    template=f"{TURN}{USER}{{content}}{END}{TURN}{CHATBOT}",
    role_markers=(f"{TURN}{USER}", f"{TURN}{CHATBOT}", END),
    tiny=tiny,
)
