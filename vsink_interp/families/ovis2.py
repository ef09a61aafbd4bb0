"""Ovis2: the whole image, then its tiles; each image token is a mixture of visual words."""

from collections.abc import Mapping
from typing import Any

from PIL.Image import Image

from ..tokens import ImageSpan, View
from .form import Family, LayerTaps, Tap, tiled, whole_image

MARKS = ("<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>")
"""What stands around tiles; the model embeds these as visual words of their own."""

OVIS2_LAYER: LayerTaps = {
    "hook_resid_pre": Tap("", "input"),
    "hook_attn_out": Tap("attention", "first output"),
    "mlp.hook_post": Tap("ffn.down_proj", "input"),
    "hook_mlp_out": Tap("ffn", "output"),
    "hook_resid_post": Tap("", "output"),
}


def grid_spans(
    config: Any, processor: Any, images: list[Image], inputs: Mapping[str, Any]
) -> tuple[ImageSpan, ...]:
    """Per image all of it, then its tiles in raster order if it is cut at all."""
    del config, inputs
    side = round(processor.image_seq_length**0.5)
    found = []
    for image in images:
        columns, rows = _grid(processor.image_processor, (image.height, image.width))
        tiles = tiled(image, rows, columns, side) if rows * columns > 1 else ()
        found.append(ImageSpan.of((View((side, side), whole_image(image)), *tiles), 0))
    return tuple(found)


def _grid(settings: Any, size: tuple[int, int]) -> tuple[int, int]:
    """Columns and rows of tiles, as the image processor chooses them."""
    from transformers.models.ovis2 import image_processing_pil_ovis2 as official

    if not settings.crop_to_patches or settings.max_patches < 2:
        return 1, 1
    tile = (settings.size["height"], settings.size["width"])
    if settings.use_covering_area_grid:
        return official.get_min_tile_covering_grid(size, tile[0], settings.max_patches)
    return official.get_optimal_tiled_canvas(size, tile, settings.min_patches, settings.max_patches)


def tiny() -> tuple[Any, Any]:
    """A tiny Ovis2."""
    from transformers import Ovis2Config, Ovis2Processor
    from transformers.models.ovis2.image_processing_pil_ovis2 import Ovis2ImageProcessorPil

    from .tiny import TEXT, VISION, fill, tokenizer

    words = tokenizer("<image>", "<IMG_ATOM>", *MARKS, bos=False)
    number = words.convert_tokens_to_ids
    images = fill(
        Ovis2ImageProcessorPil,
        size={"height": 56, "width": 56},
        crop_to_patches=True,
        max_patches=4,
    )
    tower = {"image_size": 56, "patch_size": 14, "hidden_stride": 2, "vocab_size": 37}
    config = fill(
        Ovis2Config,
        text_config={**TEXT, "vocab_size": len(words), "model_type": "qwen2"},
        vision_config={**VISION, **tower, "num_visual_indicator_tokens": len(MARKS)},
        image_token_id=number("<IMG_ATOM>"),
        visual_indicator_token_ids=[number(mark) for mark in MARKS],
        vocab_size=len(words),
        hidden_size=TEXT["hidden_size"],
        tie_word_embeddings=False,
    )
    return config, Ovis2Processor(images, words, image_seq_length=4)


OVIS2 = Family(
    name="Ovis2",
    model_types=("ovis2",),
    decoder="model.language_model",
    vision_layers="model.vision_tower.transformer.encoder.layers",
    vision_taps=OVIS2_LAYER,
    projector="model.visual_embeddings_table",
    refused={
        "vision_projector.hook_in": "a mixture of visual words enters, no features of the tower"
    },
    spans=grid_spans,
    suffix="<IMG_END>",
    template="<|im_start|>user\n{content}<|im_end|>\n<|im_start|>assistant\n",
    role_markers=("<|im_start|>user\n", "<|im_end|>\n", "<|im_start|>assistant\n"),
    tiny=tiny,
)
