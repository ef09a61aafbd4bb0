"""Mistral 3 (Mistral Small 3.1 and later) with the Pixtral tower: images of any size, and a
token that is not a patch after each row.
"""

from collections.abc import Mapping
from typing import Any

from PIL.Image import Image

from ..tokens import ImageSpan
from .form import Family, LayerTaps, Tap, whole_image

PIXTRAL_LAYER: LayerTaps = {
    "hook_resid_pre": Tap("", "input"),
    "hook_attn_out": Tap("attention", "first output"),
    "mlp.hook_post": Tap("feed_forward.down_proj", "input"),
    "hook_mlp_out": Tap("feed_forward", "output"),
    "hook_resid_post": Tap("", "output"),
}


def sized_spans(
    config: Any, processor: Any, images: list[Image], inputs: Mapping[str, Any]
) -> tuple[ImageSpan, ...]:
    """One grid per image, of merged patches, over all of it."""
    patch = config.vision_config.patch_size * config.spatial_merge_size
    del processor
    return tuple(
        ImageSpan((int(height) // patch, int(width) // patch), whole_image(image))
        for image, (height, width) in zip(images, inputs["image_sizes"], strict=True)
    )


def tiny() -> tuple[Any, Any]:
    """A tiny Mistral 3."""
    from transformers import Mistral3Config
    from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil

    from .processing import Composed
    from .tiny import TEXT, VISION, fill, tokenizer

    words = tokenizer("[IMG]", "[IMG_BREAK]", "[IMG_END]")
    images = fill(
        PixtralImageProcessorPil, size={"longest_edge": 112}, patch_size={"height": 28, "width": 28}
    )
    processor = Composed(images, words, rows_of_patches(28), marker="[IMG]")
    config = fill(Mistral3Config,
        text_config={
            **TEXT, "vocab_size": len(words), "model_type": "mistral", "sliding_window": None,
        },
        vision_config={
            **VISION, "image_size": 112, "patch_size": 14, "model_type": "pixtral", "head_dim": 16,
        },
        image_token_index=4,
        spatial_merge_size=2,
        tie_word_embeddings=False,
    )  # fmt: skip
    return config, processor


def rows_of_patches(patch: int) -> Any:
    """How Pixtral's processor writes an image: rows of patches, each ended by a mark."""

    def expand(inputs: Mapping[str, Any], number: int) -> str:
        height, width = inputs["image_sizes"][number]
        row = "[IMG]" * (int(width) // patch)
        return "[IMG_BREAK]".join([row] * (int(height) // patch)) + "[IMG_END]"

    return expand


MISTRAL3 = Family(
    name="Mistral 3",
    model_types=("mistral3",),
    decoder="model.language_model",
    vision_layers="model.vision_tower.transformer.layers",
    vision_taps=PIXTRAL_LAYER,
    projector="model.multi_modal_projector",
    merged="squares",
    projected="q d",
    spans=sized_spans,
    framed=True,
    marker="[IMG]",
    suffix="[IMG_END]",
    template="[INST]{content}[/INST]",
    role_markers=("[INST]", "[/INST]"),
    tiny=tiny,
)
