"""Conversations: lists of chat messages instead of a prompt."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, final

from ..errors import CapabilityError, InputError
from ..families import Family
from .images import as_image
from .video import Shown, Video, as_shown

Chars: TypeAlias = tuple[int, int]
"""Where a piece of text begins and ends."""

ROLES = ("system", "user", "assistant")
_EXAMPLE = (
    "[{'role': 'user', 'content': [{'type': 'image'}, {'type': 'text', 'text': 'What is this?'}]}]"
)


@final
@dataclass(frozen=True)
class Message:
    """One message: who speaks, and its parts in turn, a text or None for an image."""

    role: str
    parts: tuple[str | None, ...]

    @property
    def n_images(self) -> int:
        """How many images it shows."""
        return self.parts.count(None)


@final
@dataclass(frozen=True)
class Conversation:
    """Messages that end in what the user asks."""

    messages: tuple[Message, ...]


def is_conversation(prompt: Any) -> bool:
    """Whether this is one list of messages, and not a batch of prompts."""
    return isinstance(prompt, list | tuple) and bool(prompt) and isinstance(prompt[0], Mapping)


def conversation(given: Sequence[Any], image: Any) -> tuple[Conversation, list[Shown]]:
    """Messages as users have them, and their images or videos in order.

    **Arguments:**

    - `image`: images for the places that bring none of their own; if the messages have no place
        for images, they come first in the first message of the user.

    **Raises:** `InputError` for messages that cannot be read, or images that do not match.
    """
    read = [_message(each) for each in given]
    messages = [message for message, _ in read]
    found = [own for _, own_images in read for own in own_images]
    if messages[-1].role != "user":
        raise InputError(
            f"the last message is the {messages[-1].role}'s, and a conversation ends in what the "
            "user asks; to read an answer with its prompt use encoding.with_answer(text)"
        )
    if not any(part is None or part.strip() for part in messages[-1].parts):
        raise InputError("the last message is empty; ask something")
    loose = as_shown(image)
    if loose and not found:
        first = next(i for i, message in enumerate(messages) if message.role == "user")
        parts = (None,) * len(loose) + messages[first].parts
        messages[first] = Message("user", parts)
        found = list(map(_kind, loose))
    if (places := [own for own in found if isinstance(own, str)]) != list(map(_kind, loose)):
        raise InputError(
            f"the messages have {len(places)} places for images or videos that bring none of their "
            f"own ({', '.join(places)}), and given were: {', '.join(map(_kind, loose)) or 'none'}; "
            "write {'type': 'image', 'image': image}, or give as many of each, in turn"
        )
    rest = iter(loose)
    return Conversation(tuple(messages)), [
        next(rest) if isinstance(own, str) else own for own in found
    ]


def _kind(shown: Shown) -> str:
    return "video" if isinstance(shown, Video) else "image"


def _message(given: Any) -> tuple[Message, list[Shown | str]]:
    role = given.get("role") if isinstance(given, Mapping) else None
    if role not in ROLES or "content" not in given:
        raise InputError(
            f"a message has a role ({', '.join(ROLES)}) and a content, as in {_EXAMPLE}; "
            f"got {given!r}"
        )
    content = given["content"]
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else list(content)
    read = [_part(part) for part in parts]
    images = [own for text, own in read if text is None]
    return Message(role, tuple(text for text, _ in read)), images


def _part(part: Any) -> tuple[str | None, Shown | str]:
    """A text, or None and what is shown: the word for it where only its place is given."""
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return part["text"], ""
    if kind in ("image_url", "video_url"):
        raise InputError(
            "an image at a URL is not fetched: download it first and give its path"
            if kind == "image_url"
            else "a video at a URL is not fetched: download it, sample frames, and give them as "
            "{'type': 'video', 'video': vi.Video([image, image, ...])}"
        )
    if kind == "video":
        own = part.get("video", part.get("path"))
        return None, "video" if own is None else own if isinstance(own, Video) else Video(own)
    if kind != "image":
        raise InputError(
            f"a part of a message is a text, an image or a video, as in {_EXAMPLE}; got {part!r}"
        )
    own = part.get("image", part.get("path"))
    if isinstance(own, list | tuple | Video):
        raise InputError(
            f"a part of type 'image' holds one image; got {type(own).__name__}. Write one part for "
            "each image, and {'type': 'video', 'video': vi.Video(frames)} for frames of a video"
        )
    return None, "image" if own is None else as_image(own)


@final
@dataclass(frozen=True)
class Written:
    """A conversation in the model's chat format.

    **Attributes:**

    - `text`: the prompt, with one placeholder for each image.
    - `content`: the characters of user and assistant.
    - `turns`: where the texts of each message of user and assistant lie.
    - `shown`: how many images each of them shows.
    """

    text: str
    content: tuple[Chars, ...]
    turns: tuple[tuple[Chars, ...], ...]
    shown: tuple[int, ...]


def write(processor: Any, family: Family, given: Conversation) -> Written:
    """Put a conversation into the model's chat format.

    **Raises:** `CapabilityError` for a model without a chat template; `InputError` for a text that
    holds the model's own placeholder for an image.
    """
    if not getattr(processor, "chat_template", None):
        raise CapabilityError(
            f"this processor ({family.name}) has no chat template, so it says not how turns are "
            "written; give one text, with chat=False in the form that the model knows"
        )
    texts = [part for message in given.messages for part in message.parts if part is not None]
    if odd := [text for text in texts if family.marker in text or "<image>" in text]:
        raise InputError(f"{odd[0]!r} holds a placeholder; write {{'type': 'image'}} there")
    numbers = iter(range(len(texts)))
    marked = [
        {
            "role": message.role,
            "content": [
                {"type": family.shows}
                if part is None
                else {"type": "text", "text": _mark(next(numbers))}
                for part in message.parts
            ],
        }
        for message in given.messages
    ]
    frame = processor.apply_chat_template(marked, add_generation_prompt=True, tokenize=False)
    text, spans = _filled(frame, texts)
    rest = iter(spans)
    by_message = [
        (message, tuple(next(rest) for part in message.parts if part is not None))
        for message in given.messages
    ]
    said = [(message, own) for message, own in by_message if message.role != "system"]
    content = tuple(span for _, own in said for span in own)
    return Written(
        text, content, tuple(own for _, own in said), tuple(one.n_images for one, _ in said)
    )


def _mark(number: int) -> str:
    """Stands for a text while the template is applied: a text may occur in the template too."""
    return f"\ue000{number}\ue001"


def _filled(frame: str, texts: list[str]) -> tuple[str, list[Chars]]:
    pieces = re.split("\ue000(\\d+)\ue001", frame)
    if [int(number) for number in pieces[1::2]] != list(range(len(texts))):
        raise InputError(f"the chat template does not hold each message once, in turn: {frame!r}")
    text, spans = pieces[0], []
    for given, after in zip(texts, pieces[2::2], strict=True):
        own = given.strip()
        spans.append((len(text), len(text) + len(own)))
        text += own + after
    return text, spans
