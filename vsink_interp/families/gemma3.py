"""Gemma 3: sliding windows in most layers, and image tokens that see all of their image."""

from collections.abc import Mapping
from typing import Any

from PIL.Image import Image

from ..errors import CapabilityError
from ..tokens import ImageSpan
from .form import Family
from .paligemma import square_spans


def pooled_spans(
    config: Any, processor: Any, images: list[Image], inputs: Mapping[str, Any]
) -> tuple[ImageSpan, ...]:
    """One square grid per image over all of it.

    **Raises:** `CapabilityError` if the processor cuts images into crops (pan and scan).
    """
    if processor.image_processor.do_pan_and_scan:
        raise CapabilityError(
            "pan and scan puts crops with words between them, whose tokens are not laid out yet; "
            "set processor.image_processor.do_pan_and_scan = False"
        )
    return square_spans(config, processor, images, inputs)


def tiny() -> tuple[Any, Any]:
    """A tiny Gemma 3 with windows of eight tokens."""
    from transformers import Gemma3Config, Gemma3Processor
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

    from .tiny import TEXT, VISION, fill, tokenizer

    named = {
        "boi_token": "<start_of_image>",
        "eoi_token": "<end_of_image>",
        "image_token": "<image_soft_token>",
    }
    words = tokenizer(*named.values(), bos=True, **named)
    images = fill(Gemma3ImageProcessorPil, size={"height": 56, "width": 56}, do_pan_and_scan=False)
    processor = fill(Gemma3Processor, images, words, image_seq_length=4)
    text = {
        **TEXT,
        "vocab_size": len(words),
        "head_dim": 16,
        "query_pre_attn_scalar": 16,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "sliding_window": 8,
    }
    config = fill(
        Gemma3Config,
        text_config=text,
        vision_config={**VISION, "image_size": 56, "patch_size": 14, "vision_use_head": False},
        mm_tokens_per_image=4,
        boi_token_index=words.boi_token_id,
        eoi_token_index=words.eoi_token_id,
        image_token_index=words.image_token_id,
    )
    return config, processor


GEMMA3 = Family(
    name="Gemma 3",
    model_types=("gemma3",),
    decoder="model.language_model",
    vision_layers="model.vision_tower.encoder.layers",
    projector="model.multi_modal_projector",
    merged="squares",
    spans=pooled_spans,
    sight="image blocks",
    nested=True,
    marker="<start_of_image>",
    suffix="<end_of_image>\n\n",
    template="<start_of_turn>user\n{content}<end_of_turn>\n<start_of_turn>model\n",
    role_markers=("<start_of_turn>user\n", "<end_of_turn>\n", "<start_of_turn>model\n"),
    tiny=tiny,
)
