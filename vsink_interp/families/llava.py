"""LLaVA-1.5: a CLIP tower, a two-layer projector, and any LLaMA-like decoder."""

from collections.abc import Mapping
from typing import Any

from PIL.Image import Image

from ..tokens import ImageSpan
from .form import Family


def clip_box(
    size: dict[str, int], crop: dict[str, int] | None, image: Image
) -> tuple[float, float, float, float]:
    """The part of an image that CLIP's processor keeps: left, top, right, bottom in its pixels."""
    width, height = image.size
    if "shortest_edge" in size:
        scale = size["shortest_edge"] / min(width, height)
        wide, high = width * scale, height * scale
    else:
        wide, high = float(size["width"]), float(size["height"])
    kept_w = min(wide, crop["width"]) if crop else wide
    kept_h = min(high, crop["height"]) if crop else high
    left, top = (wide - kept_w) / 2, (high - kept_h) / 2
    across, down = width / wide, height / high
    return (left * across, top * down, (left + kept_w) * across, (top + kept_h) * down)


def llava_spans(
    config: Any, processor: Any, images: list[Image], inputs: Mapping[str, Any]
) -> tuple[ImageSpan, ...]:
    """One square grid per image, in raster order; the processor's crop is its box."""
    del inputs
    side = config.vision_config.image_size // config.vision_config.patch_size
    settings = processor.image_processor
    crop = dict(settings.crop_size) if getattr(settings, "do_center_crop", False) else None
    return tuple(
        ImageSpan((side, side), clip_box(dict(settings.size), crop, image)) for image in images
    )


def tiny() -> tuple[Any, Any]:
    """A tiny LLaVA-1.5."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    from .tiny import TEXT, VISION, fill, tokenizer

    words = tokenizer("<image>", image_token="<image>")
    images = fill(
        CLIPImageProcessorPil, size={"shortest_edge": 42}, crop_size={"height": 42, "width": 42}
    )
    processor = fill(
        LlavaProcessor,
        images,
        words,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    config = fill(
        LlavaConfig,
        text_config=fill(LlamaConfig, **{**TEXT, "vocab_size": len(words)}),
        vision_config=fill(
            CLIPVisionConfig, **VISION, image_size=42, patch_size=14, projection_dim=32
        ),
        image_token_id=4,
        image_seq_length=9,
        vision_feature_layer=-1,
        tie_word_embeddings=False,
    )
    return config, processor


LLAVA = Family(
    name="LLaVA-1.5",
    model_types=("llava",),
    decoder="model.language_model",
    vision_layers="model.vision_tower.encoder.layers",
    projector="model.multi_modal_projector",
    spans=llava_spans,
    template="USER: {content} ASSISTANT:",
    role_markers=("USER:", "ASSISTANT:", "user :", "assistant :"),
    tiny=tiny,
)
