"""MME as a task: a folder a subtask, two questions an image (Fu et al. 2023, arXiv 2306.13394)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final, Literal, final

import numpy as np
from jaxtyping import Float
from typing_extensions import override

from ..errors import InputError
from ..metrics import COGNITION, PERCEPTION, read_answer
from .folders import find_image
from .task import Metric, Question, YesNoTask, ratio

_SUBTASKS: Final = (*PERCEPTION, *COGNITION)


@final
@dataclass(frozen=True, eq=False)
class Mme(YesNoTask):
    """Yes or no, twice about each image; a subtask scores ACC + ACC+ in percent, 0 to 200.

    The overall score is the sum over subtasks, as MME adds them up.
    """

    name: ClassVar[str] = "mme"
    features: ClassVar[tuple[str, ...]] = ("right", "both", "questions", "images", "other")
    overall: ClassVar[Literal["pooled", "sum"]] = "sum"
    whole_images: ClassVar[bool] = True
    rule: ClassVar[str] = "mme"

    @classmethod
    def read_folder(cls, folder: Path) -> "Mme":
        """MME from a folder in the form in which it is given out.

        `mme/SUBTASK/NAME.txt` holds a question, a tab and the answer on each of two lines, about
        `NAME.jpg` or `.png` beside it; some subtasks keep them in `questions_answers_YN/` and
        `images/`.

        **Raises:** `InputError` if there is no such file, or one cannot be read.
        """
        root = folder / "mme" if (folder / "mme").is_dir() else folder
        found: list[Question] = []
        for subtask in _SUBTASKS:
            texts = [*(root / subtask).glob("*.txt"), *(root / subtask).glob("*_YN/*.txt")]
            for path in sorted(texts):
                found += _questions(path, subtask, root / subtask)
        if not found:
            raise InputError(
                f"{folder} holds no MME questions: expected mme/SUBTASK/NAME.txt beside NAME.jpg, "
                f"for subtasks such as {', '.join(_SUBTASKS[:4])}"
            )
        return cls(tuple(found), str(folder), 8)

    @property
    @override
    def metrics(self) -> Mapping[str, Metric]:
        return {
            "score": lambda s: 100 * (ratio(s[..., 0], s[..., 2]) + ratio(s[..., 1], s[..., 3])),
            "ACC": lambda s: ratio(s[..., 0], s[..., 2]),
            "ACC+": lambda s: ratio(s[..., 1], s[..., 3]),
        }

    @override
    def measured(self, asked: Sequence[tuple[Question, str]]) -> Float[np.ndarray, " feature"]:
        right = [self.right(one, text) for one, text in asked]
        other = sum(read_answer(text, self.rule) == "other" for _, text in asked)
        return np.array([sum(right), float(all(right)), len(right), 1.0, other], dtype=float)


def _questions(path: Path, subtask: str, folder: Path) -> list[Question]:
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    image = _image(folder, path.stem)
    found = []
    for number, line in enumerate(lines):
        text, tab, label = line.rpartition("\t")
        answer = label.strip().lower()
        if not tab or answer not in ("yes", "no"):
            raise InputError(f"{path}: a line is a question, a tab, and Yes or No; got {line!r}")
        key = f"{subtask}/{path.stem}/{number}"
        found.append(Question(key, image, text.strip(), answer, subtask, path.stem))
    if len(found) != 2:
        raise InputError(f"{path} has {len(found)} questions; MME asks two about each image")
    return found


def _image(folder: Path, stem: str) -> Path:
    for ending in (".jpg", ".png", ".jpeg"):
        for part in ("", "images"):
            if (path := folder / part / f"{stem}{ending}").is_file():
                return path
    return find_image(folder, f"{stem}.jpg", ("images",))
