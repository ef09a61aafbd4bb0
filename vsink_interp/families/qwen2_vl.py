"""Qwen2-VL and Qwen2.5-VL: pictures of any size, patches merged two by two, and multimodal RoPE."""

from collections.abc import Mapping
from typing import Any

from PIL.Image import Image

from ..spans import ImageSpan
from .base import PACKED_BLOCK, Family, whole_picture

MARKER = "<|image_pad|>"
MARKS = ("<|vision_start|>", MARKER, "<|vision_end|>", "<|video_pad|>")
TEMPLATE = "<|im_start|>user\n{content}<|im_end|>\n<|im_start|>assistant\n"
ROLES = ("<|im_start|>user\n", "<|im_start|>assistant\n", "<|im_start|>system\n", "<|im_end|>\n")


def merged_spans(
    config: Any, processor: Any, pictures: list[Image], inputs: Mapping[str, Any]
) -> tuple[ImageSpan, ...]:
    """One grid per picture, of merged patches, over all of it: it is resized, never cropped."""
    del config
    merge = processor.image_processor.merge_size
    return tuple(
        ImageSpan((rows // merge, columns // merge), whole_picture(picture))
        for picture, (_, rows, columns) in zip(
            pictures, inputs["image_grid_thw"].tolist(), strict=True
        )
    )


def tiny_processor(official: str, images: str = "Qwen2VLImageProcessorPil", **sizes: Any) -> Any:
    """A small processor, without its video part."""
    import transformers

    from .processing import without_video
    from .tiny import tokenizer

    words = tokenizer("<|im_start|>", "<|im_end|>", *MARKS, bos=False)
    pixels = {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 16, **sizes.pop("size", {})}
    return without_video(getattr(transformers, official))(
        getattr(transformers, images)(size=pixels, **sizes), words
    )


def tiny_ids(processor: Any) -> dict[str, Any]:
    """The token ids that a configuration names."""
    ids = processor.tokenizer.convert_tokens_to_ids
    return {
        "image_token_id": ids(MARKER),
        "video_token_id": ids("<|video_pad|>"),
        "vision_start_token_id": ids("<|vision_start|>"),
        "vision_end_token_id": ids("<|vision_end|>"),
    }


MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}


def tiny_2() -> tuple[Any, Any]:
    """A tiny Qwen2-VL."""
    from transformers import Qwen2VLConfig

    from .tiny import TEXT, fill

    processor = tiny_processor("Qwen2VLProcessor")
    text = {**TEXT, "vocab_size": len(processor.tokenizer), "rope_parameters": MROPE}
    vision = {"depth": 2, "embed_dim": 32, "num_heads": 2, "hidden_size": 64, "patch_size": 14}
    config = fill(Qwen2VLConfig, text_config=text, vision_config=vision, **tiny_ids(processor))
    return config, processor


def tiny_2_5() -> tuple[Any, Any]:
    """A tiny Qwen2.5-VL."""
    from transformers import Qwen2_5_VLConfig

    from .tiny import TEXT, fill

    processor = tiny_processor("Qwen2_5_VLProcessor")
    text = {**TEXT, "vocab_size": len(processor.tokenizer), "rope_parameters": MROPE}
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "out_hidden_size": 64,
        "patch_size": 14,
        "window_size": 56,
        "fullatt_block_indexes": [1],
    }
    config = fill(Qwen2_5_VLConfig, text_config=text, vision_config=vision, **tiny_ids(processor))
    return config, processor


QWEN2_VL = Family(
    name="Qwen2-VL",
    model_types=("qwen2_vl",),
    decoder="model.language_model",
    vision_layers="model.visual.blocks",
    vision_block=PACKED_BLOCK,
    projector="model.visual.merger",
    projected="q d",
    spans=merged_spans,
    marker=MARKER,
    placeholder=f"<|vision_start|>{MARKER}<|vision_end|>",
    template=TEMPLATE,
    role_markers=ROLES,
    tiny=tiny_2,
)

QWEN2_5_VL = Family(
    name="Qwen2.5-VL",
    model_types=("qwen2_5_vl",),
    decoder="model.language_model",
    vision_layers="model.visual.blocks",
    vision_block=PACKED_BLOCK,
    projector="model.visual.merger",
    projected="q d",
    spans=merged_spans,
    marker=MARKER,
    placeholder=f"<|vision_start|>{MARKER}<|vision_end|>",
    template=TEMPLATE,
    role_markers=ROLES,
    tiny=tiny_2_5,
)
