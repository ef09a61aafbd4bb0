"""Idefics3 and SmolVLM: tiles with words between them, then the whole image."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from PIL.Image import Image

from ..tokens import ImageSpan, View
from .form import Family, tiled, whole_image

FAKE = "<fake_token_around_image>"


def split_spans(
    config: Any, processor: Any, images: list[Image], inputs: Mapping[str, Any]
) -> tuple[ImageSpan, ...]:
    """Per image its tiles in raster order, if it is cut at all, then all of it."""
    del config, inputs
    side = round(processor.image_seq_len**0.5)
    settings = processor.image_processor
    found = []
    for image in images:
        whole = View((side, side), whole_image(image))
        rows = columns = 0
        if settings.do_image_splitting:
            _, rows, columns = settings.get_number_of_image_patches(image.height, image.width, {})
        tiles = tiled(image, rows, columns, side)
        found.append(ImageSpan.of((*tiles, whole), len(tiles)))
    return tuple(found)


def tiny(kind: str) -> tuple[Any, Any]:
    """A tiny model of a kind, `Idefics3` or `SmolVLM`.

    SmolVLM's own processor needs a package that spells out numbers of video frames.
    """
    import transformers

    from .tiny import TEXT, VISION, fill, tokenizer

    tiles = [f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)]
    words = tokenizer("<image>", FAKE, "<global-img>", "<end_of_utterance>", *tiles)
    images = getattr(transformers, f"{kind}ImageProcessorPil")(
        size={"longest_edge": 112}, max_image_size={"longest_edge": 56}
    )
    config = getattr(transformers, f"{kind}Config")(
        text_config={**TEXT, "vocab_size": len(words), "model_type": "llama"},
        vision_config={**VISION, "image_size": 56, "patch_size": 14},
        image_token_id=4,
        scale_factor=2,
        pad_token_id=0,
    )
    return config, fill(transformers.Idefics3Processor, images, words, image_seq_len=4)


IDEFICS3 = Family(
    name="Idefics3",
    model_types=("idefics3",),
    decoder="model.text_model",
    vision_layers="model.vision_model.encoder.layers",
    projector="model.connector",
    merged="squares",
    spans=split_spans,
    nested=True,
    tiles_by_prompt=True,
    suffix=FAKE,
    template="User: {content}<end_of_utterance>\nAssistant:",
    role_markers=("User:", "<end_of_utterance>\n", "Assistant:"),
    tiny=partial(tiny, "Idefics3"),
)

SMOLVLM = replace(IDEFICS3, name="SmolVLM", model_types=("smolvlm",), tiny=partial(tiny, "SmolVLM"))
