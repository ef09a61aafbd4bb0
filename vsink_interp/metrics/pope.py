"""POPE: accuracy, precision, recall, F1 and yes ratio (Li et al. 2023, arXiv 2305.10355)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from ..errors import InputError
from .yes_no import read_answer


@final
@dataclass(frozen=True)
class PopeScore:
    """Answers to yes/no questions against their labels; "yes" is the positive class.

    **Attributes:**

    - `tp`, `fp`, `tn`, `fn`: answers read as yes or no, right and wrong.
    - `other_yes`, `other_no`: answers that say neither, by what would have been right; both are
        wrong. POPE's own rule reads none so.
    - `rule`: how the answers were read. Under `"lmms-eval-pope"`, recall leaves answers that say
        neither out, and the yes ratio is that of the *labels*, as that harness has it.
    """

    tp: int
    fp: int
    tn: int
    fn: int
    other_yes: int
    other_no: int
    rule: str

    @property
    def total(self) -> int:
        """How many questions."""
        return self.tp + self.fp + self.tn + self.fn + self.other

    @property
    def other(self) -> int:
        """How many answers say neither yes nor no."""
        return self.other_yes + self.other_no

    @property
    def accuracy(self) -> float:
        """The share of right answers, 0 to 1."""
        return (self.tp + self.tn) / self.total

    @property
    def precision(self) -> float:
        """The share of "yes" that is right, 0 to 1; 0 if nothing was answered with yes."""
        return _share(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> float:
        """The share of objects present that were affirmed, 0 to 1; 0 if none was present."""
        lost = 0 if self.rule == "lmms-eval-pope" else self.other_yes
        return _share(self.tp, self.tp + self.fn + lost)

    @property
    def f1(self) -> float:
        """The harmonic mean of precision and recall, 0 to 1."""
        return _share(2 * self.precision * self.recall, self.precision + self.recall)

    @property
    def yes_ratio(self) -> float:
        """The share of "yes" among the answers, 0 to 1; see `rule` for lmms-eval's."""
        if self.rule == "lmms-eval-pope":
            return (self.tp + self.fn + self.other_yes) / self.total
        return (self.tp + self.fp) / self.total


def _share(part: float | int, whole: float | int) -> float:
    return part / whole if whole else 0.0


def score_pope(answers: Sequence[str], labels: Sequence[str], rule: str = "pope") -> PopeScore:
    """Score the answers to POPE's questions.

    ```python
    >>> from vsink_interp.metrics import score_pope
    >>> score = score_pope(["Yes.", "No", "There is no dog.", "Maybe"], ["yes", "no", "yes", "no"])
    >>> score.accuracy, score.yes_ratio
    (0.5, 0.5)

    ```

    **Arguments:**

    - `answers`: what the model said.
    - `labels`: what is right.
    - `rule`: how answers are read, see `read_answer`.

    **Raises:** `InputError` without questions, for unequal lengths, or for other labels than yes
    and no.
    """
    if not answers or len(answers) != len(labels):
        raise InputError(f"{len(answers)} answers for {len(labels)} labels; give one label each")
    if odd := set(labels) - {"yes", "no"}:
        raise InputError(f"labels are 'yes' or 'no'; got {', '.join(map(repr, sorted(odd)))}")
    pairs = [(read_answer(text, rule), label) for text, label in zip(answers, labels, strict=True)]
    return PopeScore(
        tp=pairs.count(("yes", "yes")),
        fp=pairs.count(("yes", "no")),
        tn=pairs.count(("no", "no")),
        fn=pairs.count(("no", "yes")),
        other_yes=pairs.count(("other", "yes")),
        other_no=pairs.count(("other", "no")),
        rule=rule,
    )
