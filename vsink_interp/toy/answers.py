"""Greedy answers of the toy LMM in plain transformers, with or without cut attention.

Nothing of the library's engine is used: a hook adds to the attention mask that transformers
itself made. So what is measured here is also an independent check of the library.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

from .data import pixel_values
from .model import IMAGE
from .scenes import Scene


@dataclass(frozen=True, eq=False)
class Prompts:
    """Tokenised prompts, padded on the left, each with its image."""

    ids: Int[Tensor, "batch token"]
    mask: Int[Tensor, "batch token"]
    pixels: Float[Tensor, "batch channel height width"]
    image: Bool[Tensor, "batch token"]
    query: Bool[Tensor, "batch token"]

    def __getitem__(self, index: slice) -> "Prompts":
        return Prompts(*(getattr(self, name)[index] for name in self.__dataclass_fields__))


def prompts(
    tokenizer: PreTrainedTokenizerFast, scenes: Sequence[Scene], texts: Sequence[str]
) -> Prompts:
    """One prompt for each scene and text; `query` are the tokens after the image."""
    pixels = pixel_values(scenes)
    image = IMAGE * 64
    whole = [f"user : {image} {text} assistant :" for text in texts]
    made = tokenizer(whole, padding=True, return_tensors="pt")
    places = made["input_ids"] == tokenizer.convert_tokens_to_ids(IMAGE)
    after = (places.cumsum(1) == 64) & ~places
    return Prompts(made["input_ids"], made["attention_mask"], pixels, places, after)


@dataclass(frozen=True, eq=False)
class Cut:
    """What is cut: at layer `l` the columns `columns(l)` from query rows, generated rows, or both.

    `columns` gives [batch token] over the prompt, or None where nothing is cut.
    """

    columns: Callable[[int], Bool[Tensor, "batch token"] | None]
    from_query: bool = True
    from_generated: bool = True


def image_from(layer: int, given: Prompts, *, query: bool, generated: bool) -> Cut:
    """Cut the image off from query and/or generated rows, in every layer from `layer` on."""
    return Cut(lambda at: given.image if at >= layer else None, query, generated)


@contextmanager
def cutting(
    model: LlavaForConditionalGeneration, given: Prompts, cut: Cut | None
) -> Generator[None]:
    """Within it, every pass over these prompts (prefill and decoding) is cut."""
    handles = []
    length = given.ids.shape[1]

    def hook(layer: int) -> Callable[..., tuple[tuple, dict]]:
        def edit(_: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
            columns = cut.columns(layer) if cut is not None else None
            if cut is None or columns is None:
                return args, kwargs
            mask = kwargs["attention_mask"]
            rows, keys = mask.shape[-2:]
            if rows >= length:
                made = given.query.new_full((len(given.ids), rows - length), cut.from_generated)
                reading = torch.cat([given.query & cut.from_query, made], 1)
            else:
                reading = given.query.new_full((len(given.ids), rows), cut.from_generated)
            hidden = nn.functional.pad(columns, (0, keys - length))
            blocked = (reading[:, :, None] & hidden[:, None, :]).unsqueeze(1).to(mask.device)
            kwargs["attention_mask"] = mask.masked_fill(blocked, torch.finfo(mask.dtype).min)
            return args, kwargs

        return edit

    for number, layer in enumerate(model.model.language_model.layers):
        handles.append(layer.register_forward_pre_hook(hook(number), with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def generate(
    model: LlavaForConditionalGeneration,
    given: Prompts,
    *,
    tokens: int,
    cut: Cut | None = None,
) -> Int[Tensor, "batch token"]:
    """Greedy continuations of one batch of prompts, padded after the end."""
    device = next(model.parameters()).device
    with cutting(model, given, cut):
        whole = model.generate(  # ty: ignore[invalid-argument-type] - a mixin typed by a protocol
            input_ids=given.ids.to(device),
            attention_mask=given.mask.to(device),
            pixel_values=given.pixels.to(device),
            max_new_tokens=tokens,
            do_sample=False,
        )
    return whole[:, given.ids.shape[1] :].cpu()


def eager(model: LlavaForConditionalGeneration) -> LlavaForConditionalGeneration:
    """The model with eager attention, so that every layer is handed an explicit mask."""
    model.set_attn_implementation("eager")
    return model.eval()
