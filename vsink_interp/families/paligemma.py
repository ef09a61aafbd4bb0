"""PaliGemma and PaliGemma 2: the whole prompt sees itself, so an image token sees the question."""

from collections.abc import Mapping
from typing import Any

from PIL.Image import Image

from ..tokens import ImageSpan
from .form import Family, whole_image


def square_spans(
    config: Any, processor: Any, images: list[Image], inputs: Mapping[str, Any]
) -> tuple[ImageSpan, ...]:
    """One square grid per image over all of it."""
    del config, inputs
    side = round(processor.image_seq_length**0.5)
    return tuple(ImageSpan((side, side), whole_image(image)) for image in images)


def tiny() -> tuple[Any, Any]:
    """A tiny PaliGemma."""
    from transformers import PaliGemmaConfig, PaliGemmaProcessor
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    from .tiny import TEXT, VISION, fill, tokenizer

    words = tokenizer("<image>", "<bos>", bos=False, image_token="<image>", bos_token="<bos>")
    images = fill(SiglipImageProcessorPil, size={"height": 42, "width": 42})
    images.image_seq_length = 9
    processor = fill(PaliGemmaProcessor, images, words)
    config = fill(PaliGemmaConfig,
        text_config={
            **TEXT, "vocab_size": len(words), "head_dim": 16, "model_type": "gemma",
        },
        vision_config={
            **VISION, "image_size": 42, "patch_size": 14, "projection_dim": 64,
            "vision_use_head": False, "model_type": "siglip_vision_model",
        },
        image_token_index=4,
        projection_dim=64,
        hidden_size=64,
    )  # fmt: skip
    return config, processor


PALIGEMMA = Family(
    name="PaliGemma",
    model_types=("paligemma",),
    decoder="model.language_model",
    vision_layers="model.vision_tower.encoder.layers",
    projector="model.multi_modal_projector",
    spans=square_spans,
    sight="prefix",
    nested=True,
    text_alone=False,
    closing="<bos>",
    template="{content}",
    role_markers=(),
    tiny=tiny,
)
