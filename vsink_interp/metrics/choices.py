"""Reading the letter of a multiple-choice answer, by the rule of each benchmark and harness."""

import re
from collections.abc import Callable, Mapping, Sequence
from string import ascii_lowercase
from typing import Final

from ..errors import InputError, NotationError, unknown

OTHER: Final = "other"
"""What a rule says of an answer in which it reads no option."""


def _after_answer(text: str) -> str:
    """What follows the last "answer is" or "answer:"."""
    found = text.lower().strip()
    for words in ("answer is", "answer is:", "answer:"):
        found = found.rsplit(words, 1)[-1]
    return found.strip()


def _cambrian_mmvp(text: str, options: Sequence[str]) -> str:
    found = _after_answer(text).rstrip(".:,").lstrip("(").rstrip(")")
    named = [option.lower() for option in options]
    return ascii_lowercase[named.index(found)] if found in named else found


def _cambrian_cv_bench(text: str, options: Sequence[str]) -> str:
    del options
    return _after_answer(text).rstrip(".").lstrip("(").rstrip(")")[:1]


def _lmms_eval_mmvp(text: str, options: Sequence[str]) -> str:
    del options
    letter, found = r"\(?([ab])\)?", text.strip().lower()
    places = (
        rf"^\s*{letter}\.?\s*$", rf"^\s*{letter}[.\s]", rf"answer\s+is\s+{letter}",
        rf"option\s+{letter}", rf"{letter}(?:\s|$)",
    )  # fmt: skip
    hits = (re.search(place, found) for place in places)
    return next((hit[1] for hit in hits if hit), found[:1])


def _lmms_eval_cv_bench(text: str, options: Sequence[str]) -> str:
    del options
    hit = re.match(r"[(\s]*([a-z])", text.strip().lower())
    return hit[1] if hit else OTHER


def _strict(text: str, options: Sequence[str]) -> str:
    found = text.strip().lower().rstrip(".")
    named = [option.strip().lower() for option in options]
    if found in named:
        return ascii_lowercase[named.index(found)]
    hit = re.fullmatch(r"\(?([a-z])(?:[).:].*)?", found, re.DOTALL)
    return hit[1] if hit else OTHER


CHOICE_RULES: Final[Mapping[str, Callable[[str, Sequence[str]], str]]] = {
    "cambrian-mmvp": _cambrian_mmvp,
    "cambrian-cv-bench": _cambrian_cv_bench,
    "lmms-eval-mmvp": _lmms_eval_mmvp,
    "lmms-eval-cv-bench": _lmms_eval_cv_bench,
    "strict": _strict,
}
"""How each rule reads an answer."""


def read_choice(text: str, options: Sequence[str], rule: str) -> str:
    """The letter of the option that an answer names: `"a"`, `"b"` ..., or `"other"` for none.

    ```python
    >>> from vsink_interp.metrics import read_choice
    >>> [read_choice("Open.", ["Open", "Closed"], r) for r in ("cambrian-mmvp", "lmms-eval-mmvp")]
    ['a', 'other']

    ```

    **Arguments:**

    - `text`: the answer.
    - `options`: their texts, in order.
    - `rule`: `"cambrian-mmvp"` and `"cambrian-cv-bench"`: those of Cambrian-1's scripts (Tong et
        al. 2024, arXiv 2406.16860): in lower case, behind "answer is" or "answer:", without
        brackets and full stops; for MMVP the letter alone or the option's text, for CV-Bench the
        first character. `"lmms-eval-mmvp"`: a letter on its own, behind "answer is" or "option",
        or anywhere at the end of a word; else the first character. `"lmms-eval-cv-bench"`: the
        first letter, so that "Closer" is C. `"strict"`: ours: the letter alone or before a
        bracket, full stop or colon, or the option's text and nothing else.

    **Raises:** `NotationError` listing the rules; `InputError` without options.
    """
    if rule not in CHOICE_RULES:
        raise NotationError(unknown("rule for reading choices", rule, CHOICE_RULES))
    if not 1 < len(options) <= len(ascii_lowercase):
        raise InputError(f"a choice is among two options or more; got {len(options)}")
    found = CHOICE_RULES[rule](text, options)
    return found if found in tuple(ascii_lowercase[: len(options)]) else OTHER
