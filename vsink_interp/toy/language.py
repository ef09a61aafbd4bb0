"""What can be said about a scene: its objects in words, captions, questions, and object F1."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np

COLORS: Final = {
    "red": (220, 40, 40),
    "green": (30, 190, 60),
    "blue": (40, 70, 230),
    "yellow": (240, 220, 40),
    "orange": (245, 140, 20),
    "purple": (150, 50, 200),
    "cyan": (40, 220, 230),
    "white": (245, 245, 245),
}
SHAPES: Final = ("square", "circle", "triangle", "diamond", "cross")
BACKGROUNDS: Final = ("grass", "sand", "water", "brick", "stone", "night")
ROWS: Final = ("top", "middle", "bottom")
COLUMNS: Final = ("left", "center", "right")
NUMBERS: Final = ("zero", "one", "two", "three", "four", "five", "six")
DESCRIBE: Final = "describe the image"
YES_NO_KINDS: Final = ("object", "color", "count", "relation")


@dataclass(frozen=True)
class SceneObject:
    """One object of a scene; `box` is (left, top, right, bottom) in pixels, right and bottom out.

    `row` and `column` are those of the 3 x 3 regions that the words name, `centre` is (x, y).
    """

    color: str
    shape: str
    row: int
    column: int
    centre: tuple[float, float]
    box: tuple[int, int, int, int]

    @property
    def name(self) -> str:
        """Colour and shape, as in "red circle"."""
        return f"{self.color} {self.shape}"

    @property
    def place(self) -> str:
        """Row and column, as in "top left"."""
        return f"{ROWS[self.row]} {COLUMNS[self.column]}"


@dataclass(frozen=True)
class Question:
    """A question about one scene, and its true answer."""

    kind: str
    text: str
    answer: str


def describe(objects: Sequence[SceneObject], background: str) -> str:
    """The caption: every object in reading order, then the background."""
    names = [f"a {thing.name}" for thing in objects]
    listed = names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]
    return f"{listed} on {background}."


def parse_objects(text: str) -> tuple[tuple[str, str], ...]:
    """Read a caption back: every colour word directly before a shape word, in order."""
    pattern = rf"\b({'|'.join(COLORS)})\s+({'|'.join(SHAPES)})\b"
    return tuple((color, shape) for color, shape in re.findall(pattern, text.lower()))


def object_f1(candidate: Iterable[tuple[str, str]], reference: Iterable[tuple[str, str]]) -> float:
    """F1 of two lists of (colour, shape), counted with multiplicity; two empty lists agree."""
    found, true = Counter(candidate), Counter(reference)
    if not found and not true:
        return 1.0
    return 2 * (found & true).total() / (found.total() + true.total())


def _pick(rng: np.random.Generator, items: Sequence[str]) -> str:
    return items[int(rng.integers(len(items)))]


def _unique_shapes(objects: Sequence[SceneObject]) -> list[SceneObject]:
    counts = Counter(thing.shape for thing in objects)
    return [thing for thing in objects if counts[thing.shape] == 1]


def _ask_object(rng: np.random.Generator, objects: Sequence[SceneObject]) -> Question:
    thing, true = objects[int(rng.integers(len(objects)))], rng.random() < 0.5
    name = thing.name
    if not true:
        present = {other.name for other in objects}
        near = [f"{thing.color} {s}" for s in SHAPES] + [f"{c} {thing.shape}" for c in COLORS]
        anywhere = [f"{c} {s}" for c in COLORS for s in SHAPES]
        pool = near if rng.random() < 0.5 else anywhere
        name = _pick(rng, [word for word in pool if word not in present])
    article = "an" if name[0] in "aeiou" else "a"
    return Question("object", f"is there {article} {name} in the image?", "yes" if true else "no")


def _ask_color(rng: np.random.Generator, objects: Sequence[SceneObject]) -> Question | None:
    singles = _unique_shapes(objects)
    if not singles:
        return None
    thing, true = singles[int(rng.integers(len(singles)))], rng.random() < 0.5
    color = thing.color
    if not true:
        here = [other.color for other in objects if other.color != thing.color]
        anywhere = [name for name in COLORS if name != thing.color]
        color = _pick(rng, here if here and rng.random() < 0.5 else anywhere)
    return Question("color", f"is the {thing.shape} {color}?", "yes" if true else "no")


def _ask_count(rng: np.random.Generator, objects: Sequence[SceneObject]) -> Question:
    true, count = rng.random() < 0.5, len(objects)
    if not true:
        count += -1 if rng.random() < 0.5 else 1
    text = f"are there {NUMBERS[count]} objects in the image?"
    return Question("count", text, "yes" if true else "no")


def _ask_relation(rng: np.random.Generator, objects: Sequence[SceneObject]) -> Question | None:
    pairs = [(a, b) for a in objects for b in objects if a.column < b.column]
    if not pairs:
        return None
    first, second = pairs[int(rng.integers(len(pairs)))]
    if swapped := rng.random() < 0.5:
        first, second = second, first
    side = COLUMNS[0] if rng.random() < 0.5 else COLUMNS[2]
    text = f"is the {first.name} {side} of the {second.name}?"
    return Question("relation", text, "yes" if (side == "left") != swapped else "no")


def _ask_what_color(rng: np.random.Generator, objects: Sequence[SceneObject]) -> Question | None:
    singles = _unique_shapes(objects)
    if not singles:
        return None
    thing = singles[int(rng.integers(len(singles)))]
    return Question("what-color", f"what color is the {thing.shape}?", thing.color)


def _ask_what_shape(rng: np.random.Generator, objects: Sequence[SceneObject]) -> Question:
    thing = objects[int(rng.integers(len(objects)))]
    return Question("what-shape", f"what shape is the {thing.color} object?", thing.shape)


def _ask_where(rng: np.random.Generator, objects: Sequence[SceneObject]) -> Question:
    thing = objects[int(rng.integers(len(objects)))]
    return Question("where", f"where is the {thing.name}?", thing.place)


def _ask_how_many(_: np.random.Generator, objects: Sequence[SceneObject]) -> Question:
    return Question("how-many", "how many objects are there?", NUMBERS[len(objects)])


_Asker: TypeAlias = Callable[[np.random.Generator, Sequence[SceneObject]], Question | None]

_ASKERS: Final[dict[str, _Asker]] = {
    "object": _ask_object,
    "color": _ask_color,
    "count": _ask_count,
    "relation": _ask_relation,
    "what-color": _ask_what_color,
    "what-shape": _ask_what_shape,
    "where": _ask_where,
    "how-many": _ask_how_many,
}
KINDS: Final = (*_ASKERS, "background")


def ask(
    rng: np.random.Generator, objects: Sequence[SceneObject], background: str
) -> tuple[Question, ...]:
    """One question of every kind that the scene allows; half of the yes/no answers are yes.

    A colour question names a shape that occurs once, a relation two objects of different columns;
    colours never repeat within a scene, so a colour always names one object.
    """
    asked = [asker(rng, objects) for asker in _ASKERS.values()]
    ground = Question("background", "what is the background?", background)
    return (*(question for question in asked if question is not None), ground)


def words() -> tuple[str, ...]:
    """Every word that captions, questions, answers and the prompt use, each once."""
    prompt = "user assistant : , . ? a an and on the is are there in image objects object many how"
    asked = "what color shape where background of describe yes no scene"
    names = (*COLORS, *SHAPES, *BACKGROUNDS, *ROWS, *COLUMNS, *NUMBERS)
    return tuple(dict.fromkeys([*prompt.split(), *asked.split(), *names]))
