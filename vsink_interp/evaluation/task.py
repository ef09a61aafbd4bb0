"""What a benchmark is: questions about images, and how answers to them are scored."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias, final

import numpy as np
from jaxtyping import Float
from PIL.Image import Image
from typing_extensions import override

from ..errors import InputError
from ..metrics import read_answer
from ..model import as_image
from .parquet import ParquetImage

Sums: TypeAlias = Float[np.ndarray, "... feature"]
"""Features of answers, added up over the questions of a split; one row a bootstrap draw."""
Metric: TypeAlias = Callable[[Sums], Float[np.ndarray, "..."]]


@final
@dataclass(frozen=True, eq=False)
class Question:
    """One question of a benchmark.

    **Attributes:**

    - `id`: tells it from all others of its task.
    - `image`: an image, or the path of one or its place in a parquet file, which is read when it is
        asked.
    - `prompt`: as the model is asked.
    - `truth`: what is right: "yes", "no", the names of the objects that are there, or what its
        task says.
    - `split`: the part of the benchmark that is scored apart: a split of POPE, a subtask of MME.
    - `about`: the name of the image; questions about one image are drawn together by the bootstrap.
    """

    id: str
    image: Image | Path | ParquetImage
    prompt: str
    truth: str | tuple[str, ...]
    split: str
    about: str

    def shown(self) -> Image:
        """The image, read if it lies in a file.

        **Raises:** `InputError` if it cannot be.
        """
        return as_image(self.image.read() if isinstance(self.image, ParquetImage) else self.image)


@dataclass(frozen=True, eq=False)
class Task(ABC):
    """A benchmark with its official way of scoring.

    Scores are functions of sums of *features*: numbers that each image adds. So one matrix of
    features serves every score, and its paired bootstrap interval.

    **Attributes:**

    - `questions`: in the order in which they are asked.
    - `source`: where they are from, for the table.
    - `max_new_tokens`: of an answer.
    - `lacking`: what answers do of which the scorer reads nothing, as in "say neither yes nor no";
        empty where it takes every answer as it stands.
    """

    questions: tuple[Question, ...]
    source: str
    max_new_tokens: int

    name: ClassVar[str]
    features: ClassVar[tuple[str, ...]]
    lacking: ClassVar[str] = ""
    overall: ClassVar[Literal["pooled", "sum"]] = "pooled"
    whole_images: ClassVar[bool] = False

    @property
    @abstractmethod
    def metrics(self) -> Mapping[str, Metric]:
        """The scores, from sums of features; the first one is the one to look at."""

    @abstractmethod
    def measured(self, asked: Sequence[tuple[Question, str]]) -> Float[np.ndarray, " feature"]:
        """The features of the answers to all questions of a split about one image."""

    @abstractmethod
    def right(self, question: Question, text: str) -> float:
        """How right one answer is, 0 to 1."""

    @abstractmethod
    def read(self, question: Question, text: str) -> str:
        """What the scorer reads in an answer, in a word or two: "yes", or the objects named."""

    @property
    def weights(self) -> Mapping[str, float]:
        """What each split counts in a sum over them, where `overall` is one."""
        return {one.split: 1.0 for one in self.questions}

    @property
    def rules(self) -> Mapping[str, Any]:
        """How answers are read and scored, for the result."""
        return {"max_new_tokens": self.max_new_tokens}

    def limited(self, limit: int | None) -> "Task":
        """The task with its first `limit` questions, taken from its splits in turn.

        Where images are scored whole (MME's pairs), no pair is cut apart: one more, if need be.

        **Raises:** `InputError` for less than one.
        """
        if limit is None:
            return self
        if limit < 1:
            raise InputError(f"limit={limit}: ask at least one question a task")
        chosen = _spread(self.questions, limit, whole_images=self.whole_images)
        return replace(self, questions=chosen)


@dataclass(frozen=True, eq=False)
class RuledTask(Task):
    """A benchmark of closed questions, whose answers are read by a rule with a name."""

    rule: ClassVar[str]

    @property
    @override
    def rules(self) -> Mapping[str, Any]:
        return {"answers are read by": self.rule, "max_new_tokens": self.max_new_tokens}


@dataclass(frozen=True, eq=False)
class YesNoTask(RuledTask):
    """A benchmark whose answers are yes or no, read by its own rule."""

    lacking: ClassVar[str] = "say neither yes nor no"

    @override
    def right(self, question: Question, text: str) -> float:
        return float(read_answer(text, self.rule) == question.truth)

    @override
    def read(self, question: Question, text: str) -> str:
        return read_answer(text, self.rule)


def _spread(
    questions: Sequence[Question], limit: int, *, whole_images: bool
) -> tuple[Question, ...]:
    """The first questions of every split in turn; an image's together, if images are whole."""
    splits: dict[str, dict[str, list[Question]]] = {}
    for one in questions:
        splits.setdefault(one.split, {}).setdefault(
            one.about if whole_images else one.id, []
        ).append(one)
    queues = [iter(images.values()) for images in splits.values()]
    chosen: set[str] = set()
    while queues and len(chosen) < limit:
        for queue in list(queues):
            pair = next(queue, None)
            if pair is None:
                queues.remove(queue)
            elif len(chosen) < limit:
                chosen.update(one.id for one in pair)
    return tuple(one for one in questions if one.id in chosen)


def ratio(part: Float[np.ndarray, "..."], whole: Float[np.ndarray, "..."]) -> Any:
    """A share of sums; 0 where there is nothing to share."""
    return np.divide(part, whole, out=np.zeros_like(part, dtype=float), where=whole > 0)
