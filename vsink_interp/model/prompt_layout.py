"""What each token of an encoded prompt is: its text and its images, found in what was tokenized."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, final

import torch
from PIL.Image import Image

from ..errors import InputError
from ..families import Family
from ..families.form import Filmed
from ..tokens import CODE, ImageSpan, TokenLayout
from .images import digest
from .messages import Chars
from .rendering import Rendered, touches
from .video import Shown, Video

OFFSETS = "offset_mapping"


@final
@dataclass(frozen=True)
class Placed:
    """What one prompt shows, as images of its layout: a step in time of a video is one.

    **Attributes:**

    - `spans`: the image tokens of each.
    - `markers`: the marker in the prompt that each belongs to.
    - `images`: what each shows; of frames that are merged, the first.
    - `frames`: the image that each frame of its videos belongs to.
    - `seen`: all that is shown, for the digest.
    """

    spans: tuple[ImageSpan, ...]
    markers: tuple[int, ...]
    images: tuple[Image, ...]
    frames: tuple[int, ...] = ()
    seen: tuple[Image, ...] = ()


def place_images(
    config: Any,
    processor: Any,
    family: Family,
    images: list[list[Image]],
    inputs: Mapping[str, Any],
) -> list[Placed]:
    """Where the images of each prompt lie."""
    flat = [image for shown in images for image in shown]
    spans = iter(family.spans(config, processor, flat, inputs) if flat else ())
    return [
        Placed(tuple(islice(spans, len(row))), tuple(range(len(row))), tuple(row), (), tuple(row))
        for row in images
    ]


def place_videos(videos: Sequence[Sequence[Shown]], filmed: Filmed) -> list[Placed]:
    """Where the steps in time of the videos of each prompt lie."""
    made, found = iter(zip(filmed.spans, filmed.steps, strict=True)), []
    for row in videos:
        spans, markers, images, frames, seen = [], [], [], [], []
        for number, video in enumerate(row):
            assert isinstance(video, Video)  # noqa: S101 (`filming` refuses others)
            own, steps = next(made)
            images += [video.frames[steps.index(step)] for step in range(len(own))]
            frames += [len(spans) + step for step in steps]
            spans += own
            markers += [number] * len(own)
            seen += video.frames
        found.append(Placed(*map(tuple, (spans, markers, images, frames, seen))))
    return found


def lay_out(
    config: Any,
    processor: Any,
    family: Family,
    inputs: Mapping[str, Any],
    rendered: list[Rendered],
    placed: list[Placed],
) -> TokenLayout:
    """Determine the layout of encoded prompts.

    **Raises:** `InputError` if the processor's tokens cannot be matched with the prompt's text.
    """
    ids, attended = inputs["input_ids"], inputs["attention_mask"]
    layout = torch.zeros(5, *ids.shape, dtype=ids.dtype)
    layout[1] = layout[4] = -1
    for sample, text in enumerate(rendered):
        real = attended[sample].bool()
        row = _Row(
            ids[sample][real].tolist(), inputs[OFFSETS][sample][real].tolist(), text, placed[sample]
        )
        layout[:, sample, real] = torch.tensor(row.kinds(family, config, processor.tokenizer)).T
    digests = ((one.seen, text.text) for one, text in zip(placed, rendered, strict=True))
    return TokenLayout(
        layout[0],
        layout[1],
        layout[2].bool(),
        tuple(one.spans for one in placed),
        ids.shape[1],
        layout[3].bool(),
        family.sight,
        tuple(digest([row]) for row in digests),
        windows=family.windows,
        turns=layout[4],
        frames=tuple(one.frames for one in placed) if family.shows == "video" else (),
    )


@final
@dataclass(frozen=True)
class _Row:
    """The tokens of one prompt, and the span of each in the text that the processor expanded.

    For example, of Idefics3 and an image that is not cut, with F for `<fake_token_around_image>`
    and G for `<global-img>`:

    ```text
    rendered   User: <image>count it                      the image's marker at 6 to 13
    expanded   User: FG<image><image><image><image>Fcount it
    tokens     User :  | F G       | <image> x 4 | F         | count it
    segment    system  | query     | image       | query     | query
                       | separator |             | separator |
    ```

    The tokenizer says where each token lies in the expanded text. `_expanded` finds where an image
    begins there (where its marker was) and ends (behind its last token and the family's suffix).
    `_raw` takes places behind it back to the rendered text, by as much as the image is longer than
    its marker.
    """

    ids: list[int]
    offsets: list[list[int]]
    text: Rendered
    placed: Placed

    def kinds(self, family: Family, config: Any, tokenizer: Any) -> list[list[int]]:
        """Segment code, image index, role, separator and turn of each token."""
        tokenless = family.sight == "cross-attention"
        patches = {} if tokenless else self._patches(getattr(config, f"{family.shows}_token_id"))
        expanded = [*self.text.markers] if tokenless else self._expanded(family, patches)
        text, found = self.text, []
        for token, (id_, (begin, end)) in enumerate(zip(self.ids, self.offsets, strict=True)):
            image, raw = self._raw(begin, expanded)
            chars = (raw, raw + end - begin) if image < 0 else text.markers[image]
            if token in patches:
                number, is_patch = patches[token]
                turn = self._turn(text.markers[self.placed.markers[number]])
                found.append([CODE["image"], number, 0, int(not is_patch), turn])
                continue
            earlier = "history" if chars[0] < text.turn else "query"
            segment = CODE["system" if chars[0] < text.start else earlier]
            if id_ == tokenizer.bos_token_id:
                segment = CODE["bos"]
            role = image < 0 and touches(chars, text.roles)
            apart = image >= 0 or (end > begin and touches(chars, text.placeholders))
            own = segment != CODE["bos"]
            turn = self._turn(chars) if own and end > begin else -1
            found.append([segment, -1, int(role), int(apart and own), turn])
        return found

    def _turn(self, chars: Chars) -> int:
        """The message that holds these characters; -1 for what is around them."""
        spoken = enumerate(self.text.spoken)
        return next((number for number, spans in spoken if touches(chars, spans)), -1)

    def _patches(self, image_id: int) -> dict[int, tuple[int, bool]]:
        """The image tokens: the index of their image, and whether they are patches."""
        places = [token for token, id_ in enumerate(self.ids) if id_ == image_id]
        sizes = [span.size for span in self.placed.spans]
        if len(places) != sum(sizes):
            raise InputError(
                f"expected {sizes} image tokens, the processor made {len(places)} of "
                f"{self.text.text!r}"
            )
        numbered = [
            (number, place is not None)
            for number, span in enumerate(self.placed.spans)
            for place in span.places
        ]
        return dict(zip(places, numbered, strict=True))

    def _expanded(self, family: Family, patches: dict[int, tuple[int, bool]]) -> list[Chars]:
        """The character span of each image in the expanded text."""
        marker = self.placed.markers
        last = {marker[n]: self.offsets[token][1] for token, (n, _) in patches.items()}
        first = {marker[n]: self.offsets[token][0] for token, (n, _) in reversed(patches.items())}
        found: list[Chars] = []
        shift = 0
        for number, (begin, end) in enumerate(self.text.markers):
            stop = last[number] + len(family.suffix)
            if number == len(self.text.markers) - 1:
                stop += len(family.closing)
            found.append((begin + shift, stop))
            shift = stop - end
            if first[number] < found[-1][0]:
                raise InputError(f"the processor's tokens do not match {self.text.text!r}")
        length = max((end for _, end in self.offsets), default=0)
        if length - shift < len(self.text.text.rstrip()):
            raise InputError(f"the processor's tokens do not match {self.text.text!r}")
        return found

    def _raw(self, place: int, expanded: list[Chars]) -> tuple[int, int]:
        """The image whose text holds a character, or -1; and its place in the unexpanded text."""
        shift = 0
        for number, (begin, end) in enumerate(expanded):
            if place < begin:
                break
            if place < end:
                return number, place
            shift = end - self.text.markers[number][1]
        return -1, place - shift
