"""Qwen3-VL: as Qwen2.5-VL, with norms of queries and keys, and DeepStack.

DeepStack adds features of early vision layers to the residual stream at image tokens, *between*
the first decoder layers: there `hook_resid_pre` of a layer is not `hook_resid_post` of the one
before it, and no attention or MLP wrote the difference.

In a video every step in time is preceded by its time in seconds, as text.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from .form import PACKED_LAYER, Filmed, LayerTaps, Tap
from .qwen2_vl import MARKS, MROPE, QWEN2_VL, TOWER, VIDEO, VIDEO_MARKER, film, tiny_kind

VIDEO_PIXELS = (4096, 25165824)
"""The least and the most pixels of all frames together, in `video_preprocessor_config.json` of the
released checkpoints.
"""
BEGIN, END = MARKS[0], MARKS[2]


def film_stamped(processor: Any, videos: Sequence[Any]) -> Filmed:
    """Frames in pairs, each behind its time, as `Qwen3VLProcessor` of transformers 5 writes it.

    The time is the mean of the pair's. What the chat format puts around a video stays around it.
    """
    sized = [
        video
        if video.size
        else replace(video, size=tuple(pixels // len(video) for pixels in VIDEO_PIXELS))
        for video in videos
    ]
    found, texts = film(processor, sized), []
    for video, spans, steps in zip(videos, found.spans, found.steps, strict=True):
        text = ""
        for step, span in enumerate(spans):
            frames = [number for number, own in enumerate(steps) if own == step]
            seconds = sum(frames) / len(frames) / video.fps
            text += f"<{seconds:.1f} seconds>{BEGIN}{VIDEO_MARKER * span.size}{END}"
        texts.append(text)
    return replace(found, texts=tuple(texts))


STAMPED = replace(VIDEO, film=film_stamped, suffix=END)


def tiny() -> tuple[Any, Any]:
    """A tiny Qwen3-VL with two DeepStack layers."""
    own = {"patch_size": 16, "num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1]}
    rope = {**MROPE, "mrope_interleaved": True}
    return tiny_kind("Qwen3VL", {**TOWER, **own, "depth": 3}, head_dim=16, rope_parameters=rope)


QWEN3_VISION_LAYER: LayerTaps = {
    **PACKED_LAYER,
    "mlp.hook_post": Tap("mlp.linear_fc2", "input", shape="q d"),
}

QWEN3_VL = replace(
    QWEN2_VL,
    name="Qwen3-VL",
    video=STAMPED,
    model_types=("qwen3_vl", "qwen3_vl_moe"),
    vision_taps=QWEN3_VISION_LAYER,
    tiny=tiny,
)
