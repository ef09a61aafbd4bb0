"""VQA accuracy with its normalisation of answers, and accuracy over pairs of questions."""

import re
from collections.abc import Hashable, Sequence
from typing import Final

import numpy as np

from ..errors import InputError

_PUNCTUATION: Final = ';/[]"{}()=+\\_-><@`,?!'
_NUMBERS: Final = {
    word: str(number)
    for number, word in enumerate("zero one two three four five six seven eight nine ten".split())
} | {"none": "0"}
_ARTICLES: Final = frozenset(("a", "an", "the"))
_CONTRACTIONS: Final = frozenset(
    "aren't can't couldn't didn't doesn't don't hadn't hasn't haven't he'd he's i'd i'll i'm i've "
    "isn't it's let's she's shouldn't that's there's they'd they're wasn't we're we've weren't "
    "what's where's who's won't wouldn't you'd you'll you're you've".split()
)
_APOSTROPHES: Final = {word.replace("'", ""): word for word in _CONTRACTIONS} | {
    # Words of their own without the apostrophe.
    word: word
    for word in ("id", "ill", "were", "wed", "well", "lets", "shed")
}


def normalise_answer(text: str) -> str:
    """An answer as VQA compares it: lower case, no punctuation or articles, numbers as digits.

    The rule of the VQA evaluation script (Antol et al. 2015, arXiv 1505.00468): a mark of
    punctuation goes, and leaves a space where it stood between letters; full stops go except
    inside numbers; apostrophes that common contractions lost come back (fewer than theirs).

    ```python
    >>> from vsink_interp.metrics import normalise_answer
    >>> normalise_answer("The two cats, and a dog.")
    '2 cats and dog'

    ```
    """
    text = text.replace("\n", " ").replace("\t", " ").strip()
    whole, commas = text, re.search(r"\d,\d", text) is not None
    for mark in _PUNCTUATION:
        apart = f"{mark} " in whole or f" {mark}" in whole or commas
        text = text.replace(mark, "" if apart else " ")
    text = re.sub(r"\.(?!\d)", "", text)
    words = [_NUMBERS.get(word, word) for word in text.lower().split()]
    return " ".join(_APOSTROPHES.get(word, word) for word in words if word not in _ARTICLES)


def vqa_accuracy(answer: str, truths: Sequence[str]) -> float:
    """How well an answer agrees with those of several people, 0 to 1.

    The mean over people, each left out in turn, of min(1, matches among the others / 3); with ten
    people an answer that four gave scores 1.

    ```python
    >>> from vsink_interp.metrics import vqa_accuracy
    >>> vqa_accuracy("two", ["2", "two", "three", "2", *["four"] * 6])
    0.9

    ```

    **Raises:** `InputError` without answers of people.
    """
    if not truths:
        raise InputError("VQA accuracy compares with the answers of people; there are none")
    said = normalise_answer(answer)
    people = [normalise_answer(truth) for truth in truths]
    if len(people) == 1:
        return float(said == people[0])
    matches = people.count(said)
    return float(np.mean([min(1.0, (matches - (one == said)) / 3) for one in people]))


def group_accuracy(right: Sequence[bool], groups: Sequence[Hashable]) -> float:
    """The share of groups all of whose questions were answered rightly, 0 to 1.

    The score over pairs of MMVP, and ACC+ of MME.

    ```python
    >>> from vsink_interp.metrics import group_accuracy
    >>> group_accuracy([True, True, True, False], groups=[1, 1, 2, 2])
    0.5

    ```

    **Arguments:**

    - `right`: whether each question was answered rightly.
    - `groups`: what each question belongs to: its pair, or its image.

    **Raises:** `InputError` without questions, or for unequal lengths.
    """
    if not right or len(right) != len(groups):
        raise InputError(f"{len(right)} answers in {len(groups)} groups; give one group each")
    found: dict[Hashable, bool] = {}
    for good, group in zip(right, groups, strict=True):
        found[group] = found.get(group, True) and bool(good)
    return sum(found.values()) / len(found)
