"""From pictures and prompts to what the model takes, with the place of every token."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from jaxtyping import Int
from PIL.Image import Image
from torch import Tensor

from .errors import InputError
from .families import Family
from .past import Past
from .pictures import as_picture
from .tokens import CODE, PAD, ImageSpan, TokenLayout


@final
@dataclass(frozen=True, eq=False)
class Encoding:
    """A prompt, or a batch of them, as the model takes it.

    **Attributes:**

    - `inputs`: exactly what the Hugging Face model takes.
    - `tokens`: what every token is.
    - `pictures`: the original pictures of each sample.
    - `prompts`: the rendered prompts.
    - `batched`: whether prompts were given as a list.
    - `past`: what was read before, where a question goes on from it; `inputs` and `tokens` cover
        both.
    """

    inputs: Mapping[str, Tensor]
    tokens: TokenLayout
    pictures: tuple[tuple[Image, ...], ...]
    prompts: tuple[str, ...]
    batched: bool
    past: Past | None = None

    def with_answer(self, answer: Int[Tensor, "batch new"]) -> "Encoding":
        """Prompts and an answer to them, to be read in one pass; its tokens count as generated."""
        mask = self.inputs["attention_mask"]
        ones = mask.new_ones(answer.shape)
        longer = {
            "input_ids": torch.cat([self.inputs["input_ids"], answer], 1),
            "attention_mask": torch.cat([mask, ones], 1),
        }
        layout = self.tokens.extend(answer.shape[1])
        return replace(self, inputs={**self.inputs, **longer}, tokens=layout)


@final
@dataclass(frozen=True)
class Rendered:
    """A prompt in the model's chat format, and the characters that are the user's own."""

    text: str
    content: tuple[tuple[int, int], ...]
    roles: tuple[tuple[int, int], ...]

    @property
    def start(self) -> int:
        """Where the user's content begins."""
        return min(begin for begin, _ in self.content)


def gather(image: Any, prompt: Any) -> tuple[list[list[Image]], list[str], bool]:
    """One list of pictures per prompt, the prompts, and whether they were given as a batch.

    **Raises:** `InputError` if their numbers do not match, or a prompt is no text.
    """
    batched = not isinstance(prompt, str)
    if batched and not isinstance(prompt, list | tuple):
        raise InputError(f"a prompt is a string or a list of them; got {type(prompt).__name__}")
    prompts = list(prompt) if batched else [prompt]
    if not prompts or not all(isinstance(text, str) for text in prompts):
        raise InputError("a prompt is a string, or a batch of them a non-empty list of strings")
    if not all(text.strip() for text in prompts):
        raise InputError("the prompt is empty; ask something, for instance 'Describe the image.'")
    if not batched:
        return [_pictures(image)], prompts, False
    images = list(image) if isinstance(image, list | tuple) else [image] * len(prompts)
    if len(images) != len(prompts):
        raise InputError(
            f"{len(images)} images for {len(prompts)} prompts; a batch has one entry per prompt: a "
            "picture, a list of pictures, or None"
        )
    return [_pictures(entry) for entry in images], prompts, True


def _pictures(entry: Any) -> list[Image]:
    if entry is None:
        return []
    many = entry if isinstance(entry, list | tuple) else [entry]
    return [as_picture(picture) for picture in many]


def render(processor: Any, family: Family, prompt: str, n_images: int, *, chat: bool) -> Rendered:
    """Put a prompt into the model's chat format; pictures come first unless it places them.

    **Raises:** `InputError` if the prompt's placeholders and its pictures differ in number.
    """
    placeholder = family.placeholder
    found = prompt.count(placeholder)
    if found and found != n_images:
        raise InputError(
            f"the prompt has {found} {placeholder} for {n_images} pictures; write one for each, or "
            "none to put the pictures first"
        )
    if not chat:
        if n_images and not found:
            raise InputError(f"with chat=False the prompt must hold {placeholder} for each picture")
        return _locate(family, prompt, *_raw_content(family, prompt))
    frame = _chat(processor, family, 0 if found else n_images)
    begin = frame.find(_SENTINEL)
    if frame.count(_SENTINEL) != 1:
        raise InputError(f"the chat template does not hold the prompt once: {frame!r}")
    own = prompt.strip()
    return _locate(family, frame.replace(_SENTINEL, own), begin, begin + len(own))


_SENTINEL = "\ue000prompt\ue001"
"""Stands for the prompt while the template is applied: a prompt may occur in the template too."""


def _chat(processor: Any, family: Family, n_images: int) -> str:
    if getattr(processor, "chat_template", None):
        content = [{"type": "image"}] * n_images + [{"type": "text", "text": _SENTINEL}]
        return processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
    return family.template.format(content="\n".join([family.placeholder] * n_images + [_SENTINEL]))


def answer_marker(processor: Any, family: Family) -> str:
    """What the chat format puts between a prompt and its answer, as in `" ASSISTANT:"`."""
    return _chat(processor, family, 0).split(_SENTINEL)[1]


def _markers(family: Family, text: str) -> list[tuple[int, int]]:
    words = "|".join(re.escape(marker) for marker in family.role_markers)
    return [match.span() for match in re.finditer(words, text)]


def _raw_content(family: Family, text: str) -> tuple[int, int]:
    """The user's part of a prompt that came in its final form: between its role markers."""
    found = _markers(family, text)
    return (found[0][1] if found else 0), (found[-1][0] if len(found) > 1 else len(text))


def _locate(family: Family, text: str, begin: int, end: int) -> Rendered:
    pictures = [match.span() for match in re.finditer(re.escape(family.placeholder), text)]
    content = ((begin, end), *pictures)
    roles = tuple(span for span in _markers(family, text) if not _touches(span, content))
    return Rendered(text, content, roles)


def _touches(span: tuple[int, int], others: Sequence[tuple[int, int]]) -> bool:
    return any(span[0] < end and begin < span[1] for begin, end in others)


def encode(
    config: Any,
    processor: Any,
    family: Family,
    pictures: list[list[Image]],
    prompts: list[str],
    *,
    batched: bool,
    chat: bool,
) -> Encoding:
    """Encode prompts, left-padded to one length, and lay out their tokens."""
    rendered = [
        render(processor, family, prompt, len(images), chat=chat)
        for prompt, images in zip(prompts, pictures, strict=True)
    ]
    flat = [picture for images in pictures for picture in images]
    inputs = processor(
        text=[r.text for r in rendered],
        images=flat or None,
        padding=True,
        padding_side="left",
        return_tensors="pt",
    )
    layout = lay_out(config, processor, family, inputs, rendered, pictures)
    texts = tuple(r.text for r in rendered)
    return Encoding(dict(inputs), layout, tuple(map(tuple, pictures)), texts, batched)


def lay_out(
    config: Any,
    processor: Any,
    family: Family,
    inputs: Mapping[str, Tensor],
    rendered: list[Rendered],
    pictures: list[list[Image]],
) -> TokenLayout:
    """Say what each token of encoded prompts is.

    **Raises:** `InputError` if the processor's tokens cannot be matched with the prompt's text.
    """
    ids, attended = inputs["input_ids"], inputs["attention_mask"]
    segments = torch.full_like(ids, PAD)
    index = torch.full_like(ids, -1)
    roles = torch.zeros_like(ids, dtype=torch.bool)
    images: list[tuple[ImageSpan, ...]] = []
    for sample, text in enumerate(rendered):
        real = attended[sample].bool()
        spans = family.spans(config, processor, pictures[sample])
        row = _row(processor, config.image_token_id, ids[sample][real].tolist(), text, spans)
        segments[sample, real] = torch.tensor([code for code, _, _ in row])
        index[sample, real] = torch.tensor([image for _, image, _ in row])
        roles[sample, real] = torch.tensor([role for _, _, role in row])
        images.append(spans)
    return TokenLayout(segments, index, roles, tuple(images), ids.shape[1])


def _row(
    processor: Any,
    image_id: int,
    ids: list[int],
    text: Rendered,
    spans: tuple[ImageSpan, ...],
) -> list[tuple[int, int, bool]]:
    """Segment code, image number and role of each token, matched with the unexpanded text."""
    tokenizer = processor.tokenizer
    raw = tokenizer(text.text, return_offsets_mapping=True)
    found: list[tuple[int, int, bool]] = []
    image = -1
    for token, (begin, end) in zip(raw["input_ids"], raw["offset_mapping"], strict=True):
        if token == image_id:
            image += 1
            found += [(CODE["image"], image, False)] * spans[image].size
        elif len(found) < len(ids) and ids[len(found)] == token:
            found.append(
                (_segment(token, tokenizer, begin, text), -1, _touches((begin, end), text.roles))
            )
        else:
            raise InputError(f"the processor's tokens do not match the prompt {text.text!r}")
    images = [token == image_id for token in ids]
    if images != [code == CODE["image"] for code, _, _ in found]:
        raise InputError(
            f"expected {[span.size for span in spans]} image tokens, the processor made "
            f"{sum(images)}"
        )
    return found


def _segment(token: int, tokenizer: Any, begin: int, text: Rendered) -> int:
    if token == tokenizer.bos_token_id:
        return CODE["bos"]
    return CODE["system"] if begin < text.start else CODE["query"]
