"""MME: ACC, ACC+ and scores by subtask (Fu et al. 2023, arXiv 2306.13394)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, final

from ..errors import InputError
from .yes_no import read_answer

PERCEPTION: Final = tuple(
    "existence count position color posters celebrity scene landmark artwork OCR".split()
)
"""The subtasks whose scores add up to MME's perception score."""
COGNITION: Final = tuple(
    "commonsense_reasoning numerical_calculation text_translation code_reasoning".split()
)
"""The subtasks whose scores add up to MME's cognition score."""


@final
@dataclass(frozen=True)
class MmeAnswer:
    """One answer to one of MME's questions; two of them are about the same image.

    **Attributes:**

    - `subtask`, `image`: what the question belongs to.
    - `text`: what the model said.
    - `label`: what is right.
    """

    subtask: str
    image: str
    text: str
    label: str


@final
@dataclass(frozen=True)
class SubtaskScore:
    """One subtask of MME.

    **Attributes:**

    - `accuracy`: ACC, the share of questions answered rightly, 0 to 1.
    - `accuracy_plus`: ACC+, the share of images both of whose questions were, 0 to 1.
    - `questions`, `other`: how many there were, and how many answers say neither yes nor no.
    """

    accuracy: float
    accuracy_plus: float
    questions: int
    other: int

    @property
    def score(self) -> float:
        """ACC plus ACC+ in percent, 0 to 200."""
        return 100 * (self.accuracy + self.accuracy_plus)


@final
@dataclass(frozen=True)
class MmeScore:
    """MME by subtask, under a rule for reading answers.

    **Attributes:**

    - `subtasks`: by name, in the order of MME's own script, others behind.
    - `rule`: how the answers were read.
    """

    subtasks: Mapping[str, SubtaskScore]
    rule: str

    def total(self, *names: str) -> float:
        """The sum of the scores of some subtasks that were asked; of all by default."""
        return sum(one.score for name, one in self.subtasks.items() if not names or name in names)

    @property
    def perception(self) -> float:
        """The sum over the perception subtasks that were asked: at most 2,000."""
        return self.total(*PERCEPTION)

    @property
    def cognition(self) -> float:
        """The sum over the cognition subtasks that were asked: at most 800."""
        return self.total(*COGNITION)


def score_mme(answers: Iterable[MmeAnswer], rule: str = "mme") -> MmeScore:
    """Score MME's answers; "other" counts as wrong.

    ```python
    >>> from vsink_interp.metrics import MmeAnswer, score_mme
    >>> asked = [("Yes.", "yes"), ("Yes.", "no")]
    >>> score_mme(MmeAnswer("count", "a.jpg", text, label) for text, label in asked).perception
    50.0

    ```

    **Arguments:**

    - `answers`: two for each image of a subtask.
    - `rule`: how answers are read, see `read_answer`.

    **Raises:** `InputError` without answers, or for an image with another number than two.
    """
    images: dict[str, dict[str, list[bool]]] = {}
    other: dict[str, int] = {}
    for one in answers:
        said = read_answer(one.text, rule)
        images.setdefault(one.subtask, {}).setdefault(one.image, []).append(said == one.label)
        other[one.subtask] = other.get(one.subtask, 0) + (said == "other")
    if not images:
        raise InputError("MME needs answers: two for each image")
    for subtask, found in images.items():
        if odd := [name for name, right in found.items() if len(right) != 2]:
            raise InputError(
                f"{subtask}: image {odd[0]!r} has {len(found[odd[0]])} answers; MME asks two "
                "questions about each image"
            )
    known = [*PERCEPTION, *COGNITION, *images]
    return MmeScore(
        {
            name: _subtask(list(images[name].values()), other[name])
            for name in dict.fromkeys(known)
            if name in images
        },
        rule,
    )


def _subtask(pairs: list[list[bool]], other: int) -> SubtaskScore:
    n = len(pairs)
    return SubtaskScore(
        sum(map(sum, pairs)) / (2 * n), sum(map(all, pairs)) / n, questions=2 * n, other=other
    )
