"""MMHal-Bench as a task: open questions, rated by a judge (Sun et al. 2023, arXiv 2309.14525)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, final

import numpy as np
from jaxtyping import Float
from typing_extensions import override

from ..errors import InputError
from ..metrics import Judge, LexicalJudge, Rated
from .folders import find_file, find_image, read_json
from .task import Metric, Question, Task, ratio


@final
@dataclass(frozen=True, eq=False)
class MmHal(Task):
    """96 questions of eight kinds; a rating from 0 to 6, and how often something false was said.

    A rating below 3 is a hallucination. The published script lets GPT-4 rate, by a prompt of its
    own; scores of another judge, or prompt, do not compare with published ones.

    **Attributes:**

    - `judge`: who rates; words alone by default, which is rough.
    """

    judge: Judge = field(default_factory=LexicalJudge)

    name: ClassVar[str] = "mmhal"
    features: ClassVar[tuple[str, ...]] = ("rating", "hallucinated", "questions")

    @classmethod
    def read_folder(cls, folder: Path, *, judge: Judge | None = None) -> "MmHal":
        """`mmhal/response_template.json`, as it is given out, with its images in `mmhal/images/`.

        The file names images by their web address; they are looked for by the last part of it, or
        by `image_id`.

        **Raises:** `InputError` if the file is not there, or an entry of it cannot be read.
        """
        names = ("mmhal/response_template.json", "response_template.json")
        path = find_file(folder, "MMHal-Bench", names)
        rows = read_json(path)
        try:
            found = [_question(row, number, path) for number, row in enumerate(rows)]
        except (KeyError, TypeError) as error:
            raise InputError(
                f"{path} is not MMHal-Bench's: a list of entries with question_type, image_src, "
                f"image_content, question and gt_answer ({type(error).__name__} {error})"
            ) from error
        return cls(tuple(found), str(folder), 256, judge or LexicalJudge())

    @property
    @override
    def metrics(self) -> Mapping[str, Metric]:
        return {
            "rating": lambda s: ratio(s[..., 0], s[..., 2]),
            "false": lambda s: ratio(s[..., 1], s[..., 2]),
        }

    @override
    def measured(self, asked: Sequence[tuple[Question, str]]) -> Float[np.ndarray, " feature"]:
        ratings = [self._rating(one, text) for one, text in asked]
        return np.array([sum(ratings), sum(r < 3 for r in ratings), len(ratings)], dtype=float)

    @override
    def right(self, question: Question, text: str) -> float:
        return self._rating(question, text) / 6

    @override
    def read(self, question: Question, text: str) -> str:
        return f"rated {self._rating(question, text)}"

    def _rating(self, question: Question, text: str) -> int:
        reference, *contents = question.truth
        return self.judge.rate(Rated(question.prompt, reference, tuple(contents)), text)

    @property
    @override
    def rules(self) -> Mapping[str, Any]:
        return {**self.judge.about, "max_new_tokens": self.max_new_tokens}


def _question(row: Mapping[str, Any], number: int, path: Path) -> Question:
    name, kind = PurePosixPath(str(row["image_src"])).name, str(row["question_type"])
    image = _image(path.parent, name, str(row.get("image_id", "")))
    truth = (str(row["gt_answer"]), *map(str, row["image_content"]))
    return Question(str(number), image, str(row["question"]), truth, kind, name)


def _image(folder: Path, name: str, number: str) -> Path:
    for found in (folder / "images" / f"{number}.jpg", folder / f"{number}.jpg"):
        if number and found.is_file():
            return found
    return find_image(folder, name, ("images", "test_data/images"))
