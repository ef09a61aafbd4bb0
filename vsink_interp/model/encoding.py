"""`Encoding`: images and prompts as model inputs, with a layout that says what each token is."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from jaxtyping import Bool, Int
from PIL.Image import Image
from torch import Tensor

from ..engine.cached_prefix import CachedPrefix
from ..errors import InputError
from ..families import Family
from ..results import Run
from ..tokens import TokenLayout
from .messages import conversation, is_conversation
from .prompt_layout import OFFSETS, Placed, lay_out, place_images, place_videos
from .rendering import IMAGE, VIDEO, Prompt, render
from .video import Shown, as_shown, filming


@final
@dataclass(frozen=True, eq=False, repr=False)
class Encoding:
    """Model inputs for one prompt or a batch, with their token layout.

    **Attributes:**

    - `inputs`: the keyword arguments of the Hugging Face model.
    - `layout`: what every token is.
    - `images`: the original images of each sample.
    - `prompts`: the rendered prompts.
    - `batched`: whether prompts were given as a list.
    - `cached_prefix`: keys and values of a prefix read earlier, if the prompt continues one;
        `inputs` and `layout` cover both.
    - `chat`: whether prompts were put into the chat format.
    - `pad`, `ends`: the ids of the token that fills shorter answers up, and of those that end one.
    - `made_by`: the family and vocabulary that it was made for; empty if that is not known.
    """

    inputs: Mapping[str, Tensor]
    layout: TokenLayout
    images: tuple[tuple[Image, ...], ...]
    prompts: tuple[str, ...]
    batched: bool
    cached_prefix: CachedPrefix | None = None
    chat: bool = True
    tokenizer: Any = None
    pad: int | None = None
    ends: tuple[int, ...] = ()
    made_by: str = ""

    def __repr__(self) -> str:
        sizes = ", ".join(f"{image.width}x{image.height}" for row in self.images for image in row)
        lines = str(self.layout).splitlines()
        more = f" and {len(lines) - 1} more" if len(lines) > 1 else ""
        return f"Encoding({lines[0]}{more}, images=[{sizes}])"

    @property
    def pixels(self) -> str:
        """The name of the input that holds pixels; empty without images."""
        # Video-LLaVA's processor has a name of its own for them.
        names = ("pixel_values", "pixel_values_images")
        return next((name for name in names if name in self.inputs), "")

    def _repr_html_(self) -> str:
        from ..plot.notebook import encoding_html

        return encoding_html(self)

    def marked(self, word: str, tokens: Bool[Tensor, "batch token"]) -> "Encoding":
        """The encoding with tokens of your own choice under a word, `vsink` or `top(...)`.

        **Raises:** `LayoutError` for a mask of another shape.
        """
        return replace(self, layout=self.layout.marked(word, tokens))

    def with_answer(
        self, answer: "Run | str | Sequence[str] | Int[Tensor, 'batch new']"
    ) -> "Encoding":
        """Prompts and an answer to each, to be read in one pass; its tokens count as generated.

        ```python
        encoding = lmm.encode(image, "What is this?").with_answer("a red circle")
        run = lmm.run(encoding, graph=vi.probes.AttentionMaps())
        ```

        **Arguments:**

        - `answer`: what a run generated; a text, one per prompt of a batch; or token ids. A run
            knows where the shorter answers of its batch end; of ids, trailing padding is left out.

        **Raises:** `InputError` for an empty text, or texts that are not one per prompt.
        """
        if isinstance(answer, Run):
            return self._answered(answer.generated, answer.answered)
        if isinstance(answer, Tensor):
            return self._answered(answer, self._real(answer))
        return self._answered(*self._spelt([answer] if isinstance(answer, str) else list(answer)))

    def _real(self, answer: Int[Tensor, "batch new"]) -> Bool[Tensor, "batch new"]:
        """Which tokens are not padding; of several end tokens at the end the first belongs."""
        if self.pad is None:
            return torch.ones_like(answer, dtype=torch.bool)
        real = (answer != self.pad).flip(-1).cumsum(-1).flip(-1) > 0
        if self.pad in self.ends:
            real = real.roll(1, -1)
        real[:, :1] = True
        return real

    def _answered(
        self, answer: Int[Tensor, "batch new"], real: Bool[Tensor, "batch new"]
    ) -> "Encoding":
        ids, mask = self.inputs["input_ids"], self.inputs["attention_mask"]
        answer, real = answer.to(ids.device), real.to(ids.device)
        # What says of each token which kind it is: 0 is text, but 1 what answers a prefix.
        kind = int(self.layout.sight == "prefix")
        longer = {
            name: torch.cat([x, x.new_full(answer.shape, kind)], 1)
            for name, x in self.inputs.items()
            if name.endswith("token_type_ids") and x.shape == ids.shape
        }
        if (crossed := self.inputs.get("cross_attention_mask")) is not None:
            more = crossed[:, -1:].expand(-1, answer.shape[1], -1, -1)
            longer["cross_attention_mask"] = torch.cat([crossed, more], 1)
        longer["input_ids"] = torch.cat([ids, answer], 1)
        longer["attention_mask"] = torch.cat([mask, real.to(mask.dtype)], 1)
        before = torch.zeros_like(self.layout.roles)
        layout = self.layout.given(answer.shape[1]).without(torch.cat([before, ~real.cpu()], 1))
        return replace(self, inputs={**self.inputs, **longer}, layout=layout)

    def _spelt(
        self, texts: list[str]
    ) -> tuple[Int[Tensor, "batch new"], Bool[Tensor, "batch new"]]:
        """The token ids of answers that are given as text, and which of them are not filling."""
        if len(texts) != self.layout.batch or self.tokenizer is None:
            raise InputError(
                f"{len(texts)} answers for {self.layout.batch} prompts; give one text per prompt"
            )
        rows = [self.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
        if not all(rows):
            raise InputError(f"answers of {[len(row) for row in rows]} tokens; none may be empty")
        longest, fill = max(map(len, rows)), self.pad or self.tokenizer.pad_token_id or 0
        ids = torch.tensor([row + [fill] * (longest - len(row)) for row in rows])
        lengths = torch.tensor([len(row) for row in rows])
        return ids, torch.arange(longest) < lengths[:, None]


def refuse_unplaced(image: Any, prompt: Any, marker: str) -> None:
    """Refuse several images beside one prompt that may be meant for each of them.

    **Arguments:**

    - `marker`: the model's own placeholder for an image.

    **Raises:** `InputError` showing both ways to write it.
    """
    several = isinstance(image, list | tuple) and len(image) > 1
    if (
        several
        and isinstance(prompt, str)
        and not any(one in prompt for one in (IMAGE, VIDEO, marker))
    ):
        placed = f"{' '.join([IMAGE] * len(image))} {prompt}"
        raise InputError(
            f"{len(image)} images beside a prompt that does not place them, which may mean two "
            f"things. The same prompt about each: run(images, [{prompt!r}] * {len(image)}). "
            f"One prompt about all of them: run(images, {placed!r})"
        )


def refuse_default_device() -> None:
    """Refuse to work where torch makes new tensors elsewhere than on the CPU.

    **Raises:** `InputError` saying how to choose the device of the model.
    """
    if (device := torch.get_default_device()).type != "cpu":
        raise InputError(
            f"torch makes new tensors on {device} (torch.set_default_device, or inside `with "
            "torch.device`), and token masks are made on the CPU: call torch.set_default_device("
            "None), and open the model with device= or device_map="
        )


def gather(image: Any, prompt: Any) -> tuple[list[list[Shown]], list[Prompt], bool]:
    """Normalise input: images or videos of each prompt, the prompts, and whether it is a batch.

    **Raises:** `InputError` if their numbers do not match, or a prompt is not text.
    """
    refuse_default_device()
    if is_conversation(prompt):
        talk, shown = conversation(prompt, image)
        return [shown], [talk], False
    batched = not isinstance(prompt, str)
    if batched and not isinstance(prompt, list | tuple):
        raise InputError(f"a prompt is a string or a list of them; got {type(prompt).__name__}")
    prompts = list(prompt) if batched else [prompt]
    if not prompts or not all(isinstance(p, str) or is_conversation(p) for p in prompts):
        raise InputError(
            "a prompt is a string or a list of messages, a batch of them a non-empty list"
        )
    for text in prompts:
        if isinstance(text, str) and (odd := re.search("[\ud800-\udfff]", text)):
            raise InputError(
                f"the prompt has half a character ({odd[0]!r} at {odd.start()}), which no "
                "tokenizer reads; was it decoded with errors='surrogateescape'?"
            )
    if not all(text.strip() for text in prompts if isinstance(text, str)):
        raise InputError("the prompt is empty; ask something, for instance 'Describe the image.'")
    if not batched:
        return [as_shown(image)], prompts, False
    images = list(image) if isinstance(image, list | tuple) else [image] * len(prompts)
    if len(images) != len(prompts):
        raise InputError(
            f"{len(images)} images for {len(prompts)} prompts; a batch has one entry per prompt: a "
            "image, a list of images, or None"
        )
    pairs = [
        (text, as_shown(entry)) if isinstance(text, str) else conversation(text, entry)
        for text, entry in zip(prompts, images, strict=True)
    ]
    return [shown for _, shown in pairs], [text for text, _ in pairs], True


def encode(
    config: Any,
    processor: Any,
    family: Family,
    images: list[list[Shown]],
    prompts: list[Prompt],
    *,
    batched: bool,
    chat: bool,
) -> Encoding:
    """Encode prompts, left-padded to one length, and determine their token layout.

    **Raises:** `InputError` for a prompt without an image, where the family takes none.
    """
    if not family.text_alone and not all(images):
        raise InputError(
            f"{family.name} takes no prompt without an image: its processor writes the prompt "
            "behind an image's tokens. Give one with each, or open another model for text alone"
        )
    family = filming(family, images)
    rendered = [
        render(processor, family, prompt, len(shown), chat=chat)
        for prompt, shown in zip(prompts, images, strict=True)
    ]
    texts = [r.text for r in rendered]
    if family.shows == "video":
        inputs, placed = process_videos(config, processor, family, texts, images)
    else:
        stills = [[one for one in row if isinstance(one, Image)] for row in images]
        inputs = process(processor, family, texts, stills)
        placed = place_images(config, processor, family, stills, inputs)
    layout = lay_out(config, processor, family, inputs, rendered, placed)
    taken = {name: x for name, x in inputs.items() if name not in UNUSED and isinstance(x, Tensor)}
    return Encoding(
        taken,
        layout,
        tuple(one.images for one in placed),
        tuple(texts),
        batched,
        chat=chat,
        tokenizer=processor.tokenizer,
    )


UNUSED = (OFFSETS, "labels")
"""Outputs of processors that are not model inputs: PaliGemma's adds labels for training."""


def process(
    processor: Any, family: Family, texts: list[str], images: list[list[Image]]
) -> Mapping[str, Any]:
    """Run the processor on a left-padded batch, with the character span of each token."""
    flat = [image for shown in images for image in shown]
    if family.sight == "cross-attention" and len({len(shown) for shown in images}) > 1:
        raise InputError(
            "prompts with different numbers of images in one batch: the model pads images, and "
            "rows before an image attend to that padding, so answers would depend on the batch; "
            "run them one by one"
        )
    shown = (images if family.nested else flat) if flat else None
    if family.prepends:
        texts = [_unmarked(family, text) for text in texts]
    made = processor(text=texts, images=shown, **_how(processor, texts))
    return prepended(processor, family, made) if family.prepends else made


def _unmarked(family: Family, text: str) -> str:
    """A prompt without its marker, where the processor writes image tokens by itself.

    **Raises:** `InputError` for a prompt that has other images than one at its beginning.
    """
    rest = text.removeprefix(family.marker)
    if rest == text or family.marker in rest:
        raise InputError(
            f"{family.name} takes one image with each prompt, and its processor writes the image "
            f"before the prompt; got {text!r}"
        )
    return rest


def prepended(processor: Any, family: Family, made: Mapping[str, Any]) -> Mapping[str, Any]:
    """Inputs with all padding in its place, and offsets that count the image's text.

    The processors of BLIP-2 and InstructBLIP write image tokens before everything, so that in a
    batch the padding would stand between an image and its prompt; and a token's offset is that in
    the prompt alone. What InstructBLIP's Q-Former reads of the prompt is padded on the right: its
    positions are counted from the left.
    """
    before = processor.num_query_tokens
    offsets = made[OFFSETS].clone()
    offsets[:, before:] += before * len(family.marker)
    order = made["attention_mask"].argsort(dim=1, stable=True)
    moved = {name: made[name].gather(1, order) for name in ("input_ids", "attention_mask")}
    moved[OFFSETS] = offsets.gather(1, order[..., None].expand_as(offsets))
    if (mask := made.get("qformer_attention_mask")) is not None:
        order = mask.argsort(dim=1, stable=True, descending=True)
        moved |= {name: x.gather(1, order) for name, x in made.items() if name.startswith("qform")}
    return {**made, **moved}


def process_videos(
    config: Any, processor: Any, family: Family, texts: list[str], videos: list[list[Shown]]
) -> tuple[Mapping[str, Any], list[Placed]]:
    """Tokenize a batch of prompts with videos, whose markers become the tokens of their frames."""
    assert family.video is not None  # noqa: S101 (`filming` looks)
    filmed = family.video.film(processor, [one for row in videos for one in row])
    spelt = iter(filmed.texts)
    marker = re.compile(re.escape(family.marker))
    expanded = [marker.sub(lambda _: next(spelt), text) for text in texts]
    made = processor.tokenizer(expanded, **_how(processor, texts))
    inputs = {**made, **filmed.inputs}
    if family.video.typed:  # 0 is text and 1 an image
        inputs["mm_token_type_ids"] = (made["input_ids"] == config.video_token_id) * 2
    return inputs, place_videos(videos, filmed)


def _how(processor: Any, texts: list[str]) -> dict[str, Any]:
    begin = processor.tokenizer.bos_token
    return {
        "padding": True,
        "padding_side": "left",
        "return_tensors": "pt",
        "return_offsets_mapping": True,
        # A template that writes the first token itself must not get it twice.
        "add_special_tokens": not (begin and all(text.startswith(begin) for text in texts)),
    }
