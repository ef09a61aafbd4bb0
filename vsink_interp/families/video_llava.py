"""Video-LLaVA, for images: they go through a tower of their own, as in LLaVA-1.5."""

from dataclasses import replace
from typing import Any

from .llava import LLAVA, tiny as tiny_llava


def tiny() -> tuple[Any, Any]:
    """A tiny Video-LLaVA."""
    from transformers import VideoLlavaConfig, VideoLlavaProcessor
    from transformers.models.video_llava.image_processing_video_llava import (
        VideoLlavaImageProcessor,
    )

    from .processing import without_video
    from .tiny import fill, tokenizer

    plain, _ = tiny_llava()
    words = tokenizer("<image>", "<video>", image_token="<image>", video_token="<video>")
    crop = {"height": 42, "width": 42}
    images = fill(VideoLlavaImageProcessor, size={"shortest_edge": 42}, crop_size=crop)
    processor = without_video(VideoLlavaProcessor)(images, words)
    plain.text_config.vocab_size = len(words)
    config = fill(
        VideoLlavaConfig,
        text_config=plain.text_config,
        vision_config=plain.vision_config,
        image_token_index=words.image_token_id,
        video_token_index=words.video_token_id,
        image_seq_length=plain.image_seq_length,
        vision_feature_layer=-1,
    )
    return config, processor


VIDEO_LLAVA = replace(
    LLAVA,
    name="Video-LLaVA",
    model_types=("video_llava",),
    vision_layers="model.image_tower.encoder.layers",
    tiny=tiny,
)
