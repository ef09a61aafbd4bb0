"""Qwen2-VL and Qwen2.5-VL: images of any size, patches merged two by two, and multimodal RoPE."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from PIL.Image import Image

from ..tokens import ImageSpan
from .form import GATED_PACKED_LAYER, PACKED_LAYER, Family, Filmed, VideoForm, whole_image

MARKER = "<|image_pad|>"
MARKS = ("<|vision_start|>", MARKER, "<|vision_end|>", "<|video_pad|>")


def merged_spans(
    config: Any, processor: Any, images: list[Image], inputs: Mapping[str, Any]
) -> tuple[ImageSpan, ...]:
    """One grid per image, of merged patches, over all of it: it is resized, never cropped."""
    del config
    merge = processor.image_processor.merge_size
    return tuple(
        ImageSpan((rows // merge, columns // merge), whole_image(image))
        for image, (_, rows, columns) in zip(images, inputs["image_grid_thw"].tolist(), strict=True)
    )


VIDEO_MARKER = "<|video_pad|>"
FRAME_PIXELS = (128 * 28 * 28, 768 * 28 * 28)
"""The least and the most pixels of a frame, as `Qwen2VLVideoProcessor` has them."""


def film(processor: Any, videos: Sequence[Any]) -> Filmed:
    """Frames in pairs, each pair a step in time, as `Qwen2VLVideoProcessor` makes them.

    That needs torchvision; here the frames go through the image processor, which makes a step of
    each by showing it twice, and one of the two is kept. An odd last frame is paired with itself.
    """
    settings, pixels, grids, texts, spans, steps = processor.image_processor, [], [], [], [], []
    deep, merge = settings.temporal_patch_size, settings.merge_size
    for video in videos:
        frames = [*video.frames, *video.frames[-1:] * (-len(video.frames) % deep)]
        size = dict(zip(("shortest_edge", "longest_edge"), video.size or FRAME_PIXELS, strict=True))
        made = settings(frames, size=size, return_tensors="pt")
        _, rows, columns = made["image_grid_thw"][0].tolist()
        n_steps = len(frames) // deep
        twice = made["pixel_values"].view(n_steps, deep, rows * columns, 3, deep, -1)
        once = twice[:, :, :, :, 0].permute(0, 2, 3, 1, 4)  # step patch channel frame pixel
        pixels.append(once.reshape(n_steps * rows * columns, -1))
        grids.append([n_steps, rows, columns])
        grid = (rows // merge, columns // merge)
        spans.append((ImageSpan(grid, whole_image(frames[0])),) * n_steps)
        texts.append(VIDEO_MARKER * (n_steps * grid[0] * grid[1]))
        steps.append(tuple(number // deep for number in range(len(video.frames))))
    inputs = {"pixel_values_videos": torch.cat(pixels), "video_grid_thw": torch.tensor(grids)}
    return Filmed(inputs, tuple(texts), tuple(spans), tuple(steps))


def film_timed(processor: Any, videos: Sequence[Any]) -> Filmed:
    """As `film`, with the seconds that a step takes."""
    deep, found = processor.image_processor.temporal_patch_size, film(processor, videos)
    seconds = torch.tensor([deep / video.fps for video in videos])
    return replace(found, inputs={**found.inputs, "second_per_grid_ts": seconds})


VIDEO = VideoForm(VIDEO_MARKER, f"<|vision_start|>{VIDEO_MARKER}<|vision_end|>", film, typed=True)

MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
TOWER = {
    "depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 64,
}  # fmt: skip


def tiny_kind(kind: str, vision: Mapping[str, Any], **text: Any) -> tuple[Any, Any]:
    """A tiny model of a kind, such as `Qwen2_5_VL`: its tower, and what is its decoder's own."""
    import transformers
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

    from .processing import without_video
    from .tiny import TEXT, fill, tokenizer

    words = tokenizer("<|im_start|>", "<|im_end|>", *MARKS, bos=False)
    patch = vision["patch_size"]
    pixels = {"shortest_edge": (4 * patch) ** 2, "longest_edge": 16 * (2 * patch) ** 2}
    images = fill(transformers.Qwen2VLImageProcessorPil, size=pixels, patch_size=patch)
    config = getattr(transformers, f"{kind}Config")(
        text_config={**TEXT, "vocab_size": len(words), "rope_parameters": {**MROPE}, **text},
        vision_config=dict(vision),
        image_token_id=words.convert_tokens_to_ids(MARKER),
        video_token_id=words.convert_tokens_to_ids("<|video_pad|>"),
        vision_start_token_id=words.convert_tokens_to_ids("<|vision_start|>"),
        vision_end_token_id=words.convert_tokens_to_ids("<|vision_end|>"),
    )
    official = getattr(transformers, str(PROCESSOR_MAPPING_NAMES[config.model_type]))
    return config, without_video(official)(images, words)


def tiny_2() -> tuple[Any, Any]:
    """A tiny Qwen2-VL."""
    tower = {"depth": 2, "embed_dim": 32, "num_heads": 2, "hidden_size": 64, "patch_size": 14}
    return tiny_kind("Qwen2VL", tower)


def tiny_2_5() -> tuple[Any, Any]:
    """A tiny Qwen2.5-VL."""
    own = {"patch_size": 14, "window_size": 56, "fullatt_block_indexes": [1]}
    return tiny_kind("Qwen2_5_VL", {**TOWER, **own})


QWEN2_VL = Family(
    name="Qwen2-VL",
    model_types=("qwen2_vl",),
    decoder="model.language_model",
    vision_layers="model.visual.blocks",
    vision_taps=PACKED_LAYER,
    projector="model.visual.merger",
    merged="runs",
    projected="q d",
    spans=merged_spans,
    marker=MARKER,
    placeholder=f"<|vision_start|>{MARKER}<|vision_end|>",
    template="<|im_start|>user\n{content}<|im_end|>\n<|im_start|>assistant\n",
    role_markers=(
        "<|im_start|>user\n", "<|im_start|>assistant\n", "<|im_start|>system\n", "<|im_end|>\n",
    ),
    tiny=tiny_2,
    video=VIDEO,
)  # fmt: skip

QWEN2_5_VL = replace(
    QWEN2_VL,
    name="Qwen2.5-VL",
    model_types=("qwen2_5_vl",),
    vision_taps=GATED_PACKED_LAYER,
    tiny=tiny_2_5,
    video=replace(VIDEO, film=film_timed),
)
