"""The toy benchmark: POPE, MME and CHAIR in their own forms, on hard scenes of the toy LMM.

No download, exact truth, and not at the ceiling, so there is something that an intervention could
help or hurt.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from ..metrics import ObjectWords
from ..toy import Scene
from ..toy.hard_scenes import hard_scene
from ..toy.language import COLORS, DESCRIBE, NUMBERS, SHAPES, SceneObject
from .chair import Chair
from .mme import Mme
from .pope import SPLITS, Pope
from .task import Question

SCENES: Final = 60
"""How many scenes there are; six questions of every split of POPE about each."""
SOURCE: Final = "toy benchmark"
NAMES: Final = tuple(f"{color} {shape}" for color in COLORS for shape in SHAPES)
WORDS: Final = ObjectWords(dict.fromkeys(NAMES, ()))
"""What the toy's captions are searched for: colour and shape together."""


def scenes(count: int = SCENES, first_seed: int = 0) -> tuple[Scene, ...]:
    """The scenes of the benchmark; the first ones are the same whatever the number."""
    return tuple(hard_scene(first_seed + i) for i in range(count))


def pope(shown: Sequence[Scene]) -> Pope:
    """Three objects that are there and three that are not, of each scene, in three splits.

    Objects that are not there are drawn at random; or are those that most scenes have (popular);
    or share colour or shape with one that is there (adversarial; of the real POPE, those that
    most often occur together with it).
    """
    often = [name for name, _ in Counter(_names(shown)).most_common()]
    questions = []
    for split in SPLITS:
        for one in shown:
            rng = np.random.default_rng([SPLITS.index(split), one.seed])
            there = [thing.name for thing in one.objects]
            absent = [name for name in NAMES if name not in there]
            pools = {
                "random": rng.permutation(absent).tolist(),
                "popular": [name for name in often if name not in there],
                "adversarial": rng.permutation(_near(one.objects)).tolist(),
            }
            named = rng.permutation(there).tolist()[:3] + pools[split][:3]
            for number, name in enumerate(named):
                text = f"is there {_article(name)} {name} in the image?"
                label = "yes" if name in there else "no"
                key, about = f"{split}/{one.seed}/{number}", f"{one.seed:06d}.png"
                questions.append(Question(key, one.image, text, label, split, about))
    return Pope(tuple(questions), SOURCE, 2)


def mme(shown: Sequence[Scene]) -> Mme:
    """Two questions, one to be affirmed and one to be denied, of every subtask about each scene."""
    questions = []
    for subtask, ask in _PAIRS.items():
        for one in shown:
            pair = ask(np.random.default_rng([len(subtask), one.seed]), one.objects)
            for number, (text, label) in enumerate(pair):
                key, about = f"{subtask}/{one.seed}/{number}", f"{one.seed:06d}"
                questions.append(Question(key, one.image, text, label, subtask, about))
    return Mme(tuple(questions), SOURCE, 2)


def chair(shown: Sequence[Scene]) -> Chair:
    """A caption of each scene, against the objects that are in it."""
    questions = [
        Question(
            f"{one.seed:06d}.png",
            one.image,
            DESCRIBE,
            tuple(sorted({thing.name for thing in one.objects})),
            "captions",
            f"{one.seed:06d}.png",
        )
        for one in shown
    ]
    return Chair(tuple(questions), SOURCE, 64, WORDS)


def write(folder: Path, shown: Sequence[Scene]) -> None:
    """Write the benchmark as the real ones come: POPE's JSON lines, MME's folders, COCO's JSON.

    `Pope.read_folder` and its like read it back; to try an evaluation of files without theirs.
    """
    for part in ("val2014", "pope", "annotations", "mme"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for one in shown:
        one.image.save(folder / "val2014" / f"{one.seed:06d}.png")
    _write_pope(folder, pope(shown))
    for question in mme(shown).questions:
        place = folder / "mme" / question.split
        place.mkdir(exist_ok=True)
        if question.id.endswith("/0"):
            hard_scene(int(question.about)).image.save(place / f"{question.about}.png")
        with (place / f"{question.about}.txt").open("a", encoding="utf-8") as file:
            file.write(f"{question.prompt}\t{str(question.truth).capitalize()}\n")
    _write_coco(folder, shown)


def _write_pope(folder: Path, task: Pope) -> None:
    for split in SPLITS:
        rows = [
            {"question_id": number, "image": one.about, "text": one.prompt, "label": one.truth}
            for number, one in enumerate(q for q in task.questions if q.split == split)
        ]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "pope" / f"coco_pope_{split}.json").write_text(lines, encoding="utf-8")


def _write_coco(folder: Path, shown: Sequence[Scene]) -> None:
    images = [{"id": one.seed, "file_name": f"{one.seed:06d}.png"} for one in shown]
    kinds = [{"id": number, "name": name} for number, name in enumerate(NAMES, 1)]
    things = [
        {"image_id": one.seed, "category_id": 1 + NAMES.index(thing.name), "bbox": [*thing.box]}
        for one in shown
        for thing in one.objects
    ]
    captions = [{"image_id": one.seed, "caption": one.caption} for one in shown]
    for kind, content in (
        ("instances", {"images": images, "categories": kinds, "annotations": things}),
        ("captions", {"images": images, "annotations": captions}),
    ):
        path = folder / "annotations" / f"{kind}_val2014.json"
        path.write_text(json.dumps(content), encoding="utf-8")
    (folder / "synonyms.txt").write_text("\n".join(NAMES) + "\n", encoding="utf-8")


def _names(shown: Sequence[Scene]) -> Iterator[str]:
    return (thing.name for one in shown for thing in one.objects)


def _article(name: str) -> str:
    return "an" if name[0] in "aeiou" else "a"


def _near(objects: Sequence[SceneObject]) -> list[str]:
    """Names that are not there and share colour or shape with something that is."""
    there = {thing.name for thing in objects}
    near = [f"{thing.color} {shape}" for thing in objects for shape in SHAPES]
    near += [f"{color} {thing.shape}" for thing in objects for color in COLORS]
    return sorted(set(near) - there)


_Pair = list[tuple[str, str]]


def _existence(rng: np.random.Generator, objects: Sequence[SceneObject]) -> _Pair:
    there = objects[int(rng.integers(len(objects)))].name
    absent = str(rng.choice(_near(objects)))
    asked = [(there, "yes"), (absent, "no")]
    return [(f"is there {_article(n)} {n} in the image?", label) for n, label in asked]


def _count(rng: np.random.Generator, objects: Sequence[SceneObject]) -> _Pair:
    other = len(objects) + (1 if rng.random() < 0.5 else -1)
    asked = [(len(objects), "yes"), (other, "no")]
    return [(f"are there {NUMBERS[n]} objects in the image?", label) for n, label in asked]


def _position(rng: np.random.Generator, objects: Sequence[SceneObject]) -> _Pair:
    pairs = [(a, b) for a in objects for b in objects if a.column < b.column]
    if not pairs:
        return _existence(rng, objects)
    first, second = pairs[int(rng.integers(len(pairs)))]
    asked = [("left", "yes"), ("right", "no")]
    return [(f"is the {first.name} {side} of the {second.name}?", label) for side, label in asked]


def _color(rng: np.random.Generator, objects: Sequence[SceneObject]) -> _Pair:
    counts = Counter(thing.shape for thing in objects)
    singles = [thing for thing in objects if counts[thing.shape] == 1]
    if not singles:
        return _existence(rng, objects)
    thing = singles[int(rng.integers(len(singles)))]
    here = [other.color for other in objects if other is not thing]
    asked = [(thing.color, "yes"), (str(rng.choice(here)), "no")]
    return [(f"is the {thing.shape} {color}?", label) for color, label in asked]


_PAIRS: Final[dict[str, Callable[[np.random.Generator, Sequence[SceneObject]], _Pair]]] = {
    "existence": _existence,
    "count": _count,
    "position": _position,
    "color": _color,
}
