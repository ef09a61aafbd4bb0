"""Answers: generate many at once, and find their rows and words."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from typing import final
from unicodedata import category

from ..graph import Graphlike
from ..model import LMM
from ..results import Run
from .cases import Cases
from .encoded_cases import EncodedCases


def runs(lmm: LMM, cases: Cases | EncodedCases, graph: Graphlike = None) -> Iterator[Run]:
    """Generate the answers of all cases under a graph, a batch at a time."""
    asked = cases if isinstance(cases, EncodedCases) else EncodedCases(lmm, cases, room=0)
    longest = asked.cases.max_new_tokens
    return (lmm.generate(one, graph=graph, max_new_tokens=longest) for one in asked)


def answered(lmm: LMM, batch: Cases, graph: Graphlike) -> Run:
    """The run that answers a batch of cases."""
    images, prompts = list(batch.images), list(batch.prompts)
    return lmm.generate(images, prompts, graph, max_new_tokens=batch.max_new_tokens)


def answers(lmm: LMM, cases: Cases | EncodedCases, graph: Graphlike = None) -> list[str]:
    """The answer to each case under a graph; `EncodedCases` spare a sweep to encode them again.

    ```python
    ex.answers(lmm, cases, vi.Knockout("image -> generated"))     # one text a case
    ```
    """
    return [text for run in runs(lmm, cases, graph) for text in run.text]


@final
@dataclass(frozen=True)
class AnswerWord:
    """A word of an answer, and the answer rows (0 is the first) that predict its tokens."""

    text: str
    rows: tuple[int, ...]


def answer_words(lmm: LMM, run: Run, sample: int = 0) -> tuple[AnswerWord, ...]:
    """The words of an answer; punctuation and special tokens are left out.

    What a script writes without spaces (Chinese, Japanese, Thai) is one word up to the next
    punctuation.

    ```python
    [word.text for word in ex.answer_words(lmm, run)], ex.answer_words(lmm, run)[0].rows
    ```
    """
    return _joined(*_spans(lmm, run, sample))


def spoken_words(run: Run) -> tuple[AnswerWord, ...]:
    """As `answer_words`, of a run of one prompt whose model is not at hand.

    Each token is looked for in the answer's text behind the one before it; tokens that hold but
    parts of letters have the letters between their neighbours. Where the run did not generate
    the answer but was given it, its text is not known, and each token is a word.

    ```python
    ex.spoken_words(run)[0].text                                  # a run that was loaded, say
    ```
    """
    rows = run.answer_rows
    pieces = [run.words[0][row + 1] for row in rows]
    if run.layout.length == run.layout.first_pass:
        return tuple(AnswerWord(piece.strip(), (row,)) for row, piece in enumerate(pieces))
    text = run.text if isinstance(run.text, str) else run.text[0]
    return _joined(text, _placed(text, pieces))


def _placed(text: str, pieces: list[str]) -> list[tuple[int, int]]:
    """From where to where in a text each piece stands, spaces before it included.

    A piece that is not in the text has no length.
    """
    spans: list[tuple[int, int]] = []
    stop, parts = 0, []  # the pieces before this one that hold but parts of letters
    for number, piece in enumerate([*pieces, text]):
        spans.append((stop, stop))
        if _UNFINISHED in piece:
            parts.append(number)
            continue
        sought = piece.strip()
        start = len(text) if number == len(pieces) else text.find(sought, stop)
        if not sought or start < 0 or not (parts or not text[stop:start].strip()):
            continue
        for part, span in zip(parts, _shared(text, stop, start, len(parts)), strict=True):
            spans[part] = span
        spans[-1] = (start if parts else stop, start + len(sought))
        stop, parts = spans[-1][1], []
    return spans[:-1]


def _shared(text: str, start: int, stop: int, parts: int) -> list[tuple[int, int]]:
    """Which letters tokens write that hold parts of letters: byte by byte, if each is a byte."""
    before = start
    places: list[tuple[int, int]] = []
    for at in range(start, stop):
        if not text[at].isspace():
            places += [(before, at + 1)] * len(text[at].encode())
            before = at + 1
    return places if len(places) == parts else [(start, stop)] * parts


def _joined(text: str, spans: list[tuple[int, int]]) -> tuple[AnswerWord, ...]:
    """The words that tokens write, by where each token stands in the text."""
    words: list[tuple[int, int, list[int]]] = []
    for row, (start, stop) in enumerate(spans):
        if not any(map(_of_word, text[start:stop])):
            continue
        if words and row - 1 in words[-1][2] and (start < words[-1][1] or _of_word(text[start])):
            first, last, rows = words[-1]
            words[-1] = (first, max(last, stop), [*rows, row])
        else:
            words.append((start, stop, [row]))
    return tuple(AnswerWord(text[start:stop].strip(), tuple(rows)) for start, stop, rows in words)


def naming_rows(lmm: LMM, run: Run, words: str, sample: int = 0) -> tuple[int, ...]:
    """The answer rows (0 is the first) that predict the tokens of some words of an answer.

    A letter that several tokens write, byte by byte, is predicted by the rows of all of them.

    ```python
    word = ex.answer_words(lmm, run)[-1].text
    ex.naming_rows(lmm, run, word)                      # rows of run[probe] that predict it
    ```

    **Arguments:**

    - `words`: as they stand in the answer, in upper or lower case. Whole words, "ox" is not in
        "box", but in scripts without spaces, where words have no ends that can be seen. The first
        place counts where there are several.

    **Returns:** no rows if the answer does not contain the words.
    """
    text, spans = _spans(lmm, run, sample)
    places = (match.span() for match in re.finditer(re.escape(words), text, re.IGNORECASE))
    found = next((place for place in places if _is_whole(text, *place)), None)
    if found is None:
        return ()
    return tuple(
        row for row, (start, stop) in enumerate(spans) if start < found[1] and found[0] < stop
    )


_NO_SPACES = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
"""Letters of Thai, Lao, Burmese, Khmer, Japanese and Chinese."""


def _of_word(letter: str) -> bool:
    """Whether a character is part of a word: a letter, a digit, or an accent or vowel sign."""
    return letter.isalnum() or category(letter).startswith("M")


def _is_whole(text: str, start: int, stop: int) -> bool:
    """Whether a place in a text neither begins nor ends within a word."""
    inside = [
        _of_word(before) and _of_word(after) and not _NO_SPACES.search(before + after)
        for before, after in (text[at - 1 : at + 1] for at in (start, stop) if 0 < at < len(text))
    ]
    return not any(inside)


def _spans(lmm: LMM, run: Run, sample: int) -> tuple[str, list[tuple[int, int]]]:
    """An answer, and from where to where in it each of its tokens writes.

    A token may end within a letter, whose bytes the next ones complete: of byte-level tokenizers
    ("é" is two tokens, "猫" three), and where SentencePiece falls back on bytes. Until then the
    tokenizer writes U+FFFD for it; here that letter belongs to all of its tokens.
    """
    tokenizer, ids = lmm.processor.tokenizer, run.generated[sample].tolist()
    special = {*tokenizer.all_special_ids}
    spans: list[tuple[int, int]] = []
    whole = ""  # what is written for good
    unfinished = False
    for row in range(int(run.answered[sample].sum())):
        if ids[row] in special:
            spans.append((len(whole), len(whole)))
            continue
        text = tokenizer.decode(ids[: row + 1], skip_special_tokens=True)
        letters = text.rstrip(_UNFINISHED)
        unfinished = letters != text
        if unfinished and len(letters) < len(whole):
            # A fallback on bytes takes the letters before back until this one is complete.
            spans.append((len(whole), len(whole) + 1))
            continue
        # What came before may change too: some tokenizers take a space away from before a comma.
        start = _n_shared(whole, letters)
        whole = letters
        spans.append((start, len(whole) + unfinished))
    return whole + _UNFINISHED * unfinished, spans


def _n_shared(one: str, other: str) -> int:
    """How many letters two texts begin with in common."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


_UNFINISHED = "\ufffd"
"""What a tokenizer writes for a letter of which bytes are missing."""
