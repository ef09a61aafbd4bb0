"""Prompts in a model's chat format, and the role of their characters."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, TypeAlias, final

from ..errors import InputError
from ..families import Family
from .messages import Chars, Conversation, write

IMAGE = "<image>"
"""The placeholder for an image in a prompt, whatever the model's own token for it is."""
VIDEO = "<video>"
"""The same for a video."""


@final
@dataclass(frozen=True)
class Rendered:
    """A prompt in the model's chat format, and the role of its characters.

    **Attributes:**

    - `text`: the prompt, with one placeholder for each image.
    - `content`: the user's own characters, placeholders included.
    - `roles`: role markers.
    - `placeholders`: the characters that stand for each image.
    - `markers`: the part of each placeholder that the processor replaces by the image.
    - `turn`: where the user's last message begins; what the user and the assistant said before it
        is history.
    - `turns`: the characters of each message of user and assistant, placeholders included; by
        default the prompt is one.
    """

    text: str
    content: tuple[Chars, ...]
    roles: tuple[Chars, ...]
    placeholders: tuple[Chars, ...]
    markers: tuple[Chars, ...]
    turn: int = 0
    turns: tuple[tuple[Chars, ...], ...] = ()

    @property
    def spoken(self) -> tuple[tuple[Chars, ...], ...]:
        """The characters of each message, in order."""
        return self.turns or (self.content,)

    @property
    def start(self) -> int:
        """The start of the user's content."""
        return min(begin for begin, _ in self.content)


Prompt: TypeAlias = str | Conversation


def render(
    processor: Any, family: Family, prompt: Prompt, n_images: int, *, chat: bool
) -> Rendered:
    """Put a prompt into the model's chat format; images come first unless it says where they go.

    **Raises:** `InputError` if the number of placeholders differs from the number of images, or a
    video is placed where none is shown.
    """
    if isinstance(prompt, Conversation):
        return _converse(processor, family, prompt, chat=chat)
    own = _with_placeholders(family, prompt)
    found = own.count(family.marker)
    _refuse_misplaced(family, own, found, n_images, chat=chat)
    if not chat:
        return _locate(family, own, (_raw_content(family, own),))
    frame = _chat(processor, family, 0 if found else n_images)
    begin = frame.find(_SENTINEL)
    if frame.count(_SENTINEL) != 1:
        raise InputError(f"the chat template does not hold the prompt once: {frame!r}")
    own = own.strip()
    return _locate(family, frame.replace(_SENTINEL, own), ((begin, begin + len(own)),))


def _with_placeholders(family: Family, prompt: str) -> str:
    """The prompt with the family's own placeholders for images, or for videos."""
    own = prompt.replace(IMAGE, family.word)
    if family.shows == "video":
        return own.replace(VIDEO, family.word)
    if VIDEO in own:
        raise InputError(
            f"the prompt places a {VIDEO}, and no video is shown with it; give frames, "
            f"vi.Video([image, image, ...]), or write {IMAGE} for an image"
        )
    return own


def _refuse_misplaced(family: Family, own: str, found: int, n_images: int, *, chat: bool) -> None:
    if not chat and not own.startswith(family.opening):
        raise InputError(f"with chat=False the prompt must begin with {family.opening!r}")
    if not chat and found != n_images:
        raise InputError(
            f"with chat=False the prompt must hold {IMAGE} for each of the {n_images} images, "
            f"and it has {found}"
        )
    if found and found != n_images:
        raise InputError(
            f"the prompt has {found} {IMAGE} for {n_images} images; write one for each, or "
            "none to put the images first"
        )


def _converse(processor: Any, family: Family, talk: Conversation, *, chat: bool) -> Rendered:
    if not chat:
        raise InputError("messages are put into the chat format; with chat=False give one text")
    written = write(processor, family, talk)
    found = _locate(family, written.text, written.content)
    shown = iter(found.placeholders)
    turns = tuple(
        (*texts, *islice(shown, n_images))
        for texts, n_images in zip(written.turns, written.shown, strict=True)
    )
    return replace(found, turn=min(begin for begin, _ in turns[-1]), turns=turns)


_SENTINEL = "\ue000prompt\ue001"
"""Replaces the prompt while the template is applied, as the template may contain the prompt."""


def _chat(processor: Any, family: Family, n_images: int) -> str:
    if getattr(processor, "chat_template", None):
        content = [{"type": family.shows}] * n_images + [{"type": "text", "text": _SENTINEL}]
        return processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
    glue = "" if family.prepends else "\n"
    return family.template.format(content=glue.join([family.word] * n_images + [_SENTINEL]))


def answer_marker(processor: Any, family: Family) -> str:
    """The text that the chat format puts between prompt and answer, as in `" ASSISTANT:"`."""
    return _chat(processor, family, 0).split(_SENTINEL)[1]


def _markers(family: Family, text: str) -> list[tuple[int, int]]:
    words = "|".join(re.escape(marker) for marker in family.role_markers)
    return [match.span() for match in re.finditer(words, text)]


def _raw_content(family: Family, text: str) -> tuple[int, int]:
    """The user's part of an already rendered prompt: the text between its role markers."""
    found = _markers(family, text)
    return (found[0][1] if found else 0), (found[-1][0] if len(found) > 1 else len(text))


def _locate(family: Family, text: str, own: tuple[Chars, ...]) -> Rendered:
    marker = family.marker
    before, _, after = family.word.partition(marker)
    markers = tuple(match.span() for match in re.finditer(re.escape(marker), text))
    placeholders = tuple(
        (
            first - len(before) * text[:first].endswith(before),
            last + len(after) * text[last:].startswith(after),
        )
        for first, last in markers
    )
    content = (*own, *placeholders)
    roles = tuple(span for span in _markers(family, text) if not touches(span, content))
    return Rendered(text, content, roles, placeholders, markers)


def touches(span: tuple[int, int], others: Sequence[tuple[int, int]]) -> bool:
    """Whether a piece of text overlaps one of others."""
    return any(span[0] < end and begin < span[1] for begin, end in others)
