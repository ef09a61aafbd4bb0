"""CHAIR as a task: captions of COCO images against what is in them (Rohrbach et al. 2018)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final, final

import numpy as np
from jaxtyping import Float
from typing_extensions import override

from ..errors import InputError
from ..metrics import ObjectWords, score_chair
from .folders import find_image, read_json
from .task import Metric, Question, Task, ratio

PROMPT: Final = "Please describe this image in detail."
"""What Kang et al. (2025) and those before them ask."""
IMAGES: Final = 500
"""How many images of COCO are captioned, as in the papers that report CHAIR."""


@final
@dataclass(frozen=True, eq=False)
class Chair(Task):
    """How many of the objects that a caption mentions are not in the image.

    **Attributes:**

    - `words`: the vocabulary that captions are searched for.
    """

    words: ObjectWords = field(default_factory=ObjectWords.coco)

    name: ClassVar[str] = "chair"
    features: ClassVar[tuple[str, ...]] = (
        "invented", "mentioned", "sentences", "captions", "named", "present",
    )  # fmt: skip

    @classmethod
    def read_folder(cls, folder: Path, *, seed: int = 0) -> "Chair":
        """COCO: `annotations/instances_*.json`, `captions_*.json`, and the images.

        What is in an image is what its instances *or* its reference captions name, as the official
        script has it. 500 images are drawn. A file `synonyms.txt` in the folder, in the official
        format, takes the place of our thesaurus.

        **Raises:** `InputError` if a file is missing or cannot be read.
        """
        own = folder / "synonyms.txt"
        words = ObjectWords.read(own) if own.is_file() else ObjectWords.coco()
        truths = _truths(folder, words)
        names = sorted(truths)
        drawn = np.random.default_rng(seed).permutation(len(names))[:IMAGES]
        questions = [
            Question(
                name, find_image(folder, name, _PLACES), PROMPT, truths[name], "captions", name
            )
            for name in (names[i] for i in sorted(drawn.tolist()))
        ]
        return cls(tuple(questions), str(folder), 512, words)

    @property
    @override
    def metrics(self) -> Mapping[str, Metric]:
        return {
            "CHAIR_i": lambda s: ratio(s[..., 0], s[..., 1]),
            "CHAIR_s": lambda s: ratio(s[..., 2], s[..., 3]),
            "recall": lambda s: ratio(s[..., 4], s[..., 5]),
            "mentions": lambda s: ratio(s[..., 1], s[..., 3]),
        }

    @override
    def measured(self, asked: Sequence[tuple[Question, str]]) -> Float[np.ndarray, " feature"]:
        texts, truths = [text for _, text in asked], [_objects(one) for one, _ in asked]
        score = score_chair(texts, truths, self.words)
        invented = [len(found) for found in score.invented]
        counts = (sum(invented), sum(score.mentioned), sum(map(bool, invented)), len(texts))
        return np.array([*counts, score.named, score.present], dtype=float)

    @override
    def right(self, question: Question, text: str) -> float:
        return float(not self.words.objects([text]) - set(_objects(question)))

    @override
    def read(self, question: Question, text: str) -> str:
        said, there = self.words.objects([text]), set(_objects(question))
        shown = [name if name in there else f"{name} (not there)" for name in sorted(said)]
        return ", ".join(shown) or "no object"

    @property
    @override
    def rules(self) -> Mapping[str, Any]:
        return {"prompt": PROMPT, "max_new_tokens": self.max_new_tokens}


_PLACES: Final = ("val2014", "val2017", "train2014", "train2017", "images")


def _objects(question: Question) -> tuple[str, ...]:
    return question.truth if isinstance(question.truth, tuple) else (question.truth,)


def _truths(folder: Path, words: ObjectWords) -> dict[str, tuple[str, ...]]:
    """By image, the objects that its instances and its captions name."""
    instances, captions = _load(folder, "instances"), _load(folder, "captions")
    try:
        names = {one["id"]: str(one["file_name"]) for one in instances["images"]}
        kinds = {one["id"]: str(one["name"]) for one in instances["categories"]}
        found: dict[Any, set[str]] = {image: set() for image in names}
        for one in instances["annotations"]:
            found[one["image_id"]].add(kinds[one["category_id"]])
        for one in captions["annotations"]:
            if one["image_id"] in found:
                found[one["image_id"]] |= words.objects([one["caption"]])
    except (KeyError, TypeError) as error:
        raise InputError(
            f"the annotations in {folder} are not in COCO's form: {type(error).__name__} {error}"
        ) from error
    known = words.words.keys()
    return {names[image]: tuple(sorted(objects & known)) for image, objects in found.items()}


def _load(folder: Path, kind: str) -> Any:
    paths = sorted({*folder.glob(f"annotations/{kind}_*.json"), *folder.glob(f"{kind}_*.json")})
    paths = [path for path in paths if "val" in path.name] or paths
    if not paths:
        raise InputError(
            f"{folder} holds no COCO {kind}: expected annotations/{kind}_val2014.json or like"
        )
    return read_json(paths[0])
