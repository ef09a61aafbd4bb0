"""MMVP and CV-Bench as tasks: one letter among options, in pairs of images or by source."""

import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, final

import numpy as np
from jaxtyping import Float
from typing_extensions import override

from ..errors import InputError
from ..metrics import read_choice
from .folders import find_file, find_image, read_lines
from .parquet import ParquetImage, parquet_rows
from .task import Metric, Question, RuledTask, ratio

SUFFIX: Final = "\nAnswer with the option's letter from the given choices directly."
"""What Cambrian-1's scripts and lmms-eval put behind MMVP's questions."""


@dataclass(frozen=True, eq=False)
class ChoiceTask(RuledTask):
    """A benchmark of multiple choice; a question's truth is its letter, then the options."""

    lacking: ClassVar[str] = "name none of the options"

    @override
    def right(self, question: Question, text: str) -> float:
        return float(self.read(question, text) == question.truth[0])

    @override
    def read(self, question: Question, text: str) -> str:
        return read_choice(text, question.truth[1:], self.rule)


@final
@dataclass(frozen=True, eq=False)
class Mmvp(ChoiceTask):
    """MMVP (Tong et al. 2024, arXiv 2401.06209): one question about two images that CLIP confuses.

    A pair counts if both answers are right. The published script lets GPT-4 read answers; here a
    letter is asked for, and read by the rule of Cambrian-1, whose authors MMVP's are among.
    """

    name: ClassVar[str] = "mmvp"
    features: ClassVar[tuple[str, ...]] = ("right", "both", "questions", "pairs")
    whole_images: ClassVar[bool] = True
    rule: ClassVar[str] = "cambrian-mmvp"

    @classmethod
    def read_folder(cls, folder: Path) -> "Mmvp":
        """`mmvp/Questions.csv` with `mmvp/MMVP Images/1.jpg` and so on, as they are given out.

        The columns are number, question, options as `(a) Open (b) Closed`, and answer as `(a)`;
        two rows after one another are a pair.

        **Raises:** `InputError` if there is no such file, or a row of it cannot be read.
        """
        path = find_file(
            folder, "MMVP", ("mmvp/Questions.csv", "MMVP/Questions.csv", "Questions.csv")
        )
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [row for row in csv.reader(file) if row and row[0].strip().isdigit()]
        found = [_pair_question(row, path) for row in rows]
        alone = {one.about for one in found if sum(o.about == one.about for o in found) != 2}
        if not found or alone:
            told = ", ".join(sorted(alone)) or "no question"
            raise InputError(f"{path}: rows 1 and 2, 3 and 4 ... are pairs; got {told} alone")
        return cls(tuple(found), str(folder), 16)

    @property
    @override
    def metrics(self) -> Mapping[str, Metric]:
        return {
            "pairs": lambda s: ratio(s[..., 1], s[..., 3]),
            "accuracy": lambda s: ratio(s[..., 0], s[..., 2]),
        }

    @override
    def measured(self, asked: Sequence[tuple[Question, str]]) -> Float[np.ndarray, " feature"]:
        right = [self.right(one, text) for one, text in asked]
        return np.array([sum(right), float(all(right)), len(right), 1.0], dtype=float)


def _pair_question(row: Sequence[str], path: Path) -> Question:
    options = tuple(text.strip() for text in re.split(r"\([a-z]\)", row[2])[1:]) if row[3:] else ()
    letter = row[3].strip().lower().strip("()") if row[3:] else ""
    if len(options) != 2 or letter not in ("a", "b"):
        raise InputError(
            f"{path}: a row is a number, a question, options as '(a) Open (b) Closed', and (a) or "
            f"(b); got {row}"
        )
    number = int(row[0])
    image = find_image(path.parent, f"{number}.jpg", ("MMVP Images", "MMVP Imgaes", "images"))
    prompt = f"{row[1].strip()} {row[2].strip()}{SUFFIX}"
    about = f"pair {(number + 1) // 2}"
    return Question(str(number), image, prompt, (letter, *options), "pairs", about)


@final
@dataclass(frozen=True, eq=False)
class CvBench(ChoiceTask):
    """CV-Bench (Tong et al. 2024, arXiv 2406.16860): counts, relations, depth and distance.

    The overall score is half the mean of ADE20K and COCO (2D) and half Omni3D (3D).
    """

    name: ClassVar[str] = "cv-bench"
    features: ClassVar[tuple[str, ...]] = ("right", "questions")
    overall: ClassVar[Literal["pooled", "sum"]] = "sum"
    rule: ClassVar[str] = "cambrian-cv-bench"

    @classmethod
    def read_folder(cls, folder: Path) -> "CvBench":
        """`cv-bench/test_2d` and `test_3d`, as parquet or as JSON lines with images in `img/`.

        The parquet files hold their images, and take the package pyarrow; from them the data set's
        own `build_img.py` writes `img/`, beside which the `.jsonl` are read.

        **Raises:** `InputError` if there is no such file, or a row of it cannot be read;
        `CapabilityError` for parquet files without pyarrow.
        """
        roots = [folder / part for part in ("cv-bench", "CV-Bench", "")]
        stems = [root / stem for root in roots for stem in ("test_2d", "test_3d", "test")]
        found = [one for stem in stems for one in _questions(stem)]
        if not found:
            raise InputError(
                f"{folder} holds no CV-Bench questions: expected cv-bench/test_2d.parquet or "
                "cv-bench/test_2d.jsonl"
            )
        return cls(tuple(found), str(folder), 16)

    @property
    @override
    def metrics(self) -> Mapping[str, Metric]:
        return {"accuracy": lambda s: ratio(s[..., 0], s[..., 1])}

    @property
    @override
    def weights(self) -> Mapping[str, float]:
        """Halves for 2D and 3D; what is not there leaves its weight to the rest."""
        splits = {one.split for one in self.questions}
        flat, deep = splits - {"Omni3D"}, splits & {"Omni3D"}
        sides = bool(flat) + bool(deep)
        return {split: 1 / sides / len(flat if split in flat else deep) for split in splits}

    @override
    def measured(self, asked: Sequence[tuple[Question, str]]) -> Float[np.ndarray, " feature"]:
        right = sum(self.right(one, text) for one, text in asked)
        return np.array([right, len(asked)], dtype=float)


def _questions(stem: Path) -> Iterator[Question]:
    """Of a file in either form; without `img/` the JSON lines have no images."""
    lines, packed = (stem.with_name(f"{stem.name}.{end}") for end in ("jsonl", "parquet"))
    if packed.is_file() and not (lines.is_file() and (stem.parent / "img").is_dir()):
        for number, (row, image) in enumerate(parquet_rows(packed)):
            yield _source_question(row, image, f"row {number} of {packed}")
    elif lines.is_file():
        for number, line in read_lines(lines):
            yield _source_question(line, stem.parent, f"line {number} of {lines}")


def _source_question(given: Any, image: Path | ParquetImage, where: str) -> Question:
    """A question from its row, or the line that holds it; an image, or the folder of its `img/`."""
    try:
        row = json.loads(given) if isinstance(given, str) else given
        options = tuple(str(one) for one in row["choices"])
        letter, source = str(row["answer"]).strip().strip("()").lower(), str(row["source"])
        prompt, name = str(row["prompt"]), str(row["filename"])
        key = f"{row['type']}/{row['idx']}"
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{where} is no question of CV-Bench: it needs idx, type, source, filename, prompt, "
            "choices and answer"
        ) from error
    if letter not in tuple("abcdefgh"[: len(options)]):
        raise InputError(f"{where}: {row['answer']!r} is none of {options}")
    shown = find_image(image, name, ("img",)) if isinstance(image, Path) else image
    return Question(key, shown, prompt + SUFFIX, (letter, *options), source, name)
