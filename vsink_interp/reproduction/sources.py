"""The cases of a reproduction: toy scenes, or images in a folder of the user's."""

import csv
import json
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final, final

import numpy as np
from jaxtyping import Bool
from PIL import Image

from ..errors import InputError
from ..evaluation import Chair, Mme, Pope, Question
from ..evaluation.arrow_folders import ArrowImage, dataset_rows, is_dataset
from ..experiments import Cases, ObjectMasks, Quizzes
from ..metrics import ObjectWords, content_words
from ..model import as_image
from .entry import Setup

PROMPT: Final = "Describe the image."
"""What is asked about images without a prompt of their own."""
KINDS: Final = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
LONGEST: Final = 128


def captions(setup: Setup, count: int, at_once: int) -> Iterator[Cases]:
    """Images to be described, a few at a time, opened when they are reached.

    Of the user's, the first that the folder holds: COCO (`of_coco`), a table `cases.csv`
    (`of_table`), a dataset that `datasets` wrote to disk (`of_dataset`), or images (`of_images`).
    Without a folder: toy scenes.

    **Raises:** `InputError` if the folder holds none of these.
    """
    if setup.data is None:
        for start in range(0, count, at_once):
            yield Cases.scenes(min(at_once, count - start), setup.seed + start)
        return
    found = islice(_described(setup.data), count)
    while part := list(islice(found, at_once)):
        yield _cases(part, setup.data)


@final
@dataclass(frozen=True)
class Described:
    """An image of a folder, what is asked about it, and what is true of it."""

    image: Path | ArrowImage
    prompt: str = PROMPT
    truth: tuple[str, ...] | None = None


def _cases(part: list[Described], folder: Path) -> Cases:
    truths = [one.truth for one in part if one.truth is not None]
    coco = bool(truths) and _is_coco(folder)
    read = _CocoReader() if coco else content_words
    return Cases(
        tuple(_opened(one.image) for one in part),
        tuple(one.prompt for one in part),
        read,
        tuple(truths) if len(truths) == len(part) else None,
        about=f"images of {folder.name}",
        max_new_tokens=LONGEST,
        batch_size=len(part),
    )


def _opened(image: Path | ArrowImage) -> Image.Image:
    return as_image(image if isinstance(image, Path) else image.read())


class _CocoReader:
    """Reads an answer into the objects of COCO that it mentions."""

    def __init__(self) -> None:
        self.words = ObjectWords.coco()

    def __call__(self, text: str) -> Set[str]:
        return self.words.objects([text])


def _is_coco(folder: Path) -> bool:
    return bool([*folder.glob("annotations/instances_*.json"), *folder.glob("instances_*.json")])


def _described(folder: Path) -> Iterator[Described]:
    if not folder.is_dir():
        raise InputError(f"there is no folder {str(folder)!r} with images")
    if _is_coco(folder):
        return of_coco(folder)
    if (folder / "cases.csv").is_file():
        return of_table(folder)
    if is_dataset(folder):
        return of_dataset(folder)
    return of_images(folder)


def of_images(folder: Path) -> Iterator[Described]:
    """All images of a folder, by name, to be described.

    **Raises:** `InputError` if there is none.
    """
    return (Described(path) for path in images_in(folder))


def images_in(folder: Path) -> list[Path]:
    """The images of a folder, by name.

    **Raises:** `InputError` if there is none.
    """
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in KINDS)
    if not found:
        raise InputError(
            f"{folder} holds no image ({', '.join(KINDS)}), no cases.csv, and no COCO annotations"
        )
    return found


def of_coco(folder: Path) -> Iterator[Described]:
    """COCO: `annotations/instances_*.json` and the images; the objects of each are known.

    **Raises:** `InputError` if the annotations or an image cannot be read.
    """
    for one in Chair.read_folder(folder).questions:
        if isinstance(one.image, Path):
            yield Described(one.image, one.prompt, tuple(one.truth))


def of_table(folder: Path) -> Iterator[Described]:
    """A table `cases.csv` with the columns image, and if you like prompt and answer.

    **Raises:** `InputError` for a line without an image.
    """
    with (folder / "cases.csv").open(newline="", encoding="utf-8") as file:
        for number, line in enumerate(csv.DictReader(file), 2):
            if not line.get("image"):
                raise InputError(f"line {number} of {folder / 'cases.csv'} names no image")
            answer = line.get("answer")
            truth = tuple(sorted(content_words(answer))) if answer else None
            yield Described(folder / line["image"], line.get("prompt") or PROMPT, truth)


def of_dataset(folder: Path) -> Iterator[Described]:
    """A dataset that `datasets` wrote with `save_to_disk`, batch by batch.

    Its columns are image, and if you like prompt (or question) and answer (or caption).

    **Raises:** `InputError` if it has no column of images; `CapabilityError` without pyarrow.
    """
    for row, image in dataset_rows(folder):
        asked, answer = (
            next((str(row[name]) for name in names if row.get(name)), "")
            for names in (("prompt", "question"), ("answer", "caption"))
        )
        truth = tuple(sorted(content_words(answer))) if answer else None
        yield Described(image, asked or PROMPT, truth)


def quizzes(setup: Setup, count: int, at_once: int) -> Iterator[Quizzes]:
    """Images with yes/no questions, a few at a time: MME's folders, POPE's lines, or toy scenes.

    **Raises:** `InputError` if the folder holds neither.
    """
    if setup.data is None:
        for start in range(0, count, at_once):
            yield Quizzes.scenes(min(at_once, count - start), setup.seed + start)
        return
    name, questions = _yes_no(setup.data)
    images: dict[str, list[Question]] = {}
    for one in questions:
        images.setdefault(f"{one.split}/{one.about}", []).append(one)
    found = islice(images.values(), count)
    while part := list(islice(found, at_once)):
        yield Quizzes(
            tuple(as_image(asked[0].shown()) for asked in part),
            tuple(tuple(one.prompt for one in asked) for asked in part),
            tuple(tuple(str(one.truth) for one in asked) for asked in part),
            about=f"{name} in {setup.data.name}",
        )


def _yes_no(folder: Path) -> tuple[str, tuple[Question, ...]]:
    """The benchmark of yes/no questions that a folder holds."""
    missing = []
    for name, kind in (("MME", Mme), ("POPE", Pope)):
        try:
            return name, kind.read_folder(folder).questions
        except InputError as error:
            missing.append(str(error))
    raise InputError("; ".join(missing))


def objects(setup: Setup, count: int, at_once: int) -> Iterator[tuple[ObjectMasks, ...]]:
    """Images with the masks of their objects, a few images at a time.

    Of the user's: beside `NAME.png` (or .jpg) a folder `NAME.masks` with one black-and-white image
    an object, called by its name: `red car.png`. `NAME.json` may say `{"prompt": ...}`.

    **Raises:** `InputError` if there is no such folder.
    """
    if setup.data is None:
        for start in range(0, count, at_once):
            yield ObjectMasks.scenes(min(at_once, count - start), setup.seed + start)
        return
    paths = [path for path in _pictures(setup.data) if path.with_suffix(".masks").is_dir()]
    if not paths:
        raise InputError(
            f"{setup.data} holds no masks: beside NAME.jpg put a folder NAME.masks with one "
            "black-and-white image for each object, called by the object's name"
        )
    found = iter(paths[:count])
    while part := list(islice(found, at_once)):
        yield tuple(one for path in part for one in _masked(path))


def by_image(found: Sequence[ObjectMasks]) -> list[list[ObjectMasks]]:
    """The objects of each image together."""
    images: dict[tuple[bytes, str], list[ObjectMasks]] = {}
    for one in found:
        images.setdefault((one.image.tobytes(), one.prompt), []).append(one)
    return list(images.values())


def _pictures(folder: Path) -> list[Path]:
    return [path for path in images_in(folder) if path.parent.suffix != ".masks"]


def _masked(path: Path) -> Iterator[ObjectMasks]:
    asked = PROMPT
    if path.with_suffix(".json").is_file():
        asked = json.loads(path.with_suffix(".json").read_text(encoding="utf-8")).get(
            "prompt", asked
        )
    image = as_image(path)
    for mask in images_in(path.with_suffix(".masks")):
        yield ObjectMasks(image, asked, mask.stem, _mask(mask))


def _mask(path: Path) -> Bool[np.ndarray, "height width"]:
    with Image.open(path) as shown:
        return np.asarray(shown.convert("L")) > 127
