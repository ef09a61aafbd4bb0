"""The words of a view: which rows of the maps belong to a word, in the prompt and in the answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Float

from ..experiments import spoken_words
from ..results import Run


@final
@dataclass(frozen=True)
class ShownWord:
    """A word to look at.

    **Attributes:**

    - `text`: as it is written; a word of several tokens is one.
    - `kind`: `"prompt"` or `"answer"`.
    - `rows`: places along the axis `query` of the maps. A word of the answer has those of the rows
        that predict its tokens.
    """

    text: str
    kind: str
    rows: tuple[int, ...]


def shown_words(run: Run, rows: Sequence[int]) -> tuple[ShownWord, ...]:
    """The words whose rows were recorded, in the order of the prompt and the answer.

    In the prompt tokens are joined where the tokenizer keeps the spaces before words; where it does
    not, each token stands alone, as punctuation does everywhere.

    **Arguments:**

    - `rows`: the positions of the rows of the maps.
    """
    answer = run.answer_rows
    spoken = {answer[row]: word.text for word in spoken_words(run) for row in word.rows[:1]}
    inside = {answer[row] for word in spoken_words(run) for row in word.rows[1:]}
    spaced = any(word.startswith(" ") for word in run.words[0])
    told = run.words[0]
    found: list[ShownWord] = []
    for place, row in enumerate(rows):
        if row in answer:
            text, kind, joins = told[row + 1], "answer", row in inside
        else:
            text, kind = told[row], "prompt"
            joins = spaced and text[:1].isalnum() and rows[place - 1] == row - 1
            joins = joins and told[row - 1][-1:].isalnum()
        if joins and found and found[-1].kind == kind:
            before = found.pop()
            text = before.text if kind == "answer" else before.text + text
            found.append(ShownWord(text, kind, (*before.rows, place)))
        else:
            found.append(ShownWord(spoken.get(row, text).strip(), kind, (place,)))
    return tuple(found)


def by_word(
    values: Float[np.ndarray, "..."], words: Sequence[ShownWord], axis: int
) -> Float[np.ndarray, "..."]:
    """Values by word in the place of values by row: the mean over the rows of each word."""
    if all(len(word.rows) == 1 for word in words):
        return values
    return np.stack([values.take(word.rows, axis).mean(axis) for word in words], axis)
