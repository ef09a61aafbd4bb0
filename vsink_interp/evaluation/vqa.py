"""VQA as a task: short answers, compared with those of ten people (Antol et al. 2015)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, final

import numpy as np
from jaxtyping import Float
from typing_extensions import override

from ..errors import InputError
from ..metrics import normalise_answer, vqa_accuracy
from .folders import find_image, read_json
from .task import Metric, Question, Task, ratio

SUFFIX: Final = "\nAnswer the question using a single word or phrase."
"""What LLaVA-1.5 and lmms-eval put behind VQA's questions."""


@final
@dataclass(frozen=True, eq=False)
class Vqa(Task):
    """VQA v2; its splits are the kinds of answers: yes/no, number, other."""

    name: ClassVar[str] = "vqa"
    features: ClassVar[tuple[str, ...]] = ("accuracy", "questions")

    @classmethod
    def read_folder(cls, folder: Path) -> "Vqa":
        """`vqa/*_questions.json` and `vqa/*_annotations.json` as given out, images in `val2014/`.

        **Raises:** `InputError` if a file is not there, or cannot be read.
        """
        asked, known = _load(folder, "questions"), _load(folder, "annotations")
        try:
            truths = {one["question_id"]: one for one in known["annotations"]}
            found = [
                _question(one, truths[one["question_id"]], folder) for one in asked["questions"]
            ]
        except (KeyError, TypeError) as error:
            raise InputError(
                f"the questions in {folder} are not in VQA's form: {type(error).__name__} {error}"
            ) from error
        return cls(tuple(found), str(folder), 16)

    @property
    @override
    def metrics(self) -> Mapping[str, Metric]:
        return {"accuracy": lambda s: ratio(s[..., 0], s[..., 1])}

    @override
    def measured(self, asked: Sequence[tuple[Question, str]]) -> Float[np.ndarray, " feature"]:
        right = sum(self.right(one, text) for one, text in asked)
        return np.array([right, len(asked)], dtype=float)

    @override
    def right(self, question: Question, text: str) -> float:
        return vqa_accuracy(text, question.truth)

    @override
    def read(self, question: Question, text: str) -> str:
        return normalise_answer(text)


def _question(asked: Mapping[str, Any], known: Mapping[str, Any], folder: Path) -> Question:
    number = int(asked["image_id"])
    name = f"COCO_val2014_{number:012d}.jpg"
    image = find_image(folder, name, ("val2014", "images", "vqa"))
    truth = tuple(str(one["answer"]) for one in known["answers"])
    prompt = str(asked["question"]) + SUFFIX
    return Question(str(asked["question_id"]), image, prompt, truth, known["answer_type"], name)


def _load(folder: Path, kind: str) -> Any:
    paths = sorted({*folder.glob(f"vqa/*_{kind}.json"), *folder.glob(f"v2_*_{kind}.json")})
    if not paths:
        raise InputError(f"{folder} holds no VQA {kind}: expected vqa/*_{kind}.json")
    return read_json(paths[0])
