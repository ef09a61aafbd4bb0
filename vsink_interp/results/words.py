"""Records of words: the id and the probability that a lens measured, as a record each."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from .recorded import Recorded

WORD: Final = ".word"
"""What the name of a record of words ends with, behind that of the probabilities."""
FIELDS: Final = ("word", "probability")
"""The labels of the axis `field` of what a lens measures: the id of a word, its probability."""


def split_words(
    records: Mapping[str, Recorded], decode: Callable[[list[list[int]]], list[str]]
) -> dict[str, Recorded]:
    """The records, those of a lens as two: probabilities, and words by id.

    **Arguments:**

    - `decode`: the texts of lists of ids.
    """
    found: dict[str, Recorded] = {}
    for name, record in records.items():
        if record.coords.get("field") != FIELDS:
            found[name] = record
            continue
        words = record.at(field="word")
        values = words.values.long()
        ids = values.unique().tolist()
        vocabulary = dict(zip(ids, decode([[id_] for id_ in ids]), strict=True))
        found[name] = record.at(field="probability")
        found[name + WORD] = replace(
            words,
            values=values,
            counts=None if words.counts is None else words.counts.clone(),  # saved on its own
            vocabulary=vocabulary,
        )
    return found
