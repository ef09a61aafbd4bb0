"""POPE as a task: its JSON lines with a folder of images (Li et al. 2023, arXiv 2305.10355)."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, final

import numpy as np
from jaxtyping import Float
from typing_extensions import override

from ..errors import InputError
from ..metrics import score_pope
from .folders import find_image, read_lines
from .task import Metric, Question, Sums, YesNoTask, ratio

SPLITS: Final = ("random", "popular", "adversarial")


@final
@dataclass(frozen=True, eq=False)
class Pope(YesNoTask):
    """Is there such an object in the image? Answers are read by POPE's own rule."""

    name: ClassVar[str] = "pope"
    features: ClassVar[tuple[str, ...]] = ("tp", "fp", "tn", "fn", "other_yes", "other_no")
    rule: ClassVar[str] = "pope"

    @classmethod
    def read_folder(cls, folder: Path) -> "Pope":
        """POPE from a folder: `pope/coco_pope_random.json` and its siblings, and images.

        **Raises:** `InputError` if there is no such file, or a line of it cannot be read.
        """
        found = {split: _file(folder, split) for split in SPLITS}
        if not any(found.values()):
            raise InputError(
                f"{folder} holds no POPE questions: expected pope/*_pope_random.json, "
                "*_pope_popular.json or *_pope_adversarial.json with one JSON object a line"
            )
        questions = [
            question
            for split, path in found.items()
            if path is not None
            for question in _questions(path, split, folder)
        ]
        return cls(tuple(questions), str(folder), 8)

    @property
    @override
    def metrics(self) -> Mapping[str, Metric]:
        return {
            "accuracy": lambda s: ratio(s[..., 0] + s[..., 2], s.sum(-1)),
            "precision": lambda s: ratio(s[..., 0], s[..., 0] + s[..., 1]),
            "recall": _recall,
            "f1": lambda s: ratio(2 * s[..., 0], 2 * s[..., 0] + s[..., 1] + s[..., 3] + s[..., 4]),
            "yes ratio": lambda s: ratio(s[..., 0] + s[..., 1], s.sum(-1)),
        }

    @override
    def measured(self, asked: Sequence[tuple[Question, str]]) -> Float[np.ndarray, " feature"]:
        texts, labels = [text for _, text in asked], [str(one.truth) for one, _ in asked]
        score = score_pope(texts, labels, self.rule)
        return np.array([getattr(score, name) for name in self.features], dtype=float)


def _recall(sums: Sums) -> Any:
    return ratio(sums[..., 0], sums[..., 0] + sums[..., 3] + sums[..., 4])


def _file(folder: Path, split: str) -> Path | None:
    found = sorted({*folder.glob(f"pope/*pope_{split}.json"), *folder.glob(f"*pope_{split}.json")})
    return found[0] if found else None


def _questions(path: Path, split: str, folder: Path) -> list[Question]:
    found = []
    for number, line in read_lines(path):
        try:
            row = json.loads(line)
            name, text, label = str(row["image"]), str(row["text"]), str(row["label"])
            key = f"{split}/{row.get('question_id', number)}"
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"line {number} of {path} is no question of POPE: it needs image, text and label"
            ) from error
        if label.strip().lower() not in ("yes", "no"):
            raise InputError(f"line {number} of {path}: a label is yes or no; got {label!r}")
        image = find_image(folder, name, ("val2014", "images", "pope/images", "pope"))
        found.append(Question(key, image, text, label.strip().lower(), split, name))
    return found
