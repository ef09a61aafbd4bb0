"""LLaVA-OneVision: as LLaVA-NeXT, with many more tiles, pooled where they are too many."""

from collections.abc import Mapping, Sequence
from math import ceil, isqrt, sqrt
from typing import Any

import torch
from PIL.Image import Image

from ..errors import InputError
from ..tokens import ImageSpan, View
from .form import Family, Filmed, VideoForm, whole_image
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


def film(processor: Any, videos: Sequence[Any]) -> Filmed:
    """Every frame as one view, pooled two by two, and one token after the last.

    **Raises:** `InputError` for videos of different length in one batch, or a size of frames.
    """
    lengths = {len(video.frames) for video in videos}
    if len(lengths) > 1 or any(video.size is not None for video in videos):
        raise InputError(
            "LLaVA-OneVision resizes frames to the size of its tower, and takes videos of one "
            f"length in a batch; got videos of {sorted(lengths)} frames, of size "
            f"{[video.size for video in videos]}: leave size out, or run them one by one"
        )
    (n_frames,) = lengths
    side = ceil(isqrt(processor.num_image_tokens) / 2)
    views = (
        processor.image_processor([[frame] for frame in video.frames], return_tensors="pt")
        for video in videos
    )
    pixels = torch.stack([made["pixel_values"][:, 0] for made in views])  # the whole frame is first
    spans = []
    for video in videos:
        whole = whole_image(video.frames[0])
        tails = [0] * (n_frames - 1) + [1]
        spans.append(tuple(ImageSpan.of((View((side, side), whole, tail=n),)) for n in tails))
    text = "<video>" * (n_frames * side**2 + 1)
    steps = tuple(range(n_frames))
    inputs = {"pixel_values_videos": pixels}
    return Filmed(inputs, (text,) * len(videos), tuple(spans), (steps,) * len(videos))


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
    video=VideoForm("<video>", "<video>", film),
)
