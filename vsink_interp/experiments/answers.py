"""Answers: their rows, their words, and many of them at once."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import final

import torch
from jaxtyping import Bool
from torch import Tensor

from ..graph import Graphlike, Probe
from ..model import LMM
from ..results import Run
from .cases import Cases


def runs(lmm: LMM, cases: Cases, graph: Graphlike = None) -> Iterator[Run]:
    """Generate the answers of all cases under a graph, a batch at a time."""
    for batch in cases.batches():
        images, prompts = list(batch.images), list(batch.prompts)
        yield lmm.generate(images, prompts, graph, max_new_tokens=cases.max_new_tokens)


def answers(lmm: LMM, cases: Cases, graph: Graphlike = None) -> list[str]:
    """The answer to each case under a graph."""
    return [text for run in runs(lmm, cases, graph) for text in run.text]


def answer_mask(run: Run) -> Bool[Tensor, "batch row"]:
    """Which answer rows count: those that predict a token before the end of that answer."""
    return run.layout.mask("generated")[:, run.layout.prompt_length :]


def answer_values(run: Run, probe: Probe) -> Tensor:
    """The record of a probe at the answer rows alone, along its `query` axis."""
    record = run[probe]
    rows = torch.tensor(record.places("query", run.answer_rows))
    return record.values.index_select(record.axis("query"), rows)


@final
@dataclass(frozen=True)
class AnswerWord:
    """A word of an answer, and the answer rows (0 is the first) that predict its tokens."""

    text: str
    rows: tuple[int, ...]


def answer_words(lmm: LMM, run: Run, sample: int = 0) -> tuple[AnswerWord, ...]:
    """The words of an answer; punctuation and special tokens are left out."""
    words: list[tuple[str, list[int]]] = []
    for row, piece in enumerate(_pieces(lmm, run, sample)):
        if not any(letter.isalnum() for letter in piece):
            continue
        if words and piece[0].isalnum() and row - 1 in words[-1][1]:
            words[-1] = (words[-1][0] + piece, [*words[-1][1], row])
        else:
            words.append((piece.strip(), [row]))
    return tuple(AnswerWord(text, tuple(rows)) for text, rows in words)


def naming_rows(lmm: LMM, run: Run, words: str, sample: int = 0) -> tuple[int, ...]:
    """The answer rows (0 is the first) that predict the tokens of some words of an answer.

    **Arguments:**

    - `words`: as they stand in the answer, in upper or lower case. Whole words: "ox" is not in
        "box". The first place counts where there are several.

    **Returns:** no row where the answer does not have the words.
    """
    pieces = _pieces(lmm, run, sample)
    found = re.search(rf"(?<!\w){re.escape(words)}(?!\w)", "".join(pieces), re.IGNORECASE)
    if found is None:
        return ()
    starts = [len("".join(pieces[:row])) for row in range(len(pieces) + 1)]
    return tuple(
        row
        for row, (start, stop) in enumerate(pairwise(starts))
        if start < found.end() and found.start() < stop
    )


def _pieces(lmm: LMM, run: Run, sample: int) -> list[str]:
    """What each token of an answer adds to its text."""
    tokenizer, ids = lmm.processor.tokenizer, run.generated[sample].tolist()
    pieces: list[str] = []
    before = ""
    for row in range(int(answer_mask(run)[sample].sum())):
        whole = tokenizer.decode(ids[: row + 1], skip_special_tokens=True)
        pieces.append(whole[len(before) :])
        before = whole
    return pieces
