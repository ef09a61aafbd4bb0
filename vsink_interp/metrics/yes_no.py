"""Reading yes and no from an answer, by the rule of each benchmark and harness.

Harnesses disagree on what counts as "yes", which moves published scores by whole points: under
lmms-eval's POPE rule `Yes.` is neither. Every rule here is named, so that a table can say which.
"""

import re
import string
from collections.abc import Callable, Mapping
from typing import Final, Literal, TypeAlias

from ..errors import NotationError, unknown

Says: TypeAlias = Literal["yes", "no", "other"]
Rule: TypeAlias = Literal["pope", "mme", "lmms-eval-pope", "lmms-eval-mme", "strict"]


def _pope(text: str) -> Says:
    words = text.split(".", maxsplit=1)[0].replace(",", "").split(" ")
    return "no" if {"No", "not", "no"} & set(words) else "yes"


def _in_four_letters(text: str) -> Says:
    start = text[:4]
    return "yes" if "yes" in start else "no" if "no" in start else "other"


def _mme(text: str) -> Says:
    return _in_four_letters(text.strip().lower())


def _lmms_eval_pope(text: str) -> Says:
    found = text.lower().strip()
    return "yes" if found == "yes" else "no" if found == "no" else "other"


def _lmms_eval_mme(text: str) -> Says:
    found = text.lower().strip().replace(".", "")
    if len(found) == 1:
        return "yes" if found == "y" else "no" if found == "n" else "other"
    return _in_four_letters(found)


def _strict(text: str) -> Says:
    words = re.findall(r"[a-z']+", text.lower().strip(string.whitespace + string.punctuation))
    said = {"yes", "no"} & set(words)
    if len(said) == 1 and words[0] in said:
        return "yes" if words[0] == "yes" else "no"
    return "other"


RULES: Final[Mapping[str, Callable[[str], Says]]] = {
    "pope": _pope,
    "mme": _mme,
    "lmms-eval-pope": _lmms_eval_pope,
    "lmms-eval-mme": _lmms_eval_mme,
    "strict": _strict,
}
"""How each rule reads an answer."""


def read_answer(text: str, rule: str) -> Says:
    """What an answer says under a rule: `"yes"`, `"no"`, or `"other"` for neither.

    ```python
    >>> from vsink_interp.metrics import read_answer
    >>> [read_answer("Yes.", rule) for rule in ("pope", "mme", "lmms-eval-pope", "strict")]
    ['yes', 'yes', 'other', 'yes']

    ```

    **Arguments:**

    - `text`: the answer.
    - `rule`: `"pope"`: POPE's own script (Li et al. 2023, arXiv 2305.10355): the text up to the
        first full stop without its commas, split at spaces; the words `No`, `not` or `no` make it
        no, and *everything else, an empty answer too, is yes*. `"mme"`: MME's own (Fu et al. 2023,
        arXiv 2306.13394), as Kaduri et al. (2025) use it: stripped, in lower case, yes or no within
        the first four letters, else other. `"lmms-eval-pope"`: the whole answer, in lower case,
        is the word. `"lmms-eval-mme"`: as MME, without full stops, and the letters y and n alone.
        `"strict"`: ours: the first word is yes or no and the other word does not occur.

    **Raises:** `NotationError` listing the rules.
    """
    if rule not in RULES:
        raise NotationError(unknown("rule for reading answers", rule, RULES))
    return RULES[rule](text)
