"""Image tokens by their sink value: which they are, where they lie, how large phi is."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final, overload

from typing_extensions import override

from ..errors import ResultError
from ..tokens import Box, TokenLayout


@final
@dataclass(frozen=True)
class SinkToken:
    """One image token.

    **Attributes:**

    - `token`: its place in the sequence, padding included.
    - `image`: the number of its image.
    - `patch`: its number among the tokens of that image.
    - `box`: left, top, right, bottom in pixels of the image; None for a token that is no patch,
        or whose place is not known.
    - `phi`: its sink value.
    """

    token: int
    image: int
    patch: int
    box: Box | None
    phi: float


@final
@dataclass(frozen=True, repr=False)
class SinkTokens(Sequence[SinkToken]):
    """Image tokens in the order of the prompt, or, by `topk`, of their sink value.

    **Attributes:**

    - `tokens`: one entry per token.
    - `layer`: the layer that they enter.
    """

    tokens: tuple[SinkToken, ...]
    layer: int

    def topk(self, k: int) -> "SinkTokens":
        """The `k` tokens with the largest phi, the largest first; fewer where there are fewer."""
        if k < 1:
            raise ResultError(f"topk of {k}: at least one")
        order = sorted(self.tokens, key=lambda found: -found.phi)
        return SinkTokens(tuple(order[:k]), self.layer)

    @overload
    def __getitem__(self, index: int) -> SinkToken: ...
    @overload
    def __getitem__(self, index: slice) -> "SinkTokens": ...
    @override
    def __getitem__(self, index: int | slice) -> "SinkToken | SinkTokens":
        if isinstance(index, slice):
            return SinkTokens(self.tokens[index], self.layer)
        return self.tokens[index]

    @override
    def __len__(self) -> int:
        return len(self.tokens)

    @override
    def __iter__(self) -> Iterator[SinkToken]:
        return iter(self.tokens)

    def __repr__(self) -> str:
        top = max(self.tokens, key=lambda found: found.phi, default=None)
        largest = "" if top is None else f", largest phi {top.phi:.2f} at token {top.token}"
        return f"SinkTokens({len(self)} tokens entering layer {self.layer}{largest})"

    def __str__(self) -> str:
        """One line per token: place, image, box in pixels, phi."""
        return "\n".join(
            f"token {found.token}  image {found.image}  box {_told(found.box)}  phi {found.phi:.2f}"
            for found in self.tokens
        )

    def _repr_html_(self) -> str:
        from ..plot.notebook import sink_tokens_html

        return sink_tokens_html(self)


def _told(box: Box | None) -> str:
    return "-" if box is None else "(" + ", ".join(f"{edge:g}" for edge in box) + ")"


def sink_tokens(layout: TokenLayout, sample: int, phi: dict[int, float], layer: int) -> SinkTokens:
    """The image tokens of a sample whose sink value is known, in the order of the prompt.

    **Arguments:**

    - `phi`: by token.
    """
    found = []
    for image, span in enumerate(layout.images[sample]):
        places = (layout.image_index[sample] == image).nonzero().flatten().tolist()
        for patch, token in enumerate(places):
            if token in phi:
                place = span.places[patch]
                box = None if place is None else span.parts[place[0]].patch_box(*place[1:])
                found.append(SinkToken(token, image, patch, box, phi[token]))
    return SinkTokens(tuple(found), layer)
