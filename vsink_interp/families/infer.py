"""Infer the form of a model of no known family from its modules and processor."""

from collections.abc import Mapping
from typing import Any

from PIL import Image

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
IMAGE_TOKEN = ("processor.image_token", "config.image_token_id")


def infer(hf_model: Any, processor: Any) -> Family:
    """The form of a model of no known family, if its parts have the usual names.

    Where image tokens lie in the image is unknown: an image is one row of tokens without a box.
    If tower or projector is not found, the decoder is open and the vision hooks are refused.

    **Raises:** `CapabilityError` naming the part that was not found, and where it was looked for.
    """
    found, kind = _parts(hf_model), hf_model.config.model_type
    _refuse_lacking(hf_model.config, processor, found)
    return Family(
        name=f"{kind}, inferred",
        model_types=(kind,),
        decoder=str(found["decoder layers"]).removesuffix(".layers"),
        head=str(found["output projection"]),
        vision_layers=found["vision layers"] or "",
        vision_taps=STREAM_LAYER,
        refused=unseen(found),
        projector=found["projector"] or "",
        marker=_marker(processor),
        template="{content}",
        role_markers=(),
        inferred=True,
        **_around(hf_model.config, processor),
    )


def _around(config: Any, processor: Any) -> dict[str, Any]:
    """How image tokens come into a prompt: in the place of a marker, or before it all (BLIP-2)."""
    if getattr(processor, "num_query_tokens", None) is not None:
        return {"spans": query_spans, "prepends": True, "text_alone": False}
    return {"spans": counted_spans, "suffix": _suffix(config, processor)}


def _parts(hf_model: Any) -> Mapping[str, str | None]:
    """The module paths of the parts of a model; None for what has no usual name."""
    paths = dict(hf_model.named_modules())
    return {
        "decoder layers": _first(paths, [f"{path}.layers" for path in DECODERS]),
        "output projection": _first(paths, HEADS),
        "vision layers": _first(paths, TOWERS),
        "projector": _first(paths, PROJECTORS),
    }


def _refuse_lacking(config: Any, processor: Any, found: Mapping[str, str | None]) -> None:
    text = config.get_text_config(decoder=True)
    if config.is_encoder_decoder or text.is_encoder_decoder:
        raise CapabilityError(
            f"the model type {config.model_type!r} reads the prompt in an encoder, beside its "
            "decoder, so no decoder layer attends to image tokens and prompt: there is nothing "
            "for flows and edits to act on. Open a model whose decoder reads the prompt"
        )
    sought = {"decoder layers": DECODERS, "output projection": HEADS}
    lacking = {what: at for what, at in sought.items() if found[what] is None}
    if not _marker(processor) or getattr(config, "image_token_id", None) is None:
        lacking["image token"] = IMAGE_TOKEN
    if lacking:
        around = f" around {text.model_type!r}" * (text.model_type != config.model_type)
        raise CapabilityError(
            f"the model type {config.model_type!r}{around} is of no known family, and its layout "
            "could not be inferred: "
            + "; ".join(f"no {what} at {', '.join(at)}" for what, at in lacking.items())
            + ". A family is one file: see docs/adding-a-family.md"
        )


def _marker(processor: Any) -> str:
    """The token that the processor replaces by an image; empty if it does not say."""
    marker = getattr(processor, "image_token", None)
    return str(getattr(marker, "content", marker) or "")


def unseen(found: Mapping[str, str | None]) -> dict[str, str]:
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
    config: Any, processor: Any, images: list[Image.Image], inputs: Mapping[str, Any]
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


def _suffix(config: Any, processor: Any) -> str:
    """What the processor writes after the last token of an image: part of it, not of the query."""
    tokens, made = (
        processor.tokenizer,
        _made_of(processor, Image.new("RGB", (70, 56)), return_offsets_mapping=True),
    )
    ids, ends = made["input_ids"][0].tolist(), made["offset_mapping"][0, :, 1].tolist()
    if config.image_token_id not in ids:
        return ""
    last = max(at for at, number in enumerate(ids) if number == config.image_token_id)
    behind = "".join(tokens.convert_ids_to_tokens(ids[last + 1 :]))
    length = max(ends) - ends[last]
    return behind[:length].ljust(length)


def query_spans(
    config: Any, processor: Any, images: list[Image.Image], inputs: Mapping[str, Any]
) -> tuple[ImageSpan, ...]:
    """The query tokens of BLIP-2 and InstructBLIP: as many for every image, none of a place."""
    del config, inputs
    return tuple(ImageSpan((1, processor.num_query_tokens)) for _ in images)


def _alone(config: Any, processor: Any, image: Image.Image) -> int:
    """How many image tokens the processor makes of one image."""
    return int((_made_of(processor, image)["input_ids"] == config.image_token_id).sum())


def _made_of(processor: Any, image: Image.Image, **more: Any) -> Mapping[str, Any]:
    """What the processor makes of an image without a prompt."""
    return processor(text=[_marker(processor)], images=[image], return_tensors="pt", **more)
