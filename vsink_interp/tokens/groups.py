"""The notation for groups of tokens: `"image"`, `"sink & image"`, `"image[0] -> query generated"`.

`image[0]` is the first image of a prompt, `frame[3]` the fourth frame of a video, and `turn[1]`
what the second message of a conversation says and shows.

A group is one or more segments separated by spaces (their union); `a & b` is the intersection
and `~a` the complement. A flow is `source -> target`: the keys that are attended to, and the query
rows that attend to them.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, final

from ..errors import NotationError, unknown

SEGMENTS = ("bos", "system", "image", "query", "generated")
"""The five segments, which partition a prompt and its answer; padding belongs to none."""

HISTORY = "history"
"""What was said before the user's last message, images aside: of prompts that are conversations,
a part beside the five."""

REFINEMENTS = ("role", "separator", "sink", "prompt", "first", "last", "all")
"""Words that cut across the segments: role markers, tokens that come with an image but are not
patches of it, sink tokens, all but generated, the first and the last token of the prompt (the one
whose row predicts the first generated token), everything."""

NUMBERED = ("image", "frame", "turn")
"""Words with a number behind them: an image, a frame of a video, a message of a conversation.
`image` without one is every image; the others need theirs."""

WORDS = (*SEGMENTS, HISTORY, *REFINEMENTS)
LEGAL = (*WORDS, *(f"{word}[0]" for word in NUMBERED))

_WORD = re.compile(r"(~?)([A-Za-z_]+)(?:\[(\d+)\])?$")


@final
@dataclass(frozen=True)
class Term:
    """One word of a group, possibly negated, possibly with a number."""

    word: str
    number: int | None = None
    negated: bool = False

    def __str__(self) -> str:
        """The term as it is written."""
        place = "" if self.number is None else f"[{self.number}]"
        return f"{'~' if self.negated else ''}{self.word}{place}"


@final
@dataclass(frozen=True)
class Group:
    """A parsed group of tokens: a union of intersections of terms."""

    unions: tuple[tuple[Term, ...], ...]

    def __str__(self) -> str:
        """The group as it is written."""
        return self._text

    @cached_property
    def _text(self) -> str:
        return " ".join(" & ".join(map(str, terms)) for terms in self.unions)

    def __hash__(self) -> int:
        """Computed once, because masks are looked up in every layer and step."""
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash(self.unions)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled without its hash, which is another in every process."""
        return Group, (self.unions,)

    @property
    def terms(self) -> Iterable[Term]:
        """Every term, in order."""
        return (term for terms in self.unions for term in terms)

    @cached_property
    def words(self) -> frozenset[str]:
        """The segments and refinements that occur."""
        return frozenset(term.word for term in self.terms)

    @property
    def grows(self) -> bool:
        """Whether generated tokens can belong to it."""
        return self.takes_generated(sink=True) or self.takes_generated(sink=False)

    @cached_property
    def grows_by_sinks(self) -> bool:
        """Whether a generated token's membership depends on whether it is a sink."""
        return self.takes_generated(sink=True) != self.takes_generated(sink=False)

    def takes_generated(self, *, sink: bool) -> bool:
        """Whether generated sinks (with `sink=False`, generated non-sinks) belong to it."""
        true = {"generated", "all", *(["sink"] if sink else [])}
        return any(
            all((term.word in true) != term.negated for term in terms) for terms in self.unions
        )


@final
@dataclass(frozen=True)
class Flow:
    """A parsed flow of information: the rows of `target` attend to the keys of `source`."""

    source: Group
    target: Group

    def __str__(self) -> str:
        """The flow as it is written."""
        return f"{self.source} -> {self.target}"

    @property
    def words(self) -> frozenset[str]:
        """The segments and refinements on both sides."""
        return self.source.words | self.target.words


def _term(text: str, whole: str) -> Term:
    match = _WORD.match(text)
    if not match:
        raise NotationError(
            f"{whole!r} is not a group of tokens; write words separated by spaces, as in "
            f"'query generated', 'sink & image' or 'image[0]' (words: {', '.join(LEGAL)})"
        )
    negated, word, number = match.groups()
    if word not in {*WORDS, *NUMBERED}:
        raise NotationError(unknown("segment", word, LEGAL))
    if number is not None and word not in NUMBERED:
        raise NotationError(
            f"{text!r}: images, frames and turns alone are numbered, as in 'image[0]', 'frame[3]', "
            "'turn[1]'"
        )
    if number is None and word in NUMBERED[1:]:
        raise NotationError(f"{text!r}: write which, counted from 0, as in '{word}[0]'")
    return Term(word, None if number is None else int(number), bool(negated))


@lru_cache(maxsize=256)
def parse_group(text: str) -> Group:
    """Read a group of tokens such as `"query generated"` or `"sink & image"`.

    **Raises:** `NotationError` listing the valid words.
    """
    tight = re.sub(r"\s*&\s*", "&", text.strip())
    if not tight:
        raise NotationError(f"an empty group of tokens; write one or more of: {', '.join(LEGAL)}")
    return Group(
        tuple(tuple(_term(term, text) for term in union.split("&")) for union in tight.split())
    )


def parse_fixed_group(text: str, what: str) -> Group:
    """Read a group that is known before a run, so one that does not depend on sinks.

    **Arguments:**

    - `what`: what the group is of, for the error.

    **Raises:** `NotationError`, also for a group that contains `sink`.
    """
    found = parse_group(text)
    if "sink" in found.words:
        raise NotationError(
            f"{text!r}: {what} cannot depend on sinks, which are found as the model runs; take a "
            "group without the word 'sink'"
        )
    return found


def grows_by_sinks(text: str) -> bool:
    """Whether a generated token's membership in the group depends on whether it is a sink."""
    return parse_group(text).grows_by_sinks


@lru_cache(maxsize=256)
def parse_flow(text: str) -> Flow:
    """Read a flow such as `"image -> query generated"`.

    **Raises:** `NotationError` if it is not `source -> target`, or contains an unknown word.
    """
    sides = text.split("->")
    if len(sides) != 2:
        raise NotationError(
            f"a flow is written 'source -> target', as in 'image -> generated'; got {text!r}"
        )
    return Flow(parse_group(sides[0]), parse_group(sides[1]))
