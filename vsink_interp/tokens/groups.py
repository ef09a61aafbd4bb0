"""The notation for groups of tokens: `"image"`, `"sink & image"`, `"image[0] -> query generated"`.

`image[0]` is the first image of a prompt, `frame[3]` the fourth frame of a video, and `turn[1]`
what the second message of a conversation says and shows. `top(image,5%,2)` are the image tokens
with the most attention in layer 2, `vsink` those that come as outliers from the vision encoder;
`lsink` is short for `sink & image`.

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

VSINK = "vsink"
"""Image tokens that come as outliers from the vision encoder. They are measured before the run, and
so are the tokens of `top(group,count,layer)`."""

LSINK = "lsink"
"""Image tokens that are sinks of the language model: written out as `sink & image`."""

NUMBERED = ("image", "frame", "turn")
"""Words with a number behind them: an image, a frame of a video, a message of a conversation.
`image` without one is every image; the others need theirs."""

WORDS = (*SEGMENTS, HISTORY, *REFINEMENTS)
LEGAL = (*WORDS, VSINK, LSINK, *(f"{word}[0]" for word in NUMBERED), "top(image,5%,2)")

_TOP = re.compile(r"(~?)(top\(([A-Za-z_]+(?:\[\d+\])?),(\d+%?),(\d+)\))$")
_MEASURED = re.compile(r"\b(?:vsink\b|top\([^()]*\))")
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
    def measured(self) -> frozenset[str]:
        """Its words that a run of the model has to find before: `vsink` and `top(...)`."""
        return frozenset(word for word in self.words if word == VSINK or word.startswith("top("))

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


@final
@dataclass(frozen=True)
class Top:
    """What `top(group,count,layer)` says: the `count` tokens of a group with the most attention.

    **Attributes:**

    - `group`: a word of the notation, as it is written.
    - `count`: how many tokens; with `share`, how many percent of the group, at least one token.
    - `layer`: the layer whose attention is compared.
    """

    group: str
    count: int
    share: bool
    layer: int


def parse_top(word: str) -> Top:
    """Read a word such as `top(image,5%,2)`.

    **Raises:** `NotationError` if it cannot be read, or its group depends on the run.
    """
    match = _TOP.match(_tight(word))
    if not match or match[1]:
        raise NotationError(
            f"{word!r} is not top(group,count,layer), as in 'top(image,20,2)', the 20 image tokens "
            "with the most attention of the last prompt row in layer 2, or 'top(image,5%,2)'"
        )
    group = parse_fixed_group(match[3], "the group of top(...)")
    found = Top(str(group), int(match[4].rstrip("%")), "%" in match[4], int(match[5]))
    if not 0 < found.count <= (100 if found.share else found.count) or group.measured:
        raise NotationError(f"{word!r}: at least one token, or 1 to 100 %, of a plain group")
    return found


def measured_words(text: str) -> frozenset[str]:
    """The words in a text that a run has to find before, wherever they stand."""
    return frozenset(word for word in _MEASURED.findall(_tight(text)))


def _tight(text: str) -> str:
    """A text without spaces inside of brackets, where they would part words."""
    return re.sub(r"\([^()]*\)", lambda found: re.sub(r"\s+", "", found[0]), text)


def _term(text: str, whole: str) -> Term:
    if top := _TOP.match(text):
        parse_top(top[2])
        return Term(top[2], None, bool(top[1]))
    match = _WORD.match(text)
    if not match:
        raise NotationError(
            f"{whole!r} is not a group of tokens; write words separated by spaces, as in "
            f"'query generated', 'sink & image' or 'image[0]' (words: {', '.join(LEGAL)})"
        )
    negated, word, number = match.groups()
    if word == "top":
        parse_top(text)
    if word not in {*WORDS, *NUMBERED, VSINK}:
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
    tight = re.sub(r"\s*&\s*", "&", _tight(text).strip())
    if not tight:
        raise NotationError(f"an empty group of tokens; write one or more of: {', '.join(LEGAL)}")
    unions = (union.split("&") for union in tight.split())
    return Group(tuple(terms for union in unions for terms in _intersections(union, text)))


def _intersections(words: list[str], whole: str) -> list[tuple[Term, ...]]:
    """The terms of an intersection, with `lsink` written out; `~lsink` makes two of one."""
    found: list[tuple[Term, ...]] = [()]
    for word in sorted(words, key=f"~{LSINK}".__eq__):
        if word == LSINK:
            found = [(*terms, Term("sink"), Term("image")) for terms in found]
        elif word == f"~{LSINK}":
            out = [Term(name, negated=True) for name in ("sink", "image")]
            found = [(*terms, term) for terms in found for term in out]
            # Where the image is meant anyway, what is not of it is nobody.
            found = [terms for terms in found if not _contradict(terms)] or found
        else:
            found = [(*terms, _term(word, whole)) for terms in found]
    return found


def _contradict(terms: tuple[Term, ...]) -> bool:
    return any(Term(term.word, term.number, not term.negated) in terms for term in terms)


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
