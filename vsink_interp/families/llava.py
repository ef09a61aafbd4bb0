"""LLaVA-1.5: a CLIP tower, a two-layer projector, and any LLaMA-like decoder."""

from collections.abc import Mapping
from typing import Any

from PIL.Image import Image

from ..tokens import Box, ImageSpan, View
from .form import Family
from .infer import counted_spans


def clip_box(
    size: dict[str, int],
    crop: dict[str, int] | None,
    image: Image,
    *,
    squared: bool = False,
    spare: int = 1,
) -> Box | None:
    """The part of an image that CLIP's processor keeps: left, top, right, bottom in its pixels.

    The processor pads the image to a square if it is told to, resizes it, and cuts the middle out;
    where it is smaller than that it is padded. All are whole numbers of pixels. The box lies partly
    outside the image where there is padding.

    **Arguments:**

    - `size`: what it resizes to; empty for not at all.
    - `crop`: what it cuts out; None for all.
    - `squared`: whether it pads to a square first.
    - `spare`: where the spare pixel of an odd padding goes: 1 for left and top, 0 for right and
        bottom.

    **Returns:** None for a way of resizing that is not known here.
    """
    width, height = image.size
    left = top = 0
    if squared:
        side = max(width, height)
        left, top = (width - side + 1) // 2, (height - side + 1) // 2
        width = height = side
    resized = _resized(size, width, height)
    if resized is None:
        return None
    across, down = width / resized[0], height / resized[1]
    kept = (crop["width"], crop["height"]) if crop else resized
    x, y = (
        (whole - part + (1 - spare) * (whole < part)) // 2
        for whole, part in zip(resized, kept, strict=True)
    )
    return (
        left + x * across,
        top + y * down,
        left + (x + kept[0]) * across,
        top + (y + kept[1]) * down,
    )


def _resized(size: dict[str, int], width: int, height: int) -> tuple[int, int] | None:
    """Width and height after resizing."""
    if not size:
        return width, height
    if {*size} == {"shortest_edge"}:
        short, long = size["shortest_edge"], max(width, height)
        long = int(short * long / min(width, height))
        return (short, long) if width <= height else (long, short)
    return (size["width"], size["height"]) if {*size} == {"width", "height"} else None


def llava_spans(
    config: Any, processor: Any, images: list[Image], inputs: Mapping[str, Any]
) -> tuple[ImageSpan, ...]:
    """One grid per image, in raster order; the processor's crop is its box.

    Grid and number of tokens are those that the processor made: a tower that interpolates its
    positions takes images of other sizes than its configuration says. What comes before the patches
    (CLS where all features are selected, registers) is the head of a view. Of a tower whose tokens
    are no patches of one size, only their number is known.
    """
    settings = processor.image_processor
    size = dict(settings.size) if getattr(settings, "do_resize", True) else {}
    crop = dict(settings.crop_size) if getattr(settings, "do_center_crop", False) else None
    # Of CLIP's processor do_pad is something else, or nothing.
    squared = hasattr(settings, "pad_to_square") and bool(settings.do_pad)
    spare = int(not any(kind.__name__ == "TorchvisionBackend" for kind in type(settings).__mro__))
    boxes = [clip_box(size, crop, image, squared=squared, spare=spare) for image in images]
    grid, head = _grid(config.vision_config, inputs), 0
    if "input_ids" in inputs and images:
        made = int((inputs["input_ids"] == config.image_token_id).sum())
        head, odd = divmod(made - grid[0] * grid[1] * len(images), len(images))
        if head < 0 or odd:
            return counted_spans(config, processor, images, inputs)
    registers = getattr(config.vision_config, "num_register_tokens", 0)
    # Any other number is of a processor that disagrees with its tower: the layout will say so.
    if head in (registers, registers + 1) and head:
        return tuple(ImageSpan.of((View(grid, box, head=head),)) for box in boxes)
    return tuple(ImageSpan(grid, box) for box in boxes)


def _grid(vision: Any, inputs: Mapping[str, Any]) -> tuple[int, int]:
    """Rows and columns of patches of an image, from its pixels if they are there."""
    patch = vision.patch_size if isinstance(vision.patch_size, int) else max(vision.patch_size)
    if "pixel_values" in inputs:
        height, width = inputs["pixel_values"].shape[-2:]
        return height // patch, width // patch
    side = vision.image_size if isinstance(vision.image_size, int) else max(vision.image_size)
    return side // patch, side // patch


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
