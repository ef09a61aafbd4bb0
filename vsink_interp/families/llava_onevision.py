"""LLaVA-OneVision: as LLaVA-NeXT, with many more tiles, pooled where they are too many."""

from collections.abc import Mapping
from math import sqrt
from typing import Any

from PIL.Image import Image

from ..tokens import ImageSpan, View
from .form import Family, whole_image
from .llava_next import padded_canvas


def onevision_spans(
    config: Any, processor: Any, images: list[Image], inputs: Mapping[str, Any]
) -> tuple[ImageSpan, ...]:
    """Per image the base view, then the joined tiles; the base view alone where a prompt has
    several images.
    """
    tile, patch = config.vision_config.image_size, config.vision_config.patch_size
    side = tile // patch
    most = int(processor.vision_aspect_ratio.removeprefix("anyres_max_"))
    counts = [n for n in inputs["batch_num_images"].tolist() for _ in range(n)]
    found = []
    for image, together in zip(images, counts, strict=True):
        whole = whole_image(image)
        if together > 1:
            found.append(ImageSpan.of((View((side, side), whole, tail=1),)))
            continue
        (rows, columns), box = padded_canvas(image, config.image_grid_pinpoints, tile, side)
        ratio = sqrt(rows * columns / (most * side**2))
        if ratio > 1.1:
            rows, columns = int(rows // ratio), int(columns // ratio)
        joined = View((rows, columns), box, newline=True)
        found.append(ImageSpan.of((View((side, side), whole), joined)))
    return tuple(found)


def tiny() -> tuple[Any, Any]:
    """A tiny LLaVA-OneVision."""
    from transformers import LlavaOnevisionConfig, LlavaOnevisionProcessor
    from transformers.models.llava_onevision.image_processing_pil_llava_onevision import (
        LlavaOnevisionImageProcessorPil,
    )

    from .processing import without_video
    from .tiny import TEXT, VISION, fill, tokenizer

    pinpoints = [[42 * i, 42 * j] for i in range(1, 4) for j in range(1, 4)]
    words = tokenizer("<image>", "<video>", bos=False)
    images = fill(
        LlavaOnevisionImageProcessorPil,
        size={"height": 42, "width": 42},
        image_grid_pinpoints=pinpoints,
    )
    processor = without_video(LlavaOnevisionProcessor)(
        images,
        words,
        num_image_tokens=9,
        vision_feature_select_strategy="full",
        vision_aspect_ratio="anyres_max_4",
    )
    vision = {**VISION, "image_size": 42, "patch_size": 14, "vision_use_head": False}
    config = fill(
        LlavaOnevisionConfig,
        text_config={**TEXT, "vocab_size": len(words), "model_type": "qwen2"},
        vision_config={**vision, "model_type": "siglip_vision_model"},
        image_token_id=words.convert_tokens_to_ids("<image>"),
        video_token_id=words.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=pinpoints,
        vision_aspect_ratio="anyres_max_4",
        tie_word_embeddings=False,
    )
    return config, processor


LLAVA_ONEVISION = Family(
    name="LLaVA-OneVision",
    model_types=("llava_onevision",),
    decoder="model.language_model",
    vision_layers="model.vision_tower.encoder.layers",
    projector="model.multi_modal_projector",
    spans=onevision_spans,
    nested=True,
    template="<|im_start|>user {content}<|im_end|><|im_start|>assistant\n",
    role_markers=("<|im_start|>user", "<|im_end|>", "<|im_start|>assistant\n"),
    tiny=tiny,
)
