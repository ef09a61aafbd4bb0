"""Infer the form of a model of no known family from its modules and processor."""

from collections.abc import Mapping
from typing import Any

from PIL.Image import Image

from ..errors import CapabilityError
from ..graph import HOOKS
from ..tokens import ImageSpan
from .form import STREAM_LAYER, Family

DECODERS = ("model.language_model", "model.text_model", "language_model.model")
HEADS = ("lm_head", "language_model.lm_head")
TOWERS = (
    "model.vision_tower.encoder.layers",
    "model.vision_tower.layers",
    "model.vision_tower.transformer.layers",
    "model.vision_model.encoder.layers",
    "model.visual.blocks",
    "vision_model.model.layers",
)
PROJECTORS = (
    "model.multi_modal_projector",
    "model.connector",
    "model.aligner",
    "model.mm_projector",
    "model.visual.merger",
    "multi_modal_projector",
)


def infer(hf_model: Any, processor: Any) -> Family:
    """The form of a model of no known family, if its parts have the usual names.

    Where image tokens lie in the image is unknown: an image is one row of tokens without a box.
    If tower or projector is not found, the decoder is open and the vision hooks are refused.

    **Raises:** `CapabilityError` naming the part that was not found, and where it was looked for.
    """
    paths = dict(hf_model.named_modules())
    found = {
        "decoder layers": _first(paths, [f"{path}.layers" for path in DECODERS]),
        "output projection": _first(paths, HEADS),
        "vision layers": _first(paths, TOWERS),
        "projector": _first(paths, PROJECTORS),
    }
    sought = {"decoder layers": DECODERS, "output projection": HEADS}
    lacking = {what: at for what, at in sought.items() if found[what] is None}
    kind = hf_model.config.model_type
    marker = getattr(processor, "image_token", None)
    if marker is None or getattr(hf_model.config, "image_token_id", None) is None:
        lacking["image token"] = ("processor.image_token", "config.image_token_id")
    if lacking:
        raise CapabilityError(
            f"the model type {kind!r} is of no known family, and its layout could not be inferred: "
            + "; ".join(f"no {what} at {', '.join(at)}" for what, at in lacking.items())
            + ". A family is one file: see docs/adding-a-family.md"
        )
    return Family(
        name=f"{kind}, inferred",
        model_types=(kind,),
        decoder=str(found["decoder layers"]).removesuffix(".layers"),
        head=str(found["output projection"]),
        vision_layers=found["vision layers"] or "",
        vision_taps=STREAM_LAYER,
        refused=_unseen(found),
        projector=found["projector"] or "",
        spans=counted_spans,
        marker=str(marker),
        template="{content}",
        role_markers=(),
        inferred=True,
    )


def _unseen(found: Mapping[str, str | None]) -> dict[str, str]:
    """The vision hooks of parts that were not found, and why."""
    sought = {"vision layers": ("vision_encoder.", TOWERS), "projector": ("vision_p", PROJECTORS)}
    return {
        point.template: f"it has no {what} at {', '.join(at)}"
        for what, (prefix, at) in sought.items()
        for point in HOOKS
        if found[what] is None and point.template.startswith(prefix)
    }


def _first(paths: Mapping[str, Any], wanted: Any) -> str | None:
    return next((path for path in wanted if path in paths), None)


def counted_spans(
    config: Any, processor: Any, images: list[Image], inputs: Mapping[str, Any]
) -> tuple[ImageSpan, ...]:
    """One row of tokens per image, counted in what the processor makes of that image alone.

    Runs of image tokens do not tell: a row of an image may end in another token, and images may
    stand side by side.

    **Raises:** `CapabilityError` if tokens cannot be assigned to images.
    """
    total = int((inputs["input_ids"] == config.image_token_id).sum())
    if len(images) == 1:
        return (ImageSpan((1, total)),)
    counts = [_alone(config, processor, image) for image in images]
    if sum(counts) != total or not all(counts):
        raise CapabilityError(
            f"the processor makes {counts} tokens of these images one by one and {total} of them "
            "together: which token is of which image is not known for an inferred family; give "
            "one image, or add the family: see docs/adding-a-family.md"
        )
    return tuple(ImageSpan((1, count)) for count in counts)


def _alone(config: Any, processor: Any, image: Image) -> int:
    """How many image tokens the processor makes of one image."""
    made = processor(text=[processor.image_token], images=[image], return_tensors="pt")
    return int((made["input_ids"] == config.image_token_id).sum())
